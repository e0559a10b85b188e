"""What this process may use of the machine: threads and memory, by affinity, SLURM and control groups (v1 and v2)."""

import os
from collections.abc import Iterator
from pathlib import Path

from lightning_resnet.runtime.status import cores

ROOT = Path("/")


def threads(processes: int = 1) -> int:
    """Threads for each of so many processes on this machine: never an error, at least 1.

    Under SLURM, cores and SLURM_CPUS_PER_TASK are one process's already; else the machine's are shared.
    """
    have = min([cores(), *map(int, _quotas())])
    task = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return max(1, min(have, int(task)) if task.isdecimal() else have // processes)


def memory() -> int:
    """Bytes this job can have: its control group's limit, or what the machine has left where that is less."""
    limits = [int(text) for name in ("memory.max", "memory.limit_in_bytes") for text in _values("memory", name)]
    for line in _read(ROOT / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            limits.append(int(line.split()[1]) * 1024)
    return min(limits, default=2**63)


def _quotas() -> Iterator[float]:
    """Cores' worth of time."""
    for text in _values("cpu", "cpu.max"):
        quota, period = text.split()
        yield int(quota) / int(period)
    for quota, period in zip(_values("cpu", "cpu.cfs_quota_us"), _values("cpu", "cpu.cfs_period_us"), strict=False):
        if int(quota) > 0:
            yield int(quota) / int(period)


def _values(controller: str, name: str) -> list[str]:
    """Of this process's control group and those it lies in, where they set a limit."""
    texts = [_read(group / name).strip() for group in _groups(controller)]
    return [text for text in texts if text and not text.startswith("max")]


def _groups(controller: str) -> Iterator[Path]:
    """Inside a container the path may not exist, but one of its parents does."""
    for line in _read(ROOT / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        mount = ROOT / "sys/fs/cgroup" / (controller if controllers else "")
        if not controllers or controller in controllers.split(","):
            group = Path(path.lstrip("/"))
            yield from (mount / g for g in (group, *group.parents))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
