"""Read metrics.jsonl; steps that a killed attempt did and a later attempt repeated count once."""

import math
from pathlib import Path
from typing import Any

from lightning_resnet.reading import lines_of, parse_json

Row = dict[str, Any]
MOST_METRICS = 10_000  # in a row, and in a run
LARGEST_NUMBER = 2**63  # larger integers fit in no table


def read_rows(file: Path) -> tuple[list[Row], int]:
    """Read the rows of a metrics.jsonl.

    Returns:
        The rows in the order in which they were written, and the number of lines that are no rows
        (a kill can tear one line per attempt).
    """
    rows: list[Row] = []
    bad_lines = 0
    for line in lines_of(file):
        if row := row_of(line):
            rows.append(row)
        elif line.strip():
            bad_lines += 1
    return rows, bad_lines


def kind(row: Row) -> str:
    """Return the kind of a row by the names of its metrics: `train`, `val` or `test`."""
    for name in ("val", "test"):
        if any(key.startswith(f"{name}/") for key in row):
            return name
    return "train"


def merge(rows: list[Row]) -> list[Row]:
    """Drop the rows of an attempt from the first step of any later attempt on; sort by step.

    Test rows hide nothing: a run that is killed between its last validation and its test resumes
    with the test alone.
    """
    first_steps: dict[int, int] = {}  # of each attempt
    for row in rows:
        if row["kind"] != "test":
            attempt = row["attempt"]
            first_steps[attempt] = min(row["step"], first_steps.get(attempt, row["step"]))
    ends: dict[int, float] = {}  # of each attempt: the first step that a later attempt repeats
    for attempt in first_steps:
        later_steps = (step for later, step in first_steps.items() if later > attempt)
        ends[attempt] = min(later_steps, default=math.inf)
    kept = [row for row in rows if row["step"] < ends.get(row["attempt"], math.inf)]
    return sorted(kept, key=lambda row: row["step"])


def row_of(line: str) -> Row | None:
    """Parse one line; None where the line is no row. Null values become NaN."""
    try:
        row = parse_json(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or len(row) > MOST_METRICS:
        return None
    row = {"attempt": 1, **row}
    if not all(type(row.get(key)) is int for key in ("step", "attempt")):
        return None
    values = {key: math.nan if value is None else value for key, value in row.items()}
    for value in values.values():
        fits = isinstance(value, int) and abs(value) < LARGEST_NUMBER
        if not fits and not isinstance(value, float):
            return None
    return {"kind": kind(row), **values}
