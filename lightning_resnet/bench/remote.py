"""Seconds until the images of shards on a web server are here: copied, or read one by one.

resnet-cli bench remote --out benchmarks/remote.md

The server is on loopback and answers each request after a delay, as one that is far away.
"""

import argparse
import random
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec

from lightning_resnet.bench.inputs import make_photos
from lightning_resnet.bench.layouts import save, shard
from lightning_resnet.bench.text import spread, table
from lightning_resnet.data.archives import Member, tar_members
from lightning_resnet.data.remote import AT_ONCE, copied
from lightning_resnet.progress import metered

SHARDS = 16


def report(args: argparse.Namespace) -> list[str]:
    """Measure; return the lines of the Markdown report."""
    ways: dict[str, Callable[[str, dict[str, list[Member]]], None]] = {
        f"complete shards, {AT_ONCE} at a time (`data write`)": _copy,
        "an image a request, in the order of the .beton": _by_range,
        "fsspec's read-ahead of 5 MiB, in the order of the .beton": _ahead_shuffled,
        "fsspec's read-ahead of 5 MiB, in the order of the shards": _ahead_in_order,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    counts = {}
    with tempfile.TemporaryDirectory() as folder:
        size = _make(Path(folder), args.images)
        members = {p.name: _images_in(p) for p in sorted(Path(folder, "shards").iterdir())}
        with _serving(Path(folder, "shards"), args.latency_ms / 1000) as server:
            turns = [name for _ in range(args.repeat) for name in ways]
            for name in metered(turns, len(turns), "readings"):
                server.requests = 0
                server.sent = 0
                start = time.perf_counter()
                ways[name](f"http://127.0.0.1:{server.server_port}", members)
                seconds[name].append(time.perf_counter() - start)
                counts[name] = [f"{server.requests:,}", f"{server.sent / 1e6:,.0f}"]
    rates = {name: [args.images / each for each in seconds[name]] for name in ways}
    rows = [[name, spread(rates[name], ",.0f"), *counts[name]] for name in ways]
    return [
        "# Images from a network",
        "",
        f"{args.images:,} photo-like JPEGs of 500 px in {SHARDS} WebDataset shards, "
        f"{size / 1e6:,.0f} MB, on a web server on loopback that answers each request after "
        f"{args.latency_ms} ms; medians of {args.repeat} turns, ways in turn; lowest and highest "
        "in brackets. Reading one by one has the places of the images given; without, each header "
        "of the .tar is one more request.",
        "",
        *table(["way", "images/s", "requests", "MB sent"], rows),
    ]


def _make(folder: Path, n: int) -> int:
    """Write shards of n images; return their bytes."""
    make_photos(folder, n)
    rows = [(f"{i:06}", p.read_bytes()) for i, p in enumerate(sorted(folder.rglob("*.jpg")))]
    total = 0
    for k in range(SHARDS):
        of_shard = [(name, data, int(name) % 10) for name, data in rows[k:n:SHARDS]]
        content = shard(of_shard, str)
        total += len(content)
        save(folder / "shards" / f"x-train-{k:04}.tar", content)
    return total


def _images_in(path: Path) -> list[Member]:
    return [member for member in tar_members(path) if member.name.endswith(".jpg")]


def _copy(url: str, members: dict[str, list[Member]]) -> None:
    with tempfile.TemporaryDirectory() as stage:
        root = copied(f"{url}/x-train-{{0000..{SHARDS - 1:04}}}.tar", stage)
        for name, inside in members.items():
            with open(root / name, "rb") as file:
                for member in inside:
                    _read(file, member)


def _by_range(url: str, members: dict[str, list[Member]]) -> None:
    _read_members(url, members, shuffled=True, cache_type="none")


def _ahead_shuffled(url: str, members: dict[str, list[Member]]) -> None:
    _read_members(url, members, shuffled=True, cache_type="readahead")


def _ahead_in_order(url: str, members: dict[str, list[Member]]) -> None:
    _read_members(url, members, shuffled=False, cache_type="readahead")


def _read_members(
    url: str, members: dict[str, list[Member]], shuffled: bool, cache_type: str
) -> None:
    """Read images by fsspec, one after the other."""
    fs = fsspec.filesystem("http")
    files = {name: fs.open(f"{url}/{name}", cache_type=cache_type) for name in members}
    wanted = [(name, member) for name, inside in members.items() for member in inside]
    if shuffled:
        random.Random(0).shuffle(wanted)
    for name, member in wanted:
        _read(files[name], member)


def _read(file: object, member: Member) -> None:
    file.seek(member.start)
    if len(file.read(member.size)) != member.size:
        raise AssertionError(f"{member.name} was cut off")


class _Server(ThreadingHTTPServer):
    """A server of the files in a folder, late by `latency_s` seconds; counts what it sends."""

    def __init__(self, folder: Path, latency_s: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = {f"/{path.name}": path.read_bytes() for path in folder.iterdir()}
        self.latency_s = latency_s
        self.requests = 0
        self.sent = 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Leave the log of requests out, which would go to stderr."""

    def do_HEAD(self) -> None:  # noqa: N802
        """Answer with the size of a file."""
        self._answer(has_body=False)

    def do_GET(self) -> None:  # noqa: N802
        """Answer with a file, or the range of bytes that is asked for."""
        self._answer(has_body=True)

    def _answer(self, has_body: bool) -> None:
        time.sleep(self.server.latency_s)
        content = self.server.files[self.path]
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        self.send_response(206 if asked else 200)
        self.send_header("ETag", f'"{self.path}"')
        if asked:
            first = int(asked[1])
            last = min(int(asked[2]), len(content) - 1)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
            content = content[first : last + 1]
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.server.requests += 1
        if has_body:
            self.server.sent += len(content)
            self.wfile.write(content)


@contextmanager
def _serving(folder: Path, latency_s: float) -> Iterator[_Server]:
    server = _Server(folder, latency_s)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
