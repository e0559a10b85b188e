"""Callbacks that add metrics of the net's blocks and layers to the training rows.

    resnet-cli fit --config configs/digits.yaml --trainer.callbacks+=GradientNorms

They measure once per log interval and cost nothing between. Loss of median images/s of ResNet-20 on
digits, one thread: if every step is logged, 1 % for GradientNorms and 12 % for ResponseStds; if
every 11th step is logged, as in the recipe, both are within the noise of 2 %. Curvature measures
after an epoch. GradientNorms, ResponseStds and Curvature do not change the training, and are no
part of the run's id. AddedBlocks is part of the id if its recipe says `freeze: true`.
"""

from collections.abc import Callable
from contextlib import ExitStack
from itertools import islice
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import distributed as dist

from lightning_resnet.errors import UserError
from lightning_resnet.models.activations import Batch, eval_mode, watch_responses
from lightning_resnet.models.blocks import blocks
from lightning_resnet.runs.checkpoint import load_checkpoint
from lightning_resnet.training.hessian import hessian_product, lanczos, random_signs


def add(task: pl.LightningModule, metrics: dict[str, torch.Tensor]) -> None:
    """Add scalar metrics to the next training row, with one device-to-host transfer for all."""
    if metrics:
        values = torch.stack([value.float() for value in metrics.values()]).tolist()
        task.extra_metrics = getattr(task, "extra_metrics", {}) | dict(
            zip(metrics, values, strict=True)
        )


def is_logged(trainer: pl.Trainer, step: int) -> bool:
    """Tell whether a training row is written for this optimizer step, counted from 1."""
    return step % trainer.log_every_n_steps == 0


class GradientNorms(Callback):
    """Callback that logs `grad_norm/<block>`: L2 norm of the gradient of a block's parameters.

    The gradient is that of the global batch, before gradient clipping.
    """

    def watches(self, trainer: pl.Trainer) -> bool:
        """Tell whether the coming step is measured; other steps may be replayed as a graph."""
        return is_logged(trainer, trainer.global_step + 1)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        """Measure the norms in a step that is logged."""
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
    """Callback that logs `response_std/<layer>`: standard deviation of a 3x3 layer's response.

    The response is taken after the layer's norm and before the activation (He et al. 2015, fig. 7).
    """

    def __init__(self) -> None:
        self._open = ExitStack()
        self._stds: dict[str, list[torch.Tensor]] = {}
        # Optimizer step whose forward passes are watched.
        self._step = 0

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
        """Add the mean over the micro-batches of the step, after the last of them."""
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


class Curvature(Callback):
    """Callback that logs `curvature/largest` and `curvature/limit` after every k-th epoch.

    `largest` is the largest eigenvalue of the Hessian of the loss, on fixed training images without
    augmentation, in eval mode. `limit` is 2 / lr, where gradient descent becomes unstable (Cohen et
    al. 2021, arXiv 2103.00065); momentum and small batches move that limit.

    Args:
        every: epochs from one measurement to the next.
        images: number of images over all ranks.
        steps: products with the Hessian per measurement (Lanczos method); each costs about as much
            as two training steps on the images.
    """

    def __init__(self, every: int = 1, images: int = 200, steps: int = 20) -> None:
        self.every = every
        self.images = images
        self.steps = steps
        self._batches: list[Batch] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse data without training images to evaluate on, and compiled blocks.

        Raises:
            UserError: the data are not those of ImageData, or the blocks are compiled.
        """
        if stage == "fit" and not hasattr(trainer.datamodule, "eval_loader"):
            raise UserError("Curvature needs the training images of ImageData: leave it out")
        if getattr(pl_module, "compiled", False) == "blocks":
            raise UserError(
                "Curvature takes second derivatives, which compiled blocks do not have: set "
                "--model.compile true or false"
            )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        """Measure after the last step of an epoch, for the row that ends the epoch."""
        if not trainer.is_last_batch or (trainer.current_epoch + 1) % self.every:
            return
        if not self._batches:
            self._batches = self._taken(trainer, pl_module)
        net = pl_module.net
        with eval_mode(net):
            product, names = hessian_product(net, self._batches)

            def over_ranks(v: torch.Tensor) -> torch.Tensor:
                found = product(v)
                if trainer.world_size > 1:
                    dist.all_reduce(found)
                return found / trainer.world_size

            parameters = [net.get_parameter(name) for name in names]
            start = random_signs(parameters, torch.Generator().manual_seed(0))
            values, _, _ = lanczos(over_ranks, start, self.steps)
        metrics = {"curvature/largest": torch.tensor(values[-1])}
        lr = trainer.optimizers[0].param_groups[0]["lr"]
        if lr > 0:
            metrics["curvature/limit"] = torch.tensor(2 / lr)
        add(pl_module, metrics)

    def _taken(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> list[Batch]:
        """Return this rank's share of the images, normalised."""
        n = -(-self.images // trainer.world_size)
        loader = trainer.datamodule.eval_loader("train_eval")
        taken = []
        for batch in islice(loader.batches(0), len(loader)):
            images, labels = trainer.strategy.batch_to_device(batch)
            taken.append((pl_module.normalise(images[:n]), labels[:n]))
            n -= len(labels)
            if n <= 0:
                break
        return taken


class AddedBlocks(Callback):
    """Callback that logs `identity_distance/<block>`: |block(x) - x| / |x| of each added block.

    Args:
        checkpoint: checkpoint that `resnet-cli deepen` wrote.
        freeze: whether only the added blocks learn; norms in other blocks still update their
            running statistics. Default: whether the checkpoint was written with `--freeze`.

    Raises:
        UserError: `resnet-cli deepen` did not write the checkpoint.
    """

    def __init__(self, checkpoint: str, freeze: bool | None = None) -> None:
        origin = load_checkpoint(checkpoint).get("deepen")
        added = origin.get("added") if isinstance(origin, dict) else None
        if not isinstance(added, list) or not all(isinstance(name, str) for name in added):
            raise UserError(f"{checkpoint} was not written by `resnet-cli deepen`")
        self.added = added
        self.freeze = bool(origin.get("freeze")) if freeze is None else freeze

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Freeze all but the added blocks if asked to, before the optimizer is made."""
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
        """Stop watching the added blocks and add what was measured to the next training row."""
        for handle in self._handles:
            handle.remove()
        add(pl_module, self._found)

    def _measure(self, block: str) -> Callable[..., None]:
        @torch.no_grad()
        def hook(module: torch.nn.Module, x: tuple[torch.Tensor], y: torch.Tensor) -> None:
            self._found[f"identity_distance/{block}"] = (y - x[0]).norm() / x[0].norm()

        return hook
