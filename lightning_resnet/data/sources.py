"""Where images come from: one small class per source; its signature is its YAML (`data.source: Digits`).

A source names its classes and reads a split into `Images`. To add one, subclass `Source` in any importable file.
"""

import gzip
import os
import unicodedata
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from lightning_resnet.data.beton import Beton
from lightning_resnet.data.hashing import uniform
from lightning_resnet.data.order import permutation
from lightning_resnet.errors import UserError, one_line, tell

SPLIT_SEED = 0  # of every split we make: independent of the run's seed, so that runs share their validation set
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SPLIT_NAMES = "train training val valid validate validation test testing eval evaluation dev".split()  # of folders
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
MACOS = "__MACOSX"  # a folder that its archives bring along, with a `._x.jpg` for every `x.jpg`
MAX_IDX_BYTES = 1 << 27  # of a file of MNIST's format, unpacked: 47 million is usual


@dataclass
class Images:
    """One split, in order of sample id.

    Attributes:
        ids: index of each sample in the source, int64 [n], rising; the name by which order and draws know it.
        labels: int64 [n].
        pixels: uint8 [n, H, W, C] with C 1 or 3 where the images are in memory.
        paths: [n] where they are files.
        file: where they are in a .beton,
        positions: and where in it, int64 [n].
    """

    ids: np.ndarray
    labels: np.ndarray
    pixels: np.ndarray | None = None
    paths: list[str] | None = None
    file: Beton | None = None
    positions: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, positions: np.ndarray) -> "Images":
        """The samples at `positions`, in order of id."""
        positions = np.sort(positions)
        return Images(
            self.ids[positions],
            self.labels[positions],
            None if self.pixels is None else self.pixels[positions],
            None if self.paths is None else [self.paths[i] for i in positions],
            self.file,
            None if self.positions is None else self.positions[positions],
        )


def hold_out(images: Images, n: int) -> tuple[Images, Images]:
    """Split at random, always the same way: (all but n, n)."""
    if not 0 < n < len(images):
        raise UserError(f"cannot hold out {n} of {len(images)} images: choose 1 to {len(images) - 1}")
    order = permutation(SPLIT_SEED, 0, len(images))
    return images.take(order[n:]), images.take(order[:n])


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


class Synthetic(Source):
    """Coloured noise around one mean per class: no files, any size; for smoke tests and benchmarks.

    Args:
        n: training images.
        n_val: validation images.
        size: pixels per side.
        num_classes: classes.
    """

    mean, std = (0.5,) * 3, (0.25,) * 3

    def __init__(self, n: int = 512, n_val: int = 128, size: int = 32, num_classes: int = 10) -> None:
        self.n, self.n_val, self.size = n, n_val, size
        self.classes = [str(i) for i in range(num_classes)]

    def splits(self) -> dict[str, Images]:
        """Train and val."""
        ids = np.arange(self.n + self.n_val)
        labels = ids % len(self.classes)
        colours = uniform(1, labels[:, None], np.arange(3))[:, None, None, :]
        noise = uniform(2, ids[:, None], np.arange(self.size**2 * 3)).reshape(-1, self.size, self.size, 3)
        images = Images(ids, labels, ((colours + noise) * 127).astype(np.uint8))
        return {"train": images.take(ids[: self.n]), "val": images.take(ids[self.n :])}


class FashionMNIST(Source):
    """60,000 + 10,000 grey pictures of clothes, 28x28 (Xiao et al. 2017); the 10,000 validate.

    Args:
        root: folder in which `resnet-cli data get fashion_mnist` put them; Debian's package is found as well.
        holdout: training images to validate on instead; the 10,000 are then the test set.
    """

    classes = ["T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
    mean, std = (0.2860,) * 3, (0.3530,) * 3

    def __init__(self, root: str = "data", holdout: int = 0) -> None:
        self.root, self.holdout = root, holdout

    def splits(self) -> dict[str, Images]:
        """Train and val, and test with `holdout`."""
        folders = [Path(self.root, "FashionMNIST", "raw"), DEBIAN_FASHION]
        found = [f for f in folders if any(f.glob("train-images-idx3-ubyte*"))]
        if not found:
            raise UserError(
                f"Fashion-MNIST not found in {' nor '.join(map(str, folders))}: run `resnet-cli data get "
                "fashion_mnist` or `apt-get install dataset-fashion-mnist`, or set --data.source.root"
            )
        return _with_holdout(_read_idx(found[0], "train"), _read_idx(found[0], "t10k"), self.holdout)


class CIFAR10(Source):
    """50,000 + 10,000 colour pictures, 32x32, 10 classes (Krizhevsky 2009); the 10,000 validate, as in the paper.

    Args:
        root: folder in which `resnet-cli data get cifar10` put them.
        holdout: training images to validate on instead (the paper chose its schedule on 45,000/5,000); the 10,000 are
            then the test set.
    """

    reader = "CIFAR10"  # torchvision's
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)

    def __init__(self, root: str = "data", holdout: int = 0) -> None:
        self.root, self.holdout = root, holdout

    def splits(self) -> dict[str, Images]:
        """Train and val, and test with `holdout`."""
        import torchvision.datasets

        try:
            train, test = (getattr(torchvision.datasets, self.reader)(self.root, train=t) for t in (True, False))
        except RuntimeError as e:
            name = self.reader.lower()
            raise UserError(
                f"{self.reader} not found (or damaged) in folder {self.root}: run `resnet-cli data get {name} "
                f"--root {self.root}`, or set --data.source.root"
            ) from e
        self.classes = train.classes
        pair = (Images(np.arange(len(d.data)), np.asarray(d.targets, np.int64), d.data) for d in (train, test))
        return _with_holdout(*pair, self.holdout)


class CIFAR100(CIFAR10):
    """As CIFAR10, with 100 classes."""

    reader = "CIFAR100"
    mean, std = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)


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


def _with_holdout(train: Images, test: Images, holdout: int) -> dict[str, Images]:
    if not holdout:
        return {"train": train, "val": test}
    train, val = hold_out(train, holdout)
    return {"train": train, "val": val, "test": test}


def _read_idx(folder: Path, split: str) -> Images:
    """Read the format of MNIST: big-endian header of 4 bytes per dimension after the magic number, then bytes."""
    pixels = _idx_bytes(folder, f"{split}-images-idx3-ubyte", 16)
    labels = _idx_bytes(folder, f"{split}-labels-idx1-ubyte", 8).astype(np.int64)
    if len(pixels) != len(labels) * 28 * 28:
        raise UserError(
            f"{folder} holds {len(pixels):,} bytes of {split} images for {len(labels):,} labels, of 28 x 28 each: "
            "get the data set again"
        )
    return Images(np.arange(len(labels)), labels, pixels.reshape(-1, 28, 28, 1))


def _idx_bytes(folder: Path, name: str, header: int) -> np.ndarray:
    path = folder / f"{name}.gz"
    try:
        with gzip.open(path) if path.exists() else (folder / name).open("rb") as file:
            raw = file.read(MAX_IDX_BYTES + 1)
        if not header <= len(raw) <= MAX_IDX_BYTES:
            raise ValueError(f"it has less than {header} or more than {MAX_IDX_BYTES:,} bytes")
    except (OSError, EOFError, ValueError, zlib.error) as e:
        raise UserError(f"cannot read {name} in {folder}: {one_line(e)}; get the data set again") from e
    return np.frombuffer(raw, np.uint8, offset=header)
