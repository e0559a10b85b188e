"""The loader of small data: the whole split lies on the device, and a batch is one gather there.

Nothing is decoded, collated or copied in a step. Order and draws are those of the other loaders, made for an epoch at
once; batches are bitwise the same on the CPU.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from lightning_resnet.data import draws
from lightning_resnet.data.augment.crops import Augment
from lightning_resnet.data.images import Images
from lightning_resnet.data.loaders.base import Batch, Loader
from lightning_resnet.data.loaders.read_batch import read
from lightning_resnet.errors import UserError
from lightning_resnet.machine import memory

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
        self._windows: Any = None  # every crop of every picture, from the first pass on

    def _read(self, epoch: int, plan: Iterator[np.ndarray]) -> Iterator[Batch]:
        batches, a = list(plan), self.augment(epoch)
        if not batches:
            return
        if self._windows is None:
            self._load(a)
        repeat, at = np.divmod(np.concatenate(batches), len(self.images))
        ids, where = self.images.ids[at], np.zeros((3, len(at)), np.int64)
        if a.crop == "pad":
            where[1:] = draws.pad_crops(self.seed, epoch, ids, a.pad, repeat).T
        if a.flip:  # a mirrored picture's crop is the crop of the mirrored picture from the other side
            flips = draws.flips(self.seed, epoch, ids, repeat)
            where[2] = np.where(flips, self._windows.shape[2] - 1 - where[2], where[2])
            where[0] = flips * len(self.images)
        where[0] += at
        where = where if isinstance(self._windows, np.ndarray) else torch.from_numpy(where).to(self.device)
        labels, ends = self._labels[torch.from_numpy(at).to(self.device)], np.cumsum([len(b) for b in batches])
        for batch, end in zip(batches, ends.tolist(), strict=True):
            part = slice(end - len(batch), end)
            x = torch.as_tensor(self._windows[where[0, part], where[1, part], where[2, part]])
            yield x.view(*x.shape[:2], -1, 3).permute(0, 3, 1, 2), labels[part]

    def _load(self, augment: Augment) -> None:
        pixels = self.images.pixels if self.images.file is None else _read(self.images)
        pad, (n, h, w, _) = augment.pad if augment.crop == "pad" else 0, pixels.shape
        inside = slice(pad, pad + h), slice(pad, pad + w)
        padded = np.zeros((n * (1 + augment.flip), h + 2 * pad, w + 2 * pad, 3), np.uint8)
        padded[:n, *inside] = pixels
        if augment.flip:
            padded[n:, *inside] = pixels[:, :, ::-1]
        on_cpu = self.device.type == "cpu"
        self._windows = windows(padded if on_cpu else torch.from_numpy(padded).to(self.device), pad)
        self._labels = torch.tensor(self.images.labels, device=self.device)


def windows(pixels: Any, pad: int) -> Any:
    """Every crop of every padded picture [n, 2 pad + 1, 2 pad + 1, H, W x 3], without a copy.

    Args:
        pixels: array or tensor [n, H + 2 pad, W + 2 pad, 3], contiguous. Of arrays numpy gathers whole rows, ten times
            as fast as torch on a CPU.
        pad: pixels on each side.
    """
    n, h, w, _ = pixels.shape
    shape = (n, 2 * pad + 1, 2 * pad + 1, h - 2 * pad, (w - 2 * pad) * 3)
    strides = (h * w * 3, w * 3, 3, w * 3, 1)  # in bytes, which are the elements
    if isinstance(pixels, np.ndarray):
        return np.lib.stride_tricks.as_strided(pixels, shape, strides, writeable=False)
    return pixels.as_strided(shape, strides)


def suits(images: Images, augment: Augment) -> bool:
    """Whether the pictures have one size, which nothing changes, and are only shifted and mirrored."""
    in_memory = images.pixels is not None
    plain = augment.crop in ("none", "pad") and augment.size is None and augment.policy is None and not augment.erase
    return (in_memory or images.file is not None) and plain


def fits(images: Images, device: torch.device, augment: Augment, ranks: int = 1) -> bool:
    """Whether pictures in memory are small beside the device's memory.

    Args:
        images: of a split.
        device: of this rank.
        augment: decides how they are laid out.
        ranks: on this machine; each lays them out for itself.
    """
    if images.pixels is None:
        return False
    n, h, w, _ = images.pixels.shape
    pad = augment.pad if augment.crop == "pad" else 0
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else memory() // ranks
    return n * (h + 2 * pad) * (w + 2 * pad) * 3 * (1 + augment.flip) < SHARE * free


def make(images: Images, augment: Callable[[int], Augment], *args: Any, device: torch.device) -> DeviceLoader:
    """The loader that was asked for by name.

    Raises:
        UserError: the pictures have to be resized, or are files.
    """
    if not suits(images, augment(0)):
        raise UserError(
            "--data.loader device is for pictures of one size in memory or in a .beton, without size, policy, erase "
            "and crops that resize (`resized`, `scaled`): use --data.loader auto"
        )
    return DeviceLoader(images, augment, *args, device=device)


def _read(images: Images) -> np.ndarray:
    """The pictures of a split in a .beton, uint8 [n, H, W, 3]."""
    parts = [np.arange(i, min(i + CHUNK, len(images))) for i in range(0, len(images), CHUNK)]
    return np.concatenate([read(images, Augment(), 0, 0, at)[0].permute(0, 2, 3, 1).numpy() for at in parts])
