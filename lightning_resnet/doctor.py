"""`resnet-cli doctor`: will training run here, and how well? One screen; each problem with its cure.

`resnet-cli doctor --quick` imports nothing heavy; `resnet-cli doctor --config R.yaml [flags]` also forecasts a recipe.
"""

import importlib.util
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal, NamedTuple

from lightning_resnet.data import machine
from lightning_resnet.errors import Parser, UserError, one_line, tell
from lightning_resnet.runtime.status import cores

WANDB_HOSTS = ("api.wandb.ai", "api.forge.coreweave.com")  # until and from wandb 0.31
SHOWN = ("torch", "torchvision", "pytorch-lightning", "numpy", "ffcv", "numba", "wandb", "timm")
GB = 1e9
SMALL = 0.01  # GB that the runs of a small net take: a few checkpoints
SHM, DRIVER = Path("/dev/shm"), Path("/proc/driver/nvidia")


class Finding(NamedTuple):
    """One line: `fails` is what training would fail of."""

    level: Literal["ok", "careful", "fails"]
    what: str
    found: str
    cure: str = ""

    def __str__(self) -> str:
        mark = {"ok": "   ok", "careful": " ! ", "fails": "FAILS"}[self.level]
        return f"{mark:<6}{self.what:<14}{self.found}" + (f"\n{'':<20}-> {self.cure}" if self.cure else "")


def make_parser() -> Parser:
    """The flags of `resnet-cli doctor`."""
    parser = Parser(
        prog="resnet-cli doctor",
        description="Whether training runs on this machine; exit 1 if it would fail.",
        epilog="Any key of a recipe is a flag too, such as --data.batch_size 64.",
    )
    parser.add_argument("--quick", action="store_true", help="only what takes no time: no torch, no GPU is asked")
    return parser


def main(argv: Sequence[str]) -> int:
    """Print what was found; 1 if something would make training fail."""
    from lightning_resnet.analysis.inspect import split

    own, recipe = split(argv)
    args = make_parser().parse_args(own)
    if recipe and args.quick:
        raise UserError("--quick looks at no recipe: drop one of the two")
    failed = False
    for finding in _all(args.quick, recipe):
        tell(finding)
        failed |= finding.level == "fails"
    return int(failed)


def _all(quick: bool, recipe: list[str]) -> Iterator[Finding]:
    spaces = partial(space, None) if recipe else space
    for check in (packages, processor, memory, spaces, decoder, weights_and_biases, slurm, data):
        yield from check()
    if not quick:
        from lightning_resnet.doctor_deep import gpu, imports, numba_layer

        fine = list(imports())
        yield from fine
        if any(finding.level == "fails" for finding in fine):
            return
        yield from gpu()
        yield from numba_layer()
    else:
        yield driver()
    if recipe:
        from lightning_resnet.doctor_plan import plan

        yield from plan(recipe)


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


def room(
    what: str, folder: Path, low: float, least: float, cure: str = "make room, or --run.root on a larger disk"
) -> Finding:
    """Whether a folder, or the one it would be made in, takes files.

    Args:
        what: it is for.
        folder: need not exist.
        low: free GB below which it is worth a word.
        least: free GB below which training would fail.
        cure: of too little.
    """
    folder = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as e:
        return Finding("fails", what, f"{folder} cannot be written to ({e.strerror})", cure)
    free = shutil.disk_usage(folder).free / GB
    level = "ok" if free >= max(low, least) else "careful" if free >= least else "fails"
    needs = f", at least {least:.2f} GB are needed" if level == "fails" else ""
    return Finding(level, what, f"{free:.1f} GB free in {folder}{needs}", cure * (level != "ok"))


def decoder() -> Iterator[Finding]:
    """Our kernel and FFCV's library."""
    built = any(Path(machine.__file__).parent.glob("_decode*.so"))
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
    from lightning_resnet.runtime.launch import place, resolve

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


def driver() -> Finding:
    """NVIDIA's kernel module and the devices it knows, without asking any."""
    if not (version := driver_version()):
        return Finding("ok", "GPU", "no NVIDIA driver: training would use the CPU")
    return Finding("ok", "GPU", f"{len(list((DRIVER / 'gpus').glob('*')))} devices, driver {version}")


def driver_version() -> str:
    """As the kernel module tells; empty without."""
    try:
        return (DRIVER / "version").read_text().splitlines()[0].partition(":")[2].strip()
    except OSError:
        return ""
