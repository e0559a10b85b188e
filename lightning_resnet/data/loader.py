"""What both loaders have in common: one epoch per pass, which may begin where an earlier process was stopped."""

from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from typing import Literal

import numpy as np
from torch import Tensor

from lightning_resnet.data.augment import Augment
from lightning_resnet.data.sources import Images

Batch = tuple[Tensor, Tensor]
OnBad = Literal["raise", "count"]
IGNORED = -100  # label of a picture that could not be read: cross entropy's ignore_index


class Loader:
    """One epoch per `iter`, begun at the first `next`; what it yields is a function of (seed, epoch) alone.

    Args:
        images: a split.
        augment: epoch -> what happens to the pictures.
        seed: of the run.
        batches: (epoch, number of the first batch) -> positions of each batch of this rank; n more is another repeat.
        length: number of batches.
        epoch: asked at the first `next` of each pass.
        workers: threads or processes that read ahead.
        on_bad: of a .beton: raise, or count: a grey picture whose label is -100, which loss and metrics leave out.

    Attributes:
        bad: pictures handed out so far that could not be read.
    """

    def __init__(
        self,
        images: Images,
        augment: Callable[[int], Augment],
        seed: int,
        batches: Callable[[int, int], Iterable[np.ndarray]],
        length: int,
        epoch: Callable[[], int] = lambda: 0,
        workers: int = 0,
        on_bad: OnBad = "raise",
    ) -> None:
        self.images, self.augment, self.seed, self.batches = images, augment, seed, batches
        self.length, self.epoch, self.workers, self.on_bad = length, epoch, workers, on_bad
        self.bad = 0
        self._state = {"epoch": 0, "batch": 0}
        self._resumed: dict[str, int] | None = None

    def __len__(self) -> int:
        """Batches of a whole epoch, wherever the next pass begins."""
        return self.length

    def __iter__(self) -> Generator[Batch, None, None]:
        epoch = self.epoch()
        resumed, self._resumed = self._resumed, None
        start = resumed["batch"] if resumed and resumed["epoch"] == epoch else 0
        state = self._state = {"epoch": epoch, "batch": start}
        with closing(self._read(epoch, self.batches(epoch, start))) as batches:
            for batch in batches:
                state["batch"] += 1
                if self.on_bad == "count":
                    self.bad += int((batch[1] == IGNORED).sum())
                yield batch

    def state_dict(self) -> dict[str, int]:
        """Epoch of the last pass that began, and how many of its batches were handed out."""
        return dict(self._state)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """The next pass, if it is of that epoch, begins at that batch without reading those before it."""
        self._state = self._resumed = {"epoch": state["epoch"], "batch": state["batch"]}

    def _read(self, epoch: int, plan: Iterable[np.ndarray]) -> Generator[Batch, None, None]:
        """The batches at these positions; whatever works at them ends when this is closed."""
        raise NotImplementedError
