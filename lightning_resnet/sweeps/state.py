"""resnet-cli sweep: list the points of a sweep with their runs, or run them.

resnet-cli sweep configs/sweeps/digits_degradation.yaml --list
resnet-cli sweep configs/sweeps/digits_degradation.yaml --local -j 2
resnet-cli sweep configs/sweeps/digits_degradation.yaml --submit --throttle 2 -- --time 30
"""

import json
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path

from lightning_resnet.errors import UserError, printable
from lightning_resnet.files import write_json
from lightning_resnet.reading import read_json
from lightning_resnet.runs.shared import points, share
from lightning_resnet.runs.status import attempts, final_row, read_meta, status
from lightning_resnet.sweeps.points import SEED, Point, Sweep


def find_runs(sweep: Sweep, root: str | Path) -> None:
    """Fill in the state of each point from the run directories: the sweep's own, then those of other names."""
    own = Path(root, sweep.name)
    _find_in(own.glob("*/meta.json"), sweep.points)
    if missing := [point for point in sweep.points if not point.run]:
        _find_in((meta for meta in Path(root).glob("*/*/meta.json") if meta.parents[1] != own), missing)


def _find_in(metas: Iterable[Path], wanted: list[Point]) -> None:
    by_key = {point.key: point for point in wanted}
    for meta in metas:
        for point in [by_key[key] for key in points(read_json(meta)) if key in by_key]:
            if point.state != "finished":
                point.run, point.state = meta.parent, status(meta.parent)


def link_shared(sweep: Sweep, root: Path) -> None:
    """Let the sweep's folder show the runs of its points that were begun under other names."""
    for point in sweep.points:
        if point.run and point.run.parent.name != sweep.name and share(root, sweep.name, point.run.name):
            point.run = root / sweep.name / point.run.name


def forecast(sweep: Sweep) -> tuple[float, int]:
    """Seconds that the points which are not finished will take, one at a time, and how many finished runs tell so.

    A point takes as long as its twins of other seeds; where none has finished, as the mean run.
    """
    seconds: dict[str, list[float]] = {}
    for point in (p for p in sweep.points if p.state == "finished"):
        seconds.setdefault(_without_seed(point), []).append(sum(a["seconds"] for a in attempts(point.run)))
    known = [s for twins in seconds.values() for s in twins] or [0.0]
    left = [p for p in sweep.points if p.state != "finished"]
    total = sum(statistics.mean(seconds.get(_without_seed(p), known)) * _share_left(p) for p in left)
    return total, sum(map(len, seconds.values()))


def clock(seconds: float) -> str:
    """`31 s`, `2 min 05 s`, `3 h 12 min`."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def command(sweep: Sweep, point: Point, root: Path, threads: str) -> tuple[list[str], Path]:
    """Arguments of a point's run, and its log; its parameters go through a file, as W&B's `${args_json_file}`."""
    file = root / sweep.name / "points" / f"{point.key}.json"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, point.parameters)
    except OSError as e:
        raise UserError(f"cannot write {file}: {e.strerror}; set --root to a folder you can write") from e
    configs = [a for recipe in [*sweep.recipes, str(file)] for a in ("--config", recipe)]
    where = ["--run.root", str(root), "--run.name", sweep.name, "--run.point", point.key]
    begun_with = [] if point.run else ["--run.threads", threads]  # a run continues with what it began with
    return ["fit", *configs, *sweep.flags, *where, *begun_with], file.with_suffix(".log")


def listing(sweep: Sweep, describe: Callable[[Point], str] | None = None) -> str:
    """A line per point, then the totals."""
    rows = [[f"{i}", (describe or describe_state)(p), *sweep.cells(p)] for i, p in enumerate(sweep.points, 1)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    finished = sum(p.state == "finished" for p in sweep.points)
    seconds, by = forecast(sweep)
    time = f"about {clock(seconds)} of run time left, by {by} finished"
    end = "" if finished == len(rows) else f"; {time}" if by else "; no finished run yet to forecast from"
    return "\n".join([*lines, f"{printable(sweep.name)}: {len(rows)} points, {finished} finished{end}"])


def describe_state(point: Point) -> str:
    """`finished, val error 1.94 %`, `failed at step 120/330`, `new`."""
    if point.state == "new":
        return "new"
    error = validation_error(point)
    text = f", val error {error:.2f} %" if error is not None else ""
    if point.state == "finished":
        return point.state + text
    step, total = _steps(point)
    return f"{point.state} at step {step}{f'/{total}' if total else ''}{text}"


def _steps(point: Point) -> tuple[int, int]:
    """Optimizer steps done, and of the whole training where that is counted in epochs, else 0."""
    meta = read_meta(point.run)
    total = meta.get("steps_per_epoch", 0) * max(0, meta.get("epochs") or 0)
    return max((a["last_step"] for a in attempts(point.run)), default=0), total


def _share_left(point: Point) -> float:
    step, total = _steps(point) if point.run else (0, 0)
    return 1 - min(1, step / total) if total else 1.0


def validation_error(point: Point) -> float | None:
    """Percent, from the last evaluation."""
    row = final_row(point.run, "val/acc1") if point.run else None
    return 100 * (1 - row["val/acc1"]) if row and row["val/acc1"] is not None else None


def _without_seed(point: Point) -> str:
    return json.dumps({k: v for k, v in point.parameters.items() if k != SEED}, sort_keys=True)
