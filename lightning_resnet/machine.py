"""What this job may use of the machine: memory and cores, as its cgroups, SLURM and its affinity have it."""

import os
import re
from pathlib import Path

PROC, CGROUP = Path("/proc"), Path("/sys/fs/cgroup")
NO_LIMIT = 1 << 60  # bytes; version 1 writes nearly 2^63 where there is no limit


def memory() -> int:
    """Bytes: the smallest limit of the job's cgroups, else what the machine has left."""
    texts = _cgroup("memory.max") + _cgroup("memory.limit_in_bytes", "memory")
    limits = [int(t) for t in texts if t.isdigit() and int(t) < NO_LIMIT]
    available = re.search(r"MemAvailable: +(\d+) kB", _read(PROC / "meminfo"))
    return min(limits, default=int(available[1]) * 1024 if available else NO_LIMIT)


def workers(processes: int) -> int:
    """Threads for each of the `processes` that train on this machine: 1 or more, never an error."""
    cpus = min([cores(), *_quotas()])
    of_task, tasks = _number("SLURM_CPUS_PER_TASK"), _number("SLURM_STEP_TASKS_PER_NODE")
    if of_task:  # the affinity may be the task's already
        return max(1, min(cpus, of_task // max(1, processes // max(1, tasks))))
    return max(1, cpus // max(1, processes))


def _quotas() -> list[int]:
    """Whole cores' worth of time that the job's cgroups grant."""
    pairs = [t.split() for t in _cgroup("cpu.max")]
    pairs += zip(_cgroup("cpu.cfs_quota_us", "cpu"), _cgroup("cpu.cfs_period_us", "cpu"), strict=False)
    return [int(a) // int(b) for a, b in pairs if a.isdigit() and int(b)]


def _cgroup(file: str, controller: str = "") -> list[str]:
    """What a control file says in this process's cgroup and those above it; of version 1 if a controller is given."""
    texts, base = [], CGROUP / controller
    for line in _read(PROC / "self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            group = base / path.lstrip("/")  # of the host, in some containers: then only the base is there
            texts += [_read(g / file).strip() for g in (group, *group.parents) if g.is_relative_to(base)]
    return [t for t in texts if t]


def _number(variable: str) -> int:
    """The number that a variable such as `4(x2)` begins with; 0 where there is none."""
    found = re.match(r"\d+", os.environ.get(variable, ""))
    return int(found[0]) if found else 0


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
