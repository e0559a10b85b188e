"""Evaluated: how a task measures its net, and its moving average: every sample once, added up over all ranks."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch import distributed as dist

from lightning_resnet.errors import UserError
from lightning_resnet.models.batch_norm import measure_norms, sum_dtype
from lightning_resnet.progress import metered
from lightning_resnet.training.loss import evaluation_sums
from lightning_resnet.training.mixup import mixed

Batch = tuple[Tensor, Tensor]


class Evaluated(pl.LightningModule):
    """The evaluating half of ClassificationTask.

    Args:
        net: as trained.
        ema: its moving average, measured beside it on `val` and `test`.
        precise_bn: see ClassificationTask.
    """

    def __init__(self, net: nn.Module, ema: nn.Module | None, precise_bn: int) -> None:
        super().__init__()
        self.net, self.ema, self.precise_bn = net, ema, precise_bn
        self.channels_last = True  # the layout of what the net takes
        self.register_buffer("mean", torch.zeros(3, 1, 1))
        self.register_buffer("std", torch.ones(3, 1, 1))
        self.metrics: dict[str, float] = {}  # of the last evaluation, over all ranks
        self._eval_sums: dict[str, Tensor] = {}
        self._unfinished = False  # an evaluation has begun, and its metrics are still to be made
        self._measured: Any = None  # the loader for precise_bn

    @property
    def nets(self) -> list[nn.Module]:
        """The net, and its average where it has one."""
        return [self.net] if self.ema is None else [self.net, self.ema]

    def forward(self, images: Tensor) -> Tensor:
        """Images uint8 [B, 3, H, W] -> logits [B, classes]."""
        return self.logits(self.net, images)

    def logits(self, net: nn.Module, images: Tensor, own: Tensor | None = None) -> Tensor:
        """Images uint8 [B, 3, H, W] -> logits [B, classes] of this net: what is compiled, normalisation included.

        Args:
            net: one of `nets`.
            images: of a batch.
            own: see `mixed`.
        """
        x = self.normalise(images)
        return net(x if own is None else mixed(x, own))

    def normalise(self, images: Tensor) -> Tensor:
        """Images uint8 [B, 3, H, W] -> what the net takes.

        Raises:
            UserError: they are no bytes: what is scaled already would be taken for nearly black.
        """
        if images.is_floating_point():
            raise UserError(
                f"images must be uint8, 0 to 255, and are {images.dtype}: give them as they are stored, or "
                "(255 * images).round().to(torch.uint8) of what ToTensor made; the task normalises them itself"
            )
        if not self.channels_last:
            images = images.contiguous()
        mean = self.mean
        return (images.to(mean.dtype) - mean) / self.std

    def on_validation_start(self) -> None:
        """Measure the statistics of batch norm, on the images that the epoch began with, the same for all ranks."""
        self._unfinished = True
        if not self.precise_bn or self.trainer.state.fn != "fit" or self.trainer.sanity_checking:
            return
        if self._measured is None:
            self._measured = self.trainer.datamodule.train_dataloader(self.precise_bn)
        for net in self.nets:
            first, n = self.trainer.is_global_zero, len(self._measured)
            batches = metered(
                self._measured.batches(self.trainer.current_epoch),
                n,
                "batches for batch norm",
                first,
            )
            batches = map(self.trainer.strategy.batch_to_device, batches)
            with self.trainer.precision_plugin.forward_context():
                measure_norms(net, (self.normalise(images) for images, _ in batches), self._reduce)

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add to the sums of `val` or `train_eval`."""
        self._evaluate(batch, self._eval_name(dataloader_idx))

    def on_validation_epoch_end(self) -> None:
        """Metrics of `val` and `train_eval`."""
        if self.trainer.sanity_checking:  # a few batches, to see whether the evaluation runs at all
            self._eval_sums.clear()
            return
        self._log_evaluation()
        if self.trainer.state.fn == "fit":
            self.schedule.observe(self.metrics)

    def on_test_start(self) -> None:
        """Begin."""
        self._unfinished = True

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Add to the sums of `test`."""
        self._evaluate(batch, "test")

    def on_test_epoch_end(self) -> None:
        """Metrics of `test`."""
        self._log_evaluation()

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Class probabilities [B, classes]."""
        return self(batch[0]).softmax(1)

    def _evaluate(self, batch: Batch, name: str) -> None:
        images, labels = batch
        self._add(name, self.logits(self.net, images), labels)
        if self.ema is not None and name != "train_eval":
            self._add(f"{name}_ema", self.logits(self.ema, images), labels)

    def _add(self, name: str, logits: Tensor, labels: Tensor) -> None:
        sums = evaluation_sums(logits, labels)
        self._eval_sums[name] = self._eval_sums[name] + sums if name in self._eval_sums else sums

    def _eval_name(self, i: int) -> str:
        """What the metrics of the i-th validation loader are called; of loaders that are not ours, val, val_1, ..."""
        names = getattr(self.trainer.datamodule, "eval_names", ("val",))
        return names[i] if i < len(names) else f"val_{i}"

    def _log_evaluation(self) -> None:
        """In a Trainer that is not ours: log under our names, as other modules do."""
        if self._unfinished:
            self.finish_evaluation()
            self.log_dict(self.metrics, sync_dist=True)

    def finish_evaluation(self) -> None:
        """Reduce once, and make sure that every sample was seen once; all ranks must call it."""
        self._unfinished = False
        self.metrics = {}
        trainer = self.trainer
        loaders = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
        loaders = loaders if isinstance(loaders, list) else [loaders]
        limit = trainer.limit_test_batches if trainer.testing else trainer.limit_val_batches
        whole = limit == 1.0 and isinstance(limit, float) and not trainer.overfit_batches
        evaluated = [
            ("test" if trainer.testing else self._eval_name(i), loader)
            for i, loader in enumerate(loaders)
        ]
        if self.ema is not None:
            evaluated += [
                (f"{name}_ema", loader) for name, loader in evaluated if name != "train_eval"
            ]
        for name, loader in evaluated:
            sums = self._eval_sums.pop(
                name, torch.zeros(5, dtype=sum_dtype(self.device), device=self.device)
            )
            loss, top1, top5, n, seen = self._reduce(sums).tolist()
            if whole and hasattr(loader, "images") and seen != len(loader.images):
                raise RuntimeError(f"evaluated {seen:.0f} of {len(loader.images)} {name} samples")
            if n == 0:
                raise UserError(
                    f"none of the {seen:.0f} {name} images can be read: --data.on_bad raise names the first"
                )
            values = {"loss": loss / n, "acc1": top1 / n, "acc5": top5 / n}
            self.metrics.update({f"{name}/{k}": v for k, v in values.items()})

    def _reduce(self, sums: Tensor) -> Tensor:
        """Over all ranks; the rank's own sums stay as they are."""
        total = sums.clone()
        if self.trainer.world_size > 1:
            dist.all_reduce(total)
        return total
