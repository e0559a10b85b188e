"""Images without the C kernel: slower, nearly the same pixels.

Boxes and flips are the same. FFCV decodes if it is installed (its fast DCT is a few levels off),
else Pillow (which notices less damage without a manifest). Pillow resizes, by the kernel's
definition but without the kernel's scaling in the DCT domain. Torchvision does the operations of
policies.
"""

import io
import os
import re
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import ModuleType

import numpy as np
import torch
from PIL import Image

from lightning_resnet.data.augment import image_ops
from lightning_resnet.data.augment.policies import Step
from lightning_resnet.data.beton import area_filter
from lightning_resnet.data.beton.limits import MAX_SCANS, too_many_pixels

# A marker of a JPEG: no filling, and none that pixels may hold.
MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])", re.DOTALL)
# The kernel's numbers, see `decode.PROBLEMS`.
DAMAGED = 1
BAD_SIZE = 2
BAD_RANGE = 3
BAD_CRC = 4
NO_MEMORY = 5
TOO_MUCH = 6
NOT_READ = 7


@cache
def ffcv() -> ModuleType | None:
    """Return FFCV's library; None if it is not installed."""
    try:
        import ffcv.libffcv
    except (ImportError, OSError):
        return None
    return ffcv.libffcv


def notice(why: str) -> str:
    """Return what to tell the user; `why` is what the system says, see `decode.why_not`."""
    taken = "FFCV" if ffcv() else "Pillow"
    problem = f"cannot be loaded ({why})" if why else "was not built (or before an update)"
    return (
        f"warning: our decoder {problem}, {taken}'s is used, which "
        "is slower: install a C compiler, libjpeg-dev and zlib1g-dev, then run `pip install "
        "--no-deps -e .`"
    )


def decode_batch(
    fd: int,
    items: np.ndarray,
    out: np.ndarray,
    threads: int,
    choices: Sequence[Sequence[Step]] | None = None,
    area: bool = False,
    fill: Sequence[int] = (0, 0, 0),
) -> np.ndarray:
    """Make a batch of images as `decode.decode` does."""
    made = _pool(threads).map(lambda item, o: _make(fd, item, o, area, fill), items, out)
    status = np.fromiter(made, np.uint8, len(items))
    if choices:
        pairs = zip(choices, status, strict=True)
        change_batch(out, [() if bad else steps for steps, bad in pairs], threads)
    return status


def change_batch(out: np.ndarray, choices: Sequence[Sequence[Step]], threads: int) -> None:
    """Change a batch of images as `decode.change` does."""
    images = torch.from_numpy(out).permute(0, 3, 1, 2)
    how = map if threads < 2 else _pool(threads).map
    list(how(_change, images, choices))


def _change(image: torch.Tensor, steps: Sequence[Step]) -> None:
    """Change an image in place."""
    for name, magnitude in steps:
        image[:] = image_ops.apply(image, name, magnitude)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Return the process's one pool: FFCV's decoder keeps memory for each thread that used it."""
    return ThreadPoolExecutor(threads, thread_name_prefix="fallback")


# A process that was forked has none of the pool's threads.
os.register_at_fork(after_in_child=_pool.cache_clear)


def _make(fd: int, item: np.void, out: np.ndarray, area: bool, fill: Sequence[int]) -> int:
    """Make one image, [size, size, 3], and return its status."""
    size = int(item["size"])
    offset = int(item["offset"])
    status = BAD_RANGE
    data = b""
    if 0 < size < 1 << 31 and offset + size < 1 << 63:
        try:
            data = os.pread(fd, size, offset)
        except OSError:
            status = NOT_READ
    if len(data) == size > 0:
        try:
            intact = bool(item["check"]) and zlib.crc32(data) == item["crc"]
            if item["check"] and not intact:
                status = BAD_CRC
            elif item["jpeg"] and _is_too_much(data, item):
                status = TOO_MUCH
            else:
                status = _fill(_pixels(data, item, intact), item, out, area, fill)
        except MemoryError:
            status = NO_MEMORY
        except ValueError:
            status = BAD_SIZE
        except Exception:  # noqa: BLE001 -- decoders meet damage in many ways
            status = DAMAGED
    if status:
        out[:] = 127
    return status


def _is_too_much(data: bytes, item: np.void) -> bool:
    """Tell whether an image is beyond what `limits` allow."""
    pixels = too_many_pixels(int(item["cols"]), int(item["rows"]), len(data))
    return bool(pixels) or count_scans(data) > MAX_SCANS


def count_scans(data: bytes) -> int:
    """Count how often a JPEG goes over its pixels; 0 for other files."""
    scans = 0
    at = 0 if data[:2] == b"\xff\xd8" else len(data)
    while (found := MARKER.search(data, at)) and found[1] != b"\xd9":
        at = found.end()
        if found[1] != b"\xd8":
            at += int.from_bytes(data[at : at + 2], "big")  # length of the segment
        scans += found[1] == b"\xda"
    return scans


def _pixels(data: bytes, item: np.void, intact: bool) -> np.ndarray:
    """Decode the pixels of an image, [rows, cols, 3]."""
    rows = int(item["rows"])
    cols = int(item["cols"])
    if not item["jpeg"]:
        return np.frombuffer(data, np.uint8, rows * cols * 3).reshape(rows, cols, 3)
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        if image.size != (cols, rows):
            raise ValueError
        full = np.empty((rows, cols, 3), np.uint8)
        if ffcv() and not ffcv().imdecode(
            np.frombuffer(data, np.uint8), full, rows, cols, rows, cols
        ):
            return full
        if ffcv() and not intact:
            # FFCV warns of any oddity; intact bytes were checked when they were written.
            raise OSError
        return np.asarray(image.convert("RGB"))


def _fill(x: np.ndarray, item: np.void, out: np.ndarray, area: bool, fill: Sequence[int]) -> int:
    """Crop, resize and flip an image into `out`."""
    box = [float(item[k]) for k in ("top", "left", "height", "width")]
    if not all(v.is_integer() for v in box) or min(box[2:]) < 1:
        return BAD_SIZE
    top, left, height, width = map(int, box)
    y0, y1 = np.clip((top, top + height), 0, len(x))
    x0, x1 = np.clip((left, left + width), 0, x.shape[1])
    part = x[y0:y1, x0:x1]
    if out.shape[:2] == (height, width):  # the box may reach out of the image
        out[:] = fill
        out[y0 - top : y1 - top, x0 - left : x1 - left] = part
    elif part.shape[:2] != (height, width):
        return BAD_SIZE
    elif area:
        out[:] = area_filter.resize(part, *out.shape[:2])
    else:
        out[:] = Image.fromarray(part).resize(out.shape[1::-1], Image.Resampling.BILINEAR)
    if item["flip"]:
        out[:] = out[:, ::-1].copy()
    return 0
