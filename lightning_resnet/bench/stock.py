"""Lightning as it comes, a peer of ours: its CLI and its Trainer with their defaults, on digits.

python -m lightning_resnet.bench.stock fit --trainer.max_epochs 1
"""

import json
import time
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset, TensorDataset

from lightning_resnet.models import CifarResNet


class Marks(Callback):
    """Callback that prints `mark` and the system's monotonic clock in seconds after some batches.

    Args:
        at: numbers of batches of an epoch, from 0.
    """

    def __init__(self, at: list[int]) -> None:
        self.at = set(at)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Print the mark after the batches that were named."""
        if batch_idx in self.at:
            print("mark", time.monotonic(), flush=True)


class Timeline(Callback):
    """Callback that prints, as JSON, what an epoch's steps took in the first rank.

    The first tenth of the batches is left out. Printed are `steps_per_s`, `images` of a step, and
    shares of the time: `read`, in which a step waited for the loader; `data`, in which it waited
    for the loader and the way to the device; `busy`, from the step's first hook to its last. On a
    GPU the device's clock says when, without a wait; only the waits are the host's.
    """

    def __init__(self) -> None:
        self.marks: list[tuple[Any, dict[str, float]]] = []  # begins and ends, in turn

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        """Note the time and the waits so far; the hook after a batch does the same."""
        self.marks.append((self._now(trainer), dict(trainer.fit_loop.waits)))

    on_train_batch_end = on_train_batch_start

    def on_train_epoch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Print the figures, if there are enough batches."""
        # from a begin to a begin: as many waits as steps
        kept = self.marks[2 * max(1, len(self.marks) // 20) : -1]
        if len(kept) < 3 or not trainer.is_global_zero:
            return
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        first, waits_before = kept[0]
        last, waits_after = kept[-1]
        seconds = self._between(first, last)
        busy = 0.0
        for (begin, _), (end, _) in zip(kept[:-1:2], kept[1::2], strict=True):
            busy += self._between(begin, end)
        figures = {
            "steps_per_s": len(kept) // 2 / trainer.accumulate_grad_batches / seconds,
            "images": trainer.datamodule.batch_size,
            "busy": busy / seconds,
        }
        for what, before in waits_before.items():
            figures[what] = (waits_after[what] - before) / seconds
        print(json.dumps(figures), flush=True)

    @staticmethod
    def _now(trainer: pl.Trainer) -> Any:
        if trainer.strategy.root_device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @staticmethod
    def _between(begin: Any, end: Any) -> float:
        return end - begin if isinstance(begin, float) else begin.elapsed_time(end) / 1000


class ValidationClock(Callback):
    """Callback that prints, as JSON, the seconds of a validation, its metrics included."""

    def on_validation_start(self, *args: Any) -> None:
        """Start the clock of this validation."""
        self._start = time.perf_counter()

    def on_validation_end(self, *args: Any) -> None:
        """Print the seconds since the validation started."""
        seconds = time.perf_counter() - self._start
        print(json.dumps({"seconds": seconds}), flush=True)


class Tiny(torch.nn.Sequential):
    """Net whose step costs little compared with the loop around it.

    Args:
        num_classes: outputs.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(
            torch.nn.Conv2d(3, 8, 3),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
            torch.nn.Linear(8, num_classes),
        )


class Pooled(torch.nn.Sequential):
    """Linear layer on the means of 7x7 pixels of a 28x28 image, cheaper than normalising the image.

    Args:
        num_classes: outputs.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(
            torch.nn.AvgPool2d(7), torch.nn.Flatten(), torch.nn.Linear(48, num_classes)
        )


class Stock(pl.LightningModule):
    """Task as Lightning's guide writes one, which logs loss and accuracy in every step.

    Args:
        net: images [B, 3, H, W] -> logits [B, classes]; default: ResNet-20.
    """

    def __init__(self, net: torch.nn.Module | None = None) -> None:
        super().__init__()
        self.net = net or CifarResNet(20)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Log and return the loss."""
        images, labels = batch
        logits = self.net((images.float() - 128) / 64)
        loss = F.cross_entropy(logits, labels)
        self.log("train/loss", loss)
        self.log("train/acc1", (logits.argmax(1) == labels).float().mean())
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the validation loss under its name."""
        images, labels = batch
        logits = self.net((images.float() - 128) / 64)
        self.log("val/loss", F.cross_entropy(logits, labels))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer of configs/digits.yaml."""
        return torch.optim.SGD(self.parameters(), 0.02, 0.9, nesterov=True, weight_decay=1e-4)


class StockData(pl.LightningDataModule):
    """Digits through scikit-learn and torch's DataLoader."""

    def setup(self, stage: str) -> None:
        """Read the digits of scikit-learn as uint8 images [N, 3, 8, 8]."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = torch.from_numpy(digits.images * 16).to(torch.uint8)
        images = images[:, None].expand(-1, 3, -1, -1).contiguous()
        self.data = TensorDataset(images, torch.from_numpy(digits.target))

    def train_dataloader(self) -> DataLoader:
        """Return the loader of all but 360 images."""
        return DataLoader(Subset(self.data, range(1437)), 64, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        """Return the loader of the other 360 images."""
        return DataLoader(Subset(self.data, range(1437, 1797)), 128)


if __name__ == "__main__":
    from pytorch_lightning.cli import LightningCLI

    LightningCLI(Stock, StockData)
