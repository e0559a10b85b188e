"""Read one batch of a split that is kept in a .beton file."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lightning_resnet.data.augment.crops import Augment, draw, finish
from lightning_resnet.data.beton import decode as kernel
from lightning_resnet.data.images import Images
from lightning_resnet.data.loaders.base import Batch, OnBad
from lightning_resnet.errors import UserError
from lightning_resnet.machine import memory

LARGE_BATCH = 1 << 29  # bytes; below it memory is not asked for


IGNORED = -100  # label of a picture that could not be read: cross entropy's ignore_index


def read(
    images: Images,
    augment: Augment,
    seed: int,
    epoch: int,
    at: np.ndarray,
    threads: int = 1,
    on_bad: OnBad = "raise",
    empty: Callable[..., Tensor] | None = None,
) -> Batch:
    """One batch of a split in a .beton.

    Args:
        images: the split.
        augment: of the pictures.
        seed: of the run.
        epoch: 0-based.
        at: visits of the split [B], see `order`.
        threads: to decode on.
        on_bad: see `Loader`.
        empty: gives a uint8 tensor of a shape; default: a new one.

    Raises:
        UserError: the file changed, or pictures cannot be read and `on_bad` is raise.
    """
    file = images.file
    file.check_unchanged()
    repeat, at = np.divmod(at, len(images))
    positions = images.positions[at]
    stored = file.images[positions]
    boxes, flips, size = draw(augment, seed, epoch, images.ids[at], stored["height"], stored["width"], repeat)
    shape = (len(at), size, size, 3)
    _check_memory(shape)
    out = empty(*shape) if empty else torch.empty(shape, dtype=torch.uint8)
    status = kernel.decode(file, kernel.make_items(file, positions, boxes, flips), out.numpy(), threads)
    labels = torch.from_numpy(images.labels[at])
    if status.any():
        if on_bad == "raise":
            raise UserError(
                f"{file.path}: {kernel.describe(file, positions, status)}; `resnet-cli data verify` lists all, "
                "--data.on_bad count goes on without them"
            )
        labels[torch.from_numpy(status != 0)] = IGNORED
    pictures = out.permute(0, 3, 1, 2)
    finish(augment, pictures, seed, epoch, images.ids[at], repeat, threads)
    return pictures, labels


def _check_memory(shape: tuple[int, ...]) -> None:
    """Refuse images so large as they are stored that a batch of them takes the memory; a damaged file may say so."""
    needed = math.prod(shape)
    if needed > LARGE_BATCH and needed > memory() // 4:
        raise UserError(
            f"a batch of {shape[0]} images of {shape[1]}x{shape[2]} pixels takes {needed / 1e9:.1f} GB: set "
            "--data.size to the pixels per side, or lower --data.batch_size"
        )
