"""Record the code, the versions and the machine that a number was measured with."""

import hashlib
import inspect
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lightning_resnet.machine import cores

PACKAGES = ("lightning_resnet", "torch", "torchvision", "pytorch-lightning", "numpy", "ffcv")


def code() -> dict[str, Any]:
    """Return the commit of the source, and whether there are changes that are in no commit.

    Both are None outside a repository, and where the package lies in that of somebody else, as in
    an environment there.
    """
    is_ours = _git("ls-files", "--error-unmatch", "--", "__init__.py")
    sha = _git("rev-parse", "HEAD") if is_ours else None
    if not sha:
        return {"git_sha": sha, "git_dirty": None}
    return {"git_sha": sha, "git_dirty": bool(_git("status", "--porcelain", "--", "."))}


def source_digest(target: Any) -> str | None:
    """Return a digest of the source of a user's function, or of a class's methods; else None.

    The commit tells of this package's own, the version of those of installed packages. Of a class
    in a notebook only the methods have a source.
    """
    functions = [target]
    if inspect.isclass(target):
        functions = [each for each in vars(target).values() if inspect.isfunction(each)]
    sources = []
    for function in functions:
        try:
            file = Path(inspect.getfile(function))
            sources.append(inspect.getsource(function))
        except (TypeError, OSError):  # it has none, as one that is typed at a prompt
            return None
        if "site-packages" in file.parts or file.is_relative_to(Path(__file__).parent):
            return None
    return hashlib.sha256("".join(sources).encode()).hexdigest()[:16] if sources else None


def code_name(code: dict[str, Any]) -> str:
    """Return the SHA, with `+changes` if there are changes in no commit; empty without one."""
    return (code["git_sha"] or "") + ("+changes" if code["git_dirty"] else "")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that affect numbers."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package.replace("-", "_")] = version(package)
        except PackageNotFoundError:
            continue
    return found


def changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Describe the code and versions that differ, as `torch 2.12.0 -> 2.13.0`; empty if none does.

    Args:
        before: an earlier record: versions, git_sha.
        now: a record of the same form.
    """
    old = before.get("versions") or {}
    new = now["versions"]
    rows = [(name, old.get(name), new.get(name)) for name in sorted(old | new)]
    rows.append(("code", (before.get("git_sha") or "")[:10], (now["git_sha"] or "")[:10]))
    return ", ".join(f"{name} {x or '?'} -> {y or '?'}" for name, x, y in rows if x != y)


def hardware() -> dict[str, Any]:
    """Return the CPU, the number of cores that this process may use, and the GPU."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": _cpu_name(), "cores": cores(), "gpu": gpu}


def _cpu_name() -> str:
    """Return the name of the CPU, or of the machine's architecture."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git(*args: str) -> str | None:
    """Return the output of a git command in the package's folder; None where it fails."""
    folder = Path(__file__).parent
    try:
        # git status takes the lock of the index, which a killed run would leave behind
        done = subprocess.run(
            ["git", "--no-optional-locks", *args],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
