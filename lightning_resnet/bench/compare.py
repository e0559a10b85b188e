"""Seconds and memory of `resnet-cli compare` on many long runs: the first time, and again.

resnet-cli bench compare --out benchmarks/compare.md
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lightning_resnet.arguments import positive
from lightning_resnet.bench.child import child
from lightning_resnet.bench.text import table
from lightning_resnet.errors import UserError
from lightning_resnet.progress import metered

EVALUATIONS = 100  # of each run; its other rows are of training


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `resnet-cli bench compare`."""
    parser.add_argument(
        "--runs", type=positive, default=1000, help="copies of the reference runs (default: %(default)s)"
    )
    parser.add_argument(
        "--rows", type=positive, default=10_000, help="of each run's metrics.jsonl (default: %(default)s)"
    )
    parser.add_argument("--repeat", type=positive, default=3, help="times it is asked again (default: %(default)s)")


def report(args: argparse.Namespace) -> list[str]:
    """Measure; the lines of the Markdown report."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        make_runs(Path(folder, "runs/many"), args.runs, args.rows)
        for i in metered(range(1 + args.repeat), 1 + args.repeat, "comparisons"):
            load = os.getloadavg()[0]
            seconds, cpu, memory = measure(Path(folder))
            rows.append(["again" if i else "first", f"{seconds:.1f}", f"{cpu:.1f}", f"{memory:.2f}", f"{load:.1f}"])
    return [
        "# Comparing many runs",
        "",
        f"{args.runs:,} runs of {args.rows:,} rows, {EVALUATIONS} of them evaluations.",
        "",
        *table(["time", "seconds", "of them on the CPU", "peak memory, GB", "load of the machine before"], rows),
    ]


def make_runs(root: Path, runs: int, rows: int) -> None:
    """Copies of the reference runs with seeds of their own and long metrics.jsonl."""
    from lightning_resnet.runs.find import REFERENCE

    templates = sorted(path.parent for path in REFERENCE.glob("digits/*/config.yaml"))
    train, val = (_row(templates[0], key) for key in ("train/", "val/"))
    every = max(1, rows // EVALUATIONS)
    lines = [json.dumps((train if s % every else val) | {"step": s, "epoch": s // every}) for s in range(1, rows + 1)]
    text = "\n".join(lines) + "\n"
    for i in metered(range(runs), runs, "runs made"):
        template, path = templates[i % len(templates)], root / f"{i:010d}"
        (path / "attempts").mkdir(parents=True)
        for name in ("meta.json", "attempts/1.json"):
            (path / name).write_text((template / name).read_text())
        config = (template / "config.yaml").read_text()
        (path / "config.yaml").write_text(re.sub(r"(?m)^seed_everything: .*", f"seed_everything: {i}", config))
        (path / "metrics.jsonl").write_text(text)


def _row(run: Path, prefix: str) -> dict[str, float]:
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return next(row for row in rows if any(key.startswith(prefix) for key in row))


def measure(folder: Path) -> tuple[float, float, float]:
    """Seconds, CPU seconds and peak GB (1e9 bytes) of one process, from its start to its end.

    The peak is an upper bound: Linux counts what this process had when it started the other.
    """
    command = [sys.executable, "-m", "lightning_resnet", "compare", "runs/many", "--out", "report"]
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
    begin = time.monotonic()
    with child(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)  # else Popen thinks that it still runs
    if process.returncode:
        raise UserError("`resnet-cli compare` failed, see above: nothing was measured")
    seconds = time.monotonic() - begin
    return seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e9  # Linux counts in KiB
