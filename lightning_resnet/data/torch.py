"""The loader that needs nothing but torch: batches in the order of `order`, with the draws of `draws`.

Yields `(uint8 images [B, 3, H, W] channels_last, int64 labels [B])`, grey replicated.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_resnet.data import draws
from lightning_resnet.data.sources import Images
from lightning_resnet.errors import UserError

Crop = Literal["none", "pad", "resized"]
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Augment:
    """What happens to a picture between disk and batch.

    Attributes:
        crop: "none": the whole image, or at `size` its central square; "pad": a crop of its own size out of the image
            padded by `pad`; "resized": random area and aspect ratio, resized to `size`.
        size: pixels per side of the result; None as stored.
        pad: pixels on each side.
        flip: mirror half of the images.
        scale: range of the area of "resized", as a share of the image's.
        share: side of the central square as a share of the shorter side.
    """

    crop: Crop = "none"
    size: int | None = None
    pad: int = 4
    flip: bool = False
    scale: tuple[float, float] = (0.08, 1.0)
    share: float = 0.875


class TorchLoader:
    """One epoch per `iter`, begun at the first `next`; what it yields is a function of (seed, epoch) alone.

    Args:
        images: the split.
        augment: of the pictures.
        seed: of the run.
        batches: epoch -> positions of each batch of this rank.
        length: number of batches.
        epoch: asked at the first `next` of each pass.
        workers: processes that read ahead; 0 reads in this one.
    """

    def __init__(
        self,
        images: Images,
        augment: Augment,
        seed: int,
        batches: Callable[[int], Iterator[np.ndarray]],
        length: int,
        epoch: Callable[[], int] = lambda: 0,
        workers: int = 0,
    ) -> None:
        self.images, self.batches, self.length, self.epoch = images, batches, length, epoch
        self._reader = _Reader(images, augment, seed)
        self._plan: list[tuple[int, np.ndarray]] = []  # the epoch's batches, as the workers' sampler
        self._pool = self._make_pool(workers) if workers else None

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Batch]:
        epoch = self.epoch()
        self._plan[:] = [(epoch, positions) for positions in self.batches(epoch)]
        yield from self._pool or map(self._reader.__getitem__, self._plan)

    def _make_pool(self, workers: int) -> DataLoader:
        return DataLoader(
            self._reader,
            batch_size=None,
            sampler=self._plan,
            num_workers=workers,
            persistent_workers=True,
            pin_memory=torch.cuda.is_available(),
        )


class _Reader(Dataset):
    """(epoch, positions) -> batch."""

    def __init__(self, images: Images, augment: Augment, seed: int) -> None:
        self.images, self.augment, self.seed = images, augment, seed

    def __getitem__(self, item: tuple[int, np.ndarray]) -> Batch:
        epoch, at = item
        labels = torch.from_numpy(self.images.labels[at])
        in_memory = self.images.pixels is not None and self.augment.size in (None, self.images.pixels.shape[1])
        pixels = self._gather(epoch, at) if in_memory and self.augment.crop != "resized" else self._decode(epoch, at)
        return torch.from_numpy(pixels).permute(0, 3, 1, 2), labels

    def _gather(self, epoch: int, at: np.ndarray) -> np.ndarray:
        """Images in memory at their own size: pad-crop and flip by indexing, the batch at once."""
        a, x, ids = self.augment, self.images.pixels[at], self.images.ids[at]
        b, h, w, c = x.shape
        rows, cols = np.arange(h)[None], np.arange(w)[None]
        if a.crop == "pad":
            x = np.pad(x, ((0, 0), (a.pad, a.pad), (a.pad, a.pad), (0, 0)))
            corners = draws.pad_crops(self.seed, epoch, ids, a.pad)
            rows, cols = rows + corners[:, :1], cols + corners[:, 1:]
        if a.flip:
            cols = np.where(draws.flips(self.seed, epoch, ids)[:, None], cols[:, ::-1], cols)
        x = x[np.arange(b)[:, None, None], rows[:, :, None], cols[:, None, :]]
        return np.broadcast_to(x, (b, h, w, 3)).copy() if c == 1 else x

    def _decode(self, epoch: int, at: np.ndarray) -> np.ndarray:
        """Files, or images that change size: one by one through Pillow, bilinear with antialiasing."""
        a, ids = self.augment, self.images.ids[at]
        pictures = [self._open(i) for i in at]
        heights, widths = np.array([(p.height, p.width) for p in pictures]).T
        if a.size is None:
            raise UserError("pictures from files have no common size: set --data.size to the pixels per side")
        if a.crop == "pad":
            raise UserError(
                "crop `pad` is for images of their stored size: drop --data.size or use --data.crop resized"
            )
        if a.crop == "resized":
            boxes = draws.random_resized_crops(self.seed, epoch, ids, heights, widths, a.scale)
        else:
            boxes = draws.center_boxes(heights, widths, a.share)
        flips = draws.flips(self.seed, epoch, ids) if a.flip else np.zeros(len(ids), bool)
        return np.stack([_resize(*args, a.size) for args in zip(pictures, boxes, flips, strict=True)])

    def _open(self, i: int) -> Image.Image:
        if self.images.paths is None:
            return Image.fromarray(
                self.images.pixels[i].squeeze(-1) if self.images.pixels.shape[-1] == 1 else self.images.pixels[i]
            )
        try:
            with Image.open(self.images.paths[i]) as picture:
                return picture.convert("RGB")
        except (UnidentifiedImageError, OSError) as e:
            raise UserError(
                f"cannot read picture {self.images.paths[i]} (sample {self.images.ids[i]}): {e}; remove it"
            ) from e


def _resize(picture: Image.Image, box: Sequence[int], flip: bool, size: int) -> np.ndarray:
    top, left, h, w = (int(v) for v in box)
    picture = picture.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + w, top + h))
    x = np.asarray(picture.convert("RGB"))
    return x[:, ::-1] if flip else x
