"""The training loop: Lightning's plugins and hooks, a position that can be resumed exactly, no wait in the step.

Lightning 2.6's own loop broadcasts and waits for the device in every step under DDP, replays or skips batches when it
resumes in the middle of an epoch, and hangs where a rank has nothing to evaluate. This one counts optimizer steps:
its position is (epoch, steps done in it, evaluated?), and ranks talk only through gradients and `Agreement`.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loops.fit_loop import _FitLoop
from pytorch_lightning.loops.progress import (
    _BatchProgress,
    _OptimizationProgress,
    _OptimizerProgress,
    _ProcessedTracker,
    _Progress,
)
from pytorch_lightning.trainer import call
from pytorch_lightning.trainer.connectors.data_connector import _parse_num_batches
from pytorch_lightning.trainer.states import RunningStage, TrainerFn
from pytorch_lightning.utilities import CombinedLoader
from torch import distributed as dist

from lightning_resnet.engine.agreement import Agreement, Wish
from lightning_resnet.engine.checkpoints import Checkpoints
from lightning_resnet.engine.ddp_buckets import settle_buckets
from lightning_resnet.engine.evaluation_loop import EvaluationLoop
from lightning_resnet.engine.signals import Stopped, request
from lightning_resnet.engine.step import Step, overrides
from lightning_resnet.engine.transfer import on_device, timed
from lightning_resnet.errors import Superseded, UserError
from lightning_resnet.runs.checkpoint import POSITION
from lightning_resnet.runs.directory import RunDir


class FitLoop(_FitLoop):
    """See the file.

    Args:
        trainer: whose loop it becomes.
        rundir: of the run.
        checkpoints: save what this loop and the net are.
        hang_s: seconds after which a rank that does not answer ends the others.

    Attributes:
        waits: seconds that steps have waited: "read" for the loader, "data" for it and the way to the device.
    """

    def __init__(
        self, trainer: pl.Trainer, rundir: RunDir, checkpoints: Checkpoints, hang_s: float
    ) -> None:
        former = trainer.fit_loop
        super().__init__(trainer, former.min_epochs, former.max_epochs)
        self.epoch_loop = former.epoch_loop
        self.epoch_loop.val_loop = EvaluationLoop(
            trainer, TrainerFn.FITTING, RunningStage.VALIDATING, verbose=False, inference_mode=False
        )
        self.listen_in(self.epoch_loop.val_loop)
        self.rundir, self.checkpoints, self.hang_s = rundir, checkpoints, hang_s
        self.epoch, self.steps, self.evaluated = 0, 0, False
        self._evaluated_step = -1  # optimizer steps done at this attempt's last evaluation
        self.waits = {"read": 0.0, "data": 0.0}
        self.parts = trainer.accumulate_grad_batches

    # -- position --------------------------------------------------------------------------------------------------

    def state_dict(self, destination: dict | None = None, prefix: str = "") -> dict[str, Any]:
        """The position: `steps` optimizer steps of `epoch` are done, `global_step` in all; is that evaluated?.

        Beside it stands the same in Lightning's words, so that a Trainer with Lightning's own loop continues there.
        """
        position = {
            "epoch": self.epoch,
            "steps": self.steps,
            "global_step": self.epoch_loop.global_step,
            "evaluated": self.evaluated,
            "should_stop": self.trainer.should_stop,
        }
        return super().state_dict() | self._in_lightnings_words() | {POSITION: position}

    def _in_lightnings_words(self) -> dict[str, Any]:
        """What Lightning 2.6's loop keeps in a batch's end, or in an epoch's where that is evaluated."""
        ended = (
            self.evaluated or not self.steps
        )  # no step of an epoch is done: the one before has ended
        epochs = self.epoch + self.evaluated if ended else self.epoch + 1  # begun
        steps, trained = self.steps, self.epoch_loop.global_step
        if ended and not self.evaluated and trained and self._combined_loader is not None:
            steps = self.max_batches // self.parts
        unfinished = 0 if ended else 1
        optimizer = _OptimizerProgress()
        batches = _BatchProgress(is_last_batch=steps * self.parts == self.max_batches)
        for progress, n in ((optimizer.step.total, trained), (optimizer.step.current, steps)):
            progress.ready = progress.completed = n
        for progress, n in (
            (batches.total, trained * self.parts),
            (batches.current, steps * self.parts),
        ):
            progress.ready = progress.started = progress.processed = n
            progress.completed = n - unfinished
        whole = _ProcessedTracker(ready=epochs, started=epochs, processed=epochs - unfinished)
        whole.completed = max(0, epochs - 1)
        val_batches = _BatchProgress(is_last_batch=True)
        return {
            "state_dict": {
                "combined_loader": [{"epoch": max(0, epochs - 1), "batch": steps * self.parts}]
            },
            "epoch_loop.state_dict": {"_batches_that_stepped": trained},
            "epoch_loop.batch_progress": batches.state_dict(),
            "epoch_loop.automatic_optimization.optim_progress": _OptimizationProgress(
                optimizer
            ).state_dict(),
            "epoch_loop.val_loop.batch_progress": val_batches.state_dict(),
            "epoch_progress": _Progress(whole, whole).state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any], prefix: str = "") -> None:
        """Take it back; an evaluated epoch is over."""
        position = state_dict.get(POSITION, state_dict)  # older checkpoints have nothing else
        over = position["evaluated"]
        self.trainer.should_stop = position["should_stop"]
        self.epoch, self.steps = position["epoch"] + over, 0 if over else position["steps"]
        self._tell(position["global_step"])

    def _tell(self, global_step: int) -> None:
        """Lightning's counters, which hooks and `trainer.current_epoch` read."""
        self.epoch_progress.current = _ProcessedTracker(*[self.epoch] * 4)
        self.epoch_progress.total = _ProcessedTracker(*[self.epoch] * 4)
        self._counter.ready = global_step
        self._counter.completed = global_step
        self.epoch_loop._batches_that_stepped = global_step

    @property
    def _counter(self) -> Any:
        return self.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total

    @property
    def done(self) -> bool:
        """Trained as long as was asked for."""
        ended = self._stops_early(self.epoch) or self._steps_are_up
        return self.epoch >= self.max_epochs >= 0 or (
            ended and not self.steps
        )  # else it is still to be evaluated

    @property
    def _steps_are_up(self) -> bool:
        return self.max_steps >= 0 and self.epoch_loop.global_step >= self.max_steps

    def _stops_early(self, epochs: int) -> bool:
        """Tell whether somebody has set `trainer.should_stop` and the training is long enough; alike on all ranks.

        Args:
            epochs: that are done.
        """
        if not self.trainer.should_stop:
            return False
        return epochs >= (self.min_epochs or 0) and self.epoch_loop.global_step >= (
            self.min_steps or 0
        )

    # -- running ---------------------------------------------------------------------------------------------------

    def setup_data(self) -> None:
        """The training loader and its length in whole optimizer steps."""
        if self._combined_loader is not None:
            return
        trainer = self.trainer
        self.loader = call._call_lightning_datamodule_hook(trainer, "train_dataloader")
        self._combined_loader = CombinedLoader(self.loader)  # what trainer.train_dataloader shows
        batches = _parse_num_batches(
            RunningStage.TRAINING, len(self.loader), trainer.limit_train_batches
        )
        self.max_batches = batches // self.parts * self.parts
        if not self.max_batches:
            raise UserError(
                f"no optimizer step is left of {len(self.loader)} batches: raise trainer.limit_train_batches"
            )

    def run(self) -> None:
        """Train from where the checkpoint was; signals wait for the end of a step.

        Raises:
            Stopped: by a signal to any rank, after saving.
            Superseded: a newer attempt has the run.
        """
        self.setup_data()
        request.deferred = True  # to the end of the attempt: see `fit._attempt`
        self.agreement = Agreement(self.hang_s)
        if self.agreement.maximum(self.trainer.global_step) != self.trainer.global_step:
            raise UserError(
                "ranks found different checkpoints: do they see the same folder? the same command continues"
            )
        request.joined = True  # all ranks have met: none leaves any more but by an agreement
        self._setup_evaluation()
        if not self.done:
            settle_buckets(self.trainer, self.loader, self.epoch)
        call._call_callback_hooks(self.trainer, "on_train_start")
        call._call_lightning_module_hook(self.trainer, "on_train_start")
        call._call_strategy_hook(self.trainer, "on_train_start")
        self.optimizer = self.trainer.optimizers[0]
        self._grant(*self.agreement.check_now(*self._wish()))
        while not self.done:
            with self.trainer.profiler.profile("run_training_epoch"):
                self._train_epoch()
                self._evaluate()
                while (
                    self._goes_on
                ):  # somebody wanted to stop, and no longer does after the evaluation
                    self._train_steps()
                    self._evaluate()
            self._end_epoch()
        self.agreement.close()
        self.checkpoints.finish()
        call._call_callback_hooks(self.trainer, "on_train_end")
        call._call_lightning_module_hook(self.trainer, "on_train_end")
        call._call_strategy_hook(self.trainer, "on_train_end")

    def _train_epoch(self) -> None:
        """What is left of it."""
        trainer, steps = self.trainer, self.max_batches // self.parts
        trainer.training = True
        torch.set_grad_enabled(True)
        if self.steps < steps:
            trainer.lightning_module.set_learning_rate()
        self.epoch_progress.increment_ready()
        with self._once_more() if self.steps else nullcontext():
            call._call_callback_hooks(trainer, "on_train_epoch_start")
            call._call_lightning_module_hook(trainer, "on_train_epoch_start")
        self.epoch_progress.increment_started()
        self._tell_batches()
        if trainer.accumulate_grad_batches != self.parts or self._skip_backward:
            raise UserError(
                "a callback has changed how batches make optimizer steps, which --data.batch_size fixes for the whole "
                "training: leave it out"
            )
        if trainer.optimizers[0] is not self.optimizer:
            raise UserError(
                "a callback has put another optimizer in place of the training's, which a run that continues would not "
                "have: leave it out, or give as --model.optimizer a class of yours that does both"
            )
        self._train_steps()

    @contextmanager
    def _once_more(self) -> Iterator[None]:
        """Let an epoch's first hooks run again where a run continues within it; what a checkpoint holds is put back.

        Lightning leaves them out there, and a callback would miss what it keeps nowhere, such as what it drew. Weights,
        what is frozen, the optimizer and the callbacks' states have been through these hooks already.
        """
        task = self.trainer.lightning_module
        callbacks = [
            c for c in self.trainer.callbacks if overrides(c, "on_train_epoch_start", Callback)
        ]
        if not callbacks and not overrides(task, "on_train_epoch_start", pl.LightningModule):
            yield
            return
        weights = deepcopy(task.state_dict())
        learns = {p: p.requires_grad for p in task.parameters()}
        rates = deepcopy(self.optimizer.state_dict())
        states = [(callback, deepcopy(callback.state_dict())) for callback in callbacks]
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "The provided params to be frozen already exist"
            )  # of BaseFinetuning
            yield
        task.load_state_dict(weights)
        for p, learned in learns.items():
            p.requires_grad_(learned)
        self.optimizer.load_state_dict(rates)
        for callback, state in states:
            if state:
                callback.load_state_dict(state)

    @property
    def _goes_on(self) -> bool:
        """Whether steps of this epoch are left, and nobody has asked to stop."""
        ended = self._steps_are_up or self._stops_early(self.epoch)
        return self.steps < self.max_batches // self.parts and not ended

    def _train_steps(self) -> None:
        """The epoch's steps, from the position on."""
        trainer = self.trainer
        for optimizer in trainer.optimizers:
            if hasattr(
                optimizer, "train"
            ):  # a schedule-free optimizer: the weights to train at are not the result
                optimizer.train()
        if not self._goes_on:
            return
        read = timed(self.loader.batches(self.epoch, self.steps * self.parts), self.waits, "read")
        batches = timed(on_device(read, trainer.strategy.root_device), self.waits, "data")
        step = Step(trainer, self.parts)
        try:
            while self._goes_on:
                self.epoch_loop._batches_that_stepped = trainer.global_step
                trainer.lightning_module.set_learning_rate()
                step(batches, self.steps * self.parts, self._step_done)
                self._grant(*self.agreement.check(*self._wish()))
        finally:
            batches.close()  # its threads end with it

    def _step_done(self) -> None:
        self.steps += 1

    def _tell_batches(self) -> None:
        """Lightning's count of batches, as the epoch begins or goes on."""
        progress = self.epoch_loop.batch_progress
        progress.current = _ProcessedTracker(*[self.steps * self.parts] * 4)
        progress.total = _ProcessedTracker(*[self.trainer.global_step * self.parts] * 4)
        self._val_loop.batch_progress.total.reset()
        progress.is_last_batch = self.steps * self.parts == self.max_batches

    # -- evaluation ------------------------------------------------------------------------------------------------

    @property
    def _val_loop(self) -> EvaluationLoop:
        return self.epoch_loop.val_loop

    def _setup_evaluation(self) -> None:
        self.trainer.validating = True
        self._val_loop.setup_data()
        self.trainer.training = True

    def _evaluate(self) -> None:
        """After every n-th epoch and the last; all ranks evaluate the first one's norm statistics."""
        trainer, every = self.trainer, self.trainer.check_val_every_n_epoch
        for optimizer in trainer.optimizers:
            if hasattr(optimizer, "eval"):
                optimizer.eval()
        last = (
            self._stops_early(self.epoch + 1)
            or self._steps_are_up
            or self.epoch + 1 == self.max_epochs
        )
        if (
            not trainer.enable_validation
            or self._val_loop.skip
            or (every and (self.epoch + 1) % every and not last)
        ):
            return
        if (
            self._evaluated_step == trainer.global_step
        ):  # an epoch without steps, as should_stop was set before them
            return
        self._evaluated_step = trainer.global_step
        if trainer.world_size > 1:
            for buffer in trainer.lightning_module.buffers():
                dist.broadcast(buffer, 0)
        # Lightning counts the last step after the evaluation: what is logged in it stands at the step's number from 0
        self.epoch_loop._batches_that_stepped = trainer.global_step - 1
        logging = trainer._logger_connector
        first_batch = logging._first_loop_iter  # of the epoch, which may go on
        trainer.validating = True
        call._call_lightning_module_hook(trainer, "on_validation_model_zero_grad")
        self._val_loop.run()
        trainer.training = True
        logging._first_loop_iter = first_batch

    def _end_epoch(self) -> None:
        self.evaluated = True
        logging = self.trainer._logger_connector
        logging.epoch_end_reached()
        self.epoch_progress.increment_processed()
        self.epoch_loop._batches_that_stepped = self.trainer.global_step
        call._call_callback_hooks(self.trainer, "on_train_epoch_end", monitoring_callbacks=False)
        call._call_lightning_module_hook(self.trainer, "on_train_epoch_end")
        call._call_callback_hooks(self.trainer, "on_train_epoch_end", monitoring_callbacks=True)
        logging.on_epoch_end()
        self.epoch_loop._batches_that_stepped -= (
            1  # Lightning's number for an epoch's values: its last step's, from 0
        )
        logging.update_train_epoch_metrics()
        self.epoch_loop._batches_that_stepped += 1
        self.checkpoints.save(self.trainer)
        self.epoch, self.steps, self.evaluated = self.epoch + 1, 0, False
        self._tell(self.trainer.global_step)

    # -- agreement -------------------------------------------------------------------------------------------------

    def _wish(self) -> tuple[Wish, int]:
        """Return what this rank wants, and the signal that asks for it, else 0."""
        if request.signum:
            return Wish.STOP, request.signum
        if self.rundir.superseded:
            return Wish.GIVE_WAY, 0
        return (Wish.SAVE if self.checkpoints.due else Wish.NOTHING), 0

    def listen_in(self, loop: EvaluationLoop) -> None:
        """Let an evaluation of this training stop between two batches."""
        loop.between_batches = self._between_batches
        loop.most = self._most

    def _most(self, number: int) -> int:
        return self.agreement.maximum(number)

    def _between_batches(self) -> None:
        self._grant(*self.agreement.check(*self._wish()), training=False)

    def _grant(self, wish: Wish, signum: int, training: bool = True) -> None:
        """Do what all ranks agreed on; during an evaluation, a save can wait.

        Raises:
            Stopped: by a signal to any rank, after saving.
            Superseded: a newer attempt has the run.
        """
        if wish == Wish.GIVE_WAY:
            raise Superseded(self.rundir.path)
        if wish == Wish.NOTHING or (wish == Wish.SAVE and not training):
            return
        saved = self.checkpoints.save(self.trainer)
        if wish == Wish.STOP:
            saved = self.checkpoints.finish(must=False) and saved
            # the others wait for the first, which writes: a launcher may kill it soon after one of them has left
            all_saved = bool(self.agreement.maximum(saved and self.trainer.is_global_zero))
            raise Stopped(signum, all_saved, self.checkpoints.error)
