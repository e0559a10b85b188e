"""The microscope during training: metrics that go into the training rows, once per log interval.

`resnet-cli fit --config configs/digits.yaml --trainer.callbacks+=GradientNorms --trainer.callbacks+=ResponseStds`

They cost nothing between log intervals. ResNet-20 on digits, one thread, median images/s: logged at every step,
GradientNorms 1 % and ResponseStds 12 %; at every 11th, as the recipe does, both are within the noise of 2 %. What they
measure does not change the run, so they are not part of its id.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from lightning_resnet.errors import UserError
from lightning_resnet.models.activations import watch_responses
from lightning_resnet.models.blocks import blocks
from lightning_resnet.runs.checkpoint import load_checkpoint


def add(task: pl.LightningModule, metrics: dict[str, torch.Tensor]) -> None:
    """Into the next training row; one transfer from the device for all."""
    if metrics:
        values = torch.stack([value.float() for value in metrics.values()]).tolist()
        task.extra_metrics = getattr(task, "extra_metrics", {}) | dict(
            zip(metrics, values, strict=True)
        )


def is_logged(trainer: pl.Trainer, step: int) -> bool:
    """Whether the row of this optimizer step (the first is 1) is written."""
    return step % trainer.log_every_n_steps == 0


class GradientNorms(Callback):
    """Logs `grad_norm/<block>`: norm of dE/dw of the block's parameters, as the optimizer gets it."""

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        """Measure."""
        if not is_logged(trainer, trainer.global_step + 1):
            return
        metrics = {}
        for name, _, _ in blocks(pl_module.net):
            gradients = [
                p.grad for p in pl_module.net.get_submodule(name).parameters() if p.grad is not None
            ]
            if gradients:
                metrics[f"grad_norm/{name}"] = torch.stack(torch._foreach_norm(gradients)).norm()
        add(pl_module, metrics)


class ResponseStds(Callback):
    """Logs `response_std/<layer>` of each 3x3 layer: after its norm, before the activation (He et al. 2015, fig. 7)."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._stds: dict[str, list[torch.Tensor]] = {}
        self._step = 0  # whose forward passes are watched

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        """Watch the forward passes of a step that is logged."""
        step = trainer.global_step + 1
        if step != self._step and is_logged(trainer, step):
            self._step = step
            self._stds = self._open.enter_context(watch_responses(pl_module.net))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        """Mean over the step's accumulated batches."""
        if trainer.global_step == self._step and self._stds:
            self._open.close()
            add(
                pl_module,
                {
                    f"response_std/{name}": torch.stack(stds).mean()
                    for name, stds in self._stds.items()
                },
            )
            self._stds = {}


class AddedBlocks(Callback):
    """Logs `identity_distance/<block>` of the blocks that `deepen` added: norm of block(x) - x over norm of x.

    Args:
        checkpoint: that `resnet-cli deepen` wrote; with `--freeze`, only the added blocks learn (the others' norms go
            on following their statistics).
    """

    def __init__(self, checkpoint: str) -> None:
        origin = load_checkpoint(checkpoint).get("deepen")
        if origin is None:
            raise UserError(f"{checkpoint} was not written by `resnet-cli deepen`")
        self.added, self.freeze = origin["added"], origin["freeze"]

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Freeze, before the optimizer is made."""
        for name, parameter in pl_module.net.named_parameters():
            new = any(name.startswith(f"{block}.") for block in self.added)
            parameter.requires_grad_(new or not self.freeze)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        """Watch the added blocks in a step that is logged."""
        self._found: dict[str, torch.Tensor] = {}
        watched = self.added if is_logged(trainer, trainer.global_step + 1) else []
        self._handles = [
            pl_module.net.get_submodule(b).register_forward_hook(self._measure(b)) for b in watched
        ]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        """Hand over."""
        for handle in self._handles:
            handle.remove()
        add(pl_module, self._found)

    def _measure(self, block: str) -> Callable[..., None]:
        @torch.no_grad()
        def hook(module: torch.nn.Module, x: tuple[torch.Tensor], y: torch.Tensor) -> None:
            self._found[f"identity_distance/{block}"] = (y - x[0]).norm() / x[0].norm()

        return hook
