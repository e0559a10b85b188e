"""The base of the loaders: each batch is a function of (seed, epoch, number of the batch) alone."""

from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from types import SimpleNamespace
from typing import Literal

import numpy as np
from torch import Tensor

from lightning_resnet.data.augment.crops import Augment
from lightning_resnet.data.images import Images

Batch = tuple[Tensor, Tensor]
OnBad = Literal["raise", "count"]


class Loader:
    """Batches `(uint8 images [B, 3, H, W], int64 labels [B])` of any epoch, from any batch on.

    `batches(epoch, start)` depends on its arguments alone; one such generator runs at a time. To
    iterate over the loader itself gives epoch 0, then epoch 1, and so on, unless `set_epoch` names
    another: what a PyTorch loop and Lightning's own Trainer need. The Trainer keeps `state_dict` in
    its checkpoints.

    Args:
        images: a split.
        augment: epoch -> what happens to the images.
        seed: seed of the run.
        plan: epoch -> indices of each batch of this rank, see `order`.
        length: number of batches in an epoch.
        workers: number of threads or processes that read ahead.
        on_bad: what to do about an image that cannot be read: raise, or count (yield a grey image
            with label -100, which loss and metrics leave out).
    """

    def __init__(
        self,
        images: Images,
        augment: Callable[[int], Augment],
        seed: int,
        plan: Callable[[int], Iterator[np.ndarray]],
        length: int,
        workers: int = 0,
        on_bad: OnBad = "raise",
    ) -> None:
        self.images = images
        self.augment = augment
        self.seed = seed
        self.plan = plan
        self.length = length
        self.workers = workers
        self.on_bad = on_bad
        self._begin = (0, 0)  # epoch and first batch of the next `iter`
        self._position = (
            0,
            0,
        )  # epoch of the `iter` begun last, and how many of its batches are done

    def __len__(self) -> int:
        return self.length

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from batch `start` on, without reading those before.

        Reading begins at the first `next`; to close the generator ends the threads that read for
        it.
        """
        yield from self._read(epoch, islice(self.plan(epoch), start, None))

    def _read(self, epoch: int, plan: Iterator[np.ndarray]) -> Iterator[Batch]:
        """Yield the batches of these indices; a generator, which ends cleanly when it is closed."""
        raise NotImplementedError

    def close(self) -> None:
        """End the processes that wait for the next epoch; the loader then reads without them."""

    def __iter__(self) -> Iterator[Batch]:
        epoch, start = self._begin
        self._begin = (epoch + 1, 0)
        self._position = (epoch, start)
        with closing(self.batches(epoch, start)) as batches:
            for done, batch in enumerate(batches, start + 1):
                self._position = (epoch, done)
                yield batch

    def set_epoch(self, epoch: int) -> None:
        """Let the next `iter` give this epoch.

        The epoch begins at its first batch, unless `load_state_dict` named another batch of it.
        """
        if epoch != self._begin[0]:
            self._begin = (epoch, 0)

    @property
    def batch_sampler(self) -> SimpleNamespace:
        """Place of `sampler.set_epoch`, which Lightning's Trainer calls before each epoch."""
        return SimpleNamespace(sampler=SimpleNamespace(set_epoch=self.set_epoch))

    def state_dict(self) -> dict[str, int]:
        """Return the epoch of the `iter` begun last, and how many batches were handed out."""
        epoch, batch = self._position
        return {"epoch": epoch, "batch": batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next `iter` go on at a saved position, unless `set_epoch` names another epoch."""
        self._begin = (state["epoch"], state["batch"])
        self._position = self._begin
