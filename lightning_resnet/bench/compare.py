"""Seconds and memory of `resnet-cli compare` on many long runs: the first time, and again.

resnet-cli bench compare --out benchmarks/compare.md
"""

import argparse
import json
import os
import re
import tempfile
from pathlib import Path

from lightning_resnet.bench.child import verb_measured
from lightning_resnet.bench.text import table
from lightning_resnet.progress import metered
from lightning_resnet.runs.find import begun_runs
from lightning_resnet.runs.reader import Run
from lightning_resnet.shipped import REFERENCE

EVALUATIONS = 100  # rows of each run that are evaluations; the others are training rows


def report(args: argparse.Namespace) -> list[str]:
    """Measure; return the lines of the Markdown report."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        make_runs(Path(folder, "runs/many"), args.runs, args.rows)
        for i in metered(range(1 + args.repeat), 1 + args.repeat, "comparisons"):
            load = os.getloadavg()[0]
            seconds, cpu, memory = measure(Path(folder))
            when = "again" if i else "first"
            rows.append([when, f"{seconds:.1f}", f"{cpu:.1f}", f"{memory:.2f}", f"{load:.1f}"])
    head = [
        "time",
        "seconds",
        "of them on the CPU",
        "peak memory, GB",
        "load of the machine before",
    ]
    return [
        "# Comparing many runs",
        "",
        f"{args.runs:,} runs of {args.rows:,} rows, {EVALUATIONS} of them evaluations.",
        "",
        *table(head, rows),
    ]


def make_runs(root: Path, runs: int, rows: int) -> None:
    """Copy the reference runs, each copy with its own seed and a long metrics.jsonl.

    Args:
        root: folder of the copies.
        runs: number of copies.
        rows: lines of each metrics.jsonl.
    """
    templates = sorted(begun_runs(REFERENCE / "digits"), key=lambda run: run.path)
    train = _row(templates[0], "train/")
    val = _row(templates[0], "val/")
    every = max(1, rows // EVALUATIONS)
    lines = []
    for step in range(1, rows + 1):
        row = train if step % every else val
        lines.append(json.dumps(row | {"step": step, "epoch": step // every}))
    text = "\n".join(lines) + "\n"
    for i in metered(range(runs), runs, "runs made"):
        template = templates[i % len(templates)]
        run = Run(root / f"{i:010d}")
        run.attempts_folder.mkdir(parents=True)
        run.meta_file.write_text(template.meta_file.read_text())
        run.attempt_file(1).write_text(template.attempt_file(1).read_text())
        config = template.config_text()
        seeded = re.sub(r"(?m)^seed_everything: .*", f"seed_everything: {i}", config)
        run.config_file.write_text(seeded)
        run.rows_file.write_text(text)


def _row(run: Run, prefix: str) -> dict[str, float]:
    """Return the first row of a run with a metric of this prefix."""
    rows = map(json.loads, run.rows_file.read_text().splitlines())
    return next(row for row in rows if any(key.startswith(prefix) for key in row))


def measure(folder: Path) -> tuple[float, float, float]:
    """Return seconds, CPU seconds and peak GB (1e9 bytes) of one process, from start to end.

    The peak is an upper bound: Linux counts what this process had when it started the other.
    """
    words = ["compare", "runs/many", "--out", "report"]
    seconds, used = verb_measured(folder, words)
    peak = used.ru_maxrss * 1024 / 1e9  # Linux counts in KiB
    return seconds, used.ru_utime + used.ru_stime, peak
