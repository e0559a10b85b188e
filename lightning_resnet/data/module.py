"""ImageData: a source, an order, draws and a loader, behind Lightning's hooks."""

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal
from weakref import WeakSet

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_only

from lightning_resnet.bounds import check_batch, check_crop, check_parts
from lightning_resnet.data.augment.crops import (
    Augment,
    Crop,
    Progressive,
    Resize,
    check_size,
)
from lightning_resnet.data.augment.policies import Policy
from lightning_resnet.data.beton import decode as kernel
from lightning_resnet.data.beton import decode_fallback as fallback
from lightning_resnet.data.beton.cache import as_beton
from lightning_resnet.data.beton.stage import staged
from lightning_resnet.data.images import SPLIT_SEED, BetonImages, FileImages, Images
from lightning_resnet.data.loaders import device_loader as resident
from lightning_resnet.data.loaders.base import Loader, OnBad
from lightning_resnet.data.loaders.beton_loader import FFCVLoader
from lightning_resnet.data.loaders.device_loader import DeviceLoader
from lightning_resnet.data.loaders.read_ahead import Cache, by_process
from lightning_resnet.data.loaders.torch_loader import TorchLoader
from lightning_resnet.data.order import (
    Order,
    eval_batches,
    page_order,
    permutation,
    repeat_order,
    train_batches,
)
from lightning_resnet.data.shard import Shard
from lightning_resnet.data.sources.base import Source
from lightning_resnet.data.sources.beton_files import open_beton
from lightning_resnet.errors import UserError, tell
from lightning_resnet.machine import workers

SHM = Path("/dev/shm")  # shared memory, through which worker processes hand over batches
AHEAD = 2  # batches that each worker process has ready, torch's default


class ImageData(pl.LightningDataModule):
    """Training, validation and test batches of a source.

    Args:
        source: where images come from: Digits, FashionMNIST, CIFAR10, CIFAR100, ImageFolder,
            Synthetic or your own.
        batch_size: images per optimizer step, over all ranks and accumulation.
        size: pixels per side that the net sees; null = as stored.
        resize: filter that scales images: area (OpenCV's INTER_AREA, which FFCV uses: sharper, and
            slower from large JPEGs) | null = bilinear, antialiased.
        progressive: training images of another size than `size`, growing with the epochs.
        crop: how training images are cut: none | pad (their own size out of the padded image:
            CIFAR) | resized (random area and aspect ratio: ImageNet) | scaled (a square of the
            image at a random scale: ImageNet in He et al. 2015).
        pad: pixels on each side for crop `pad`.
        pad_fill: colour of what crop `pad` adds: mean (of the source, which is 0 for the net) |
            null = black.
        flip: mirror half of the training images.
        scale: area range of crop `resized`, as a share of the image's.
        policy: changes of colour and shape of training images: Lighting (noise along principal
            components), TrivialAugment, RandAugment, IncreasingRandAugment.
        erase: share of the training images of which a box is erased (takes the mean colour).
        eval_share: side of the central square that is evaluated, as a share of the shorter side;
            only with `size`.
        train_eval_samples: clean training error is measured each epoch on so many training images,
            always the same.
        order: global (every sample once, anywhere) | pages (every sample once, 64 pages of a .beton
            at a time, for files larger than memory) | repeat (repeated augmentation: a part of the
            samples, each `repeats` times).
        repeats: visits of a sample in an epoch with order `repeat`.
        loader: ffcv | torch | device (images stay on the device) | auto (device for few in
            memory, ffcv for .beton files, else torch); the same order and draws.
        workers: threads (ffcv) or processes (torch) that read ahead; auto: one per core that this
            process has, none for images in memory.
        cache: how .beton files are cached: os (by the system) | process (by page, with order
            `pages`) | auto: what the file's size and the job's memory ask for.
        stage: folder on each machine's own disk to copy .beton files to, once, and what addresses
            such as s3://bucket/train.beton name; variables such as $TMPDIR are known.
        on_bad: an image that cannot be read: raise | count (a grey one instead, left out of loss
            and metrics).
    """

    def __init__(
        self,
        source: Source,
        batch_size: int = 128,
        size: int | None = None,
        resize: Resize | None = None,
        progressive: Progressive | None = None,
        crop: Crop = "none",
        pad: int = 4,
        pad_fill: Literal["mean"] | None = None,
        flip: bool = False,
        scale: tuple[float, float] = (0.08, 1.0),
        policy: Policy | None = None,
        erase: float = 0.0,
        eval_share: float = 0.875,
        train_eval_samples: int = 10_000,
        order: Order = "global",
        repeats: int = 3,
        loader: Literal["auto", "ffcv", "torch", "device"] = "auto",
        workers: int | Literal["auto"] = "auto",
        cache: Cache = "auto",
        stage: str | None = None,
        on_bad: OnBad = "raise",
    ) -> None:
        super().__init__()
        for name, value, low in (
            ("batch_size", batch_size, 1),
            ("size", size, 1),
            ("pad", pad, 0),
            ("train_eval_samples", train_eval_samples, 1),
            ("repeats", repeats, 1),
            ("workers", None if workers == "auto" else workers, 0),
        ):
            if value is not None and value < low:
                raise ValueError(f"--data.{name} must be {low} or more, got {value}")
        if not 0 < eval_share <= 1:
            raise ValueError(f"--data.eval_share must be above 0 and at most 1, got {eval_share}")
        p = progressive
        if p and not (0 <= p.start <= p.end <= 1 <= min(p.low, p.high)):
            raise ValueError(
                f"--data.progressive needs 0 <= start <= end <= 1 and sizes in pixels, got {p}"
            )
        check_crop(crop, size, progressive is not None, pad_fill, resize)
        mean = tuple(round(255 * m) for m in source.mean)
        self.source = source
        source.stage = stage
        self.batch_size = batch_size
        self.loader = loader
        self.workers = workers
        self.order = order
        self.repeats = repeats
        self.on_bad = on_bad
        self.cache = cache
        self.stage = stage
        self.train_eval_samples = train_eval_samples
        self.progressive = progressive
        self.seed = torch.initial_seed()  # what --seed_everything set
        self.train_augment = Augment(
            crop=crop,
            size=size,
            pad=pad,
            flip=flip,
            scale=scale,
            share=eval_share,
            policy=policy,
            erase=erase,
            grey=mean,
            fill=mean if pad_fill == "mean" else kernel.BLACK,
            resize=resize,
        )
        self.eval_augment = Augment(size=size, share=eval_share, resize=resize)
        # Images per forward pass of an evaluation; None: twice `micro_batch`, without gradients.
        self.eval_batch: int | None = None
        # `setup` takes a trainer's; several ranks without a trainer set their own.
        self.shard = Shard()
        self.splits: dict[str, Images] = {}
        self._made: WeakSet[Loader] = WeakSet()
        self._told: set[str] = set()  # warnings that were given

    def setup(self, stage: str | None = None) -> None:
        """Take the ranks and epochs of the trainer, if there is one, and read the splits, once.

        Raises:
            UserError: data are missing, labels are outside the source's classes, or, to fit, there
                are fewer images than a batch.
        """
        if self.trainer is not None:
            self.shard = Shard.of(self.trainer)
        if self.splits:
            return
        self.splits = self.source.splits()
        for name, images in self.splits.items():
            self._check_labels(name, images)
        if self.loader == "ffcv":
            self._write_betons()
        self._check_order()
        betons = {k: v for k, v in self.splits.items() if isinstance(v, BetonImages)}
        if betons and kernel.library() is None:
            rank_zero_only(print)(fallback.notice(kernel.why_not()))
        if self.stage:
            for name, images in betons.items():
                file = open_beton(staged(images.file.path, self.stage))
                self.splits[name] = replace(images, file=file)
        if stage == "fit":
            self._need_training_images()
            self._check_shared_memory()
            if self.train_augment.crop == "pad":
                check_size(self.train_augment, self.splits["train"].shape is not None)
        train = self.splits.get("train")
        if train is None:
            return
        some = permutation(SPLIT_SEED, 1, len(train))[: self.train_eval_samples]
        self.splits["train_eval"] = train.take(some)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the loaders, which belong to this process."""
        return {name: value for name, value in self.__dict__.items() if name != "_made"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _made=WeakSet())

    def _check_labels(self, name: str, images: Images) -> None:
        source = type(self.source).__name__
        labels = np.asarray(images.labels)
        if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) != len(images):
            raise UserError(
                f"labels of {source}'s {name} split must be whole numbers, one per sample (the "
                f"loss is over classes); found {labels.dtype} of shape {labels.shape} for "
                f"{len(images)} samples"
            )
        found = np.unique(labels).tolist()
        if not found or found[0] < 0 or found[-1] >= self.num_classes:
            text = f"{found[0]} to {found[-1]}" if found else "none"
            raise UserError(
                f"labels of {source}'s {name} split must be 0 to {self.num_classes - 1} "
                f"({self.num_classes} classes), found {text}"
            )

    def _check_order(self) -> None:
        """Refuse images that are read from end to end for each that is wanted."""
        for images in self.splits.values():
            if isinstance(images, FileImages) and images.in_order:
                archive = images.paths[0].partition("!")[0]
                raise UserError(
                    f"{archive} can only be read in order, and training reads at random: write a "
                    ".beton of each split first (`resnet-cli data write`), or --data.loader ffcv, "
                    "which writes them to its cache"
                )

    def _write_betons(self) -> None:
        """Write the splits that are in no .beton to one, once on this machine."""
        splits = self.splits.items()
        if self.on_bad == "count" and any(isinstance(v, FileImages) for _, v in splits):
            rank_zero_only(tell)(
                "--data.on_bad count: image files are read one by one, as by --data.loader torch; "
                "`resnet-cli data write --skip-bad` makes a .beton of the good ones"
            )
            return
        for name, images in splits:
            if not isinstance(images, BetonImages):
                self.splits[name] = as_beton(images, self.source, name)

    def _check_shared_memory(self) -> None:
        """Refuse worker processes whose batches do not fit into shared memory, which kills them."""
        train = self.splits["train"]
        if not SHM.is_dir() or (isinstance(train, BetonImages) and self.loader != "torch"):
            return
        processes = self._workers(train) * self.shard.local_ranks
        size = self.train_augment.size or max(self.input_size[1:])
        if self.progressive:
            size = max(size, self.progressive.high)
        needed = processes * AHEAD * self.micro_batch * 3 * size**2
        free = shutil.disk_usage(SHM).free
        if needed > free:
            raise UserError(
                f"{processes} worker processes hand over batches through {SHM}, which has "
                f"{free / 1e6:,.1f} MB free where {needed / 1e6:,.1f} MB are needed: "
                "--data.workers 0, or docker --shm-size 8g"
            )

    def _workers(self, images: Images) -> int:
        """Return the number of threads or processes that read ahead."""
        if self.workers != "auto":
            return self.workers
        if images.in_memory:
            return 0  # ten thousand images/s and more, also with a policy
        return workers(self.shard.local_ranks)

    def _need_images(self) -> None:
        if not self.splits:
            raise UserError("ImageData has not read its images yet: call data.setup() first")

    def _need_training_images(self) -> None:
        if "train" not in self.splits:
            source = type(self.source).__name__
            raise UserError(
                f"{source} has no training images: it is to validate on; name others to train on, "
                "such as those of a folder with train/ and val/"
            )
        try:
            check_batch(self.batch_size, len(self.splits["train"]))
        except ValueError as e:
            raise UserError(str(e)) from e

    @property
    def num_classes(self) -> int:
        """Number of classes of the source."""
        return len(self.source.classes)

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(channels, height, width) of what the net sees."""
        if self.eval_augment.size:
            return (3, self.eval_augment.size, self.eval_augment.size)
        shape = self.splits.get("train", self.splits["val"]).shape
        check_size(self.train_augment, shape is not None)
        return (3, *shape)

    @property
    def micro_batch(self) -> int:
        """Images per forward pass on one rank; see `micro_batch_of`."""
        return self.micro_batch_of(self.shard.world_size)

    def micro_batch_of(self, ranks: int, unit: int = 1) -> int:
        """Return the images per forward pass on one rank.

        Args:
            ranks: world size.
            unit: images of which a rank must have a multiple, for the message.

        Raises:
            UserError: batch_size does not divide.
        """
        accumulated = self.shard.accumulate
        try:
            check_parts(self.batch_size, ranks, accumulated, unit)
        except ValueError as e:
            raise UserError(str(e)) from e
        return self.batch_size // (ranks * accumulated)

    def train_dataloader(self, steps: int | None = None) -> Loader:
        """Return the loader of this rank's share of each epoch's global batches.

        Args:
            steps: number of optimizer steps after which an epoch ends; default: all.
        """
        self._need_images()
        self._need_training_images()
        self.micro_batch  # noqa: B018 -- raises where batch_size is impossible
        order = self._order()
        shard = self.shard
        share = partial(
            train_batches, rank=shard.rank, world=shard.world_size, parts=shard.accumulate
        )
        all_steps = len(self.splits["train"]) // self.batch_size
        length = min(all_steps, steps or sys.maxsize) * shard.accumulate

        def plan(epoch: int) -> Iterator[np.ndarray]:
            ordered = order(self.seed, 0 if shard.repeats_epoch else epoch)
            return islice(share(ordered, self.batch_size), length)

        return self._loader("train", self.augment_by_epoch(), plan, length)

    def augment_by_epoch(self) -> Callable[[int], Augment]:
        """Return the function epoch -> what happens to the training images."""
        augment = self.train_augment
        progressive = self.progressive
        if progressive is None:
            return lambda epoch: augment
        epochs = self.shard.epochs or 0
        if epochs < 1:
            raise UserError(
                "--data.progressive goes by the number of epochs: set --trainer.max_epochs"
            )
        return lambda epoch: replace(augment, size=progressive.size(epoch, epochs))

    def _order(self) -> Callable[[int, int], np.ndarray]:
        """Return the function (seed, epoch) -> indices of the training images, see `order`."""
        train = self.splits["train"]
        batch_size = self.batch_size
        if self.order == "global":
            return partial(permutation, n=len(train))
        if self.order == "repeat":
            return partial(repeat_order, n=len(train), batch_size=batch_size, repeats=self.repeats)
        if not isinstance(train, BetonImages):
            raise UserError(
                "--data.order pages is for .beton files: add --data.loader ffcv, or leave the "
                "order global"
            )
        return partial(page_order, pages=train.pages(), batch_size=batch_size)

    def val_dataloader(self) -> list[Loader]:
        """Return a loader for each of `eval_names`."""
        return [self.eval_loader(name) for name in self.eval_names]

    @property
    def eval_names(self) -> tuple[str, ...]:
        """Splits that are evaluated; `train_eval` are fixed training images, not augmented."""
        return ("val", "train_eval") if "train" in self.splits else ("val",)

    def test_dataloader(self) -> Loader:
        """Return the loader of the test split; if the source has none, of the validation split."""
        return self.eval_loader("test" if "test" in self.splits else "val")

    def predict_dataloader(self) -> Loader:
        """Return the loader of the validation images."""
        return self.eval_loader("val")

    def eval_loader(self, split: str, augment: Augment | None = None) -> Loader:
        """Return a loader that yields every sample of a split once, over all ranks.

        Args:
            split: name of the split.
            augment: how images are cut and scaled; default: as the recipe evaluates.
        """
        self._need_images()
        augment = augment or self.eval_augment
        batch = self.eval_batch or 2 * self.micro_batch
        self._tell_of_cut(split, augment)
        n = len(self.splits[split])
        batches = list(eval_batches(n, batch, self.shard.rank, self.shard.world_size))
        return self._loader(split, lambda epoch: augment, lambda epoch: iter(batches), len(batches))

    def _tell_of_cut(self, split: str, augment: Augment) -> None:
        """Warn where images that have the net's size already are cut, and enlarged to it."""
        size = augment.size
        is_central = augment.corner == (0.5, 0.5)
        if size and is_central and augment.share < 1 and self.splits[split].shape == (size, size):
            told = (
                f"warning: {split} images have {size}x{size} pixels as they are stored, and their "
                f"central {round(augment.share * size)} are enlarged to {size}: "
                "--data.eval_share 1 takes them in full"
            )
            if told not in self._told:
                self._told.add(told)
                rank_zero_only(tell)(told, file=sys.stderr)

    def _loader(self, split: str, augment: Callable, plan: Callable, length: int) -> Loader:
        """Return the loader that `loader` names, or the fastest one for the storage."""
        images = self.splits[split]
        device = self.shard.device
        first = augment(0)
        make = TorchLoader
        if self.loader == "device":
            make = partial(resident.make, device=device)
        elif (
            self.loader == "auto"
            and resident.suits(images, first)
            and resident.fits(images, device, first, self.shard.local_ranks)
        ):
            make = partial(DeviceLoader, device=device)
        elif isinstance(images, BetonImages) and self.loader != "torch":
            ahead = split == "train" and by_process(self.cache, images.file.size, self.order)
            make = partial(FFCVLoader, by_process=ahead)
        count = self._workers(images)
        loader = make(images, augment, self.seed, plan, length, count, self.on_bad)
        self._made.add(loader)
        return loader

    def teardown(self, stage: str) -> None:
        """End the loaders' processes.

        The garbage collector may close a queue before its process is told: 5 s for each.
        """
        for loader in self._made:
            loader.close()
