"""What follows from a configuration: checked, printed before a training, and kept in its meta.json."""

import copy
import sys
from typing import Any, NamedTuple

import torch
from pytorch_lightning.trainer.states import RunningStage
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from lightning_resnet.config.recipe import Experiment
from lightning_resnet.engine.trainer import limited
from lightning_resnet.errors import UserError, one_line, tell
from lightning_resnet.models.complexity import check_logits, count_macs
from lightning_resnet.models.ghost import batch_norms

NOISY = 16  # statistics of fewer images
say = rank_zero_only(tell)


def describe(experiment: Experiment) -> dict[str, Any]:
    """Check that net and data fit, print what follows, and return what meta.json keeps.

    Raises:
        UserError: they do not fit.
    """
    trainer, task, data = experiment.trainer, experiment.task, experiment.data
    n = len(data.splits["train"])
    outputs, macs = count_macs(task.net, data.input_size)
    if outputs < data.num_classes:
        raise UserError(
            f"the data has {data.num_classes} classes (labels 0 to {data.num_classes - 1}), the net {outputs} outputs: "
            f"add --model.net.num_classes {data.num_classes}"
        )
    if outputs > data.num_classes:
        say(f"careful: {outputs} outputs for {data.num_classes} classes; --model.net.num_classes {data.num_classes}")
    check_training(experiment, batches(experiment, trainer.world_size))
    check_compiler(experiment)
    params = sum(p.numel() for p in task.net.parameters())
    options = experiment.config.values.model.net.get("init_args", {})
    text = " ".join(f"{k}={options[k]}" for k in ("depth", "shortcut", "block", "norm", "init") if k in options)
    name = type(task.net).__name__
    say(f"{name} {text}: {params:,} parameters, {macs / 1e6:,.1f} M multiply-adds at {data.input_size}")
    _say_batches(experiment)
    for group in task.configure_optimizers().param_groups:
        numel = sum(p.numel() for p in group["params"])
        say(f"weight decay {group.get('weight_decay', 0):g}: {len(group['params'])} tensors, {numel:,} parameters")
    return {
        "net": name,
        "params": params,
        "macs": macs,
        "input_size": list(data.input_size),
        "steps_per_epoch": n // data.batch_size,
        "epochs": trainer.max_epochs,
        "train_samples": n,
        "val_samples": len(data.splits["val"]),
        "source": type(data.source).__name__,
    }


def _say_batches(experiment: Experiment) -> None:
    made, whole = batches(experiment, experiment.trainer.world_size), length(experiment)
    n = len(experiment.data.splits["train"])
    say(f"{n:,} training images, {whole.steps} step{'s' * (whole.steps > 1)} per epoch; batch {made.text}")
    if doubt := experiment.task.schedule.doubt(whole.total / whole.steps):
        say(f"careful: {doubt}")
    if made.seen:
        careful = f"; below {NOISY} its statistics are noisy" if made.seen < NOISY else ""
        say(f"{'careful: ' if careful else ''}batch norm sees {made.seen} images at a time{careful}")


class Batches(NamedTuple):
    """What an optimizer step is made of.

    Attributes:
        text: in words.
        micro: images per forward pass on one rank.
        seen: images that batch norm takes statistics of together; 0: there is no batch norm.
    """

    text: str
    micro: int
    seen: int


def batches(experiment: Experiment, ranks: int) -> Batches:
    """Of a recipe on so many ranks; its data are set up.

    Raises:
        UserError: they do not divide.
    """
    data, task, accumulated = experiment.data, experiment.task, experiment.trainer.accumulate_grad_batches
    micro, normed = data.micro_batch_of(ranks), batch_norms(task.net)
    if task.mix and micro % 2:
        raise UserError(
            f"--model.mix pairs neighbours, and a rank's batch of {micro} images would part a pair: choose a "
            "--data.batch_size that gives each an even number"
        )
    if normed and micro % (task.bn_batch or 1):
        raise UserError(
            f"--model.bn_batch {task.bn_batch} does not divide the {micro} images of a rank's batch: choose a divisor, "
            "or null"
        )
    shared = ranks if experiment.config.trainer.sync_batchnorm else 1
    text = f"{data.batch_size} = {ranks} rank{'s' * (ranks > 1)} x {accumulated} accumulated x {micro}"
    return Batches(text, micro, (task.bn_batch or micro * shared) if normed else 0)


class Length(NamedTuple):
    """How long a training is, limits counted in.

    Attributes:
        steps: optimizer steps of an epoch.
        total: optimizer steps.
        epochs: the last may be cut short.
    """

    steps: int
    total: int
    epochs: int


def length(experiment: Experiment) -> Length:
    """Of a recipe whose data are set up.

    Raises:
        UserError: it has no optimizer step.
    """
    data, trainer = experiment.data, experiment.trainer
    parts = trainer.accumulate_grad_batches
    all_ = len(data.splits["train"]) // data.batch_size * parts
    try:
        left = limited(all_, trainer.limit_train_batches, RunningStage.TRAINING)
    except MisconfigurationException:  # a share of them that is less than one
        left = 0
    flag = "--trainer.overfit_batches" if trainer.overfit_batches else "--trainer.limit_train_batches"
    steps = left // parts
    if not steps:
        raise UserError(f"no optimizer step is left of {all_} batches: raise {flag}")
    if left % parts:
        raise UserError(
            f"{flag} leaves {left} batches of an epoch, of which {parts} make an optimizer step: give "
            f"{steps * parts}, or another multiple of {parts}"
        )
    total = min(n for n in (steps * trainer.max_epochs, trainer.max_steps, sys.maxsize) if n >= 0)
    return Length(steps, total, -(-total // steps))


def check_training(experiment: Experiment, made: "Batches") -> None:
    """Try the net in training mode, on a copy: what it gives then, and whether its batch norm has enough values.

    Args:
        experiment: a recipe's, its data set up.
        made: its batches.

    Raises:
        UserError: it gives no scores, or batch norm sees one value per channel.
    """
    task, size = experiment.task, experiment.data.input_size
    if task.bn_batch:  # takes whole batches of its own
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
        raise UserError(
            f"batch norm sees {made.seen} image at a time, of 1x1 in {type(net).__name__}, which has no variance: "
            "choose a larger --data.batch_size (per rank and accumulated part) or --data.size"
        ) from e
    check_logits(net, found, images)


def check_compiler(experiment: Experiment) -> None:
    """Refuse `--model.compile` where torch finds no compiler: it would end in the first step.

    Raises:
        UserError: there is none.
    """
    if not experiment.task.compiled or experiment.trainer.strategy.root_device.type != "cpu":
        return
    from torch._inductor import cpp_builder

    try:
        cpp_builder.get_cpp_compiler()
    except Exception as e:
        raise UserError(
            f"--model.compile needs a C++ compiler ({one_line(e)[:100]}): apt-get install g++, or export CXX to one, "
            "or leave it out"
        ) from e
