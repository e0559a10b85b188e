"""What follows from a configuration: checked, printed before a training, and kept in its meta.json."""

from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_only
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_resnet.config import ResNetCLI
from lightning_resnet.data.module import ImageData
from lightning_resnet.errors import UserError, one_line
from lightning_resnet.models.ghost import batch_norms
from lightning_resnet.task import ClassificationTask

say = rank_zero_only(partial(print, flush=True))


def describe(cli: ResNetCLI) -> dict[str, Any]:
    """Check that net and data fit, print what follows, and return what meta.json keeps.

    Raises:
        UserError: they do not fit.
    """
    trainer, task, data = cli.trainer, cli.model, cli.datamodule
    n = len(data.splits["train"])
    outputs, macs = measure(task.net, data.input_size)
    if outputs < data.num_classes:
        raise UserError(
            f"the data has {data.num_classes} classes (labels 0 to {data.num_classes - 1}), the net {outputs} outputs: "
            f"add --model.net.num_classes {data.num_classes}"
        )
    params = sum(p.numel() for p in task.net.parameters())
    options = cli.config.model.net.get("init_args", {})
    text = " ".join(f"{k}={options[k]}" for k in ("depth", "shortcut", "block", "norm", "init") if k in options)
    name = type(task.net).__name__
    say(f"{name} {text}: {params:,} parameters, {macs / 1e6:,.1f} M multiply-adds at {data.input_size}")
    _say_batches(trainer, task, data)
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


def _say_batches(trainer: pl.Trainer, task: ClassificationTask, data: ImageData) -> None:
    micro, n = data.micro_batch, len(data.splits["train"])
    say(
        f"{n:,} training images, {n // data.batch_size} steps per epoch; batch {data.batch_size} = "
        f"{trainer.world_size} ranks x {trainer.accumulate_grad_batches} accumulated x {micro}"
    )
    if task.mix and micro % 2:
        raise UserError(
            f"--model.mix pairs neighbours, and a rank's batch of {micro} images would part a pair: choose a "
            "--data.batch_size that gives each an even number"
        )
    if not batch_norms(task.net):
        return
    shared = trainer.world_size if getattr(trainer.strategy, "_layer_sync", None) else 1  # sync_batchnorm
    seen = task.bn_batch or micro * shared
    if micro % (task.bn_batch or 1):
        raise UserError(f"--model.bn_batch {task.bn_batch} does not divide the {micro} images of a rank's batch")
    careful = "; below 16 its statistics are noisy" if seen < 16 else ""
    say(f"{'careful: ' if careful else ''}batch norm sees {seen} images at a time{careful}")


def measure(net: nn.Module, input_size: tuple[int, int, int]) -> tuple[int, int]:
    """(number of outputs, multiply-adds of convolutions and linear layers) for one image.

    Raises:
        UserError: the net cannot take images of this size.
    """
    training = net.training
    parameter = next(net.parameters())
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            logits = net.eval()(torch.zeros(1, *input_size, dtype=parameter.dtype, device=parameter.device))
    except (RuntimeError, ValueError) as e:
        raise UserError(
            f"{type(net).__name__} cannot take images of {input_size} ({one_line(e)}): set --data.size"
        ) from e
    finally:
        net.train(training)
    return logits.shape[1], counter.get_total_flops() // 2
