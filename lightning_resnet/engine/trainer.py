"""Trainer of a run: Lightning's trainer with other loops, checkpoints, and no signal handlers.

Lightning has no public way to do what a run needs, so this package uses names that Lightning keeps
private and may change. All of them are used in this folder, and `lightning_resnet` needs the
Lightning versions that they were tried with (pyproject.toml). tests/test_floor_plan.py checks that
this list is complete:

Loops (loop.py, evaluation_loop.py, step.py)
- `_FitLoop`, `_EvaluationLoop`: base classes of this package's loops. Lightning's own loops wait
  for the device in every step, cannot start exactly in the middle of an epoch, and hang if a rank
  has nothing to evaluate.
- `_combined_loader`, `_max_batches`, `_skip_backward`, `_evaluation_step`: attributes of these base
  classes.
- `_batches_that_stepped`: the step under which Lightning logs.
- `_Progress`, `_BatchProgress`, `_OptimizationProgress`, `_OptimizerProgress`, `_ProcessedTracker`:
  Lightning's counters. A checkpoint holds its position in them too, so that a stock Trainer
  continues there.
- `_parse_num_batches`: how many batches of a loader options such as `limit_train_batches` leave.
- `_block_parallel_sync_behavior`: prevents the reduction over the ranks before the last micro-batch
  of a step.
- `_call_callback_hooks`, `_call_lightning_module_hook`, `_call_lightning_datamodule_hook`,
  `_call_strategy_hook`: how Lightning calls hooks.
- `_forward_redirection`: calls a method of the task through DistributedDataParallel.

Logging (step.py, evaluation_loop.py, recorder.py)
- `_logger_connector` with `_callback_metrics`, `_logged_metrics`, `_progress_bar_metrics`: where
  callbacks, loggers and progress bars find metrics. `log` would reduce each metric over the ranks,
  in every step.
- `_first_loop_iter`, `_results`, `_current_fx_name`: what `log` of a callback needs to know of the
  batch and the hook.

Checkpoints (checkpoints.py, refused.py)
- `_checkpoint_connector`: makes the content of a checkpoint.
- `_select_ckpt_path`: would look for checkpoint files of other programs and runs.
- `_accelerator_connector`: holds the CheckpointIO that the user gave.
- `_WrappingCheckpointIO`: base class of AsyncCheckpointIO and other plugins that write through
  another plugin.

Trainer (this file)
- `_callback_connector`, `_reorder_callbacks`: Lightning's order of callbacks.
- `_signal_connector`: Lightning's signal handlers run collectives wherever a signal finds a rank.
- `_teardown`: moves the net to the CPU, after a training and after an error.

Ranks (rendezvous.py)
- `_init_dist_connection`, `_get_process_group_backend`, `_process_group_backend`, `_timeout`: what
  DDPStrategy uses in `setup_distributed`, which leaves the meeting point to the environment.

Modules of torch (step.py)
- `_forward_hooks`, `_forward_pre_hooks`, `_backward_hooks`, `_backward_pre_hooks`: whether code
  looks at a pass, which a CUDA graph would not let it do.

Loggers and monitors (observers.py)
- `_version`, `_get_next_version`, `_kwargs`: which files a logger writes next, and from which step
  on.
- `_PSUTIL_AVAILABLE`: whether DeviceStatsMonitor can work.
"""

from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
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
        limit: number of batches as an int, or the fraction of them as a float.
        stage: training or validation, for the message.

    Raises:
        MisconfigurationException: the fraction is less than one batch.
    """
    return _parse_num_batches(stage, batches, limit)


class Trainer(pl.Trainer):
    """Lightning's trainer with this package's evaluation loop and, after `prepare_run`, fit loop.

    On a GPU, cuDNN measures which of its algorithms is fastest for each shape, unless `benchmark`
    or `deterministic` says otherwise (torchvision's reference script does the same).

    Args:
        matmul_precision: precision of products of single-precision matrices, see
            torch.set_float32_matmul_precision; null: `high` (TF32) on a GPU, where torch computes
            single-precision convolutions in TF32 too, else as torch is set.
        **kwargs: arguments of pytorch_lightning.Trainer.

    Attributes:
        weights_step: optimizer steps done by the weights that are evaluated; loggers get the
            metrics at this step. None: the evaluation loop passes no metrics to loggers.
    """

    def __init__(
        self,
        *,
        matmul_precision: Literal["highest", "high", "medium"] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if self.strategy.root_device.type == "cuda":
            if kwargs.get("benchmark") is None and not kwargs.get("deterministic"):
                torch.backends.cudnn.benchmark = True
            matmul_precision = matmul_precision or "high"
        if matmul_precision:
            torch.set_float32_matmul_precision(matmul_precision)
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
        """Return an evaluation loop with the inference mode that the trainer was given."""
        inference_mode = self.validate_loop.inference_mode
        return EvaluationLoop(self, fn, stage, inference_mode=inference_mode)

    def meet(self, number: int) -> int:
        """Wait until all ranks have come here, and return the first rank's number."""
        self.strategy.setup_environment()
        self.strategy.barrier()
        return self.strategy.broadcast(number)

    def prepare_run(
        self, rundir: RunDir, checkpoints: Checkpoints, callbacks: list[Callback], hang_s: float
    ) -> None:
        """Prepare to train a run.

        Args:
            rundir: directory of the run.
            checkpoints: callback that saves the run's own checkpoints.
            callbacks: all callbacks of the run, `checkpoints` among them. They run before any
                ModelCheckpoint of the user, which needs the metrics that they record.
            hang_s: seconds after which a rank that does not answer ends the others.
        """
        self.callbacks = self._callback_connector._reorder_callbacks([*self.callbacks, *callbacks])
        self.fit_loop = FitLoop(self, rundir, checkpoints, hang_s)
        self.fit_loop.listen_in(self.test_loop)
        self._checkpoint_connector._select_ckpt_path = _given_path
        if isinstance(self.strategy.checkpoint_io, GivenCheckpointIO):
            self.strategy.checkpoint_io.ours = rundir.candidates()

    def fit(self, *args: Any, **kwargs: Any) -> None:
        """Train; refuse if the trainer is already running."""
        self._refuse_while_at_work("fit")
        super().fit(*args, **kwargs)

    def validate(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate the validation images; refuse if the trainer is already running."""
        self._refuse_while_at_work("validate")
        return super().validate(*args, **kwargs)

    def test(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate the test images; refuse if the trainer is already running."""
        self._refuse_while_at_work("test")
        return super().test(*args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Predict; refuse if the trainer is already running."""
        self._refuse_while_at_work("predict")
        return super().predict(*args, **kwargs)

    def _teardown(self) -> None:
        """Drop the gradients before the net moves to the CPU.

        Gradients of a net that is compiled with `reduce-overhead` or `max-autotune` lie in the
        memory of a CUDA graph, which the next replay overwrites; torch refuses to read them later.
        """
        if self.lightning_module is not None:
            if isinstance(self.fit_loop, FitLoop):
                self.fit_loop.graphs.clear()
                self.lightning_module.graphs = None
            self.lightning_module.zero_grad()
        super()._teardown()

    def _refuse_while_at_work(self, method: str) -> None:
        """Refuse a call from a hook, which would overwrite the state of the running trainer.

        Raises:
            UserError: a callback or the task has called a method that runs a loop.
        """
        if self.state.status == TrainerStatus.RUNNING or self.state.stage is not None:
            raise UserError(
                f"a callback has called trainer.{method} while the trainer is at work: read "
                "trainer.callback_metrics in on_validation_end instead, or pass batches to "
                "pl_module there"
            )


def _do_nothing() -> None:
    """Register no signal handlers, in place of Lightning's method."""


def _given_path(state_fn: TrainerFn, ckpt_path: Path | None, **_: bool) -> Path | None:
    """Return the checkpoint that a run continues from, if there is one.

    If there is none, Lightning's method would load the file of an OnExceptionCheckpoint or the
    hpc_ckpt_*.ckpt of a Slurm job, even if the file belongs to another run.
    """
    return ckpt_path
