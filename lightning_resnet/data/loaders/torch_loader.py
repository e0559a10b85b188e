"""The loader that needs nothing but torch: batches in the order of `order`, with the draws of `draws`.

Yields `(uint8 images [B, 3, H, W] channels_last, int64 labels [B])`, grey replicated.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.queues import Queue
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from lightning_resnet.data import draws
from lightning_resnet.data.augment.crops import Augment, draw, finish
from lightning_resnet.data.beton.encode import explain, open_rgb
from lightning_resnet.data.images import Images
from lightning_resnet.data.loaders.base import Batch, Loader, OnBad
from lightning_resnet.data.loaders.beton_loader import HANG_S
from lightning_resnet.data.loaders.read_batch import IGNORED, read
from lightning_resnet.errors import UserError, one_line

GREY = Image.new("RGB", (1, 1), (127, 127, 127))  # in the place of an image that cannot be read


class TorchLoader(Loader):
    """See `Loader`; the workers are processes, 0 reads in this one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reader = Reader(self.images, self.augment, self.seed, self.on_bad)
        self._plan: list[tuple[int, np.ndarray]] = []  # the pass's batches, as the workers' sampler
        self._pool = self._make_pool(self.workers) if self.workers else None

    def _read(self, epoch: int, plan: Iterator[np.ndarray]) -> Iterator[Batch]:
        self._plan[:] = [(epoch, positions) for positions in plan]
        if self._pool is None:
            yield from map(self._reader.__getitem__, self._plan)
            return
        try:
            yield from self._pool
        except RuntimeError as e:
            if not str(e).startswith("DataLoader "):  # timed out, exited, killed
                raise
            raise UserError(
                f"a process that reads images does not answer, or died ({one_line(e)}): likely for want of memory or "
                "of shared memory; --data.workers 0 reads in this one, docker --shm-size 8g gives more"
            ) from e

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
            timeout=HANG_S,
            worker_init_fn=_start,
        )


def _start(worker: int) -> None:
    """In a worker process: end where a batch cannot be handed over, else the training waits for it without end."""
    Queue._on_queue_feeder_error = staticmethod(_fail)


def _fail(error: BaseException, batch: object) -> None:
    print(f"a batch could not be handed over: {one_line(error)}", file=sys.stderr, flush=True)
    os._exit(1)


class Reader(Dataset):
    """(epoch, visits) -> batch."""

    def __init__(self, images: Images, augment: Callable[[int], Augment], seed: int, on_bad: OnBad) -> None:
        self.images, self.augment, self.seed, self.on_bad = images, augment, seed, on_bad
        self._checked = np.zeros(len(images) if images.paths else 0, bool)  # files found to be sound: once is enough

    def __getitem__(self, item: tuple[int, np.ndarray]) -> Batch:
        epoch, at = item
        augment = self.augment(epoch)
        if self.images.file is not None:
            return read(self.images, augment, self.seed, epoch, at, on_bad=self.on_bad)
        repeat, at = np.divmod(at, len(self.images))
        labels = torch.from_numpy(self.images.labels[at])  # a copy
        gather = self.images.pixels is not None and augment.size is None and augment.crop in ("none", "pad")
        if gather:
            pixels = self._gather(augment, epoch, at, repeat)
        else:
            pixels, bad = self._decode(augment, epoch, at, repeat)
            labels[bad] = IGNORED
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

    def _decode(
        self, augment: Augment, epoch: int, at: np.ndarray, repeat: np.ndarray
    ) -> tuple[np.ndarray, torch.Tensor]:
        """Files, or images that change size: one by one through Pillow, bilinear with antialiasing; which are bad."""
        opened = [self._open(i) for i in at]
        bad = torch.tensor([image is None for image in opened])
        images = [GREY if image is None else image for image in opened]
        heights, widths = np.array([(p.height, p.width) for p in images]).T
        boxes, flips, size = draw(augment, self.seed, epoch, self.images.ids[at], heights, widths, repeat)
        if augment.crop == "pad":
            raise UserError("crop `pad` is for images in memory or in a .beton: use --data.crop resized")
        return np.stack([_resize(*args, size) for args in zip(images, boxes, flips, strict=True)]), bad

    def _open(self, i: int) -> Image.Image | None:
        """Read an image; None where it cannot be read and is only counted."""
        if self.images.pixels is not None:
            return Image.fromarray(np.broadcast_to(self.images.pixels[i], (*self.images.pixels.shape[1:3], 3)))
        try:
            image = open_rgb(self.images.paths[i], check=not self._checked[i])
        except MemoryError as e:
            raise UserError(f"no memory for image {self.images.paths[i]}: leave it out, or lower --data.workers") from e
        except Exception as e:  # noqa: BLE001 -- decoders meet damage in many ways: struct.error, SyntaxError, ...
            if self.on_bad == "count":
                return None
            path, sample = self.images.paths[i], self.images.ids[i]
            raise UserError(
                f"cannot read image {path} (sample {sample}): {explain(e)}; mend or remove it, or go on without such "
                "images: --data.on_bad count"
            ) from e
        self._checked[i] = True
        return image


def _resize(picture: Image.Image, box: Sequence[int], flip: bool, size: int) -> np.ndarray:
    top, left, h, w = (int(v) for v in box)
    x = np.asarray(picture.crop((left, top, left + w, top + h)).resize((size, size), Image.Resampling.BILINEAR))
    return x[:, ::-1] if flip else x
