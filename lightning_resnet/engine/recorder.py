"""Recorder: the one place where what a training measures leaves the process.

Rows go to the run directory, to the progress display, to Lightning's loggers (x is the number of optimizer steps done)
and to `trainer.callback_metrics`, where other callbacks find them: `train/loss train/acc1 lr perf/images_per_s
perf/data_wait_frac` each log interval, `val/* train_eval/*` each evaluation. `perf/data_wait_frac` is the share of the
interval in which the first rank's step waited for a batch from the loader, or for its way to the device.
"""

import time
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from lightning_resnet.progress import SHOWN, Progress
from lightning_resnet.runs.directory import RunDir


class Recorder(Callback):
    """Records a training.

    Args:
        rundir: of the run.
        progress: display.
    """

    def __init__(self, rundir: RunDir, progress: Progress) -> None:
        self.rundir, self.progress = rundir, progress
        self.last: dict[str, Any] = {"step": -1, "metrics": {}}  # the newest training row

    def state_dict(self) -> dict[str, Any]:
        """The newest training row."""
        return dict(self.last)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""
        self.last = dict(state_dict)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Tell the task that its training metrics are taken care of."""
        pl_module.recorded = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clocks."""
        self._first = self._step = trainer.global_step
        self._waited = 0.0
        self._interval_start = time.perf_counter()
        self.progress.start(trainer.global_step, pl_module.total_steps)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        """A row per log interval; the epoch's last is there before the hooks of its end."""
        step = trainer.global_step
        if step > self._step and (step % trainer.log_every_n_steps == 0 or trainer.is_last_batch):
            self._record_training(trainer, pl_module)
        if trainer.is_global_zero:
            self.rundir.heartbeat(step)
            self.progress.update(step)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the interval: a diverged net is not worth evaluating, nor saving."""
        if trainer.state.fn != "fit":
            return
        again = (
            trainer.global_step == self._first == self.last["step"]
            and not pl_module.has_train_metrics
        )
        self._record_training(trainer, pl_module)
        if again:  # the row stood in an attempt that ended in this evaluation, and this attempt's first row hides it
            self._record(trainer, self.last["metrics"], again=True)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Likewise before a checkpoint, where this epoch had no validation."""
        self._record_training(trainer, pl_module)

    def on_validation_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Stay alive."""
        if trainer.is_global_zero:
            self.rundir.heartbeat(trainer.global_step)

    on_test_batch_end = on_validation_batch_end

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A row per evaluation."""
        self._record(trainer, pl_module.metrics)
        if trainer.state.fn == "fit":
            self._interval_start = time.perf_counter()

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A row."""
        self._record(trainer, pl_module.metrics)

    def _record_training(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        metrics = pl_module.take_train_metrics()
        if not metrics:
            return
        steps, seconds = (
            trainer.global_step - self._step,
            time.perf_counter() - self._interval_start,
        )
        if steps:  # of this attempt
            metrics["perf/images_per_s"] = steps * trainer.datamodule.batch_size / seconds
            metrics["perf/data_wait_frac"] = (
                trainer.fit_loop.waits["data"] - self._waited
            ) / seconds
        self._record(trainer, metrics)
        self.last = {"step": trainer.global_step, "metrics": metrics}
        self._step, self._interval_start = trainer.global_step, time.perf_counter()
        self._waited = trainer.fit_loop.waits["data"]

    def _record(self, trainer: pl.Trainer, metrics: dict[str, float], again: bool = False) -> None:
        """Hand a row to all; on every rank, as callbacks decide on every rank, and loggers know which rank writes.

        Args:
            trainer: that trains or tests.
            metrics: of the row.
            again: an earlier attempt recorded it: the loggers have it.
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
