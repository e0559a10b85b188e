"""Copies of files in object stores and on web servers, made on this machine before they are read.

resnet-cli data write webdataset --root s3://bucket/shards --stage /scratch --out train.beton

fsspec finds and reads the files (s3://, gs://, https:// and whatever else it knows), with its own
credentials. Complete files are copied, several at a time, in requests of megabytes: images that are
read one by one would each wait for the network. What was copied is not copied again, and a copy
that was cut off continues.
"""

import hashlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import fsspec
from fsspec.config import conf
from fsspec.core import url_to_fs

from lightning_resnet.errors import UserError, one_line, printable
from lightning_resnet.files import OWN, locked, private_folder
from lightning_resnet.progress import Meter

BLOCK = 1 << 23  # bytes of a request
AT_ONCE = 16  # files that are copied at the same time
TRIES = 3  # requests in a row that may bring nothing
PAUSE_S = 1.0  # seconds until the second request; doubled each time
SILENCE_S = 20.0  # seconds that a web server may take to answer, or to go on
BATCH = 4096  # files that are given to the threads together
DEEPEST = 20  # folders within one another
REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(://|::)")
ARCHIVES = (".tar", ".tar.gz", ".zip", ".parquet")
RANGE = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")  # shards, such as {0000..1023}
# What a store may call the version of a file.
VERSIONS = ("ETag", "etag", "md5Hash", "Content-MD5", "Digest", "LastModified", "Last-Modified")
VERSIONS += ("last_modified", "updated", "mtime", "created")
PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
CREDENTIALS = {
    "s3": "`aws configure` sets them and AWS_PROFILE chooses; for a public bucket "
    """FSSPEC_S3='{"anon": true}'""",
    "gs": "`gcloud auth application-default login` sets them; for a public bucket "
    """FSSPEC_GS='{"token": "anon"}'""",
    "https": "a signed address has them, or FSSPEC_HTTPS with the `headers` of fsspec",
}


class RemoteFile(NamedTuple):
    """A file that is to be copied.

    Attributes:
        path: its path in the store.
        name: its path below the folder of the copies.
        size: bytes; None if unknown.
        version: what changes with its content; empty if the store tells nothing.
    """

    path: str
    name: str
    size: int | None
    version: str


def is_remote(path: str | Path) -> bool:
    """Tell whether a path is an address, such as s3://bucket/folder."""
    return REMOTE.match(str(path)) is not None


def copied(
    url: str,
    stage: str | None,
    suffixes: Sequence[str] = (),
    check: Callable[[Path], None] | None = None,
) -> Path:
    """Copy what an address names to a folder of this machine, once, and return its path there.

    One process copies while the others wait.

    Args:
        url: address of a file, of a folder, or of shards, `NAME-{0000..1023}.tar`.
        stage: the folder in which the copies lie; variables such as $TMPDIR are known.
        suffixes: ends of the names that are wanted of a folder.
        check: raises UserError for a copied file that is damaged.

    Raises:
        UserError: nothing says where to copy to, or something cannot be copied.
    """
    if stage is None:
        raise UserError(
            f"{url} is on a network, from which nothing is read image by image: add --data.stage "
            "DIR, a folder on this machine's disk, to which it is copied once"
        )
    single = None
    if not RANGE.search(url) and _last(url).endswith((*ARCHIVES, ".beton")):
        single = _last(url)
    try:
        where = stage_folder(stage)
        digest = hashlib.blake2b(url.encode(), digest_size=4).hexdigest()
        stem = re.sub(r"[^\w.-]+", "_", _last(RANGE.sub("", url))).strip("._-")[:60]
        folder = where / f"{stem or 'copy'}-{digest}"
        with locked(_next_to(folder, ".lock"), _next_to(folder, ".part"), "give another folder"):
            _copy(url, folder, single, suffixes, check)
    except OSError as e:
        raise UserError(
            f"cannot copy {url} to {stage}: {e.strerror or one_line(e)}; give another --data.stage"
        ) from e
    return folder / single if single else folder


def stage_folder(stage: str) -> Path:
    """Return the folder of this user's copies in a folder, which has to be there.

    Raises:
        UserError: there is no such folder.
        OSError: the system's error.
    """
    where = Path(os.path.expandvars(stage))
    if not where.is_dir():
        raise UserError(
            f"--data.stage {where} is no folder on {socket.gethostname()}: make it, or leave the "
            "flag out"
        )
    return private_folder(where, f"{OWN}-{os.geteuid()}")


def _next_to(folder: Path, suffix: str) -> Path:
    return folder.with_name(f"{folder.name}{suffix}")


def _last(url: str) -> str:
    """Return the last part of an address, without a query."""
    parts = urlsplit(url.rpartition("::")[2])
    return unquote(parts.path.rstrip("/")).rpartition("/")[2] or parts.netloc


def _scheme(url: str) -> str:
    return url.rpartition("::")[2].partition("://")[0].lower()


def _copy(
    url: str,
    folder: Path,
    single: str | None,
    suffixes: Sequence[str],
    check: Callable[[Path], None] | None,
) -> None:
    """Copy what has not been copied, and remove what the store has no more."""
    notes = _next_to(folder, ".copied")
    noted = _noted(notes)
    try:
        fs, files = _listed(url, single, suffixes)
    except UserError:
        raise
    except Exception as e:  # noqa: BLE001 -- each store has errors of its own
        raise _refusal(url, e) from e
    names = {file.name for file in files}
    for name in set(noted) - names:
        (folder / name).unlink(missing_ok=True)
    missing = [file for file in files if not _is_copied(folder, file, noted)]
    if not missing:
        return
    for file in missing:
        (folder / file.name).unlink(missing_ok=True)  # of another version
    parts = _next_to(folder, ".part")
    parts.mkdir(parents=True, exist_ok=True)
    wanted = sum(file.size or 0 for file in missing)
    have = sum(part.stat().st_size for part in parts.iterdir())
    free = shutil.disk_usage(parts).free
    if free < wanted - have:
        raise UserError(
            f"--data.stage {folder.parent} has {free / 1e9:.2f} GB left, {url} takes "
            f"{wanted / 1e9:.2f} GB: give another one"
        )
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        with closing(Meter(wanted, "B", have)) as meter, notes.open("a") as log:
            for first in range(0, len(missing), BATCH):
                batch = missing[first : first + BATCH]
                work = {pool.submit(_fetch, fs, file, parts, folder, meter): file for file in batch}
                for future in as_completed(work):
                    file = work[future]
                    future.result()
                    if check:
                        check(folder / file.name)
                    log.write(json.dumps([file.name, file.size, file.version]) + "\n")
                    log.flush()
    finally:
        pool.shutdown(cancel_futures=True)
    shutil.rmtree(parts, ignore_errors=True)


def _noted(notes: Path) -> dict[str, list[Any]]:
    """Return size and version of what was copied, by name; a line that was cut off is left out."""
    found: dict[str, list[Any]] = {}
    if notes.exists():
        for line in notes.read_text(errors="replace").splitlines():
            with suppress(ValueError):
                name, *rest = json.loads(line)
                found[name] = rest
    return found


def _is_copied(folder: Path, file: RemoteFile, noted: dict[str, list[Any]]) -> bool:
    if noted.get(file.name) != [file.size, file.version]:
        return False
    try:
        return (folder / file.name).stat().st_size == file.size
    except FileNotFoundError:
        return False


def _options(url: str) -> dict[str, Any]:
    """Return what fsspec is told of a web server, unless the user's own configuration says it.

    Its default would end each request after five minutes, and take no proxy.
    """
    scheme = _scheme(url)
    if scheme not in ("http", "https") or "client_kwargs" in conf.get(scheme, {}):
        return {}
    from aiohttp import ClientTimeout

    timeout = ClientTimeout(total=None, sock_connect=SILENCE_S, sock_read=SILENCE_S)
    return {"client_kwargs": {"timeout": timeout, "trust_env": True}}


def _listed(
    url: str, single: str | None, suffixes: Sequence[str]
) -> tuple[fsspec.AbstractFileSystem, list[RemoteFile]]:
    """List the files that an address names.

    Raises:
        UserError: there are none.
        Exception: that of the store.
    """
    is_web = _scheme(url) in ("http", "https")
    options = {"use_listings_cache": False, **_options(url)}
    pattern = RANGE.search(url)
    if pattern:
        first, last = pattern.groups()
        numbers = range(int(first), int(last) + 1)
        urls = [f"{url[: pattern.start()]}{i:0{len(first)}}{url[pattern.end() :]}" for i in numbers]
        if not urls:
            raise UserError(
                f"{url}: {{{first}..{last}}} names no file: give the lower number first"
            )
        fs, _ = url_to_fs(urls[0], **options)
        found = [RemoteFile(url_to_fs(each, **options)[1], _last(each), None, "") for each in urls]
    elif single:
        fs, path = url_to_fs(url, **options)
        found = [RemoteFile(path, single, None, "")]
        if single.endswith(".beton"):
            front, question, query = path.partition("?") if is_web else (path, "", "")
            manifest = f"{front}.json{question}{query}"
            try:
                found.append(_described(fs, RemoteFile(manifest, f"{single}.json", None, "")))
            except FileNotFoundError as e:
                if _status(e) != 404:  # a server's fault, which fsspec calls the same
                    raise
    else:
        fs, path = url_to_fs(url, **options)
        found = _in_folder(fs, path.rstrip("/"), is_web, suffixes)
        if not found:
            kinds = ", ".join(suffix for suffix in suffixes if suffix.startswith("."))
            if is_web:
                raise UserError(
                    f"{url} lists no files of {kinds}, and a web server need not list what it has: "
                    "name one file, or shards as NAME-train-{0000..1023}.tar"
                )
            raise UserError(f"no files of {kinds} in {url}: give the address of their folder")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return fs, list(pool.map(lambda file: _described(fs, file), found))


def _in_folder(
    fs: fsspec.AbstractFileSystem, root: str, is_web: bool, suffixes: Sequence[str]
) -> list[RemoteFile]:
    """List the files in a folder and below that have one of the suffixes; hidden ones are left out.

    A name that leads out of the folder has a part that is empty or begins with a dot, and is left
    out too.
    """
    try:
        entries = fs.find(root, maxdepth=DEEPEST, detail=True)
    except Exception as e:  # noqa: BLE001 -- some servers forbid, others do not know the folder
        if is_web and _status(e) in (403, 404, 405):
            return []
        raise
    found = []
    for path, info in sorted(entries.items()):
        name = path.removeprefix(root).strip("/")
        if is_web:
            name = unquote(name.partition("?")[0])
        parts = name.split("/")
        hidden = any(not part or part.startswith(".") or "\0" in part for part in parts)
        if path.startswith(f"{root}/") and not hidden and name.lower().endswith(tuple(suffixes)):
            found.append(RemoteFile(path, name, info.get("size"), _version(info)))
    return found


def _described(fs: fsspec.AbstractFileSystem, file: RemoteFile) -> RemoteFile:
    """Return a file with its size and version, as far as the store tells."""
    if file.size is not None and file.version:
        return file
    info = fs.info(file.path)
    return file._replace(size=info.get("size"), version=_version(info))


def _version(info: dict[str, Any]) -> str:
    return next((str(info[key]) for key in VERSIONS if info.get(key)), "")


def _fetch(
    fs: fsspec.AbstractFileSystem, file: RemoteFile, parts: Path, folder: Path, meter: Meter
) -> None:
    """Copy one file, in as many requests as this takes, and give the copy its name.

    Raises:
        UserError: the store does not give the file.
        OSError: the copy cannot be written.
    """
    key = json.dumps(file)
    part = parts / hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
    if file.size is None or not file.version:
        part.unlink(missing_ok=True)  # of another version, perhaps
    furthest = _size(part)
    failures = 0
    while True:
        try:
            _receive(fs, file, part, meter)
            break
        except _CannotWrite as e:
            raise e.error from e
        except Exception as e:  # noqa: BLE001 -- each store has errors of its own
            failures = 0 if _size(part) > furthest else failures + 1
            furthest = max(furthest, _size(part))
            if failures >= TRIES or _status(e) in (401, 403, 404):
                raise _refusal(file.path, e) from e
            time.sleep(PAUSE_S * 2**failures)
    target = folder / file.name
    target.parent.mkdir(parents=True, exist_ok=True)
    part.replace(target)


class _CannotWrite(Exception):
    """Error of this machine's disk, which no other request cures."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _receive(fs: fsspec.AbstractFileSystem, file: RemoteFile, part: Path, meter: Meter) -> None:
    """Append the rest of a file to its part.

    Raises:
        EOFError: less has come than the file has.
        _CannotWrite: the part cannot be written.
        Exception: that of the store.
    """
    have = _size(part)
    if file.size is None or have < file.size or not part.exists():
        try:
            with fs.open(file.path, "rb", block_size=BLOCK, cache_type="none") as stream:
                if have:
                    stream.seek(have)
                _append(stream, part, meter)
        except ValueError:  # a web server that gives files from their beginning only
            part.unlink(missing_ok=True)
            with fs.open(file.path, "rb", block_size=0) as stream:
                _append(stream, part, meter)
    have = _size(part)
    if file.size is not None and have != file.size:
        if have > file.size:
            part.unlink()
        raise EOFError(f"it has {have:,} of {file.size:,} bytes")


def _append(stream: Any, part: Path, meter: Meter) -> None:
    """Append what a stream still has to a part."""
    try:
        with part.open("ab") as out:
            while block := _read(stream):
                out.write(block)
                out.flush()
                meter.update(len(block))
            os.fsync(out.fileno())
    except _FromStore as e:
        raise e.error from e
    except OSError as e:
        raise _CannotWrite(e) from e


class _FromStore(Exception):
    """Error of the store, which another request may cure."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def _read(stream: Any) -> bytes:
    try:
        return stream.read(BLOCK)
    except Exception as e:
        raise _FromStore(e) from e


def _cause(error: BaseException) -> BaseException:
    """Return what made fsspec say that a file is missing, if it was something else."""
    while isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _status(error: BaseException) -> int | None:
    """Return the number of a server's answer, such as 404."""
    error = _cause(error)
    if isinstance(error, FileNotFoundError):
        return 404
    if isinstance(error, PermissionError):
        return 403
    found = getattr(error, "status", None) or getattr(error, "code", None)
    return found if isinstance(found, int) else None


def _refusal(url: str, error: Exception) -> UserError:
    """Return the error that says in one line why a store does not give a file."""
    cause = _cause(error)
    scheme = _scheme(url) or "https"
    status = _status(error)
    name = type(cause).__name__
    if isinstance(cause, ImportError):
        package = PACKAGES.get(scheme)
        if package:
            return UserError(f"{url} needs {package}: pip install {package}")
        return UserError(f"{url} needs a package that is not installed: {one_line(cause)}")
    if isinstance(cause, ValueError) and "not known" in str(cause):
        return UserError(f"{url}: fsspec knows no {scheme}://; s3://, gs:// and https:// it knows")
    if status == 404:
        return UserError(f"there is no {url} (404): look at the spelling of the address")
    if status in (401, 403) or re.search("Credential|Token|Forbidden|AccessDenied", name):
        answer = f" ({status})" if status else ""
        how = CREDENTIALS.get({"http": "https", "gcs": "gs"}.get(scheme, scheme))
        return UserError(
            f"{url} is not given without credentials that are allowed to read it{answer}: "
            f"{how or 'set those of the store, as its fsspec package says'}"
        )
    why = printable(getattr(cause, "strerror", None) or one_line(cause), 200)
    if isinstance(cause, TimeoutError):
        why = f"silent for {SILENCE_S:g} s"
    return UserError(
        f"{url} cannot be read ({why}; {TRIES} tries): the same command continues, and for web "
        "servers https_proxy names a proxy"
    )
