"""Read attempts, status and metadata of a run from its directory, without torch."""

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_resnet.reading import lines_of, parse_json, read_json
from lightning_resnet.runs.metrics import LARGEST_NUMBER

DEAD_S = 120.0  # seconds without a heartbeat after which a running attempt counts as killed
ATTEMPT_FILE = re.compile(r"[1-9][0-9]{0,8}\.json")  # others are strays, such as `._1.json`
# Keys of an attempt's file, with the value that replaces a missing one or one of another type.
ATTEMPT: dict[str, Any] = {
    "start": "now",
    "end": None,
    "seconds": 0.0,
    "reason": "running",
    "last_step": 0,
    "job_id": None,
    "restart_count": 0,
    "gpus": 0,
    "host": "?",
    "process": {},
    "error": None,
    "signal": None,
}
META: dict[str, Any] = {
    "versions": {},
    "hardware": {},
    "git_sha": None,
    "run_id": None,
    "name": None,
    "created": None,
    "threads": 0,
    "steps_per_epoch": 0,
    "epochs": 0,
    "params": 0,
    "macs": 0,
    "train_samples": 0,
    "val_samples": 0,
}


def read_meta(run_dir: Path) -> dict[str, Any]:
    """Read meta.json of a run, without values of another type than `META` has; may be empty."""
    return known_meta(read_json(run_dir / "meta.json") or {})


def known_meta(found: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a meta.json without values of another type than `META` has."""
    return {key: value for key, value in found.items() if _is_like(value, META.get(key, value))}


def attempt_files(run_dir: Path) -> dict[int, Path]:
    """Return the files of the attempts by number, in ascending order."""
    try:
        names = os.listdir(run_dir / "attempts")
    except OSError:
        return {}
    numbers = sorted(int(name.partition(".")[0]) for name in names if ATTEMPT_FILE.fullmatch(name))
    files = {number: run_dir / "attempts" / f"{number}.json" for number in numbers}
    return {number: file for number, file in files.items() if os.path.isfile(file)}


def restarts(env: Mapping[str, str]) -> int:
    """Return how often Slurm has requeued this job; 0 outside of a job."""
    count = env.get("SLURM_RESTART_COUNT", "")
    return int(count) if count.isdecimal() else 0


def attempts(run_dir: Path) -> list[dict[str, Any]]:
    """Read all attempts of a run, in ascending order."""
    return [_read_attempt(number, file) for number, file in attempt_files(run_dir).items()]


def last_attempt(run_dir: Path) -> dict[str, Any] | None:
    """Read the attempt with the highest number; None where there is none."""
    files = attempt_files(run_dir)
    if not files:
        return None
    number = max(files)
    return _read_attempt(number, files[number])


def status(run_dir: Path) -> str:
    """Return the status of a run.

    Returns:
        new, running, dead (killed), or the reason why the last attempt ended: finished, failed,
        diverged, ...
    """
    attempt = last_attempt(run_dir)
    if attempt is None:
        return "new"
    if attempt["reason"] != "running":
        return attempt["reason"]
    # A heartbeat from the future is the work of a wrong clock, so it counts only if it is near.
    is_recent = abs(time.time() - attempt["heartbeat"]) <= DEAD_S
    return "running" if is_recent and not _has_ended(attempt["process"]) else "dead"


def process_name() -> dict[str, Any]:
    """Describe this process, so that another on the same machine can tell whether it is alive.

    A pid alone is not enough, because pids are reused.
    """
    return {"pid": os.getpid(), "where": _where(), "start": _start_time(os.getpid())}


def _has_ended(process: dict[str, Any]) -> bool:
    """Tell whether a process was started under this kernel and pid namespace, and is gone."""
    pid = process.get("pid")
    where = process.get("where")
    start = process.get("start")
    if not isinstance(pid, int) or not isinstance(start, str) or not where:
        return False
    return where == _where() and _start_time(pid) != start


def _where() -> str:
    """Return an id of the boot and the pid namespace; empty where there is no /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return boot + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _start_time(pid: int) -> str | None:
    """Return when a process began, in clock ticks since boot; None if it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _read_attempt(number: int, file: Path) -> dict[str, Any]:
    """Read an attempt's file; an attempt that has just begun may not have written its file yet.

    Values that are missing, or of another type than `ATTEMPT` has, are replaced by those of
    `ATTEMPT`; a missing heartbeat is replaced by the time when the file was written.
    """
    found = read_json(file) or {}
    try:
        written = file.stat().st_mtime
    except OSError:  # the file was removed in between
        written = 0.0
    defaults = ATTEMPT | {"heartbeat": written}
    replaced = {k: v for k, v in defaults.items() if not _is_like(found.get(k), v)}
    return defaults | found | replaced | {"attempt": number}


def _is_like(value: Any, sample: Any) -> bool:
    """Tell whether a value has the type of a sample; None stands for a text or nothing."""
    if sample is None:
        return value is None or isinstance(value, str)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(sample, float):
        return is_number and abs(value) < LARGEST_NUMBER
    if type(value) is not type(sample):
        return False
    return not isinstance(value, int) or abs(value) < LARGEST_NUMBER


def final_row(run_dir: Path, metric: str) -> dict[str, Any] | None:
    """Read the last row of metrics.jsonl that has a metric; None where there is none.

    The metric's value is a number, or None where it was not finite.
    """
    try:
        lines = [line for line in lines_of(run_dir / "metrics.jsonl") if f'"{metric}"' in line]
    except OSError:
        return None
    for line in reversed(lines):
        row = _row(line)
        if metric in row and (row[metric] is None or _is_like(row[metric], 0.0)):
            return row
    return None


def _row(line: str) -> dict[str, Any]:
    try:
        row = parse_json(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}
