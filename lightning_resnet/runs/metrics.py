"""Read metrics.jsonl; steps that a killed attempt did and a later attempt repeated count once."""

import math
import re
from pathlib import Path
from typing import Any, NamedTuple

from lightning_resnet.reading import lines_of, parse_json

Row = dict[str, Any]
MOST_METRICS = 10_000  # in a row, and in a run
LARGEST_NUMBER = 2**63  # larger integers fit in no table
# A training row as `RunDir.record` writes it.
TRAIN_ROW = re.compile(
    r'\{"step": (\d+), "epoch": \d+, "attempt": (\d+), "time": ([\d.]+), "train/.*\}$'
)


class Rows(NamedTuple):
    """Content of a metrics.jsonl.

    Attributes:
        rows: rows in the order in which they were written.
        bad_lines: number of lines that are no rows (a kill can tear one per attempt).
        last_step: optimizer steps done at the last row; 0 without rows.
    """

    rows: list[Row]
    bad_lines: int
    last_step: int


def read_rows(file: Path, train: bool = True, sample: int = 0) -> Rows:
    """Read the rows of a metrics.jsonl; there are none where the file is missing.

    Args:
        file: path of the file.
        train: read all training rows. Otherwise only the first of each attempt is read, by which
            `merge` decides, with its step and time alone; this takes a fraction of the time.
        sample: without `train`: number of training rows, evenly spaced, that are read all the same;
            up to twice as many may be returned.

    Raises:
        ValueError: the rows have more than `MOST_METRICS` different metrics.
        OSError: the file cannot be read.
    """
    rows: list[Row] = []
    metrics: set[str] = set()
    bad_lines = 0
    last_step = 0
    attempt = None
    sampled: list[tuple[int, str]] = []  # (number of rows before, line)
    every = 1
    skimmed_lines = 0
    for line in lines_of(file):
        skimmed = None if train else TRAIN_ROW.match(line)
        if skimmed:
            last_step = int(skimmed[1])
            if sample and skimmed_lines % every == 0:
                sampled.append((len(rows), line))
                if len(sampled) > 2 * sample:
                    every *= 2
                    sampled = sampled[::2]
            skimmed_lines += 1
            if skimmed[2] != attempt:
                attempt = skimmed[2]
                row = {"kind": "train", "step": last_step, "attempt": int(attempt)}
                rows.append(row | {"time": float(skimmed[3])})
        elif row := row_of(line):
            last_step = row["step"]
            rows.append(row)
            metrics.update(row)
            if len(metrics) > MOST_METRICS:
                raise ValueError(f"{file.name} has more than {MOST_METRICS:,} different metrics")
        elif line.strip():
            bad_lines += 1
    return Rows(_with(rows, sampled), bad_lines, last_step)


def _with(rows: list[Row], sampled: list[tuple[int, str]]) -> list[Row]:
    """Return the rows with the sampled lines at their places."""
    found = []
    done = 0
    for before, line in sampled:
        found += rows[done:before]
        done = before
        if row := row_of(line):
            found.append(row)
    return found + rows[done:]


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
