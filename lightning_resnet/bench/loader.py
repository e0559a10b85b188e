"""Pictures per second of our loader beside its peers on the same input, in turn, medians.

resnet-cli bench loader --images 2000 --out benchmarks/loader.md
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning_resnet.arguments import positive
from lightning_resnet.bench.child import child
from lightning_resnet.bench.peers import BATCH
from lightning_resnet.bench.text import ratios, spread, table
from lightning_resnet.errors import UserError
from lightning_resnet.machine import cores
from lightning_resnet.progress import metered

GROUPS = {  # input: {peer: what it is}
    "photos": {
        "ours": "lightning_resnet, .beton",
        "ours-noverify": "lightning_resnet, the same without CRC checks",
        "ffcv": "stock FFCV, the same .beton",
        "torchvision": "torchvision DataLoader, the source JPEGs",
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
PACKAGES = {"ffcv": "ffcv", "dali": "nvidia.dali"}  # peers that are left out where their package is not installed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `resnet-cli bench loader`."""
    parser.add_argument(
        "--images", type=positive, default=2000, help="photo-like JPEGs of 500 px (default: %(default)s)"
    )
    parser.add_argument(
        "--size", type=positive, default=224, help="of random-resized-crop + flip (default: %(default)s)"
    )
    parser.add_argument("--threads", type=positive, default=cores(), help="threads or processes (default: all cores)")
    parser.add_argument("--repeat", type=positive, default=5, help="epochs each, in turn (default: %(default)s)")
    peers = [name for group in GROUPS.values() for name in group]
    parser.add_argument("--peers", nargs="+", choices=peers, default=[p for p in peers if _installed(p)])


def report(args: argparse.Namespace) -> list[str]:
    """Measure; the lines of the Markdown report."""
    from lightning_resnet.bench.inputs import make_photos, make_raw, make_tables

    if args.images < BATCH:
        raise UserError(f"--images {args.images}: {BATCH} or more, which is a batch")
    groups = {g: [p for p in peers if p in args.peers] for g, peers in GROUPS.items()}
    with tempfile.TemporaryDirectory() as folder:
        make = {
            "photos": lambda: make_photos(Path(folder), args.images),
            "raw": lambda: make_raw(Path(folder)),
            "tables": lambda: make_tables(Path(folder, "tables.beton")),
        }
        rows: dict[str, dict[str, Any]] = {}
        for group, peers in groups.items():
            if peers:
                make[group]()
                rows |= _measure(peers, args, folder)
    return _report(groups, rows, args)


def _installed(peer: str) -> bool:
    package = PACKAGES.get(peer.partition("-")[0])
    try:
        return package is None or find_spec(package) is not None
    except ImportError:
        return False


def _measure(names: list[str], args: Any, folder: str) -> dict[str, dict[str, Any]]:
    """Each peer in a process of its own, which waits while the others have their turn."""
    processes, facts = {}, {}
    with ExitStack() as stack:
        for name in metered(names, len(names), "loaders made"):
            command = [sys.executable, "-m", "lightning_resnet.bench.peers", name, folder, args.size, args.threads]
            processes[name] = stack.enter_context(child(command, stdin=subprocess.PIPE))
            facts[name] = _answer(name, processes[name])
        for _ in metered(range(args.repeat), args.repeat, "turns"):
            for name, process in processes.items():
                process.stdin.write("go\n")
                process.stdin.flush()
                for key, value in _answer(name, process).items():
                    facts[name].setdefault(key, []).append(value)
    return facts


def _answer(peer: str, process: subprocess.Popen) -> dict[str, Any]:
    for line in process.stdout:
        if line.startswith("{"):
            return json.loads(line)
    raise UserError(f"peer {peer} ended ({process.wait()}): is its package installed?")


def _report(groups: dict[str, list[str]], rows: dict[str, dict[str, Any]], args: Any) -> list[str]:
    from lightning_resnet.bench.inputs import IMAGENET, RAW

    inputs = {
        "photos": f"{args.images} photo-like JPEGs of 500 px (q92), random-resized-crop {args.size} + flip",
        "raw": f"{RAW:,} raw pictures of 32x32, crop out of the picture padded by 4 + flip",
        "tables": f"making the loader of a file with {IMAGENET:,} samples",
    }
    turns = f"{args.threads} threads or processes; medians of {args.repeat} turns, peers in turn"
    lines = ["# Loader", "", f"{turns}; lowest and highest in brackets."]
    for group, peers in groups.items():
        if peers:
            lines += ["", f"## {inputs[group][0].upper()}{inputs[group][1:]}", ""]
            lines += (_construction if group == "tables" else _rates)(GROUPS[group], peers, rows)
    return [
        *lines,
        "",
        "First batch: from making the loader to its first batch, imports excluded. Resident: of the process after the "
        "first batch (or after making the loader), less its imports; torchvision's workers not counted.",
    ]


def _rates(names: dict[str, str], peers: list[str], rows: dict[str, dict[str, Any]]) -> list[str]:
    first = "ours" if peers[0].startswith("ours") else names[peers[0]]
    head = ["loader", "images/s", f"{first} is x times", "first batch, s", "CPU s per 1,000", "resident, MB"]
    lines = []
    for name in peers:
        r = rows[name]
        cpu, beside = f"{1000 * statistics.median(r['cpu']):.2f}", ratios(rows[peers[0]]["rate"], r["rate"], ".2f")
        facts = [beside, f"{r['first']:.2f}", cpu, f"{r['rss'] / 1e6:,.0f}"]
        lines.append([names[name], spread(r["rate"], ",.0f"), *facts])
    return table(head, lines)


def _construction(names: dict[str, str], peers: list[str], rows: dict[str, dict[str, Any]]) -> list[str]:
    lines = [[names[p], spread(rows[p]["seconds"]), f"{rows[p]['rss'] / 1e6:,.0f}"] for p in peers]
    return table(["loader", "s", "resident, MB"], lines)
