"""metrics.jsonl -> the rows that hold: what a killed attempt did and a later one did again counts once."""

import math
from pathlib import Path
from typing import Any

from lightning_resnet.reading import lines_of, parse_json

Row = dict[str, Any]
MOST_METRICS = 10_000  # of a row, and of a run
LARGEST_NUMBER = 2**63  # whole number: larger ones fit no table


def read_rows(file: Path) -> tuple[list[Row], int]:
    """All rows in the order they were written, and how many lines are none (a kill can tear one per attempt)."""
    rows: list[Row] = []
    bad = 0
    for line in lines_of(file):
        if row := row_of(line):
            rows.append(row)
        else:
            bad += bool(line.strip())
    return rows, bad


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
        row = parse_json(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or len(row) > MOST_METRICS:
        return None
    row = {"attempt": 1, **row}
    if not all(type(row.get(key)) is int for key in ("step", "attempt")):
        return None
    values = {key: math.nan if value is None else value for key, value in row.items()}  # null = not finite
    if not all(isinstance(v, float) or (isinstance(v, int) and abs(v) < LARGEST_NUMBER) for v in values.values()):
        return None
    return {"kind": kind(row), **values}
