"""The evaluation loop: Lightning's, also where a rank has no sample, with ranks that talk between two batches."""

from collections.abc import Callable
from typing import Any

import torch
from pytorch_lightning.loops.evaluation_loop import _EvaluationLoop

from lightning_resnet.progress import Meter


class EvaluationLoop(_EvaluationLoop):
    """Also where a rank has no sample: it takes part in the sums all the same."""

    between_batches: Callable[[], None] | None = None  # in a training: asks whether to stop,
    most: Callable[[int], int] | None = None  # as often as the rank with the most batches
    ticks = 0
    meter: Meter | None = None

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
        if self.trainer.weights_step is not None:
            self.trainer._logger_connector.log_metrics(
                dict(task.metrics), self.trainer.weights_step
            )
        return super().on_run_end()

    def _tick(self) -> None:
        if self.ticks > 0:
            self.ticks -= 1
            self.between_batches()
