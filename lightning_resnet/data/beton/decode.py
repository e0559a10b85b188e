"""Batches of images from a .beton by the C kernel: read, check, decode, crop, resize, flip.

If the kernel (decode.c) could not be built (no compiler, no libjpeg-turbo headers),
`decode_fallback` does its work.
"""

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from lightning_resnet.data.beton import decode_fallback as fallback
from lightning_resnet.data.beton.format import JPEG, Beton

ITEM = np.dtype(
    [
        *((name, "<u8") for name in ("offset", "size")),
        *((name, "<f8") for name in ("top", "left", "height", "width")),
        *((name, "<u4") for name in ("rows", "cols", "jpeg", "flip", "crc", "check")),
    ]
)
PROBLEMS = (
    "ok",
    "damaged JPEG",
    "size differs from what the file says",
    "outside the file",
    "CRC differs",
    "no memory",
    "more pixels than its bytes can hold, more than 134 million, or more than 200 scans",
)


@cache
def library() -> ctypes.CDLL | None:
    """Return the compiled kernel; None if there is none, or one of an older version."""
    found = sorted(Path(__file__).parent.glob("_decode*.so"))
    if not found:
        return None
    lib = ctypes.CDLL(str(found[-1]))
    if not hasattr(lib, "check_jpeg"):
        return None
    pointer = ctypes.c_void_p
    lib.decode_batch.argtypes = [
        ctypes.c_int,
        pointer,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        pointer,
        pointer,
    ]
    lib.decode_batch.restype = None
    lib.check_jpeg.argtypes = [ctypes.c_char_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint32]
    return lib


def make_items(
    beton: Beton, positions: np.ndarray, boxes: np.ndarray, flips: np.ndarray
) -> np.ndarray:
    """Describe for `decode` what to make.

    Args:
        beton: the file.
        positions: positions of the samples in the file [B].
        boxes: (top, left, height, width) in pixels of the stored images [B, 4].
        flips: whether to mirror each image, bool [B].
    """
    images = beton.images[positions]
    items = np.zeros(len(positions), ITEM)
    items["offset"] = images["data_ptr"]
    items["size"] = beton.sizes(positions)
    items["top"], items["left"], items["height"], items["width"] = boxes.T
    items["rows"] = images["height"]
    items["cols"] = images["width"]
    items["jpeg"] = images["mode"] == JPEG
    items["flip"] = flips
    if beton.crcs is not None:
        items["crc"] = beton.crcs[positions]
        items["check"] = 1
    return items


def decode(beton: Beton, items: np.ndarray, out: np.ndarray, threads: int) -> np.ndarray:
    """Make a batch of images; the kernel holds no lock.

    Args:
        beton: the file.
        items: what to make, from `make_items` [B].
        out: uint8 [B, size, size, 3], contiguous; grey (127) where an image could not be made.
        threads: number of threads.

    Returns:
        Status of each, uint8 [B]: index into `PROBLEMS`.
    """
    assert out.flags.c_contiguous and out.shape[:1] == items.shape and out.shape[1] == out.shape[2]
    lib = library()
    status = np.empty(len(items), np.uint8)
    if lib is None:
        return fallback.decode_batch(beton.fd, items, out, threads)
    lib.decode_batch(
        beton.fd,
        items.ctypes.data,
        len(items),
        out.shape[1],
        threads,
        out.ctypes.data,
        status.ctypes.data,
    )
    return status


def describe(beton: Beton, positions: Sequence[int], status: np.ndarray) -> str:
    """Name the first few samples that are not ok, as in `sample 17 (position 3): damaged JPEG`."""
    bad = np.flatnonzero(status)
    text = [f"{beton.name(positions[i])}: {PROBLEMS[status[i]]}" for i in bad[:3]]
    return ", ".join(text) + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")
