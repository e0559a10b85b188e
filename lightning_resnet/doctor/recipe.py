"""Check what a recipe asks of this machine."""

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
from lightning_resnet.config.summary import (
    MIN_BATCH_NORM_IMAGES,
    batches,
    check_compiler,
    check_training,
    length,
)
from lightning_resnet.data.images import BetonImages
from lightning_resnet.doctor.finding import GB, Finding, room
from lightning_resnet.engine import observers, refused
from lightning_resnet.engine.silence import silence_lightning
from lightning_resnet.errors import UserError, is_out_of_memory, one_line
from lightning_resnet.models.complexity import count_macs, stem_warning
from lightning_resnet.runs.reader import Run
from lightning_resnet.weights.init_from import init_from
from lightning_resnet.weights.trained import build_alone


def plan(recipe: list[str]) -> Iterator[Finding]:
    """Check data, net, disk, batches and GPUs of a recipe, up to the first failure.

    Args:
        recipe: arguments of `fit`.
    """
    silence_lightning()
    try:
        config = parse("fit", recipe)
        ranks = ranks_asked(config)
        experiment = build_alone(recipe, accelerator=None, callbacks=True)
        # a stand-in: constructors of some of Lightning's loggers begin an experiment on a server
        has_loggers = config.trainer.logger not in (False, [])
        experiment.trainer.loggers = [DummyLogger()] if has_loggers else []
        check_as_fit_does(experiment, ranks)
        findings = chain(
            _data(experiment),
            _net(experiment),
            _runs(experiment),
            _batches(experiment, ranks),
            _devices(config.trainer),
        )
        for finding in findings:
            yield finding
            if finding.level == "fails":
                return
    except (UserError, ValueError, ZeroDivisionError, MisconfigurationException) as e:
        yield Finding("fails", "recipe", *halves(one_line(e)))
    except (RuntimeError, MemoryError, OSError) as e:
        cure = "ask for more (--mem, docker --memory), or keep the images in .beton files"
        yield _no_memory("recipe", e, cure)


def check_as_fit_does(experiment: Experiment, ranks: int) -> None:
    """Set up the data and refuse what `fit` refuses; then drop the callbacks and loggers.

    Args:
        experiment: experiment of a recipe for one device, with callbacks and loggers.
        ranks: world size of the training.

    Raises:
        UserError: `fit` would raise the same.
    """
    trainer = experiment.trainer
    task = experiment.task
    data = experiment.data
    config = experiment.config
    refused.check_training(trainer, task, data, ranks)
    data.setup("fit")
    # the default folder of `fit` is the run's own; here it is the working directory instead
    run = Path(trainer.default_root_dir)
    if config.trainer.default_root_dir is not None:
        run = Path(config.run.root, config.run.name, "run")
    observers.check(trainer, task, data, Run(run).checkpoints)
    trainer.callbacks = []
    trainer.loggers = []


def _no_memory(what: str, error: Exception, cure: str) -> Finding:
    """Turn an out-of-memory error into a finding; re-raise any other error."""
    if not is_out_of_memory(error):
        raise error
    return Finding("fails", what, f"out of memory: {one_line(error)[:200]}", cure)


def halves(message: str) -> tuple[str, str]:
    """Split an error message into what is wrong and, after its last colon, the cure."""
    what, _, cure = message.rpartition(": ")
    return (what, cure) if what else (message, "")


def _data(experiment: Experiment) -> Iterator[Finding]:
    """Count the images, and check loader threads and the memory for .beton files."""
    data = experiment.data
    counts = [f"{len(i):,} {name}" for name, i in data.splits.items() if name != "train_eval"]
    source = type(data.source).__name__
    text = f"{source}: {', '.join(counts)} images, {data.num_classes} classes"
    yield Finding("ok", "recipe's data", text)
    able = machine.workers(1)
    if isinstance(data.workers, int) and data.workers > able:
        text = f"--data.workers {data.workers}, but {able} cores for them"
        yield Finding("warning", "workers", text, "leave it at auto, or ask for more cores")
    betons = [i.file for i in data.splits.values() if isinstance(i, BetonImages)]
    files = {beton.path: beton.size for beton in betons}
    if files:
        size = sum(files.values())
        available = machine.memory()
        text = f"{size / GB:.2f} GB of {available / GB:.1f} GB memory"
        if size > available:
            cure = "--data.order pages, --data.stage DIR, or more memory"
            cure = f"every epoch reads the disk: {cure}"
            yield Finding("warning", ".beton files", text, cure)
        else:
            yield Finding("ok", ".beton files", text)


def _net(experiment: Experiment) -> Iterator[Finding]:
    """Measure the net, compare its outputs with the classes, and load its first weights."""
    data = experiment.data
    net = experiment.task.net
    outputs, macs = count_macs(net, data.input_size)
    params = sum(p.numel() for p in net.parameters())
    text = (
        f"{type(net).__name__}, {params:,} parameters, {macs / 1e6:,.1f} M multiply-adds at "
        f"{data.input_size}"
    )
    if outputs < data.num_classes:
        text += f"; {outputs} outputs for {data.num_classes} classes"
        yield Finding("fails", "net", text, f"--model.net.num_classes {data.num_classes}")
        return
    yield Finding("ok", "net", text)
    if warning := stem_warning(net, data.input_size):
        yield Finding("warning", "stem", *halves(warning))
    if path := experiment.config.run.init_from:
        init_from(experiment.task, path, data.source.classes, experiment.config.resolved)
        yield Finding("ok", "weights", f"those of {path}")


def _runs(experiment: Experiment) -> Iterator[Finding]:
    """Check the disk of the run: last, prev and best.ckpt, of weights, average and a momentum.

    With --run.keep_epochs also the weights of the kept epochs.
    """
    tensors = [*experiment.task.state_dict().values(), *experiment.task.net.parameters()]
    needed = 3 * sum(t.nbytes for t in tensors) / GB
    if every := experiment.config.run.keep_epochs:
        kept = max(0, experiment.trainer.max_epochs or 0) // every
        needed += kept * sum(t.nbytes for t in experiment.task.state_dict().values()) / GB
    yield room("runs", Path(experiment.config.run.root), max(1.0, 2 * needed), needed)


def _batches(experiment: Experiment, ranks: int) -> Iterator[Finding]:
    """Check steps, schedule and batches for a world size."""
    try:
        made = batches(experiment, ranks)
        training = length(experiment)
        check_training(experiment, made)
        check_compiler(experiment)
    except UserError as e:
        yield Finding("fails", "batch", *halves(one_line(e)))
        return
    text = f"{training.steps:,} per epoch, {training.total:,} in {training.epochs} epochs"
    yield Finding("ok", "steps", text)
    if warning := experiment.task.schedule.warning(training.total / training.steps):
        yield Finding("warning", "schedule", *halves(warning))
    text = f"sees {made.seen} images at a time; batch {made.text}"
    if not made.seen:
        yield Finding("ok", "batch", made.text)
    elif made.seen < MIN_BATCH_NORM_IMAGES:
        cure = "a larger --data.batch_size, --trainer.sync_batchnorm true, or fewer ranks"
        yield Finding("warning", "batch norm", text, cure)
    else:
        yield Finding("ok", "batch norm", text)


def _devices(trainer: Namespace) -> Iterator[Finding]:
    """Check that the GPUs of a node are here."""
    asked = local_devices(trainer)
    here = torch.cuda.device_count()
    if trainer.accelerator in ("auto", "gpu", "cuda") and 0 < here < asked:
        text = f"{asked} GPUs of a node are asked for, {here} here"
        cure = (
            "ask where they are, which a forecast needs; to train here: --trainer.devices "
            f"{here}, with --trainer.accumulate_grad_batches for the memory"
        )
        yield Finding("fails", "GPUs", text, cure)
