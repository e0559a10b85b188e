"""What a run directory tells about its run, read without torch."""

import json
import os
import time
from pathlib import Path
from typing import Any

DEAD_S = 120.0  # a running attempt that has not shown itself for so many seconds was killed


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON file's mapping, None where there is none or it is torn."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def attempts(run_dir: Path) -> list[dict[str, Any]]:
    """All attempts, the first first."""
    files = sorted((run_dir / "attempts").glob("*.json"), key=lambda p: int(p.stem))
    return [attempt for file in files if (attempt := read_json(file))]


def last_attempt(run_dir: Path) -> dict[str, Any] | None:
    """The attempt with the highest number."""
    files = sorted((run_dir / "attempts").glob("*.json"), key=lambda p: int(p.stem))
    return read_json(files[-1]) if files else None


def status(run_dir: Path) -> str:
    """New, running, dead (killed), or the reason why the last attempt ended: finished, failed, diverged, ..."""
    attempt = last_attempt(run_dir)
    if attempt is None:
        return "new"
    if attempt["reason"] == "running" and time.time() - attempt["heartbeat"] > DEAD_S:
        return "dead"
    return attempt["reason"]


def final_row(run_dir: Path, metric: str) -> dict[str, Any] | None:
    """The last row of metrics.jsonl that has this metric."""
    try:
        lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        if f'"{metric}"' in line and line.endswith("}"):
            return json.loads(line)
    return None


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
