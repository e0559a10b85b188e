"""Files larger than memory: read by page, the pages of coming batches early, those that are done dropped.

A .beton is read with `pread` through the system's page cache, which ranks share: where the file fits into the job's
memory nothing beats that (`os`). Where it does not, the system drops at random what it will need again; `process` tells
it by `posix_fadvise` what comes and what is done, and holds about two windows of `order.WINDOW` pages. Reading 369 MB
off a local disk, cold, windows of 64 MB (median of 3): order `global` 421 MB/s, `pages` 605, with `process` 645, which
held 135 MB of page cache instead of all. Two cores decode 160 MB/s: there the loader was not faster by it.
"""

import os
from collections.abc import Iterator
from typing import Literal

import numpy as np
from pytorch_lightning.utilities import rank_zero_only

from lightning_resnet.data.beton.format import Beton
from lightning_resnet.data.images import Images
from lightning_resnet.data.order import Order
from lightning_resnet.errors import UserError
from lightning_resnet.machine import memory

Cache = Literal["auto", "os", "process"]
AHEAD = 8  # batches whose pages are read before they are asked for
SHARE = 0.8  # of the job's memory that a file may have and still be taken to fit


def by_process(cache: Cache, size: int, order: Order) -> bool:
    """Whether this process looks after the pages of a file of `size` bytes.

    Raises:
        UserError: it shall, and the order is not by pages.
    """
    if cache == "process" and order != "pages":
        raise UserError("--data.cache process reads whole pages: add --data.order pages, or take --data.cache os")
    large = cache == "auto" and size > SHARE * memory()
    if large and order != "pages":
        rank_zero_only(print)(
            f"careful: the training file has {size / 1e9:.1f} GB, this job {memory() / 1e9:.1f} GB of memory; "
            "--data.order pages reads such files a few pages at a time, --data.cache os silences this"
        )
    return cache == "process" or (large and order == "pages")


def read_ahead(images: Images, plan: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """The same batches; the system meanwhile reads the pages of those to come, and drops the ones that are done.

    Args:
        images: a split in a .beton.
        plan: visits of each batch, in an order by pages.
    """
    batches, file = list(plan), images.file
    if not batches or not hasattr(os, "posix_fadvise"):
        yield from batches
        return
    size = max(1, file.page_size)
    positions = images.positions[np.concatenate(batches) % len(images)]
    numbers, page = np.unique(file.images["data_ptr"][positions] // size, return_inverse=True)
    batch = np.repeat(np.arange(len(batches)), [len(b) for b in batches])
    first, last = np.empty(len(numbers), int), np.empty(len(numbers), int)
    first[page[::-1]], last[page] = batch[::-1], batch
    first = np.maximum(first, AHEAD)
    for i, visits in enumerate(batches):
        _advise(file, numbers[first == i + AHEAD], os.POSIX_FADV_WILLNEED)
        yield visits
        _advise(file, numbers[last == i], os.POSIX_FADV_DONTNEED)


def _advise(file: Beton, pages: np.ndarray, advice: int) -> None:
    for page in pages[pages < file.size // file.page_size + 1].tolist():  # damaged pointers are the decoder's to tell
        os.posix_fadvise(file.fd, page * file.page_size, file.page_size, advice)
