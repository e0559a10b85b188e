"""Training loop with Lightning's plugins and hooks, exact resume, and no device wait in the step.

Lightning 2.6's own loop broadcasts and waits for the device in every step under DDP, replays or
skips batches when it resumes in the middle of an epoch, and hangs if a rank has nothing to
evaluate. This loop counts optimizer steps. Its position is (epoch, steps done in the epoch, whether
the epoch is evaluated). During the steps, ranks communicate only through gradients and `Agreement`.
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
from lightning_resnet.engine.graph import Graphs
from lightning_resnet.engine.halving import Hyperband, verdict
from lightning_resnet.engine.signals import Stopped, request
from lightning_resnet.engine.step import Step, overrides, why_not
from lightning_resnet.engine.transfer import on_device, timed
from lightning_resnet.engine.watchdog import Watchdog
from lightning_resnet.errors import Superseded, UserError
from lightning_resnet.runs.checkpoint import POSITION
from lightning_resnet.runs.directory import RunDir


class FitLoop(_FitLoop):
    """Lightning's fit loop, which trains from any optimizer step on and can stop after any.

    Args:
        trainer: trainer that the loop is for; its own fit loop gives the limits.
        rundir: directory of the run.
        checkpoints: callback that saves the run's own checkpoints.
        hang_s: seconds after which a rank that does not answer ends the others.

    Attributes:
        epoch: number of the current epoch, from 0.
        steps: optimizer steps done in the current epoch.
        evaluated: whether the current epoch's evaluation is over.
        waits: seconds that the steps have waited: "read" for the loader, "data" for the loader and
            the copy to the device.
        hyperband: options by which the run may end before its last epoch; None: it does not.
        halved: why hyperband has ended the run; empty if it has not.
        parts: micro-batches of an optimizer step.
        max_batches: micro-batches of an epoch, a multiple of `parts`.
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
        self.rundir = rundir
        self.checkpoints = checkpoints
        self.hang_s = hang_s
        self.epoch = 0
        self.steps = 0
        self.evaluated = False
        self._evaluated_step = -1  # global step of this attempt's last evaluation
        self.waits = {"read": 0.0, "data": 0.0}
        self.parts = trainer.accumulate_grad_batches
        self.graphs = Graphs()
        self.hyperband: Hyperband | None = None
        self.halved = ""

    # -- position ----------------------------------------------------------------------------------

    def state_dict(self, destination: dict | None = None, prefix: str = "") -> dict[str, Any]:
        """Return the position of the training.

        `steps` optimizer steps of `epoch` are done, `global_step` in all; `evaluated` tells whether
        the evaluation of the epoch is over. The counters of Lightning's own loop tell the same, so
        that a stock Trainer continues there.
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
        """Return the position as Lightning 2.6's own loop saves it.

        The counters are those at the end of a batch, or those at the end of an epoch if the epoch
        is evaluated or no step of the next one is done.
        """
        ended = self.evaluated or not self.steps
        # Number of epochs that have begun.
        epochs = self.epoch + self.evaluated if ended else self.epoch + 1
        steps = self.steps
        trained = self.epoch_loop.global_step
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
        epoch = _ProcessedTracker(ready=epochs, started=epochs, processed=epochs - unfinished)
        epoch.completed = max(0, epochs - 1)
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
            "epoch_progress": _Progress(epoch, epoch).state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any], prefix: str = "") -> None:
        """Restore the position; if the epoch is evaluated, continue with the next one."""
        position = state_dict.get(POSITION, state_dict)  # older checkpoints hold the position alone
        over = position["evaluated"]
        self.trainer.should_stop = position["should_stop"]
        self.epoch = position["epoch"] + over
        self.steps = 0 if over else position["steps"]
        self._tell(position["global_step"])

    def _tell(self, global_step: int) -> None:
        """Set Lightning's counters, which hooks and `trainer.current_epoch` read."""
        self.epoch_progress.current = _ProcessedTracker(*[self.epoch] * 4)
        self.epoch_progress.total = _ProcessedTracker(*[self.epoch] * 4)
        self._counter.ready = global_step
        self._counter.completed = global_step
        self.epoch_loop._batches_that_stepped = global_step

    @property
    def _counter(self) -> Any:
        """Lightning's counter of optimizer steps."""
        return self.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total

    @property
    def done(self) -> bool:
        """Whether the training is over: it was stopped early, or all epochs or steps are done."""
        ended = self._stops_early(self.epoch) or self._steps_are_up
        # A training that ends within an epoch has yet to evaluate that epoch.
        return self.epoch >= self.max_epochs >= 0 or (ended and not self.steps)

    @property
    def _steps_are_up(self) -> bool:
        """Whether `trainer.max_steps` optimizer steps are done."""
        return self.max_steps >= 0 and self.epoch_loop.global_step >= self.max_steps

    def _stops_early(self, epochs: int) -> bool:
        """Tell whether `trainer.should_stop` is set and the training has its minimum length.

        A callback must set `should_stop` on all ranks, as EarlyStopping does.

        Args:
            epochs: number of epochs that are done.
        """
        if not self.trainer.should_stop:
            return False
        return epochs >= (self.min_epochs or 0) and self.epoch_loop.global_step >= (
            self.min_steps or 0
        )

    # -- running -----------------------------------------------------------------------------------

    def setup_data(self) -> None:
        """Build the training loader, and set `max_batches` to a number of complete optimizer steps.

        Raises:
            UserError: no complete step is left.
        """
        if self._combined_loader is not None:
            return
        trainer = self.trainer
        self.loader = call._call_lightning_datamodule_hook(trainer, "train_dataloader")
        self._combined_loader = CombinedLoader(self.loader)  # for trainer.train_dataloader
        batches = _parse_num_batches(
            RunningStage.TRAINING, len(self.loader), trainer.limit_train_batches
        )
        self.max_batches = batches // self.parts * self.parts
        if not self.max_batches:
            raise UserError(
                f"no optimizer step is left of {len(self.loader)} batches: raise "
                "trainer.limit_train_batches"
            )

    def run(self) -> None:
        """Train from the position of the checkpoint on; signals wait for the end of a step.

        Raises:
            Stopped: a signal to any rank has ended the training, after a save.
            Superseded: a newer attempt has taken over the run.
            UserError: the ranks have loaded different checkpoints.
        """
        self.setup_data()
        # Signals stay deferred until the attempt ends: `cli.fit._attempt` records the outcome.
        request.deferred = True
        self.agreement = Agreement(self.hang_s)
        if self.agreement.maximum(self.trainer.global_step) != self.trainer.global_step:
            raise UserError(
                "ranks found different checkpoints: do they see the same folder? the same command "
                "continues"
            )
        request.joined = True  # all ranks have met; from now on they end only by agreement
        self._setup_evaluation()
        self.graphs.setup(self.trainer, why_not(self.trainer))
        self.trainer.lightning_module.graphs = self.graphs
        if not self.done:
            settle_buckets(self.trainer, self.loader, self.epoch)
        call._call_callback_hooks(self.trainer, "on_train_start")
        call._call_lightning_module_hook(self.trainer, "on_train_start")
        call._call_strategy_hook(self.trainer, "on_train_start")
        self.optimizer = self.trainer.optimizers[0]
        self._grant(*self.agreement.check_now(*self._wish()))
        while not self.done and not self._halve():
            with self.trainer.profiler.profile("run_training_epoch"):
                self._train_epoch()
                self._evaluate()
                # A callback may withdraw its request to stop in the evaluation.
                while self._goes_on:
                    self._train_steps()
                    self._evaluate()
            self._end_epoch()
        self.agreement.close()
        self.checkpoints.finish()
        call._call_callback_hooks(self.trainer, "on_train_end")
        call._call_lightning_module_hook(self.trainer, "on_train_end")
        call._call_strategy_hook(self.trainer, "on_train_end")

    def _train_epoch(self) -> None:
        """Train the remaining steps of the current epoch.

        Raises:
            UserError: a callback has replaced the optimizer, or changed how micro-batches make
                optimizer steps.
        """
        trainer = self.trainer
        steps = self.max_batches // self.parts
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
                "a callback has changed how batches make optimizer steps, which --data.batch_size "
                "fixes for all of the training: leave it out"
            )
        if trainer.optimizers[0] is not self.optimizer:
            raise UserError(
                "a callback has put another optimizer in place of the training's, which a run that "
                "continues would not have: leave it out, or give as --model.optimizer a class of "
                "yours that does both"
            )
        self._train_steps()

    @contextmanager
    def _once_more(self) -> Iterator[None]:
        """Undo what an epoch's first hooks change when a continued run calls them a second time.

        Lightning does not call these hooks in a continued epoch, and a callback would lack what no
        checkpoint holds, such as random numbers that the hook drew. The state in the checkpoint
        already has the effect of the hooks. Therefore weights, frozen parameters, the optimizer and
        the callbacks' states are restored after the hooks.
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
            # BaseFinetuning warns, as its hook freezes the same parameters a second time.
            warnings.filterwarnings("ignore", "The provided params to be frozen already exist")
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
        """Whether steps of this epoch are left, and the training has not been stopped."""
        ended = self._steps_are_up or self._stops_early(self.epoch)
        return self.steps < self.max_batches // self.parts and not ended

    def _train_steps(self) -> None:
        """Train the epoch's steps from the position on, until the epoch or the training ends."""
        trainer = self.trainer
        for optimizer in trainer.optimizers:
            # A schedule-free optimizer trains with other weights than those it evaluates.
            if hasattr(optimizer, "train"):
                optimizer.train()
        if not self._goes_on:
            return
        read = timed(self.loader.batches(self.epoch, self.steps * self.parts), self.waits, "read")
        batches = timed(on_device(read, trainer.strategy.root_device), self.waits, "data")
        step = Step(trainer, self.parts, self.graphs)
        try:
            while self._goes_on:
                self.epoch_loop._batches_that_stepped = trainer.global_step
                trainer.lightning_module.set_learning_rate()
                step(batches, self.steps * self.parts, self._step_done)
                self._grant(*self.agreement.check(*self._wish()))
        finally:
            batches.close()  # ends the threads that read ahead

    def _step_done(self) -> None:
        """Count an optimizer step."""
        self.steps += 1

    def _tell_batches(self) -> None:
        """Set Lightning's counters of batches at the start of an epoch, or of its remainder."""
        progress = self.epoch_loop.batch_progress
        progress.current = _ProcessedTracker(*[self.steps * self.parts] * 4)
        progress.total = _ProcessedTracker(*[self.trainer.global_step * self.parts] * 4)
        self._val_loop.batch_progress.total.reset()
        progress.is_last_batch = self.steps * self.parts == self.max_batches

    # -- evaluation --------------------------------------------------------------------------------

    @property
    def _val_loop(self) -> EvaluationLoop:
        """Validation loop of the training."""
        return self.epoch_loop.val_loop

    def _setup_evaluation(self) -> None:
        """Build the validation loaders."""
        self.trainer.validating = True
        self._val_loop.setup_data()
        self.trainer.training = True

    def _evaluate(self) -> None:
        """Evaluate the net after every n-th epoch and after the last.

        All ranks evaluate with the buffers of the first rank, such as the running statistics of
        batch norm.
        """
        trainer = self.trainer
        every = self.trainer.check_val_every_n_epoch
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
        # No step was made since the last evaluation: `should_stop` was set at the epoch's start.
        if self._evaluated_step == trainer.global_step:
            return
        self._evaluated_step = trainer.global_step
        if trainer.world_size > 1:
            for buffer in trainer.lightning_module.buffers():
                dist.broadcast(buffer, 0)
        # Lightning counts the last step after the evaluation, and logs at the number of the step,
        # counted from 0.
        self.epoch_loop._batches_that_stepped = trainer.global_step - 1
        logging = trainer._logger_connector
        first_batch = logging._first_loop_iter  # restored below, because the epoch may continue
        trainer.validating = True
        call._call_lightning_module_hook(trainer, "on_validation_model_zero_grad")
        self._val_loop.run()
        trainer.training = True
        logging._first_loop_iter = first_batch

    def _end_epoch(self) -> None:
        """Call the hooks of the epoch's end, save a checkpoint, and go to the next epoch."""
        self.evaluated = True
        logging = self.trainer._logger_connector
        logging.epoch_end_reached()
        self.epoch_progress.increment_processed()
        self.epoch_loop._batches_that_stepped = self.trainer.global_step
        call._call_callback_hooks(self.trainer, "on_train_epoch_end", monitoring_callbacks=False)
        call._call_lightning_module_hook(self.trainer, "on_train_epoch_end")
        call._call_callback_hooks(self.trainer, "on_train_epoch_end", monitoring_callbacks=True)
        logging.on_epoch_end()
        # Lightning logs the values of an epoch at the number of its last step, counted from 0.
        self.epoch_loop._batches_that_stepped -= 1
        logging.update_train_epoch_metrics()
        self.epoch_loop._batches_that_stepped += 1
        self.checkpoints.save(self.trainer)
        self.epoch = self.epoch + 1
        self.steps = 0
        self.evaluated = False
        self._tell(self.trainer.global_step)

    def _halve(self) -> bool:
        """Tell whether hyperband ends the run here, between two epochs; all ranks do the same.

        `trainer.should_stop` is not set, so that the checkpoint can be continued without hyperband.
        """
        if self.hyperband is None or self.steps or not self.epoch:
            return False
        step = self.trainer.global_step
        if self.trainer.is_global_zero:
            self.halved = verdict(self.rundir, self.hyperband, step)
        is_over = bool(self.agreement.maximum(bool(self.halved)))
        if is_over:
            self.halved = self.halved or "the first rank tells why"
        return is_over

    # -- agreement ---------------------------------------------------------------------------------

    def _wish(self) -> tuple[Wish, int]:
        """Return what this rank wants, and the number of the signal that asks for it, else 0."""
        if request.signum:
            return Wish.STOP, request.signum
        if self.rundir.superseded:
            return Wish.GIVE_WAY, 0
        return (Wish.SAVE if self.checkpoints.due else Wish.NOTHING), 0

    def listen_in(self, loop: EvaluationLoop) -> None:
        """Let an evaluation loop of this training stop between two batches.

        Args:
            loop: validation or test loop.
        """
        loop.between_batches = self._between_batches
        loop.most = self._most

    def _most(self, number: int) -> int:
        """Return the largest number of all ranks."""
        return self.agreement.maximum(number)

    def _between_batches(self) -> None:
        """Do what all ranks agreed on, between two batches of an evaluation."""
        self._grant(*self.agreement.check(*self._wish()), training=False)

    def between_measured(self) -> None:
        """Do for `precise_bn`, between two batches, what hooks do in an evaluation.

        Tell that the training goes on, and do what all ranks agreed on; all ranks must call this
        method equally often.
        """
        self.rundir.alive(self.trainer.global_step)
        for callback in self.trainer.callbacks:
            if isinstance(callback, Watchdog):
                callback.alive()
        self._between_batches()

    def _grant(self, wish: Wish, signum: int, training: bool = True) -> None:
        """Do what all ranks agreed on: save, or end the training.

        Args:
            wish: highest wish of all ranks.
            signum: number of the signal that asked to stop.
            training: whether a training step has just ended; during an evaluation, a save that is
                due waits.

        Raises:
            Stopped: a signal to any rank has ended the training, after a save.
            Superseded: a newer attempt has taken over the run.
        """
        if wish == Wish.GIVE_WAY:
            raise Superseded(self.rundir.path)
        if wish == Wish.NOTHING or (wish == Wish.SAVE and not training):
            return
        saved = self.checkpoints.save(self.trainer)
        if wish == Wish.STOP:
            saved = self.checkpoints.finish(must=False) and saved
            # The other ranks wait for the first, which writes: a launcher may kill the remaining
            # ranks soon after one has ended.
            all_saved = bool(self.agreement.maximum(saved and self.trainer.is_global_zero))
            raise Stopped(signum, all_saved, self.checkpoints.error)
