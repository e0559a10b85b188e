"""Each option, callback, plugin, strategy, hook and variable of Lightning works as in a stock
Trainer, or is refused.

A stock Trainer is the one that the recipe builds, with Lightning's own loops: same task, same data,
same callbacks.
"""

import inspect
import json
import os
import random
import re
import signal
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import NamedTuple
from unittest.mock import Mock

import lightning_fabric
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from helpers.command_line import TINY
from helpers.run_dir import only_run
from helpers.spies import spy
from jsonargparse import Namespace
from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning import callbacks, plugins, strategies
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.core.hooks import DataHooks, ModelHooks
from pytorch_lightning.plugins import LayerSync, Precision, TorchCheckpointIO, environments
from pytorch_lightning.strategies import DDPStrategy, StrategyRegistry
from torch import nn

from lightning_resnet.cli import fit
from lightning_resnet.cli.main import main
from lightning_resnet.config import recipe
from lightning_resnet.config.options import check
from lightning_resnet.config.recipe import build, parse
from lightning_resnet.data.module import ImageData
from lightning_resnet.data.sources.digits import Digits
from lightning_resnet.engine import watchdog as crash
from lightning_resnet.engine.checkpoints import Checkpoints
from lightning_resnet.engine.launch import MEETING
from lightning_resnet.engine.loop import FitLoop
from lightning_resnet.engine.refused import check_training
from lightning_resnet.engine.signals import request
from lightning_resnet.errors import UserError
from lightning_resnet.flags import STRATEGIES
from lightning_resnet.models import CifarResNet
from lightning_resnet.runs.checkpoint import load_checkpoint
from lightning_resnet.runs.directory import RunDir
from lightning_resnet.runs.identity import run_id
from lightning_resnet.training.ema import Averaging
from lightning_resnet.training.mixup import Mix
from lightning_resnet.training.task import ClassificationTask

pytestmark = pytest.mark.slow

SHORT = [
    *TINY,
    "--trainer.limit_train_batches",
    "4",
    "--trainer.limit_val_batches",
    "1",
    "--trainer.max_epochs",
    "2",
]
ADD, ARG = f"--trainer.callbacks+={__name__}.", "--trainer.callbacks."
OWN = f"--trainer.plugins {__name__}."


class As(NamedTuple):
    """Flags with which a training is as in a stock Trainer, to the bit."""

    flags: str


class Refused(NamedTuple):
    """These flags end in one line that has these words in it, before anything is written."""

    flags: str
    line: str


class By(NamedTuple):
    """Another test is about it, here or in another file of tests/."""

    test: str


OBSERVERS = "trials/test_lightning_observers.py::"
PRECISION = "--trainer.precision has what a net of this size needs"
FILES = (
    f"--trainer.enable_checkpointing true --trainer.callbacks+=ModelCheckpoint {ARG}dirpath here"
)
ALL_AT_ONCE = As(
    "--trainer.accelerator cpu --trainer.log_every_n_steps 3 --trainer.enable_progress_bar true "
    "--trainer.enable_model_summary true --trainer.deterministic true --trainer.benchmark false "
    "--trainer.use_distributed_sampler false --trainer.detect_anomaly true "
    "--trainer.default_root_dir elsewhere "
    "--trainer.enable_autolog_hparams false"
)
TRAINER = {
    "accelerator": ALL_AT_ONCE,
    "strategy": By("test_names_of_strategies"),
    "devices": By("test_ranks.py::test_two_ranks_train_as_one"),
    "num_nodes": By("test_ranks.py::test_places"),
    "precision": As("--trainer.precision 64-true"),
    "logger": By(OBSERVERS + "test_every_metric_reaches_every_logger_at_its_optimizer_step"),
    "callbacks": As(f"--trainer.callbacks {__name__}.Shrink"),
    "fast_dev_run": As("--trainer.fast_dev_run 2"),
    "max_epochs": As("--trainer.max_epochs 3"),
    "min_epochs": As(f"{ADD}StopAt {ARG}at 2 --trainer.min_epochs 2 --trainer.max_epochs 3"),
    "max_steps": As(
        "--trainer.max_steps 8 --trainer.max_epochs -1"
    ),  # in mid-epoch there is one evaluation more
    "min_steps": As(f"{ADD}StopAt {ARG}at 2 --trainer.min_steps 3"),
    "max_time": Refused("--trainer.max_time 00:00:10:00", "it would cut the schedule"),
    "limit_train_batches": As("--trainer.limit_train_batches 0.2"),
    "limit_val_batches": As("--trainer.limit_val_batches 0"),
    "limit_test_batches": By("test_options_of_the_other_verbs"),
    "limit_predict_batches": By("test_options_of_the_other_verbs"),
    "overfit_batches": As("--trainer.overfit_batches 2"),
    "val_check_interval": Refused(
        "--trainer.val_check_interval 0.5", "use --trainer.check_val_every_n_epoch"
    ),
    "check_val_every_n_epoch": As(
        "--trainer.check_val_every_n_epoch 2"
    ),  # as there is after the last epoch
    "num_sanity_val_steps": Refused("--trainer.num_sanity_val_steps 2", "validation is by epoch"),
    "log_every_n_steps": ALL_AT_ONCE,
    "enable_checkpointing": As(FILES),
    "enable_progress_bar": ALL_AT_ONCE,
    "enable_model_summary": ALL_AT_ONCE,
    "accumulate_grad_batches": As("--trainer.accumulate_grad_batches 2"),
    "gradient_clip_val": As("--trainer.gradient_clip_val 0.1"),
    "gradient_clip_algorithm": As(
        "--trainer.gradient_clip_val 0.01 --trainer.gradient_clip_algorithm value"
    ),
    "deterministic": ALL_AT_ONCE,
    "benchmark": ALL_AT_ONCE,
    "inference_mode": By("test_options_of_the_other_verbs"),
    "use_distributed_sampler": ALL_AT_ONCE,
    "profiler": By(OBSERVERS + "test_profilers_see_the_training"),
    "detect_anomaly": ALL_AT_ONCE,
    "barebones": Refused("--trainer.barebones true", "resnet-cli bench step"),
    "plugins": As(f"{OWN}Doubled"),
    "sync_batchnorm": By("test_what_ranks_refuse"),
    "reload_dataloaders_every_n_epochs": Refused(
        "--trainer.reload_dataloaders_every_n_epochs 1", "the loaders know the epoch"
    ),
    "default_root_dir": ALL_AT_ONCE,
    "enable_autolog_hparams": ALL_AT_ONCE,
    "model_registry": Refused("--trainer.model_registry mine", "resnet-cli convert"),
}
LIGHTNINGS = "--trainer.callbacks+="
CALLBACKS = {
    "BackboneFinetuning": Refused(
        f"{LIGHTNINGS}BackboneFinetuning", "freezes self.backbone, and this task has net"
    ),
    "BaseFinetuning": As(f"{ADD}Thaw --trainer.max_epochs 3"),
    "BasePredictionWriter": Refused(f"{ADD}Writer", "use resnet-cli predict"),
    "BatchSizeFinder": Refused(
        f"{LIGHTNINGS}BatchSizeFinder", "--data.batch_size decides the result: give a number"
    ),
    "Callback": By("test_every_hook_of_a_callback"),
    "Checkpoint": As(FILES),
    "DeviceStatsMonitor": By(OBSERVERS + "test_monitors_write_the_rows_of_a_stock_trainer"),
    "EarlyStopping": As(
        f"{LIGHTNINGS}EarlyStopping {ARG}monitor val/loss {ARG}patience 1 {ARG}min_delta 9 "
        "--trainer.max_epochs 4"
    ),
    "GradientAccumulationScheduler": Refused(
        f'{LIGHTNINGS}GradientAccumulationScheduler {ARG}scheduling {{"0":1,"1":2}}',
        "use --trainer.accumulate_grad_batches N",
    ),
    "LambdaCallback": By("test_every_hook_of_a_callback"),
    "LearningRateFinder": Refused(
        f"{LIGHTNINGS}LearningRateFinder", "use resnet-cli sweep over model.optimizer.lr"
    ),
    "LearningRateMonitor": By(OBSERVERS + "test_monitors_write_the_rows_of_a_stock_trainer"),
    "ModelCheckpoint": As(FILES),
    "ModelPruning": Refused(
        f"{LIGHTNINGS}ModelPruning {ARG}pruning_fn l1_unstructured", "prune the trained net"
    ),
    "ModelSummary": By(OBSERVERS + "test_what_callbacks_say_is_shown"),
    "OnExceptionCheckpoint": By("test_checkpoint_of_an_exception"),
    "ProgressBar": ALL_AT_ONCE,
    "RichModelSummary": By(OBSERVERS + "test_a_package_that_is_missing"),
    "RichProgressBar": By(OBSERVERS + "test_a_package_that_is_missing"),
    "StochasticWeightAveraging": Refused(
        f"{LIGHTNINGS}StochasticWeightAveraging {ARG}swa_lrs 0.01",
        "use --model.ema with --model.precise_bn",
    ),
    "SpikeDetection": Refused(
        f"{LIGHTNINGS}SpikeDetection", "--trainer.gradient_clip_val bounds a step"
    ),
    "ThroughputMonitor": By(OBSERVERS + "test_monitors_write_the_rows_of_a_stock_trainer"),
    "Timer": As(f"{ADD}StepTimer {ARG}duration 00:00:00:06"),
    "TQDMProgressBar": ALL_AT_ONCE,
    "EMAWeightAveraging": As(f"{LIGHTNINGS}EMAWeightAveraging {ARG}decay 0.9"),
    "WeightAveraging": As(f"{LIGHTNINGS}WeightAveraging"),
}
PLUGINS = {
    "AsyncCheckpointIO": By("test_a_plugin_writes_what_callbacks_save"),
    "CheckpointIO": By("test_a_plugin_writes_what_callbacks_save"),
    "TorchCheckpointIO": Refused("--trainer.plugins TorchCheckpointIO", "would write nothing"),
    "XLACheckpointIO": Refused("--trainer.plugins XLACheckpointIO", "it is for TPUs: leave it out"),
    "BitsandbytesPrecision": Refused("--trainer.plugins BitsandbytesPrecision", PRECISION),
    "DeepSpeedPrecision": Refused("--trainer.plugins DeepSpeedPrecision", PRECISION),
    "DoublePrecision": As("--trainer.plugins DoublePrecision"),
    "HalfPrecision": As("--trainer.plugins HalfPrecision --trainer.plugins.precision bf16-true"),
    "MixedPrecision": As(
        "--trainer.plugins MixedPrecision --trainer.plugins.precision bf16-mixed "
        "--trainer.plugins.device cpu"
    ),
    "Precision": As(f"{OWN}Doubled"),
    "TransformerEnginePrecision": Refused(
        "--trainer.plugins TransformerEnginePrecision", PRECISION
    ),
    "FSDPPrecision": Refused("--trainer.plugins FSDPPrecision", PRECISION),
    "XLAPrecision": Refused("--trainer.plugins XLAPrecision", PRECISION),
    "LayerSync": As(f"{OWN}OnlyRanks"),
    "TorchSyncBatchNorm": Refused(
        "--trainer.plugins TorchSyncBatchNorm", "use --trainer.sync_batchnorm true"
    ),
} | {
    name: Refused(
        f"--trainer.plugins lightning_fabric.plugins.environments.{name}",
        "placed by --launcher slurm",
    )
    for name in vars(environments)
    if name.endswith("Environment") and name != "XLAEnvironment"
}
PLUGINS["XLAEnvironment"] = Refused(
    "--trainer.plugins pytorch_lightning.plugins.environments.XLAEnvironment", ""
)
OPTIMIZERS = {
    "closure": As(f"--model.optimizer {__name__}.Twice --model.optimizer.lr 0.05"),
    "closure and accumulation": As(
        f"--model.optimizer {__name__}.Twice --model.optimizer.lr 0.05 "
        "--trainer.accumulate_grad_batches 2"
    ),
    "LBFGS": As(
        "--model.optimizer LBFGS --model.decay all --model.channels_last false "
        "--model.optimizer.lr 0.1 "
        "--trainer.limit_train_batches 1"
    ),
    "LBFGS with groups": Refused("--model.optimizer LBFGS", "add --model.decay all"),
    "LBFGS with channels last": Refused(
        "--model.optimizer LBFGS --model.decay all", "--model.channels_last false"
    ),
    "Muon": Refused("--model.optimizer torch.optim.Muon", "needs another --model.optimizer"),
    "SparseAdam": Refused("--model.optimizer SparseAdam", "use --model.optimizer Adam"),
    "clipped": As(
        f"--model.optimizer {__name__}.Twice --model.optimizer.lr 0.05 "
        "--trainer.gradient_clip_val 0.1"
    ),
}
CLEARING = (  # hooks that a wish to stop, of a step before them, may be taken back in
    *(
        "on_train_batch_start",
        "on_validation_start",
        "on_validation_batch_end",
        "on_validation_end",
    ),
    *("on_train_epoch_end", "on_train_epoch_start"),
)
MORE = {
    "no seed": Refused(
        "--seed_everything false",
        "--seed_everything must be a whole number from 0 to 4,294,967,295; got false",
    ),
    "any seed": Refused("--seed_everything true", "must be a whole number from 0"),
    "a part of a step": Refused(
        "--trainer.limit_train_batches 5 --trainer.accumulate_grad_batches 2",
        "give 4, or another multiple of 2",
    ),
    "a part of an overfitted step": Refused(
        "--trainer.overfit_batches 3 --trainer.accumulate_grad_batches 2",
        "--trainer.overfit_batches leaves 3 batches",
    ),
    "a view": Refused(
        f"--model.net {__name__}.View",
        "use flatten(1) or reshape there, or add --model.channels_last",
    ),
    "a view in another layout": As(f"--model.net {__name__}.View --model.channels_last false"),
    "a callback by itself": As(f'--trainer.callbacks {{"class_path":"{__name__}.Shrink"}}'),
    "precision by two": Refused(
        "--trainer.plugins DoublePrecision --trainer.precision bf16-mixed", "Choose one"
    ),
    "stop and accumulate": As(f"{ADD}StopAt {ARG}at 1 --trainer.accumulate_grad_batches 2"),
    **{f"stop until {hook}": As(f"{ADD}Wavers {ARG}at 2 {ARG}until {hook}") for hook in CLEARING},
    "stop for a while in the last epoch": As(f"{ADD}Wavers {ARG}at 6 {ARG}until on_validation_end"),
    "stop before an epoch": As(f"{ADD}Wavers {ARG}at -1 {ARG}until on_train_epoch_end"),
    "stop for a while and accumulate": As(
        f"{ADD}Wavers {ARG}at 1 {ARG}until on_validation_end --trainer.accumulate_grad_batches 2"
    ),
    "stop and rare evaluations": As(
        f"{ADD}StopAt {ARG}at 2 --trainer.check_val_every_n_epoch 2 --trainer.min_epochs 2 "
        "--trainer.max_epochs 6"
    ),
}
# Variables that Lightning reads. As in LightningCLI, which gives each option of the Trainer a
# value, PL_TRAINER_* have
# no effect.
OURS = "the launcher places ranks by it: test_ranks.py"
NONE = "no effect on a training here: test_variables_without_effect"
SET = "Lightning sets it, or reads it for what is no part of a training here"
VARIABLES = {
    "RANK": OURS,
    "LOCAL_RANK": OURS,
    "NODE_RANK": OURS,
    "GROUP_RANK": OURS,
    "WORLD_SIZE": OURS,
    "MASTER_ADDR": OURS,
    "MASTER_PORT": OURS,
    "SLURM_*": OURS,
    "STANDALONE_PORT": NONE,
    "PL_TRAINER_MAX_EPOCHS": NONE,
    "PL_TRAINER_PRECISION": NONE,
    "PL_FIT__TRAINER__MAX_EPOCHS": NONE,
    "PL_GLOBAL_SEED": NONE,
    "PL_SEED_WORKERS": NONE,
    "PL_DEEPSPEED_CONFIG_PATH": NONE,
    "LT_ACCELERATOR": NONE,
    "LT_CLI_USED": NONE,
    "LT_DEVICES": NONE,
    "LT_NUM_NODES": NONE,
    "LT_PRECISION": NONE,
    "LT_STRATEGY": NONE,
    "JSM_NAMESPACE_SIZE": "refused where it tells of several copies, as other launchers' are: "
    "test_ranks.py",
    "JSM_*": NONE,
    "LSB_*": NONE,
    "CUDA_VISIBLE_DEVICES": "torch's own",
    "OMP_NUM_THREADS": "torch's own, but where --run.threads gives a number",
    "DISABLE_MPS": "which accelerator `auto` is",
    "COLAB_GPU": "Lightning's progress bar",
    "TQDM_MINITERS": "Lightning's progress bar",
    "POSSIBLE_USER_WARNINGS": "Lightning's warnings",
    "COMET_*": "Lightning's loggers",
    "MLFLOW_TRACKING_URI": "Lightning's loggers",
    "WANDB_*": "Lightning's loggers, and our mirror",
    "BITSANDBYTES_NOWELCOME": SET,
    "CUBLAS_WORKSPACE_CONFIG": SET,
    "CUDA_DEVICE_ORDER": SET,
    "FREEZE_REQUIREMENTS": SET,
    "PL_RUN_STANDALONE_TESTS": SET,
    "PL_USE_MOCKED_MNIST": SET,
    "PT_XLA_DEBUG": SET,
    "PYTORCH_NVML_BASED_CUDA_CHECK": SET,
    "USE_LIBUV": SET,
    "XLA_USE_BF16": SET,
    "XLA_USE_F16": SET,
}
WITHOUT_EFFECT = {
    "STANDALONE_PORT": "12345",
    "PL_TRAINER_MAX_EPOCHS": "1",
    "PL_TRAINER_PRECISION": "64-true",
    "PL_FIT__TRAINER__MAX_EPOCHS": "1",
    "PL_GLOBAL_SEED": "abc",
    "PL_SEED_WORKERS": "1",
    "PL_DEEPSPEED_CONFIG_PATH": "none",
    "LT_ACCELERATOR": "gpu",
    "LT_CLI_USED": "1",
    "LT_DEVICES": "2",
    "LT_NUM_NODES": "2",
    "LT_PRECISION": "64-true",
    "LT_STRATEGY": "fsdp",
    "JSM_NAMESPACE_RANK": "1",
    "JSM_NAMESPACE_LOCAL_RANK": "1",
    "LSB_JOBID": "7",
    "LSB_DJOB_RANKFILE": "none",
}
TABLES = {
    "trainer": TRAINER,
    "callbacks": CALLBACKS,
    "plugins": PLUGINS,
    "optimizers": OPTIMIZERS,
    "more": MORE,
}
HOOKS = [  # of callbacks, in trainings
    name
    for name in vars(Callback)
    if name.startswith("on_") and not re.search("sanity|predict|test|checkpoint|exception", name)
]


def rows_of(kind):
    """The tables' entries of a kind, as parameters."""
    found = {
        f"{table}-{key}": entry
        for table, entries in TABLES.items()
        for key, entry in entries.items()
    }
    once = {entry: key for key, entry in reversed(found.items()) if isinstance(entry, kind)}
    return [pytest.param(entry, id=key) for entry, key in reversed(once.items())]


# -- what the flags name ---------------------------------------------------------------------------


class Record(Callback):
    """What each hook saw."""

    seen = []


def recorder(hook):
    def record(self, trainer, task, *args):
        seen = [float(a["loss"]) for a in args if isinstance(a, dict) and "loss" in a]
        seen += [a for a in args if isinstance(a, int)]
        self.seen.append((hook, trainer.global_step, trainer.current_epoch, *seen))

    return record


for _hook in HOOKS:
    setattr(Record, _hook, recorder(_hook))


class Lambdas(callbacks.LambdaCallback):
    """The same, as functions that are set on the object."""

    def __init__(self):
        super().__init__(**{hook: self._counter(hook) for hook in HOOKS})

    def _counter(self, hook):
        return lambda trainer, *args: Record.seen.append(
            (hook, trainer.global_step, trainer.current_epoch)
        )


class Shrink(Callback):
    """Changes the weights, so that it is seen whether it was called."""

    @torch.no_grad()
    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx):
        for p in task.net.parameters():
            p.mul_(0.9)


class StopAt(Callback):
    def __init__(self, at: int):
        self.at = at

    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx):
        if trainer.global_step >= self.at:
            trainer.should_stop = True


class Wavers(Callback):
    """Wants to stop after a step (-1: before the second epoch), and no longer does in a later hook.

    It logs, so that an epoch which goes on is seen not to start its means over.
    """

    def __init__(self, at: int, until: str):
        self.at = at
        setattr(self, until, self.go_on)

    def go_on(self, trainer, *args):
        trainer.should_stop = False

    def on_train_epoch_start(self, trainer, *args):
        if self.at == -1 and trainer.current_epoch == 1:
            trainer.should_stop = True

    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx):
        task.log("loss", outputs["loss"], on_step=False, on_epoch=True)
        if trainer.global_step == self.at and not trainer.fit_loop._should_accumulate():
            trainer.should_stop = True


class SetsRate(Callback):
    """Which the schedule sets again."""

    def on_train_epoch_start(self, trainer, task):
        trainer.optimizers[0].param_groups[0]["lr"] = 0.5


class SetsBase(Callback):
    def on_train_epoch_start(self, trainer, task):
        for group in trainer.optimizers[0].param_groups:
            group["initial_lr"] = 0.5


class Calls(Callback):
    """Asks the trainer for something while it works."""

    def __init__(self, method: str, hook: str):
        self.method = method
        setattr(self, hook, self.call)

    def call(self, trainer, task):
        getattr(trainer, self.method)(task, datamodule=trainer.datamodule)


class Accumulating(Callback):
    """Changes in an epoch's first hook, from what it finds, all that a checkpoint holds."""

    epochs = 0

    def state_dict(self):
        return {"epochs": self.epochs}

    def load_state_dict(self, state):
        self.epochs = state["epochs"]

    @torch.no_grad()
    def on_train_epoch_start(self, trainer, task):
        self.epochs += 1
        (optimizer,) = trainer.optimizers
        for group in optimizer.param_groups:
            group["initial_lr"] *= 0.5
            group["momentum"] *= 0.9
        for state in optimizer.state.values():
            state["momentum_buffer"].mul_(0.5)
        for p in task.net.parameters():
            p.mul_(0.9)
        task.net.conv1.requires_grad_(not task.net.conv1.weight.requires_grad)

    @torch.no_grad()
    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx):
        for p in task.net.parameters():
            p.mul_(1 - 0.01 * self.epochs)


class StepTimer(callbacks.Timer):
    """Timer for which a step takes a second."""

    seconds = 0

    def time_elapsed(self, stage="train"):
        return self.seconds

    def on_train_batch_end(self, *args):
        self.seconds += 1
        super().on_train_batch_end(*args)


class Thaw(callbacks.BaseFinetuning):
    """The first layers are frozen in the first epoch."""

    def freeze_before_training(self, task):
        self.freeze([task.net.conv1, task.net.layer1], train_bn=False)

    def finetune_function(self, task, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group([task.net.conv1, task.net.layer1], optimizer)


class Freezes(Callback):
    """A layer is frozen in each second epoch, after the optimizer was made with it."""

    def on_train_epoch_start(self, trainer, task):
        task.net.conv1.requires_grad_(trainer.current_epoch % 2 == 0)


class Draws(Callback):
    """Draws from every generator, for an epoch and for each step."""

    def on_train_epoch_start(self, trainer, task):
        self.most = torch.rand(1).item()

    @torch.no_grad()
    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx):
        share = self.most * (torch.rand(1).item() + np.random.rand() + random.random())
        for p in task.net.parameters():
            p.mul_(1 - 0.01 * share)


class Replaces(Callback):
    def on_train_epoch_start(self, trainer, task):
        trainer.strategy.optimizers = [torch.optim.Adam(task.net.parameters())]


class AddsGroup(Callback):
    """Adds a parameter group as BaseFinetuning does, but keeps nothing of it."""

    def on_train_epoch_start(self, trainer, task):
        if trainer.current_epoch == 1:
            trainer.optimizers[0].add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))]})


class Writer(callbacks.BasePredictionWriter):
    pass


class Accumulates(Callback):
    def on_train_epoch_start(self, trainer, task):
        trainer.accumulate_grad_batches = 2


class Fails(Callback):
    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx):
        if trainer.global_step == 3:
            raise LookupError("what the user's callback found")


class Doubled(Precision):
    """Gradients of twice the loss."""

    def pre_backward(self, tensor, module):
        return super().pre_backward(2 * tensor, module)


class OnlyRanks(LayerSync):
    def apply(self, model):
        return model

    def revert(self, model):
        return model


class Own(TorchCheckpointIO):
    """A form of its own, which no other code can read."""

    saved = []

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        self.saved.append(Path(path).name)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text("mine")

    def load_checkpoint(self, path, *args, **kwargs):
        raise AssertionError(f"{path} is none of mine")


class Twice(torch.optim.SGD):
    """Steps by the gradient at another place, as SAM does."""

    def step(self, closure=None):
        with torch.enable_grad():
            closure()
        moves = [(p, 0.05 * p.grad) for group in self.param_groups for p in group["params"]]
        with torch.no_grad():
            for p, move in moves:
                p.add_(move)
        with torch.enable_grad():
            loss = closure()
        with torch.no_grad():
            for p, move in moves:
                p.sub_(move)
        super().step()
        return loss


class Between(torch.optim.SGD):
    """Trains at other weights than those that it results in, as schedule-free optimizers do."""

    calls = []

    def train(self):
        self.calls.append("train")

    def eval(self):
        self.calls.append("eval")

    def step(self, closure=None):
        if self.calls[-1] != "train":
            raise RuntimeError("Optimizer was not in train mode when step is called.")
        return super().step(closure)


class View(nn.Module):
    def __init__(self, num_classes: int = 10):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.fc = nn.Linear(4 * 64, num_classes)

    def forward(self, x):
        x = self.conv(x)
        return self.fc(x.view(len(x), -1))


# -- the two trainings -----------------------------------------------------------------------------


def built(*flags):
    """The experiment that a command line describes."""
    return build(parse("fit", [*map(str, flags)]))


def ours(flags, monkeypatch):
    """Train by `resnet-cli fit`."""
    with monkeypatch.context() as patch:
        made = spy(patch, fit, "build")
        assert main(["fit", *map(str, flags)]) == 0
    return made[0].result


def stock(flags):
    """Train the same by Lightning's own loops."""
    experiment = built(*flags)
    experiment.trainer.fit(experiment.task, datamodule=experiment.data)
    return experiment


def recorded(train, *args):
    """What a training ended with, and what its hooks saw."""
    Record.seen.clear()
    cli = train(*args)
    return cli, [*Record.seen]


def assert_same(a, b):
    a, b = a.task.state_dict(), b.task.state_dict()
    assert a.keys() == b.keys()
    assert [k for k in a if not torch.equal(a[k], b[k])] == []


# -- the tests -------------------------------------------------------------------------------------


def test_the_tables_lack_nothing():
    assert TRAINER.keys() == inspect.signature(pl.Trainer.__init__).parameters.keys() - {"self"}
    assert CALLBACKS.keys() == set(callbacks.__all__)
    places = {name for name in vars(environments) if name.endswith("Environment")}
    assert PLUGINS.keys() == {*plugins.__all__} | places


def test_tests_that_the_tables_name_exist():
    for entry in (e for entries in TABLES.values() for e in entries.values() if isinstance(e, By)):
        file, _, test = entry.test.rpartition("::")
        path = Path(__file__).parents[1] / file if file else Path(__file__)
        assert f"def {test}" in path.read_text(), entry


def test_variables_that_lightning_reads_are_in_the_table():
    read = (
        r'(?:environ(?:\.\w+)?\s*[\[(]|getenv\()\s*f?"([A-Z][A-Z0-9_]+)|"([A-Z][A-Z0-9_]+)" '
        r"(?:not )?in os\.environ"
    )
    for package in (pl, lightning_fabric):
        for path in Path(package.__file__).parent.rglob("*.py"):
            code = [line for line in path.read_text().splitlines() if ">>>" not in line]
            for found in re.findall(read, "\n".join(code)):
                name = "".join(found)
                known = name in VARIABLES or f"{name.split('_')[0]}_*" in VARIABLES
                assert known or name == "LT_", (
                    f"{path} reads {name}"
                )  # the beginning of names in the table


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("entry", rows_of(As))
def test_as_in_a_stock_trainer(cli, monkeypatch, entry):
    words = entry.flags.split(" ")
    flags = [*SHORT, *([] if "--trainer.callbacks" in words else [f"{ADD}Record"]), *words]
    here, seen = recorded(ours, flags, monkeypatch)
    there, expected = recorded(stock, flags)
    assert here.trainer.global_step == there.trainer.global_step > 0
    assert here.trainer.current_epoch == there.trainer.current_epoch
    assert seen == expected
    assert here.trainer.callback_metrics.get("loss") == there.trainer.callback_metrics.get("loss")
    assert_same(here, there)


@pytest.mark.parametrize("entry", rows_of(Refused))
def test_refused_before_anything_is_written(cli, tmp_path, entry):
    code, _, err = cli("fit", *SHORT, *entry.flags.split(" "))
    errors = [each for each in err.splitlines() if not each.startswith("note: ")]
    assert code == 2 and len(errors) == 1 and errors[0].startswith("error: "), err
    assert entry.line in errors[0]
    assert not [*tmp_path.iterdir()]


def test_names_of_strategies():
    """Those of ddp are taken; others, and classes, would need Lightning's own ways to start ranks
    or to share a net.
    """
    config = parse("fit", SHORT).values
    assert {*STRATEGIES} - {"auto"} <= {*StrategyRegistry.available_strategies()}
    for name in STRATEGIES:
        config.trainer.strategy = name
        check(config)
    others = {*StrategyRegistry.available_strategies()} - {*STRATEGIES}
    for strategy in [*others, *(Namespace(class_path=name) for name in strategies.__all__)]:
        config.trainer.strategy = strategy
        with pytest.raises(
            UserError, match="leave it out; several ranks exchange gradients by ddp"
        ):
            check(config)


def test_optimizers_of_torch_train_or_are_refused():
    """All but those in the table go the usual way."""
    named = {
        name for name in torch.optim.__all__ if isinstance(getattr(torch.optim, name), type)
    } - {"Optimizer"}
    for name in named - {key.partition(" ")[0] for key in OPTIMIZERS}:
        cli = built(
            *SHORT, "--model.optimizer", f"torch.optim.{name}"
        )  # timm has some of these names
        check_training(cli.trainer, cli.task, cli.data)


def test_parameters_without_a_part_in_the_loss_are_told():
    """Lightning's words for it name the strategy; ours say so in a line."""
    assert "ddp_find_unused_parameters_true" in inspect.getsource(DDPStrategy.on_exception)
    error = RuntimeError(
        "... by setting the string value `strategy='ddp_find_unused_parameters_true'` ..."
    )
    told = fit._told(error, None, None, None)
    assert isinstance(
        told, UserError
    ) and "--trainer.strategy ddp_find_unused_parameters_true" in str(told)


def test_what_ranks_refuse(tmp_path, monkeypatch):
    """Ranks refuse batch norm over ranks on the CPU, and layers that DDP would not know of."""
    place = {
        "LOCAL_RANK": 0,
        "LOCAL_WORLD_SIZE": 2,
        "WORLD_SIZE": 2,
        "NODE_RANK": 0,
        MEETING: tmp_path,
    }
    for name, value in place.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    with pytest.raises(UserError, match="--trainer.sync_batchnorm needs GPUs: leave it out"):
        built(*SHORT, "--trainer.sync_batchnorm", "true")
    ranks = built(*SHORT, f"{ADD}Thaw")
    with pytest.raises(UserError, match="does not work on several ranks.* add --trainer.devices 1"):
        check_training(ranks.trainer, ranks.task, ranks.data)


def test_ranks_refuse_in_one_line(cli, tmp_path, monkeypatch):
    """What all of them would say, one says."""
    monkeypatch.setenv(MEETING, str(tmp_path))
    assert cli("fitt") == (
        2,
        "",
        "error: unknown verb fitt; did you mean fit?\n",
    )
    assert cli("fitt") == (2, "", "")
    assert "unknown verb testt" in cli("testt")[2]


def test_variables_without_effect(cli, monkeypatch):
    assert cli("fit", *SHORT)[0] == 0
    before = load_checkpoint(only_run() / "checkpoints/last.ckpt")
    for name, value in WITHOUT_EFFECT.items():
        monkeypatch.setenv(name, value)
    assert cli("fit", *SHORT, "--run.root", "again")[0] == 0
    after = load_checkpoint(only_run(Path("again")) / "checkpoints/last.ckpt")
    assert only_run().name == only_run(Path("again")).name
    for name, tensor in before["state_dict"].items():
        assert torch.equal(tensor, after["state_dict"][name])


def test_every_hook_of_a_callback(cli, monkeypatch):
    """Also of one whose hooks are set on the object."""
    flags = [*SHORT, f"{ADD}Lambdas"]
    _, seen = recorded(ours, flags, monkeypatch)
    _, expected = recorded(stock, flags)
    assert seen == expected
    assert {hook for hook, *_ in seen} == {*HOOKS}


def test_every_hook_of_a_task(cli, monkeypatch):
    """A class of the user's that overrides it: called as often as by Lightning, or refused."""
    known = [*vars(ModelHooks), *vars(DataHooks)]
    known += [
        "optimizer_step",
        "optimizer_zero_grad",
        "backward",
        "configure_gradient_clipping",
        "lr_scheduler_step",
    ]
    known += [
        "training_step",
        "validation_step",
        "configure_callbacks",
        "configure_optimizers",
        "forward",
    ]
    hooks = [
        name
        for name in known
        if not name.startswith("_") and not re.search("test|predict|sharded", name)
    ]
    cli_ = built(*SHORT)
    honoured, calls = {}, Counter()
    for name in hooks:
        counting = {name: counter(name, calls)}
        cli_.task.__class__ = type("Counted", (ClassificationTask,), counting)
        try:
            check_training(cli_.trainer, cli_.task, cli_.data)
            honoured |= counting
        except UserError as e:
            assert f"Counted.{name} would never be called in this training" in str(e)
    assert {
        "optimizer_step",
        "optimizer_zero_grad",
        "backward",
        "on_train_batch_end",
    } <= honoured.keys()
    calls.clear()
    monkeypatch.setattr(
        recipe,
        "ClassificationTask",
        type("Counted", (ClassificationTask,), honoured),
    )
    flags = [*SHORT, "--trainer.gradient_clip_val", "1", "--trainer.accumulate_grad_batches", "2"]
    here = ours(flags, monkeypatch)
    seen = Counter(calls)
    calls.clear()
    there = stock(flags)
    assert seen.pop("configure_optimizers") > calls.pop(
        "configure_optimizers"
    )  # also to tell of it before
    assert seen == calls
    assert_same(here, there)


def counter(name, calls):
    original = getattr(ClassificationTask, name)

    def count(self, *args, **kwargs):
        calls[name] += 1
        return original(self, *args, **kwargs)

    return count


class NoTensor(ClassificationTask):
    """Its loss is in a dictionary; each second step has none."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return {"loss": loss} if batch_idx % 2 else None


@pytest.mark.filterwarnings("ignore:.*`training_step` returned `None`")
def test_losses_that_are_no_tensor(cli, monkeypatch):
    monkeypatch.setattr(recipe, "ClassificationTask", NoTensor)
    assert_same(ours(SHORT, monkeypatch), stock(SHORT))


class ByHand(ClassificationTask):
    automatic_optimization = False


class Two(ClassificationTask):
    def configure_optimizers(self):
        return [super().configure_optimizers(), super().configure_optimizers()]


class Skips(ClassificationTask):
    def on_train_batch_start(self, batch, batch_idx):
        super().on_train_batch_start(batch, batch_idx)
        return -1 if batch_idx == 1 else None


class Scheduled(ClassificationTask):
    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        return [optimizer], [torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=8)]


class Moves(ImageData):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch


@pytest.mark.parametrize(
    ("owner", "words"),
    [
        (ByHand, "ByHand optimizes by hand"),
        (Two, "Two.configure_optimizers must return one optimizer here"),
        (Scheduled, "Scheduled.configure_optimizers must return one optimizer here"),
        (Skips, "Skips.on_train_batch_start returned -1"),
        (Moves, "Moves.on_after_batch_transfer would never be called in this training"),
    ],
)
def test_tasks_and_data_of_other_kinds_are_refused(cli, monkeypatch, owner, words):
    kind = "ImageData" if issubclass(owner, ImageData) else "ClassificationTask"
    monkeypatch.setattr(f"lightning_resnet.config.recipe.{kind}", owner)
    code, _, err = cli("fit", *SHORT)
    assert code == 2 and err.count("\n") == 1 and words in err
    assert owner is Skips or not Path("runs").exists()


def test_a_scheduler_next_to_ours_is_refused_in_a_stock_trainer():
    cli = built(*SHORT)
    cli.task.__class__ = Scheduled
    with pytest.raises(UserError, match="a subclass of lightning_resnet.Schedule"):
        cli.trainer.fit(cli.task, datamodule=cli.data)


def test_images_that_are_scaled_already_are_refused():
    task = ClassificationTask(CifarResNet(8, width=4))
    task.eval()(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(UserError, match="images must be uint8, 0 to 255, and are torch.float32"):
        task(torch.rand(1, 3, 8, 8))


def test_a_callback_that_changes_accumulation_is_refused(cli):
    code, _, err = cli("fit", *SHORT, f"{ADD}Accumulates")
    assert code == 2 and "a callback has changed how batches make optimizer steps" in err


def test_overfitted_batches_are_the_same_in_each_epoch(cli):
    made = built(*SHORT, "--trainer.overfit_batches", 2)
    made.data.setup("fit")
    loader, labels = made.data.train_dataloader(), []
    for epoch in range(2):
        labels.append(torch.cat([y.clone() for _, y in loader.batches(epoch)]))
    assert torch.equal(*labels)


def test_what_decides_the_result_is_in_the_id():
    """And what does not is not; a callback by itself is a list of one."""

    def id_of(*flags):
        return run_id(yaml.safe_load(parse("fit", [*SHORT, *flags]).resolved))

    one = id_of(f"{ADD}Shrink")
    assert one == id_of("--trainer.callbacks", f"{__name__}.Shrink")
    assert one == id_of("--trainer.callbacks", f"{{class_path: {__name__}.Shrink}}")
    changed = [
        ("min_epochs", 2),
        ("min_steps", 2),
        ("plugins", "DoublePrecision"),
        ("overfit_batches", 2),
    ]
    ids = [id_of(), *(id_of(f"--trainer.{key}", str(value)) for key, value in changed)]
    assert len({*ids}) == len(ids)
    assert id_of("--model.channels_last", "false") != id_of()
    for flags in (("detect_anomaly", "true"), ("inference_mode", "false"), ("strategy", "ddp")):
        assert id_of(f"--trainer.{flags[0]}", flags[1]) == id_of()
    assert id_of("--trainer.plugins", "TorchCheckpointIO") == id_of()


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_plugin_writes_what_callbacks_save(cli, monkeypatch):
    """The run's own checkpoints stay ours, and a run goes on from them."""
    flags = [*SHORT, "--trainer.plugins", f"{__name__}.Own", *FILES.split(" ")]
    monkeypatch.setattr(Own, "saved", [])
    ours(flags, monkeypatch)
    saved = [*Own.saved]
    assert len(saved) == 2 and all(
        (Path("here") / name).read_text() == "mine" for name in saved[-1:]
    )
    with monkeypatch.context() as patch:
        patch.setattr(FitLoop, "_evaluate", Mock(side_effect=KeyboardInterrupt))
        assert cli("fit", *flags, "--seed_everything", "1", "--run.save_minutes", "0")[0] == 130
    assert "continued from last.ckpt at step" in cli("fit", *flags, "--seed_everything", "1")[1]
    asynchronous = [*SHORT, "--trainer.plugins", "AsyncCheckpointIO", *FILES.split(" ")]
    ours([*asynchronous[:-1], "there"], monkeypatch)
    (path,) = Path("there").iterdir()
    assert load_checkpoint(path)["global_step"] == 8


def test_a_trial_leaves_nothing(cli, tmp_path, monkeypatch):
    """No run directory, no checkpoints, no W&B run: as Lightning's fast_dev_run."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    for _ in range(2):
        code, out, _ = cli(
            "fit",
            *SHORT,
            "--trainer.fast_dev_run",
            "2",
            "--wandb.mode",
            "offline",
            *FILES.split(" "),
        )
        assert (
            code == 0
            and "a trial of 2 steps by --trainer.fast_dev_run; nothing of it is kept" in out
        )
        assert "val error" in out
    assert [*tmp_path.rglob("*")] == [tmp_path / "tmp"]


def test_a_trial_that_is_stopped_starts_over(cli, monkeypatch, capsys):
    assert stopped_at(1, monkeypatch, "fit", *SHORT, "--trainer.fast_dev_run", "2") == 143
    assert capsys.readouterr().err == "stopped by SIGTERM; the same command starts over\n"


@pytest.mark.parametrize(
    ("trial", "saved", "how"),
    [(2, True, "starts over"), (0, False, "starts over"), (0, True, "continues")],
)
def test_what_the_same_command_does_after_a_lost_rank(tmp_path, monkeypatch, trial, saved, how):
    """It continues only from what was saved; of a trial the reports of the ranks are gone too."""
    monkeypatch.setattr(crash, "WRITE_S", 0)
    monkeypatch.setattr(request, "signum", 0)  # of another test
    rundir = RunDir(tmp_path)
    for folder in ("attempts", "checkpoints"):
        (tmp_path / folder).mkdir()
    (tmp_path / "attempts/0.rank1.txt").write_text(
        "rank 1 failed after step 3\n\nLookupError: mine"
    )
    checkpoints = Checkpoints(rundir.checkpoints, {})
    if saved:  # by the thread, which has not ended
        writing = threading.Timer(0.2, (rundir.checkpoints / "last.ckpt").touch)
        writing.start()
        checkpoints._writer = writing
    rundir.is_kept = not trial
    trainer = Namespace(world_size=2)
    told = str(fit._told(torch.distributed.DistNetworkError("gone"), rundir, trainer, checkpoints))
    assert told.startswith("rank 1 failed: LookupError: mine") and told.endswith(
        f"; the same command {how}"
    )
    assert (str(tmp_path) in told) == (not trial)


def test_options_of_the_other_verbs(cli, monkeypatch):
    cli("fit", *SHORT)
    seen = []
    monkeypatch.setattr(
        Shrink,
        "on_test_batch_end",
        lambda *_: seen.append(torch.is_inference_mode_enabled()),
        False,
    )
    checkpoint = [
        "--ckpt_path",
        only_run() / "checkpoints/last.ckpt",
        "--trainer.callbacks",
        f"{__name__}.Shrink",
    ]
    for mode in ("true", "false"):
        limits = ["--trainer.limit_test_batches", "2", "--trainer.inference_mode", mode]
        assert cli("test", *SHORT, *checkpoint, *limits)[0] == 0
    assert seen == [True, True, False, False]
    code, out, _ = cli("predict", *SHORT, *checkpoint, "--trainer.limit_predict_batches", "1")
    assert code == 0 and len(out.splitlines()) == 1 + 128


def test_an_unfrozen_run_continues_bitwise(cli, monkeypatch):
    """Killed after its layers were unfrozen."""
    flags = [*SHORT, f"{ADD}Thaw", "--trainer.max_epochs", "4"]
    complete = ours(flags, monkeypatch)
    begun = []

    def die(loop):
        begun.append(loop.epoch)
        if loop.epoch == 2:
            raise LookupError

    with monkeypatch.context() as patch:
        patch.setattr(FitLoop, "_evaluate", die)
        with pytest.raises(LookupError):
            main(["fit", *flags, "--run.root", "again"])
    rest = ours([*flags, "--run.root", "again"], monkeypatch)
    assert all(p.requires_grad for p in rest.task.net.layer1[0].conv1.parameters())
    assert_same(complete, rest)


def stopped_at(step, monkeypatch, *args):
    """The exit status of a training that is told to end in the middle of an epoch."""
    step_done = FitLoop._step_done

    def done(loop):
        step_done(loop)
        if loop.trainer.global_step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(FitLoop, "_step_done", done)
        return main([*args])


@pytest.mark.parametrize(
    "flags",
    [
        f"{ADD}Freezes",
        "--trainer.precision 64-true",
        f"{ADD}Draws",
        f"{ADD}Accumulating",
        f"{ADD}Thaw",
    ],
    ids=["frozen later", "doubles", "draws", "changes in an epoch's first hook", "unfrozen"],
)
def test_a_run_continues_bitwise_in_mid_epoch(cli, monkeypatch, flags):
    """What callbacks have frozen, drawn and changed is kept, once, and all digits of the
    weights.
    """
    flags = [*SHORT, *flags.split(), "--trainer.max_epochs", "3"]
    complete = ours(flags, monkeypatch)
    again = [*flags, "--run.root", "again"]
    assert stopped_at(6, monkeypatch, "fit", *again) == 143
    assert_same(complete, ours(again, monkeypatch))


def test_a_learning_rate_that_the_schedule_sets_again_is_told_once(cli, monkeypatch):
    code, out, _ = cli("fit", *SHORT, f"{ADD}SetsRate")
    assert code == 0
    assert (
        out.count(
            "warning: by step 0 something set the learning rate to 0.5, but --model.schedule "
            "sets it for each step"
        )
        == 1
    )
    code, out, _ = cli("fit", *SHORT, f"{ADD}SetsBase", "--run.root", "cured")
    first = json.loads((only_run(Path("cured")) / "metrics.jsonl").read_text().splitlines()[0])
    assert code == 0 and "warning" not in out and first["lr"] == 0.5


@pytest.mark.parametrize("method", ["fit", "validate", "test", "predict"])
def test_the_trainer_does_one_thing_at_a_time(cli, method):
    for hook in ("on_train_epoch_end", "on_validation_end"):
        code, _, err = cli("fit", *SHORT, f"{ADD}Calls", f"{ARG}method", method, f"{ARG}hook", hook)
        assert code == 2 and err.count("\n") == 1, err
        assert f"a callback has called trainer.{method} while the trainer is at work: read" in err


def test_groups_that_a_run_that_continues_cannot_find_are_told(cli, monkeypatch):
    flags = [*SHORT, f"{ADD}AddsGroup"]
    assert stopped_at(6, monkeypatch, "fit", *flags) == 143
    code, _, err = cli("fit", *flags)
    assert code == 2 and err.count("\n") == 1 and "let it derive from BaseFinetuning" in err


def test_a_callback_that_replaces_the_optimizer_is_refused(cli):
    code, _, err = cli("fit", *SHORT, f"{ADD}Replaces")
    assert code == 2 and "a callback has put another optimizer in place" in err


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks")
@pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training")
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_stock_trainer_continues_an_average_from_what_a_callback_saved(tmp_path, accumulate):
    """A ModelCheckpoint saves before the hook in which the average follows."""

    def train(last=None, epochs=2, saving=()):
        torch.manual_seed(0)
        task = ClassificationTask(CifarResNet(8, width=4), ema=Averaging(0.5))
        trainer = pl.Trainer(
            max_epochs=epochs,
            limit_train_batches=4,
            limit_val_batches=0,
            accumulate_grad_batches=accumulate,
            callbacks=[*saving],
            logger=False,
            enable_checkpointing=bool(saving),
            enable_progress_bar=False,
            enable_model_summary=False,
            accelerator="cpu",
        )
        trainer.fit(task, datamodule=ImageData(Digits()), ckpt_path=last, weights_only=True)
        return task.state_dict()

    saved = callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1)
    complete = train(saving=[saved])
    (middle,) = tmp_path.glob("*-step=1.ckpt")
    rest = train(middle)
    assert [k for k in complete if not torch.equal(complete[k], rest[k])] == []


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
@pytest.mark.filterwarnings("ignore:the images are not normalised")
def test_what_a_stock_trainer_is_told():
    torch.manual_seed(0)
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
    }
    data = ImageData(Digits())
    trainer = pl.Trainer(max_epochs=-1, enable_checkpointing=False, **quiet)
    with pytest.raises(UserError, match="give the Trainer max_epochs or max_steps"):
        trainer.fit(ClassificationTask(CifarResNet(8, width=4)), datamodule=data)
    odd = torch.utils.data.DataLoader(
        [(torch.zeros(3, 8, 8, dtype=torch.uint8), 0)] * 7, batch_size=7
    )
    trainer = pl.Trainer(max_epochs=1, limit_val_batches=0, enable_checkpointing=False, **quiet)
    with pytest.raises(UserError, match="an even batch_size and drop_last=True"):
        trainer.fit(ClassificationTask(CifarResNet(8, width=4), mix=Mix(mixup=0.2)), odd)
    loaders = [data.val_dataloader()[0], odd]  # of two loaders each batch tells its number
    assert len(trainer.predict(ClassificationTask(CifarResNet(8, width=4)), loaders)) == 2


def test_what_is_unfrozen_keeps_the_learning_rate_that_it_was_given(cli, monkeypatch):
    """A tenth of the first group's by default; the schedule goes on for the groups that the
    training began with.
    """
    half = [
        "--model.schedule",
        "Linear",
        "--trainer.max_epochs",
        "4",
        "--model.optimizer.lr",
        "0.1",
    ]
    first, second, added = (
        ours([*SHORT, f"{ADD}Thaw", *half], monkeypatch).trainer.optimizers[0].param_groups
    )
    assert first["lr"] == second["lr"] == pytest.approx(0.1 / 16)  # at the last of 16 steps
    assert added["lr"] == pytest.approx(0.1 * 0.75 / 10)  # a quarter of the training was done


def test_schedule_free_optimizers_are_told_when_the_training_and_the_evaluation_begin(
    cli, monkeypatch
):
    monkeypatch.setattr(Between, "calls", [])
    cli("fit", *SHORT, "--model.optimizer", f"{__name__}.Between", "--model.optimizer.lr", "0.1")
    assert Between.calls == ["train", "eval"] * 2


def test_checkpoint_of_an_exception(cli, monkeypatch):
    """It is written, the error is the user's own, and no other run begins from it, nor from a Slurm
    job's.
    """
    saves = ["--trainer.callbacks+=OnExceptionCheckpoint", f"{ARG}dirpath", "new"]
    with pytest.raises(LookupError, match="what the user's callback found"):
        cli("fit", *SHORT, f"{ADD}Fails", *saves, "--trainer.enable_checkpointing", "true")
    assert load_checkpoint("new/on_exception.ckpt")["global_step"] == 3
    complete = ours(SHORT, monkeypatch)
    Path("hpc_ckpt_1.ckpt").write_bytes(Path("new/on_exception.ckpt").read_bytes())
    for name in ("SLURM_NTASKS", "SLURM_JOB_ID"):
        monkeypatch.setenv(name, "1")
    other = [
        *SHORT,
        *saves,
        "--trainer.enable_checkpointing",
        "true",
        "--trainer.default_root_dir",
        ".",
    ]
    assert_same(complete, ours(other, monkeypatch))
    assert not Path(
        "new/on_exception.ckpt"
    ).exists()  # as Lightning: it is of use to a run that has failed
