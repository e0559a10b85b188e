"""A .beton on the node's own disk: copied once, checked, used again by later starts."""

import hashlib
import os
import shlex
import shutil
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

from lightning_resnet.data.beton.format import Beton, manifest_path
from lightning_resnet.data.beton.verify import file_hash
from lightning_resnet.data.remote import copied, stage_folder
from lightning_resnet.errors import UserError
from lightning_resnet.files import locked, replacing, write_atomic
from lightning_resnet.progress import Meter
from lightning_resnet.reading import open_plain

BLOCK = 1 << 24  # bytes copied at once


def staged(path: Path, folder: str) -> Path:
    """Copy a .beton to a folder of this machine, once, and return the copy's path.

    A file that `fetched` has copied there is used as it is.

    One process copies while the others wait. The copy lies in a folder that only this user can
    write to. It is made under another name, checked (its size, and the hash in the manifest), and
    renamed; a copy with the original's size, time and manifest is used again.

    Raises:
        UserError: no such folder, no space, or the copy is not what the manifest says.
    """
    try:
        where = stage_folder(folder)
        if where in path.parents:
            return path
        copy = where / copy_name(path)
        with locked(copy.with_suffix(".lock"), copy.with_suffix(".half"), "leave --data.stage out"):
            if not _is_copy(copy, path):
                _copy(path, copy)
    except OSError as e:
        raise UserError(
            f"cannot copy {path} to {folder}: {e.strerror}; give another --data.stage, or none"
        ) from e
    return copy


def fetched(url: str, folder: str | None) -> Path:
    """Copy a .beton and its manifest from a network to a folder of this machine, once.

    Raises:
        UserError: no folder is given, or the copy is not what the manifest says; see `copied`.
    """
    return copied(url, folder, check=_check_copy)


def _check_copy(path: Path) -> None:
    """Compare a copy with the hash in its manifest, once both are there."""
    path = path.with_name(path.name.removesuffix(".json"))
    if not path.exists():
        return
    beton = Beton(path)
    noted = beton.manifest.get("file_hash")
    if noted and file_hash(beton) != noted:
        path.unlink()
        raise UserError(
            f"the copy of {path.name} is not what its manifest says: the same command copies it "
            "again; if that does not help, write it again (`resnet-cli data write`)"
        )


def copy_name(path: Path) -> str:
    """Return the file name of a file's copy."""
    digest = hashlib.blake2b(os.fsencode(path.absolute()), digest_size=4).hexdigest()
    return f"{path.stem[:60]}-{digest}.beton"


def _is_copy(copy: Path, path: Path) -> bool:
    return copy.exists() and _mark(copy) == _mark(path) and _manifest(copy) == _manifest(path)


def _mark(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _manifest(path: Path) -> bytes | None:
    """Return the content of a file's manifest; None if there is none."""
    manifest = manifest_path(path)
    if not manifest.exists():
        return None
    with open_plain(manifest) as file:
        return file.read()


def _copy(path: Path, copy: Path) -> None:
    half = copy.with_suffix(".half")
    for old in (copy, manifest_path(copy), half):
        old.unlink(missing_ok=True)  # before the space is measured
    free = shutil.disk_usage(copy.parent).free
    size = path.stat().st_size
    if free < size:
        raise UserError(
            f"--data.stage {copy.parent} has {free / 1e9:.2f} GB left, {path} takes "
            f"{size / 1e9:.2f} GB"
        )
    noted = Beton(path).manifest.get("file_hash")
    with replacing(copy, unfinished=half) as target:
        found = _copy_bytes(path, target)
        if half.stat().st_size != size or noted not in (None, found):
            raise UserError(
                f"the copy of {path} is not what was written: `resnet-cli data verify "
                f"{shlex.quote(str(path))}` tells more"
            )
        manifest = _manifest(path)
        if manifest is not None:
            write_atomic(manifest_path(copy), manifest)


def _copy_bytes(path: Path, target: BinaryIO) -> str:
    """Copy a file with its time of change, and return the hash of what was read."""
    digest = hashlib.blake2b(digest_size=32)
    status = path.stat()
    with path.open("rb") as source, closing(Meter(status.st_size, "B")) as meter:
        while block := source.read(BLOCK):
            digest.update(block)
            target.write(block)
            meter.update(len(block))
    target.flush()  # a later write would change the time again
    os.utime(target.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))
    return digest.hexdigest()
