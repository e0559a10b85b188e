"""Batches of pictures from a file, by the C kernel beside this file: read, check, decode, crop, resize, flip.

Where it could not be built (no compiler, no libjpeg-turbo headers) `fallback` does its work.
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
    """The compiled kernel; None where there is none, or one of an older version."""
    found = sorted(Path(__file__).parent.glob("_decode*.so"))
    if not found:
        return None
    lib = ctypes.CDLL(str(found[-1]))
    if not hasattr(lib, "check_jpeg"):
        return None
    pointer = ctypes.c_void_p
    lib.decode_batch.argtypes = [ctypes.c_int, pointer, ctypes.c_int, ctypes.c_int, ctypes.c_int, pointer, pointer]
    lib.decode_batch.restype = None
    lib.check_jpeg.argtypes = [ctypes.c_char_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint32]
    return lib


def make_items(beton: Beton, positions: np.ndarray, boxes: np.ndarray, flips: np.ndarray) -> np.ndarray:
    """What `decode` shall make.

    Args:
        beton: the file.
        positions: of the samples in it [B].
        boxes: (top, left, height, width) in pixels of the stored pictures [B, 4].
        flips: mirror? [B].
    """
    images = beton.images[positions]
    items = np.zeros(len(positions), ITEM)
    items["offset"], items["size"] = images["data_ptr"], beton.sizes(positions)
    items["top"], items["left"], items["height"], items["width"] = boxes.T
    items["rows"], items["cols"] = images["height"], images["width"]
    items["jpeg"], items["flip"] = images["mode"] == JPEG, flips
    if beton.crcs is not None:
        items["crc"], items["check"] = beton.crcs[positions], 1
    return items


def decode(beton: Beton, items: np.ndarray, out: np.ndarray, threads: int) -> np.ndarray:
    """Make pictures; holds no lock meanwhile.

    Args:
        beton: the file.
        items: from `make_items` [B].
        out: uint8 [B, size, size, 3], contiguous; grey (127) where a picture could not be made.
        threads: to share the work among.

    Returns:
        Status of each, uint8 [B]: index into `PROBLEMS`.
    """
    assert out.flags.c_contiguous and out.shape[:1] == items.shape and out.shape[1] == out.shape[2]
    lib, status = library(), np.empty(len(items), np.uint8)
    if lib is None:
        return fallback.decode_batch(beton.fd, items, out, threads)
    lib.decode_batch(
        beton.fd, items.ctypes.data, len(items), out.shape[1], threads, out.ctypes.data, status.ctypes.data
    )
    return status


def describe(beton: Beton, positions: Sequence[int], status: np.ndarray) -> str:
    """`sample 17 (position 3): damaged JPEG`, for the first few that are not ok."""
    bad = np.flatnonzero(status)
    text = [f"{beton.name(positions[i])}: {PROBLEMS[status[i]]}" for i in bad[:3]]
    return ", ".join(text) + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")
