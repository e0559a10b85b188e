"""What a recipe asks of this machine: checked, and its time forecast from a trial (doctor_trial.py)."""

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import torch
from jsonargparse import Namespace
from pytorch_lightning.loggers.logger import DummyLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from lightning_resnet import machine
from lightning_resnet.config.options import local_devices
from lightning_resnet.config.recipe import Experiment, parse, ranks_asked
from lightning_resnet.config.summary import NOISY, batches, check_compiler, check_training, length
from lightning_resnet.data.images import BetonImages
from lightning_resnet.doctor.finding import GB, Finding, room
from lightning_resnet.doctor.trial import trial
from lightning_resnet.engine import observers, refused
from lightning_resnet.errors import UserError, one_line
from lightning_resnet.models.complexity import count_macs
from lightning_resnet.weights.init_from import init_from
from lightning_resnet.weights.trained import build_alone, hush

# torch's words on the CPU, CUDA's, its libraries', numpy's and the system's
NO_MEMORY = re.compile(
    r"(out of|not enough) memory|MemoryError|(can.t|cannot|unable to) allocate|ALLOC_FAILED|bad_alloc", re.I
)


def plan(recipe: list[str]) -> Iterator[Finding]:
    """Data, net, runs, batches, memory and time of a recipe, and its GPUs; the first that fails ends it."""
    hush()
    try:
        config = parse("fit", recipe)
        ranks = ranks_asked(config)
        callbacks = bool(config.trainer.callbacks)
        experiment = build_alone(recipe, accelerator=None, callbacks=True)
        # A stand-in, because to make some of Lightning's loggers begins an experiment on a server.
        experiment.trainer.loggers = [] if config.trainer.logger in (False, []) else [DummyLogger()]
        _check_as_fit_does(experiment, ranks)
        parts = (
            _data(experiment),
            _net(experiment),
            _runs(experiment),
            _batches(experiment, ranks),
            _time(experiment, ranks, callbacks),
        )
        for finding in chain(*parts, _devices(config.trainer)):
            yield finding
            if finding.level == "fails":
                return
    except (UserError, ValueError, ZeroDivisionError, MisconfigurationException) as e:
        yield Finding("fails", "recipe", *_halves(one_line(e)))
    except (RuntimeError, MemoryError, OSError) as e:
        yield _no_memory("recipe", e, "ask for more (--mem, docker --memory), or keep the pictures in .beton files")


def _check_as_fit_does(experiment: Experiment, ranks: int) -> None:
    """Set up the data and refuse what `fit` refuses; callbacks and loggers have no part in what follows.

    Args:
        experiment: a recipe's, for one device, with callbacks and loggers.
        ranks: that are to train.

    Raises:
        UserError: `fit` would say the same.
    """
    trainer, task, data = experiment.trainer, experiment.task, experiment.data
    refused.check_training(trainer, task, data, ranks)
    data.setup("fit")
    # A run's default folder is its own. Here it is the working directory, which stands for the run's.
    run = Path(trainer.default_root_dir)
    if experiment.config.trainer.default_root_dir is not None:
        run = Path(experiment.config.run.root, experiment.config.run.name, "run")
    observers.check(trainer, task, data, run / "checkpoints")
    trainer.callbacks = []
    trainer.loggers = []


def _no_memory(what: str, error: Exception, cure: str) -> Finding:
    """Of an error that says so; any other is raised again."""
    if not NO_MEMORY.search(f"{type(error).__name__} {error}"):
        raise error
    return Finding("fails", what, f"out of memory: {one_line(error)[:200]}", cure)


def _halves(message: str) -> tuple[str, str]:
    """What, and the cure after its colon."""
    what, _, cure = message.rpartition(": ")
    return (what, cure) if what else (message, "")


def _data(experiment: Experiment) -> Iterator[Finding]:
    data = experiment.data
    counts = ", ".join(f"{len(images):,} {name}" for name, images in data.splits.items() if name != "train_eval")
    yield Finding("ok", "recipe's data", f"{type(data.source).__name__}: {counts} images, {data.num_classes} classes")
    able = machine.workers(1)
    if isinstance(data.workers, int) and data.workers > able:
        text = f"--data.workers {data.workers}, but {able} cores for them"
        yield Finding("careful", "workers", text, "leave it at auto, or ask for more cores")
    betons = [images.file for images in data.splits.values() if isinstance(images, BetonImages)]
    if files := {beton.path: beton.size for beton in betons}:
        size, room = sum(files.values()), machine.memory()
        text = f"{size / GB:.2f} GB of {room / GB:.1f} GB memory"
        late = "every epoch reads the disk: --data.order pages, --data.stage DIR, or more memory"
        yield Finding("careful" if size > room else "ok", ".beton files", text, late * (size > room))


def _net(experiment: Experiment) -> Iterator[Finding]:
    data, net = experiment.data, experiment.task.net
    outputs, macs = count_macs(net, data.input_size)
    params = sum(p.numel() for p in net.parameters())
    text = f"{type(net).__name__}, {params:,} parameters, {macs / 1e6:,.1f} M multiply-adds at {data.input_size}"
    if outputs < data.num_classes:
        cure = f"--model.net.num_classes {data.num_classes}"
        yield Finding("fails", "net", f"{text}; {outputs} outputs for {data.num_classes} classes", cure)
        return
    yield Finding("ok", "net", text)
    if path := experiment.config.run.init_from:
        init_from(experiment.task, path, experiment.data.source.classes, experiment.config.resolved)
        yield Finding("ok", "weights", f"those of {path}")


def _runs(experiment: Experiment) -> Iterator[Finding]:
    """The folder of runs: last, prev and best.ckpt, of weights, average and a momentum."""
    tensors = [*experiment.task.state_dict().values(), *experiment.task.net.parameters()]
    needed = 3 * sum(t.nbytes for t in tensors) / GB
    yield room("runs", Path(experiment.config.run.root), max(1.0, 2 * needed), needed)


def _batches(experiment: Experiment, ranks: int) -> Iterator[Finding]:
    try:
        made, whole = batches(experiment, ranks), length(experiment)
        check_training(experiment, made)
        check_compiler(experiment)
    except UserError as e:
        yield Finding("fails", "batch", *_halves(one_line(e)))
        return
    yield Finding("ok", "steps", f"{whole.steps:,} per epoch, {whole.total:,} in {whole.epochs} epochs")
    if doubt := experiment.task.schedule.doubt(whole.total / whole.steps):
        yield Finding("careful", "schedule", *_halves(doubt))
    if made.seen:
        cure = "a larger --data.batch_size, --trainer.sync_batchnorm true, or fewer ranks" * (made.seen < NOISY)
        text = f"sees {made.seen} images at a time; batch {made.text}"
        yield Finding("careful" if cure else "ok", "batch norm", text, cure)
    else:
        yield Finding("ok", "batch", made.text)


def _devices(trainer: Namespace) -> Iterator[Finding]:
    """Whether the GPUs that are asked for are here; last, for a forecast for another machine is worth having."""
    asked, here = local_devices(trainer), torch.cuda.device_count()
    if trainer.accelerator in ("auto", "gpu", "cuda") and 0 < here < asked:
        text = f"{asked} GPUs of a node are asked for, {here} here: the forecast is for another machine"
        cure = f"to train here: --trainer.devices {here}, with --trainer.accumulate_grad_batches for the memory"
        yield Finding("fails", "GPUs", text, cure)


def _time(experiment: Experiment, ranks: int, callbacks: bool) -> Iterator[Finding]:
    """Epochs and device-hours from a trial of one rank's work."""
    try:
        found, whole = trial(experiment, ranks), length(experiment)
    except (RuntimeError, MemoryError, OSError) as e:
        cure = "--trainer.accumulate_grad_batches 2 (or twice what it is), --trainer.precision bf16-mixed, "
        yield _no_memory("trial", e, cure + "or a smaller --data.batch_size")
        return
    images = experiment.data.batch_size // ranks
    rates = ", ".join(
        f"{images / p.seconds:,.0f} images/s" + (f" at {p.size} px ({p.epochs} epochs)" * (len(found.paces) > 1))
        for p in found.paces
    )
    how = f"{experiment.trainer.precision}{', compiled' * bool(experiment.task.compiled)}"
    micro = images // experiment.trainer.accumulate_grad_batches
    text = f"{rates} with batches of {micro}, {how}, on one {found.device}; {found.peak}"
    yield Finding("ok", "trial", text + "; the recipe's callbacks were left out" * callbacks)
    epoch = whole.steps * found.step + found.evaluation
    hours = epoch * whole.total / whole.steps / 3600
    unit = "GPU-hours" if experiment.trainer.strategy.root_device.type == "cuda" else "rank-hours on this CPU"
    text = f"{epoch:,.1f} s an epoch, {hours:.2f} h for {whole.epochs} epochs, {hours * ranks:.2f} {unit}"
    yield Finding("ok", "forecast", text + (f" on {ranks} ranks, if they do not wait for one another" * (ranks > 1)))
