"""`resnet-cli doctor`: will training run here, and how well? One screen; each problem with its cure.

`resnet-cli doctor --quick` imports nothing heavy; `resnet-cli doctor --config R.yaml [flags]` also forecasts a recipe.
"""

import importlib.util
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from lightning_resnet import machine
from lightning_resnet.doctor.finding import GB, Finding, room
from lightning_resnet.engine.launch import place, resolve
from lightning_resnet.errors import UserError, one_line
from lightning_resnet.machine import cores

WANDB_HOSTS = ("api.wandb.ai", "api.forge.coreweave.com")  # until and from wandb 0.31
SHOWN = ("torch", "torchvision", "pytorch-lightning", "numpy", "ffcv", "numba", "wandb", "timm")
SMALL = 0.01  # GB that the runs of a small net take: a few checkpoints
SHM = Path("/dev/shm")


def packages() -> Iterator[Finding]:
    """Versions, and whether they are those that we ask for."""
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
            yield Finding("careful", need.name, f"{have} is not {need.specifier}", f"pip install '{need}'")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def processor() -> Iterator[Finding]:
    """Cores against the threads that read ahead."""
    here, able = cores(), machine.workers(1)
    granted = f"{here} of {os.cpu_count()} cores in this process's set, {able} loader threads by default"
    if able < here:
        granted += " (a quota or SLURM_CPUS_PER_TASK allows no more)"
    if able > 1:
        yield Finding("ok", "processor", granted)
    else:
        cure = "ask for more, such as --cpus-per-task 8, taskset or docker --cpus: decoding and training share one core"
        yield Finding("careful", "processor", granted, cure)


def memory() -> Iterator[Finding]:
    """What this job may use."""
    bytes_ = machine.memory()
    level = "fails" if bytes_ < 0.5 * GB else "careful" if bytes_ < 4 * GB else "ok"
    cure = "ask for more (--mem, docker --memory): importing torch takes 0.5 GB" if level != "ok" else ""
    yield Finding(level, "memory", f"{bytes_ / GB:.1f} GB for this job (its cgroup's limit, else what is free)", cure)


def space(runs: Path | None = Path("runs")) -> Iterator[Finding]:
    """Where checkpoints, temporary files and batches between processes go; None: `plan` knows where runs are kept."""
    if runs:
        yield room("runs", runs, 1.0, SMALL)
    temporary = Path(tempfile.gettempdir())
    yield room("temporary", temporary, 1.0, 0, "make room, or export TMPDIR to a larger disk")
    if SHM.is_dir():
        cure = "docker --shm-size 8g; or --data.workers 0, or --data.loader ffcv, whose threads need none"
        found = room("shared memory", SHM, 0.5, 0, cure)
        yield found._replace(level="careful") if found.level == "fails" else found


def decoder() -> Iterator[Finding]:
    """Our kernel and FFCV's library."""
    built = any(Path(machine.__file__).parent.glob("data/beton/_decode*.so"))
    spec = importlib.util.find_spec("ffcv")
    library = spec and any(Path(spec.origin).parent.glob("_libffcv*.so"))
    text = f"{'ours is built' if built else 'ours is not built'}, FFCV {'is' if library else 'is not'}"
    if built:
        yield Finding("ok", "decoder", text)
    else:
        cure = "install a C compiler, libjpeg-dev and zlib1g-dev, then `pip install --no-deps -e .`"
        yield Finding("careful", "decoder", f"{text}: pictures are read more slowly", cure)


def weights_and_biases() -> Iterator[Finding]:
    """What mode `auto` would choose, before the server is asked; never the key."""
    mode, given = os.environ.get("WANDB_MODE"), os.environ.get("WANDB_BASE_URL")
    hosts = [given.partition("://")[2].partition("/")[0]] if given else WANDB_HOSTS
    if not importlib.util.find_spec("wandb"):
        yield Finding("ok", "W&B", "not installed: runs are kept on disk alone (pip install 'wandb>=0.31,<0.32')")
    elif mode:
        yield Finding("ok", "W&B", f"WANDB_MODE={mode}")
    elif where := _login(hosts):
        yield Finding("ok", "W&B", f"online, if {given or 'its server'} answers; a key is in {where}")
    else:
        of = f" for {given}" if given else ""
        yield Finding("ok", "W&B", f"offline: no key{of} (`wandb login`); `resnet-cli sync` uploads later")


def _login(hosts: Sequence[str]) -> str:
    """Where a key is; empty without."""
    import netrc

    if os.environ.get("WANDB_API_KEY"):
        return "WANDB_API_KEY"
    file = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    try:
        return str(file) if any(map(netrc.netrc(file).authenticators, hosts)) else ""
    except (OSError, netrc.NetrcParseError):
        return ""


def slurm() -> Iterator[Finding]:
    """The job, and whether ranks will find their places."""
    env = os.environ
    if "SLURM_JOB_ID" not in env:
        yield Finding("ok", "SLURM", f"not in a job; sbatch is {'there' if shutil.which('sbatch') else 'not there'}")
        return
    names = ("NNODES", "NTASKS", "CPUS_PER_TASK", "GPUS_ON_NODE", "JOB_PARTITION")
    text = " ".join(f"{name.lower()}={env[key]}" for name in names if (key := f"SLURM_{name}") in env)
    try:
        here = place(resolve("auto", env), env)
    except (UserError, KeyError, ValueError) as e:
        yield Finding("fails", "SLURM", f"job {env['SLURM_JOB_ID']} {text}", one_line(e))
        return
    step = f"rank {here.rank} of {here.local_size * here.nodes}" if here else "no step: srun starts the ranks"
    yield Finding("ok", "SLURM", f"job {env['SLURM_JOB_ID']} {text}; {step}")


def data() -> Iterator[Finding]:
    """Data sets where recipes look for them."""
    places = {
        "digits": "scikit-learn's package" if importlib.util.find_spec("sklearn") else None,
        "Fashion-MNIST": _first("data/FashionMNIST/raw", "/usr/share/datasets/fashion-mnist"),
        "CIFAR-10": _first("data/cifar-10-batches-py"),
        "CIFAR-100": _first("data/cifar-100-python"),
        "ImageNet": _first("data/imagenet"),
        ".beton files": next(iter([*Path().glob("*.beton"), *Path("data").glob("*.beton")]), None),
    }
    found = ", ".join(f"{name} in {place}" for name, place in places.items() if place)
    missing = ", ".join(name for name, place in places.items() if not place)
    text = (found or "none") + (f"; not in {Path().absolute()}: {missing}" if missing else "")
    yield Finding("ok", "data", text)


def _first(*folders: str) -> Path | None:
    return next((path for path in map(Path, folders) if path.is_dir()), None)
