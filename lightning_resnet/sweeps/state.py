"""Find the runs of a sweep's points, describe their states, and prepare their commands."""

import json
import shlex
import statistics
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict
from itertools import zip_longest
from operator import itemgetter
from pathlib import Path
from typing import Any

from lightning_resnet.engine.halving import evaluations
from lightning_resnet.errors import UserError, nearest, printable
from lightning_resnet.files import write_json
from lightning_resnet.runs.find import described_runs
from lightning_resnet.runs.index import Index
from lightning_resnet.runs.labels import SEED, link_label
from lightning_resnet.runs.reader import Run
from lightning_resnet.runs.shared import share
from lightning_resnet.runs.status import HALVED, reason_of, word_of
from lightning_resnet.sweeps.goals import METRICS
from lightning_resnet.sweeps.points import Point, Sweep, as_json


def assign_runs(sweep: Sweep, root: str | Path) -> None:
    """Fill in the run and state of each point from the run directories.

    The sweep's own folder is searched first, then, for points without a run, all other folders.

    Args:
        sweep: changed in place.
        root: folder of all runs.
    """
    root = Path(root)
    own = root / sweep.name
    with Index() as index:
        _find_among(described_runs(own), sweep.points, index)
        missing = [point for point in sweep.points if not point.run]
        if missing:
            others = (run for run in described_runs(root, "*/*") if run.path.parent != own)
            _find_among(others, missing, index)


def _find_among(runs: Iterable[Run], wanted: list[Point], index: Index) -> None:
    """Fill in the run and state of those points whose keys the runs have in their meta.json."""
    by_key = {point.key: point for point in wanted}
    for run in runs:
        facts = index.facts(run.path, details=False)
        for key in facts.points:
            point = by_key.get(key)
            if point and point.state != "finished":
                point.run = run.path
                point.facts = facts
                point.state = facts.status


def link_shared(sweep: Sweep, root: Path) -> None:
    """Link the runs of the sweep's points that other sweeps have into the sweep's folder."""
    for point in sweep.points:
        if not point.run or point.run.parent.name == sweep.name:
            continue
        if share(root, sweep.name, point.run.name):
            point.run = root / sweep.name / point.run.name
            link_label(point.run, sweep.label(point))


def forecast(sweep: Sweep) -> tuple[float, int]:
    """Forecast the run time of the points that are not finished.

    A point takes the mean time of the points that differ in the seed alone; if none of them has
    finished, the mean time of all finished points.

    Returns:
        The seconds that the points take one at a time, and the number of finished runs that the
        forecast is from.
    """
    seconds: dict[str, list[float]] = {}
    for point in sweep.points:
        if point.state == "finished":
            seconds.setdefault(_without_seed(point), []).append(point.facts.seconds)
    known = [run_time for run_times in seconds.values() for run_time in run_times]
    total = 0
    for point in sweep.points:
        if not sweep.is_done(point):
            run_times = seconds.get(_without_seed(point), known or [0.0])
            total += statistics.mean(run_times) * _share_left(point)
    if known:
        total += statistics.mean(known) * (sweep.size - len(sweep.points))
    return total, len(known)


def clock(seconds: float) -> str:
    """Format a duration: `31 s`, `2 min 05 s`, `3 h 12 min`."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def prepare_command(
    sweep: Sweep, point: Point, root: Path, threads: str | None
) -> tuple[list[str], Path]:
    """Write the file of a point's parameters, and return the command that uses the file.

    The file is that of W&B's macro `${args_json_file}`.

    Args:
        sweep: the sweep.
        point: a point of the sweep.
        root: folder of all runs.
        threads: number of threads of a new run, or a word that stands for the number; None: fit
            chooses.

    Returns:
        The arguments of `resnet-cli`, and the path of the log.

    Raises:
        UserError: the file cannot be written.
    """
    file = root / sweep.name / "points" / f"{point.key}.json"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, point.parameters)
    except OSError as e:
        raise UserError(
            f"cannot write {file}: {e.strerror}; set --root to a folder you can write"
        ) from e
    arguments = ["fit"]
    for recipe in (*sweep.recipes, str(file)):
        arguments += ["--config", recipe]
    arguments += sweep.flags
    arguments += ["--run.root", str(root), "--run.name", sweep.name, "--run.point", point.key]
    arguments += ["--run.label", sweep.label(point)]
    if sweep.hyperband:
        arguments += ["--run.hyperband", json.dumps(asdict(sweep.hyperband))]
    if threads and not point.run:  # a run continues with the number of threads that it began with
        arguments += ["--run.threads", threads]
    return arguments, file.with_suffix(".log")


def with_root(command: str, root: str | Path) -> str:
    """Return a command with --root, where the folder of all runs is not the default."""
    return command if str(root) == "runs" else f"{command} --root {shlex.quote(str(root))}"


def listing(sweep: Sweep, describe: Callable[[Point], str] | None = None) -> str:
    """Return a line for each point, then a line of totals.

    Args:
        sweep: a sweep with the state of its points filled in.
        describe: describes the state of a point; default: `describe_state`.
    """
    describe = describe or describe_state
    rows = []
    for number, point in enumerate(sweep.points, 1):
        folder = [printable(point.run)] if point.run else []
        rows.append([str(number), describe(point), *sweep.cells(point), *folder])
    lines = _columns(rows)
    finished = sum(p.state == "finished" for p in sweep.points)
    total = f"{printable(sweep.name)}: {sweep.size} points, {finished} finished"
    done = sum(map(sweep.is_done, sweep.points))
    if done > finished:
        total += f", {done - finished} {HALVED}"
    if len(rows) < sweep.size:
        total += f", {sweep.size - len(rows)} to be found"
    if done < sweep.size:
        seconds, known = forecast(sweep)
        if known:
            total += f"; about {clock(seconds)} of run time left, by {known} finished"
        else:
            total += "; no finished run yet to forecast from"
    return "\n".join([*lines, total])


def best(sweep: Sweep, count: int) -> list[tuple[Point, float]]:
    """Return the points with the best results, the best first, each with its result.

    The result is the sweep's metric at the last evaluation. Points that have none, or whose
    training diverged, are left out.

    Args:
        sweep: a sweep with the state of its points filled in.
        count: largest number of points.
    """
    found = []
    for point in sweep.points:
        if point.run and point.state != "diverged":
            values = evaluations(Run(point.run), sweep.goal.metric) or []
            found += [(point, value) for _, value in values[-1:]]
    return sorted(found, key=itemgetter(1), reverse=sweep.goal.is_more)[:count]


def ranking(sweep: Sweep, found: list[tuple[Point, float]]) -> str:
    """Return a line for each point that `best` has found."""
    rows = []
    for place, (point, value) in enumerate(found, 1):
        text = f"{sweep.goal.metric} {value:.6g}"
        rows.append(
            [str(place), text, *sweep.cells(point), state_and_reason(point), printable(point.run)]
        )
    if rows:
        return "\n".join(_columns(rows))
    metric = sweep.goal.metric
    hint = "" if metric in METRICS else nearest(metric, METRICS)
    return printable(f"{sweep.name}: no point has a result in {metric} yet{hint}")


def facts(sweep: Sweep, queue: Collection[str] = ()) -> dict[str, Any]:
    """Return what `listing` tells, for programs.

    Args:
        sweep: a sweep with the state of its points filled in.
        queue: places of the points that wait in SLURM's queue.
    """
    points = []
    for point in sweep.points:
        step = point.facts.step if point.facts else 0
        steps = point.facts.steps if point.facts else None
        told = {
            "point": point.key,
            "parameters": point.parameters,
            "run": point.run,
            "state": point.state,
            "step": step,
            "steps": steps,
            "val_error": validation_error(point),
            "queued": point.place in queue,
        }
        points.append(told)
    return {"sweep": sweep.name, "points": points}


def _columns(rows: list[list[str]]) -> list[str]:
    """Return a line for each row, with its cells below one another."""
    widths = [max(map(len, column)) for column in zip_longest(*rows, fillvalue="")]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join(cells).rstrip())
    return lines


def describe_state(point: Point) -> str:
    """Describe the state of a point by its run: `finished, val error 1.94 %`, `new`, ..."""
    if point.state == "new":
        return "new"
    error = validation_error(point)
    text = f", val error {error:.2f} %" if error is not None else ""
    if point.state == "finished":
        return point.state + text
    step = point.facts.step
    total = point.facts.steps
    progress = f"{step}/{total}" if total else f"{step}"
    return f"{word_of(point.state)} at step {progress}{text}"


def state_and_reason(point: Point) -> str:
    """Return the state of a point that has a run, and why: `failed, out of memory`, `finished`."""
    reason = reason_of(point.state, point.facts.attempt)
    return word_of(point.state) + (f", {printable(reason)}" if reason else "")


def _share_left(point: Point) -> float:
    """Return the share of a point's training that is left, from 0 to 1."""
    if not point.facts or not point.facts.steps:
        return 1.0
    return 1 - min(1, point.facts.step / point.facts.steps)


def validation_error(point: Point) -> float | None:
    """Return the error (%) of a point's last evaluation; None where there is none."""
    return point.facts.val_error if point.facts else None


def _without_seed(point: Point) -> str:
    """Return the parameters of a point, except the seed, as a text."""
    return as_json({k: v for k, v in point.parameters.items() if k != SEED})
