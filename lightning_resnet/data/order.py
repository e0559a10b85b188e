"""Which sample, when: pure functions of (seed, epoch, ...).

An epoch is a sequence of visits, int64: the position of a sample, plus n times the number of the repeat. The sequence
of global batches does not depend on the world size: rank r takes the r-th of `world` equal contiguous slices of each.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np

from lightning_resnet.data.hashing import hash64

Order = Literal["global", "pages", "repeat"]
WINDOW = 64  # pages that are mixed: 512 MiB of FFCV's
_PAGES = 1  # tells hashes of pages from those of samples


def permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    """Order `global`: the n samples [n], each place as likely for each."""
    return np.argsort(hash64(seed, epoch, np.arange(n)), kind="stable")


def page_order(seed: int, epoch: int, pages: np.ndarray, batch_size: int, window: int = WINDOW) -> np.ndarray:
    """Order `pages`, for files larger than memory: every sample once, read from few pages at a time.

    Pages come in random order, new each epoch; the samples of each `window` of them are shuffled. A batch so mixes up
    to `window` pages, less random than `global` by how alike the samples of a page are (`data write` shuffles them).
    Within a global batch samples stand by page: ranks read from different pages, and Mixup's partners often share one.

    Args:
        seed: of the run.
        epoch: 0-based.
        pages: on which page each sample is, counted from 0 [n].
        batch_size: images per optimizer step.
        window: number of pages.
    """
    turn = np.argsort(np.argsort(hash64(seed, epoch, _PAGES, np.arange(pages.max() + 1)), kind="stable"))[pages]
    order = np.lexsort((hash64(seed, epoch, np.arange(len(pages))), turn // window))
    return _within_batches(order, turn[order], batch_size)


def repeat_order(seed: int, epoch: int, n: int, batch_size: int, repeats: int) -> np.ndarray:
    """Order `repeat` (repeated augmentation, Hoffer et al. 2020): n visits, of n / `repeats` samples drawn anew.

    The repeats of a sample are in one global batch (or two, where one ends), as far apart as can be: on different
    ranks, as torchvision's RASampler has them, and no partners of one another for Mixup.
    """
    sample, repeat = np.divmod(np.arange(n), repeats)
    return _within_batches(permutation(seed, epoch, n)[sample] + n * repeat, repeat, batch_size)


def train_batches(
    order: np.ndarray, batch_size: int, rank: int = 0, world: int = 1, parts: int = 1
) -> Iterator[np.ndarray]:
    """This rank's share of each global batch of an epoch; the ragged tail is dropped.

    Args:
        order: visits of the epoch [n].
        batch_size: images per optimizer step over all ranks and accumulation.
        rank: this process's.
        world: number of ranks.
        parts: micro-batches per optimizer step (accumulation).

    Yields:
        Visits [batch_size / world / parts].
    """
    share = batch_size // world
    for start in range(rank * share, len(order) // batch_size * batch_size, batch_size):
        yield from order[start : start + share].reshape(parts, -1)


def eval_batches(n: int, batch_size: int, rank: int = 0, world: int = 1) -> Iterator[np.ndarray]:
    """This rank's share of 0..n-1, unpadded: over all ranks every sample once; batches of at most `batch_size`."""
    start, end = n * rank // world, n * (rank + 1) // world
    for i in range(start, end, batch_size):
        yield np.arange(i, min(i + batch_size, end))


def _within_batches(order: np.ndarray, key: np.ndarray, batch_size: int) -> np.ndarray:
    """Each global batch sorted by `key`, of equal ones as they came."""
    return order[np.lexsort((key, np.arange(len(order)) // batch_size))]
