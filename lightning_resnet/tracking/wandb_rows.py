"""Convert runs that only Weights & Biases wrote into the rows that run directories give."""

import json
import math
import time
from collections.abc import Callable
from typing import Any, TypeVar

from lightning_resnet.errors import UserError, one_line
from lightning_resnet.machine import is_installed
from lightning_resnet.runs.identity import flatten
from lightning_resnet.runs.metrics import Row, kind, merge
from lightning_resnet.runs.status import facts_in, known_meta
from lightning_resnet.tracking.mode import check_variables

SCHEME = "wandb://"
REPORT = "compare"  # `job_type` of the reports that `compare --wandb` publishes, which are no runs
# Names of the step, in the order of preference: ours, Lightning's, W&B's counter.
STEPS = ("step", "trainer/global_step", "global_step", "_step")
TRIES = 8  # of a request when the server is busy: 1 + 2 + 4 + ... s apart, about 2 minutes
BUSY = ("429", "rate limit")  # parts of error messages

Found = tuple[dict[str, Any], list[Row]]  # a row of `runs`, and the rows of `history`
T = TypeVar("T")


def need_wandb(what: str) -> None:
    """Check that wandb is installed, and its variables.

    Args:
        what: what is to be read, for the message.

    Raises:
        UserError: wandb is not installed, or WANDB_MODE is no mode.
    """
    check_variables()
    if not is_installed("wandb"):
        raise UserError(f"reading {what} needs wandb: pip install 'wandb>=0.31,<0.32'")


def patiently(request: Callable[[], T]) -> T:
    """Make a request, and repeat it with growing pauses while the server has too many requests.

    Raises:
        UserError: the server is still busy after the last try, or the request fails.
    """
    for attempt in range(TRIES):
        try:
            return request()
        except Exception as error:  # wandb, requests and wandb's service raise many types
            text = one_line(error)
            if attempt == TRIES - 1 or not any(sign in text.lower() for sign in BUSY):
                raise UserError(f"Weights & Biases: {text}") from error
            time.sleep(2**attempt)
    raise AssertionError


def row_of(run_id: str, path: str, config: dict[str, Any], **facts: Any) -> dict[str, Any]:
    """Make a row of `runs`.

    The configuration of one of our mirrors gives the same columns as its run directory.

    Args:
        run_id: id of the run on W&B.
        path: path or address of the run.
        config: configuration of the W&B run.
        facts: further columns.
    """
    meta = config.get("meta") if isinstance(config.get("meta"), dict) else {}
    known = facts_in(known_meta(meta))
    row = dict(known)
    flat = flatten({key: value for key, value in config.items() if key not in ("meta", "_wandb")})
    for key, value in flat.items():
        row[key] = json.dumps(value, default=str) if isinstance(value, list) else value
    # The mirrors of our runs have other ids than the run directories.
    row |= {
        "run_id": known.get("run_id") or run_id,
        "path": path,
        "error": None,
        "unreadable_lines": 0,
    }
    return row | facts


def history_row(item: dict[str, Any], attempt: int) -> Row | None:
    """Make a row of `history` from the numbers of a W&B row; None if it has no step.

    Args:
        item: a row of W&B's history.
        attempt: number of the attempt, unless the row has a whole number there.
    """
    as_text = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
    numbers: dict[str, float] = {}
    for key, value in item.items():
        if isinstance(value, str):
            value = as_text.get(value)
        if isinstance(value, int | float):
            numbers[key] = value
    steps = [numbers[key] for key in STEPS if math.isfinite(numbers.get(key, math.nan))]
    if not steps:
        return None
    row: Row = {"attempt": attempt, "time": numbers.get("_timestamp")}
    for key, value in numbers.items():
        if not key.startswith("_") and key not in (*STEPS, "attempt"):
            row[key] = value
    if isinstance(numbers.get("attempt"), int):
        row["attempt"] = numbers["attempt"]
    row["step"] = int(steps[0])
    return {"kind": kind(row), **row}


def largest(items: list[dict[str, Any]], name: str) -> float:
    """Return the largest number of a name in rows of W&B's history; 0 where there is none."""
    found = [item.get(name) for item in items]
    return max((n for n in found if isinstance(n, int | float) and math.isfinite(n)), default=0)


def unreadable(run_id: str, name: str, path: str, error: Exception) -> Found:
    """Return what stands for a run whose records cannot be read."""
    row = {"run_id": run_id, "name": name, "path": path}
    return row | {"status": "unreadable", "error": one_line(error)}, []


def finish(row: dict[str, Any], rows: list[Row]) -> Found:
    """Merge the attempts, complete the row of `runs`, and name the run in each row of `history`."""
    history = merge(rows)
    row["steps"] = max((each["step"] for each in history), default=0)
    return row, [{"run_id": row["run_id"], "path": row["path"], **each} for each in history]
