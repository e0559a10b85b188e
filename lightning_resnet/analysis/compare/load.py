"""Two DataFrames from run directories: what each run was, and how it went.

The run directory is the truth: nothing here needs a network, a GPU or the code that trained.
`runs, history = load_runs("runs/digits")`
"""

import json
import os
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from lightning_resnet.analysis.compare.cache import Cache
from lightning_resnet.analysis.compare.columns import FACTS, HISTORY, NUMBERS, SHORT, short_names
from lightning_resnet.errors import UserError, one_line
from lightning_resnet.progress import metered
from lightning_resnet.runs.find import find_runs, folder_of
from lightning_resnet.runs.identity import flatten, with_public_paths
from lightning_resnet.runs.metrics import Row, merge
from lightning_resnet.runs.reader import Run
from lightning_resnet.runs.status import facts_in, status_of
from lightning_resnet.shipped import REFERENCE
from lightning_resnet.tracking.wandb_offline import find_offline, read_offline
from lightning_resnet.tracking.wandb_online import read_project
from lightning_resnet.tracking.wandb_rows import SCHEME

SAMPLES = ((100, 500), (400, 128), (1600, 32))  # up to so many runs: training rows of each
MOST_CELLS = 200_000_000  # of a table: 1.6 GB of numbers
JOINED_LATER = {  # options, and what runs did that were made before there were any
    "model.loss": "cross_entropy",
    "model.precise_bn": 0,
    "model.compile": False,
    "data.erase": 0.0,
    "data.order": "global",
    "data.repeats": 3,
}


class Runs(NamedTuple):
    """Two tables, joined by `path` (run ids repeat when a run is copied).

    Attributes:
        runs: one row per run: `FACTS`, the config under dotted keys, short names for the common
            ones (`depth`, `seed`). A folder that cannot be read is a row with status "unreadable"
            and the reason in `error`. `began`: `time` of the first row; `gpu_h`: hours times GPUs
            over all attempts, nan on CPUs; `input_size`: pixels; `about`: what a reference says of
            its images.
        history: one row per line of metrics.jsonl that holds after the merge, with `kind`
            train | val | test, and the `gpu_h` spent until then.
    """

    runs: pd.DataFrame
    history: pd.DataFrame


def load_runs(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    train: bool = True,
    sample: bool = False,
) -> Runs:
    """Read every run in or under `paths`.

    Args:
        paths: run directories, sweeps, roots, or folders of runs that only W&B wrote;
            `wandb://entity/project`; or `reference:digits`, which is one of ours.
        train: with the rows of training; without them, finished runs are read once and then from
            a cache.
        sample: without `train`: with some of the rows of training, the fewer of each run the more
            runs there are.

    Raises:
        UserError: a path does not exist, or there is no readable run.
    """
    paths = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    addresses = [str(path) for path in paths if str(path).startswith(SCHEME)]
    folders = [folder_of(path) for path in paths if not str(path).startswith(SCHEME)]
    folders_of_runs = [*find_runs(folders)]
    read = read_run
    if not train:
        n = next((rows for runs, rows in SAMPLES if len(folders_of_runs) <= runs), 0)
        n = n if sample else 0
        read = Cache(partial(read_run, train=False, sample=n), n).read
    found = [read(path) for path in metered(folders_of_runs, len(folders_of_runs), "runs")]
    if offline := find_offline(folders):
        found += read_offline(offline)
    for address in addresses:
        found += read_project(address)
    rows = [row for row, _ in found]
    if not any(row["status"] != "unreadable" for row in rows):
        broken = "".join(f"; {row['path']}: {row['error']}" for row in rows[:3])
        where = ", ".join(map(str, paths))
        raise UserError(
            f"no runs under {where}{broken}; name a folder that `resnet-cli fit` or `sweep` has "
            "written to"
        )
    _check_size(found)
    columns = dict.fromkeys([*FACTS, *(key for row in rows for key in row)])
    runs = pd.DataFrame(rows, columns=list(columns))
    runs[NUMBERS] = runs[NUMBERS].apply(pd.to_numeric, errors="coerce")
    history = [line for _, lines in found for line in lines]
    columns = dict.fromkeys([*HISTORY, *(key for line in history for key in line)])
    history = pd.DataFrame(history, columns=list(columns))
    history = history.astype({"val/acc1": float, "train_eval/acc1": float})
    return Runs(_add_short_names(runs), history)


def _check_size(found: list[tuple[dict[str, Any], list[Row]]]) -> None:
    """Refuse tables that memory cannot hold: each key of each run or row is a column of all."""
    for what, lines in (
        ("settings", [row for row, _ in found]),
        ("metrics", [row for _, rows in found for row in rows]),
    ):
        columns = len({key for line in lines for key in line})
        if columns * len(lines) > MOST_CELLS:
            raise UserError(
                f"the runs have {len(lines):,} rows of {columns:,} different {what}: "
                "compare fewer of them"
            )


def read_run(
    path: Path, train: bool = True, sample: int = 0
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a run's row of `runs` and its rows of `history`.

    Args:
        path: run directory; one that cannot be read gives a row that says why.
        train: with all rows of training.
        sample: without `train`: number of training rows that are read all the same.
    """
    ours = "reference:" if REFERENCE in path.parents else ""
    row: dict[str, Any] = {
        "run_id": path.name,
        "name": ours + path.absolute().parent.name,
        "path": str(path),
    }
    # a run directory of others may hold any content of any shape
    unreadable = (
        UserError,
        OSError,
        ArithmeticError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    )
    try:
        run = Run(path)
        attempts = run.attempts()
        row |= _config(run) | facts_in(run.meta(strict=True)) | _cost(attempts)
        history, facts = _history(run, train, sample)
        spent, row["gpu_h"] = gpu_hours(attempts)
    except unreadable as error:
        return row | {"status": "unreadable", "error": one_line(error)}, []
    names = {"run_id": row["run_id"], "path": row["path"]}
    lines = []
    for line in history:
        cost = {"gpu_h": spent(line)} if row["gpu_h"] else {}
        lines.append(names | line | cost)
    return row | facts, lines


def _config(run: Run) -> dict[str, Any]:
    """Return the settings of a run under dotted keys."""
    if not run.config_file.exists():
        raise ValueError("no config.yaml")
    found = {}
    for key, value in flatten(with_public_paths(run.config())).items():
        if "." in key or key in SHORT:
            found[key] = _scalar(key, value)
    return (JOINED_LATER if "model.net.class_path" in found else {}) | found


def _scalar(key: str, value: Any) -> Any:
    """Return a config value as one cell.

    Lists become JSON text. A data folder becomes its name, so that copies of one data set compare
    equal.
    """
    if key.startswith("data.") and key.endswith(".root"):
        return Path(value).name
    return json.dumps(value, default=str) if isinstance(value, list) else value


def _cost(attempts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return status and cost over all attempts."""
    last = attempts[-1] if attempts else None
    return {
        "status": status_of(last),
        "attempts": len(attempts),
        "seconds": float(sum(attempt["seconds"] for attempt in attempts)),
        "error": last["error"] if last else None,
    }


def gpu_hours(attempts: list[dict[str, Any]]) -> tuple[Callable[[Row], float], float | None]:
    """Return a function from a row to the GPU hours spent until then, and those of all attempts.

    Time between attempts costs nothing; steps of a killed attempt that were not saved do cost.

    Args:
        attempts: all attempts at a run.

    Returns:
        The function; and hours times GPUs, None where no GPU is known of.
    """
    done = {a["attempt"]: a for a in attempts if a["gpus"]}
    cost = {n: a["seconds"] * a["gpus"] / 3600 for n, a in done.items()}

    def spent(row: Row) -> float:
        before = sum(hours for n, hours in cost.items() if n < row["attempt"])
        if row["attempt"] not in done or "time" not in row:
            return before
        own = done[row["attempt"]]
        try:
            start = datetime.fromisoformat(own["start"]).timestamp()
        except ValueError:  # a damaged file
            return before
        return before + max(0.0, row["time"] - start) * own["gpus"] / 3600

    return spent, sum(cost.values()) or None


def _history(run: Run, train: bool, sample: int) -> tuple[list[Row], dict[str, Any]]:
    """Return the rows of a run that hold, by step, and facts about them.

    The facts are `began`, `steps`, and the number of lines that are no rows (each kill can tear
    one).
    """
    found = run.rows(train, sample)
    merged = merge(found.rows)
    times = (row["time"] for row in merged if "time" in row)
    facts = {
        "unreadable_lines": found.bad_lines,
        "steps": max([found.last_step, *(row["step"] for row in merged[-1:])]),
        "began": next(times, None),
    }
    if not train and not sample:
        merged = [row for row in merged if row["kind"] != "train"]
    return merged, facts


def _add_short_names(runs: pd.DataFrame) -> pd.DataFrame:
    """Add the short columns; classes by their bare names unless two would look the same."""
    short = {}
    for key, name in short_names(runs.columns).items():
        bare = runs[key].map(_without_module)
        distinct = key.endswith("class_path") and bare.nunique() == runs[key].nunique()
        short[name] = bare if distinct else runs[key]
    return pd.concat([runs, pd.DataFrame(short)], axis=1)


def _without_module(path: Any) -> Any:
    return path.rpartition(".")[2] if isinstance(path, str) else path
