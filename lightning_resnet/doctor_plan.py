"""What a recipe asks of this machine: checked, and its time forecast from a trial (doctor_trial.py)."""

import re
from collections.abc import Iterator
from itertools import chain

from pytorch_lightning.utilities.exceptions import MisconfigurationException

from lightning_resnet.config import ResNetCLI
from lightning_resnet.data import machine
from lightning_resnet.describe import measure
from lightning_resnet.doctor import GB, Finding
from lightning_resnet.doctor_trial import length, trial
from lightning_resnet.errors import UserError, one_line
from lightning_resnet.models.ghost import batch_norms
from lightning_resnet.options import local_devices
from lightning_resnet.trained import build, hush

# torch's words on the CPU, CUDA's, its libraries', numpy's and the system's
NO_MEMORY = re.compile(
    r"(out of|not enough) memory|MemoryError|(can.t|cannot|unable to) allocate|ALLOC_FAILED|bad_alloc", re.I
)


class _Configured(ResNetCLI):
    """Goes no further than the configuration."""

    def before_instantiate_classes(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        pass


def plan(recipe: list[str]) -> Iterator[Finding]:
    """Data, net, batches, memory and time of a recipe; the first that fails ends it."""
    hush()
    try:
        config = _Configured("fit", recipe).config
        ranks = local_devices(config.trainer) * config.trainer.num_nodes
        callbacks = bool(config.trainer.callbacks)
        cli = build(recipe, accelerator=None)
        cli.datamodule.trainer = cli.trainer
        cli.datamodule.setup("fit")
        for finding in chain(_data(cli), _net(cli), _batches(cli, ranks), _time(cli, ranks, callbacks)):
            yield finding
            if finding.level == "fails":
                return
    except (UserError, ValueError, ZeroDivisionError, MisconfigurationException) as e:
        yield Finding("fails", "recipe", *_halves(one_line(e)))
    except (RuntimeError, MemoryError, OSError) as e:
        yield _no_memory("recipe", e, "ask for more (--mem, docker --memory), or keep the pictures in .beton files")


def _no_memory(what: str, error: Exception, cure: str) -> Finding:
    """Of an error that says so; any other is raised again."""
    if not NO_MEMORY.search(f"{type(error).__name__} {error}"):
        raise error
    return Finding("fails", what, f"out of memory: {one_line(error)[:200]}", cure)


def _halves(message: str) -> tuple[str, str]:
    """What, and the cure after its colon."""
    what, _, cure = message.rpartition(": ")
    return (what, cure) if what else (message, "")


def _data(cli: ResNetCLI) -> Iterator[Finding]:
    data = cli.datamodule
    counts = ", ".join(f"{len(images):,} {name}" for name, images in data.splits.items() if name != "train_eval")
    yield Finding("ok", "recipe's data", f"{type(data.source).__name__}: {counts} images, {data.num_classes} classes")
    able = machine.workers(1)
    if isinstance(data.workers, int) and data.workers > able:
        text = f"--data.workers {data.workers}, but {able} cores for them"
        yield Finding("careful", "workers", text, "leave it at auto, or ask for more cores")
    if files := {images.file.path: images.file.size for images in data.splits.values() if images.file}:
        size, room = sum(files.values()), machine.memory()
        text = f"{size / GB:.2f} GB of {room / GB:.1f} GB memory"
        late = "every epoch reads the disk: --data.order pages, --data.stage DIR, or more memory"
        yield Finding("careful" if size > room else "ok", ".beton files", text, late * (size > room))


def _net(cli: ResNetCLI) -> Iterator[Finding]:
    data, net = cli.datamodule, cli.model.net
    outputs, macs = measure(net, data.input_size)
    params = sum(p.numel() for p in net.parameters())
    text = f"{type(net).__name__}, {params:,} parameters, {macs / 1e6:,.1f} M multiply-adds at {data.input_size}"
    if outputs < data.num_classes:
        cure = f"--model.net.num_classes {data.num_classes}"
        yield Finding("fails", "net", f"{text}; {outputs} outputs for {data.num_classes} classes", cure)
    else:
        yield Finding("ok", "net", text)


def _batches(cli: ResNetCLI, ranks: int) -> Iterator[Finding]:
    data, accumulated, task = cli.datamodule, cli.trainer.accumulate_grad_batches, cli.model
    micro, rest = divmod(data.batch_size, ranks * accumulated)
    text = f"{data.batch_size} = {ranks} ranks x {accumulated} accumulated x {micro}"
    if rest or not micro:
        yield Finding("fails", "batch", text, f"a multiple of {ranks * accumulated}: --data.batch_size")
        return
    steps, total, epochs = length(cli)
    yield Finding("ok" if steps else "fails", "steps", f"{steps:,} per epoch, {total:,} in {epochs} epochs")
    if task.mix and micro % 2:
        cure = "a --data.batch_size that gives each an even number"
        yield Finding("fails", "mix", f"a rank's batch of {micro} images would part a pair", cure)
    if micro % (task.bn_batch or 1):
        text = f"of {task.bn_batch} images does not divide the {micro} of a rank's batch"
        yield Finding("fails", "bn_batch", text, "--model.bn_batch null, or a divisor")
    if batch_norms(task.net):
        seen = task.bn_batch or micro
        cure = "a larger --data.batch_size, --trainer.sync_batchnorm true, or fewer ranks" if seen < 16 else ""
        yield Finding("careful" if cure else "ok", "batch norm", f"sees {seen} images at a time; batch {text}", cure)


def _time(cli: ResNetCLI, ranks: int, callbacks: bool) -> Iterator[Finding]:
    """Epochs and device-hours from a trial of one rank's work."""
    try:
        found, whole = trial(cli, ranks), length(cli)
    except (RuntimeError, MemoryError, OSError) as e:
        cure = "--trainer.accumulate_grad_batches 2 (or twice what it is), --trainer.precision bf16-mixed, "
        yield _no_memory("trial", e, cure + "or a smaller --data.batch_size")
        return
    images = cli.datamodule.batch_size // ranks
    rates = ", ".join(
        f"{images / p.seconds:,.0f} images/s" + (f" at {p.size} px ({p.epochs} epochs)" * (len(found.paces) > 1))
        for p in found.paces
    )
    how = f"{cli.trainer.precision}{', compiled' * bool(cli.model.compiled)}"
    micro = images // cli.trainer.accumulate_grad_batches
    text = f"{rates} with batches of {micro}, {how}, on one {found.device}; {found.peak}"
    yield Finding("ok", "trial", text + "; the recipe's callbacks were left out" * callbacks)
    epoch = whole.steps * found.step + found.evaluation
    hours = epoch * whole.total / whole.steps / 3600
    unit = "GPU-hours" if cli.trainer.strategy.root_device.type == "cuda" else "rank-hours on this CPU"
    text = f"{epoch:,.1f} s an epoch, {hours:.2f} h for {whole.epochs} epochs, {hours * ranks:.2f} {unit}"
    yield Finding("ok", "forecast", text + (f" on {ranks} ranks, if they do not wait for one another" * (ranks > 1)))
