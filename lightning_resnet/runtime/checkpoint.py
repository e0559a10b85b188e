"""Checkpoints: whole or not at all, and loaded without running code from the file.

`last.ckpt` after every epoch, the one before it as `prev.ckpt`, and `best.ckpt` = highest val/acc1, earliest wins.
"""

import math
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins.io import TorchCheckpointIO

from lightning_resnet.errors import Diverged, UserError


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes to a temporary file in the target's directory and renames it once it is on disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Save."""
        path = Path(path)
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load onto the CPU; tensors and plain values only."""
        return load_checkpoint(path)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of ours onto the CPU, with `weights_only`.

    Raises:
        UserError: the file is missing, damaged or holds code.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():  # torch.load reads flipped bits as they are
                raise ValueError(f"{damaged} does not match its checksum")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as e:
        raise UserError(f"checkpoint {path} does not exist") from e
    except Exception as e:  # a damaged archive fails in many ways
        raise UserError(
            f"checkpoint {path} cannot be read ({type(e).__name__}): it is damaged or not a checkpoint"
        ) from e
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise UserError(f"checkpoint {path} has no state_dict: it was not written by resnet-cli")
    return checkpoint


class Checkpoints(Callback):
    """Saves last, prev and best in a directory.

    Args:
        folder: of the checkpoints.
        origin: what each checkpoint tells of its run: id and configuration.
    """

    def __init__(self, folder: Path, origin: dict[str, str]) -> None:
        self.folder, self.origin = folder, origin
        self.best, self.best_step = -1.0, 0

    def state_dict(self) -> dict[str, Any]:
        """The best val/acc1 so far, and after which step it was."""
        return {"best": self.best, "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""
        self.best, self.best_step = state_dict["best"], state_dict["best_step"]

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Sign the checkpoint."""
        checkpoint["run"] = self.origin

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A kill may have come between last and best."""
        if trainer.is_global_zero and trainer.global_step and trainer.global_step == self.best_step:
            self._copy_to_best(trainer.ckpt_path)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save; validation is done by now."""
        if not math.isfinite(pl_module.metrics.get("val/loss", 0.0)):
            raise Diverged(trainer.global_step, trainer.optimizers[0].param_groups[0]["lr"])
        accuracy = pl_module.metrics.get("val/acc1", -1.0)
        better = accuracy > self.best
        if better:
            self.best, self.best_step = accuracy, trainer.global_step
        last, prev = self.folder / "last.ckpt", self.folder / "prev.ckpt"
        if trainer.is_global_zero and last.exists():
            last.replace(prev)
        trainer.save_checkpoint(last)
        if trainer.is_global_zero and better:
            self._copy_to_best(last)

    def _copy_to_best(self, checkpoint: str | Path) -> None:
        temporary = self.folder / "best.tmp"
        shutil.copyfile(checkpoint, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(self.folder / "best.ckpt")
