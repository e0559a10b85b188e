"""Record the metrics of a training; all of them leave the process through this callback.

Rows go to the run directory, to the progress display, to Lightning's loggers (x is the number of
optimizer steps done) and to `trainer.callback_metrics`, where other callbacks find them. Each log
interval gives `train/loss train/acc1 lr perf/images_per_s perf/data_wait_frac`, and each evaluation
gives `val/* train_eval/*`. `perf/data_wait_frac` is the fraction of the interval in which the steps
of the first rank waited for a batch from the loader, or for its copy to the device.
"""

import sys
import time
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from lightning_resnet.errors import tell
from lightning_resnet.progress import SHOWN, Progress
from lightning_resnet.runs.directory import RunDir


class Recorder(Callback):
    """Callback that records the metrics of a training.

    Args:
        rundir: directory of the run.
        progress: display that shows the progress and the newest metrics.

    Attributes:
        last: the newest training row: its step and metrics; step -1 before the first row.
    """

    def __init__(self, rundir: RunDir, progress: Progress) -> None:
        self.rundir = rundir
        self.progress = progress
        self.last: dict[str, Any] = {"step": -1, "metrics": {}}
        self._has_told = False  # of images that cannot be read

    def state_dict(self) -> dict[str, Any]:
        """Return the newest training row."""
        return dict(self.last)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the newest training row."""
        self.last = dict(state_dict)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Tell the task that this callback records its training metrics."""
        pl_module.recorded = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock of the first interval, and the progress display."""
        self._first = self._step = trainer.global_step
        self._waited = 0.0
        self._interval_start = time.perf_counter()
        self.rundir.alive(trainer.global_step)
        self.progress.start(trainer.global_step, pl_module.total_steps)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        """Record a row per log interval, and one after the last batch of the epoch."""
        step = trainer.global_step
        if step > self._step and (step % trainer.log_every_n_steps == 0 or trainer.is_last_batch):
            self._record_training(trainer, pl_module)
        if trainer.is_global_zero:
            if step > self._first and self.progress.is_due():  # the losses wait for the device
                self.progress.show(pl_module.peek_train_metrics())
            self.rundir.alive(step)
            self.progress.update(step)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the current interval, which ends a diverged training before the evaluation.

        Raises:
            Diverged: a training loss was not finite.
        """
        if trainer.state.fn != "fit":
            return
        again = (
            trainer.global_step == self._first == self.last["step"]
            and not pl_module.has_train_metrics
        )
        self._record_training(trainer, pl_module)
        # The previous attempt ended in this evaluation. The last training row of that attempt has
        # the same step as the first row of this attempt, and would be hidden by it.
        if again:
            self._record(trainer, self.last["metrics"], again=True)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the current interval before the checkpoint, if the epoch had no validation."""
        self.rundir.alive(trainer.global_step)
        self._record_training(trainer, pl_module)

    def on_validation_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Tell during an evaluation that the training goes on."""
        self.rundir.alive(trainer.global_step)

    on_test_batch_end = on_validation_batch_end

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the metrics of an evaluation, and restart the clock."""
        self._record(trainer, pl_module.metrics)
        if trainer.state.fn == "fit":
            self._interval_start = time.perf_counter()

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the metrics of a test."""
        self._record(trainer, pl_module.metrics)

    def _record_training(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the training metrics since the last row, if there were steps.

        Raises:
            Diverged: a training loss was not finite.
        """
        metrics = pl_module.take_train_metrics()
        if not metrics:
            return
        steps = trainer.global_step - self._step
        seconds = time.perf_counter() - self._interval_start
        if steps:  # 0 if an earlier attempt did the steps of this row
            metrics["perf/images_per_s"] = steps * trainer.datamodule.batch_size / seconds
            metrics["perf/data_wait_frac"] = (
                trainer.fit_loop.waits["data"] - self._waited
            ) / seconds
        bad = metrics.get("data/bad_images")
        if bad and not self._has_told and trainer.is_global_zero:
            self._has_told = True
            tell(
                f"{bad:.0f} training images up to step {trainer.global_step} cannot be read: left "
                "out of the loss, and counted in metrics.jsonl as data/bad_images",
                file=sys.stderr,
            )
        self._record(trainer, metrics)
        self.last = {"step": trainer.global_step, "metrics": metrics}
        self._step = trainer.global_step
        self._interval_start = time.perf_counter()
        self._waited = trainer.fit_loop.waits["data"]

    def _record(self, trainer: pl.Trainer, metrics: dict[str, float], again: bool = False) -> None:
        """Pass a row to Lightning on every rank, and to the run directory on the first.

        Callbacks decide on every rank, and loggers know themselves which rank writes.

        Args:
            trainer: trainer that trains or tests.
            metrics: metrics of the row.
            again: whether an earlier attempt has passed the row to the loggers.
        """
        logging = trainer._logger_connector
        logging._callback_metrics.update(
            {name: torch.tensor(value) for name, value in metrics.items()}
        )
        logging._progress_bar_metrics.update(
            {name: value for name, value in metrics.items() if name in SHOWN}
        )
        logging._logged_metrics.update(metrics)
        if not again:
            logging.log_metrics({**metrics, "epoch": trainer.current_epoch}, trainer.global_step)
        if trainer.is_global_zero:
            self.rundir.record(trainer.global_step, trainer.current_epoch, metrics)
            self.progress.show(metrics)
