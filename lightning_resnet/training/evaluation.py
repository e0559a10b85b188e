"""Evaluated: evaluation of a net and of its moving average.

Every sample counts once; sums are added up over all ranks.
"""

import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch import distributed as dist

from lightning_resnet.errors import UserError, tell
from lightning_resnet.models.batch_norm import measure_norms, sum_dtype
from lightning_resnet.progress import metered
from lightning_resnet.training.loss import evaluation_sums
from lightning_resnet.training.mixup import mixed

Batch = tuple[Tensor, Tensor]


class Evaluated(pl.LightningModule):
    """Base class of ClassificationTask: normalisation, evaluation and prediction.

    Args:
        net: the trained net.
        ema: moving average of the net, which is evaluated too, on `val` and `test`; None: none.
        precise_bn: number of optimizer steps whose images give the statistics of batch norm; see
            ClassificationTask.
    """

    def __init__(self, net: nn.Module, ema: nn.Module | None, precise_bn: int) -> None:
        super().__init__()
        self.net = net
        self.ema = ema
        self.precise_bn = precise_bn
        # Memory layout of the images that the net takes.
        self.channels_last = True
        self.register_buffer("mean", torch.zeros(3, 1, 1))
        self.register_buffer("std", torch.ones(3, 1, 1))
        # Metrics of the last evaluation, over all ranks.
        self.metrics: dict[str, float] = {}
        self._eval_sums: dict[str, Tensor] = {}
        self._left_out_told: set[str] = set()  # evaluations whose unread images have been named
        # Whether an evaluation has begun and `finish_evaluation` has not been called since.
        self._unfinished = False
        # CUDA graphs of the training, which this package's Trainer sets.
        self.graphs: Any = None
        # Loader of the images for precise_bn.
        self._measured: Any = None

    @property
    def nets(self) -> list[nn.Module]:
        """List of the net and, if there is one, its moving average."""
        return [self.net] if self.ema is None else [self.net, self.ema]

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits [B, classes] of images uint8 [B, 3, H, W]."""
        return self.logits(self.net, images)

    def logits(self, net: nn.Module, images: Tensor, own: Tensor | None = None) -> Tensor:
        """Return the logits [B, classes] of a net; the function that `--model.compile` compiles.

        Args:
            net: one of `nets`.
            images: uint8 [B, 3, H, W]; they are normalised here.
            own: weight of each pixel's own image in its mixture [B, 1, H, W], see `mixed`; None: no
                mixing.
        """
        x = self.normalise(images)
        return net(x if own is None else mixed(x, own))

    def normalise(self, images: Tensor) -> Tensor:
        """Return normalised images [B, 3, H, W] of images uint8 [B, 3, H, W].

        Raises:
            UserError: the images are floating point; scaled to 0 to 1 they would look nearly black.
        """
        if images.is_floating_point():
            raise UserError(
                f"images must be uint8, 0 to 255, and are {images.dtype}: give them as they are "
                "stored, or (255 * images).round().to(torch.uint8) of what ToTensor made; the task "
                "normalises them itself"
            )
        if not self.channels_last:
            images = images.contiguous()
        mean = self.mean
        return (images.to(mean.dtype) - mean) / self.std

    def on_validation_start(self) -> None:
        """Measure the statistics of batch norm if `precise_bn` is set, during training only.

        The images are those of the epoch's first `precise_bn` optimizer steps, so that the set of
        images over all ranks does not depend on the number of ranks.
        """
        self._unfinished = True
        if not self.precise_bn or self.trainer.state.fn != "fit" or self.trainer.sanity_checking:
            return
        if self._measured is None:
            self._measured = self.trainer.datamodule.train_dataloader(self.precise_bn)
        for net in self.nets:
            with self.trainer.precision_plugin.forward_context():
                measure_norms(net, self._measured_images(), self._reduce)

    def _measured_images(self) -> Iterator[Tensor]:
        """Yield the normalised images [B, 3, H, W] for `precise_bn`, and show the progress.

        This package's fit loop may end the training after any of them.
        """
        between_measured = getattr(self.trainer.fit_loop, "between_measured", _do_nothing)
        read = metered(
            self._measured.batches(self.trainer.current_epoch),
            len(self._measured),
            "batches for batch norm",
            self.trainer.is_global_zero,
        )
        with closing(read) as batches:
            for batch in batches:
                images, _ = self.trainer.strategy.batch_to_device(batch)
                yield self.normalise(images)
                between_measured()

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add a batch to the sums of `val` or `train_eval`."""
        self._evaluate(batch, self._eval_name(dataloader_idx))

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of `val` and `train_eval`, and pass them to the schedule in training."""
        # A sanity check evaluates a few batches only: they make no metrics.
        if self.trainer.sanity_checking:
            self._eval_sums.clear()
            return
        self._log_evaluation()
        if self.trainer.state.fn == "fit":
            self.schedule.observe(self.metrics)

    def on_test_start(self) -> None:
        """Note that an evaluation has begun, whose metrics are not made yet."""
        self._unfinished = True

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the sums of `test`."""
        self._evaluate(batch, "test")

    def on_test_epoch_end(self) -> None:
        """Log the metrics of `test`."""
        self._log_evaluation()

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Return the net's class probabilities [B, classes] of a batch (images, labels)."""
        return self(batch[0]).softmax(1)

    def _evaluate(self, batch: Batch, name: str) -> None:
        images, labels = batch
        self._add(name, self._sums("net", images, labels))
        if self.ema is not None and name != "train_eval":
            self._add(f"{name}_ema", self._sums("ema", images, labels))

    def _sums(self, net: str, images: Tensor, labels: Tensor) -> Tensor:
        """Return the sums of a batch; during a training by a graph, where there is one."""

        def compute(images: Tensor, labels: Tensor) -> Tensor:
            return evaluation_sums(self.logits(getattr(self, net), images), labels)

        if self.graphs is None:
            return compute(images, labels)
        return self.graphs.evaluate(net, compute, images, labels)

    def _add(self, name: str, sums: Tensor) -> None:
        self._eval_sums[name] = self._eval_sums[name] + sums if name in self._eval_sums else sums

    def _eval_name(self, i: int) -> str:
        """Return the name of the i-th validation loader's metrics.

        Loaders of data other than ImageData are named val, val_1, ...
        """
        names = getattr(self.trainer.datamodule, "eval_names", ("val",))
        return names[i] if i < len(names) else f"val_{i}"

    def _log_evaluation(self) -> None:
        """Finish and log the evaluation, unless this package's Trainer has finished it."""
        if self._unfinished:
            self.finish_evaluation()
            self.log_dict(self.metrics, sync_dist=True)

    def finish_evaluation(self) -> None:
        """Reduce the sums over all ranks and set `metrics`; all ranks must call this method.

        Raises:
            RuntimeError: not every sample was seen once, though no option limits the evaluation.
            UserError: no image of a loader can be read.
        """
        self._unfinished = False
        self.metrics = {}
        trainer = self.trainer
        loaders = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
        loaders = loaders if isinstance(loaders, list) else [loaders]
        limit = trainer.limit_test_batches if trainer.testing else trainer.limit_val_batches
        complete = limit == 1.0 and isinstance(limit, float) and not trainer.overfit_batches
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
            if complete and hasattr(loader, "images") and seen != len(loader.images):
                raise RuntimeError(f"evaluated {seen:.0f} of {len(loader.images)} {name} samples")
            if n == 0:
                raise UserError(
                    f"none of the {seen:.0f} {name} images can be read: --data.on_bad raise names "
                    "the first"
                )
            if n < seen and trainer.is_global_zero and name not in self._left_out_told:
                self._left_out_told.add(name)
                text = f"{seen - n:.0f} of {seen:.0f} {name} images cannot be read: left out"
                command = loader.images.check_command() if hasattr(loader, "images") else ""
                text += f"; {command} names them" if command else ""
                tell(text, file=sys.stderr)  # the standard output of `validate` is JSON
            values = {"loss": loss / n, "acc1": top1 / n, "acc5": top5 / n}
            self.metrics.update({f"{name}/{k}": v for k, v in values.items()})

    def _reduce(self, sums: Tensor) -> Tensor:
        """Return the sums over all ranks; the given tensor keeps this rank's own."""
        total = sums.clone()
        if self.trainer.world_size > 1:
            dist.all_reduce(total)
        return total


def _do_nothing() -> None:
    """Stand for what this package's fit loop does between two batches, in other loops."""
