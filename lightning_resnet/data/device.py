"""The loader of small data: the whole split lies on the device, and a batch is one gather there.

Nothing is decoded, collated or copied in a step. Order and draws are those of the other loaders, made for an epoch at
once; batches are bitwise the same on the CPU.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_resnet.data import draws
from lightning_resnet.data.augment import Augment
from lightning_resnet.data.ffcv import read
from lightning_resnet.data.loader import Batch, Loader
from lightning_resnet.data.machine import memory
from lightning_resnet.data.sources import Images
from lightning_resnet.errors import UserError

SHARE = 0.25  # of the device's free memory that pictures may take up: the net needs the rest
CHUNK = 1024  # pictures of a .beton read at a time


class DeviceLoader(Loader):
    """See `Loader`.

    Args:
        device: where the pictures lie and the batches are made.
    """

    def __init__(self, *args: Any, device: torch.device, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.device = device
        self._pixels: Tensor | None = None  # [n, H, W, C], padded by `pad` on each side; from the first pass on

    def _pass(self, epoch: int, plan: Iterator[np.ndarray]) -> Iterator[Batch]:
        batches, a = list(plan), self.augment(epoch)
        if not batches:
            return
        if self._pixels is None:
            self._load(a)
        repeat, at = np.divmod(np.concatenate(batches), len(self.images))
        ids = self.images.ids[at]
        corners = draws.pad_crops(self.seed, epoch, ids, a.pad, repeat) if self._pad else np.zeros((len(at), 2), int)
        window = _windows(self._pixels, self._pad)
        where = torch.from_numpy(np.column_stack([at, corners])).to(self.device)
        flips = torch.from_numpy(draws.flips(self.seed, epoch, ids, repeat)).to(self.device) if a.flip else None
        start = 0
        for batch in batches:
            part = slice(start, start + len(batch))
            start += len(batch)
            i, top, left = where[part].unbind(1)
            x = window[i, top, left] if self._pad else self._pixels[i]
            if flips is not None:
                x = torch.where(flips[part, None, None, None], x.flip(2), x)
            x = x.expand(-1, -1, -1, 3).contiguous() if x.shape[3] == 1 else x
            yield x.permute(0, 3, 1, 2), self._labels[i]

    def _load(self, augment: Augment) -> None:
        self._pad = augment.pad if augment.crop == "pad" else 0
        pixels = self.images.pixels if self.images.file is None else _read(self.images)
        pixels = torch.tensor(pixels, device=self.device)
        self._pixels = F.pad(pixels, (0, 0, *[self._pad] * 4)) if self._pad else pixels
        self._labels = torch.tensor(self.images.labels, device=self.device)


def suits(images: Images, augment: Augment) -> bool:
    """Whether the pictures have one size, which nothing changes, and are only shifted and mirrored."""
    in_memory = images.pixels is not None
    plain = augment.size is None and augment.crop != "resized" and augment.policy is None and not augment.erase
    return (in_memory or images.file is not None) and plain


def fits(images: Images, device: torch.device, pad: int) -> bool:
    """Whether pictures in memory are small beside the device's memory."""
    if images.pixels is None:
        return False
    n, h, w, c = images.pixels.shape
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else memory()
    return n * (h + 2 * pad) * (w + 2 * pad) * c < SHARE * free


def make(images: Images, augment: Callable[[int], Augment], *args: Any, device: torch.device) -> DeviceLoader:
    """The loader that was asked for by name.

    Raises:
        UserError: the pictures have to be resized, or are files.
    """
    if not suits(images, augment(0)):
        raise UserError(
            "--data.loader device is for pictures of one size in memory or in a .beton, without size, policy, erase "
            "and crop `resized`: use --data.loader auto"
        )
    return DeviceLoader(images, augment, *args, device=device)


def _windows(pixels: Tensor, pad: int) -> Tensor:
    """Every crop of every padded picture [n, 2 pad + 1, 2 pad + 1, H, W, C], without a copy."""
    n, h, w, c = pixels.shape
    a, b, d, e = pixels.stride()
    shifts = 2 * pad + 1
    return pixels.as_strided((n, shifts, shifts, h - 2 * pad, w - 2 * pad, c), (a, b, d, b, d, e))


def _read(images: Images) -> np.ndarray:
    """The pictures of a split in a .beton, uint8 [n, H, W, 3]."""
    parts = [np.arange(i, min(i + CHUNK, len(images))) for i in range(0, len(images), CHUNK)]
    return np.concatenate([read(images, Augment(), 0, 0, at)[0].permute(0, 2, 3, 1).numpy() for at in parts])
