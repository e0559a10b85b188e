"""Refuse callbacks, plugins, hooks and optimizers that a training does not support, with a cure.

Flags (`--trainer.*`) are refused in config/options.py. All this happens before the training starts
and before an attempt is recorded. Other features work as in Lightning;
tests/trials/test_lightning_options.py has the table of both.
"""

import re
from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins import ClusterEnvironment
from pytorch_lightning import callbacks
from pytorch_lightning.plugins import (
    BitsandbytesPrecision,
    DeepSpeedPrecision,
    FSDPPrecision,
    TorchSyncBatchNorm,
    TransformerEnginePrecision,
    XLACheckpointIO,
    XLAPrecision,
)
from torch import optim

from lightning_resnet.engine.step import overrides
from lightning_resnet.errors import UserError
from lightning_resnet.training.task import ClassificationTask

# Refused callbacks, including derived classes, and what to do instead.
CALLBACKS = {
    callbacks.StochasticWeightAveraging: (
        "its last epoch and its learning rate need Lightning's own loop: use --model.ema with "
        "--model.precise_bn, or the callback EMAWeightAveraging"
    ),
    callbacks.GradientAccumulationScheduler: (
        "--data.batch_size is the images of an optimizer step, however many batches they come in: "
        "use --trainer.accumulate_grad_batches N for all of the training"
    ),
    callbacks.BatchSizeFinder: (
        "--data.batch_size decides the result: give a number; --trainer.accumulate_grad_batches "
        "N parts it where the memory is short, and resnet-cli doctor tries it"
    ),
    callbacks.LearningRateFinder: (
        "learning rates are compared by complete trainings: use resnet-cli sweep over "
        "model.optimizer.lr"
    ),
    callbacks.ModelPruning: (
        "a run that continues would have lost its masks: prune the trained net, with "
        "torch.nn.utils.prune on lightning_resnet.load(RUN).task.net"
    ),
    callbacks.SpikeDetection: (
        "a run that continues would have lost its running mean: leave it out, a loss that is not "
        "finite ends a run anyway, and --trainer.gradient_clip_val bounds a step"
    ),
    callbacks.BasePredictionWriter: "it writes in Trainer.predict only: use resnet-cli predict",
}
NETS = "--trainer.precision has what a net of this size needs"
# Refused plugins, including derived classes, and what to do instead.
PLUGINS = {
    ClusterEnvironment: "ranks are placed by --launcher slurm, torchrun or local: use that",
    TorchSyncBatchNorm: "use --trainer.sync_batchnorm true, which is the same",
    BitsandbytesPrecision: NETS,
    DeepSpeedPrecision: NETS,
    FSDPPrecision: NETS,
    TransformerEnginePrecision: NETS,
    XLAPrecision: NETS,
    XLACheckpointIO: "it is for TPUs: leave it out",
}
# Hooks that Lightning's own loop calls in training and this package's loop does not: first those of
# data modules and tasks, then those of tasks alone.
DATA_HOOKS = ("transfer_batch_to_device", "on_before_batch_transfer", "on_after_batch_transfer")
TASK_HOOKS = (
    *DATA_HOOKS,
    "lr_scheduler_step",
    "train_dataloader",
    "val_dataloader",
    "configure_callbacks",
)
STOCK = (
    "train it with pytorch_lightning.Trainer itself, which takes the task and the data as they are"
)


def check_plugins(plugins: list[Any]) -> None:
    """Refuse plugins that this toolkit replaces or does not support.

    Args:
        plugins: plugins that the user gave for the trainer.

    Raises:
        UserError: one of the plugins is refused.
    """
    for plugin in plugins:
        for kind, cure in PLUGINS.items():
            if isinstance(plugin, kind):
                raise UserError(
                    f"--trainer.plugins {type(plugin).__name__} does not work here: {cure}"
                )


def refuse_plugins_named(text: str) -> None:
    """Refuse the same plugins by name, as many cannot be built without their libraries.

    Args:
        text: class paths, or the value that a parser's error message quotes.

    Raises:
        UserError: the text contains the name of a refused plugin.
    """
    for kind, cure in PLUGINS.items():
        for name in _names(kind):
            if re.search(rf"\b{name}\b", text):
                raise UserError(f"--trainer.plugins {name} does not work here: {cure}")


def _names(kind: type) -> Iterator[str]:
    """Yield the names of a class and of all classes derived from it."""
    yield kind.__name__
    for derived in kind.__subclasses__():
        yield from _names(derived)


def check_training(
    trainer: pl.Trainer,
    task: ClassificationTask,
    data: pl.LightningDataModule,
    ranks: int | None = None,
) -> None:
    """Refuse what the training loop of this package would ignore or do wrongly.

    Args:
        trainer: trainer with the callbacks and plugins of the user.
        task: task to train.
        data: data module to train on.
        ranks: world size of the training; None: that of the trainer.

    Raises:
        UserError: a callback, plugin, hook or optimizer does not work in this training.
    """
    for callback in trainer.callbacks:
        _check_callback(callback, ranks or trainer.world_size, task)
    saving = any(isinstance(callback, callbacks.Checkpoint) for callback in trainer.callbacks)
    io = trainer._accelerator_connector.checkpoint_io
    if io is not None and not saving:
        raise UserError(
            f"--trainer.plugins {type(io).__name__} would write nothing, as the run's own "
            "checkpoints are not written by it: leave it out, or add "
            "--trainer.callbacks+=ModelCheckpoint --trainer.enable_checkpointing true"
        )
    _check_hooks(task, data)
    _check_optimizer(task)


def _check_callback(callback: callbacks.Callback, ranks: int, task: ClassificationTask) -> None:
    """Refuse a callback that needs Lightning's own loop, another task, or a single rank.

    Raises:
        UserError: the callback does not work in this training.
    """
    name = type(callback).__name__
    for kind, cure in CALLBACKS.items():
        if isinstance(callback, kind):
            raise UserError(f"--trainer.callbacks {name} does not work here: {cure}")
    if isinstance(callback, callbacks.BackboneFinetuning) and not hasattr(task, "backbone"):
        raise UserError(
            f"--trainer.callbacks {name} freezes self.backbone, and this task has net: derive a "
            "callback of your own from BaseFinetuning that freezes layers of pl_module.net"
        )
    if isinstance(callback, callbacks.BaseFinetuning) and ranks > 1:
        raise UserError(
            f"--trainer.callbacks {name} does not work on several ranks: ddp would leave the "
            "gradients of layers that are unfrozen later to each rank alone: add "
            "--trainer.devices 1"
        )


def _check_hooks(task: ClassificationTask, data: pl.LightningDataModule) -> None:
    """Refuse hooks that this training would not call, and manual optimization.

    Raises:
        UserError: the task or the data module has such a hook, or the task optimizes manually.
    """
    for owner, base, hooks in (
        (task, pl.LightningModule, TASK_HOOKS),
        (data, pl.LightningDataModule, DATA_HOOKS),
    ):
        for hook in hooks:
            if overrides(owner, hook, base):
                raise UserError(
                    f"{type(owner).__name__}.{hook} would never be called in this training: {STOCK}"
                )
    if not task.automatic_optimization:
        raise UserError(
            f"{type(task).__name__} optimizes by hand, which this training does not know: {STOCK}"
        )


def _check_optimizer(task: ClassificationTask) -> None:
    """Refuse optimizers that do not fit the task, by building one.

    Raises:
        UserError: the optimizer does not fit, or `configure_optimizers` returns something else.
    """
    try:
        optimizer = task.configure_optimizers()
    except ValueError as e:
        if "per-parameter options" in str(e):
            raise UserError(
                f"{e}: add --model.decay all, which puts all parameters into one group"
            ) from e
        if "only supports 2D parameters" in str(e):
            raise UserError(
                f"{e}: a net with convolutions or biases needs another --model.optimizer, such as "
                "ConvMuon, which takes kernels as matrices"
            ) from e
        raise
    if isinstance(optimizer, optim.SparseAdam):
        raise UserError(
            "SparseAdam is for sparse gradients, which no net for images has: use "
            "--model.optimizer Adam"
        )
    if isinstance(optimizer, optim.LBFGS) and task.channels_last:
        raise UserError(
            "LBFGS takes a `view` of weights as they lie in memory: add --model.channels_last false"
        )
    if not isinstance(optimizer, optim.Optimizer):
        raise UserError(
            f"{type(task).__name__}.configure_optimizers must return one optimizer here; learning "
            f"rates over time are --model.schedule, or {STOCK}"
        )
