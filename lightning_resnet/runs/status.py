"""What a run directory tells about its run, read without torch."""

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_resnet.reading import lines_of, parse_json, read_json
from lightning_resnet.runs.metrics import LARGEST_NUMBER

DEAD_S = 120.0  # a running attempt that has not shown itself for so many seconds was killed
ATTEMPT_FILE = re.compile(r"[1-9][0-9]{0,8}\.json")  # other files in the folder are strays, such as `._1.json`
ATTEMPT: dict[str, Any] = {  # what an attempt's file tells, and what holds where it does not, or tells it otherwise
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
META: dict[str, Any] = {"versions": {}, "hardware": {}, "git_sha": None, "run_id": None, "name": None, "created": None}
META_NUMBERS = ("threads", "steps_per_epoch", "epochs", "params", "macs", "train_samples", "val_samples")


def read_meta(run_dir: Path) -> dict[str, Any]:
    """What meta.json tells, without what is of another type than we write; empty where it cannot be read."""
    return known_meta(read_json(run_dir / "meta.json") or {})


def known_meta(found: dict[str, Any]) -> dict[str, Any]:
    """The content of a meta.json without what is of another type than we write."""
    numbers = dict.fromkeys(META_NUMBERS, 0)
    return {key: value for key, value in found.items() if _is_like(value, (META | numbers).get(key, value))}


def attempt_files(run_dir: Path) -> dict[int, Path]:
    """The attempts' files by number, the first first."""
    try:
        names = os.listdir(run_dir / "attempts")
    except OSError:
        return {}
    numbers = sorted(int(name.partition(".")[0]) for name in names if ATTEMPT_FILE.fullmatch(name))
    files = {number: run_dir / "attempts" / f"{number}.json" for number in numbers}
    return {number: file for number, file in files.items() if os.path.isfile(file)}


def restarts(env: Mapping[str, str]) -> int:
    """How often Slurm has requeued this job; 0 outside of one, and where the variable is no number."""
    count = env.get("SLURM_RESTART_COUNT", "")
    return int(count) if count.isdecimal() else 0


def attempts(run_dir: Path) -> list[dict[str, Any]]:
    """All attempts, the first first."""
    return [_read_attempt(number, file) for number, file in attempt_files(run_dir).items()]


def last_attempt(run_dir: Path) -> dict[str, Any] | None:
    """The attempt with the highest number."""
    files = attempt_files(run_dir)
    return _read_attempt(max(files), files[max(files)]) if files else None


def status(run_dir: Path) -> str:
    """New, running, dead (killed), or the reason why the last attempt ended: finished, failed, diverged, ..."""
    attempt = last_attempt(run_dir)
    if attempt is None:
        return "new"
    if attempt["reason"] != "running":
        return attempt["reason"]
    shown = abs(time.time() - attempt["heartbeat"]) <= DEAD_S  # from the future: by a clock that was wrong
    return "running" if shown and not _gone(attempt["process"]) else "dead"


def process_name() -> dict[str, Any]:
    """This process, so that another on the same machine can tell whether it lives; a pid alone means little."""
    return {"pid": os.getpid(), "where": _where(), "start": _start_time(os.getpid())}


def _gone(process: dict[str, Any]) -> bool:
    """Certainly ended: it was started under this kernel and pid namespace, and is not there any more."""
    pid, where, start = (process.get(key) for key in ("pid", "where", "start"))
    if not isinstance(pid, int) or not isinstance(start, str) or not where:
        return False
    return where == _where() and _start_time(pid) != start


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


def _read_attempt(number: int, file: Path) -> dict[str, Any]:
    """What an attempt's file tells; one that has just begun has made its file, but not written it yet."""
    found = read_json(file) or {}
    try:
        written = file.stat().st_mtime
    except OSError:  # removed meanwhile
        written = 0.0
    expected = ATTEMPT | {"heartbeat": written}
    wrong = {key: value for key, value in expected.items() if not _is_like(found.get(key), value)}
    return expected | found | wrong | {"attempt": number}


def _is_like(value: Any, sample: Any) -> bool:
    """Whether a value may stand where we write such a one; where we write None, text may stand."""
    if sample is None:
        return value is None or isinstance(value, str)
    if isinstance(sample, float):
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST_NUMBER
    return type(value) is type(sample) and (not isinstance(value, int) or abs(value) < LARGEST_NUMBER)


def final_row(run_dir: Path, metric: str) -> dict[str, Any] | None:
    """The last row of metrics.jsonl that has this metric; its value is a number, or None where it was not finite."""
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
