"""Where a .beton is read from: a copy on the node's own disk, and pages read ahead for a file larger than memory."""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from lightning_resnet.data.beton import Beton, manifest_path
from lightning_resnet.data.limits import memory
from lightning_resnet.data.order import WINDOW
from lightning_resnet.data.sources import Images
from lightning_resnet.errors import UserError

Cache = Literal["auto", "os", "process"]
BLOCK = 1 << 24  # bytes copied at once
LAG = 16  # batches after its last use that a page is dropped: another rank of the node may be behind


def stage(file: Beton, folder: str) -> Beton:
    """The same file out of `folder`, a disk of this node: copied there once, under a lock; used again if still whole.

    Args:
        file: to copy.
        folder: may name environment variables, such as $SLURM_TMPDIR.

    Raises:
        UserError: the folder is missing, full or not writable, or the copy is not what the manifest says.
    """
    root = Path(os.path.expandvars(folder))
    if not root.is_dir():
        raise UserError(
            f"there is no folder {root} to stage {file.path} in: make it, or set --data.stage to a local disk"
        )
    version = f"{file.path.resolve()} {file.identity}"
    path = root / f"{file.path.stem}-{hashlib.blake2b(version.encode(), digest_size=6).hexdigest()}.beton"
    try:
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the node's other ranks wait until the copy is there
            if not path.exists() or path.stat().st_size != file.size:
                _copy(file, path)
    except OSError as e:
        need = f"{file.size / 1e9:.3g} GB"
        raise UserError(
            f"cannot stage {file.path} ({need}) in {root}: {e.strerror}; make room or drop --data.stage"
        ) from e
    return Beton(path)


def _copy(file: Beton, path: Path) -> None:
    """To a temporary name first; what a killed process left there is overwritten."""
    part = path.with_suffix(".part")
    try:
        if shutil.disk_usage(path.parent).free < file.size:
            raise OSError(28, "no space left on the disk")
        digest = hashlib.blake2b(digest_size=32)
        with part.open("wb") as out:
            for start in range(0, file.size, BLOCK):
                block = os.pread(file.fd, min(BLOCK, file.size - start), start)
                digest.update(block)
                out.write(block)
            out.flush()
            os.fsync(out.fileno())
        noted = file.manifest.get("file_hash")
        if part.stat().st_size != file.size or noted and digest.hexdigest() != noted:
            raise UserError(f"{file.path} is damaged: `resnet-cli data verify {file.path}` tells where")
        if file.manifest:
            shutil.copyfile(manifest_path(file.path), manifest_path(path))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def reads_ahead(cache: Cache, images: Images, order: str) -> bool:
    """Whether this process reads pages ahead and drops them: asked for, or the file exceeds the memory of the job.

    Only order `pages` has pages that are done with before the epoch is.
    """
    exceeds = images.file is not None and images.file.size > memory()
    return order == "pages" and (cache == "process" or cache == "auto" and exceeds)


def read_ahead(images: Images, plan: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Pass the batches of order `pages` on, telling the system which pages of the file they need next.

    Pages are asked for at an even pace, a window before their first use, and dropped after their last: at most about
    two windows of the file are in memory.

    Args:
        images: the split.
        plan: positions of each batch.

    Yields:
        The same positions.
    """
    batches = list(plan)
    if not batches:
        return
    pages = images.pages[np.concatenate(batches)]
    number = np.repeat(np.arange(len(batches)), [len(b) for b in batches])
    kinds, first = np.unique(pages, return_index=True)
    last = number[len(pages) - 1 - np.unique(pages[::-1], return_index=True)[1]]
    coming, asked = kinds[np.argsort(first)], 0
    for i, positions in enumerate(batches):
        until = WINDOW + -(-(i + 1) * len(kinds) // len(batches))
        _advise(images.file, coming[asked:until], os.POSIX_FADV_WILLNEED)
        _advise(images.file, kinds[last == i - LAG], os.POSIX_FADV_DONTNEED)
        asked = until
        yield positions
    _advise(images.file, kinds[last >= len(batches) - LAG], os.POSIX_FADV_DONTNEED)


def _advise(file: Beton, pages: np.ndarray, advice: int) -> None:
    for page in pages.tolist():
        os.posix_fadvise(file.fd, page * file.page_size, file.page_size, advice)
