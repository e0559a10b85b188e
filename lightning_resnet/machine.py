"""Memory and cores that this job may use, by its cgroups, SLURM and its CPU affinity."""

import os
import re
import sys
from glob import glob
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

# Devices of NVIDIA's and AMD's drivers, and of the Windows Subsystem for Linux.
GPU_FILES = ("/dev/nvidia*", "/dev/kfd", "/dev/dxg")
ON_CPU = "--trainer.accelerator cpu trains on the CPU"
PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")
CROWDED = 1.5  # processes that want to run, for each core, from which on threads wait
NO_LIMIT = 1 << 60  # bytes; version 1 of cgroups writes nearly 2^63 where there is no limit


def is_installed(package: str) -> bool:
    """Tell whether a package is installed; a folder of its name, such as `wandb/`, is none."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None


def memory() -> int:
    """Return the bytes that this job may use.

    That is the smallest limit of the job's cgroups, or what is available on the machine.
    """
    texts = _cgroup("memory.max") + _cgroup("memory.limit_in_bytes", "memory")
    limits = [int(t) for t in texts if t.isdigit() and int(t) < NO_LIMIT]
    if limits:
        return min(limits)
    available = re.search(r"MemAvailable: +(\d+) kB", _read(PROC / "meminfo"))
    return int(available[1]) * 1024 if available else NO_LIMIT


def missing_accelerator(name: str) -> str:
    """Tell what an accelerator lacks here, as far as that is known without importing torch.

    Args:
        name: value of --trainer.accelerator.

    Returns:
        The problem and a cure; empty if there may be such an accelerator.
    """
    if name == "tpu" and not is_installed("torch_xla"):
        return f"torch_xla is not installed, and TPUs are untested: {ON_CPU}"
    if name == "mps" and sys.platform != "darwin":
        return f"MPS is on Macs only: {ON_CPU}, --trainer.accelerator gpu on an NVIDIA GPU"
    if name != "cuda" and (name != "gpu" or sys.platform == "darwin"):
        return ""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return f"CUDA_VISIBLE_DEVICES hides all GPUs: unset it, or {ON_CPU}"
    if not any(glob(pattern) for pattern in GPU_FILES):
        return f"this machine has no GPU: {ON_CPU}; on a cluster, start it on a node with GPUs"
    try:
        build = version("torch")
    except PackageNotFoundError:
        return ""
    if build.endswith("+cpu"):
        return f"torch {build} is PyTorch's CPU build: make setup TORCH=cuda, or {ON_CPU}"
    return ""


def crowded() -> str:
    """Tell that other processes compete for the cores; empty where they leave enough of them."""
    here = cores()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if here == 1 or load < CROWDED * here:
        return ""
    return (
        f"load {load:.0f} on {here} cores: threads that wait for one another are slow there; try "
        "--run.threads 1"
    )


def workers(processes: int) -> int:
    """Return the number of threads, 1 or more, for each process that trains on this machine.

    Args:
        processes: number of such processes.
    """
    cpus = min([cores(), *_quotas()])
    cpus_per_task = _number("SLURM_CPUS_PER_TASK")
    tasks = _number("SLURM_STEP_TASKS_PER_NODE")
    if cpus_per_task:
        processes_per_task = max(1, processes // max(1, tasks))
        # The affinity, and so `cpus`, may already be that of the task.
        return max(1, min(cpus, cpus_per_task // processes_per_task))
    return max(1, cpus // max(1, processes))


def _quotas() -> list[int]:
    """Return the CPU limits of the job's cgroups, in full cores."""
    pairs = [t.split() for t in _cgroup("cpu.max")]
    quotas = _cgroup("cpu.cfs_quota_us", "cpu")
    periods = _cgroup("cpu.cfs_period_us", "cpu")
    pairs += zip(quotas, periods, strict=False)
    return [int(quota) // int(period) for quota, period in pairs if quota.isdigit() and int(period)]


def _cgroup(file: str, controller: str = "") -> list[str]:
    """Read a control file of this process's cgroup and of the cgroups above it.

    Args:
        file: name of the control file.
        controller: controller of cgroups version 1; empty for version 2.
    """
    texts = []
    base = CGROUP / controller
    for line in _read(PROC / "self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller not in controllers.split(","):
            continue
        # In some containers the path is the host's, and then only the base exists.
        group = base / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(base):
                texts.append(_read(folder / file).strip())
    return [t for t in texts if t]


def _number(variable: str) -> int:
    """Return the number that a variable such as `4(x2)` begins with; 0 where there is none."""
    found = re.match(r"\d+", os.environ.get(variable, ""))
    return int(found[0]) if found else 0


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
