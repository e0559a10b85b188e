"""The loader of .beton files: FFCV's format, the order and draws of the torch loader, a decoder of our own.

Nothing runs until the first batch is asked for, and however an epoch ends (exhausted, broken off, an exception on
either side) its one thread ends with it. A batch on the CPU is the caller's own: its memory is used again only once
the caller has let go of it.
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
from lightning_resnet.data.loaders.read_batch import read

NAME = "FFCVLoader"  # of the threads
AHEAD = 3  # batches decoded before they are asked for
HANG_S = 300.0  # seconds without a batch after which storage is taken to hang


class FFCVLoader(Loader):
    """See `Loader`; the images are in a .beton, the workers are threads that decode.

    Args:
        by_process: read pages ahead, see `ahead`.
    """

    def __init__(self, *args: Any, by_process: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.by_process = by_process
        self._buffers: list[np.ndarray] = []

    def _read(self, epoch: int, plan: Iterator[np.ndarray]) -> Iterator[Batch]:
        queue: Queue = Queue(AHEAD)
        stop = threading.Event()
        thread = threading.Thread(target=self._produce, args=(epoch, plan, queue, stop), name=NAME, daemon=True)
        thread.start()
        try:
            while (item := self._next(queue, thread)) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
            thread.join(HANG_S)

    def _next(self, queue: Queue, thread: threading.Thread) -> Batch | BaseException | None:
        """Wait for a batch, but not for ever."""
        try:
            return queue.get(timeout=HANG_S)
        except Empty:
            raise RuntimeError(
                f"no batch from {self.images.file.path} for {HANG_S:.0f} s (thread alive: {thread.is_alive()}): "
                "the storage does not answer"
            ) from None

    def _produce(self, epoch: int, plan: Iterator[np.ndarray], queue: Queue, stop: threading.Event) -> None:
        """In the thread: batches, then None; or the exception that ended it."""
        last: BaseException | None = None
        try:
            for at in read_ahead(self.images, plan) if self.by_process else plan:
                if not _put(queue, self._make(epoch, at), stop):
                    return
        except BaseException as e:  # noqa: BLE001 -- raised again in the training loop
            last = e
        _put(queue, last, stop)

    def _make(self, epoch: int, at: np.ndarray) -> Batch:
        augment, threads = self.augment(epoch), max(1, self.workers)
        return read(self.images, augment, self.seed, epoch, at, threads, self.on_bad, self._buffer)

    def _buffer(self, *shape: int) -> Tensor:
        """Memory for a batch: pinned for a GPU, else some that nobody refers to any more."""
        if torch.cuda.is_available():  # torch keeps pinned memory until its copies are done, and then reuses it
            return torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        self._buffers = [b for b in self._buffers if b.shape[1:] == shape[1:]]
        for i in range(len(self._buffers)):
            if len(self._buffers[i]) >= shape[0] and _is_unused(self._buffers, i):
                return torch.from_numpy(self._buffers[i][: shape[0]])
        self._buffers.append(np.empty(shape, np.uint8))
        return torch.from_numpy(self._buffers[-1])


def _is_unused(buffers: list[np.ndarray], i: int) -> bool:
    """Tell whether only the list refers to buffer i, so that no batch made of its memory is left."""
    return sys.getrefcount(buffers[i]) == 2  # the list's reference and that of this call


def _check_reference_counts() -> None:
    """Hold what `_is_unused` relies on: a Python that counts otherwise would overwrite batches in use."""
    buffers = [np.empty(1, np.uint8)]
    assert _is_unused(buffers, 0), "this Python counts references otherwise than CPython 3.11 to 3.13"
    batch = torch.from_numpy(buffers[0][:1])
    assert not _is_unused(buffers, 0), "a tensor does not hold the array whose memory it shares"
    del batch
    assert _is_unused(buffers, 0), "a tensor outlives its last reference"


_check_reference_counts()


def _put(queue: Queue, item: object, stop: threading.Event) -> bool:
    """Hand over; False once nobody wants it."""
    while not stop.is_set():
        try:
            queue.put(item, timeout=0.1)
            return True
        except Full:
            continue
    return False
