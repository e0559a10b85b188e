"""Images made of random numbers, for tests and measurements."""

import numpy as np

from lightning_resnet.data.hashing import uniform
from lightning_resnet.data.images import ArrayImages, Images
from lightning_resnet.data.sources.base import Source, with_holdout


class Synthetic(Source):
    """Coloured noise around one mean per class: no files, any size; for smoke tests and benchmarks.

    Args:
        n: training images.
        n_val: validation images.
        size: pixels per side.
        num_classes: number of classes.
        holdout: number of training images to validate on; the others are then the test set.
    """

    mean = (0.5,) * 3
    std = (0.25,) * 3

    def __init__(
        self,
        n: int = 512,
        n_val: int = 128,
        size: int = 32,
        num_classes: int = 10,
        holdout: int | None = None,
    ) -> None:
        self.n = n
        self.n_val = n_val
        self.size = size
        self.holdout = holdout
        self.classes = [str(i) for i in range(num_classes)]

    def splits(self) -> dict[str, Images]:
        """Make train and val, and test with `holdout`."""
        ids = np.arange(self.n + self.n_val)
        labels = ids % len(self.classes)
        colours = uniform(1, labels[:, None], np.arange(3))[:, None, None, :]
        noise = uniform(2, ids[:, None], np.arange(self.size**2 * 3))
        noise = noise.reshape(-1, self.size, self.size, 3)
        images = ArrayImages(ids, labels, ((colours + noise) * 127).astype(np.uint8))
        splits = {"train": images.take(ids[: self.n]), "val": images.take(ids[self.n :])}
        return with_holdout(splits, self.holdout)
