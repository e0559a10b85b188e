"""Check and describe what follows from a configuration, for the terminal and for meta.json."""

import copy
import math
import sys
from typing import Any, NamedTuple

import torch
from pytorch_lightning.trainer.states import RunningStage
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from lightning_resnet.bounds import world_sizes
from lightning_resnet.config.recipe import Experiment
from lightning_resnet.engine.trainer import limited
from lightning_resnet.errors import UserError, one_line, tell
from lightning_resnet.models.complexity import check_logits, count_macs, stem_warning
from lightning_resnet.models.ghost import batch_norms
from lightning_resnet.training.task import ClassificationTask

MIN_BATCH_NORM_IMAGES = 16  # batch norm's statistics of fewer images are noisy
say = rank_zero_only(tell)


def describe(experiment: Experiment) -> dict[str, Any]:
    """Check that net and data fit, print what follows, and return what meta.json keeps.

    Raises:
        UserError: net and data do not fit.
    """
    trainer = experiment.trainer
    task = experiment.task
    data = experiment.data
    n = len(data.splits["train"])
    outputs, macs = count_macs(task.net, data.input_size)
    if outputs < data.num_classes:
        raise UserError(
            f"the data has {data.num_classes} classes (labels 0 to {data.num_classes - 1}), the "
            f"net {outputs} outputs: add --model.net.num_classes {data.num_classes}"
        )
    if outputs > data.num_classes:
        say(
            f"warning: the data has {data.num_classes} classes, and the net keeps its {outputs} "
            f"outputs: add --model.net.num_classes {data.num_classes} for a net without the others"
        )
    size = data.eval_augment.size
    if data.progressive and size and data.progressive.high > size:
        say(
            f"warning: training images grow to {data.progressive.high} pixels; evaluations have "
            f"{size}: add --data.progressive.high {size}, or --data.progressive null"
        )
    check_training(experiment, batches(experiment, trainer.world_size))
    check_compiler(experiment)
    params = sum(p.numel() for p in task.net.parameters())
    options = experiment.config.values.model.net.get("init_args", {})
    shown = [k for k in ("depth", "shortcut", "block", "norm", "init") if k in options]
    name = type(task.net).__name__
    text = " ".join(f"{k}={options[k]}" for k in shown)
    size = f"{params:,} parameters, {macs / 1e6:,.1f} M multiply-adds at {data.input_size}"
    say(f"{name} {text}: {size}")
    if warning := stem_warning(task.net, data.input_size):
        say(f"warning: {warning}")
    _say_batches(experiment)
    training = length(experiment)
    for group in task.configure_optimizers().param_groups:
        tensors = group["params"]
        numel = sum(p.numel() for p in tensors)
        decay = group.get("weight_decay", 0)
        say(f"weight decay {decay:g}: {len(tensors)} tensors, {numel:,} parameters")
    return {
        "net": name,
        "params": params,
        "macs": macs,
        "input_size": list(data.input_size),
        "steps_per_epoch": training.steps,
        "steps": training.total,
        "epochs": trainer.max_epochs,
        "train_samples": n,
        "val_samples": len(data.splits["val"]),
        "source": type(data.source).__name__,
    }


def _say_batches(experiment: Experiment) -> None:
    """Print steps and batches, and warn of an unusual schedule or of noisy batch norm."""
    made = batches(experiment, experiment.trainer.world_size)
    training = length(experiment)
    n = len(experiment.data.splits["train"])
    unit = "steps" if training.steps > 1 else "step"
    say(f"{n:,} training images, {training.steps} {unit} per epoch; batch {made.text}")
    if warning := experiment.task.schedule.warning(training.total / training.steps):
        say(f"warning: {warning}")
    text = f"batch norm sees {made.seen} images at a time"
    if 0 < made.seen < MIN_BATCH_NORM_IMAGES:
        say(f"warning: {text}; below {MIN_BATCH_NORM_IMAGES} its statistics are noisy")
    elif made.seen:
        say(text)


class Batches(NamedTuple):
    """The batches of an optimizer step.

    Attributes:
        text: the batches in words.
        micro: images per forward pass on one rank (the micro-batch).
        seen: images that batch norm takes statistics of together; 0: there is no batch norm.
    """

    text: str
    micro: int
    seen: int


def batches(experiment: Experiment, ranks: int) -> Batches:
    """Return the batches of an optimizer step for a world size.

    Args:
        experiment: experiment whose data are set up.
        ranks: the world size.

    Raises:
        UserError: the batch size does not divide.
    """
    data = experiment.data
    task = experiment.task
    accumulated = experiment.trainer.accumulate_grad_batches
    has_norm = batch_norms(task.net)
    unit = smallest_share(task)
    micro = data.micro_batch_of(ranks, unit)
    sizes = world_sizes(data.batch_size, accumulated * unit, ranks)
    other = f", or {sizes}" if sizes else ""
    if task.mix and micro % 2:
        raise UserError(
            f"--model.mix pairs neighbours, and a rank's batch of {micro} images would part a "
            f"pair: choose a --data.batch_size that gives each an even number{other}"
        )
    if micro % unit:
        raise UserError(
            f"--model.bn_batch {task.bn_batch} does not divide the {micro} images of a rank's "
            f"batch: choose a divisor, or null{other}"
        )
    seen = 0
    if has_norm:
        shared = ranks if experiment.config.trainer.sync_batchnorm else 1
        seen = task.bn_batch or micro * shared
    unit = "ranks" if ranks > 1 else "rank"
    text = f"{data.batch_size} = {ranks} {unit} x {accumulated} accumulated x {micro}"
    return Batches(text, micro, seen)


def smallest_share(task: ClassificationTask) -> int:
    """Return of how many images a micro-batch of a rank must be a multiple.

    The pairs of `mix` and the parts of `bn_batch` must not be divided.
    """
    part = task.bn_batch if task.bn_batch and batch_norms(task.net) else 1
    return math.lcm(part, 2 if task.mix else 1)


class Length(NamedTuple):
    """The length of a training, with its limits.

    Attributes:
        steps: optimizer steps of an epoch.
        total: optimizer steps of the training.
        epochs: epochs, of which the last may be cut short.
    """

    steps: int
    total: int
    epochs: int


def length(experiment: Experiment) -> Length:
    """Return the length of a training whose data are set up.

    Raises:
        UserError: no optimizer step is left, or the last one lacks batches.
    """
    data = experiment.data
    trainer = experiment.trainer
    parts = trainer.accumulate_grad_batches
    all_ = len(data.splits["train"]) // data.batch_size * parts
    try:
        left = limited(all_, trainer.limit_train_batches, RunningStage.TRAINING)
    except MisconfigurationException:  # a share of them that is less than one
        left = 0
    flag = (
        "--trainer.overfit_batches" if trainer.overfit_batches else "--trainer.limit_train_batches"
    )
    steps = left // parts
    if not steps:
        raise UserError(f"no optimizer step is left of {all_} batches: raise {flag}")
    if left % parts:
        raise UserError(
            f"{flag} leaves {left} batches of an epoch, of which {parts} make an optimizer "
            f"step: give {steps * parts}, or another multiple of {parts}"
        )
    total = min(n for n in (steps * trainer.max_epochs, trainer.max_steps, sys.maxsize) if n >= 0)
    return Length(steps, total, -(-total // steps))


def without_variance(net: torch.nn.Module, images: int) -> UserError:
    """Return the error of a net whose batch norm sees one value per channel."""
    return UserError(
        f"batch norm sees {images} image at a time, of 1x1 in {type(net).__name__}, which has no "
        "variance: choose a larger --data.batch_size (per rank and accumulated part) or --data.size"
    )


def check_training(experiment: Experiment, made: "Batches") -> None:
    """Try a copy of the net in training mode: its output, and whether batch norm has enough values.

    Args:
        experiment: experiment whose data are set up.
        made: batches of the training.

    Raises:
        UserError: the net gives no scores, or batch norm sees one value per channel.
    """
    task = experiment.task
    size = experiment.data.input_size
    if task.bn_batch:  # batch norm always gets that many images
        return
    images = 1 if made.seen == 1 else 2
    parameter = next(task.net.parameters())
    net = copy.deepcopy(task.net).train()  # its statistics must not move
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            found = net(torch.zeros(images, *size, dtype=parameter.dtype, device=parameter.device))
    except ValueError as e:
        if "more than 1 value per channel" not in str(e):
            raise
        raise without_variance(net, made.seen) from e
    check_logits(net, found, images)


def check_compiler(experiment: Experiment) -> None:
    """Refuse `--model.compile` if torch finds no compiler: the first step would fail.

    Raises:
        UserError: there is no compiler.
    """
    if not experiment.task.compiled or experiment.trainer.strategy.root_device.type != "cpu":
        return
    from torch._inductor import cpp_builder

    try:
        cpp_builder.get_cpp_compiler()
    except Exception as e:
        raise UserError(
            f"--model.compile needs a C++ compiler ({one_line(e)[:100]}): apt-get install g++, or "
            "export CXX to one, or leave it out"
        ) from e
