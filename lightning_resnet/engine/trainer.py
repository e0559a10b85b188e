"""The trainer of a run: Lightning's, with our loops, our checkpoints, and no signal handlers of its own.

Lightning has no public way to do what a run needs, so this package uses names that Lightning keeps private and may
change. All of them are used in this folder, and `lightning_resnet` needs the Lightning versions that they were tried
with (pyproject.toml). tests/test_floor_plan.py holds this list complete:

Loops (loop.py, evaluation_loop.py, step.py)
- `_FitLoop`, `_EvaluationLoop`: base classes of our loops. Lightning's own wait for the device in every step, cannot
  begin exactly in the middle of an epoch, and hang where a rank has nothing to evaluate.
- `_combined_loader`, `_max_batches`, `_skip_backward`, `_evaluation_step`: attributes of these base classes.
- `_batches_that_stepped`: the step under which Lightning logs.
- `_Progress`, `_BatchProgress`, `_OptimizationProgress`, `_OptimizerProgress`, `_ProcessedTracker`: Lightning's
  counters, in which a checkpoint also tells its position, so that a stock Trainer continues there.
- `_parse_num_batches`: what `limit_train_batches` and its kin leave of a loader.
- `_block_parallel_sync_behavior`: no sum over the ranks before the last micro-batch of a step.
- `_call_callback_hooks`, `_call_lightning_module_hook`, `_call_lightning_datamodule_hook`, `_call_strategy_hook`: how
  Lightning calls hooks.

Logging (step.py, evaluation_loop.py, recorder.py)
- `_logger_connector` with `_callback_metrics`, `_logged_metrics`, `_progress_bar_metrics`: where callbacks, loggers and
  bars find metrics. `log` would reduce each of them over the ranks, in every step.
- `_first_loop_iter`, `_results`, `_current_fx_name`: what `log` of a callback needs to know of the batch and the hook.

Checkpoints (checkpoints.py, refused.py)
- `_checkpoint_connector`: makes the content of a checkpoint; `_select_ckpt_path`: looks for files of others.
- `_accelerator_connector`: knows the CheckpointIO that the user gave.
- `_WrappingCheckpointIO`: AsyncCheckpointIO and its kin, which write through another.

Trainer (this file)
- `_callback_connector`, `_reorder_callbacks`: Lightning's order of callbacks.
- `_signal_connector`: Lightning's signal handlers run collectives wherever a signal finds a rank.

Ranks (rendezvous.py)
- `_init_dist_connection`, `_get_process_group_backend`, `_process_group_backend`, `_timeout`: what DDPStrategy does in
  `setup_distributed`, which leaves the meeting point to the environment.

Loggers and monitors (observers.py)
- `_version`, `_get_next_version`, `_kwargs`: which files a logger writes next, and from which step on.
- `_PSUTIL_AVAILABLE`: whether DeviceStatsMonitor can work.
"""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.trainer.connectors.data_connector import _parse_num_batches
from pytorch_lightning.trainer.states import RunningStage, TrainerFn, TrainerStatus

from lightning_resnet.engine.checkpoints import AtomicCheckpointIO, Checkpoints, GivenCheckpointIO
from lightning_resnet.engine.evaluation_loop import EvaluationLoop
from lightning_resnet.engine.loop import FitLoop
from lightning_resnet.errors import UserError
from lightning_resnet.runs.directory import RunDir


def limited(batches: int, limit: float, stage: RunningStage) -> int:
    """Return how many of a loader's batches an option such as `trainer.limit_val_batches` leaves.

    Args:
        batches: number of batches of the loader.
        limit: a whole number of batches, or the share of them.
        stage: training or validation, for the message.

    Raises:
        MisconfigurationException: the share is less than one batch.
    """
    return _parse_num_batches(stage, batches, limit)


class Trainer(pl.Trainer):
    """Lightning's trainer, which evaluates with our loop, and trains with it after `prepare_run`.

    Args:
        **kwargs: of pytorch_lightning.Trainer.

    Attributes:
        weights_step: optimizer steps that the weights to evaluate have made, under which loggers get the metrics;
            None: others log them.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.weights_step: int | None = None
        given = self._accelerator_connector.checkpoint_io
        if given is None:
            self.strategy.checkpoint_io = AtomicCheckpointIO()
        else:
            self.strategy.checkpoint_io = GivenCheckpointIO(given)
        self._signal_connector.register_signal_handlers = _do_nothing
        self.validate_loop = self._make_evaluation_loop(
            TrainerFn.VALIDATING, RunningStage.VALIDATING
        )
        self.test_loop = self._make_evaluation_loop(TrainerFn.TESTING, RunningStage.TESTING)

    def _make_evaluation_loop(self, fn: TrainerFn, stage: RunningStage) -> EvaluationLoop:
        inference_mode = self.validate_loop.inference_mode
        return EvaluationLoop(self, fn, stage, inference_mode=inference_mode)

    def prepare_run(
        self, rundir: RunDir, checkpoints: Checkpoints, callbacks: list[Callback], hang_s: float
    ) -> None:
        """Get ready to train a run.

        Args:
            rundir: directory of the run.
            checkpoints: callback that saves the run's own checkpoints.
            callbacks: all callbacks of the run, `checkpoints` among them. They come before any ModelCheckpoint of the
                user, which needs what they have just measured.
            hang_s: seconds after which a rank that does not answer ends the others.
        """
        self.callbacks = self._callback_connector._reorder_callbacks([*self.callbacks, *callbacks])
        self.fit_loop = FitLoop(self, rundir, checkpoints, hang_s)
        self.fit_loop.listen_in(self.test_loop)
        self._checkpoint_connector._select_ckpt_path = _given_path
        if isinstance(self.strategy.checkpoint_io, GivenCheckpointIO):
            self.strategy.checkpoint_io.ours = rundir.candidates()

    def fit(self, *args: Any, **kwargs: Any) -> None:
        """Train, unless the trainer is at work."""
        self._refuse_while_at_work("fit")
        super().fit(*args, **kwargs)

    def validate(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate the validation images, unless the trainer is at work."""
        self._refuse_while_at_work("validate")
        return super().validate(*args, **kwargs)

    def test(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate the test images, unless the trainer is at work."""
        self._refuse_while_at_work("test")
        return super().test(*args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Predict, unless the trainer is at work."""
        self._refuse_while_at_work("predict")
        return super().predict(*args, **kwargs)

    def _refuse_while_at_work(self, method: str) -> None:
        """Refuse a call out of a hook, after which the trainer would not know any more what it was doing.

        Raises:
            UserError: a callback or the task has called a method that runs a loop.
        """
        if self.state.status == TrainerStatus.RUNNING or self.state.stage is not None:
            raise UserError(
                f"a callback has called trainer.{method} while the trainer is at work: read trainer.callback_metrics "
                "in on_validation_end instead, or pass batches to pl_module there"
            )


def _do_nothing() -> None:
    """Register no signal handlers."""


def _given_path(state_fn: TrainerFn, ckpt_path: Path | None, **_: bool) -> Path | None:
    """Return the checkpoint that a run continues from, if there is one.

    Lightning would else load the file of an OnExceptionCheckpoint, or hpc_ckpt_*.ckpt of Slurm jobs, of whatever run.
    """
    return ckpt_path
