"""Scikit-learn's 1,797 digits of 8x8: the default data, which need no download."""

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from lightning_resnet.data.images import ArrayImages, Images, hold_out
from lightning_resnet.data.sources.base import Source, with_holdout


class Digits(Source):
    """1,797 digits of 8x8 grey pixels that ship with scikit-learn: 1,437 train, 360 validate.

    Args:
        holdout: number of training images to validate on instead; the 360 are then the test set.
    """

    classes = [str(i) for i in range(10)]
    # Of the 1,437 training images.
    mean = (0.3051,) * 3
    std = (0.3757,) * 3

    def __init__(self, holdout: int | None = None) -> None:
        self.holdout = holdout

    def splits(self) -> dict[str, Images]:
        """Read train and val, and test with `holdout`."""
        # `sklearn.datasets.load_digits` reads the same file, but its import takes longer than a
        # short training.
        (folder,) = find_spec("sklearn").submodule_search_locations
        file = Path(folder, "datasets", "data", "digits.csv.gz")
        text = gzip.decompress(file.read_bytes()).decode()
        numbers = np.array(text.replace("\n", ",").strip(",").split(","), np.float32)
        table = numbers.reshape(-1, 65).astype(np.int64)
        stored = table[:, :64].reshape(-1, 8, 8, 1)  # 0 to 16
        pixels = np.rint(stored * (255 / 16)).astype(np.uint8)
        train, val = hold_out(ArrayImages(np.arange(len(table)), table[:, 64], pixels), 360)
        return with_holdout({"train": train, "val": val}, self.holdout)
