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
    return [_read_attempt(file) for file in sorted((run_dir / "attempts").glob("*.json"), key=lambda p: int(p.stem))]


def last_attempt(run_dir: Path) -> dict[str, Any] | None:
    """The attempt with the highest number."""
    files = sorted((run_dir / "attempts").glob("*.json"), key=lambda p: int(p.stem))
    return _read_attempt(files[-1]) if files else None


def status(run_dir: Path) -> str:
    """New, running, dead (killed), or the reason why the last attempt ended: finished, failed, diverged, ..."""
    attempt = last_attempt(run_dir)
    if attempt is None:
        return "new"
    if attempt["reason"] != "running":
        return attempt["reason"]
    silent = time.time() - attempt["heartbeat"] > DEAD_S
    return "dead" if silent or _gone(attempt.get("process")) else "running"


def process_name() -> dict[str, Any]:
    """This process, so that another on the same machine can tell whether it lives; a pid alone means little."""
    return {"pid": os.getpid(), "where": _where(), "start": _start_time(os.getpid())}


def _gone(process: dict[str, Any] | None) -> bool:
    """Certainly ended: it was started under this kernel and pid namespace, and is not there any more."""
    return bool(process) and process["where"] == _where() != "" and _start_time(process["pid"]) != process["start"]


def _where() -> str:
    """Boot and pid namespace; empty where there is no /proc."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _start_time(pid: int) -> str | None:
    """In clock ticks since boot; None where there is no such process, or only its remains."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _read_attempt(file: Path) -> dict[str, Any]:
    """An attempt that has just made its file has not written it yet."""
    begun = {
        "attempt": int(file.stem),
        "reason": "running",
        "last_step": 0,
        "seconds": 0.0,
        "host": "?",
        "start": "now",
    }
    return read_json(file) or begun | {"heartbeat": file.stat().st_mtime}


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
