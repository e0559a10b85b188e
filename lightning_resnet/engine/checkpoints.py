"""Write checkpoints during training: the last, the previous one and the best.

`last.ckpt` is written after every epoch, every few minutes and when a signal asks for it; its
predecessor is kept as `prev.ckpt`; `best.ckpt` has the highest val/acc1, the earliest among equals.
With `--run.keep_epochs`, weights of some epochs stay as `epoch-005.ckpt` and so on.
Training waits only until the tensors are copied to host memory.
"""

import errno
import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins.io import CheckpointIO, TorchCheckpointIO
from pytorch_lightning.plugins.io.wrapper import _WrappingCheckpointIO
from torch.utils._pytree import tree_map_only

from lightning_resnet.errors import Diverged, UserError, one_line
from lightning_resnet.files import link, remove_unfinished
from lightning_resnet.runs.checkpoint import (
    WEIGHTS,
    check_readable,
    load_checkpoint,
    write_checkpoint,
)
from lightning_resnet.runs.reader import Run
from lightning_resnet.ulimits import limit_met

HANG_S = 300.0  # seconds after which a write counts as hanging
MOST_UNKEPT = 3  # weights to keep that wait in memory for a disk that takes them


class AtomicCheckpointIO(TorchCheckpointIO):
    """Plugin that saves and loads the checkpoints of Lightning, such as those of a ModelCheckpoint.

    Attributes:
        error: why the last save failed; empty if it succeeded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.error = ""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Save atomically, and create the folder if it is missing.

        An error of the file system, such as a full disk, is printed and does not end the training.
        """
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            write_checkpoint(checkpoint, Path(path))
            self.error = ""
        except OSError as e:
            self.error = f"cannot save {path}: {e.strerror or one_line(e)}"
            print(f"warning: {self.error}; training goes on", flush=True)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint that a callback replaces, unless the last save failed."""
        if not self.error:
            super().remove_checkpoint(path)

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load tensors and plain values onto the CPU, without running code from the file."""
        return load_checkpoint(path)


class GivenCheckpointIO(CheckpointIO):
    """Wrapper of a user's CheckpointIO that loads the run's own checkpoints without that plugin.

    Args:
        given: the user's plugin, which saves, loads and removes all other checkpoints.

    Attributes:
        ours: paths of the run's own checkpoints.
        error: always empty, because the user's plugin raises its errors itself.
    """

    error = ""

    def __init__(self, given: CheckpointIO) -> None:
        self.given = given
        self.ours: list[Path] = []
        if isinstance(given, _WrappingCheckpointIO) and given.checkpoint_io is None:
            given.checkpoint_io = AtomicCheckpointIO()

    def save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Save with the user's plugin."""
        self.given.save_checkpoint(*args, **kwargs)

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load the run's own checkpoints directly, and others with the user's plugin."""
        if Path(path) in self.ours:
            return load_checkpoint(path)
        return self.given.load_checkpoint(path, *args, **kwargs)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove with the user's plugin."""
        self.given.remove_checkpoint(path)

    def teardown(self) -> None:
        """Tear down the user's plugin, which waits for saves that still run."""
        self.given.teardown()


class Checkpoints(Callback):
    """Callback that saves last.ckpt, prev.ckpt and best.ckpt of a run.

    The training waits only for the copy to host memory; a thread of the first rank writes the file.

    Args:
        folder: folder of the checkpoints.
        origin: what each checkpoint records of its run: id, configuration, names of the classes.
        minutes: minutes between two saves within an epoch.
        may_write: called before a file takes its name; prepares the run directory for it, and
            returns whether this attempt still owns the run.
        keep_epochs: keep the weights after every so many epochs; None: of no epoch.

    Attributes:
        best: highest val/acc1 so far; -1 before the first evaluation.
        error: why the last write failed; empty if it succeeded.
    """

    def __init__(
        self,
        folder: Path,
        origin: dict[str, Any],
        minutes: float = 10.0,
        may_write: Callable[[], bool] = lambda: True,
        keep_epochs: int | None = None,
    ) -> None:
        self.folder = folder
        self.keep_epochs = keep_epochs
        self.origin = origin
        self.seconds = 60 * minutes
        self.may_write = may_write
        self.best = -1.0
        self.error = ""
        self._step = -1  # optimizer steps of the newest snapshot; -1: take one at the next call
        self._better = False  # whether the next snapshot is the best so far
        self._saved_at = time.monotonic()
        self._kept: Path | None = None  # file that keeps the epoch of the next snapshot
        self._missed_best: dict[str, Any] | None = None  # best snapshot, if its write failed
        self._unkept: dict[Path, dict[str, Any]] = {}  # weights to keep that are not written yet
        self._writer: threading.Thread | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the best val/acc1 so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best val/acc1."""
        self.best = state_dict["best"]

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the run's id, configuration and class names to the checkpoint."""
        checkpoint["run"] = self.origin

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember the loaded step, so that an unchanged state is not saved again.

        Also check that the state can be loaded again, and remove files of interrupted writes.
        """
        self._step = trainer.global_step
        self._saved_at = time.monotonic()
        self._better = False
        check_readable(trainer._checkpoint_connector.dump_checkpoint(weights_only=False))
        if trainer.is_global_zero:
            remove_unfinished(self.folder)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find out whether this net is the best so far, before the training loop saves it.

        Raises:
            Diverged: val/loss is not finite.
        """
        if not math.isfinite(pl_module.metrics.get("val/loss", 0.0)):
            raise Diverged(trainer.global_step, trainer.optimizers[0].param_groups[0]["lr"])
        accuracy = pl_module.metrics.get("val/acc1", -1.0)
        self._better = accuracy > self.best
        self.best = max(self.best, accuracy)
        self._step = -1  # save again even without a new step: the epoch has been evaluated
        epochs = trainer.current_epoch + 1
        if self.keep_epochs and epochs % self.keep_epochs == 0:
            self._kept = Run(self.folder.parent).epoch_file(epochs)

    @property
    def due(self) -> bool:
        """Whether the time between two saves has passed."""
        return time.monotonic() - self._saved_at > self.seconds

    def save(self, trainer: pl.Trainer) -> bool:
        """Copy the training state to host memory, and write it in a thread of the first rank.

        All ranks must call this method at the same step.

        Returns:
            False if nothing has changed since the last save.
        """
        if trainer.global_step == self._step:
            return False
        state = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        check_readable(state)
        self._step = trainer.global_step
        self._saved_at = time.monotonic()
        better = self._better
        self._better = False
        kept = self._kept
        self._kept = None
        if trainer.is_global_zero:
            state = tree_map_only(torch.Tensor, lambda t: t.detach().to("cpu", copy=True), state)
            self._wait()
            self._writer = threading.Thread(
                target=self._write, args=(state, better, kept), name="Checkpoints", daemon=True
            )
            self._writer.start()
        return True

    def finish(self, must: bool = True) -> bool:
        """Wait for the write in progress, and return whether the last write succeeded.

        Args:
            must: raise an error if the last write failed.

        Raises:
            UserError: the last write failed and `must` is set, or the storage does not answer.
        """
        self._wait()
        if self.error and must:
            kept = "the run is kept up to its last good checkpoint: the same command continues"
            none = "no checkpoint of it could be saved: the same command starts over"
            raise UserError(f"{self.error}; {kept if any(self.folder.glob('*.ckpt')) else none}")
        return not self.error

    def _wait(self) -> None:
        """Wait for the writing thread.

        Raises:
            UserError: the write takes longer than HANG_S seconds.
        """
        if self._writer is not None:
            self._writer.join(HANG_S)
            if self._writer.is_alive():
                self._writer = None  # wait no second time
                self.error = (
                    f"{self.folder}: the storage has not answered for {HANG_S:.0f} s; the run goes "
                    "no further"
                )
                raise UserError(self.error)

    def _write(self, state: dict[str, Any], better: bool, kept: Path | None) -> None:
        """Write a snapshot, in the thread; print an error at once, without ending the training.

        If the write of an earlier best snapshot failed and this one is not better, write that one
        first. Weights to keep are written before last.ckpt counts their epoch as done; where that
        fails they must not hold up last.ckpt, and are tried again.
        """
        if kept:
            self._unkept[kept] = {key: state[key] for key in WEIGHTS}
        while len(self._unkept) > MOST_UNKEPT:
            given_up = next(iter(self._unkept))
            del self._unkept[given_up]
            print(f"warning: {given_up} is given up: it could not be written", flush=True)
        try:
            if self._missed_best and not better:
                write_checkpoint(self._missed_best, self.folder / "best.ckpt")
            self._missed_best = None
            write_checkpoint(
                state,
                self.folder / "last.ckpt",
                lambda temporary: self._make_room(temporary, better),
            )
            self._write_kept()
            self.error = ""
        # Many errors are possible: no space, no permission, a missing folder, a newer attempt.
        except Exception as e:  # noqa: BLE001
            self._missed_best = state if better else self._missed_best
            told = e.strerror if isinstance(e, OSError) and e.strerror else one_line(e)
            if isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT):
                told += " (free some space)"
            why = limit_met(e) or told
            file = getattr(e, "filename", None) or self.folder / "last.ckpt"
            self.error = f"cannot save {file}: {why}"
            print(f"warning: {self.error}; training goes on and tries again", flush=True)

    def _make_room(self, temporary: Path, better: bool) -> None:
        """Rename last.ckpt to prev.ckpt, and link a best snapshot, now that the new file is good.

        Raises:
            UserError: a newer attempt has taken over the run.
        """
        if not self.may_write():
            raise UserError("a newer attempt has the run")
        with suppress(OSError):  # `_write` tries again, and tells
            self._write_kept()
        if better:
            link(temporary, self.folder / "best.ckpt")
        if (last := self.folder / "last.ckpt").exists():
            last.replace(self.folder / "prev.ckpt")

    def _write_kept(self) -> None:
        """Write the weights to keep that are not written yet."""
        for file in [*self._unkept]:
            write_checkpoint(self._unkept[file], file)
            del self._unkept[file]


def keep(run: Run, what: Literal["all", "weights", "none"]) -> None:
    """Remove the checkpoints that a finished run does not keep; a second call changes nothing.

    Args:
        run: reader of the run directory.
        what: all: keep all files; weights: keep last.ckpt and best.ckpt, without the states of
            the optimizer, the callbacks and the loops; none: keep no file.
    """
    if what == "all":
        return
    if what == "none":
        for path in run.kept_epochs().values():
            path.unlink(missing_ok=True)
    for name in ("prev", "last", "best"):
        path = run.checkpoints / f"{name}.ckpt"
        if what == "none" or name == "prev" or not path.exists():
            path.unlink(missing_ok=True)
            continue
        full = load_checkpoint(path)
        if full.keys() - {*WEIGHTS}:
            write_checkpoint({key: full[key] for key in WEIGHTS}, path)
