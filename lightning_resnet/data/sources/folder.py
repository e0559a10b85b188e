"""The source of a folder of image files, one folder per class."""

import os
import unicodedata
from contextlib import suppress
from pathlib import Path

import numpy as np

from lightning_resnet.data.images import FileImages, Images
from lightning_resnet.data.sources.base import Source, with_holdout
from lightning_resnet.errors import UserError, tell
from lightning_resnet.files import IMAGES, find_images, is_hidden
from lightning_resnet.meant import flat_folder, no_folder

# Name of a split -> the split that it stands for.
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation"), "val"),
    **dict.fromkeys(("eval", "evaluation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
HELD_OUT = ("val", "valid", "validation", "test")  # folders that may validate; the first one does


class ImageFolder(Source):
    """A folder with one folder of images per class, or with `train/` and `val/` of such folders.

    Args:
        root: the folder. `valid/`, `validation/` or `test/` may stand for `val/`; next to another
            of them, `test/` holds the test images. Without folders of splits, a fifth of the images
            validates. Without `train/`, nets are evaluated on `val/` or `test/`, and none can be
            trained.
        holdout: number of training images to validate on; those of val/ are then the test set.
    """

    def __init__(self, root: str, holdout: int | None = None) -> None:
        self.root = root
        self.holdout = holdout

    def splits(self) -> dict[str, Images]:
        """Read train and val, and test with `holdout`."""
        root = self._root()
        held_out = _held_out(root)
        if not (root / "train").is_dir():
            if _has_only_splits(root):
                splits = {name: self.read(root / name) for name in held_out}
                first = splits[held_out[0]]
                return {"val": first} | ({"test": splits["test"]} if "test" in splits else {})
            images = self.read(root)
            if self.holdout and not self.all_validate:
                return with_holdout({"train": images}, self.holdout)
            return self.divided(images, root)
        if not held_out and not self.holdout:
            raise UserError(
                f"{_nothing_held_out(root)}, or validate on N training images with "
                "--data.source.holdout N"
            )
        splits = {"train": self.read(root / "train")}
        if held_out:
            splits["val"] = self.read(root / held_out[0])
        if self.holdout:
            return with_holdout(splits, self.holdout)
        if "test" in held_out[1:]:
            try:
                splits["test"] = self.read(root / "test")
            except UserError as e:  # such as images of a contest, without labels
                tell(f"{root / 'test'} is left out: {e}")
        if unused := [name for name in held_out[1:] if name != "test"]:
            tell(
                f"{root} has {' and '.join(held_out)}: {held_out[0]} validates, and "
                f"{' and '.join(unused)} is left out"
            )
        return splits

    def splits_for(self, name: str) -> dict[str, Images]:
        """Read train and the split of this name, which may be that of a folder, such as test.

        To read train, no other split need be there.
        """
        root = self._root()
        if not (root / "train").is_dir():
            return self.splits()
        splits = {"train": self.read(root / "train")}
        held_out = _held_out(root)
        if name == "train":
            for folder in held_out:
                with suppress(UserError):
                    splits[folder] = self.read(root / folder)
        elif name in held_out:
            splits[name] = self.read(root / name)
        elif name == "val" and not held_out:
            raise UserError(_nothing_held_out(root))
        elif name == "val":
            tell(f"val is {root / held_out[0]}")
            splits["val"] = self.read(root / held_out[0])
        else:
            splits.update({folder: self.read(root / folder) for folder in held_out})
        return splits

    def _root(self) -> Path:
        """Return the folder of the images on this machine, a copy if `root` is an address.

        Raises:
            UserError: there is no such folder, or it holds splits and no train.
        """
        root = self.here(self.root, IMAGES)
        if not root.is_dir():
            raise UserError(f"{no_folder(root)}; --data.source.root gives another")
        found = _folders(root)
        if "train" not in found and _has_only_splits(root) and not {*found} <= {*HELD_OUT}:
            raise UserError(
                f"{root} holds the folders {', '.join(sorted(found))}, which are splits and no "
                "classes: name them train and val"
            )
        return root

    def read(self, folder: Path) -> FileImages:
        """Return all images of a folder with one folder per class.

        Raises:
            UserError: there are no images, all are of one class, or a class is not among the
                training classes.
        """
        names = class_folders(folder)
        files = {name: sorted(find_images(folder / name)) for name in names}
        self.classes = getattr(self, "classes", None) or [n for n in names if files[n]]
        known = set(self.classes)
        unknown = [n for n in names if files[n] and n not in known]
        if unknown:
            first = unknown[0]
            told = f"class folder {folder / first} has no counterpart among the training classes"
            composed = {unicodedata.normalize("NFC", n) for n in known}
            if unicodedata.normalize("NFC", first) in composed:
                told += (
                    ": it looks like one, but its letters are composed otherwise (macOS does "
                    "that); rename it"
                )
            raise UserError(told)
        paths = [p for n in self.classes for p in files.get(n, [])]
        if not paths:
            flat = flat_folder(folder) if folder.is_dir() else ""
            raise UserError(
                flat or f"no images in {folder}: it must hold one folder of images per class"
            )
        if len(self.classes) == 1 and not self.all_validate:
            raise UserError(
                f"{folder} has images of one class only, {self.classes[0]}: there is nothing to "
                "learn"
            )
        outside = sum(1 for _ in find_images(folder, deep=False))
        if outside:
            tell(
                f"warning: {outside:,} images lie in {folder} itself, outside the folders of "
                "classes: left out"
            )
        empty = [n for n in names if not files[n]]
        if empty:
            first = folder / empty[0]
            tell(f"warning: no images in class folder {first} ({len(empty)} such): left out")
        counts = [len(files.get(n, [])) for n in self.classes]
        labels = np.repeat(np.arange(len(self.classes)), counts)
        return FileImages(np.arange(len(paths)), labels, paths)


def _folders(root: Path) -> list[str]:
    """Return the names of the folders in a folder."""
    found = [name for name in os.listdir(root) if (root / name).is_dir()]
    return [name for name in found if not is_hidden(name)]


def _has_only_splits(root: Path) -> bool:
    """Tell whether the folders in a folder are splits, and no classes."""
    found = _folders(root)
    return bool(found) and all(name.lower() in SPLIT_NAMES for name in found)


def _held_out(root: Path) -> list[str]:
    """Return the folders that may validate; the first one does."""
    return [name for name in HELD_OUT if (root / name).is_dir()]


def _nothing_held_out(root: Path) -> str:
    return (
        f"{root} has train/ and none of {', '.join(HELD_OUT)}: put a folder of images to validate "
        "on there"
    )


def class_folders(folder: Path) -> list[str]:
    """List the folders in a folder, sorted.

    Hidden folders are left out, with a warning if there are images in them.
    """
    try:
        names = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    except OSError as e:
        raise UserError(
            f"cannot read folder {folder}: {e.strerror}; allow it, or set another root"
        ) from e
    for name in filter(is_hidden, names):
        with suppress(UserError):
            if next(find_images(folder / name, hidden=True), None):
                tell(
                    f"warning: {folder / name} is hidden, or macOS's: it is no class; rename it if "
                    "it is to be one"
                )
    return [name for name in names if not is_hidden(name)]
