"""Run one optimizer step without Lightning's overhead, which equals the time of a small net's step.

Only overridden hooks are called. Lightning's own code runs the step where it does more than this
module: with a profiler, with precisions that scale the loss or convert the batch (16-mixed, 64,
...), with optimizers that call the forward pass themselves, and with tasks that override
`training_step`, `backward` or the hooks of the optimizer.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, LambdaCallback
from pytorch_lightning.loops.utilities import _block_parallel_sync_behavior
from pytorch_lightning.plugins.precision import MixedPrecision, Precision
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.trainer import call
from torch import nn

from lightning_resnet.engine.graph import Graphs
from lightning_resnet.errors import UserError
from lightning_resnet.training.hooks import TrainingHooks
from lightning_resnet.training.task import ClassificationTask

# Hooks that are called in each micro-batch or step, if they are overridden.
HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)
# Those of them that are called in the middle of a step, so that no graph can hold the step.
INNER_HOOKS = HOOKS[1:5]
# Packages whose modules and callbacks do the same in every step.
KNOWN_PACKAGES = ("torch", "torchvision", "timm", "lightning_resnet", "pytorch_lightning")
# Hooks of a task that only Lightning's own code calls.
OPTIMIZING = ("optimizer_step", "optimizer_zero_grad", "backward")


def overrides(owner: Any, hook: str, base: type) -> bool:
    """Tell whether an object overrides a hook, in its class or in the object itself.

    LambdaCallback does the latter.

    Args:
        owner: the object.
        hook: name of a method of `base`.
        base: class with the default version of the hook.
    """
    return getattr(getattr(owner, hook), "__func__", None) is not getattr(base, hook)


def why_not(trainer: pl.Trainer) -> str | None:
    """Return why the steps of a training cannot be captured in a graph, or None.

    A graph repeats what the kernels of one step did, and nothing that Python code decides. Unless
    the user asks for a graph, every part of a step must be known to do the same in each step.
    """
    task = trainer.lightning_module
    for callback in trainer.callbacks:
        inside = any(overrides(callback, hook, Callback) for hook in INNER_HOOKS)
        if inside and not hasattr(callback, "watches"):
            return f"callback {type(callback).__name__} looks into every step"
    if any(overrides(task, hook, pl.LightningModule) for hook in INNER_HOOKS):
        return f"{type(task).__name__} has hooks inside of a step"
    if task.graph:
        return None
    doubt = _foreign_part(trainer)
    return f"{doubt}; --model.graph true captures it all the same" if doubt else None


def _foreign_part(trainer: pl.Trainer) -> str | None:
    """Return which part of a step is not known to do the same in each step, or None."""
    task = trainer.lightning_module
    for callback in trainer.callbacks:
        if not _is_known(callback) or isinstance(callback, LambdaCallback):
            return f"callback {type(callback).__name__} may change what a step computes"
    if trainer.strategy.model is not task:
        return "the reduction over ranks was not tried in a graph"
    if type(task) is not ClassificationTask:
        return f"{type(task).__name__} may compute other operations in each step"
    if task.hooks is not None and type(task.hooks).loss is not TrainingHooks.loss:
        return f"the loss of {type(task.hooks).__name__} may differ from step to step"
    for module in task.net.modules():
        if not _is_known(module):
            return f"{type(module).__name__} may compute other operations in each step"
    return None


def _is_known(part: Any) -> bool:
    """Tell whether an object's class belongs to a package in `KNOWN_PACKAGES`."""
    return type(part).__module__.partition(".")[0] in KNOWN_PACKAGES


def has_forward_hooks(modules: list[nn.Module]) -> bool:
    """Tell whether code looks at the passes of any module, which a replay would not call."""
    return any(
        m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks
        for m in modules
    )


class Step:
    """One optimizer step: forward and backward passes, the update of the weights, and all hooks.

    Args:
        trainer: trainer whose callbacks, strategy and optimizer are set up.
        parts: micro-batches per step; the ranks reduce their gradients in the last one.
        graphs: graphs of this training's steps.
    """

    def __init__(self, trainer: pl.Trainer, parts: int, graphs: Graphs) -> None:
        self.trainer = trainer
        self.strategy = trainer.strategy
        self.task = trainer.lightning_module
        self.parts = parts
        self.optimizer = trainer.optimizers[0]
        self.logging = trainer._logger_connector
        self.results = trainer._results
        loop = trainer.fit_loop.epoch_loop
        self.progress = loop.batch_progress
        self.automatic = loop.automatic_optimization  # Lightning's own code for a step
        self.steps_made = self.automatic.optim_progress.optimizer.step
        self.batches = trainer.fit_loop.max_batches  # micro-batches of an epoch
        self.hooks = {hook: self._overriding(hook) for hook in HOOKS}
        self.profiled = not isinstance(trainer.profiler, PassThroughProfiler)
        precision = trainer.precision_plugin
        self.plain = type(precision) is Precision or (
            type(precision) is MixedPrecision and precision.scaler is None
        )
        # Other optimizers may call the forward pass themselves, as LBFGS does.
        self.plain &= type(self.optimizer).__module__.startswith("torch.optim.")
        self.plain &= not isinstance(self.optimizer, torch.optim.LBFGS)
        self.plain &= not any(overrides(self.task, hook, pl.LightningModule) for hook in OPTIMIZING)
        # Other tasks may return something else than a tensor.
        self.plain &= not overrides(self.task, "training_step", ClassificationTask)
        unwrapped = self.strategy.model is self.task
        bare = type(precision) is Precision and unwrapped
        self.forward = self.task.training_step if bare else self.strategy.training_step
        self.measure = self.task.measure
        if not unwrapped:
            redirect = self.strategy._forward_redirection
            self.measure = partial(redirect, self.strategy.model, self.task, "measure")
        self.context = precision.train_step_context
        self.graphs = graphs
        # Callbacks with hooks inside of a step, which are asked about each step.
        self.watching = [c for c in trainer.callbacks if hasattr(c, "watches")]
        self.modules = [*self.task.modules()]
        if self.profiled:
            graphs.refuse("a profiler measures each part of a step")
        elif not self.plain:
            graphs.refuse("this precision, optimizer or task needs Lightning's own step")
        graphs.begin(self.task, self.optimizer)

    def _tell_logging(self, batch: Any) -> None:
        """Set what `self.log` of a callback or task needs.

        Lightning's own code also finds out in every batch which loop runs.
        """
        if self.logging._first_loop_iter is not False:
            self.logging.on_batch_start(batch)
        self.results.batch = batch
        self.results.batch_size = None

    def _zero_grad(self) -> None:
        """Set the gradients to None, as the optimizer's method does.

        That method also looks for hooks, profilers and kernels, which takes longer than the work.
        """
        if type(self.optimizer).zero_grad is not torch.optim.Optimizer.zero_grad:
            self.optimizer.zero_grad()
            return
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                p.grad = None

    def _overriding(self, hook: str) -> list[Callable[..., Any]]:
        """Return the callbacks' and then the task's overridden versions of a hook."""
        found = [
            partial(getattr(callback, hook), self.trainer, self.task)
            for callback in self.trainer.callbacks
            if overrides(callback, hook, Callback)
        ]
        if overrides(self.task, hook, pl.LightningModule):
            found.append(getattr(self.task, hook))
        return found

    def __call__(self, batches: Iterator[Any], i: int, done: Callable[[], None]) -> None:
        """Run one optimizer step on the next `parts` micro-batches.

        Args:
            batches: micro-batches on the device.
            i: number of the first micro-batch in the epoch.
            done: called after the optimizer's step, before the hooks at the end of the last
                micro-batch.

        Raises:
            UserError: a hook asks to skip the rest of the epoch.
        """
        replayed = False
        for part in range(self.parts):
            last = part == self.parts - 1
            batch = self._next(batches)
            if not self.plain:
                batch = self.trainer.precision_plugin.convert_input(batch)
            self.progress.is_last_batch = i + part + 1 == self.batches
            self.progress.increment_ready()
            self._tell_logging(batch)
            if self._call("on_train_batch_start", batch, i + part) == -1:
                raise UserError(
                    f"{type(self.task).__name__}.on_train_batch_start returned -1, to skip the "
                    "rest of the epoch: this training does not do that; use "
                    "--trainer.limit_train_batches"
                )
            self.progress.increment_started()
            if part == 0:
                replayed = self.graphs.off is None and not self._is_watched()
            if replayed:
                outputs = self._replay(batch, i + part, part == 0, last)
            elif self.profiled or not self.plain:
                outputs = self._step_of_lightning(batch, i + part)
            else:
                with nullcontext() if last else _block_parallel_sync_behavior(self.strategy):
                    outputs = self._pass_and_step(batch, i + part, part == 0, last)
            if last:
                done()
            self.progress.increment_processed()
            self._call("on_train_batch_end", outputs, batch, i + part)
            self._take_logged()
        self.task.__dict__["_current_fx_name"] = None

    def _is_watched(self) -> bool:
        """Tell whether code looks into the coming step, so that a graph cannot replay it."""
        asked = any(callback.watches(self.trainer) for callback in self.watching)
        return asked or has_forward_hooks(self.modules)

    def _next(self, batches: Iterator[Any]) -> Any:
        """Return the next micro-batch, and let a profiler measure the wait."""
        if not self.profiled:
            return next(batches)
        with self.trainer.profiler.profile("[_TrainingEpochLoop].train_dataloader_next"):
            return next(batches)

    def _take_logged(self) -> None:
        """Pass on the values that `self.log` got in this batch, as Lightning does."""
        logged = bool(self.results)
        if logged:
            self.logging.on_batch_end()
        self.progress.increment_completed()
        if logged:
            self.logging.update_train_step_metrics()
        self.results.batch = None

    def _step_of_lightning(self, batch: Any, i: int) -> dict[str, Any]:
        """Let Lightning run both passes, and the optimizer's step where one is due."""
        with self.trainer.profiler.profile("run_training_batch"):
            return self.automatic.run(self.optimizer, i, {"batch": batch, "batch_idx": i})

    def _replay(self, batch: Any, i: int, first: bool, last: bool) -> dict[str, Any]:
        """Do the same as `_pass_and_step` by one graph, without the hooks inside of a step."""
        with self.context():
            inputs = self.task.inputs(batch, i)
        function = partial(self._captured, first, last)
        if last:
            self.steps_made.increment_ready()
        loss, labels, correct = self.graphs.step(
            (first, last), function, inputs, self.task, self.optimizer
        )
        if last:
            if not self.graphs.updates:
                self._clip()
                self.optimizer.step()
            self.steps_made.increment_completed()
        self.task.count(loss, labels, correct)
        return {"loss": loss / self.parts if self.parts > 1 else loss}

    def _captured(
        self, first: bool, last: bool, *inputs: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Run both passes, and the update if it is due: what a graph captures."""
        with self.context():
            loss, labels, correct = self.measure(*inputs)
        with nullcontext() if last else _block_parallel_sync_behavior(self.strategy):
            self._backward(loss, first)
        if last and self.graphs.updates:
            self._clip()
            self.optimizer.step()
        return loss.detach(), labels, correct

    def _pass_and_step(self, batch: Any, i: int, first: bool, last: bool) -> dict[str, Any]:
        """Run both passes of a micro-batch, and the optimizer's step after the last micro-batch."""
        outputs = {"loss": self._backward(self.forward(batch, i), first)}
        if last:
            self._call("on_before_optimizer_step", self.optimizer)
            self._clip()
            self.steps_made.increment_ready()
            self.optimizer.step()
            self.steps_made.increment_completed()
        return outputs

    def _clip(self) -> None:
        """Clip the gradients, if the recipe asks for it."""
        if clip := self.trainer.gradient_clip_val:
            how = self.trainer.gradient_clip_algorithm
            self.task.configure_gradient_clipping(self.optimizer, clip, how)

    def _backward(self, loss: torch.Tensor, first: bool) -> torch.Tensor:
        """Run the backward pass of the micro-batch's share of the loss, and return that share.

        The first micro-batch resets the gradients.
        """
        if first:
            self._call("on_before_zero_grad", self.optimizer)
            self._zero_grad()
        share = loss / self.parts if self.parts > 1 else loss
        self._call("on_before_backward", share)
        share.backward()
        self._call("on_after_backward")
        return share.detach()

    def _call(self, hook: str, *args: Any) -> Any:
        """Call the callbacks' and the task's versions of a hook, and return the last result.

        The result is the task's if the task overrides the hook.
        """
        result = None
        if self.profiled:
            call._call_callback_hooks(self.trainer, hook, *args)
            result = call._call_lightning_module_hook(self.trainer, hook, *args)
            if hook == "on_train_batch_start":
                call._call_strategy_hook(self.trainer, hook, *args)
            return result
        if found := self.hooks[hook]:
            # A module's `__setattr__` takes longer than most hooks.
            self.task.__dict__["_current_fx_name"] = hook
            for function in found:
                result = function(*args)
        return result
