"""Check the machine for `resnet-cli doctor`: each problem is found with its cure.

Nothing here imports torch or takes time: `resnet-cli doctor --quick` makes these checks alone.
"""

import ctypes
import importlib.util
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from lightning_resnet import machine
from lightning_resnet.doctor.finding import GB, Finding, room
from lightning_resnet.engine.launch import place, resolve
from lightning_resnet.errors import UserError, one_line
from lightning_resnet.machine import cores
from lightning_resnet.tracking.mode import KEY_VARIABLES, check_variables, netrc_files, without_key

WANDB_HOSTS = ("api.wandb.ai", "api.forge.coreweave.com")  # until and from wandb 0.31
SHOWN = ("torch", "torchvision", "pytorch-lightning", "numpy", "ffcv", "numba", "wandb", "timm")
CHECKPOINTS_GB = 0.01  # size of a few checkpoints of a small net
SHM = Path("/dev/shm")


def packages() -> Iterator[Finding]:
    """Compare the versions of packages with those that the toolkit requires."""
    from packaging.requirements import Requirement

    found = {name: _version(name) for name in SHOWN}
    text = ", ".join(f"{name} {number}" for name, number in found.items() if number)
    yield Finding("ok", "versions", f"Python {platform.python_version()}, {text}")
    for line in requires("lightning_resnet") or []:
        need = Requirement(line)
        if need.marker and not need.marker.evaluate({"extra": ""}):
            continue
        if (have := _version(need.name)) is None:
            yield Finding("fails", need.name, "not installed", f"pip install '{need}'")
        elif have not in need.specifier:
            yield Finding(
                "warning", need.name, f"{have} is not {need.specifier}", f"pip install '{need}'"
            )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def processor() -> Iterator[Finding]:
    """Compare the cores with the threads that read images ahead."""
    here = cores()
    able = machine.workers(1)
    granted = (
        f"{here} of {os.cpu_count()} cores in this process's set, {able} loader threads by default"
    )
    if able < here:
        granted += " (a quota or SLURM_CPUS_PER_TASK allows no more)"
    if able > 1:
        yield Finding("ok", "processor", granted)
    else:
        cure = (
            "ask for more, such as --cpus-per-task 8, taskset or docker --cpus: decoding and "
            "training share one core"
        )
        yield Finding("warning", "processor", granted, cure)
    if told := machine.crowded():
        yield Finding("warning", "load", *told.split("; "))


def memory() -> Iterator[Finding]:
    """Check the memory that this job may use."""
    available = machine.memory()
    text = f"{available / GB:.1f} GB for this job (its cgroup's limit, else what is free)"
    cure = "ask for more (--mem, docker --memory): importing torch takes 0.5 GB"
    if available < 0.5 * GB:
        yield Finding("fails", "memory", text, cure)
    elif available < 4 * GB:
        yield Finding("warning", "memory", text, cure)
    else:
        yield Finding("ok", "memory", text)


def space(runs: Path | None = Path("runs")) -> Iterator[Finding]:
    """Check the disks of checkpoints and temporary files, and the shared memory of loaders.

    Args:
        runs: folder of all runs; None: `plan` checks the folder that the recipe names.
    """
    if runs:
        yield room("runs", runs, 1.0, CHECKPOINTS_GB)
    temporary = Path(tempfile.gettempdir())
    yield room("temporary", temporary, 1.0, 0, "make room, or export TMPDIR to a larger disk")
    if SHM.is_dir():
        cure = (
            "docker --shm-size 8g; or --data.workers 0, or --data.loader ffcv, whose threads need "
            "none"
        )
        found = room("shared memory", SHM, 0.5, 0, cure)
        yield found._replace(level="warning") if found.level == "fails" else found


def decoder() -> Iterator[Finding]:
    """Check that our JPEG decoder can be loaded, and tell whether FFCV's library is built."""
    built = [*Path(machine.__file__).parent.glob("data/beton/_decode*.so")]
    has_library = False
    if machine.is_installed("ffcv"):
        folder = Path(importlib.util.find_spec("ffcv").origin).parent
        has_library = any(folder.glob("_libffcv*.so"))
    text = "ours is built" if built else "ours is not built"
    text += ", FFCV is" if has_library else ", FFCV is not"
    refused = ""
    if built:
        newest = max(built, key=lambda path: path.stat().st_mtime_ns)
        try:
            ctypes.CDLL(str(newest))
        except OSError as e:
            refused = one_line(e)
            text += f"; ours cannot be loaded ({refused})"
    if built and not refused:
        yield Finding("ok", "decoder", text)
    else:
        cure = "install a C compiler, libjpeg-dev and zlib1g-dev, then `pip install --no-deps -e .`"
        yield Finding("warning", "decoder", f"{text}: images are read more slowly", cure)


def weights_and_biases() -> Iterator[Finding]:
    """Tell what W&B's mode `auto` would choose, before the server is asked; never show the key."""
    try:
        check_variables()
    except UserError as e:
        yield Finding("warning", "W&B", "nothing is sent", str(e))
        return
    mode = os.environ.get("WANDB_MODE")
    given = os.environ.get("WANDB_BASE_URL")
    hosts = [given.partition("://")[2].partition("/")[0]] if given else WANDB_HOSTS
    if not machine.is_installed("wandb"):
        text = "not installed: runs are kept on disk alone (pip install 'wandb>=0.31,<0.32')"
    elif mode:
        text = f"WANDB_MODE={mode}"
    elif where := _login(hosts):
        text = f"online, if {given or 'its server'} answers; a key is in {where}"
    else:
        server = f" for {given}" if given else ""
        text = f"{without_key()}: no key{server} (`wandb login`); `resnet-cli sync` uploads later"
    yield Finding("ok", "W&B", text)


def _login(hosts: Sequence[str]) -> str:
    """Return where a key of W&B is; empty without a key."""
    import netrc

    for variable in KEY_VARIABLES:
        if os.environ.get(variable):
            return variable
    for file in netrc_files(os.environ):
        with suppress(OSError, netrc.NetrcParseError):
            if any(map(netrc.netrc(file).authenticators, hosts)):
                return file
    return ""


def slurm() -> Iterator[Finding]:
    """Check that the ranks of a SLURM job will find their places."""
    env = os.environ
    if "SLURM_JOB_ID" not in env:
        there = "there" if shutil.which("sbatch") else "not there"
        yield Finding("ok", "SLURM", f"not in a job; sbatch is {there}")
        return
    text = f"job {env['SLURM_JOB_ID']} "
    names = ("NNODES", "NTASKS", "CPUS_PER_TASK", "GPUS_ON_NODE", "JOB_PARTITION")
    known = [name for name in names if f"SLURM_{name}" in env]
    text += " ".join(f"{name.lower()}={env[f'SLURM_{name}']}" for name in known)
    try:
        here = place(resolve("auto", env), env)
    except (UserError, KeyError, ValueError) as e:
        yield Finding("fails", "SLURM", text, one_line(e))
        return
    if here:
        text += f"; rank {here.rank} of {here.local_size * here.nodes}"
    else:
        text += "; no step: srun starts the ranks"
    yield Finding("ok", "SLURM", text)


def data() -> Iterator[Finding]:
    """List the data sets that are where recipes look for them."""
    betons = [*Path().glob("*.beton"), *Path("data").glob("*.beton")]
    places = {
        "digits": "scikit-learn's package" if machine.is_installed("sklearn") else None,
        "Fashion-MNIST": _first("data/FashionMNIST/raw", "/usr/share/datasets/fashion-mnist"),
        "CIFAR-10": _first("data/cifar-10-batches-py"),
        "CIFAR-100": _first("data/cifar-100-python"),
        "ImageNet": _first("data/imagenet"),
        ".beton files": betons[0] if betons else None,
    }
    text = ", ".join(f"{name} in {place}" for name, place in places.items() if place) or "none"
    missing = ", ".join(name for name, place in places.items() if not place)
    if missing:
        text += f"; not in {Path().absolute()}: {missing}"
    yield Finding("ok", "data", text)


def _first(*folders: str) -> Path | None:
    """Return the first folder that exists."""
    for folder in map(Path, folders):
        if folder.is_dir():
            return folder
    return None
