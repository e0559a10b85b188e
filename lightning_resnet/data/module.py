"""ImageData: a source, an order, draws and a loader, behind Lightning's hooks."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Literal

import numpy as np
import pytorch_lightning as pl
import torch

from lightning_resnet.data import order as orders
from lightning_resnet.data import storage
from lightning_resnet.data.augment import Augment, Crop, Progressive
from lightning_resnet.data.cache import as_beton
from lightning_resnet.data.ffcv import FFCVLoader
from lightning_resnet.data.limits import threads
from lightning_resnet.data.loader import Loader, OnBad
from lightning_resnet.data.sources import SPLIT_SEED, Images, Source
from lightning_resnet.data.torch import TorchLoader
from lightning_resnet.errors import UserError


class ImageData(pl.LightningDataModule):
    """Training, validation and test batches of a source.

    Args:
        source: where images come from: Digits, FashionMNIST, CIFAR10, CIFAR100, ImageFolder, Synthetic or your own.
        batch_size: images per optimizer step, over all ranks and accumulation.
        size: pixels per side that the net sees; null = as stored.
        eval_size: likewise in evaluation; null = `size`.
        progressive: smaller training images first, up to `size`; null = `size` throughout.
        crop: of training images. none | pad (their own size out of the padded image: CIFAR) | resized (random area and
            aspect ratio: ImageNet).
        pad: pixels on each side for crop `pad`.
        flip: mirror half of the training images.
        scale: area range of crop `resized`, as a share of the image's.
        eval_share: side of the central square that is evaluated, as a share of the shorter side; only with `size`.
        train_eval_samples: clean training error is measured each epoch on so many training images, always the same.
        order: of training images. global (all shuffled) | pages (of a .beton, each read in one stretch: for files
            larger than memory) | repeat (`repeats` augmentations of an image in a batch, of fewer images).
        repeats: times that an image appears, with order `repeat`.
        loader: ffcv | torch | auto (ffcv for .beton files, else torch); the same order and draws.
        workers: threads (ffcv) or processes (torch) that read ahead; auto: one per core of the job, none for images in
            memory.
        on_bad: a damaged picture in a .beton: raise | count (a grey one instead, left out of loss and metrics).
        cache: with order `pages`: os (the system keeps what it can) | process (pages are read ahead and dropped after
            use) | auto (process if the file exceeds the job's memory).
        stage: folder on the node's own disk to copy .beton files to before training; null = read them where they are.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int = 128,
        size: int | None = None,
        eval_size: int | None = None,
        progressive: Progressive | None = None,
        crop: Crop = "none",
        pad: int = 4,
        flip: bool = False,
        scale: tuple[float, float] = (0.08, 1.0),
        eval_share: float = 0.875,
        train_eval_samples: int = 10_000,
        order: orders.Order = "global",
        repeats: int = 3,
        loader: Literal["auto", "ffcv", "torch"] = "auto",
        workers: int | Literal["auto"] = "auto",
        on_bad: OnBad = "raise",
        cache: storage.Cache = "auto",
        stage: str | None = None,
    ) -> None:
        super().__init__()
        for name, value, low in (
            ("batch_size", batch_size, 1),
            ("size", size, 1),
            ("eval_size", eval_size, 1),
            ("repeats", repeats, 1),
            ("pad", pad, 0),
            ("train_eval_samples", train_eval_samples, 1),
            ("workers", None if workers == "auto" else workers, 0),
        ):
            if value is not None and value < low:
                raise ValueError(f"--data.{name} must be {low} or more, got {value}")
        if not 0 < eval_share <= 1:
            raise ValueError(f"--data.eval_share must be above 0 and at most 1, got {eval_share}")
        if progressive and (crop != "resized" or size is None or size < progressive.start_size):
            raise ValueError(
                "--data.progressive needs --data.crop resized and a --data.size of at least its start_size"
            )
        if cache == "process" and (order != "pages" or loader == "torch"):
            raise ValueError("--data.cache process reads page by page: use --data.order pages and --data.loader ffcv")
        self.source, self.batch_size, self.loader, self.workers = source, batch_size, loader, workers
        self.progressive, self.order, self.repeats = progressive, order, repeats
        self.on_bad, self.cache, self.stage = on_bad, cache, stage
        self.train_eval_samples = train_eval_samples
        self.seed = torch.initial_seed()  # what --seed_everything set
        self.train_augment = Augment(crop, size, pad, flip, scale, eval_share)
        self.eval_augment = Augment(size=eval_size or size, share=eval_share)
        self.splits: dict[str, Images] = {}
        self._training: Loader | None = None

    def setup(self, stage: str | None = None) -> None:
        """Read the splits, once.

        Raises:
            UserError: data missing or labels outside the source's classes.
        """
        if self.splits:
            return
        self.splits = self.source.splits()
        for name, images in self.splits.items():
            found = np.unique(images.labels).tolist()
            if not found or found[0] < 0 or found[-1] >= self.num_classes:
                raise UserError(
                    f"labels of {type(self.source).__name__}'s {name} split must be 0 to {self.num_classes - 1} "
                    f"({self.num_classes} classes), found {f'{found[0]} to {found[-1]}' if found else 'none'}"
                )
        self.splits = {name: self._located(name, images) for name, images in self.splits.items()}
        train = self.splits["train"]
        if self.order == "pages" and train.file is None:
            raise UserError("order `pages` is that of a .beton: add --data.loader ffcv, or use --data.order global")
        some = orders.permutation(SPLIT_SEED, 1, len(train))[: self.train_eval_samples]
        self.splits["train_eval"] = train.take(some)

    def _located(self, name: str, images: Images) -> Images:
        """In the file that shall be read, if any."""
        if images.file is None and self.loader == "ffcv":
            images = as_beton(images, self.source, name)
        if self.stage:
            if images.file is None:
                source = type(self.source).__name__
                raise UserError(f"stage copies .beton files, of which {source} has none: add --data.loader ffcv")
            images = replace(images, file=storage.stage(images.file, self.stage))
        return images

    @property
    def bad_images(self) -> int:
        """Pictures that this process could not read in training so far."""
        return self._training.bad if self._training else 0

    @property
    def num_classes(self) -> int:
        """Number of classes of the source."""
        return len(self.source.classes)

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(channels, height, width) of what the net sees."""
        train = self.splits["train"]
        if self.eval_augment.size:
            return (3, self.eval_augment.size, self.eval_augment.size)
        if train.pixels is not None:
            return (3, *train.pixels.shape[1:3])
        if train.file is not None:
            first = train.file.images[train.positions[0]]
            return (3, int(first["height"]), int(first["width"]))
        raise UserError("pictures from files have no common size: set --data.size to the pixels per side")

    @property
    def micro_batch(self) -> int:
        """Images per forward pass on one rank.

        Raises:
            UserError: batch_size does not divide, or exceeds the training images.
        """
        parts = self.trainer.world_size * self.trainer.accumulate_grad_batches
        if self.batch_size % parts:
            nearest = max(1, round(self.batch_size / parts)) * parts
            raise UserError(
                f"batch_size {self.batch_size} (images per optimizer step) is not divisible by "
                f"{self.trainer.world_size} ranks x {self.trainer.accumulate_grad_batches} accumulated batches; "
                f"try {nearest}"
            )
        if self.batch_size > len(self.splits["train"]):
            raise UserError(f"batch_size {self.batch_size} exceeds the {len(self.splits['train'])} training images")
        return self.batch_size // parts

    def train_dataloader(self) -> Loader:
        """The epoch's global batches in the order of contract `order`, this rank's share."""
        self.micro_batch  # noqa: B018 -- raises where batch_size is impossible
        if self.progressive and (self.trainer.max_epochs or -1) < 1:
            raise UserError("--data.progressive goes by the share of the epochs: set --trainer.max_epochs")
        n, trainer, parts = len(self.splits["train"]), self.trainer, self.trainer.accumulate_grad_batches
        images, size = self.splits["train"], self.batch_size
        ahead = self.loader != "torch" and storage.reads_ahead(self.cache, images, self.order)

        def batches(epoch: int, start: int) -> Iterable[np.ndarray]:
            order = self._order(epoch)
            plan = orders.train_batches(order, size, trainer.global_rank, trainer.world_size, start, parts)
            return storage.read_ahead(images, plan) if ahead else plan

        self._training = self._loader("train", self._augment, batches, n // size * parts)
        return self._training

    def _order(self, epoch: int) -> np.ndarray:
        images = self.splits["train"]
        if self.order == "pages":
            return orders.by_pages(self.seed, epoch, images.pages)
        if self.order == "repeat":
            return orders.repeated(self.seed, epoch, len(images), self.batch_size, self.repeats)
        return orders.permutation(self.seed, epoch, len(images))

    def _augment(self, epoch: int) -> Augment:
        """Of training pictures."""
        if not self.progressive:
            return self.train_augment
        size = self.progressive.size(epoch, self.trainer.max_epochs, self.train_augment.size)
        return replace(self.train_augment, size=size)

    def val_dataloader(self) -> list[Loader]:
        """Validation images, then the fixed training images for clean training error: `eval_names`."""
        return [self._eval_loader(name) for name in self.eval_names]

    eval_names = ("val", "train_eval")

    def test_dataloader(self) -> Loader:
        """The test split, where the source has one apart from validation, else validation's."""
        return self._eval_loader("test" if "test" in self.splits else "val")

    def predict_dataloader(self) -> Loader:
        """Validation images."""
        return self._eval_loader("val")

    def _eval_loader(self, split: str) -> Loader:
        rank, world = self.trainer.global_rank, self.trainer.world_size
        batch = 2 * self.micro_batch  # no gradients: twice the training batch fits
        plan = [*orders.eval_batches(len(self.splits[split]), batch, rank, world)]
        return self._loader(split, lambda epoch: self.eval_augment, lambda epoch, start: plan[start:], len(plan))

    def _loader(
        self,
        split: str,
        augment: Callable[[int], Augment],
        batches: Callable[[int, int], Iterable[np.ndarray]],
        length: int,
    ) -> Loader:
        images = self.splits[split]
        workers = self.workers
        if workers == "auto":
            workers = 0 if images.pixels is not None else threads(self.trainer.num_devices)
        epoch = lambda: self.trainer.current_epoch  # noqa: E731 -- asked when the pass begins: right after a resume too
        make = FFCVLoader if images.file is not None and self.loader != "torch" else TorchLoader
        return make(images, augment, self.seed, batches, length, epoch, workers, self.on_bad)
