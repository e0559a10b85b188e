"""Files that are written whole or not at all, and folders and locks that only this user has.

A reader never meets half a file, and a power cut leaves none. What stands in a folder that several users write to is
neither trusted nor followed.

Whatever this package writes whole goes through here. What it does not write whole grows in its place, and its readers
tell where it ends: rows (metrics.jsonl, `bench train --json`), logs of other processes (a sweep's points, crash reports
of faulthandler), and an unfinished .beton with its journal, in which each sample has a checksum; once that is complete
and on disk, `replacing` its manifest gives both their names.
"""

import errno
import fcntl
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
from typing import TYPE_CHECKING, Any, BinaryIO

from lightning_resnet.errors import UserError, tell

if TYPE_CHECKING:  # pandas and matplotlib take seconds to import: only once there is something to read
    Extras = dict[str, tuple[list[list[str]], str]]  # name -> cells, header first, and what they are

OWN = "lightning_resnet"  # what folders of ours are called among others
LOOK_S = 0.1  # between two tries to take a lock
SOON_S = 2.0  # until the first word about waiting for one
WORD_S = 60.0  # between two
STUCK_S = 1800.0  # after which the process that has a lock and gets no further is taken to hang
TEMPORARY = ".tmp"  # how the names of unfinished files end


def check_replaceable(path: Path) -> None:
    """Refuse a path whose new file would take the place of a device, such as /dev/null, or of a pipe.

    Raises:
        OSError: it is one, or is the name of a folder.
    """
    if not path.name:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():
        code = errno.EISDIR if path.is_dir() else errno.EINVAL
        told = os.strerror(code) if path.is_dir() else "it is a device or a pipe, which no file takes the place of"
        raise OSError(code, told, str(path))


def check_writable(path: Path) -> None:
    """Refuse now, not after the work, a path that `replacing` could not write; nothing stays of the trial.

    Raises:
        OSError: the system's own, with `path`.
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
    """Yield a new file in the same folder, which takes the name of `path` once it is written and on disk.

    The new file is nobody else's: it is made under a name that did not exist, and no link is followed.

    Args:
        path: of the file.
        sync: wait until it is on disk; without it, a power cut can leave an empty file.
        unfinished: the new file's name until then, by default one that nobody knows. Who holds a lock on `path` and has
            removed what a killed process left under that name lets others see how the file grows.

    Raises:
        OSError: the system's own, with `path`, also where a library has hidden it behind an error of its own.
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


def write_whole(path: Path, content: str | bytes, sync: bool = True) -> None:
    """Write a file whole or not at all; see `replacing`."""
    with replacing(path, sync) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_new(path: Path, content: str) -> None:
    """Write a file that nobody has made before: of two processes at once, one does.

    Raises:
        FileExistsError: somebody has.
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
        except OSError:  # a file system without links: for an instant the file is empty
            with path.open("x") as file:
                file.write(content)
        sync_folder(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink()


def link(source: Path, target: Path) -> None:
    """Give a file that is on disk one more name, at once; where the file system has no links, copy it."""
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
            temporary.unlink()  # is still there where both were names of the same file


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


def private_folder(where: Path, name: str) -> Path:
    """Find or make a folder that only this user can write to, in one where others may.

    Where the name is another user's, a link, or open to others, one with a random ending is found or made instead, so
    that nobody can keep us out by taking the name.

    Args:
        where: the folder to make it in.
        name: of it.

    Raises:
        UserError: files cannot be kept from others there.
        OSError: the system's own.
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
        raise UserError(f"{where} has no folders that only their owner can write to: name another one")
    return made


def cache_folder() -> Path:
    """Find or make this user's cache folder: in XDG_CACHE_HOME, by default in ~/.cache.

    Raises:
        UserError: there is none that only this user can write to.
        OSError: the system's own.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", OWN)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.is_symlink() and folder.lstat().st_uid == os.geteuid():  # moved to where there is more space
        folder = folder.resolve()
    return private_folder(folder.parent, folder.name)


def cache_if_any() -> Path:
    """Find this user's cache folder; where there is none, name one in which nothing is found or kept."""
    try:
        return cache_folder()
    except (OSError, UserError):
        return Path(os.devnull)


def private_compile_cache() -> None:
    """Let torch.compile keep its programs in this user's cache folder, where the user has not named another.

    It runs what it finds there, and its own default, which it sets itself, is a name below /tmp that anybody can take.
    """
    default = os.path.join(tempfile.gettempdir(), "torchinductor_")
    if os.environ.get("TORCHINDUCTOR_CACHE_DIR", default).startswith(default):
        try:
            folder = cache_folder()
        except (OSError, UserError):  # a home that cannot be written, as on some clusters' nodes
            folder = private_folder(Path(tempfile.gettempdir()), f"{OWN}-{os.geteuid()}")
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")


def open_own(path: Path, mode: int = 0o600) -> int:
    """Open a file of this user's to read and write, made where there is none; returns its descriptor.

    Args:
        path: of the file.
        mode: its rights, where it is made; by default nobody else can lock it.

    Raises:
        UserError: it is a link, no plain file, or of another user.
        OSError: the system's own.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe of that name must not keep us waiting
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
    raise UserError(f"{path} is of user {status.st_uid}, has another name, or is no plain file: remove it")


@contextmanager
def locked(path: Path, growing: Path, cure: str) -> Iterator[None]:
    """Hold a lock; wait for another process that has it as long as that gets on.

    Args:
        path: file to lock, in a folder of this user's.
        growing: file that the other process writes meanwhile.
        cure: what else the user can do, for the message.

    Raises:
        UserError: the other process has it, and has written nothing for half an hour.
        OSError: the system's own.
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
        found = growing.stat().st_size if growing.exists() else -1
        if found != size:
            size = found
            moved = now
        if now - moved > STUCK_S:
            raise UserError(
                f"another process has held {path} for {STUCK_S / 60:.0f} minutes and written nothing: end it "
                f"(`fuser {path}` tells its number), or {cure}"
            )
        if now - told > WORD_S:
            told = now
            tell(f"waiting for another process of yours, which is writing {growing}")
        time.sleep(LOOK_S)


def _unfinished_name(path: Path) -> Path:
    """Choose the name of a file until it is whole."""
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}{TEMPORARY}")


def _is_private(folder: Path) -> bool:
    """Whether it is a folder of this user's, no link, and nobody else may write to it."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _system_error(e: BaseException | None, outer: BaseException | None) -> OSError | None:
    """The system's error behind an error, up to the one that was being handled before."""
    while e is not None and e is not outer:
        if isinstance(e, OSError) and e.errno is not None:
            return e
        e = e.__cause__ or e.__context__
    return None


def write_file(file: Path, content: bytes) -> Path:
    """Whole or not at all: a reader never meets half a file."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, content)
    except OSError as error:
        raise UserError(f"cannot write {file} ({error.strerror}); say --out DIR with a folder that can be") from error
    return file
