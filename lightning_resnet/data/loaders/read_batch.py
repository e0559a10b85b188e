"""Read one batch of a split, from whatever storage it is kept in: one function for each."""

import math
from collections.abc import Callable
from functools import singledispatch

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from lightning_resnet.data import draws
from lightning_resnet.data.augment.crops import Augment, draw, operations
from lightning_resnet.data.beton import area_filter
from lightning_resnet.data.beton import decode as kernel
from lightning_resnet.data.beton.encode import explain, is_fault_of_machine, open_rgb
from lightning_resnet.data.beton.format import Beton
from lightning_resnet.data.images import ArrayImages, BetonImages, FileImages, Images
from lightning_resnet.data.loaders.base import Batch, OnBad
from lightning_resnet.errors import UserError
from lightning_resnet.machine import memory

LARGE_BATCH = 1 << 29  # bytes; the memory is looked at only for larger batches
IGNORED = -100  # label of an image that could not be read: cross entropy's ignore_index
# Cure for what `on_bad` does not count.
REPAIR = (
    "correct that and give the same command again; --data.on_bad count leaves out damaged images "
    "only"
)
GREY = 127  # level of all pixels of an image that could not be read


@singledispatch
def read(
    images: Images, augment: Augment, seed: int, epoch: int, at: np.ndarray, on_bad: OnBad = "raise"
) -> Batch:
    """Read a batch of a split; each storage has a function of its own.

    Args:
        images: the split.
        augment: what happens to the images.
        seed: seed of the run.
        epoch: 0-based.
        at: indices into the split [B], see `order`.
        on_bad: see `Loader`.

    Returns:
        Images, uint8 [B, 3, H, W] channels_last, and labels, int64 [B].

    Raises:
        UserError: an image cannot be read and `on_bad` is raise, or the images have no common size.
    """
    raise TypeError(f"no loader reads {type(images).__name__}")


@read.register
def read_array(
    images: ArrayImages,
    augment: Augment,
    seed: int,
    epoch: int,
    at: np.ndarray,
    on_bad: OnBad = "raise",
) -> Batch:
    """Read images in memory: all at once at their own size, else one by one through Pillow."""
    repeat, at = np.divmod(at, len(images))
    ids = images.ids[at]
    if augment.size is None and augment.crop in ("none", "pad"):
        pixels = _gather(images.pixels[at], augment, seed, epoch, ids, repeat)
    else:
        shape = (*images.shape, 3)
        opened = [Image.fromarray(np.broadcast_to(images.pixels[i], shape)) for i in at]
        pixels = _cut(opened, augment, seed, epoch, ids, repeat)
    choices = operations(augment, seed, epoch, ids, *pixels.shape[1:3], repeat)
    if choices:
        kernel.change(pixels, choices)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.from_numpy(images.labels[at])


@read.register
def read_files(
    images: FileImages,
    augment: Augment,
    seed: int,
    epoch: int,
    at: np.ndarray,
    on_bad: OnBad = "raise",
) -> Batch:
    """Read image files one by one through Pillow, scaled as `augment` says."""
    repeat, at = np.divmod(at, len(images))
    ids = images.ids[at]
    opened = [_open(images, i, on_bad) for i in at]
    is_bad = np.array([image is None for image in opened])
    if is_bad.any():
        grey = Image.new("RGB", _usual_size(images, opened), (GREY,) * 3)
        usable = [grey if image is None else image for image in opened]
    else:
        usable = opened
    pixels = _cut(usable, augment, seed, epoch, ids, repeat)
    pixels[is_bad] = GREY  # what a crop adds, too
    labels = torch.from_numpy(images.labels[at])
    labels[torch.from_numpy(is_bad)] = IGNORED
    choices = operations(augment, seed, epoch, ids, *pixels.shape[1:3], repeat)
    if choices:
        pairs = zip(choices, opened, strict=True)
        kernel.change(pixels, [() if image is None else steps for steps, image in pairs])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2), labels


@read.register
def read_beton(
    images: BetonImages,
    augment: Augment,
    seed: int,
    epoch: int,
    at: np.ndarray,
    on_bad: OnBad = "raise",
    threads: int = 1,
    empty: Callable[..., Tensor] = torch.empty,
) -> Batch:
    """Read images of a .beton file by the C kernel.

    Args:
        images: the split.
        augment: what happens to the images.
        seed: seed of the run.
        epoch: 0-based.
        at: indices into the split [B], see `order`.
        on_bad: see `Loader`.
        threads: number of threads that decode.
        empty: shape, dtype=torch.uint8 -> memory for the batch.

    Raises:
        UserError: the file changed, or images cannot be read and `on_bad` is raise.
    """
    file = images.file
    file.check_unchanged()
    repeat, at = np.divmod(at, len(images))
    ids = images.ids[at]
    positions = images.positions[at]
    stored = file.images[positions]
    boxes, flips, size = draw(augment, seed, epoch, ids, stored["height"], stored["width"], repeat)
    shape = (len(at), size, size, 3)
    _check_memory(shape)
    out = empty(shape, dtype=torch.uint8)
    items = kernel.make_items(file, positions, boxes, flips)
    choices = operations(augment, seed, epoch, ids, size, size, repeat)
    area = augment.resize == "area"
    status = kernel.decode(file, items, out.numpy(), threads, choices, area, augment.fill)
    labels = torch.from_numpy(images.labels[at])
    if status.any():
        _check_machine(file, status)
        if on_bad == "raise":
            raise UserError(
                f"{file.path}: {kernel.describe(file, positions, status)}; `resnet-cli data "
                "verify` lists all, --data.on_bad count goes on without them"
            )
        labels[torch.from_numpy(status != 0)] = IGNORED
    return out.permute(0, 3, 1, 2), labels


def _usual_size(images: FileImages, opened: list[Image.Image | None]) -> tuple[int, int]:
    """Return the (width, height) that an image in place of one that cannot be read must have.

    Where the images are to have one size, such an image must have that size, too.
    """
    for image in opened:
        if image is not None:
            return image.size
    return images.shape or (1, 1)  # squares, where there is a shape


def _check_machine(file: Beton, status: np.ndarray) -> None:
    """Refuse to go on where the machine is at fault, and not the image."""
    failed = np.count_nonzero(status == kernel.NOT_READ)
    if failed:  # the names of the samples could not be read either
        problem = kernel.PROBLEMS[kernel.NOT_READ]
        raise UserError(f"{file.path}: {problem} for {failed} images of a batch; {REPAIR}")
    if (status == kernel.NO_MEMORY).any():
        raise UserError(
            f"no memory to decode images of {file.path}: lower --data.batch_size, or --data.workers"
        )


def _check_memory(shape: tuple[int, ...]) -> None:
    """Refuse a batch of images so large that it takes the memory; a damaged file may claim such."""
    needed = math.prod(shape)
    if needed > LARGE_BATCH and needed > memory() // 4:
        raise UserError(
            f"a batch of {shape[0]} images of {shape[1]}x{shape[2]} pixels takes "
            f"{needed / 1e9:.1f} GB: set --data.size to the pixels per side, or lower "
            "--data.batch_size"
        )


def _gather(
    x: np.ndarray, a: Augment, seed: int, epoch: int, ids: np.ndarray, repeat: np.ndarray
) -> np.ndarray:
    """Pad, crop and flip a batch [B, H, W, C] by indexing, all images at once; C becomes 3."""
    b, h, w, _ = x.shape
    rows = np.arange(h)[None]
    cols = np.arange(w)[None]
    if a.crop == "pad":
        x = pad(x, a.pad, a.fill)
        corners = draws.pad_crops(seed, epoch, ids, a.pad, repeat)
        rows = rows + corners[:, :1]
        cols = cols + corners[:, 1:]
    if a.flip:
        flips = draws.flips(seed, epoch, ids, repeat)
        cols = np.where(flips[:, None], cols[:, ::-1], cols)
    x = x[np.arange(b)[:, None, None], rows[:, :, None], cols[:, None, :]]
    return np.broadcast_to(x, (b, h, w, 3)).copy() if x.shape[3] == 1 else x


def pad(x: np.ndarray, width: int, fill: tuple[int, ...]) -> np.ndarray:
    """Pad images [B, H, W, C] by `width` pixels of a colour; C becomes 3 if it is not grey."""
    b, h, w, c = x.shape
    colour = fill[:1] if c == 1 and len({*fill}) == 1 else fill
    padded = np.empty((b, h + 2 * width, w + 2 * width, len(colour)), np.uint8)
    padded[:] = colour
    padded[:, width : width + h, width : width + w] = x
    return padded


def _cut(
    images: list[Image.Image],
    augment: Augment,
    seed: int,
    epoch: int,
    ids: np.ndarray,
    repeat: np.ndarray,
) -> np.ndarray:
    """Crop, resize and flip images one by one; uint8 [B, S, S, 3]."""
    heights = [image.height for image in images]
    widths = [image.width for image in images]
    boxes, flips, size = draw(augment, seed, epoch, ids, heights, widths, repeat)
    made = []
    for image, box, flip in zip(images, boxes.astype(int).tolist(), flips, strict=True):
        top, left, h, w = box
        if augment.crop == "pad":  # the box may reach out of the image
            image = ImageOps.expand(image, augment.pad, augment.fill)
            top += augment.pad
            left += augment.pad
        crop = image.crop((left, top, left + w, top + h))
        if augment.resize == "area":
            x = area_filter.resize(np.asarray(crop), size, size)
        else:
            x = np.asarray(crop.resize((size, size), Image.Resampling.BILINEAR))
        made.append(x[:, ::-1] if flip else x)
    return np.stack(made)


def _open(images: FileImages, i: int, on_bad: OnBad) -> Image.Image | None:
    """Read an image file; None where it cannot be read and is only counted."""
    path = images.paths[i]
    try:
        image = open_rgb(path, check=not images.checked[i])
    except MemoryError as e:
        raise UserError(f"no memory for image {path}: leave it out, or lower --data.workers") from e
    except Exception as e:  # noqa: BLE001 -- decoders meet damage in many ways: struct.error, ...
        if is_fault_of_machine(e):
            raise UserError(
                f"cannot read image {path} (sample {images.ids[i]}): {explain(e)}; {REPAIR}"
            ) from e
        if on_bad == "count":
            return None
        raise UserError(
            f"cannot read image {path} (sample {images.ids[i]}): {explain(e)}; repair or remove "
            "the file, or go on without such images: --data.on_bad count"
        ) from e
    images.checked[i] = True
    return image
