"""Batches on their way to the device: the next one is copied on a stream of its own while a step computes."""

import time
from collections.abc import Iterator
from contextlib import closing

import torch
from torch import Tensor

Batch = tuple[Tensor, ...]


def timed(batches: Iterator[Batch], waits: dict[str, float], what: str) -> Iterator[Batch]:
    """The same batches; ends the iterator it is given when it is closed itself.

    Args:
        batches: a generator.
        waits: the seconds that their taker waits for them are added to `waits[what]`.
        what: its key.
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
    """The same batches there; ends the iterator it is given when it is closed itself.

    Args:
        batches: a generator.
        device: on the CPU nothing is done.
    """
    if device.type == "cpu":
        return batches
    return _ahead(batches, device) if device.type == "cuda" else _plain(batches, device)


def _plain(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    try:
        for batch in batches:
            yield tuple(t.to(device, non_blocking=True) for t in batch)
    finally:
        batches.close()


def _ahead(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """One batch ahead; the computing stream waits for the copy, and the copy's memory for the computing stream."""
    side = torch.cuda.Stream(device)

    def copy() -> tuple[Batch, torch.cuda.Event] | None:
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
