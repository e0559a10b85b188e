"""The images of a split, in the storage they are kept in, and the fixed split of a hold-out."""

import os
import shlex
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from lightning_resnet.data.archives import member_of
from lightning_resnet.data.beton.encode import open_image, read_bytes
from lightning_resnet.data.beton.format import Beton
from lightning_resnet.data.order import permutation
from lightning_resnet.errors import UserError

LOOKED_AT = 100  # files whose size is read to tell whether all have one
# Seed of every split we make: not the run's seed, so that runs share their validation set.
SPLIT_SEED = 0


@dataclass
class Images:
    """One split, in order of sample id; the base of a class for each storage.

    `Images(ids, labels, pixels)` makes an `ArrayImages`, `Images(ids, labels, paths=paths)` a
    `FileImages`.

    Attributes:
        ids: index of each sample in the source, int64 [n], rising; order and draws depend on it.
        labels: int64 [n].
        in_memory: whether the pixels lie in memory.
    """

    ids: np.ndarray
    labels: np.ndarray
    in_memory: ClassVar[bool] = False

    def __new__(cls, *args: Any, **kwargs: Any) -> "Images":
        """Choose the class of the storage, as `pathlib.Path` chooses that of the system."""
        if cls is Images:
            return super().__new__(FileImages if "paths" in kwargs else ArrayImages)
        return super().__new__(cls)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def shape(self) -> tuple[int, int] | None:
        """(height, width) of the images; None where they have no common size."""
        return None

    def take(self, positions: np.ndarray) -> "Images":
        """Return the samples at `positions`, in order of id."""
        raise NotImplementedError

    def name(self, i: int) -> str:
        """Return what a message calls image i."""
        return f"number {i}"

    def files(self) -> list[str]:
        """Return the path of each image; empty texts where images have none."""
        return [""] * len(self)

    def check_command(self) -> str:
        """Return a command line that names the images that cannot be read; empty: none does."""
        return ""


@dataclass
class ArrayImages(Images):
    """Images in memory, all of one size.

    Attributes:
        pixels: uint8 [n, H, W, C], C is 1 or 3.
    """

    pixels: np.ndarray
    in_memory: ClassVar[bool] = True

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the images."""
        return self.pixels.shape[1:3]

    def take(self, positions: np.ndarray) -> "ArrayImages":
        """Return the samples at `positions`, in order of id."""
        positions = np.sort(positions)
        return ArrayImages(self.ids[positions], self.labels[positions], self.pixels[positions])

    def original(self, i: int) -> np.ndarray:
        """Return image i as an encoder takes it: its pixels."""
        return self.pixels[i]

    def contents(self) -> np.ndarray:
        """Return what tells these images from others, for a digest: the pixels."""
        return np.ascontiguousarray(self.pixels)


@dataclass
class FileImages(Images):
    """Images in files, or in archives of them.

    Attributes:
        paths: [n].
        checked: which files this process has found undamaged, bool [n]; each is checked once.
    """

    paths: list[str]
    checked: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.checked = np.zeros(len(self.paths), bool)

    def take(self, positions: np.ndarray) -> "FileImages":
        """Return the samples at `positions`, in order of id."""
        positions = np.sort(positions)
        paths = [self.paths[i] for i in positions]
        return FileImages(self.ids[positions], self.labels[positions], paths)

    @cached_property
    def shape(self) -> tuple[int, int] | None:
        """(side, side) of square images of one size; None where they have no common size.

        `LOOKED_AT` of them are looked at; a loader refuses a batch with others.
        """
        sizes: set[int] = set()
        for path in self.paths[:: max(1, len(self) // LOOKED_AT)]:
            if self.in_order or len(sizes) > 1:
                return None
            with suppress(Exception):  # the loader tells of what cannot be read
                sizes |= {*open_image(read_bytes(path)).size}
        return (*sizes, *sizes) if len(sizes) == 1 else None

    @property
    def in_order(self) -> bool:
        """Whether the images are in archives that can only be read in order."""
        first = member_of(self.paths[0]) if self.paths else None
        return first is not None and first.in_order

    def name(self, i: int) -> str:
        """Return the path of image i."""
        return self.paths[i]

    def files(self) -> list[str]:
        """Return the path of each image."""
        return self.paths

    def check_command(self) -> str:
        """Return the command line that reads all images of the folder they are in."""
        folder = os.path.commonpath(map(os.path.dirname, self.paths))
        if len({os.path.dirname(path) for path in self.paths}) == 1:  # that of the only class
            folder = os.path.dirname(folder)
        return f"resnet-cli data check {shlex.quote(folder)}" if os.path.isdir(folder) else ""

    def original(self, i: int) -> str:
        """Return image i as an encoder takes it: its path."""
        return self.paths[i]

    def contents(self) -> bytes:
        """Return what tells these images from others, for a digest: the paths."""
        return os.fsencode("\0".join(self.paths))


@dataclass
class BetonImages(Images):
    """Images in a .beton file.

    Attributes:
        file: the file.
        positions: the position of each sample in the file, int64 [n].
    """

    file: Beton
    positions: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the first image; a file may hold others of another size."""
        first = self.file.images[self.positions[0]]
        return int(first["height"]), int(first["width"])

    def take(self, positions: np.ndarray) -> "BetonImages":
        """Return the samples at `positions`, in order of id."""
        positions = np.sort(positions)
        return BetonImages(
            self.ids[positions], self.labels[positions], self.file, self.positions[positions]
        )

    def check_command(self) -> str:
        """Return the command line that reads all images of the file."""
        return f"resnet-cli data verify {shlex.quote(str(self.file.path))}"

    def pages(self) -> np.ndarray:
        """Return the page of the file that each sample lies on, counted from 0 [n]."""
        pointers = self.file.images["data_ptr"][self.positions]
        return np.unique(pointers // max(1, self.file.page_size), return_inverse=True)[1]


def hold_out(images: Images, n: int) -> tuple[Images, Images]:
    """Split at random, always the same way.

    Args:
        images: the images to split.
        n: number of images to hold out.

    Returns:
        All but n of the images, and the n.

    Raises:
        UserError: n leaves one of the two empty.
    """
    if not 0 < n < len(images):
        raise UserError(
            f"cannot hold out {n} of {len(images)} images: choose 1 to {len(images) - 1}"
        )
    order = permutation(SPLIT_SEED, 0, len(images))
    return images.take(order[n:]), images.take(order[:n])
