"""Lightning as it comes, which ours is measured beside: its CLI and its Trainer with their defaults, on digits.

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

from lightning_resnet.models import CifarResNet


class Marks(Callback):
    """Prints `mark` and the system's monotonic clock in seconds after these batches.

    Args:
        at: numbers of batches of an epoch, from 0.
    """

    def __init__(self, at: list[int]) -> None:
        self.at = set(at)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print."""
        if batch_idx in self.at:
            print("mark", time.monotonic(), flush=True)


class Timeline(Callback):
    """Prints, as JSON, what an epoch's steps took in the first rank; the first tenth of its batches is left out.

    `steps_per_s`; `images` of a step; `read`, `data` and `busy`: shares of the time in which a step waited for the
    loader, waited for the loader and the way to the device, and ran from its first hook to its last. On a GPU the
    device's clock says when, without a wait; only the waits are the host's.
    """

    def __init__(self) -> None:
        self.marks: list[tuple[Any, dict[str, float]]] = []  # begins and ends, in turn

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        """Begin."""
        self.marks.append((self._now(trainer), dict(trainer.fit_loop.waits)))

    on_train_batch_end = on_train_batch_start

    def on_train_epoch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Print, where there are batches enough."""
        kept = self.marks[2 * max(1, len(self.marks) // 20) : -1]  # from a begin to a begin: as many waits as steps
        if len(kept) < 3 or not trainer.is_global_zero:
            return
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        (first, before), (last, after) = kept[0], kept[-1]
        seconds = self._between(first, last)
        busy = sum(self._between(begin, end) for (begin, _), (end, _) in zip(kept[:-1:2], kept[1::2], strict=True))
        print(
            json.dumps(
                {
                    "steps_per_s": len(kept) // 2 / trainer.accumulate_grad_batches / seconds,
                    "images": trainer.datamodule.batch_size,
                    "busy": busy / seconds,
                    **{what: (after[what] - before[what]) / seconds for what in before},
                }
            ),
            flush=True,
        )

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
    """Prints, as JSON, the seconds of a validation, its metrics included."""

    def on_validation_start(self, *args: Any) -> None:
        """Begin."""
        self._start = time.perf_counter()

    def on_validation_end(self, *args: Any) -> None:
        """Print."""
        print(json.dumps({"seconds": time.perf_counter() - self._start}), flush=True)


class Tiny(torch.nn.Sequential):
    """A net whose step costs little beside the loop around it.

    Args:
        num_classes: outputs.
    """

    def __init__(self, num_classes: int = 10) -> None:
        pool = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, num_classes)]
        super().__init__(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), *pool)


class Pooled(torch.nn.Sequential):
    """One linear layer on the means of 7x7 pixels of a 28x28 image: all but nothing beside normalising it.

    Args:
        num_classes: outputs.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(torch.nn.AvgPool2d(7), torch.nn.Flatten(), torch.nn.Linear(48, num_classes))


class Stock(pl.LightningModule):
    """A training as Lightning's guide writes one: it logs loss and accuracy in every step.

    Args:
        net: images [B, 3, H, W] -> logits [B, classes]; default: ResNet-20.
    """

    def __init__(self, net: torch.nn.Module | None = None) -> None:
        super().__init__()
        self.net = net or CifarResNet(20)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss."""
        images, labels = batch
        logits = self.net((images.float() - 128) / 64)
        loss = F.cross_entropy(logits, labels)
        self.log("train/loss", loss)
        self.log("train/acc1", (logits.argmax(1) == labels).float().mean())
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Loss."""
        images, labels = batch
        self.log("val/loss", F.cross_entropy(self.net((images.float() - 128) / 64), labels))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """As configs/digits.yaml."""
        return torch.optim.SGD(self.parameters(), 0.02, 0.9, nesterov=True, weight_decay=1e-4)


class StockData(pl.LightningDataModule):
    """The digits, through scikit-learn and torch's DataLoader."""

    def setup(self, stage: str) -> None:
        """Read."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = torch.from_numpy(digits.images * 16).to(torch.uint8)[:, None].expand(-1, 3, -1, -1).contiguous()
        self.data = torch.utils.data.TensorDataset(images, torch.from_numpy(digits.target))

    def train_dataloader(self) -> torch.utils.data.DataLoader:
        """All but 360."""
        return torch.utils.data.DataLoader(torch.utils.data.Subset(self.data, range(1437)), 64, shuffle=True)

    def val_dataloader(self) -> torch.utils.data.DataLoader:
        """The rest."""
        return torch.utils.data.DataLoader(torch.utils.data.Subset(self.data, range(1437, 1797)), 128)


if __name__ == "__main__":
    from pytorch_lightning.cli import LightningCLI

    LightningCLI(Stock, StockData)
