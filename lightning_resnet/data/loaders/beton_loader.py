"""The loader of .beton files: FFCV's format, the torch loader's order and draws, our own decoder.

Nothing runs until the first batch is asked for. However an epoch ends (exhausted, broken off, an
exception on either side), the loader's one thread ends with the epoch. A batch on the CPU belongs
to the caller: its memory is used again only when the caller holds no reference to the batch.
"""

import sys
import threading
from collections.abc import Iterator
from queue import Empty, Full, Queue
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_resnet.data.loaders.base import Batch, Loader
from lightning_resnet.data.loaders.read_ahead import read_ahead
from lightning_resnet.data.loaders.read_batch import read_beton
from lightning_resnet.errors import UserError

THREAD_NAME = "FFCVLoader"
AHEAD = 3  # batches decoded before they are asked for
HANG_S = 300.0  # seconds without a batch after which storage is taken to hang


class FFCVLoader(Loader):
    """A loader of `BetonImages` whose workers are threads that decode.

    Args:
        *args: see `Loader`.
        by_process: read pages ahead, see `read_ahead`.
        **kwargs: see `Loader`.
    """

    def __init__(self, *args: Any, by_process: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.by_process = by_process
        self._buffers: list[np.ndarray] = []

    def _read(self, epoch: int, plan: Iterator[np.ndarray]) -> Iterator[Batch]:
        queue: Queue = Queue(AHEAD)
        stop = threading.Event()
        thread = threading.Thread(
            target=self._produce, args=(epoch, plan, queue, stop), name=THREAD_NAME, daemon=True
        )
        thread.start()
        try:
            while (item := queue.get(timeout=HANG_S)) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        except Empty:
            thread = None  # it hangs, and ends with the process
            raise UserError(
                f"no batch from {self.images.file.path} for {HANG_S:.0f} s: the storage does not "
                "answer; run the command again once it does"
            ) from None
        finally:
            stop.set()
            if thread:
                thread.join(HANG_S)

    def _produce(
        self, epoch: int, plan: Iterator[np.ndarray], queue: Queue, stop: threading.Event
    ) -> None:
        """Put batches into the queue, then None or the exception that ended this thread."""
        last: BaseException | None = None
        try:
            for at in read_ahead(self.images, plan) if self.by_process else plan:
                if not _put(queue, self._make(epoch, at), stop):
                    return
        except BaseException as e:  # noqa: BLE001 -- raised again in the training loop
            last = e
        _put(queue, last, stop)

    def _make(self, epoch: int, at: np.ndarray) -> Batch:
        augment = self.augment(epoch)
        threads = max(1, self.workers)
        return read_beton(
            self.images, augment, self.seed, epoch, at, self.on_bad, threads, self._buffer
        )

    def _buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return memory for a batch: pinned for a GPU, else an unused buffer or a new one."""
        if torch.cuda.is_available():
            # torch keeps pinned memory until its copies are done, and then reuses it
            return torch.empty(shape, dtype=dtype, pin_memory=True)
        self._buffers = [b for b in self._buffers if b.shape[1:] == shape[1:]]
        for i in range(len(self._buffers)):
            if len(self._buffers[i]) >= shape[0] and _is_unused(self._buffers, i):
                return torch.from_numpy(self._buffers[i][: shape[0]])
        self._buffers.append(np.empty(shape, np.uint8))
        return torch.from_numpy(self._buffers[-1])


def _is_unused(buffers: list[np.ndarray], i: int) -> bool:
    """Tell whether only the list refers to buffer i: no batch of this memory is left."""
    return sys.getrefcount(buffers[i]) == 2  # the list's reference and that of this call


def _check_reference_counts() -> None:
    """Check the counts that `_is_unused` relies on; with others, it would free batches in use."""
    buffers = [np.empty(1, np.uint8)]
    assert _is_unused(buffers, 0), (
        "this Python counts references otherwise than CPython 3.11 to 3.13"
    )
    batch = torch.from_numpy(buffers[0][:1])
    assert not _is_unused(buffers, 0), "a tensor does not hold the array whose memory it shares"
    del batch
    assert _is_unused(buffers, 0), "a tensor outlives its last reference"


_check_reference_counts()


def _put(queue: Queue, item: object, stop: threading.Event) -> bool:
    """Put an item into the queue; return False if the epoch was stopped instead."""
    while not stop.is_set():
        try:
            queue.put(item, timeout=0.1)
            return True
        except Full:
            continue
    return False
