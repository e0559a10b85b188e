"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009)."""

import numpy as np

from lightning_resnet.data.images import ArrayImages, Images
from lightning_resnet.data.sources.base import Source, _with_holdout
from lightning_resnet.errors import UserError


class CIFAR10(Source):
    """50,000 training and 10,000 test images of 32x32 in 10 classes (Krizhevsky 2009).

    The 10,000 validate, as in He et al. 2015.

    Args:
        root: folder in which `resnet-cli data get cifar10` put the images.
        holdout: number of training images to validate on instead (the paper chose its schedule on
            45,000/5,000); the 10,000 are then the test set.
    """

    reader = "CIFAR10"  # torchvision's
    mean = (0.4914, 0.4822, 0.4465)
    std = (0.2470, 0.2435, 0.2616)

    def __init__(self, root: str = "data", holdout: int = 0) -> None:
        self.root = root
        self.holdout = holdout

    def splits(self) -> dict[str, Images]:
        """Read train and val, and test with `holdout`."""
        import torchvision.datasets

        try:
            train, test = (
                getattr(torchvision.datasets, self.reader)(self.root, train=t)
                for t in (True, False)
            )
        except RuntimeError as e:
            name = self.reader.lower()
            raise UserError(
                f"{self.reader} not found (or damaged) in folder {self.root}: run `resnet-cli data "
                f"get {name} --root {self.root}`, or set --data.source.root"
            ) from e
        self.classes = train.classes
        pair = (
            ArrayImages(np.arange(len(d.data)), np.asarray(d.targets, np.int64), d.data)
            for d in (train, test)
        )
        return _with_holdout(*pair, self.holdout)


class CIFAR100(CIFAR10):
    """50,000 training and 10,000 test images of 32x32 in 100 classes; arguments as of `CIFAR10`."""

    reader = "CIFAR100"
    mean = (0.5071, 0.4865, 0.4409)
    std = (0.2673, 0.2564, 0.2762)
