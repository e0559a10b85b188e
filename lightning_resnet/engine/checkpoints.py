"""Writes checkpoints during training, and keeps the last, the one before it and the best."""

import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins.io import CheckpointIO, TorchCheckpointIO
from pytorch_lightning.plugins.io.wrapper import _WrappingCheckpointIO
from torch.utils._pytree import tree_map_only

from lightning_resnet.errors import Diverged, UserError, one_line
from lightning_resnet.files import link, remove_unfinished, sync_file
from lightning_resnet.runs.checkpoint import check_readable, load_checkpoint, write_checkpoint
from lightning_resnet.ulimits import limit_met

HANG_S = 300.0  # seconds after which a write is taken to hang


class AtomicCheckpointIO(TorchCheckpointIO):
    """For what Lightning itself saves and loads, such as a user's ModelCheckpoint.

    Attributes:
        error: why the last save failed; empty after one that did not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.error = ""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Save; the folder is made where there is none. A full disk is told, and does not end the training."""
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            write_checkpoint(checkpoint, Path(path))
            self.error = ""
        except OSError as e:
            self.error = f"cannot save {path}: {e.strerror or one_line(e)}"
            print(f"careful: {self.error}; training goes on", flush=True)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove what a callback has replaced, unless its successor could not be saved."""
        if not self.error:
            super().remove_checkpoint(path)

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load onto the CPU; tensors and plain values only."""
        return load_checkpoint(path)


class GivenCheckpointIO(CheckpointIO):
    """A user's plugin, for what Lightning saves and loads, and our own way for the run's own checkpoints.

    Args:
        given: the plugin.

    Attributes:
        ours: the run's own checkpoints.
    """

    error = ""  # the plugin raises its own

    def __init__(self, given: CheckpointIO) -> None:
        self.given = given
        self.ours: list[Path] = []
        if isinstance(given, _WrappingCheckpointIO) and given.checkpoint_io is None:
            given.checkpoint_io = AtomicCheckpointIO()

    def save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Save."""
        self.given.save_checkpoint(*args, **kwargs)

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load."""
        if Path(path) in self.ours:
            return load_checkpoint(path)
        return self.given.load_checkpoint(path, *args, **kwargs)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove."""
        self.given.remove_checkpoint(path)

    def teardown(self) -> None:
        """Wait for what it has under way."""
        self.given.teardown()


class Checkpoints(Callback):
    """Saves last, prev and best in a directory.

    Args:
        folder: of the checkpoints.
        origin: what each checkpoint tells of its run: id, configuration, names of the classes.
        minutes: between two saves within an epoch.
        may_write: asked before a file takes its name: is the run still ours?
    """

    def __init__(
        self,
        folder: Path,
        origin: dict[str, Any],
        minutes: float = 10.0,
        may_write: Callable[[], bool] = lambda: True,
    ) -> None:
        self.folder, self.origin, self.seconds, self.may_write = (
            folder,
            origin,
            60 * minutes,
            may_write,
        )
        self.best, self.error = -1.0, ""
        self._step = -1  # of the newest snapshot
        self._better = False  # than all before: the snapshot is the best
        self._saved_at = time.monotonic()
        self._missed_best: dict[str, Any] | None = None  # could not be written when it was
        self._writer: threading.Thread | None = None

    def state_dict(self) -> dict[str, Any]:
        """The best val/acc1 so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""
        self.best = state_dict["best"]

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Sign the checkpoint."""
        checkpoint["run"] = self.origin

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What was loaded need not be saved."""
        self._step, self._saved_at, self._better = trainer.global_step, time.monotonic(), False
        check_readable(trainer._checkpoint_connector.dump_checkpoint(weights_only=False))
        if trainer.is_global_zero:
            remove_unfinished(self.folder)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Is this the best net so far? The loop saves it next."""
        if not math.isfinite(pl_module.metrics.get("val/loss", 0.0)):
            raise Diverged(trainer.global_step, trainer.optimizers[0].param_groups[0]["lr"])
        accuracy = pl_module.metrics.get("val/acc1", -1.0)
        self._better = accuracy > self.best
        self.best = max(self.best, accuracy)
        self._step = -1  # the same weights as at the last step, but evaluated

    @property
    def due(self) -> bool:
        """Whether the last save is long ago."""
        return time.monotonic() - self._saved_at > self.seconds

    def save(self, trainer: pl.Trainer) -> bool:
        """Copy everything to host memory and let a thread write it; all ranks must call it at the same step.

        Returns:
            False if nothing was done since the last one.
        """
        if trainer.global_step == self._step:
            return False
        state = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        check_readable(state)
        self._step, self._saved_at, better, self._better = (
            trainer.global_step,
            time.monotonic(),
            self._better,
            False,
        )
        if trainer.is_global_zero:
            state = tree_map_only(torch.Tensor, lambda t: t.detach().to("cpu", copy=True), state)
            self._wait()
            self._writer = threading.Thread(
                target=self._write, args=(state, better), name="Checkpoints", daemon=True
            )
            self._writer.start()
        return True

    def finish(self, must: bool = True) -> bool:
        """Wait until all is on disk; whether it is.

        Raises:
            UserError: the last state of the training could not be saved, and `must`.
        """
        self._wait()
        if self.error and must:
            kept = "the run is kept up to its last good checkpoint: the same command continues"
            none = "no checkpoint of it could be saved: the same command begins anew"
            raise UserError(f"{self.error}; {kept if any(self.folder.glob('*.ckpt')) else none}")
        return not self.error

    def keep(self, what: Literal["all", "weights", "none"]) -> None:
        """What stays of a finished run."""
        if what == "all":
            return
        for name in ("prev", "last", "best"):
            path = self.folder / f"{name}.ckpt"
            if what == "none" or name == "prev" or not path.exists():
                path.unlink(missing_ok=True)
                continue
            whole = load_checkpoint(path)
            write_checkpoint(
                {k: whole[k] for k in ("state_dict", "epoch", "global_step", "run")}, path
            )

    def _wait(self) -> None:
        if self._writer is not None:
            self._writer.join(HANG_S)
            if self._writer.is_alive():
                raise UserError(
                    f"{self.folder}: the storage has not answered for {HANG_S:.0f} s; the run goes no further"
                )

    def _write(self, state: dict[str, Any], better: bool) -> None:
        """In the thread; an error is told at once, and does not end the training."""
        try:
            if self._missed_best and not better:
                write_checkpoint(self._missed_best, self.folder / "best.ckpt")
            self._missed_best = None
            write_checkpoint(
                state,
                self.folder / "last.ckpt",
                lambda temporary: self._make_room(temporary, better),
            )
            self.error = ""
        except Exception as e:  # noqa: BLE001 -- disk full, no permission, folder gone, another attempt
            self._missed_best = state if better else self._missed_best
            told = e.strerror if isinstance(e, OSError) and e.strerror else one_line(e)
            why = limit_met(e) or told
            self.error = f"cannot save {self.folder / 'last.ckpt'}: {why}"
            print(f"careful: {self.error}; training goes on and tries again", flush=True)

    def _make_room(self, temporary: Path, better: bool) -> None:
        """The new file is good: it may replace what it replaces."""
        if not self.may_write():
            raise UserError("a newer attempt has the run")
        if (rows := self.folder.parent / "metrics.jsonl").exists():
            sync_file(rows)  # what was recorded before a checkpoint must not be younger than it
        if better:
            link(temporary, self.folder / "best.ckpt")
        if (last := self.folder / "last.ckpt").exists():
            last.replace(self.folder / "prev.ckpt")
