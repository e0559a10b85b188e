"""Where images come from: one small class per source; its signature is its YAML (`data.source: Digits`).

A source names its classes and reads a split into `Images`. To add one, subclass `Source` in any importable file.
"""

import os
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from lightning_resnet.data.images import Images, hold_out
from lightning_resnet.data.sources.base import Source
from lightning_resnet.errors import UserError, tell

SPLIT_NAMES = "train training val valid validate validation test testing eval evaluation dev".split()  # of folders
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
MACOS = "__MACOSX"  # a folder that its archives bring along, with a `._x.jpg` for every `x.jpg`


class ImageFolder(Source):
    """A folder with one folder of pictures per class, or with `train/` and `val/` of such folders.

    Args:
        root: the folder. Without `train/` and `val/`, a fifth of the pictures validates.
    """

    def __init__(self, root: str) -> None:
        self.root = root

    def splits(self) -> dict[str, Images]:
        """Train and val."""
        root = Path(self.root)
        if not root.is_dir():
            raise UserError(f"image folder {root} does not exist: set --data.source.root")
        found = [name for name in os.listdir(root) if (root / name).is_dir() and not is_hidden(name)]
        if found and "train" not in found and all(name.lower() in SPLIT_NAMES for name in found):
            raise UserError(
                f"{root} holds the folders {', '.join(sorted(found))}, which are splits and no classes: name them "
                "train and val"
            )
        has_splits = (root / "train").is_dir()
        train = self.read(root / "train" if has_splits else root)
        if not has_splits:
            train, val = hold_out(train, max(1, len(train) // 5))
            return {"train": train, "val": val}
        return {"train": train, "val": self.read(root / "val")}

    def read(self, folder: Path) -> Images:
        """All pictures of a folder with one folder per class.

        Raises:
            UserError: there are none, all are of one class, or a class has no counterpart among those read before.
        """
        names = class_folders(folder)
        files = {name: sorted(find_images(folder / name)) for name in names}
        self.classes = getattr(self, "classes", None) or [n for n in names if files[n]]
        known = set(self.classes)
        if unknown := [n for n in names if files[n] and n not in known]:
            told = f"class folder {folder / unknown[0]} has no counterpart among the training classes"
            if unicodedata.normalize("NFC", unknown[0]) in {unicodedata.normalize("NFC", n) for n in known}:
                told += ": it looks like one, but its letters are composed otherwise (macOS does that); rename it"
            raise UserError(told)
        paths = [p for n in self.classes for p in files.get(n, [])]
        if not paths:
            raise UserError(f"no pictures in {folder}: it must hold one folder of pictures per class")
        if len(self.classes) == 1:
            raise UserError(f"{folder} has pictures of one class only, {self.classes[0]}: there is nothing to learn")
        if empty := [n for n in names if not files[n]]:
            tell(f"careful: no pictures in class folder {folder / empty[0]} ({len(empty)} such): left out")
        labels = np.repeat(np.arange(len(self.classes)), [len(files.get(n, [])) for n in self.classes])
        return Images(np.arange(len(paths)), labels, paths=paths)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is a program's own (.ipynb_checkpoints, ._x.jpg, __MACOSX), no image and no class."""
    return name.startswith(".") or name == MACOS


def class_folders(folder: Path) -> list[str]:
    """List the folders in a folder, sorted; hidden ones are left out, which is said if there are images in them."""
    try:
        names = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    except OSError as e:
        raise UserError(f"cannot read folder {folder}: {e.strerror}; allow it, or set another root") from e
    for name in filter(is_hidden, names):
        with suppress(UserError):
            if next(find_images(folder / name, hidden=True), None):
                tell(f"warning: {folder / name} is hidden, or macOS's: it is no class; rename it if it is to be one")
    return [name for name in names if not is_hidden(name)]


def find_images(folder: Path, hidden: bool = False) -> Iterator[str]:
    """Yield the image files in a folder and those below it, in no order; links to folders are not followed.

    Args:
        folder: to look into.
        hidden: yield hidden files, and those in hidden folders, as well.

    Raises:
        UserError: a folder cannot be read.
    """
    folders = [str(folder)]
    while folders:  # no recursion: there is no limit to the depth
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if is_hidden(entry.name) and not hidden:
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif os.path.splitext(entry.name)[1].lower() in SUFFIXES and (
                        entry.is_symlink() or entry.is_file()
                    ):
                        yield entry.path  # a link that leads nowhere is told when it is read
        except OSError as e:
            raise UserError(f"cannot read folder {e.filename}: {e.strerror}; allow it, or move it away") from e
