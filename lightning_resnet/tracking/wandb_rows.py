"""Runs that only Weights & Biases wrote -> the same rows as our run directories give.

Offline files (*.wandb) are read by W&B's own local reader; `wandb://entity/project` is read from the server, once.
"""

import json
import math
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, TypeVar

from lightning_resnet.errors import UserError, one_line
from lightning_resnet.runs.identity import flatten
from lightning_resnet.runs.metrics import Row, kind, merge

SCHEME = "wandb://"
REPORT = "compare"  # `job_type` of what `compare --wandb` publishes: no run of a net
STEPS = ("step", "trainer/global_step", "global_step", "_step")  # the first there is: ours, Lightning's, W&B's counter
TRIES = 8  # of a request the server calls too many: 1 + 2 + 4 + ... s apart, about 2 minutes
BUSY = ("429", "rate limit")

Found = tuple[dict[str, Any], list[Row]]
T = TypeVar("T")


def need_wandb(what: str) -> None:
    """Raise where wandb is not installed."""
    if not find_spec("wandb"):
        raise UserError(f"reading {what} needs wandb: pip install 'wandb>=0.31,<0.32'")


def patiently(request: Callable[[], T]) -> T:
    """Ask again, ever later, while the server says that there are too many requests.

    Raises:
        UserError: it still says so, or anything else is wrong.
    """
    for attempt in range(TRIES):
        try:
            return request()
        except Exception as error:  # of many types: wandb's, requests' and its own service's
            text = one_line(error)
            if attempt == TRIES - 1 or not any(sign in text.lower() for sign in BUSY):
                raise UserError(f"Weights & Biases: {text}") from error
            time.sleep(2**attempt)
    raise AssertionError


def row_of(run_id: str, path: str, config: dict[str, Any], **facts: Any) -> dict[str, Any]:
    """A row of `runs`; a config of our own mirror gives the columns that its run directory would give."""
    meta = config.get("meta") if isinstance(config.get("meta"), dict) else {}
    flat = flatten({key: value for key, value in config.items() if key not in ("meta", "_wandb")})
    cells = {key: json.dumps(value, default=str) if isinstance(value, list) else value for key, value in flat.items()}
    known = {key: value for key, value in meta.items() if isinstance(value, int | float | str)}
    return {**known, **cells, "run_id": run_id, "path": path, "error": None, "unreadable_lines": 0, **facts}


def history_row(item: dict[str, Any], attempt: int) -> Row | None:
    """A row of `history`, of the numbers alone; None without any step."""
    values = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
    numbers = {key: values.get(value, value) if isinstance(value, str) else value for key, value in item.items()}
    numbers = {key: value for key, value in numbers.items() if isinstance(value, int | float)}
    step = next((numbers[key] for key in STEPS if key in numbers), None)
    if step is None:
        return None
    plain = {key: value for key, value in numbers.items() if key[0] != "_" and key not in STEPS}
    plain = {"attempt": attempt, "time": numbers.get("_timestamp")} | plain | {"step": int(step)}
    return {"kind": kind(plain), **plain}


def finish(row: dict[str, Any], rows: list[Row]) -> Found:
    """The newest attempt wins from its first step on; each row of `history` tells its run."""
    history = merge(rows)
    row["steps"] = max((each["step"] for each in history), default=0)
    return row, [{"run_id": row["run_id"], "path": row["path"], **each} for each in history]
