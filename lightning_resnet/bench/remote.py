"""Seconds until the images of shards on a web server are here: copied, or read one by one.

resnet-cli bench remote --out benchmarks/remote.md

The server is on loopback and answers each request after a delay, as one that is far away.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import fsspec

from lightning_resnet.bench.inputs import make_photos
from lightning_resnet.bench.layouts import save, shard
from lightning_resnet.bench.store import serving
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
        files = {f"/{p.name}": p.read_bytes() for p in Path(folder, "shards").iterdir()}
        with serving(files, latency_s=args.latency_ms / 1000) as server:
            turns = [name for _ in range(args.repeat) for name in ways]
            for name in metered(turns, len(turns), "readings"):
                server.asked.clear()
                server.sent = 0
                start = time.perf_counter()
                ways[name](server.url, members)
                seconds[name].append(time.perf_counter() - start)
                counts[name] = [f"{len(server.asked):,}", f"{server.sent / 1e6:,.0f}"]
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
