"""The source whose pictures are in .beton files."""

from pathlib import Path

import numpy as np

from lightning_resnet.data.beton.format import Beton
from lightning_resnet.data.beton.verify import header_hash
from lightning_resnet.data.images import Images
from lightning_resnet.data.sources.base import Source
from lightning_resnet.errors import UserError, tell


class BetonFiles(Source):
    """Files that `resnet-cli data write`, or FFCV's own writer, made.

    Args:
        train: of the training images.
        val: of the validation images.
        test: of the test images, where they are others.
    """

    def __init__(self, train: str, val: str, test: str | None = None) -> None:
        self.files = {"train": train, "val": val} | ({"test": test} if test else {})

    def splits(self) -> dict[str, Images]:
        """Of each file."""
        opened = {name: open_beton(path) for name, path in self.files.items()}
        named = {name: beton for name, beton in opened.items() if beton.manifest.get("classes")}
        first = max(named.values(), key=_number_of_classes) if named else None
        self.classes = max((beton.classes for beton in opened.values()), key=len)
        splits = {name: images_of(beton) for name, beton in opened.items()}
        for name, beton in named.items():
            if beton.classes != first.classes:
                splits[name].labels = _renumber(splits[name].labels, beton, first)
        return splits


def _number_of_classes(beton: Beton) -> int:
    return len(beton.classes)


def _renumber(labels: np.ndarray, beton: Beton, first: Beton) -> np.ndarray:
    """Number the classes of a file as another file does that has more of them.

    Raises:
        UserError: one of its classes is none of the other's.
    """
    number = {name: i for i, name in enumerate(first.classes)}
    unknown = [name for name in beton.classes if name not in number]
    if unknown:
        raise UserError(
            f"class {unknown[0]} of {beton.path} is none of {first.path}: both must be written from the same classes "
            "(`resnet-cli data write` with the folder that holds train/ and val/ as --root, and --split)"
        )
    tell(f"{beton.path} has other classes than {first.path}, or in another order: its labels are numbered by name")
    return np.array([number[name] for name in beton.classes])[labels]


def open_beton(path: str | Path) -> Beton:
    """Open a file to train on.

    Raises:
        UserError: it is no .beton, or labels, sizes or addresses are not those that the manifest vouches for.
    """
    beton = Beton(path)
    if (noted := beton.manifest.get("header_hash")) and header_hash(beton) != noted:
        raise UserError(
            f"{path}: header, metadata or table are not what was written: `resnet-cli data verify` tells more"
        )
    return beton


def images_of(beton: Beton) -> Images:
    """A file's samples in order of their ids."""
    ids = beton.ids
    order = _order_of(ids)
    return Images(ids[order], beton.labels[order], file=beton, positions=order)


def _order_of(ids: np.ndarray) -> np.ndarray:
    """Positions in order of id; of 0 to n - 1, the usual case, without a sort."""
    n = len(ids)
    if n and ids.min() == 0 and ids.max() == n - 1:
        order = np.full(n, -1)
        order[ids] = np.arange(n)
        if order.min() == 0:
            return order
    return np.argsort(ids, kind="stable")
