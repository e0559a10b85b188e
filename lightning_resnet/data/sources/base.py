"""The base class of data sets."""

from lightning_resnet.data.images import Images, hold_out

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Source:
    """Base of sources.

    Attributes:
        classes: names, in order of label.
        mean: of each channel in [0, 1], for normalisation.
        std: likewise.
    """

    classes: list[str]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def splits(self) -> dict[str, Images]:
        """Read the splits: train, val and, where it is another set than val, test."""
        raise NotImplementedError


def _with_holdout(train: Images, test: Images, holdout: int) -> dict[str, Images]:
    if not holdout:
        return {"train": train, "val": test}
    train, val = hold_out(train, holdout)
    return {"train": train, "val": val, "test": test}
