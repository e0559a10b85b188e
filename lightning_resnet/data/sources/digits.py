"""Scikit-learn's 1,797 digits of 8x8: the default data, which need no download."""

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from lightning_resnet.data.images import Images, hold_out
from lightning_resnet.data.sources.base import Source


class Digits(Source):
    """1,797 handwritten digits of 8x8 grey pixels that ship with scikit-learn; 1,437 train, 360 validate."""

    classes = [str(i) for i in range(10)]
    mean, std = (0.3051,) * 3, (0.3757,) * 3  # of the 1,437

    def splits(self) -> dict[str, Images]:
        """Train and val."""
        # `sklearn.datasets.load_digits` reads the same file, but to import it takes longer than a short training
        (folder,) = find_spec("sklearn").submodule_search_locations
        text = gzip.decompress(Path(folder, "datasets", "data", "digits.csv.gz").read_bytes()).decode()
        table = np.array(text.replace("\n", ",").strip(",").split(","), np.float32).reshape(-1, 65).astype(np.int64)
        pixels = np.rint(table[:, :64].reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)  # stored as 0..16
        train, val = hold_out(Images(np.arange(len(table)), table[:, 64], pixels), 360)
        return {"train": train, "val": val}
