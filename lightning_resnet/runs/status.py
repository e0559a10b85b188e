"""Check the records of a run, and tell the status of a run from its last attempt, without torch."""

import os
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lightning_resnet.runs.metrics import LARGEST_NUMBER

DEAD_S = 120.0  # seconds without a heartbeat after which a running attempt counts as killed
# Reason of an attempt, and so status of a run, that hyperband has ended; see engine/halving.py.
HALVED = "stopped early by hyperband"
# Status -> its word where people read it. A signal does not tell whether a job was preempted.
WORDS = {"preempted": "stopped"}
CAUSES = {  # signal -> what it usually means
    "SIGUSR1": "the time limit is near",
    "SIGTERM": "cancelled or preempted",
    "SIGHUP": "the terminal was closed",
    "SIGINT": "Ctrl-C",
}
OF_JOBS = ("SIGUSR1", "SIGTERM")  # signals whose cause is a job's
LOST = "another rank ended without a word"  # begins the error of an attempt that has lost a rank
ATTEMPT_FILE = re.compile(r"[1-9][0-9]{0,8}\.json")  # others are strays, such as `._1.json`
# Keys of an attempt's file, with the value that replaces a missing one or one of another type.
ATTEMPT: dict[str, Any] = {
    "start": "now",
    "end": None,
    "seconds": 0.0,
    "reason": "running",
    "start_step": -1,
    "compared_step": -1,
    "last_step": 0,
    "job_id": None,
    "array_task": None,
    "restart_count": 0,
    "gpus": 0,
    "ranks": 0,
    "nodes": 0,
    "host": "?",
    "process": {},
    "error": None,
    "signal": None,
}
META: dict[str, Any] = {
    "versions": {},
    "hardware": {},
    "git_sha": None,
    "net_source": None,
    "run_id": None,
    "wandb_id": None,
    "name": None,
    "created": None,
    "threads": 0,
    "steps_per_epoch": 0,
    "steps": 0,
    "epochs": 0,
    "params": 0,
    "macs": 0,
    "train_samples": 0,
    "val_samples": 0,
    "input_size": [],
    "about": None,
}
COUNTS = ("params", "macs", "steps_per_epoch", "train_samples", "val_samples")  # in META


def known_meta(found: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a meta.json without values of another type than `META` has."""
    return {key: value for key, value in found.items() if is_like(value, META.get(key, value))}


def facts_in(meta: dict[str, Any]) -> dict[str, Any]:
    """Return what a meta.json tells of net, data, code and hardware, one value for each key.

    Other keys repeat what the configuration says, such as `epochs`.
    """
    versions = meta.get("versions") or {}
    hardware = meta.get("hardware") or {}
    sha = str(meta.get("git_sha") or "")
    dirty = meta.get("git_dirty")
    changes = "+changes" if dirty else ""
    found = {key: meta[key] for key in ("run_id", "git_sha", *COUNTS) if key in meta}
    return found | {
        "dirty": dirty,
        "code": sha[:10] + changes if sha else None,
        "torch": versions.get("torch"),
        "lightning_resnet": versions.get("lightning_resnet"),
        "hardware": hardware.get("gpu") or hardware.get("cpu"),
        "input_size": (meta.get("input_size") or [None])[-1],
        "about": meta.get("about"),
    }


def known_attempt(found: dict[str, Any], written: float) -> dict[str, Any]:
    """Return the content of an attempt's file, with a value for each key of `ATTEMPT`.

    Values that are missing, or of another type than `ATTEMPT` has, are replaced by those of
    `ATTEMPT`; a missing heartbeat is replaced by the time when the file was written.

    Args:
        found: content of the file; empty where the file cannot be read.
        written: time of the last write, in seconds since 1970.
    """
    defaults = ATTEMPT | {"heartbeat": written}
    replaced = {k: v for k, v in defaults.items() if not is_like(found.get(k), v)}
    return defaults | found | replaced


def array_task(env: Mapping[str, str]) -> str | None:
    """Return the number that squeue shows for a task of a job array, such as 2_7, or None."""
    job = env.get("SLURM_ARRAY_JOB_ID")
    task = env.get("SLURM_ARRAY_TASK_ID")
    return f"{job}_{task}" if job and task else None


def restarts(env: Mapping[str, str]) -> int:
    """Return how often Slurm has requeued this job; 0 outside of a job."""
    count = env.get("SLURM_RESTART_COUNT", "")
    return int(count) if count.isdecimal() else 0


def status_of(attempt: dict[str, Any] | None) -> str:
    """Return the status of a run.

    Args:
        attempt: the last attempt at the run; None where there is none.

    Returns:
        new, running, dead (killed), or the reason why the last attempt ended: finished, failed,
        diverged, `HALVED`, ...
    """
    if attempt is None:
        return "new"
    if attempt["reason"] != "running":
        return attempt["reason"]
    process = attempt["process"]
    if has_ended(process):
        return "dead"
    # A heartbeat from the future is the work of a wrong clock, so it counts only if it is near.
    is_recent = abs(time.time() - attempt["heartbeat"]) <= DEAD_S
    return "running" if is_recent or _is_there(process) else "dead"


def word_of(status: str) -> str:
    """Return the word for a status in tables and messages; JSON and files keep the status."""
    return WORDS.get(status, status)


def reason_of(status: str, attempt: dict[str, Any] | None) -> str | None:
    """Return why a run has its status, such as `SIGTERM (cancelled or preempted)`; None: no reason.

    Args:
        status: result of `status_of`.
        attempt: the last attempt at the run.
    """
    if attempt is None:
        return None
    if status == "dead":
        since = attempt["end"] or iso(attempt["heartbeat"])
        return f"no heartbeat since {since}, on {attempt['host']}"
    signal = attempt["signal"]
    is_told = signal in CAUSES and (attempt["job_id"] or signal not in OF_JOBS)
    return attempt["error"] or (f"{signal} ({CAUSES[signal]})" if is_told else signal)


def iso(seconds: float) -> str | None:
    """Return a time, given in seconds since 1970, in ISO 8601; None if there is no such time."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return None


def process_name() -> dict[str, Any]:
    """Describe this process, so that another on the same machine can tell whether it is alive.

    A pid alone is not enough, because pids are reused.
    """
    return {"pid": os.getpid(), "where": _where(), "start": _start_time(os.getpid())}


def has_ended(process: dict[str, Any]) -> bool:
    """Tell whether a process was started under this kernel and pid namespace, and is gone."""
    return _is_of_here(process) and _start_time(process["pid"]) != process["start"]


def _is_there(process: dict[str, Any]) -> bool:
    """Tell whether another process was started under this kernel and pid namespace, and is alive.

    Such a process has no recent heartbeat if it was stopped (Ctrl-Z), or if the machine slept or
    had its clock set. This process itself, such as a notebook's, outlives its trainings.
    """
    is_other = _is_of_here(process) and process["pid"] != os.getpid()
    return is_other and _start_time(process["pid"]) == process["start"]


def _is_of_here(process: dict[str, Any]) -> bool:
    """Tell whether a process was started under this kernel and pid namespace."""
    if not isinstance(process.get("pid"), int) or not isinstance(process.get("start"), str):
        return False
    where = process.get("where")
    return bool(where) and where == _where()


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


def is_like(value: Any, sample: Any) -> bool:
    """Tell whether a value has the type of a sample; None stands for a text or nothing."""
    if sample is None:
        return value is None or isinstance(value, str)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(sample, float):
        return is_number and abs(value) < LARGEST_NUMBER
    if type(value) is not type(sample):
        return False
    return not isinstance(value, int) or abs(value) < LARGEST_NUMBER
