"""The order of the samples: pure functions of (seed, epoch, ...).

An epoch is a sequence of indices, int64: the position of a sample in the split, plus n times the
number of the repeat. The sequence of global batches does not depend on the world size: rank r takes
the r-th of `world` equal contiguous slices of each.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np

from lightning_resnet.data.hashing import hash64

Order = Literal["global", "pages", "repeat"]
WINDOW = 64  # pages that are mixed: 512 MiB at FFCV's page size
_PAGES = 1  # tells hashes of pages from those of samples


def permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    """Return order `global`: a uniform random permutation of the n samples, int64 [n]."""
    return np.argsort(hash64(seed, epoch, np.arange(n)), kind="stable")


def page_order(
    seed: int, epoch: int, pages: np.ndarray, batch_size: int, window: int = WINDOW
) -> np.ndarray:
    """Return order `pages`, for files larger than memory: every sample once, int64 [n].

    Pages come in an order drawn for each epoch; the samples of each `window` pages are shuffled. A
    batch therefore mixes up to `window` pages. If the samples of a page resemble one another, this
    is less random than `global` (`data write` shuffles the samples). Within a global batch samples
    are sorted by page: ranks read from different pages, and Mixup's partners often share a page.

    Args:
        seed: seed of the run.
        epoch: 0-based.
        pages: on which page each sample is, counted from 0 [n].
        batch_size: images per optimizer step.
        window: number of pages.
    """
    hashes = hash64(seed, epoch, _PAGES, np.arange(pages.max() + 1))
    turn = np.argsort(np.argsort(hashes, kind="stable"))[pages]
    order = np.lexsort((hash64(seed, epoch, np.arange(len(pages))), turn // window))
    return _within_batches(order, turn[order], batch_size)


def repeat_order(seed: int, epoch: int, n: int, batch_size: int, repeats: int) -> np.ndarray:
    """Return order `repeat` (repeated augmentation, Hoffer et al. 2020), int64 [n].

    Each epoch draws n / `repeats` samples and visits each of them `repeats` times. The repeats of a
    sample are in one global batch (or in two consecutive ones), as far apart as possible: on
    different ranks, as in torchvision's RASampler, and never partners of one another for Mixup.
    """
    sample, repeat = np.divmod(np.arange(n), repeats)
    return _within_batches(permutation(seed, epoch, n)[sample] + n * repeat, repeat, batch_size)


def train_batches(
    order: np.ndarray, batch_size: int, rank: int = 0, world: int = 1, parts: int = 1
) -> Iterator[np.ndarray]:
    """Yield this rank's micro-batches of an epoch; the ragged tail of the epoch is dropped.

    Args:
        order: indices of the epoch [n].
        batch_size: images per optimizer step over all ranks and accumulation.
        rank: global rank of this process.
        world: world size.
        parts: micro-batches per optimizer step (accumulation).

    Yields:
        Indices [batch_size / world / parts].
    """
    share = batch_size // world
    for start in range(rank * share, len(order) // batch_size * batch_size, batch_size):
        yield from order[start : start + share].reshape(parts, -1)


def eval_batches(n: int, batch_size: int, rank: int = 0, world: int = 1) -> Iterator[np.ndarray]:
    """Yield this rank's share of 0..n-1 in batches of at most `batch_size`.

    Nothing is padded: over all ranks every sample comes once.
    """
    start = n * rank // world
    end = n * (rank + 1) // world
    for i in range(start, end, batch_size):
        yield np.arange(i, min(i + batch_size, end))


def _within_batches(order: np.ndarray, key: np.ndarray, batch_size: int) -> np.ndarray:
    """Sort each global batch by `key`, stably."""
    return order[np.lexsort((key, np.arange(len(order)) // batch_size))]
