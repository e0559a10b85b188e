"""The loader that needs nothing but torch: batches in the order of `order`, with the draws of `draws`.

Yields `(uint8 images [B, 3, H, W] channels_last, int64 labels [B])`, grey replicated.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from lightning_resnet.data import draws
from lightning_resnet.data.augment import Augment, draw, finish
from lightning_resnet.data.encode import open_rgb
from lightning_resnet.data.ffcv import read
from lightning_resnet.data.loader import Batch, Loader, OnBad
from lightning_resnet.data.sources import Images
from lightning_resnet.errors import UserError, one_line


class TorchLoader(Loader):
    """See `Loader`; the workers are processes, 0 reads in this one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reader = Reader(self.images, self.augment, self.seed, self.on_bad)
        self._plan: list[tuple[int, np.ndarray]] = []  # the pass's batches, as the workers' sampler
        self._pool = self._make_pool(self.workers) if self.workers else None

    def _pass(self, epoch: int, plan: Iterator[np.ndarray]) -> Iterator[Batch]:
        self._plan[:] = [(epoch, positions) for positions in plan]
        yield from self._pool or map(self._reader.__getitem__, self._plan)

    def close(self) -> None:
        """See `Loader`."""
        self._pool = None

    def _make_pool(self, workers: int) -> DataLoader:
        return DataLoader(
            self._reader,
            batch_size=None,
            sampler=self._plan,
            num_workers=workers,
            persistent_workers=True,
            pin_memory=torch.cuda.is_available(),
        )


class Reader(Dataset):
    """(epoch, visits) -> batch."""

    def __init__(self, images: Images, augment: Callable[[int], Augment], seed: int, on_bad: OnBad) -> None:
        self.images, self.augment, self.seed, self.on_bad = images, augment, seed, on_bad

    def __getitem__(self, item: tuple[int, np.ndarray]) -> Batch:
        epoch, at = item
        augment = self.augment(epoch)
        if self.images.file is not None:
            return read(self.images, augment, self.seed, epoch, at, on_bad=self.on_bad)
        repeat, at = np.divmod(at, len(self.images))
        labels = torch.from_numpy(self.images.labels[at])
        gather = self.images.pixels is not None and augment.size is None and augment.crop in ("none", "pad")
        pixels = (self._gather if gather else self._decode)(augment, epoch, at, repeat)
        pictures = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        finish(augment, pictures, self.seed, epoch, self.images.ids[at], repeat)
        return pictures, labels

    def _gather(self, a: Augment, epoch: int, at: np.ndarray, repeat: np.ndarray) -> np.ndarray:
        """Images in memory at their own size: pad-crop and flip by indexing, the batch at once."""
        x, ids = self.images.pixels[at], self.images.ids[at]
        b, h, w, c = x.shape
        rows, cols = np.arange(h)[None], np.arange(w)[None]
        if a.crop == "pad":
            x = np.pad(x, ((0, 0), (a.pad, a.pad), (a.pad, a.pad), (0, 0)))
            corners = draws.pad_crops(self.seed, epoch, ids, a.pad, repeat)
            rows, cols = rows + corners[:, :1], cols + corners[:, 1:]
        if a.flip:
            cols = np.where(draws.flips(self.seed, epoch, ids, repeat)[:, None], cols[:, ::-1], cols)
        x = x[np.arange(b)[:, None, None], rows[:, :, None], cols[:, None, :]]
        return np.broadcast_to(x, (b, h, w, 3)).copy() if c == 1 else x

    def _decode(self, augment: Augment, epoch: int, at: np.ndarray, repeat: np.ndarray) -> np.ndarray:
        """Files, or images that change size: one by one through Pillow, bilinear with antialiasing."""
        pictures = [self._open(i) for i in at]
        heights, widths = np.array([(p.height, p.width) for p in pictures]).T
        boxes, flips, size = draw(augment, self.seed, epoch, self.images.ids[at], heights, widths, repeat)
        if augment.crop == "pad":
            raise UserError("crop `pad` is for images in memory or in a .beton: use --data.crop resized")
        return np.stack([_resize(*args, size) for args in zip(pictures, boxes, flips, strict=True)])

    def _open(self, i: int) -> Image.Image:
        if self.images.pixels is not None:
            return Image.fromarray(np.broadcast_to(self.images.pixels[i], (*self.images.pixels.shape[1:3], 3)))
        try:
            return open_rgb(self.images.paths[i])
        except (ValueError, OSError) as e:
            path, sample = self.images.paths[i], self.images.ids[i]
            raise UserError(f"cannot read picture {path} (sample {sample}): {one_line(e)}; remove it") from e


def _resize(picture: Image.Image, box: Sequence[int], flip: bool, size: int) -> np.ndarray:
    top, left, h, w = (int(v) for v in box)
    x = np.asarray(picture.crop((left, top, left + w, top + h)).resize((size, size), Image.Resampling.BILINEAR))
    return x[:, ::-1] if flip else x
