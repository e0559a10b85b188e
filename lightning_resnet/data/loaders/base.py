"""What the loaders share: a pass per epoch whose batches are a function of (seed, epoch) alone, and where it stands."""

from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from typing import Literal

import numpy as np
from torch import Tensor

from lightning_resnet.data.augment.crops import Augment
from lightning_resnet.data.images import Images

Batch = tuple[Tensor, Tensor]
OnBad = Literal["raise", "count"]


class Loader:
    """One epoch per `iter`, begun at the first `next`; yields `(uint8 images [B, 3, H, W], int64 labels [B])`.

    Args:
        images: a split.
        augment: epoch -> what happens to the pictures.
        seed: of the run.
        batches: epoch -> visits of each batch of this rank, see `order`.
        length: number of batches.
        epoch: asked at the first `next` of each pass.
        workers: threads or processes that read ahead.
        on_bad: an image that cannot be read: raise, or count: a grey image whose label is -100, which loss and
            metrics leave out.
    """

    def __init__(
        self,
        images: Images,
        augment: Callable[[int], Augment],
        seed: int,
        batches: Callable[[int], Iterator[np.ndarray]],
        length: int,
        epoch: Callable[[], int] = lambda: 0,
        workers: int = 0,
        on_bad: OnBad = "raise",
    ) -> None:
        self.images, self.augment, self.seed, self.batches = images, augment, seed, batches
        self.length, self.epoch, self.workers, self.on_bad = length, epoch, workers, on_bad
        self._state = {"epoch": 0, "batch": 0}
        self._loaded = False

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Batch]:
        epoch = self.epoch()
        if not self._loaded or self._state["epoch"] != epoch:
            self._state = {"epoch": epoch, "batch": 0}
        self._loaded = False
        plan = islice(self.batches(epoch), self._state["batch"], None)
        with closing(self._pass(epoch, plan)) as batches:
            for batch in batches:
                self._state["batch"] += 1
                yield batch

    def close(self) -> None:
        """End processes that wait for the next pass; it would read without them."""

    def _pass(self, epoch: int, plan: Iterator[np.ndarray]) -> Iterator[Batch]:
        """A generator of the batches of these visits, which ends cleanly when it is closed."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, int]:
        """Epoch of the pass that was begun last, and how many of its batches were handed out."""
        return dict(self._state)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next pass, if it is of this epoch, begin at this batch, without reading those before."""
        self._state, self._loaded = dict(state), True
