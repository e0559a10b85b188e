"""The loader that reads every storage: in this process, or in worker processes of a DataLoader."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.queues import Queue
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from lightning_resnet.data.augment.crops import Augment
from lightning_resnet.data.images import Images
from lightning_resnet.data.loaders.base import Batch, Loader, OnBad
from lightning_resnet.data.loaders.beton_loader import HANG_S
from lightning_resnet.data.loaders.read_batch import read
from lightning_resnet.errors import UserError, one_line

CAN_WAIT = hasattr(signal, "sigwaitinfo")  # for a signal; not on a Mac


class TorchLoader(Loader):
    """A loader whose workers are processes; 0 workers: this process reads."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reader = Reader(self.images, self.augment, self.seed, self.on_bad)
        self._plan: list[
            tuple[int, np.ndarray]
        ] = []  # the epoch's batches, as the workers' sampler
        self._pool = self._make_pool(self.workers) if self.workers else None

    def _read(self, epoch: int, plan: Iterator[np.ndarray]) -> Iterator[Batch]:
        self._plan[:] = [(epoch, positions) for positions in plan]
        if self._pool is None:
            yield from map(self._reader.__getitem__, self._plan)
            return
        try:
            with _sigterm_blocked():  # processes start with what is blocked here
                batches = iter(self._pool)
            yield from batches
        except RuntimeError as e:
            if not str(e).startswith("DataLoader "):  # timed out, exited, killed
                raise
            raise UserError(
                f"a process that reads images does not answer, or died ({one_line(e)}), probably "
                "for lack of memory or of shared memory; --data.workers 0 reads in this process, "
                "docker --shm-size 8g gives more"
            ) from e

    def close(self) -> None:
        """End the worker processes; the loader then reads without them."""
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
            worker_init_fn=partial(_start, parent=os.getpid()),
        )


def _start(worker: int, parent: int) -> None:
    """Let a worker process exit if it cannot hand over a batch, so that nothing waits for it.

    A SIGTERM to the process group leaves the workers alive, so that the training can save; one of
    the training itself ends them.
    """
    Queue._on_queue_feeder_error = staticmethod(_fail)
    if CAN_WAIT:
        threading.Thread(target=_end_by, args=(parent,), daemon=True).start()


@contextmanager
def _sigterm_blocked() -> Iterator[None]:
    """Block SIGTERM for the duration of the context, where workers can wait for it."""
    if not CAN_WAIT:
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_by(parent: int) -> None:
    """Wait for a SIGTERM of the process that reads the batches, and end this one."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        continue
    os._exit(143)


def _fail(error: BaseException, batch: object) -> None:
    print(f"a batch could not be handed over: {one_line(error)}", file=sys.stderr, flush=True)
    os._exit(1)


class Reader(Dataset):
    """The worker processes' data set: (epoch, indices) -> batch."""

    def __init__(
        self, images: Images, augment: Callable[[int], Augment], seed: int, on_bad: OnBad
    ) -> None:
        self.images = images
        self.augment = augment
        self.seed = seed
        self.on_bad = on_bad

    def __getitem__(self, item: tuple[int, np.ndarray]) -> Batch:
        epoch, at = item
        return read(self.images, self.augment(epoch), self.seed, epoch, at, self.on_bad)
