"""Encode images in several processes; results come in order, and a dead process is an error."""

import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process

from lightning_resnet.data.beton.encode import (
    EncodeFailure,
    EncodeJob,
    EncodeOptions,
    Sample,
    encode,
)
from lightning_resnet.errors import UserError

Encoded = list[Sample | EncodeFailure]


def encode_chunks(
    chunks: Iterator[list[EncodeJob]], options: EncodeOptions, workers: int
) -> Iterator[Encoded]:
    """Encode chunk by chunk.

    Args:
        chunks: chunks of tasks; only a few are taken ahead, which bounds the memory.
        options: how to store.
        workers: number of processes; 1 works in this process.

    Yields:
        The results of each chunk, in order.
    """
    if workers <= 1:
        yield from (encode_chunk(chunk, options) for chunk in chunks)
        return
    # Spawned, because a fork of a process that has threads (torch's, numba's) can hang.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start)
    try:
        yield from _in_order(pool, chunks, options, 2 * workers)
    except (BrokenProcessPool, MemoryError) as e:
        raise UserError(
            "a process that encodes images died, probably for lack of memory; the same command "
            "continues, with --workers 1 in the least memory"
        ) from e
    finally:
        pool.shutdown(cancel_futures=True)


def encode_chunk(chunk: list[EncodeJob], options: EncodeOptions) -> Encoded:
    """Encode a chunk; the work of a worker process."""
    return [encode(task, options) for task in chunk]


def _in_order(
    pool: ProcessPoolExecutor, chunks: Iterator[list[EncodeJob]], options: EncodeOptions, ahead: int
) -> Iterator[Encoded]:
    pending = deque()
    for chunk in chunks:
        pending.append(pool.submit(encode_chunk, chunk, options))
        if len(pending) > ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _start() -> None:
    """Leave Ctrl-C to the parent process, and exit when the parent was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=lambda: (parent_process().join(), os._exit(1)), daemon=True).start()
