"""The base class of data sets."""

from lightning_resnet.data.images import Images, hold_out

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Source:
    """Base class of data sets.

    Attributes:
        classes: names of the classes, in order of label.
        mean: mean of each channel in [0, 1], for normalisation.
        std: standard deviation of each channel in [0, 1], for normalisation.
    """

    classes: list[str]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def splits(self) -> dict[str, Images]:
        """Read the splits: train, val and, if it is another set than val, test."""
        raise NotImplementedError


def _with_holdout(train: Images, test: Images, holdout: int) -> dict[str, Images]:
    """Return the splits, with `holdout` training images to validate on, or the test images."""
    if not holdout:
        return {"train": train, "val": test}
    train, val = hold_out(train, holdout)
    return {"train": train, "val": val, "test": test}
