"""The loader of .beton files: FFCV's format, the order and draws of the torch loader, a decoder of our own.

Nothing runs until the first batch is asked for, and however an epoch ends (exhausted, broken off, an exception on
either side) its one thread ends with it. A batch on the CPU is the caller's own: its memory is used again only once
the caller has let go of it.
"""

import math
import sys
import threading
from collections.abc import Callable, Iterator
from queue import Empty, Full, Queue
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_resnet.data import kernel
from lightning_resnet.data.ahead import read_ahead
from lightning_resnet.data.augment import Augment, draw, finish
from lightning_resnet.data.loader import Batch, Loader, OnBad
from lightning_resnet.data.machine import memory
from lightning_resnet.data.sources import Images
from lightning_resnet.errors import UserError

NAME = "FFCVLoader"  # of the threads
AHEAD = 3  # batches decoded before they are asked for
HANG_S = 300.0  # seconds without a batch after which storage is taken to hang
LARGE_BATCH = 1 << 29  # bytes; below it memory is not asked for
IGNORED = -100  # label of a picture that could not be read: cross entropy's ignore_index


class FFCVLoader(Loader):
    """See `Loader`; the images are in a .beton, the workers are threads that decode.

    Args:
        by_process: read pages ahead, see `ahead`.
    """

    def __init__(self, *args: Any, by_process: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.by_process = by_process
        self._buffers: list[np.ndarray] = []

    def _pass(self, epoch: int, plan: Iterator[np.ndarray]) -> Iterator[Batch]:
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
        for b in self._buffers:
            if sys.getrefcount(b) == 3 and len(b) >= shape[0]:  # referred to by the list, the loop and this call
                return torch.from_numpy(b[: shape[0]])
        self._buffers.append(np.empty(shape, np.uint8))
        return torch.from_numpy(self._buffers[-1])


def read(
    images: Images,
    augment: Augment,
    seed: int,
    epoch: int,
    at: np.ndarray,
    threads: int = 1,
    on_bad: OnBad = "raise",
    empty: Callable[..., Tensor] | None = None,
) -> Batch:
    """One batch of a split in a .beton.

    Args:
        images: the split.
        augment: of the pictures.
        seed: of the run.
        epoch: 0-based.
        at: visits of the split [B], see `order`.
        threads: to decode on.
        on_bad: see `Loader`.
        empty: gives a uint8 tensor of a shape; default: a new one.

    Raises:
        UserError: the file changed, or pictures cannot be read and `on_bad` is raise.
    """
    file = images.file
    file.check_unchanged()
    repeat, at = np.divmod(at, len(images))
    positions = images.positions[at]
    stored = file.images[positions]
    boxes, flips, size = draw(augment, seed, epoch, images.ids[at], stored["height"], stored["width"], repeat)
    shape = (len(at), size, size, 3)
    _check_memory(shape)
    out = empty(*shape) if empty else torch.empty(shape, dtype=torch.uint8)
    status = kernel.decode(file, kernel.make_items(file, positions, boxes, flips), out.numpy(), threads)
    labels = torch.from_numpy(images.labels[at])
    if status.any():
        if on_bad == "raise":
            raise UserError(
                f"{file.path}: {kernel.describe(file, positions, status)}; `resnet-cli data verify` lists all, "
                "--data.on_bad count goes on without them"
            )
        labels[torch.from_numpy(status != 0)] = IGNORED
    pictures = out.permute(0, 3, 1, 2)
    finish(augment, pictures, seed, epoch, images.ids[at], repeat, threads)
    return pictures, labels


def _check_memory(shape: tuple[int, ...]) -> None:
    """Refuse images so large as they are stored that a batch of them takes the memory; a damaged file may say so."""
    needed = math.prod(shape)
    if needed > LARGE_BATCH and needed > memory() // 4:
        raise UserError(
            f"a batch of {shape[0]} images of {shape[1]}x{shape[2]} pixels takes {needed / 1e9:.1f} GB: set "
            "--data.size to the pixels per side, or lower --data.batch_size"
        )


def _put(queue: Queue, item: object, stop: threading.Event) -> bool:
    """Hand over; False once nobody wants it."""
    while not stop.is_set():
        try:
            queue.put(item, timeout=0.1)
            return True
        except Full:
            continue
    return False
