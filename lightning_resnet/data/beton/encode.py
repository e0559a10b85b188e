"""Encode an image of any kind to the bytes that a .beton stores: a JPEG or raw RGB.

A JPEG file that needs no change is taken byte for byte, because a second encoding loses quality a
second time.
"""

import io
import os
import stat
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from lightning_resnet.data.archives import member_of, read_zipped
from lightning_resnet.data.augment.crops import Resize
from lightning_resnet.data.beton import area_filter
from lightning_resnet.data.beton.decode import NO_MEMORY, PROBLEMS, library
from lightning_resnet.data.beton.decode_fallback import count_scans
from lightning_resnet.data.beton.format import JPEG, RAW
from lightning_resnet.data.beton.limits import MAX_BYTES, MAX_SCANS, MAX_SIDE, too_many_pixels
from lightning_resnet.data.hashing import hash64
from lightning_resnet.errors import one_line

MAX_SAMPLE = 2**31  # bytes of an image as it is stored: what the decoder can hold
# Pillow reads forty more, and runs another program (Ghostscript) for one of them.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
# Tags of a TIFF.
TILE_WIDTH = 322
TILE_LENGTH = 323
# Orientation in EXIF -> what puts the image upright.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class EncodeOptions:
    """Choices of how images are stored.

    Attributes:
        quality: quality of JPEGs that are made, 1 to 100; chroma at half resolution (4:2:0), as
            FFCV's writer does.
        short_side: pixels the shorter side is scaled down to; None leaves it.
        max_side: pixels the longer side is scaled down to.
        resize: "area": by the area filter, as FFCV's writer does; None: bicubic, antialiased.
    """

    quality: int = 90
    short_side: int | None = None
    max_side: int | None = None
    resize: Resize | None = None

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return (width, height) to store: never larger, the aspect is kept."""
        scales = [self.short_side and self.short_side / min(width, height)]
        scales.append(self.max_side and self.max_side / max(width, height))
        scale = min(1.0, *(s for s in scales if s), 1.0)
        return max(1, round(width * scale)), max(1, round(height * scale))


class EncodeJob(NamedTuple):
    """An image to store: its file, the file's bytes, or its pixels [H, W, C]; as JPEG or raw."""

    image: str | bytes | np.ndarray
    jpeg: bool


class Sample(NamedTuple):
    """An image as it is stored."""

    mode: int
    width: int
    height: int
    data: bytes
    crc: int


class EncodeFailure(NamedTuple):
    """An image that cannot be stored.

    `fatal` means that the disk or network is at fault, not the image, which must not be skipped.
    """

    why: str
    fatal: bool


def encode(task: EncodeJob, options: EncodeOptions) -> Sample | EncodeFailure:
    """Make the sample; whatever is wrong with an image comes back as `EncodeFailure`."""
    try:
        # Pillow warns of metadata only; damaged pixels raise.
        with warnings.catch_warnings(action="ignore"):
            return _encode(task, options)
    except MemoryError:
        raise
    except Exception as e:  # noqa: BLE001 -- decoders raise struct.error, SyntaxError, ...
        return EncodeFailure(explain(e), is_fault_of_machine(e))


def is_fault_of_machine(error: Exception) -> bool:
    """Tell whether the system refused to read an image; a damaged image has no errno."""
    return isinstance(error, OSError) and error.errno is not None


def explain(error: Exception) -> str:
    """Tell what is wrong with an image that could not be read, in words for the user."""
    if isinstance(error, UnidentifiedImageError):  # its own message is the address of an object
        return f"it is no image ({', '.join(FORMATS)})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return one_line(error)


def read_bytes(path: str) -> bytes:
    """Read a file, or a member of an archive.

    Raises:
        ValueError: it is empty, too large, or no file (a pipe would be waited for without end).
    """
    member = member_of(path)
    if member and member.in_order:
        raise ValueError("its archive can only be read in order: write a .beton of it first")
    descriptor = os.open(member.archive if member else path, os.O_RDONLY | os.O_NONBLOCK)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise ValueError("it is no file")
    with open(descriptor, "rb") as file:
        size = member.size if member else status.st_size
        if size > MAX_BYTES:
            raise ValueError(f"its {size:,} bytes are more than {MAX_BYTES:,}")
        if member and member.archive.endswith(".zip"):
            data = read_zipped(file, member, MAX_BYTES)
            size = len(data)
        else:
            file.seek(member.start if member else 0)
            data = file.read(size)
    if not data:
        raise ValueError("it is empty")
    if len(data) < size:
        raise ValueError("it is cut off")
    return data


def marks(paths: Sequence[str]) -> np.ndarray:
    """Mark the content of each file by its size and time of change.

    Returns:
        uint64 [n]; 0 where there is no file.
    """
    found: dict[str, tuple[int, int]] = {}
    pairs = []
    for path in paths:
        member = member_of(path)
        file = member.archive if member else path
        if file not in found:
            try:
                status = os.stat(file)
                found[file] = (status.st_size, status.st_mtime_ns)
            except OSError:
                found[file] = (0, 0)
        pairs.append(found[file])
    sizes_times = np.array(pairs, np.int64).reshape(-1, 2)
    hashes = hash64(sizes_times[:, 0], sizes_times[:, 1])
    return np.where(sizes_times.any(axis=1), hashes, np.uint64(0))


def open_image(data: bytes) -> Image.Image:
    """Open the bytes of an image: the header is read, its limits are checked, no pixel is decoded.

    Raises:
        ValueError: it is beyond `limits`.
        UnidentifiedImageError: it is none of `FORMATS`.
    """
    if library() is None and count_scans(data) > MAX_SCANS:  # else `jpeg_problem` finds them
        raise ValueError(f"more than {MAX_SCANS} scans")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as e:
        raise ValueError(one_line(e)) from e
    tags = getattr(image, "tag_v2", {})
    tile = [tags.get(TILE_WIDTH, 1), tags.get(TILE_LENGTH, 1)]
    for width, height in (image.size, tile):  # a tile is decoded in full, however small the image
        if not isinstance(width, int) or not isinstance(height, int):
            raise ValueError("the size of its tiles is no number")
        if why := too_many_pixels(width, height, len(data)):
            raise ValueError(why)
    return image


def open_rgb(path: str, check: bool = True) -> Image.Image:
    """Decode an image file to 8 bit RGB, upright.

    16 bits are scaled to 8; transparency is dropped, as torchvision does.

    Args:
        path: path of the file, or of a member of an archive.
        check: look for damage that Pillow ignores.

    Raises:
        ValueError: it is beyond `limits`, or a damaged JPEG.
    """
    data = read_bytes(path)
    with warnings.catch_warnings(action="ignore"), open_image(data) as image:
        if check and (problem := jpeg_problem(data, *image.size)):
            raise ValueError(problem)
        return to_rgb(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a decoded image to 8 bit RGB, upright; see `open_rgb`."""
    image.load()
    turn = UPRIGHT.get(_orientation(image))
    if turn is not None:
        image = image.transpose(turn)
    if image.mode == "F" or image.mode.startswith("I"):
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    if image.mode == "P":  # directly to RGB Pillow warns of palettes with transparency
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def jpeg_problem(data: bytes, width: int, height: int) -> str:
    """Tell what is wrong with a JPEG; empty if nothing is, or the file is no JPEG.

    Raises:
        MemoryError: there is no memory to decode the image.
    """
    if data[:2] != b"\xff\xd8" or library() is None:  # without our kernel Pillow's errors must do
        return ""
    status = library().check_jpeg(data, len(data), height, width)
    if status == NO_MEMORY:
        raise MemoryError(PROBLEMS[status])
    return PROBLEMS[status] if status else ""


def _encode(task: EncodeJob, options: EncodeOptions) -> Sample:
    if isinstance(task.image, str | bytes):
        data = read_bytes(task.image) if isinstance(task.image, str) else task.image
        if not data:
            raise ValueError("it is empty")
        if len(data) > MAX_BYTES:
            raise ValueError(f"its {len(data):,} bytes are more than {MAX_BYTES:,}")
        with open_image(data) as image:
            if problem := jpeg_problem(data, *image.size):
                raise ValueError(problem)  # Pillow would give grey blocks, without an error
            if task.jpeg and _as_it_is(image, options):
                if library() is None:
                    image.load()
                return _sample(JPEG, *image.size, data)
            image = to_rgb(image)
    else:
        pixels = task.image
        image = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).convert(
            "RGB"
        )
    size = options.size(*image.size)
    if size != image.size and options.resize == "area":
        width, height = size
        image = Image.fromarray(area_filter.resize(np.asarray(image), height, width))
    elif size != image.size:
        image = image.resize(size, Image.Resampling.BICUBIC)  # Pillow's has antialiasing
    return _sample(JPEG if task.jpeg else RAW, *size, _bytes(image, task.jpeg, options.quality))


def _as_it_is(image: Image.Image, options: EncodeOptions) -> bool:
    """Tell whether a JPEG can be stored as it is.

    Grey ones can: every decoder to RGB gives three equal channels.
    """
    plain = image.format == "JPEG" and image.mode in ("RGB", "L") and _orientation(image) == 1
    return plain and options.size(*image.size) == image.size


def _bytes(image: Image.Image, jpeg: bool, quality: int) -> bytes:
    if not jpeg:
        return image.tobytes()
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return file.getvalue()


def _sample(mode: int, width: int, height: int, data: bytes) -> Sample:
    if max(width, height) > MAX_SIDE or len(data) > MAX_SAMPLE:
        raise ValueError(
            f"{width}x{height} pixels are more than the format holds; --max-side makes it smaller"
        )
    return Sample(mode, width, height, data, zlib.crc32(data))


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 -- damaged EXIF: the pixels are as good as without
        return 1
    return found if found in range(2, 9) else 1


def _eight_bits(x: np.ndarray) -> np.ndarray:
    """Scale 16 bits to 8.

    Pillow's own conversion clips at 255, which makes such images white.
    """
    if x.dtype.kind not in "iu" or x.min() < 0 or x.max() > 65535:
        raise ValueError(
            f"its pixels are {x.dtype} from {x.min():g} to {x.max():g}, not of 8 or 16 bits: "
            "convert it"
        )
    out = np.empty(x.shape, np.uint8)
    # Row by row: a temporary array of the entire image would take 12 bytes a pixel.
    for row, wide in zip(out, x, strict=True):
        row[:] = (wide.astype(np.uint32) + 128) // 257
    return out
