"""Copy batches to the device: the next batch is copied on a side stream while a step computes."""

import time
from collections.abc import Iterator
from contextlib import closing

import torch
from torch import Tensor

Batch = tuple[Tensor, ...]


def timed(batches: Iterator[Batch], waits: dict[str, float], what: str) -> Iterator[Batch]:
    """Yield the same batches, and measure how long the consumer waits for them.

    Closing this generator closes `batches`.

    Args:
        batches: generator of batches.
        waits: the seconds of waiting are added to `waits[what]`.
        what: key in `waits`.
    """
    with closing(batches):
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            waits[what] += time.perf_counter() - start
            if batch is None:
                return
            yield batch


def on_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Return a generator of the same batches on a device.

    Closing the returned generator closes `batches`.

    Args:
        batches: generator of batches in host memory.
        device: device to copy to; for the CPU, `batches` itself is returned.
    """
    if device.type == "cpu":
        return batches
    return _ahead(batches, device) if device.type == "cuda" else _plain(batches, device)


def _plain(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Copy each batch when the consumer asks for it."""
    try:
        for batch in batches:
            yield tuple(t.to(device, non_blocking=True) for t in batch)
    finally:
        batches.close()


def _ahead(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Copy one batch ahead on a side stream of a CUDA device.

    The current stream waits for the copy of a batch. The memory of the copy is not reused before
    the current stream has finished with the batch.
    """
    side = torch.cuda.Stream(device)

    def copy() -> tuple[Batch, torch.cuda.Event] | None:
        """Start the copy of the next batch; None at the end of the batches."""
        if (batch := next(batches, None)) is None:
            return None
        with torch.cuda.stream(side):
            return tuple(t.to(device, non_blocking=True) for t in batch), side.record_event()

    try:
        coming = copy()
        while coming is not None:
            batch, copied = coming
            torch.cuda.current_stream(device).wait_event(copied)
            for t in batch:
                t.record_stream(torch.cuda.current_stream(device))
            coming = copy()
            yield batch
    finally:
        batches.close()
