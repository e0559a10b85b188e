"""Which sample, when: a pure function of (seed, epoch, n, rank, world, offset).

The sequence of global batches does not depend on the world size: rank r takes the r-th of `world` equal contiguous
slices of each.
"""

from collections.abc import Iterator

import numpy as np

from lightning_resnet.data.hashing import hash64


def permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    """The order of the n samples in an epoch: positions [n], int64."""
    return np.argsort(hash64(seed, epoch, np.arange(n)), kind="stable")


def train_batches(
    seed: int, epoch: int, n: int, batch_size: int, rank: int = 0, world: int = 1, offset: int = 0, parts: int = 1
) -> Iterator[np.ndarray]:
    """This rank's share of each global batch from number `offset` on; the ragged tail of the epoch is dropped.

    Args:
        seed: of the run.
        epoch: 0-based.
        n: samples.
        batch_size: images per optimizer step over all ranks and accumulation.
        rank: this process's.
        world: number of ranks.
        offset: in micro-batches: how many of this rank's were taken already.
        parts: micro-batches per optimizer step (accumulation).

    Yields:
        Positions [batch_size / world / parts], int64.
    """
    order = permutation(seed, epoch, n)
    share = batch_size // world
    for i in range(offset, n // batch_size * parts):
        batch, part = divmod(i, parts)
        start = batch * batch_size + rank * share
        yield order[start : start + share].reshape(parts, -1)[part]


def eval_batches(n: int, batch_size: int, rank: int = 0, world: int = 1) -> Iterator[np.ndarray]:
    """This rank's share of 0..n-1, unpadded: over all ranks every sample once; batches of at most `batch_size`."""
    start, end = n * rank // world, n * (rank + 1) // world
    for i in range(start, end, batch_size):
        yield np.arange(i, min(i + batch_size, end))
