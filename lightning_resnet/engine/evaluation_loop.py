"""Evaluation loop that works for ranks without samples, and can stop between two batches."""

from collections.abc import Callable
from typing import Any

import torch
from pytorch_lightning.loops.evaluation_loop import _EvaluationLoop

from lightning_resnet.progress import Meter


class EvaluationLoop(_EvaluationLoop):
    """Lightning's evaluation loop, which also runs on ranks that have no sample.

    Such a rank takes part in the sums over all ranks.

    Attributes:
        between_batches: called between two batches, equally often on all ranks; during a training
            it ends the evaluation when all ranks agree to stop.
        most: returns the largest of all ranks' numbers; None outside of a training.
        ticks: calls of `between_batches` that are left.
        meter: progress of the evaluation.
    """

    between_batches: Callable[[], None] | None = None
    most: Callable[[int], int] | None = None
    ticks = 0
    meter: Meter | None = None

    @property
    def skip(self) -> bool:
        """Whether there is no loader to evaluate; a rank whose loader is empty still takes part."""
        return not self._max_batches

    def run(self) -> list[Any]:
        """Run the evaluation, and remove its progress bar however the evaluation ends."""
        try:
            return super().run()
        finally:
            if self.meter:
                self.meter.close()

    def on_run_start(self) -> None:
        """Start the progress bar, and agree on the number of calls between batches."""
        super().on_run_start()
        if self.most:
            self.ticks = self.most(1 + sum(self.max_batches))
        self.meter = Meter(sum(self.max_batches), "batches", show=self.trainer.is_global_zero)

    def _evaluation_step(self, *args: Any) -> None:
        """Evaluate a batch as Lightning does, and advance the progress bar."""
        super()._evaluation_step(*args)
        self.meter.update(1)

    def on_iteration_done(self) -> None:
        """Call `between_batches` after each batch."""
        super().on_iteration_done()
        self._tick()

    def on_run_end(self) -> list[Any]:
        """Make the remaining calls of `between_batches`, then add up the sums over the ranks.

        The metrics are in `trainer.callback_metrics` before the first hook of the evaluation's end
        is called, as metrics are that a module logs in each batch.
        """
        while self.ticks > 0:
            self._tick()
        task = self.trainer.lightning_module
        task.finish_evaluation()
        metrics = {name: torch.tensor(value) for name, value in task.metrics.items()}
        self.trainer._logger_connector._callback_metrics.update(metrics)
        self.trainer._logger_connector._logged_metrics.update(metrics)
        if self.trainer.weights_step is not None:
            self.trainer._logger_connector.log_metrics(
                dict(task.metrics), self.trainer.weights_step
            )
        return super().on_run_end()

    def _tick(self) -> None:
        """Call `between_batches` if calls are left."""
        if self.ticks > 0:
            self.ticks -= 1
            self.between_batches()
