"""Write files atomically, and make folders and locks that only this user has.

A reader never sees half a file, and a power cut leaves none. Files in a folder that several users
write to are not trusted, and links there are not followed.

All atomic writes of this package use this module. Other files grow in place, and their readers
detect where the valid part ends: rows (metrics.jsonl, `bench train --json`), logs of other
processes (a sweep's points, crash reports of faulthandler), and an unfinished .beton with its
journal, in which each sample has a checksum. Once the .beton is complete and on disk, its manifest
takes its name by `replacing`, and then the .beton its own.
"""

import errno
import fcntl
import glob
import json
import os
import secrets
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from lightning_resnet.errors import UserError, tell

# Ends of the names of images that are read, in lower case.
IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
MACOS = "__MACOSX"  # a folder in archives made by macOS, with a `._x.jpg` for every `x.jpg`
OWN = "lightning_resnet"  # name of this package's folder in folders that others use too
LOOK_S = 0.1  # seconds between two tries to take a lock
SOON_S = 2.0  # seconds until the first message about waiting for a lock
WORD_S = 60.0  # seconds between two such messages
STUCK_S = 1800.0  # seconds without progress after which the owner of a lock counts as hanging
TEMPORARY = ".tmp"  # suffix of the names of unfinished files


def check_replaceable(path: Path) -> None:
    """Refuse a path whose new file would replace a device, such as /dev/null, or a pipe.

    Raises:
        OSError: the path is that of a device, a pipe or a folder.
    """
    if not path.name:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():
        if path.is_dir():
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        told = "it is a device or a pipe, which no file takes the place of"
        raise OSError(errno.EINVAL, told, str(path))


def check_writable(path: Path) -> None:
    """Refuse now, not after the work, a path that `replacing` could not write.

    The trial leaves no file.

    Raises:
        OSError: the system's error, with `path`.
    """
    check_replaceable(path)
    temporary = _unfinished_name(path)
    try:
        temporary.open("xb").close()
        temporary.unlink()
    except OSError as e:
        raise OSError(e.errno, e.strerror, str(path)) from e


@contextmanager
def replacing(path: Path, sync: bool = True, unfinished: Path | None = None) -> Iterator[BinaryIO]:
    """Yield a new file that takes the name `path` once it is written and on disk.

    The new file is in the same folder. It is made under a name that did not exist, and no link is
    followed, so no other process has it.

    Args:
        path: path of the file.
        sync: wait until the file is on disk; without this a power cut can leave an empty file.
        unfinished: name of the new file until it is complete; a random one by default. A caller
            that holds a lock on `path`, and has removed what a killed process left under this name,
            can so let others see how the file grows.

    Raises:
        OSError: the system's error, with `path`, even if a library has raised another error
            because of it.
    """
    check_replaceable(path)
    temporary = unfinished or _unfinished_name(path)
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


def write_atomic(path: Path, content: str | bytes, sync: bool = True) -> None:
    """Write a file atomically; see `replacing`."""
    with replacing(path, sync) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_new(path: Path, content: str) -> None:
    """Write a file that does not exist yet; of two processes at once, only one succeeds.

    Raises:
        FileExistsError: the file exists.
    """
    temporary = _unfinished_name(path)
    try:
        with temporary.open("x") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise
        except OSError:  # the file system has no links, so the file is empty for an instant
            with path.open("x") as file:
                file.write(content)
        sync_folder(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink()


def link(source: Path, target: Path) -> None:
    """Give a file one more name, atomically; copy the file where the file system has no links."""
    temporary = _unfinished_name(target)
    try:
        os.link(source, temporary)
    except OSError:
        with source.open("rb") as content, replacing(target) as copy:
            shutil.copyfileobj(content, copy)
        return
    try:
        temporary.replace(target)
        sync_folder(target.parent)
    finally:
        with suppress(OSError):
            temporary.unlink()  # the replacement does nothing if both are names of the same file


def write_json(path: Path, data: Any, sync: bool = True) -> None:
    """Write data as JSON, atomically; see `replacing`."""
    write_atomic(path, json.dumps(data, indent=1) + "\n", sync)


def write_cache(path: Path, data: Any) -> None:
    """Write data as JSON into the cache folder; if that fails, the data is computed again later."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(data, default=str), sync=False)


def sync_file(path: Path) -> None:
    """Wait until the content of a file is on disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on disk, on file systems that have such a call."""
    with suppress(OSError):
        sync_file(path)


def remove_unfinished(folder: Path) -> None:
    """Remove the unfinished files of killed processes."""
    with suppress(OSError):
        for file in folder.glob(f"*{TEMPORARY}"):
            with suppress(OSError):
                file.unlink()


def private_folder(where: Path, name: str) -> Path:
    """Find or make a folder that only this user can write to, in a folder where others can.

    If the name belongs to another user, is a link, or is open to others, a folder with a random
    suffix is found or made instead, so that others cannot block this user by taking the name.

    Args:
        where: the folder that holds the private folder.
        name: name of the private folder.

    Raises:
        UserError: `where` has no folders that only their owner can write to.
        OSError: the system's error.
    """
    first = where / name
    with suppress(FileExistsError):
        first.mkdir(mode=0o700)
    for folder in [first, *sorted(where.glob(f"{name}-*"))]:
        if _is_private(folder):
            return folder
    made = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=where))
    if not _is_private(made):
        made.rmdir()
        raise UserError(
            f"{where} has no folders that only their owner can write to: name another one"
        )
    return made


def cache_folder() -> Path:
    """Find or make this user's cache folder: in XDG_CACHE_HOME, by default in ~/.cache.

    Raises:
        UserError: there is no folder that only this user can write to.
        OSError: the system's error.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", OWN)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Users move their cache to a larger disk and leave a link.
    if folder.is_symlink() and folder.lstat().st_uid == os.geteuid():
        folder = folder.resolve()
    return private_folder(folder.parent, folder.name)


def cache_if_any() -> Path:
    """Return this user's cache folder, or a path below which no file can be found or written."""
    try:
        return cache_folder()
    except (OSError, UserError):
        return Path(os.devnull)


def private_compile_cache() -> None:
    """Let torch.compile keep its programs in this user's cache folder.

    Torch runs the programs that it finds. Its own default is a name below /tmp that anybody can
    take. A folder that the user has named stays.
    """
    default = os.path.join(tempfile.gettempdir(), "torchinductor_")
    if os.environ.get("TORCHINDUCTOR_CACHE_DIR", default).startswith(default):
        try:
            folder = cache_folder()
        except (OSError, UserError):  # on some clusters' nodes the home cannot be written
            folder = private_folder(Path(tempfile.gettempdir()), f"{OWN}-{os.geteuid()}")
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")


def open_own(path: Path, mode: int = 0o600) -> int:
    """Open a file of this user to read and write, and make it if it does not exist.

    Args:
        path: path of the file.
        mode: permissions of a new file; by default no other user can lock it.

    Returns:
        The file descriptor.

    Raises:
        UserError: the path is a link, no plain file, or a file of another user.
        OSError: the system's error.
    """
    # O_NONBLOCK: the open call must not wait if the path is a named pipe.
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        pass
    if path.is_symlink():
        raise UserError(f"{path} is a link, which is not followed: remove it")
    fd = os.open(path, flags)
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and status.st_nlink == 1:
        return fd
    os.close(fd)
    raise UserError(
        f"{path} is of user {status.st_uid}, has another name, or is no plain file: remove it"
    )


@contextmanager
def locked(path: Path, growing: Path, cure: str) -> Iterator[None]:
    """Hold a lock; wait for another process that has the lock as long as its work progresses.

    Args:
        path: file to lock, in a folder of this user.
        growing: what the other process writes while it has the lock: a folder, or the beginning
            of the paths of files.
        cure: what else the user can do, for the message.

    Raises:
        UserError: the other process has written nothing for half an hour.
        OSError: the system's error.
    """
    fd = open_own(path)
    try:
        _wait_for_lock(fd, path, growing, cure)
        yield
    finally:
        os.close(fd)


def _wait_for_lock(fd: int, path: Path, growing: Path, cure: str) -> None:
    size = -1
    moved = time.monotonic()
    told = moved - max(0.0, WORD_S - SOON_S)
    while True:
        with suppress(BlockingIOError):
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        now = time.monotonic()
        found = _bytes_of(growing)
        if found != size:
            size = found
            moved = now
        if now - moved > STUCK_S:
            raise UserError(
                f"another process has held {path} for {STUCK_S / 60:.0f} minutes and written "
                f"nothing: end it (`fuser {path}` tells its number), or {cure}"
            )
        if now - told > WORD_S:
            told = now
            tell(f"waiting for another process of yours, which is writing {growing}")
        time.sleep(LOOK_S)


def _bytes_of(path: Path) -> int:
    """Return the size of the files in a folder, or whose paths begin so; -1 if there is none."""
    files = path.iterdir() if path.is_dir() else path.parent.glob(f"{glob.escape(path.name)}*")
    size = -1
    for file in files:
        with suppress(OSError):
            size += 1 + file.stat().st_size
    return size


def _unfinished_name(path: Path) -> Path:
    """Return a random name for a file until it is complete."""
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}{TEMPORARY}")


def _is_private(folder: Path) -> bool:
    """Tell whether a path is a folder, no link, that only this user may write to."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    return (
        stat.S_ISDIR(status.st_mode)
        and status.st_uid == os.geteuid()
        and not status.st_mode & 0o022
    )


def _system_error(e: BaseException | None, outer: BaseException | None) -> OSError | None:
    """Return the system's error that caused an error, up to `outer`, which was handled before."""
    while e is not None and e is not outer:
        if isinstance(e, OSError) and e.errno is not None:
            return e
        e = e.__cause__ or e.__context__
    return None


def write_file(file: Path, content: bytes, flag: str = "--out DIR") -> Path:
    """Write a result of a verb atomically, and make its folder.

    Args:
        file: path of the file.
        content: what to write.
        flag: the flag that names another folder, for the error.

    Returns:
        The path of the file.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, content)
    except OSError as error:
        raise UserError(
            f"cannot write {file} ({error.strerror}); give {flag} with a folder that you can write"
        ) from error
    return file


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder is a program's own, neither an image nor a class.

    Examples are .ipynb_checkpoints, ._x.jpg and __MACOSX.
    """
    return name.startswith(".") or name == MACOS


def find_images(folder: Path, hidden: bool = False, deep: bool = True) -> Iterator[str]:
    """Yield the image files in a folder and below, in no order, without following links to folders.

    Args:
        folder: the folder.
        hidden: yield hidden files, and those in hidden folders, as well.
        deep: look into folders of the folder.

    Raises:
        UserError: a folder cannot be read.
    """
    folders = [str(folder)]
    while folders:  # no recursion, because the depth has no limit
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if is_hidden(entry.name) and not hidden:
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        if deep:
                            folders.append(entry.path)
                    elif os.path.splitext(entry.name)[1].lower() in IMAGES and (
                        entry.is_symlink() or entry.is_file()
                    ):
                        yield entry.path  # reading reports a link that leads nowhere
        except OSError as e:
            raise UserError(
                f"cannot read folder {e.filename}: {e.strerror}; allow it, or move it away"
            ) from e
