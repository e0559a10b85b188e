"""Images per second of our loader and its peers on the same input, in turn, medians.

resnet-cli bench loader --images 2000 --out benchmarks/loader.md
resnet-cli bench loader --cold
resnet-cli bench loader --policy TrivialAugment RandAugment --out benchmarks/policies.md
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from lightning_resnet.bench.child import child
from lightning_resnet.bench.inputs import IMAGENET, RAW, make_photos, make_raw, make_tables
from lightning_resnet.bench.peers import BATCH, POLICIES
from lightning_resnet.bench.text import ratios, spread, table
from lightning_resnet.errors import UserError
from lightning_resnet.machine import is_installed
from lightning_resnet.progress import metered

GROUPS = {  # input: {peer: what it is}
    "photos": {
        "ours": "lightning_resnet, .beton",
        "ours-noverify": "lightning_resnet, the same without CRC checks",
        "ffcv": "stock FFCV, the same .beton",
        "torchvision": "torchvision DataLoader, the source JPEGs",
        "torchvision-pil": "torchvision DataLoader, the same by Pillow",
        "torchcodec": "torchvision DataLoader, the same by torchcodec",
        "webdataset": "WebDataset, tar files, by torchvision",
        "spdl": "SPDL, the source JPEGs",
        "dali": "DALI on the CPU, the source JPEGs",
    },
    "raw": {
        "ours-raw": "lightning_resnet, .beton",
        "device-raw": "lightning_resnet, `--data.loader device`: all in memory",
        "ffcv-raw": "stock FFCV, the same .beton",
        "torchvision-raw": "torchvision DataLoader, an array in memory",
    },
    "tables": {"ours-tables": "lightning_resnet", "ffcv-tables": "stock FFCV"},
}
PAUSE_S = 1.0  # between two turns
COLD = ("ours", "torchvision", "torchvision-pil", "torchcodec", "webdataset", "spdl", "dali")
WITH_POLICY = ("ours", "torchvision", "torchvision-pil")  # photos that a policy may change
PACKAGES = {  # packages that peers need and we do not
    "ffcv": "ffcv",
    "torchcodec": "torchcodec",
    "webdataset": "webdataset",
    "spdl": "spdl",
    "dali": "nvidia.dali",
}


def report(args: argparse.Namespace) -> list[str]:
    """Measure; return the lines of the Markdown report.

    Raises:
        UserError: there are too few images, FFCV is asked for with `--cold`, or a peer's package
            is not installed.
    """
    if args.images < BATCH:
        raise UserError(f"--images {args.images}: {BATCH} or more, which is a batch")
    if args.cold and not {*(args.peers or COLD)} <= {*COLD}:
        raise UserError(f"--cold is for {', '.join(COLD)}: the others keep what they read")
    for peer in args.peers or ():
        if not _is_installed(peer):
            package = PACKAGES[peer.partition("-")[0]]
            raise UserError(f"--peers {peer}: the package {package} is not installed")
    if args.policy:
        return _report_policies(args)
    groups: dict[str, list[str]] = {}
    for group, peers in GROUPS.items():
        groups[group] = [peer for peer in peers if _is_asked_for(peer, args)]
    with tempfile.TemporaryDirectory() as folder:
        if args.cold and _is_in_memory(Path(folder)):
            raise UserError(
                f"--cold: {Path(folder).parent} is in memory; TMPDIR=FOLDER names one on a disk"
            )
        rows: dict[str, dict[str, Any]] = {}
        for group, peers in groups.items():
            if peers:
                _make_input(group, Path(folder), args)
                rows |= _measure(peers, args, folder)
    return _report(groups, rows, args)


def _is_asked_for(peer: str, args: argparse.Namespace) -> bool:
    """Return whether to measure a peer: one that was named, else one whose package is installed."""
    if args.peers is not None:
        return peer in args.peers
    if args.cold and peer not in COLD:
        return False
    return _is_installed(peer)


def _is_installed(peer: str) -> bool:
    """Return whether the package is here that a peer needs, if it needs one."""
    package = PACKAGES.get(peer.partition("-")[0])
    try:
        return package is None or is_installed(package)
    except ImportError:
        return False


def _report_policies(args: argparse.Namespace) -> list[str]:
    """Measure loaders with each policy and without; return the lines of the report."""
    peers = [peer for peer in WITH_POLICY if args.peers is None or peer in args.peers]
    if not peers:
        raise UserError(f"--policy is for the peers {', '.join(WITH_POLICY)}: name one of these")
    names = peers.copy()
    for policy in args.policy:
        names += [f"{peer}+{policy}" for peer in peers if peer == "ours" or policy in POLICIES]
    with tempfile.TemporaryDirectory() as folder:
        _make_input("photos", Path(folder), args)
        rows = _measure(names, args, folder)
    lines = []
    for name in names:
        peer, _, policy = name.partition("+")
        rate = rows[name]["rate"]
        first = f"{peers[0]}+{policy}" if policy else peers[0]
        cells = [
            GROUPS["photos"][peer],
            policy or "none",
            spread(rate, ",.0f"),
            ratios(rate, rows[peer]["rate"], ".2f"),
            ratios(rows[first]["rate"], rate, ".2f") if first in rows else "",
            f"{1000 * statistics.median(rows[name]['cpu']):.2f}",
        ]
        lines.append(cells)
    first = "ours" if peers[0] == "ours" else GROUPS["photos"][peers[0]]
    head = [
        "loader",
        "policy",
        "images/s",
        "of the same loader without",
        f"with this policy {first} is x times",
        "CPU s per 1,000",
    ]
    return [
        "# Loader with policies",
        "",
        f"{_photos(args)}, {_turns(args)}",
        "",
        *table(head, lines),
    ]


def _photos(args: argparse.Namespace) -> str:
    return (
        f"{args.images} photo-like JPEGs of {args.pixels} px (q92), random-resized-crop "
        f"{args.size} + flip"
    )


def _turns(args: argparse.Namespace) -> str:
    told = (
        f"{args.threads} threads or processes; medians of {args.repeat} turns, peers in turn; "
        "lowest and highest in brackets."
    )
    if args.cold:
        told += " Before each turn the files are dropped from this system's page cache."
    return told


def _make_input(group: str, folder: Path, args: argparse.Namespace) -> None:
    if group == "photos":
        make_photos(folder, args.images, args.pixels)
    elif group == "raw":
        make_raw(folder)
    else:
        make_tables(folder / "tables.beton")


def _measure(names: list[str], args: Any, folder: str) -> dict[str, dict[str, Any]]:
    """Run each peer in its own process, which waits while the others have their turn."""
    processes = {}
    facts = {}
    # Numba, which FFCV runs in, has as many threads as the machine has cores if it is not told
    environment = os.environ | {"NUMBA_NUM_THREADS": str(args.threads)}
    with ExitStack() as stack:
        for name in metered(names, len(names), "loaders made"):
            ours = name.startswith(("ours", "device"))
            module = "lightning_resnet.bench." + ("our_loaders" if ours else "peers")
            peer, _, policy = name.partition("+")
            command = [sys.executable, "-m", module, peer, folder, args.size, args.threads]
            command += [policy] if policy else []
            process = child(command, stdin=subprocess.PIPE, env=environment)
            processes[name] = stack.enter_context(process)
            facts[name] = _answer(name, processes[name])
        for _ in metered(range(args.repeat), args.repeat, "turns"):
            for name, process in processes.items():
                time.sleep(PAUSE_S)  # a peer may still read ahead when its epoch has ended
                if args.cold:
                    _drop_from_cache(Path(folder))
                process.stdin.write("go\n")
                process.stdin.flush()
                for key, value in _answer(name, process).items():
                    facts[name].setdefault(key, []).append(value)
    return facts


def _is_in_memory(folder: Path) -> bool:
    """Return whether the file system of a folder is in memory, so that no page can be dropped."""
    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    inside = [mount for mount in mounts if folder.resolve().is_relative_to(mount)]
    return bool(inside) and mounts[max(inside, key=lambda m: len(m.parts))] in ("tmpfs", "ramfs")


def _drop_from_cache(folder: Path) -> None:
    """Drop the files below a folder from the page cache; those that a process maps stay."""
    for path in folder.rglob("*.*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _answer(peer: str, process: subprocess.Popen) -> dict[str, Any]:
    for line in process.stdout:
        if line.startswith("{"):
            return json.loads(line)
    raise UserError(f"peer {peer} ended ({process.wait()}): its own error stands above")


def _report(groups: dict[str, list[str]], rows: dict[str, dict[str, Any]], args: Any) -> list[str]:
    inputs = {
        "photos": _photos(args),
        "raw": f"{RAW:,} raw images of 32x32, crop out of the image padded by 4 + flip",
        "tables": f"making the loader of a file with {IMAGENET:,} samples",
    }
    lines = [
        "# Loader",
        "",
        _turns(args),
    ]
    for group, peers in groups.items():
        if not peers:
            continue
        lines += ["", f"## {inputs[group][0].upper()}{inputs[group][1:]}", ""]
        if group == "tables":
            lines += _construction(GROUPS[group], peers, rows)
        else:
            lines += _rates(GROUPS[group], peers, rows)
    return [
        *lines,
        "",
        "First batch: from making the loader to its first batch, imports excluded. Resident: of "
        "the process after the first batch (or after making the loader), less its imports; "
        "torchvision's workers not counted.",
    ]


def _rates(names: dict[str, str], peers: list[str], rows: dict[str, dict[str, Any]]) -> list[str]:
    first = "ours" if peers[0].startswith("ours") else names[peers[0]]
    head = [
        "loader",
        "images/s",
        f"{first} is x times",
        "first batch, s",
        "CPU s per 1,000",
        "resident, MB",
    ]
    lines = []
    for name in peers:
        facts = rows[name]
        cells = [
            names[name],
            spread(facts["rate"], ",.0f"),
            ratios(rows[peers[0]]["rate"], facts["rate"], ".2f"),
            f"{facts['first']:.2f}",
            f"{1000 * statistics.median(facts['cpu']):.2f}",
            f"{facts['rss'] / 1e6:,.0f}",
        ]
        lines.append(cells)
    return table(head, lines)


def _construction(
    names: dict[str, str], peers: list[str], rows: dict[str, dict[str, Any]]
) -> list[str]:
    lines = []
    for name in peers:
        facts = rows[name]
        lines.append([names[name], spread(facts["seconds"]), f"{facts['rss'] / 1e6:,.0f}"])
    return table(["loader", "s", "resident, MB"], lines)
