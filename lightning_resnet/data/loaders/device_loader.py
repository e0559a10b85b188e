"""The loader of small data: all images of a split lie on the device; a batch is one gather.

Nothing is decoded, collated or copied in a step. Order and draws are those of the other loaders,
made for an epoch at once; batches are bitwise the same on the CPU.

Images that a policy or erasing changes lie in host memory: the C kernel changes each batch before
its copy to the device.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from lightning_resnet.data import draws
from lightning_resnet.data.augment.crops import Augment, operations
from lightning_resnet.data.beton import decode as kernel
from lightning_resnet.data.images import BetonImages, FileImages, Images
from lightning_resnet.data.loaders.base import Batch, Loader
from lightning_resnet.data.loaders.read_batch import read_beton
from lightning_resnet.errors import UserError
from lightning_resnet.machine import memory

MEMORY_SHARE = 0.25  # share of the device's free memory for the images; the net needs the rest
CHUNK = 1024  # images of a .beton read at a time


class DeviceLoader(Loader):
    """A loader that makes its batches on the device.

    Args:
        *args: see `Loader`.
        device: where the images lie and the batches are made.
        **kwargs: see `Loader`.
    """

    def __init__(self, *args: Any, device: torch.device, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.device = device
        self._windows: Any = None  # every crop of every image, from the first batch on

    def _read(self, epoch: int, plan: Iterator[np.ndarray]) -> Iterator[Batch]:
        batches = list(plan)
        a = self.augment(epoch)
        if not batches:
            return
        if self._windows is None:
            self._load(a)
        repeat, at = np.divmod(np.concatenate(batches), len(self.images))
        ids = self.images.ids[at]
        where = np.zeros((3, len(at)), np.int64)
        if a.crop == "pad":
            where[1:] = draws.pad_crops(self.seed, epoch, ids, a.pad, repeat).T
        if a.flip:
            # The mirror image of a crop is the crop of the mirror image from the other side.
            flips = draws.flips(self.seed, epoch, ids, repeat)
            where[2] = np.where(flips, self._windows.shape[2] - 1 - where[2], where[2])
            where[0] = flips * len(self.images)
        where[0] += at
        if not isinstance(self._windows, np.ndarray):
            where = torch.from_numpy(where).to(self.device)
        labels = self._labels[torch.from_numpy(at).to(self._labels.device)]
        ends = np.cumsum([len(b) for b in batches])
        for batch, end in zip(batches, ends.tolist(), strict=True):
            part = slice(end - len(batch), end)
            x = torch.as_tensor(self._windows[where[0, part], where[1, part], where[2, part]])
            x = x.view(*x.shape[:2], -1, 3)
            choices = operations(a, self.seed, epoch, ids[part], *x.shape[1:3], repeat[part])
            if choices:
                kernel.change(x.numpy(), choices, max(1, self.workers))
            yield x.permute(0, 3, 1, 2), labels[part]

    def _load(self, augment: Augment) -> None:
        """Lay out the padded images, and their mirror images, on the device."""
        pixels = self.images.pixels if self.images.in_memory else _read_all(self.images)
        pad = augment.pad if augment.crop == "pad" else 0
        n, h, w, _ = pixels.shape
        inside = slice(pad, pad + h), slice(pad, pad + w)
        padded = np.empty((n * (1 + augment.flip), h + 2 * pad, w + 2 * pad, 3), np.uint8)
        padded[:] = augment.fill
        padded[:n, *inside] = pixels
        if augment.flip:
            padded[n:, *inside] = pixels[:, :, ::-1]
        device = place(augment, self.device)
        on_cpu = device.type == "cpu"
        self._windows = windows(padded if on_cpu else torch.from_numpy(padded).to(device), pad)
        self._labels = torch.tensor(self.images.labels, device=device)


def windows(pixels: Any, pad: int) -> Any:
    """Return a view of all crops of all padded images [n, 2 pad + 1, 2 pad + 1, H, W x 3].

    Args:
        pixels: array or tensor [n, H + 2 pad, W + 2 pad, 3], contiguous. On a CPU numpy gathers
            rows of an array, ten times as fast as torch.
        pad: pixels on each side.
    """
    n, h, w, _ = pixels.shape
    shape = (n, 2 * pad + 1, 2 * pad + 1, h - 2 * pad, (w - 2 * pad) * 3)
    strides = (h * w * 3, w * 3, 3, w * 3, 1)  # in bytes, which are the elements
    if isinstance(pixels, np.ndarray):
        return np.lib.stride_tricks.as_strided(pixels, shape, strides, writeable=False)
    return pixels.as_strided(shape, strides)


def suits(images: Images, augment: Augment) -> bool:
    """Tell whether the images have one size and keep it; policies and erasing are allowed."""
    if isinstance(images, FileImages):
        return False
    return images.shape is not None and augment.crop in ("none", "pad") and augment.size is None


def place(augment: Augment, device: torch.device) -> torch.device:
    """Return where the images lie: on the device, or with the kernel that changes them."""
    is_changed = augment.policy is not None or augment.erase > 0
    return torch.device("cpu") if is_changed else device


def fits(images: Images, device: torch.device, augment: Augment, ranks: int = 1) -> bool:
    """Tell whether the images are in memory and few enough for the memory where they are to lie.

    Args:
        images: the split.
        device: device of this rank.
        augment: what happens to the images; decides how they are laid out.
        ranks: number of ranks on this machine; each lays the images out for itself.
    """
    if not images.in_memory:
        return False
    n = len(images)
    h, w = images.shape
    pad = augment.pad if augment.crop == "pad" else 0
    device = place(augment, device)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else memory() // ranks
    return n * (h + 2 * pad) * (w + 2 * pad) * 3 * (1 + augment.flip) < MEMORY_SHARE * free


def make(
    images: Images, augment: Callable[[int], Augment], *args: Any, device: torch.device
) -> DeviceLoader:
    """Return a DeviceLoader of the images, if it can hold them as they are.

    Raises:
        UserError: the images have to be resized, or are files.
    """
    if not suits(images, augment(0)):
        raise UserError(
            "--data.loader device is for images of one size in memory or in a .beton, without "
            "size and crops that resize (`resized`, `scaled`): use --data.loader auto"
        )
    return DeviceLoader(images, augment, *args, device=device)


def _read_all(images: BetonImages) -> np.ndarray:
    """Return all images of a split in a .beton, uint8 [n, H, W, 3]."""
    parts = []
    for start in range(0, len(images), CHUNK):
        at = np.arange(start, min(start + CHUNK, len(images)))
        batch, _ = read_beton(images, Augment(), seed=0, epoch=0, at=at)
        parts.append(batch.permute(0, 2, 3, 1).numpy())
    return np.concatenate(parts)
