"""Pictures of a .beton without the compiled kernel: JPEGs by FFCV's decoder where it is installed, else by Pillow.

The same boxes and flips. Pixels differ by rounding where nothing is decoded, and on photos by less than 2 of 255 on
average: the kernel scales large crops down in the DCT domain, and FFCV's decoder uses a faster, coarser transform.
"""

import io
import os
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial

import numpy as np
from PIL import Image

BAD_JPEG, BAD_SIZE, BAD_RANGE, BAD_CRC = 1, 2, 3, 4  # as decode.c numbers them


@cache
def ffcv_decoder() -> Callable[..., int] | None:
    """FFCV's `imdecode`, or None."""
    try:
        from ffcv.libffcv import imdecode
    except (ImportError, OSError):
        return None
    return imdecode


def decode(fd: int, items: np.ndarray, out: np.ndarray, threads: int) -> np.ndarray:
    """See `kernel.decode`."""
    make = partial(_make, fd)
    statuses = _pool(threads).map(make, items, out) if threads > 1 else map(make, items, out)
    return np.fromiter(statuses, np.uint8, len(items))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Kept: FFCV's decoder leaves memory behind in each thread that ends."""
    return ThreadPoolExecutor(threads, "decode")


def _make(fd: int, item: np.void, out: np.ndarray) -> int:
    out[:] = 127
    size, rows, cols = int(item["size"]), int(item["rows"]), int(item["cols"])
    try:
        data = os.pread(fd, size, int(item["offset"])) if 0 < size <= 2**31 else b""
    except (OSError, OverflowError):  # an offset that no file has
        data = b""
    if len(data) != size or not size:
        return BAD_RANGE
    if item["check"] and zlib.crc32(data) != item["crc"]:
        return BAD_CRC
    top, left, height, width = (int(item[k]) for k in ("top", "left", "height", "width"))
    inside = 0 <= top and 0 <= left and top + height <= rows and left + width <= cols
    whole = (height, width) == out.shape[:2]  # a crop without resize may reach out of the picture
    if min(rows, cols, height, width) < 1 or not (inside or whole) or not item["jpeg"] and size < rows * cols * 3:
        return BAD_SIZE
    try:
        picture = _jpeg(data, rows, cols, bool(item["check"])) if item["jpeg"] else _raw(data, rows, cols)
    except Exception:  # noqa: BLE001 -- decoders meet damage in many ways
        return BAD_JPEG
    if picture is None:
        return BAD_SIZE
    box = picture.crop((left, top, left + width, top + height))  # 0 outside the picture
    pixels = np.asarray(box if whole else box.resize(out.shape[1::-1], Image.Resampling.BILINEAR))
    out[:] = pixels[:, ::-1] if item["flip"] else pixels
    return 0


def _raw(data: bytes, rows: int, cols: int) -> Image.Image:
    return Image.frombuffer("RGB", (cols, rows), data[: rows * cols * 3], "raw", "RGB", 0, 1)


def _jpeg(data: bytes, rows: int, cols: int, checked: bool) -> Image.Image | None:
    """None where it is of another size."""
    with Image.open(io.BytesIO(data)) as picture:
        if picture.size != (cols, rows):
            return None
        if imdecode := ffcv_decoder():
            pixels = np.empty((rows, cols, 3), np.uint8)
            if imdecode(np.frombuffer(data, np.uint8), pixels, rows, cols, rows, cols, 0, 0, 1, 1, False, False) == 0:
                return Image.fromarray(pixels)
            if not checked:  # it tells warnings from failures no more than Pillow does: take it for damage
                raise ValueError("damaged")
        return picture.convert("RGB")
