"""metrics.jsonl -> the rows that hold: what a killed attempt did and a later one did again counts once."""

import json
import math
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def read_rows(file: Path) -> tuple[list[Row], int]:
    """All rows in the order they were written, and how many lines are none (a kill can tear one per attempt)."""
    lines = file.read_text(errors="replace").splitlines() if file.exists() else []
    rows = [row for line in lines if (row := row_of(line))]
    return rows, sum(1 for line in lines if line.strip()) - len(rows)


def kind(row: Row) -> str:
    """`train`, `val` or `test`."""
    return next((kind for kind in ("val", "test") if any(key.startswith(f"{kind}/") for key in row)), "train")


def merge(rows: list[Row]) -> list[Row]:
    """Hide what a later attempt did again: older rows from its first step on, in order of steps.

    Test rows hide nothing: a run killed between its last validation and its test resumes with the test alone.
    """
    first: dict[int, int] = {}
    for row in rows:
        if row["kind"] != "test":
            first[row["attempt"]] = min(row["step"], first.get(row["attempt"], row["step"]))
    end = {a: min((step for later, step in first.items() if later > a), default=math.inf) for a in first}
    return sorted((row for row in rows if row["step"] < end.get(row["attempt"], math.inf)), key=lambda row: row["step"])


def row_of(line: str) -> Row | None:
    """A line as a row; None where it is none."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        return None
    values = {key: math.nan if value is None else value for key, value in row.items()}  # null = not finite
    return {"kind": kind(row), "attempt": 1, **values}
