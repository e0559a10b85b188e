"""Lightning's loggers, profilers and observing callbacks in a run: where they write, and what they need to work.

What they need is checked before the training starts. Loggers write into the run directory where no folder is given,
and an attempt that continues a run goes on in the last one's files, so that no step stands there twice.
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

PLACES = {  # loggers -> their folder in the run directory
    CSVLogger: ".",
    TensorBoardLogger: ".",
    WandbLogger: "lightning_logs",  # apart from our own mirror's
    MLFlowLogger: "mlruns",
}
LOGGERS = [
    ("pytorch_lightning", "loggers"),
    ("lightning_fabric", "loggers"),
]  # folders of their code
TRAINING = (
    "train/loss",
    "train/acc1",
    "lr",
    "perf/images_per_s",
    "perf/data_wait_frac",
    "data/bad_images",
)
OURS = (
    "grad_norm/",
    "response_std/",
    "identity_distance/",
    "lr-",
)  # of callbacks, by block, layer or optimizer


def make_folders_optional() -> None:
    """Let the command line leave out the loggers' folder: `placed` fills it in."""
    for logger in PLACES:
        signature = inspect.signature(logger.__init__)
        parameters = dict(signature.parameters)
        folder = parameters["save_dir"]
        parameters["save_dir"] = folder.replace(default=None, annotation=folder.annotation | None)
        required = [p for p in parameters.values() if p.kind != p.VAR_KEYWORD]
        others = [p for p in parameters.values() if p.kind == p.VAR_KEYWORD]
        logger.__init__.__signature__ = signature.replace(parameters=[*required, *others])


def place(loggers: Any, run: Path) -> None:
    """Give the run directory to the loggers of a configuration that have no folder.

    Args:
        loggers: value of `trainer.logger`; changed.
        run: the directory.
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
    """Refuse callbacks that would fail, or do nothing, once the training runs.

    Args:
        trainer: with its callbacks and loggers.
        task: to be trained.
        data: set up.
        checkpoints: the run's own folder of them.

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
    """Refuse a metric that nobody measures: Lightning finds it out after the first epoch."""
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
    """Name the metrics that a training records by itself."""
    names = list(TRAINING)
    if trainer.limit_val_batches == 0:
        return names
    splits = list(data.eval_names)
    if task.ema is not None:
        splits += [f"{split}_ema" for split in splits if split != "train_eval"]
    return names + [f"{split}/{metric}" for split in splits for metric in ("loss", "acc1", "acc5")]


def _may_log(callback: pl.Callback) -> bool:
    """Whether it is a user's own, which may measure what we cannot know of."""
    package = type(callback).__module__.partition(".")[0]
    return isinstance(callback, LambdaCallback) or package not in (
        "pytorch_lightning",
        "lightning_resnet",
    )


def _check_names(callback: ModelCheckpoint, trainer: pl.Trainer, checkpoints: Path) -> None:
    """Refuse names that cannot be made, or would be those of the run's own checkpoints."""
    try:
        callback.format_checkpoint_name({})
    except (ValueError, LookupError, AttributeError, TypeError) as e:
        raise UserError(
            f"ModelCheckpoint cannot make names of {callback.filename} ({one_line(e)}): write it as "
            "{epoch}-{step}-{val/loss:.2f}"
        ) from e
    folder = callback.dirpath
    if folder is None and not trainer.loggers:
        folder = Path(trainer.default_root_dir, "checkpoints")
    taken = callback.save_last or callback.filename in ("last", "prev", "best")
    if folder is not None and taken and Path(folder).resolve() == checkpoints.resolve():
        raise UserError(
            "ModelCheckpoint would write over the run's own last.ckpt, prev.ckpt or best.ckpt: give it a folder of "
            "its own with --trainer.callbacks.dirpath, or leave out save_last and that filename"
        )


def go_on(trainer: pl.Trainer, run: Path, step: int) -> None:
    """Continue the files of the attempt before, without what it logged after the checkpoint.

    Args:
        trainer: with its loggers.
        run: its directory.
        step: of the checkpoint; 0: the run begins.
    """
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and trainer.is_global_zero:
            Path(logger.save_dir or ".").mkdir(
                parents=True, exist_ok=True
            )  # else wandb goes to /tmp without a word
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
    """Lightning begins a CSV file anew where there is one: what it held up to this step goes into the new one."""
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
        warnings.filterwarnings(
            "ignore", "Experiment logs directory"
        )  # that its files will be lost
        writer = logger.experiment
    writer.metrics = [{name: value for name, value in row.items() if value != ""} for row in rows]
    logger.save()


def stopped_early(trainer: pl.Trainer, task: Any) -> str | None:
    """Say who ended the training before its time, and why; None: nobody."""
    if not trainer.should_stop or trainer.global_step >= task.total_steps:
        return None
    reason = "a callback asked for it"
    for callback in trainer.callbacks:
        if isinstance(callback, EarlyStopping) and callback.stopping_reason_message:
            reason = f"EarlyStopping: {callback.stopping_reason_message}"
    return f"stopped early, after epoch {trainer.current_epoch} and step {trainer.global_step}: {reason}"


def failed(error: BaseException) -> str | None:
    """Say in one line what a logger, or a monitor, could not do; None: the error is not theirs."""
    if "Early stopping conditioned on metric" in str(error):
        return one_line(error)
    frames = traceback.extract_tb(error.__traceback__)
    own = [Path(frame.filename) for frame in frames if Path(frame.filename).parts[-3:-1] in LOGGERS]
    if not own or isinstance(error, UserError) or not isinstance(error, Exception):
        return None
    return (
        f"the logger in {own[-1].name} failed ({type(error).__name__}: {one_line(error)}); "
        "mend that, or leave out --trainer.logger"
    )
