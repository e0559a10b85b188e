"""Images by the C kernel: read, check, decode, crop, resize, flip, change by a policy.

If the kernel (decode.c) could not be built (no compiler, no libjpeg-turbo headers),
`decode_fallback` does its work.
"""

import ctypes
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from lightning_resnet.data.augment.policies import Step
from lightning_resnet.data.beton import decode_fallback as fallback
from lightning_resnet.data.beton.format import JPEG, Beton
from lightning_resnet.errors import UserError, one_line

ITEM = np.dtype(
    [
        *((name, "<u8") for name in ("offset", "size")),
        *((name, "<f8") for name in ("top", "left", "height", "width")),
        *((name, "<u4") for name in ("rows", "cols", "jpeg", "flip", "crc", "check")),
    ]
)
# Names of the kernel's operations, in its order; what `image_ops.apply` calls Rotate, ShearX, ...
# is Affine.
OPERATIONS = (
    "Affine",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "SolarizeAdd",
    "AutoContrast",
    "Equalize",
    "Invert",
    "Shift",
    "Erase",
)
VALUES = 7  # numbers of an operation
BLACK = (0, 0, 0)
Choices = Sequence[Sequence[Step]]  # operations of each image, in order
PROBLEMS = (
    "ok",
    "damaged JPEG",
    "size differs from what the file says",
    "outside the file",
    "CRC differs",
    "no memory",
    "more pixels than its bytes can hold, more than 134 million, or more than 200 scans",
    "disk or network gives an error",
)
# Statuses that say nothing of the image: the machine is at fault.
NO_MEMORY = PROBLEMS.index("no memory")
NOT_READ = PROBLEMS.index("disk or network gives an error")


def library() -> ctypes.CDLL | None:
    """Return the compiled kernel; None if there is none that can be used."""
    return _load()[0]


def why_not() -> str:
    """Tell why the system cannot load the kernel that was built; empty if nothing hinders it."""
    return _load()[1]


@cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    """Return the compiled kernel, or None and what the system says.

    Without words of the system, there is none or one of an older version.
    """
    found = list(Path(__file__).parent.glob("_decode*.so"))
    if not found:
        return None, ""
    newest = max(found, key=lambda path: path.stat().st_mtime_ns)
    try:
        lib = ctypes.CDLL(str(newest))
    except OSError as e:  # such as a libjpeg-turbo that this machine has not
        return None, one_line(e)
    if not hasattr(lib, "make_batch") or lib.operation_count() != len(OPERATIONS):
        return None, ""
    number = ctypes.c_int
    pointer = ctypes.c_void_p
    steps = [pointer, pointer]
    images = [number, pointer, pointer]
    colours = [number, ctypes.c_char_p]
    lib.make_batch.argtypes = [number, pointer, *steps, number, number, number, *colours]
    lib.make_batch.argtypes += [pointer, pointer]
    lib.make_batch.restype = None
    lib.change_batch.argtypes = [*steps, number, number, number, *images]
    lib.change_batch.restype = None
    lib.check_jpeg.argtypes = [ctypes.c_char_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint32]
    return lib, ""


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


def decode(
    beton: Beton,
    items: np.ndarray,
    out: np.ndarray,
    threads: int,
    choices: Choices | None = None,
    area: bool = False,
    fill: Sequence[int] = BLACK,
) -> np.ndarray:
    """Make a batch of images; the kernel holds no lock.

    Args:
        beton: the file.
        items: what to make, from `make_items` [B].
        out: uint8 [B, size, size, 3], contiguous; grey (127) where an image could not be made.
        threads: number of threads; they are kept for the next batch, and end 5 s after the last.
        choices: operations that change the images afterwards, see `change`; None for none.
        area: resize by the area filter instead of the triangle.
        fill: colour of what of a box lies outside the image, three levels.

    Returns:
        Status of each, uint8 [B]: index into `PROBLEMS`.
    """
    assert out.flags.c_contiguous and out.shape[:1] == items.shape and out.shape[1] == out.shape[2]
    lib = library()
    if lib is None:
        return fallback.decode_batch(beton.fd, items, out, threads, choices, area, fill)
    status = np.empty(len(items), np.uint8)
    steps, ends = _encode(choices, *out.shape[1:3])
    lib.make_batch(
        beton.fd,
        items.ctypes.data,
        steps.ctypes.data,
        ends.ctypes.data if choices else None,
        len(items),
        out.shape[1],
        threads,
        area,
        bytes(fill),
        out.ctypes.data,
        status.ctypes.data,
    )
    return status


def change(out: np.ndarray, choices: Choices, threads: int = 1) -> None:
    """Change a batch of images in place; the kernel holds no lock.

    The pixels are bitwise those of `image_ops.apply`, with two exceptions, each of one level at
    most. Rotate, ShearX, ShearY, TranslateX and TranslateY: coordinates have 32 and weights 14 bits
    after the point, where torchvision's are float32 and their last bits depend on the machine; on
    noise 0.1 % of the values differ. Contrast of more than 65,536 pixels: the sum of the grey
    values is exact, where torchvision's is float32.

    Args:
        out: uint8 [B, H, W, 3], contiguous.
        choices: name and magnitude of the operations of each image, see `image_ops.apply` [B].
        threads: number of threads.

    Raises:
        UserError: an operation does not exist.
        MemoryError: there is no memory for a copy of an image.
    """
    assert out.flags.c_contiguous and out.shape[3] == 3 and len(out) == len(choices)
    steps, ends = _encode(choices, *out.shape[1:3])
    lib = library()
    if lib is None:
        fallback.change_batch(out, choices, threads)
        return
    status = np.empty(len(out), np.uint8)
    lib.change_batch(
        steps.ctypes.data,
        ends.ctypes.data,
        *out.shape[:3],
        threads,
        out.ctypes.data,
        status.ctypes.data,
    )
    if status.any():
        raise MemoryError("no memory to change images")


def _encode(choices: Choices | None, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the operations as the kernel reads them.

    Returns:
        Number of the operation and its values, float64 [n, 1 + VALUES], and the end of each image's
        operations among these, uint32 [B].
    """
    rows: list[tuple[float, ...]] = []
    ends = []
    for steps in choices or ():
        for name, magnitude in steps:
            if name != "Identity":
                rows.append(_row(name, magnitude, height, width))
        ends.append(len(rows))
    return np.array(rows, np.float64).reshape(-1, 1 + VALUES), np.array(ends, np.uint32)


def _row(
    name: str, magnitude: float | tuple[float, ...], height: int, width: int
) -> tuple[float, ...]:
    """Return the number and the values of one operation."""
    if name in AFFINE:
        values = AFFINE[name](magnitude, height, width)
        name = "Affine"
    elif isinstance(magnitude, tuple):
        values = magnitude
    else:
        values = (magnitude,)
    if name not in OPERATIONS:
        raise UserError(
            f"there is no operation {name}: a policy chooses from Identity, {', '.join(AFFINE)}, "
            f"{', '.join(OPERATIONS[1:])}"
        )
    return (OPERATIONS.index(name), *values, *[0.0] * (VALUES - len(values)))


# The functions below return where pixel (x, y) comes from: (a x + b y + c, d x + e y + f). Pixels
# are 1 apart, the first one's centre is 0.
def _rotate(degrees: float, height: int, width: int) -> tuple[float, ...]:
    angle = math.radians(degrees % 360)
    cos = math.cos(angle)
    sin = math.sin(angle)
    x = (width - 1) / 2
    y = (height - 1) / 2
    return cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y


def _shear_x(tangent: float, height: int, width: int) -> tuple[float, ...]:
    # The corner stays, half a pixel before the first one's centre.
    return 1.0, tangent, tangent / 2, 0.0, 1.0, 0.0


def _shear_y(tangent: float, height: int, width: int) -> tuple[float, ...]:
    return 1.0, 0.0, 0.0, tangent, 1.0, tangent / 2


def _translate_x(pixels: float, height: int, width: int) -> tuple[float, ...]:
    return 1.0, 0.0, -pixels, 0.0, 1.0, 0.0


def _translate_y(pixels: float, height: int, width: int) -> tuple[float, ...]:
    return 1.0, 0.0, 0.0, 0.0, 1.0, -pixels


AFFINE = {
    "Rotate": _rotate,
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateX": _translate_x,
    "TranslateY": _translate_y,
}


def describe(beton: Beton, positions: Sequence[int], status: np.ndarray) -> str:
    """Name the first few samples that are not ok, as in `sample 17 (position 3): damaged JPEG`."""
    bad = np.flatnonzero(status)
    text = [f"{beton.name(positions[i])}: {PROBLEMS[status[i]]}" for i in bad[:3]]
    return ", ".join(text) + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")
