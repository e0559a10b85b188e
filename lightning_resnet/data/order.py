"""Which sample, when: pure functions of (seed, epoch) and the number of samples, of a file's pages or of repeats.

An order lists the samples of an epoch as positions in the split 0..n-1; k n more means the k-th repeat of that sample,
with other draws. The sequence of global batches does not depend on the world size: rank r takes the r-th of `world`
equal contiguous slices of each.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np

from lightning_resnet.data.hashing import hash64

Order = Literal["global", "pages", "repeat"]
WINDOW = 64  # pages that are shuffled together, 512 MiB of our files; part of a run's definition
_PAGES = 1  # makes the pages' random numbers others than the samples'


def permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    """Order `global`: all n samples shuffled; positions [n], int64."""
    return np.argsort(hash64(seed, epoch, np.arange(n)), kind="stable")


def by_pages(seed: int, epoch: int, pages: np.ndarray, window: int = WINDOW) -> np.ndarray:
    """Order `pages`: every page of the file is read in one stretch, for files larger than memory.

    Each epoch deals the pages at random into groups of `window`; samples are shuffled evenly within a group and never
    leave it. So any two samples of different pages may meet in a batch, in some epoch; those of a page stay within
    window / pages of the epoch, where `global` spreads them over all of it. Write files shuffled (the default).

    Args:
        seed: of the run.
        epoch: 0-based.
        pages: of the file in which each sample lies [n].
        window: pages in a group.

    Returns:
        Positions [n], int64: each sample once.
    """
    kinds, page = np.unique(pages, return_inverse=True)
    turn = np.argsort(np.argsort(hash64(seed, epoch, np.arange(len(kinds)), _PAGES), kind="stable"))
    return np.lexsort((hash64(seed, epoch, np.arange(len(pages))), turn[page] // window))


def repeated(seed: int, epoch: int, n: int, batch_size: int, repeats: int) -> np.ndarray:
    """Order `repeat`: 1 / `repeats` of the samples, each `repeats` times in a global batch (Hoffer et al. 2020).

    As torchvision's RASampler, an epoch is as long as without. A batch holds its samples once each, then again: the
    copies of one sample go to different ranks where there are as many.

    Returns:
        Positions + n * number of the repeat [n], int64.
    """
    place = np.arange(n)
    place = place[np.lexsort((place % repeats, place // batch_size))]
    return permutation(seed, epoch, n)[place // repeats] + n * (place % repeats)


def train_batches(
    order: np.ndarray, batch_size: int, rank: int = 0, world: int = 1, start: int = 0, parts: int = 1
) -> Iterator[np.ndarray]:
    """This rank's share of each global batch; the ragged tail of the epoch is dropped.

    Args:
        order: of the epoch [n].
        batch_size: images per optimizer step over all ranks and accumulation.
        rank: this process's.
        world: number of ranks.
        start: in micro-batches: how many of this rank's were taken already.
        parts: micro-batches per optimizer step (accumulation).

    Yields:
        A slice of the order [batch_size / world / parts].
    """
    share = batch_size // world
    for i in range(start, len(order) // batch_size * parts):
        batch, part = divmod(i, parts)
        first = batch * batch_size + rank * share
        yield order[first : first + share].reshape(parts, -1)[part]


def eval_batches(n: int, batch_size: int, rank: int = 0, world: int = 1) -> Iterator[np.ndarray]:
    """This rank's share of 0..n-1, unpadded: over all ranks every sample once; batches of at most `batch_size`."""
    start, end = n * rank // world, n * (rank + 1) // world
    for i in range(start, end, batch_size):
        yield np.arange(i, min(i + batch_size, end))
