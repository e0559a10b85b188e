"""Set up Lightning's loggers and observing callbacks for a run, and check what they need.

What callbacks need is checked before the training starts. Loggers without a folder write into the
run directory. An attempt that continues a run appends to the files of the previous attempt, and no
step is logged there twice.
"""

import csv
import inspect
import traceback
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from jsonargparse import Namespace
from pytorch_lightning.callbacks import (
    DeviceStatsMonitor,
    EarlyStopping,
    LambdaCallback,
    LearningRateMonitor,
    ModelCheckpoint,
    ThroughputMonitor,
)
from pytorch_lightning.callbacks.device_stats_monitor import _PSUTIL_AVAILABLE
from pytorch_lightning.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger

from lightning_resnet.errors import UserError, nearest, one_line
from lightning_resnet.runs.identity import resolve_class

# Folder in the run directory of each kind of logger.
PLACES = {
    CSVLogger: ".",
    TensorBoardLogger: ".",
    WandbLogger: "lightning_logs",  # not the folder of this package's own W&B mirror
    MLFlowLogger: "mlruns",
}
# Folders of the loggers' source files.
LOGGERS = [("pytorch_lightning", "loggers"), ("lightning_fabric", "loggers")]
# Metrics that a training records between evaluations.
TRAINING = (
    "train/loss",
    "train/acc1",
    "lr",
    "perf/images_per_s",
    "perf/data_wait_frac",
    "data/bad_images",
)
# Prefixes of metrics that callbacks and tasks record for each block, layer or optimizer.
OURS = ("grad_norm/", "response_std/", "identity_distance/", "branch_scale/", "lr-")


def make_folders_optional() -> None:
    """Make the loggers' `save_dir` optional on the command line; `place` sets the value later."""
    for logger in PLACES:
        signature = inspect.signature(logger.__init__)
        parameters = dict(signature.parameters)
        folder = parameters["save_dir"]
        parameters["save_dir"] = folder.replace(default=None, annotation=folder.annotation | None)
        required = [p for p in parameters.values() if p.kind != p.VAR_KEYWORD]
        others = [p for p in parameters.values() if p.kind == p.VAR_KEYWORD]
        logger.__init__.__signature__ = signature.replace(parameters=[*required, *others])


def place(loggers: Any, run: Path) -> None:
    """Set a folder in the run directory for the loggers of a configuration that have none.

    Args:
        loggers: value of `trainer.logger`; changed in place.
        run: the run directory.
    """
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        options = logger.get("init_args") if isinstance(logger, Namespace) else None
        if options is None or options.get("save_dir", "") is not None or options.get("dir"):
            continue
        logger_class = resolve_class(logger.class_path)
        for known, folder in PLACES.items():
            if issubclass(logger_class, known):
                options["save_dir"] = str(run / folder)


def check(trainer: pl.Trainer, task: Any, data: Any, checkpoints: Path) -> None:
    """Refuse callbacks that would fail, or have no effect, once the training runs.

    Args:
        trainer: trainer with its callbacks and loggers.
        task: task to train.
        data: data module, set up for the training.
        checkpoints: folder of the run's own checkpoints.

    Raises:
        UserError: a callback lacks what it needs.
    """
    for callback in trainer.callbacks:
        name = type(callback).__name__
        if (
            isinstance(callback, LearningRateMonitor | DeviceStatsMonitor | ThroughputMonitor)
            and not trainer.loggers
        ):
            raise UserError(
                f"{name} writes to a logger, and there is none: add --trainer.logger CSVLogger"
            )
        if isinstance(callback, DeviceStatsMonitor) and not _PSUTIL_AVAILABLE:
            raise UserError(
                f"{name} needs the package psutil, which is not installed: pip install psutil"
            )
        if isinstance(callback, EarlyStopping | ModelCheckpoint):
            _check_monitor(callback, trainer, measured(trainer, task, data))
        if isinstance(callback, ModelCheckpoint):
            _check_names(callback, trainer, checkpoints)


def _check_monitor(
    callback: EarlyStopping | ModelCheckpoint, trainer: pl.Trainer, known: list[str]
) -> None:
    """Refuse to monitor a metric that is not recorded, which Lightning notices after an epoch only.

    Args:
        callback: callback that monitors a metric.
        trainer: trainer with all callbacks.
        known: metrics that the training records.

    Raises:
        UserError: neither the training nor a callback records the metric.
    """
    monitor = callback.monitor
    if isinstance(callback, ModelCheckpoint):
        known = [*known, "epoch", "step"]
    if (
        monitor is None
        or monitor in known
        or monitor.startswith(OURS)
        or not getattr(callback, "strict", True)
    ):
        return
    if any(_may_log(other) for other in trainer.callbacks):
        return
    raise UserError(
        f"{type(callback).__name__} monitors {monitor}, which this training does not measure"
        f"{nearest(monitor, known)} (measured are {', '.join(known)})"
    )


def measured(trainer: pl.Trainer, task: Any, data: Any) -> list[str]:
    """List the metrics that a training records without callbacks.

    Args:
        trainer: trainer with its limits.
        task: task to train.
        data: data module, set up for the training.
    """
    names = list(TRAINING)
    if trainer.limit_val_batches == 0:
        return names
    splits = list(data.eval_names)
    if task.ema is not None:
        splits += [f"{split}_ema" for split in splits if split != "train_eval"]
    return names + [f"{split}/{metric}" for split in splits for metric in ("loss", "acc1", "acc5")]


def _may_log(callback: pl.Callback) -> bool:
    """Tell whether a callback is the user's own, which may log metrics that are unknown here."""
    package = type(callback).__module__.partition(".")[0]
    return isinstance(callback, LambdaCallback) or package not in (
        "pytorch_lightning",
        "lightning_resnet",
    )


def _check_names(callback: ModelCheckpoint, trainer: pl.Trainer, checkpoints: Path) -> None:
    """Refuse file names that cannot be formatted, or are those of the run's own checkpoints.

    Raises:
        UserError: ModelCheckpoint would fail, or overwrite a checkpoint of the run.
    """
    try:
        callback.format_checkpoint_name({})
    except (ValueError, LookupError, AttributeError, TypeError) as e:
        raise UserError(
            f"ModelCheckpoint cannot make names of {callback.filename} ({one_line(e)}): write it "
            "as {epoch}-{step}-{val/loss:.2f}"
        ) from e
    folder = callback.dirpath
    if folder is None and not trainer.loggers:
        folder = Path(trainer.default_root_dir, "checkpoints")
    taken = callback.save_last or callback.filename in ("last", "prev", "best")
    if folder is not None and taken and Path(folder).resolve() == checkpoints.resolve():
        raise UserError(
            "ModelCheckpoint would write over the run's own last.ckpt, prev.ckpt or best.ckpt: "
            "give it a folder of its own with --trainer.callbacks.dirpath, or leave out save_last "
            "and that filename"
        )


def go_on(trainer: pl.Trainer, run: Path, step: int) -> None:
    """Let loggers append to the previous attempt's files, without its rows after the checkpoint.

    This holds for CSVLogger and TensorBoardLogger.

    Args:
        trainer: trainer with its loggers.
        run: directory of the run.
        step: global step of the checkpoint; 0: the run starts.
    """
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and trainer.is_global_zero:
            # Without this folder, wandb writes to the system's temporary folder silently.
            Path(logger.save_dir or ".").mkdir(parents=True, exist_ok=True)
        if not step or not isinstance(logger, CSVLogger | TensorBoardLogger):
            continue
        if logger._version is None and Path(logger.save_dir).resolve() == run.resolve():
            last = logger._get_next_version() - 1
            logger._version = last if last >= 0 else None
        if isinstance(logger, TensorBoardLogger):
            logger._kwargs.setdefault("purge_step", step + 1)
        elif trainer.is_global_zero:
            _keep_rows(logger, step)


def _keep_rows(logger: CSVLogger, step: int) -> None:
    """Copy the rows up to a step into the new CSV file, as Lightning overwrites an existing file.

    Args:
        logger: logger whose version is that of the previous attempt.
        step: global step of the checkpoint.
    """
    file = Path(logger.log_dir, "metrics.csv")
    if not file.exists():
        return
    with file.open(newline="") as old:
        rows = [
            row
            for row in csv.DictReader(old)
            if (row.get("step") or "").isdecimal() and int(row["step"]) <= step
        ]
    with warnings.catch_warnings():
        # The warning says that existing files will be lost, which this function prevents.
        warnings.filterwarnings("ignore", "Experiment logs directory")
        writer = logger.experiment
    writer.metrics = [{name: value for name, value in row.items() if value != ""} for row in rows]
    logger.save()


def stopped_early(trainer: pl.Trainer, task: Any) -> str | None:
    """Describe which callback stopped the training early, and why; None if none did."""
    if not trainer.should_stop or trainer.global_step >= task.total_steps:
        return None
    reason = "a callback asked for it"
    for callback in trainer.callbacks:
        if isinstance(callback, EarlyStopping) and callback.stopping_reason_message:
            reason = f"EarlyStopping: {callback.stopping_reason_message}"
    return (
        f"stopped early, after epoch {trainer.current_epoch} and step {trainer.global_step}: "
        f"{reason}"
    )


def failed(error: BaseException) -> str | None:
    """Describe an error of a logger or of EarlyStopping in one line; None for other errors."""
    if "Early stopping conditioned on metric" in str(error):
        return one_line(error)
    frames = traceback.extract_tb(error.__traceback__)
    own = [Path(frame.filename) for frame in frames if Path(frame.filename).parts[-3:-1] in LOGGERS]
    if not own or isinstance(error, UserError) or not isinstance(error, Exception):
        return None
    return (
        f"the logger in {own[-1].name} failed ({type(error).__name__}: {one_line(error)}); "
        "correct that, or leave out --trainer.logger"
    )
