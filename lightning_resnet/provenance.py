"""Which code, which versions, which machine: what a number needs beside it."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lightning_resnet.machine import cores

PACKAGES = ("lightning_resnet", "torch", "torchvision", "pytorch-lightning", "numpy", "ffcv")


def code() -> dict[str, Any]:
    """Git SHA of the package's source and whether it was changed since; None outside a repository."""
    sha = _git("rev-parse", "HEAD")
    return {"git_sha": sha, "git_dirty": bool(_git("status", "--porcelain", "--", ".")) if sha else None}


def code_name(code: dict[str, Any]) -> str:
    """The SHA, `+changes` where some are in no commit; empty outside a repository."""
    return (code["git_sha"] or "") + ("+changes" if code["git_dirty"] else "")


def versions() -> dict[str, str]:
    """Of Python and the packages that decide numbers."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package.replace("-", "_")] = version(package)
        except PackageNotFoundError:
            continue
    return found


def changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Code and versions that differ between two records: `torch 2.12.0 -> 2.13.0`; empty if none does."""
    a, b = before.get("versions") or {}, now["versions"]
    pairs = [(name, a.get(name), b.get(name)) for name in sorted(a | b)]
    pairs.append(("code", (before.get("git_sha") or "")[:10], (now["git_sha"] or "")[:10]))
    return ", ".join(f"{name} {x or '?'} -> {y or '?'}" for name, x, y in pairs if x != y)


def hardware() -> dict[str, Any]:
    """CPU, cores this process may use, GPU."""
    import torch

    cpu = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": cpu, "cores": cores(), "gpu": gpu}


def _git(*args: str) -> str | None:
    folder = Path(__file__).parent
    try:
        done = subprocess.run(["git", *args], cwd=folder, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
