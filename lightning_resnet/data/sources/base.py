"""The base class of data sets."""

import sys
from pathlib import Path

from lightning_resnet.data.images import Images, hold_out
from lightning_resnet.data.remote import copied, is_remote
from lightning_resnet.errors import UserError, tell

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Source:
    """Base class of data sets.

    Attributes:
        classes: names of the classes, in order of label.
        mean: mean of each channel in [0, 1], for normalisation.
        std: standard deviation of each channel in [0, 1], for normalisation.
        stage: folder for copies of what an address names, `--data.stage`; None: none is given.
        all_validate: whether all images validate where nothing names splits, because a net is
            evaluated that was trained on others; False: a fifth does, as in its training; None: no
            trained net is evaluated.
    """

    classes: list[str]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    stage: str | None = None
    all_validate: bool | None = None

    def splits(self) -> dict[str, Images]:
        """Read the splits: train, val and, if it is another set than val, test."""
        raise NotImplementedError

    def splits_for(self, name: str) -> dict[str, Images]:
        """Read the split of this name; others may be among the splits, and may be left out."""
        return self.splits()

    def divided(self, images: Images, place: Path) -> dict[str, Images]:
        """Return the splits of images that nothing divides; for a trained net tell which validate.

        Args:
            images: all images.
            place: where they lie, for the message.
        """
        n = len(images)
        if self.all_validate:
            tell(
                f"{place} names no splits, and the net was trained on another folder: all {n:,} "
                "images are evaluated",
                file=sys.stderr,
            )
            return {"val": images}
        train, val = hold_out(images, max(1, n // 5))
        if self.all_validate is False:
            tell(
                f"{place} names no splits: {len(val):,} of its {n:,} images (a fifth) validate, "
                "the others were to train",
                file=sys.stderr,
            )
        return {"train": train, "val": val}

    def here(self, root: str, suffixes: tuple[str, ...]) -> Path:
        """Return a path on this machine: that of a copy if the root is an address.

        Args:
            root: a path, or an address that fsspec knows, such as s3://bucket/folder.
            suffixes: ends of the names of the files that are wanted.

        Raises:
            UserError: there is no folder for copies, or something cannot be copied.
        """
        return copied(root, self.stage, suffixes) if is_remote(root) else Path(root)


def with_holdout(splits: dict[str, Images], holdout: int | None) -> dict[str, Images]:
    """Return splits in which training images validate, always the same; val becomes test.

    Args:
        splits: the splits of a source.
        holdout: number of training images to validate on; 0 or null leaves the splits as they are.

    Raises:
        UserError: there are not so many training images, or both val and test.
    """
    if not holdout:
        return splits
    if "test" in splits:
        raise UserError(
            f"--data.source.holdout {holdout}: the source has images to validate on and test "
            "images, so none need be held out; leave the flag out"
        )
    train, val = hold_out(splits["train"], holdout)
    rest = {"test": splits["val"]} if "val" in splits else {}
    return {"train": train, "val": val, **rest}
