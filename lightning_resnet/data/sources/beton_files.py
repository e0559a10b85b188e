"""The source whose images are in .beton files."""

import os
from pathlib import Path

import numpy as np

from lightning_resnet.data.beton.format import Beton
from lightning_resnet.data.beton.stage import fetched
from lightning_resnet.data.beton.verify import header_hash
from lightning_resnet.data.images import BetonImages, Images
from lightning_resnet.data.remote import is_remote
from lightning_resnet.data.sources.base import Source, with_holdout
from lightning_resnet.errors import UserError, tell


class BetonFiles(Source):
    """Files that `resnet-cli data write`, or FFCV's own writer, made.

    Args:
        train: file of the training images.
        val: file of the validation images.
        test: file of the test images, if these are others.
        holdout: number of training images to validate on; those of `val` are then the test set.
    """

    def __init__(
        self, train: str, val: str, test: str | None = None, holdout: int | None = None
    ) -> None:
        self.files = {"train": train, "val": val}
        if test:
            self.files["test"] = test
        self.holdout = holdout

    def splits(self) -> dict[str, Images]:
        """Open the files: train, val, and test if there is one."""
        paths = {
            name: fetched(path, self.stage) if is_remote(path) else path
            for name, path in self.files.items()
        }
        opened = {name: open_beton(path) for name, path in paths.items()}
        _check_splits(opened)
        named = {name: beton for name, beton in opened.items() if beton.manifest.get("classes")}
        first = max(named.values(), key=_number_of_classes) if named else None
        self.classes = max((beton.classes for beton in opened.values()), key=len)
        splits = {name: images_of(beton) for name, beton in opened.items()}
        for name, beton in named.items():
            if beton.classes != first.classes:
                splits[name].labels = _renumber(splits[name].labels, beton, first)
        return with_holdout(splits, self.holdout)


def _check_splits(opened: dict[str, Beton]) -> None:
    """Refuse to validate on training images; warn where it may be so.

    `data write` names the split train where --split is left out, so that files of other images may
    be named so, too.

    Raises:
        UserError: the manifest of val or test says that train was written, and the file has as many
            images as that of train.
    """
    for name in ("val", "test"):
        beton = opened.get(name)
        if not beton:
            continue
        is_named_train = beton.manifest.get("split") == "train"
        if is_named_train and len(beton) == len(opened["train"]):
            raise UserError(
                f"{beton.path} holds training images, as its manifest says, and is given for "
                f"{name}: write the others with `resnet-cli data write SOURCE --split {name} --out "
                f"{name}.beton`, and set --data.source.{name} {name}.beton"
            )
        if os.path.samefile(beton.path, opened["train"].path):
            tell(f"warning: train and {name} are one file, {beton.path}: the same images")
        elif is_named_train:
            tell(
                f"warning: {beton.path} is given for {name}, and was written as train: right only "
                "if its images are others than those that are trained on"
            )


def _number_of_classes(beton: Beton) -> int:
    return len(beton.classes)


def _renumber(labels: np.ndarray, beton: Beton, first: Beton) -> np.ndarray:
    """Renumber labels of a file by the class names of a file that has more classes.

    Raises:
        UserError: the other file lacks one of the classes.
    """
    number = {name: i for i, name in enumerate(first.classes)}
    unknown = [name for name in beton.classes if name not in number]
    if unknown:
        raise UserError(
            f"class {unknown[0]} of {beton.path} is none of {first.path}: both must be written "
            "from the same classes (`resnet-cli data write` with the folder that holds train/ and "
            "val/ as --root, and --split)"
        )
    tell(
        f"{beton.path} has other classes than {first.path}, or in another order: its labels are "
        "numbered by name"
    )
    return np.array([number[name] for name in beton.classes])[labels]


def open_beton(path: str | Path) -> Beton:
    """Open a file to train on.

    Raises:
        UserError: the file is no .beton, or labels, sizes or addresses are not those that the
            manifest has a hash of.
    """
    beton = Beton(path)
    noted = beton.manifest.get("header_hash")
    if noted and header_hash(beton) != noted:
        raise UserError(
            f"{path}: header, metadata or table are not what was written: `resnet-cli data verify` "
            "tells more"
        )
    return beton


def images_of(beton: Beton) -> BetonImages:
    """Return a file's samples in order of their ids."""
    ids = beton.ids
    order = _order_of(ids)
    return BetonImages(ids[order], beton.labels[order], beton, order)


def _order_of(ids: np.ndarray) -> np.ndarray:
    """Return positions in order of id; ids 0 to n - 1, the usual case, need no sort."""
    n = len(ids)
    if n and ids.min() == 0 and ids.max() == n - 1:
        order = np.full(n, -1)
        order[ids] = np.arange(n)
        if order.min() == 0:
            return order
    return np.argsort(ids, kind="stable")
