"""The evaluation loop: Lightning's, also where a rank has no sample, with ranks that talk between two batches."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loops.evaluation_loop import _EvaluationLoop
from pytorch_lightning.trainer.states import RunningStage, TrainerFn, TrainerStatus

from lightning_resnet.errors import UserError
from lightning_resnet.progress import Meter


def install_evaluation(trainer: pl.Trainer, step: int | None = None) -> None:
    """Give the trainer our loops to validate and test.

    Args:
        trainer: to change.
        step: optimizer steps that the net has made, under which loggers get its metrics; None: others log them.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None
    for method in ("fit", "validate", "test", "predict"):
        setattr(trainer, method, partial(_begin, trainer, getattr(trainer, method)))
    for name, fn, stage in (
        ("validate_loop", TrainerFn.VALIDATING, RunningStage.VALIDATING),
        ("test_loop", TrainerFn.TESTING, RunningStage.TESTING),
    ):
        loop = EvaluationLoop(trainer, fn, stage, inference_mode=getattr(trainer, name).inference_mode)
        loop.step = step
        setattr(trainer, name, loop)


def _begin(trainer: pl.Trainer, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call one of the trainer's entries, unless one runs already: the trainer would forget what it was doing.

    Raises:
        UserError: a callback, or the task, has called it.
    """
    if trainer.state.status == TrainerStatus.RUNNING or trainer.state.stage is not None:
        raise UserError(
            f"a callback has called trainer.{method.__name__} while the trainer is at work: read "
            "trainer.callback_metrics in on_validation_end instead, or pass batches to pl_module there"
        )
    return method(*args, **kwargs)


class EvaluationLoop(_EvaluationLoop):
    """Also where a rank has no sample: it takes part in the sums all the same."""

    between_batches: Callable[[], None] | None = None  # in a training: asks whether to stop,
    most: Callable[[int], int] | None = None  # as often as the rank with the most batches
    ticks = 0
    meter: Meter | None = None
    step: int | None = None  # see `install_evaluation`

    @property
    def skip(self) -> bool:
        """Only where nothing is to be evaluated on any rank."""
        return not self._max_batches

    def run(self) -> list[Any]:
        """Whatever ends it, the bar goes."""
        try:
            return super().run()
        finally:
            if self.meter:
                self.meter.close()

    def on_run_start(self) -> None:
        """The number of batches is known."""
        super().on_run_start()
        if self.most:
            self.ticks = self.most(1 + sum(self.max_batches))
        self.meter = Meter(sum(self.max_batches), "batches", show=self.trainer.is_global_zero)

    def _evaluation_step(self, *args: Any) -> None:
        """Lightning's, counted."""
        super()._evaluation_step(*args)
        self.meter.update(1)

    def on_iteration_done(self) -> None:
        """Between two batches."""
        super().on_iteration_done()
        self._tick()

    def on_run_end(self) -> list[Any]:
        """Before the sums are added up over the ranks: from there on no rank answers another.

        The metrics are there when the first hook is called, as those are that a module logs batch by batch.
        """
        while self.ticks > 0:
            self._tick()
        task = self.trainer.lightning_module
        task.finish_evaluation()
        metrics = {name: torch.tensor(value) for name, value in task.metrics.items()}
        self.trainer._logger_connector._callback_metrics.update(metrics)
        self.trainer._logger_connector._logged_metrics.update(metrics)
        if self.step is not None:
            self.trainer._logger_connector.log_metrics(dict(task.metrics), self.step)
        return super().on_run_end()

    def _tick(self) -> None:
        if self.ticks > 0:
            self.ticks -= 1
            self.between_batches()
