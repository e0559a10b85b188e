"""Files that are written whole or not at all: a reader never meets half a file, and a power cut leaves none."""

import json
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from lightning_resnet.errors import UserError

TEMPORARY = ".tmp"  # how the names of unfinished files end


@contextmanager
def replacing(path: Path, sync: bool = True) -> Iterator[BinaryIO]:
    """Yield a new file in the same folder, which takes the name of `path` once it is written and on disk.

    The new file is nobody else's: it is made under a name that did not exist, and no link is followed.

    Args:
        path: of the file.
        sync: wait until it is on disk; without it, a power cut can leave an empty file.

    Raises:
        OSError: the system's own, with `path`, also where a library has hidden it behind an error of its own.
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}{TEMPORARY}")
    outer = sys.exception()
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        temporary.replace(path)
        if sync:
            sync_folder(path.parent)
    except UserError:
        raise
    except Exception as e:
        if (error := _system_error(e, outer)) is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from e
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_whole(path: Path, content: str | bytes, sync: bool = True) -> None:
    """Write a file whole or not at all; see `replacing`."""
    with replacing(path, sync) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, data: Any, sync: bool = True) -> None:
    """Write data as JSON, whole or not at all; see `replacing`."""
    write_whole(path, json.dumps(data, indent=1) + "\n", sync)


def sync_file(path: Path) -> None:
    """Wait until a file's content is on disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on disk; some file systems cannot, and do it by themselves."""
    with suppress(OSError):
        sync_file(path)


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes left of files that they were writing."""
    with suppress(OSError):
        for left in folder.glob(f"*{TEMPORARY}"):
            with suppress(OSError):
                left.unlink()


def _system_error(e: BaseException | None, outer: BaseException | None) -> OSError | None:
    """The system's error behind an error, up to the one that was being handled before."""
    while e is not None and e is not outer:
        if isinstance(e, OSError) and e.errno is not None:
            return e
        e = e.__cause__ or e.__context__
    return None
