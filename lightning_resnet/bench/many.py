"""Seconds of the verbs that look at many runs: the first time, again, and after a change.

resnet-cli bench many --out benchmarks/many.md
"""

import argparse
import json
import re
import shutil
import tempfile
from pathlib import Path

from lightning_resnet.bench.child import verb_measured
from lightning_resnet.bench.text import table
from lightning_resnet.files import write_atomic
from lightning_resnet.progress import metered
from lightning_resnet.runs.find import begun_runs
from lightning_resnet.runs.reader import Run
from lightning_resnet.shipped import REFERENCE
from lightning_resnet.sweeps.points import read

SWEEP = """
name: many
method: grid
command: [resnet-cli, fit, --config, digits, --config, "${args_json_file}"]
parameters:
  model.net.depth: {values: [20, 32, 44, 56]}
  seed_everything: {min: 1, max: %d}
"""
VERBS = {
    "sweep --list": ["sweep", "many.yaml", "--list"],
    "sweep --status": ["sweep", "many.yaml", "--status"],
    "runs": ["runs"],
    "compare": ["compare", "runs/many", "--out", "report"],
}


def report(args: argparse.Namespace) -> list[str]:
    """Measure; return the lines of the Markdown report."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        make_runs(Path(folder), args.runs)
        states = ["first", *["again"] * args.repeat, "one run changed"]
        turns = [(name, state) for name in VERBS for state in states]
        for name, state in metered(turns, len(turns), "turns"):
            if state == "first":
                shutil.rmtree(Path(folder, "cache"), ignore_errors=True)
            elif state == "one run changed":
                _change(Path(folder))
            seconds, used = verb_measured(Path(folder), VERBS[name])
            cpu = used.ru_utime + used.ru_stime
            rows.append([name, state, f"{seconds:.1f}", f"{cpu:.1f}"])
    return [
        "# Many runs",
        "",
        f"{args.runs:,} finished runs of one sweep, in one folder.",
        "",
        *table(["verb", "time", "seconds", "of them on the CPU"], rows),
    ]


def make_runs(folder: Path, count: int) -> None:
    """Write a sweep's YAML, and a finished run for each of its points, after a reference run.

    Args:
        folder: gets the YAML and the folder of runs.
        count: number of runs, rounded down to a multiple of four.
    """
    file = folder / "many.yaml"
    file.write_text(SWEEP % max(1, count // 4))
    template = min(begun_runs(REFERENCE / "digits"), key=lambda run: run.path)
    meta = json.loads(template.meta_file.read_text())
    rows = template.rows_file.read_text()
    attempt = template.attempt_file(1).read_text()
    config = template.config_text()
    points = read(file).points
    for i, point in enumerate(metered(points, len(points), "runs made")):
        run = Run(folder / "runs/many" / f"{i:010x}")
        run.attempts_folder.mkdir(parents=True)
        run.checkpoints.mkdir()
        run.meta_file.write_text(json.dumps(meta | {"run_id": run.path.name, "point": [point.key]}))
        run.attempt_file(1).write_text(attempt)
        seed = point.parameters["seed_everything"]
        depth = point.parameters["model.net.depth"]
        own = re.sub(r"(?m)^seed_everything: .*", f"seed_everything: {seed}", config)
        own = re.sub(r"(?m)^(\s*)depth: .*", rf"\1depth: {depth}", own)
        run.config_file.write_text(own)
        run.rows_file.write_text(rows)


def _change(folder: Path) -> None:
    """Write an attempt's file of one run again, as a training does."""
    run = min(begun_runs(folder / "runs/many"), key=lambda run: run.path)
    write_atomic(run.attempt_file(1), run.attempt_file(1).read_text())
    shutil.rmtree(folder / "report", ignore_errors=True)
