"""One picture, of whatever kind, to the bytes that a .beton stores: a JPEG or raw RGB.

A JPEG file that needs no change is taken byte for byte: encoding it again would lose quality a second time.
"""

import io
import os
import re
import tempfile
import warnings
import zlib
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from lightning_resnet.data.beton import JPEG, RAW
from lightning_resnet.data.kernel import ITEM, PROBLEMS, library
from lightning_resnet.errors import one_line

MAX_SIDE, MAX_BYTES = 2**16 - 1, 2**31  # what the format's fields and the decoder can hold
MEMBER = re.compile(r"(.+\.tar)!.+@(\d+)\+(\d+)")  # a picture inside an archive: archive!name@offset+bytes


@dataclass(frozen=True)
class Options:
    """How to store.

    Attributes:
        quality: of JPEGs that are made, 1 to 100; chroma at half resolution (4:2:0), as FFCV's writer does.
        short_side: pixels the shorter side is scaled down to; None leaves it.
        max_side: pixels the longer side is scaled down to.
    """

    quality: int = 90
    short_side: int | None = None
    max_side: int | None = None

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) to store; never larger, the aspect is kept."""
        scales = [self.short_side and self.short_side / min(width, height)]
        scales.append(self.max_side and self.max_side / max(width, height))
        scale = min(1.0, *(s for s in scales if s), 1.0)
        return max(1, round(width * scale)), max(1, round(height * scale))


class Task(NamedTuple):
    """A picture to store: its file or its pixels [H, W, C], as JPEG or raw."""

    picture: str | np.ndarray
    jpeg: bool


class Sample(NamedTuple):
    """A picture as it is stored."""

    mode: int
    width: int
    height: int
    data: bytes
    crc: int


class Bad(NamedTuple):
    """A picture that cannot be stored. Fatal: the disk or network is at fault, not the picture, so never skip it."""

    why: str
    fatal: bool


def encode(task: Task, options: Options) -> Sample | Bad:
    """Make the sample; whatever is wrong with a picture comes back as `Bad`."""
    try:
        with warnings.catch_warnings(action="ignore"):  # Pillow's, on metadata; what is wrong with pixels raises
            return _encode(task, options)
    except MemoryError:
        raise
    except UnidentifiedImageError:
        return Bad("it is no picture", False)
    except Exception as e:  # noqa: BLE001 -- decoders meet damage in many ways: struct.error, SyntaxError, ...
        fatal = isinstance(e, OSError) and e.errno is not None
        return Bad(e.strerror if fatal else one_line(e), fatal)


def read_bytes(path: str) -> bytes:
    """The content of a file, or of a member of an archive."""
    if not (member := MEMBER.fullmatch(path)):
        with open(path, "rb") as file:
            return file.read()
    with open(member[1], "rb") as file:
        file.seek(int(member[2]))
        return file.read(int(member[3]))


def open_rgb(path: str) -> Image.Image:
    """A picture file as 8-bit RGB, upright. 16 bits are scaled to 8; transparency is dropped, as torchvision does."""
    with Image.open(io.BytesIO(read_bytes(path))) as picture:
        return to_rgb(picture)


def to_rgb(picture: Image.Image) -> Image.Image:
    """See `open_rgb`."""
    picture.load()
    if _orientation(picture) != 1:
        picture = ImageOps.exif_transpose(picture)
    if picture.mode == "F" or picture.mode.startswith("I"):
        picture = Image.fromarray(_eight_bits(np.asarray(picture)))
    if picture.mode == "P":  # directly to RGB Pillow warns of palettes with transparency
        picture = picture.convert("RGBA")
    return picture.convert("RGB")


def jpeg_problem(data: bytes, width: int, height: int) -> str:
    """What is wrong with a JPEG; empty if it decodes without a warning."""
    if library() is None:
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            return "" if picture.size == (width, height) else PROBLEMS[2]
    item, status, out = np.zeros(1, ITEM), np.zeros(1, np.uint8), np.empty(3, np.uint8)
    item["size"], item["rows"], item["cols"], item["jpeg"] = len(data), height, width, 1
    item["height"], item["width"] = height, width
    file = _scratch_file()
    os.pwrite(file, data, 0)
    # all of it, made into one pixel: the decoder goes through every bit, at an eighth of the resolution
    library().decode_batch(file, item.ctypes.data, 1, 1, 1, out.ctypes.data, status.ctypes.data)
    return "" if status[0] == 0 else PROBLEMS[status[0]]


def _encode(task: Task, options: Options) -> Sample:
    if isinstance(task.picture, str):
        data = read_bytes(task.picture)
        with Image.open(io.BytesIO(data)) as picture:
            if (
                picture.format == "JPEG"
                and picture.mode in ("RGB", "L")
                and (problem := jpeg_problem(data, *picture.size))
            ):
                raise ValueError(problem)  # Pillow would give grey blocks, and no word (as it does for CMYK)
            if task.jpeg and _as_it_is(picture, options):
                return _sample(JPEG, *picture.size, data)
            picture = to_rgb(picture)
    else:
        pixels = task.picture
        picture = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).convert("RGB")
    size = options.size(*picture.size)
    if size != picture.size:
        picture = picture.resize(size, Image.Resampling.BICUBIC)  # Pillow's has antialiasing
    return _sample(JPEG if task.jpeg else RAW, *size, _bytes(picture, task.jpeg, options.quality))


def _as_it_is(picture: Image.Image, options: Options) -> bool:
    """Grey JPEGs too: every decoder to RGB gives three equal channels."""
    plain = picture.format == "JPEG" and picture.mode in ("RGB", "L") and _orientation(picture) == 1
    return plain and options.size(*picture.size) == picture.size


def _bytes(picture: Image.Image, jpeg: bool, quality: int) -> bytes:
    if not jpeg:
        return picture.tobytes()
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return file.getvalue()


def _sample(mode: int, width: int, height: int, data: bytes) -> Sample:
    if max(width, height) > MAX_SIDE or len(data) > MAX_BYTES:
        raise ValueError(f"{width}x{height} pixels are more than the format holds; --max-side makes it smaller")
    return Sample(mode, width, height, data, zlib.crc32(data))


def _orientation(picture: Image.Image) -> int:
    try:
        found = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 -- damaged EXIF: the pixels are as good as without
        return 1
    return found if found in range(2, 9) else 1


def _eight_bits(x: np.ndarray) -> np.ndarray:
    """16 bits to 8 by scale: Pillow's own conversion clips at 255, which makes such pictures white."""
    if x.dtype.kind not in "iu" or x.min() < 0 or x.max() > 65535:
        raise ValueError(f"its pixels are {x.dtype} from {x.min():g} to {x.max():g}, not of 8 or 16 bits: convert it")
    return ((x.astype(np.uint32) + 128) // 257).astype(np.uint8)


@cache
def _scratch_file() -> int:
    """In memory: the kernel reads from files."""
    return os.memfd_create("jpeg") if hasattr(os, "memfd_create") else os.dup(tempfile.TemporaryFile().fileno())
