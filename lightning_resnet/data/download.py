"""Download one file over HTTP: continue what has come, and leave hosts that are slow or silent.

Neither urllib's time-out nor that of another library that is at hand ends a download at 70 kB/s, or
a host that sends one byte a second; none of them continues a file that a host has cut off. A thread
reads the answer here, so that the limits hold for name servers, proxies and headers too.
"""

import hashlib
import http.client
import json
import queue
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_resnet.errors import one_line, printable, tell
from lightning_resnet.files import write_json
from lightning_resnet.progress import Meter

BLOCK = 1 << 17  # bytes that are read at once
RANGE = r"bytes (\d{1,15})-\d+/(\d{1,15}|\*)"
HEADERS = {"User-Agent": "lightning_resnet", "Accept-Encoding": "identity"}


@dataclass(frozen=True)
class Limits:
    """Limits of a download.

    Args:
        silence_s: seconds without a byte after which a host counts as silent.
        floor: bytes per second below which a host counts as slow.
        window_s: seconds over which the rate is measured.
        tries: connections in a row that may end without a hundredth of the file.
        pause_s: seconds until the second connection; doubled each time.
        largest: bytes of a file of unknown size, at most.
    """

    silence_s: float = 20
    floor: float = 200e3
    window_s: float = 20
    tries: int = 3
    pause_s: float = 1
    largest: int = 2_000_000_000


LIMITS = Limits()


class Failed(Exception):
    """Error of a host that does not give the file; the message says why, in one line."""


class Slow(Failed):
    """Error of a host that gives the file too slowly.

    Args:
        reason: the message.
        rate: bytes per second.
    """

    def __init__(self, reason: str, rate: float) -> None:
        super().__init__(reason)
        self.rate = rate


class _Cut(Exception):
    """Error of a connection that has ended early; another one may continue."""


def algorithm(digest: str) -> str:
    """Return the name of the algorithm of a hexadecimal digest, MD5 or SHA-256."""
    return "MD5" if len(digest) == 32 else "SHA-256"


def digest_of(content: bytes, like: str) -> str:
    """Return the digest of bytes, by the algorithm of the digest `like`."""
    return hashlib.new(algorithm(like).replace("-", ""), content, usedforsecurity=False).hexdigest()


def download(
    url: str,
    part: Path,
    size: int = 0,
    digest: str = "",
    has_floor: bool = True,
    limits: Limits = LIMITS,
) -> None:
    """Complete the file `part`, which an earlier call, or another host, may have begun.

    Args:
        url: address of the file, http or https; redirects are followed.
        part: path of the file. A file part.json notes which version it is of.
        size: bytes of the file as published; 0 if unknown.
        digest: MD5 or SHA-256 of the file as published; empty if unknown. Only a file with a
            digest is continued from another host.
        has_floor: whether the host is left if it is slow.
        limits: the limits.

    Raises:
        Failed: the host does not give the file. What has come stays, unless it is wrong.
        OSError: the file cannot be written.
    """
    continued = _size(part) > 0
    while True:
        _complete(url, part, size, bool(digest), has_floor, limits)
        if not digest:
            return
        with part.open("rb") as file:
            found = hashlib.file_digest(file, _hasher(digest)).hexdigest()
        if found == digest:
            return
        remove(part)
        if not continued:
            raise Failed(f"wrong bytes: {algorithm(digest)} {found} is not the published {digest}")
        continued = False  # bytes of an earlier call or another host may be the wrong ones


def _hasher(digest: str) -> Any:
    name = algorithm(digest).replace("-", "")
    return lambda: hashlib.new(name, usedforsecurity=False)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def remove(part: Path) -> None:
    """Remove a part and its note."""
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


def _note(part: Path) -> Path:
    """Return the path of the file that notes which version a part is of."""
    return part.with_name(f"{part.name}.json")


def _version(part: Path) -> dict[str, str]:
    """Return the address and the validator of the version that a part is of, as far as known."""
    with suppress(OSError, ValueError):
        noted = json.loads(_note(part).read_text())
        if isinstance(noted, dict):
            return {k: str(v) for k, v in noted.items()}
    return {}


def _complete(
    url: str, part: Path, size: int, proven: bool, has_floor: bool, limits: Limits
) -> None:
    """Connect until the file is complete, as long as the connections bring something."""
    if not proven and _version(part).get("url") != url:
        remove(part)  # of another file, perhaps
    if size and _size(part) > size:
        remove(part)
    furthest = _size(part)
    failures = 0
    while not size or _size(part) < size:
        try:
            return _connect(url, part, size, has_floor, limits)
        except _Cut as e:
            gain = _size(part) - furthest
            furthest = max(furthest, _size(part))
            failures = 0 if gain > size // 100 else failures + 1
            if failures >= limits.tries:
                raise Failed(f"{e}; given up after {limits.tries} tries") from e
            tell(f"{e}: trying again")
            time.sleep(limits.pause_s * 2**failures)


def _connect(url: str, part: Path, size: int, has_floor: bool, limits: Limits) -> None:
    """Receive the rest of the file on one connection."""
    have = _size(part)
    headers = dict(HEADERS)
    version = _version(part)
    if have:
        headers["Range"] = f"bytes={have}-"
        if version.get("url") == url and version.get("validator"):
            headers["If-Range"] = version["validator"]
    with closing(_received(urllib.request.Request(url, headers=headers), limits)) as received:
        status, answer = next(received)
        start, total = _extent(status, answer, have, size, part, limits.largest)
        if not start:
            part.unlink(missing_ok=True)
        validator = answer.get("ETag", "")
        if not validator or validator.startswith("W/"):
            validator = answer.get("Last-Modified", "")
        write_json(_note(part), {"url": url, "validator": validator}, sync=False)
        with part.open("ab", buffering=0) as file:
            _store(received, file, start, total, has_floor, limits)
    if total and _size(part) < total:
        raise _Cut(f"cut off at {_size(part):,} of {total:,} bytes")


def _extent(
    status: int, answer: Any, have: int, size: int, part: Path, largest: int
) -> tuple[int, int]:
    """Return at which byte the answer starts, and the bytes of the file, 0 if unknown."""
    length = answer.get("Content-Length", "").strip()
    rest = int(length) if re.fullmatch(r"\d{1,15}", length) else 0
    start = 0
    total = rest
    if status == 206:
        words = re.fullmatch(RANGE, answer.get("Content-Range", "").strip())
        if not words or int(words[1]) != have:
            remove(part)
            raise _Cut("the host sends another part of the file than asked for")
        start = have
        total = int(words[2]) if words[2] != "*" else start + rest
    elif status == 416:  # nothing is left to send, or the file has become shorter
        if answer.get("Content-Range", "").strip() == f"bytes */{have}":
            return have, have
        remove(part)
        raise _Cut("the host's file is shorter than what has come")
    if size and total and total != size:
        kind = printable(answer.get("Content-Type", "no type"), 60)
        raise Failed(
            f"answers with {total:,} bytes of {kind}, the file has {size:,} (a login page, or "
            "another file)"
        )
    if total > max(size, largest):
        raise Failed(f"answers with {total:,} bytes")
    return start, size or total


def _store(
    received: Iterator[Any], file: Any, start: int, total: int, has_floor: bool, limits: Limits
) -> None:
    """Write what arrives, and measure the rate.

    Raises:
        Slow: the host is slow, or has become silent.
        Failed: more bytes come than the file has.
    """
    most = total or limits.largest
    done = start
    began = time.monotonic()
    window_start = began
    window_done = done
    with closing(Meter(total, "B", first=start)) as meter:
        for block in received:
            now = time.monotonic()
            if block is None:  # silent
                if not has_floor:
                    raise _Cut(f"silent for {limits.silence_s:g} s")
                rate = (done - start) / (now - began)
                raise Slow(f"silent for {limits.silence_s:g} s", rate)
            done += len(block)
            if done > most:
                file.truncate(0)
                raise Failed(f"sends more than the {most:,} bytes of the file")
            file.write(block)
            meter.update(len(block))
            if has_floor and now - window_start >= limits.window_s:
                rate = (done - window_done) / (now - window_start)
                lasts = not total or (total - done) / max(rate, 1) > limits.window_s
                if rate < limits.floor and lasts:
                    raise Slow(
                        f"slow: {rate / 1e3:,.0f} kB/s over {limits.window_s:g} s, less than "
                        f"{limits.floor / 1e3:g}",
                        rate,
                    )
                window_start = now
                window_done = done


def _received(request: urllib.request.Request, limits: Limits) -> Iterator[Any]:
    """Yield the status and the headers of the answer, then its bytes; None once it is silent.

    Raises:
        Failed: the host cannot be reached, refuses, or does not answer.
        _Cut: the connection broke, or the host is overloaded.
    """
    box: queue.Queue[Any] = queue.Queue(maxsize=8)
    ends = threading.Event()
    work = threading.Thread(target=_receive, args=(request, limits, box, ends), daemon=True)
    work.start()
    begun = False
    try:
        while True:
            try:
                item = box.get(timeout=limits.silence_s)
            except queue.Empty:
                if begun:
                    yield None
                raise Failed(f"no answer within {limits.silence_s:g} s") from None
            if isinstance(item, Exception):
                raise _as_failure(item, begun) from item
            if item == b"":
                return
            begun = True
            yield item
    finally:
        ends.set()
        with suppress(queue.Empty):  # room for what the thread still puts
            while True:
                box.get_nowait()


def _receive(
    request: urllib.request.Request, limits: Limits, box: queue.Queue, ends: threading.Event
) -> None:
    """Put the answer into the box: (status, headers), its blocks, then b"" or an exception."""
    try:
        try:
            answer = _opener().open(request, timeout=2 * limits.silence_s)
        except urllib.error.HTTPError as e:
            if e.code != 416:
                raise
            answer = e
        with answer:
            box.put((answer.status, answer.headers))
            while answer.status != 416 and not ends.is_set():
                block = answer.read1(BLOCK)
                box.put(block)
                if not block:
                    return
        box.put(b"")
    except Exception as e:  # each one is told by the thread that waits for the box
        box.put(e)


def _opener() -> urllib.request.OpenerDirector:
    """Return what opens http and https only, through the proxies of the environment."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


def _as_failure(error: Exception, begun: bool) -> Exception:
    """Return the error of a connection as `Failed` or, if another connection may help, `_Cut`."""
    if isinstance(error, urllib.error.HTTPError):
        if error.code < 400:
            return Failed("redirects in a circle, or not to http or https")
        reason = f"answers {error.code} {printable(error.reason, 60)}"
        return _Cut(reason) if error.code == 429 or error.code >= 500 else Failed(reason)
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    words = one_line(reason) if isinstance(reason, Exception) else reason
    text = printable(getattr(reason, "strerror", None) or words, 200)
    if begun:
        return _Cut(f"the connection broke ({text})")
    if isinstance(error, http.client.RemoteDisconnected):
        return _Cut(f"no answer ({text})")
    return Failed(f"cannot be reached ({text})")
