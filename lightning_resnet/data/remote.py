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
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit

import fsspec
from fsspec.config import conf
from fsspec.core import url_to_fs

from lightning_resnet.errors import UserError, one_line, printable, tell
from lightning_resnet.files import OWN, locked, private_folder
from lightning_resnet.progress import Meter

BLOCK = 1 << 23  # bytes of a request
AT_ONCE = 16  # files that are copied at the same time
TRIES = 3  # requests in a row that may bring nothing
PAUSE_S = 1.0  # seconds until the second request; doubled each time
SILENCE_S = 20.0  # seconds that a web server may take to answer, or to go on
ENDING_S = 0.5  # seconds that the other copies have to leave off once one has failed
OLD_S = 3600.0  # seconds after which a copy that cannot be compared with its original is told
DEEPEST = 20  # folders within one another
REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(://|::)")
ARCHIVES = (".tar", ".tar.gz", ".zip", ".parquet")
RANGE = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")  # shards, such as {0000..1023}
# What a store may call the version of a file.
VERSIONS = ("ETag", "etag", "md5Hash", "Content-MD5", "Digest", "LastModified", "Last-Modified")
VERSIONS += ("last_modified", "updated", "mtime", "created")
# Parts of a query that sign an address for a time: of S3, Google, CloudFront and Azure.
SIGNING = re.compile(
    r"x-(amz|goog)-.*|signature|expires|policy|key-pair-id|awsaccesskeyid|googleaccessid|sig"
    r"|s[eprtv]|spr|sk\w+|sd\w",
    re.I,
)
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
    _need(url, stage)
    single = _single(url)
    # other files of the same folder are another set of copies
    wanted = "" if single or RANGE.search(url) else "".join(sorted(suffixes))
    try:
        where = stage_folder(stage)
        name = f"{_unsigned(url)}{wanted}"
        digest = hashlib.blake2b(name.encode(), digest_size=4).hexdigest()
        stem = re.sub(r"[^\w.-]+", "_", _last(RANGE.sub("", url))).strip("._-")[:60]
        folder = where / f"{stem or 'copy'}-{digest}"
        with locked(_next_to(folder, ".lock"), _next_to(folder, ".part"), "give another folder"):
            _copy(url, folder, single, suffixes, check)
    except OSError as e:
        raise UserError(
            f"cannot copy {url} to {stage}: {e.strerror or one_line(e)}; give another --data.stage"
        ) from e
    return folder / single if single else folder


def look(url: str, stage: str | None) -> None:
    """Check that what an address names is there and can be read, and copy nothing.

    Args:
        url: as for `copied`.
        stage: as for `copied`; the folder need not be on this machine.

    Raises:
        UserError: nothing says where to copy to, or the files cannot be read.
    """
    _need(url, stage)
    try:
        fs, files = _listed(url, _single(url), ("",))
        with fs.open(files[0].path, "rb", block_size=BLOCK, cache_type="none") as stream:
            stream.read(1)
    except UserError:
        raise
    except Exception as e:  # noqa: BLE001 -- each store has errors of its own
        raise _refusal(url, e) from e


def _need(url: str, stage: str | None) -> None:
    """Refuse an address without a folder for its copies.

    Raises:
        UserError: there is no folder.
    """
    if stage is None:
        raise UserError(
            f"{url} is on a network, from which nothing is read image by image: add --data.stage "
            "DIR, a folder on this machine's disk, to which it is copied once"
        )


def _single(url: str) -> str | None:
    """Return the name of the only file that an address names; None for a folder or shards."""
    is_file = not RANGE.search(url) and _last(url).endswith((*ARCHIVES, ".beton"))
    return _last(url) if is_file else None


def _unsigned(url: str) -> str:
    """Return an address without the signature in its query, which another address replaces."""
    parts = urlsplit(url)
    query = [part for part in parts.query.split("&") if not _signs(part)]
    return urlunsplit(parts._replace(query="&".join(query))) if parts.query else url


def _signs(part: str) -> bool:
    return SIGNING.fullmatch(part.partition("=")[0]) is not None


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
    stop = Event()
    with closing(Meter(wanted, "B", have)) as meter, notes.open("a") as log:
        fetch = partial(_fetch, fs, parts=parts, folder=folder, meter=meter, stop=stop)
        with closing(_at_once(fetch, missing, stop)) as copies:
            for file, size in copies:
                if check:
                    check(folder / file.name)
                log.write(json.dumps([file.name, file.size, file.version, size]) + "\n")
                log.flush()
    shutil.rmtree(parts, ignore_errors=True)


def _at_once(
    function: Callable[[RemoteFile], Any], files: Sequence[RemoteFile], stop: Event
) -> Iterator[tuple[RemoteFile, Any]]:
    """Call a function for several files at a time, and yield each file with the result.

    An error, or Ctrl-C, does not wait for a thread that a store lets wait: the threads are daemons,
    unlike those of concurrent.futures, for which the interpreter's end waits too.

    Args:
        function: is called in threads; it changes nothing any more once `stop` is set.
        files: the files.
        stop: event that is set at the end.
    """
    waiting = iter(files)
    lock = Lock()
    done: SimpleQueue[tuple[RemoteFile, Any, BaseException | None]] = SimpleQueue()

    def work() -> None:
        while not stop.is_set():
            with lock:
                file = next(waiting, None)
            if file is None:
                return
            try:
                done.put((file, function(file), None))
            except BaseException as e:  # noqa: BLE001 -- raised again where it is waited for
                done.put((file, None, e))

    count = min(AT_ONCE, len(files))
    threads = [Thread(target=work, name=f"copy-{i}", daemon=True) for i in range(count)]
    try:
        for thread in threads:
            thread.start()
        for _ in files:
            file, result, error = done.get()
            if error:
                raise error
            yield file, result
    finally:
        stop.set()
        last = time.monotonic() + ENDING_S
        for thread in threads:
            thread.join(max(0.0, last - time.monotonic()))


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
    """Tell whether a file was copied, as far as the store tells its size and version."""
    size, version, *rest = noted.get(file.name, [None, None])
    if [size, version] != [file.size, file.version]:
        return False
    try:
        status = (folder / file.name).stat()
    except FileNotFoundError:
        return False
    if file.size is None and not file.version and time.time() - status.st_mtime > OLD_S:
        tell(
            f"{file.path} tells neither size nor version, so that its copy of "
            f"{time.strftime('%d %b %H:%M', time.localtime(status.st_mtime))} is used: to copy it "
            f"again, remove {folder}"
        )
    return status.st_size == (rest[0] if rest else file.size)


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
        if len({_last(each) for each in urls}) < len(urls):
            raise UserError(
                f"{url}: the numbers are in the name of a folder, so all files have one name: give "
                "the folder above, or one folder after another"
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
    describe = partial(_described_shard if pattern else _described, fs)
    described = dict(_at_once(describe, found, Event()))
    return fs, [described[file] for file in found]


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


def _described_shard(fs: fsspec.AbstractFileSystem, file: RemoteFile) -> RemoteFile:
    """Return a shard with its size and version.

    Raises:
        UserError: the store does not tell them; the message names the shard, not the range.
    """
    try:
        return _described(fs, file)
    except Exception as e:  # noqa: BLE001 -- each store has errors of its own
        raise _refusal(fs.unstrip_protocol(file.path), e) from e


def _version(info: dict[str, Any]) -> str:
    return next((str(info[key]) for key in VERSIONS if info.get(key)), "")


def _fetch(
    fs: fsspec.AbstractFileSystem,
    file: RemoteFile,
    parts: Path,
    folder: Path,
    meter: Meter,
    stop: Event,
) -> int:
    """Copy one file, in as many requests as this takes, and give the copy its name.

    Returns:
        The bytes of the copy.

    Raises:
        UserError: the store does not give the file.
        OSError: the copy cannot be written.
        _LeftOff: `stop` was set.
    """
    key = json.dumps(file)
    part = parts / hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
    if file.size is None or not file.version:
        part.unlink(missing_ok=True)  # of another version, perhaps
    furthest = _size(part)
    failures = 0
    while True:
        try:
            _receive(fs, file, part, meter, stop)
            break
        except _CannotWrite as e:
            raise e.error from e
        except _LeftOff:
            raise
        except Exception as e:  # noqa: BLE001 -- each store has errors of its own
            failures = 0 if _size(part) > furthest else failures + 1
            furthest = max(furthest, _size(part))
            if failures >= TRIES or _status(e) in (400, 401, 403, 404):
                raise _refusal(fs.unstrip_protocol(file.path), e) from e
            if stop.wait(PAUSE_S * 2**failures):
                raise _LeftOff from e
    target = folder / file.name
    target.parent.mkdir(parents=True, exist_ok=True)
    size = _size(part)
    part.replace(target)
    return size


class _LeftOff(Exception):
    """Sign that another copy has failed, or that the user has stopped all."""


class _CannotWrite(Exception):
    """Error of this machine's disk, which no other request cures."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _receive(
    fs: fsspec.AbstractFileSystem, file: RemoteFile, part: Path, meter: Meter, stop: Event
) -> None:
    """Append the rest of a file to its part.

    Raises:
        EOFError: less has come than the file has.
        _LeftOff: `stop` was set.
        _CannotWrite: the part cannot be written.
        Exception: that of the store.
    """
    have = _size(part)
    if file.size is None or have < file.size or not part.exists():
        try:
            with fs.open(file.path, "rb", block_size=BLOCK, cache_type="none") as stream:
                if have:
                    stream.seek(have)
                _append(stream, part, meter, stop)
        except ValueError:  # a web server that gives files from their beginning only
            part.unlink(missing_ok=True)
            with fs.open(file.path, "rb", block_size=0) as stream:
                _append(stream, part, meter, stop)
    have = _size(part)
    if file.size is not None and have != file.size:
        if have > file.size:
            part.unlink()
        raise EOFError(f"it has {have:,} of {file.size:,} bytes")


def _append(stream: Any, part: Path, meter: Meter, stop: Event) -> None:
    """Append what a stream still has to a part."""
    try:
        with part.open("ab") as out:
            while block := _read(stream):
                if stop.is_set():
                    raise _LeftOff
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
    if status in (400, 401, 403) and any(map(_signs, urlsplit(url).query.split("&"))):
        return UserError(
            f"{url} is not given ({status}): its signature has expired, or was cut off: get a new "
            "signed address, in quotation marks; what was copied by the former one is used"
        )
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
