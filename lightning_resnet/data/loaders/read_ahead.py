"""Read files larger than memory by page: pages of coming batches early, finished pages dropped.

A .beton is read with `pread` through the system's page cache, which ranks share. If the file fits
into the job's memory, nothing is faster (cache `os`). If not, the system drops pages at random that
will be needed again; cache `process` tells the system by `posix_fadvise` which pages come and which
are done, and holds about two windows of `order.WINDOW` pages. Reading 369 MB from a local disk,
cold, windows of 64 MB (median of 3): order `global` 421 MB/s, `pages` 605, with `process` 645,
which held 135 MB of page cache instead of all. Two cores decode 160 MB/s: there the loader was not
faster.
"""

import os
from collections.abc import Iterator
from typing import Literal

import numpy as np
from pytorch_lightning.utilities import rank_zero_only

from lightning_resnet.data.beton.format import Beton
from lightning_resnet.data.images import BetonImages
from lightning_resnet.data.order import Order
from lightning_resnet.errors import UserError
from lightning_resnet.machine import memory

Cache = Literal["auto", "os", "process"]
AHEAD = 8  # batches whose pages are read before they are asked for
MEMORY_SHARE = 0.8  # share of the job's memory up to which a file is taken to fit


def by_process(cache: Cache, size: int, order: Order) -> bool:
    """Tell whether this process manages the cached pages of a file of `size` bytes.

    Raises:
        UserError: cache is "process" and the order is not by pages.
    """
    if cache == "process" and order != "pages":
        raise UserError(
            "--data.cache process reads complete pages: add --data.order pages, or take "
            "--data.cache os"
        )
    large = cache == "auto" and size > MEMORY_SHARE * memory()
    if large and order != "pages":
        rank_zero_only(print)(
            f"warning: the training file has {size / 1e9:.1f} GB, this job "
            f"{memory() / 1e9:.1f} GB of memory; --data.order pages reads such files a few pages "
            "at a time, --data.cache os silences this"
        )
    return cache == "process" or (large and order == "pages")


def read_ahead(images: BetonImages, plan: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the same batches; the system reads pages of coming batches and drops finished pages.

    Args:
        images: the split.
        plan: indices of each batch, in an order by pages.
    """
    batches = list(plan)
    file = images.file
    if not batches or not hasattr(os, "posix_fadvise"):
        yield from batches
        return
    size = max(1, file.page_size)
    positions = images.positions[np.concatenate(batches) % len(images)]
    numbers, page = np.unique(file.images["data_ptr"][positions] // size, return_inverse=True)
    batch = np.repeat(np.arange(len(batches)), [len(b) for b in batches])
    first = np.empty(len(numbers), int)
    last = np.empty(len(numbers), int)
    first[page[::-1]] = batch[::-1]
    last[page] = batch
    first = np.maximum(first, AHEAD)
    for i, indices in enumerate(batches):
        _advise(file, numbers[first == i + AHEAD], os.POSIX_FADV_WILLNEED)
        yield indices
        _advise(file, numbers[last == i], os.POSIX_FADV_DONTNEED)


def _advise(file: Beton, pages: np.ndarray, advice: int) -> None:
    inside = pages < file.size // file.page_size + 1  # the decoder reports damaged pointers
    for page in pages[inside].tolist():
        os.posix_fadvise(file.fd, page * file.page_size, file.page_size, advice)
