"""Checkpoints: whole or not at all, written beside the training, and loaded without running code from the file.

`last.ckpt` after every epoch, every few minutes and when a signal asks for it; the one before as `prev.ckpt`;
`best.ckpt` = highest val/acc1, earliest wins. Training waits only until the tensors are copied to host memory.
"""

import io
import math
import os
import pickle
import re
import struct
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins.io import CheckpointIO, TorchCheckpointIO
from pytorch_lightning.plugins.io.wrapper import _WrappingCheckpointIO
from torch.utils._pytree import tree_map_only

from lightning_resnet.errors import Diverged, UserError, one_line, tell
from lightning_resnet.files import link, remove_unfinished, replacing, sync_file
from lightning_resnet.reading import open_plain
from lightning_resnet.runtime.limits import limit_met
from lightning_resnet.runtime.rundir import RunDir
from lightning_resnet.weights import check_plain

POSITION = "lightning_resnet"  # key of our loop's position, among what Lightning's keeps
HANG_S = 300.0  # seconds after which a write is taken to hang
DIRECTORY_END = struct.Struct("<4s4H2LH")  # of a zip archive without a comment: its last 22 bytes
PLAIN_FLAGS = 1 << 3 | 1 << 11  # sizes follow the member; its name is UTF-8
FORBIDDEN = re.compile(r"(?:GLOBAL|global:?|class|type) (?:GLOBAL )?([\w.]+\.[\w.]+)")  # what torch.load names


class AtomicCheckpointIO(TorchCheckpointIO):
    """For what Lightning itself saves and loads, such as a user's ModelCheckpoint.

    Attributes:
        error: why the last save failed; empty after one that did not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.error = ""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
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
        ours: the run's own checkpoints.
    """

    error = ""  # the plugin raises its own

    def __init__(self, given: CheckpointIO, ours: list[Path]) -> None:
        self.given, self.ours = given, ours
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


def write_checkpoint(
    checkpoint: dict[str, Any], path: Path, before: Callable[[Path], None] = lambda temporary: None
) -> None:
    """Write to a temporary file in the target's directory, see that it is on disk and whole, then rename it.

    Args:
        checkpoint: to write.
        path: of the file.
        before: called with the temporary file once it is good, before it takes the name.
    """
    with replacing(path) as file:
        torch.save(checkpoint, file)  # into a Python file: torch lets other threads run between its pieces
        file.flush()
        os.fsync(file.fileno())
        temporary = Path(file.name)
        check_archive(temporary)
        before(temporary)


def check_archive(path: str | Path) -> None:
    """Check that an archive is as torch writes them, and compare its checksums: torch.load looks at neither.

    Torch stores its members as they are, without attributes. Anything else takes memory out of proportion, or makes
    torch read something else than what the checksums are of.

    Raises:
        ValueError: it is not.
    """
    with open_plain(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - DIRECTORY_END.size))
        end = file.read()
        if len(end) < DIRECTORY_END.size or not end.startswith(b"PK\x05\x06") or end[-2:] != bytes(2):
            raise ValueError("it does not end as an archive does: it is cut off, or something was added")
        with zipfile.ZipFile(file) as archive:
            _check_members(archive.infolist(), size, end)
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} does not match its checksum")


def _check_members(members: list[zipfile.ZipInfo], size: int, end: bytes) -> None:
    """Look at the archive's directory.

    Args:
        members: as Python reads it.
        size: of the file.
        end: its last bytes, as torch reads them.
    """
    _, disk, first, here, all_members, *_ = DIRECTORY_END.unpack(end)
    if disk or first or not here == all_members == min(len(members), 0xFFFF):
        raise ValueError("its directory is damaged")
    names = {member.filename for member in members}
    if len(names) < len(members) or any(".." in name or name[:1] == "/" or "\\" in name for name in names):
        raise ValueError("it holds a name twice, or one that leads out of it")
    for member in members:
        large = len(member.extra) >= 4 and member.extra[:2] == b"\1\0" and len(member.extra) == 4 + member.extra[2]
        plain = (member.compress_type, member.external_attr, member.internal_attr, member.volume) == (0, 0, 0, 0)
        if not plain or member.flag_bits & ~PLAIN_FLAGS or member.comment or (member.extra and not large):
            raise ValueError(f"{member.filename} is compressed, or marked as torch marks nothing")
        if member.compress_size != member.file_size:
            raise ValueError(f"{member.filename} has two sizes")
    if sum(member.file_size for member in members) > size:
        raise ValueError("its members are larger than the file")


def newest_in(path: Path) -> tuple[Path, dict[str, Any]]:
    """Read the last checkpoint of a run, or of a folder that holds one run; see `newest_of`.

    Returns:
        The checkpoint's file and its content.

    Raises:
        UserError: the folder holds several runs, or the run no checkpoint that can be read.
    """
    runs = [path] if (path / "checkpoints").is_dir() else sorted(p.parent for p in path.glob("*/checkpoints"))
    if len(runs) > 1:
        raise UserError(f"{path} holds {len(runs)} runs: give one of them, such as {runs[0]}")
    run = (runs or [path])[0]
    file, checkpoint = newest_of(run)
    if file is None:
        raise UserError(
            f"checkpoint {run / 'checkpoints' / 'last.ckpt'} does not exist: give a run that `resnet-cli fit` has "
            "begun, or a checkpoint"
        )
    return file, checkpoint


def newest_of(run: Path, at: str = "last") -> tuple[Path | None, dict[str, Any]]:
    """Read a checkpoint of a run, to use its net; where `last` is damaged, the one that `fit` would continue from.

    Args:
        run: its directory.
        at: last, or the name of another one, which none takes the place of.

    Returns:
        The checkpoint's file and its content; None and nothing where the run has none.

    Raises:
        UserError: it has some, and none can be read.
    """
    files = RunDir(run).candidates()
    if at != "last":
        files = [file for file in files if file.stem == at]
    return newest_good(files, _warn, "restore one, or give another run or checkpoint")


def _warn(text: str) -> None:
    tell(text, file=sys.stderr)  # the standard output is for the verb's result


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of ours onto the CPU, with `weights_only`.

    Raises:
        UserError: the file is missing, damaged or holds code.
    """
    try:
        check_archive(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as e:
        raise UserError(f"checkpoint {path} does not exist") from e
    except OSError as e:
        raise UserError(f"checkpoint {path} cannot be read: {e.strerror or one_line(e)}") from e
    except ValueError as e:  # by check_archive
        raise UserError(f"checkpoint {path} cannot be read: {one_line(e)}; it is damaged or not a checkpoint") from e
    except Exception as e:  # a damaged archive fails in many ways
        if found := FORBIDDEN.search(str(e)):
            raise UserError(
                f"checkpoint {path} cannot be read: it holds {found[1]}, not tensors and plain values"
            ) from e
        raise UserError(
            f"checkpoint {path} cannot be read ({type(e).__name__}): it is damaged or not a checkpoint"
        ) from e
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise UserError(f"checkpoint {path} has no state_dict: make it one of ours with `resnet-cli convert`")
    try:
        check_plain(checkpoint["state_dict"])
    except UserError as e:
        raise UserError(f"checkpoint {path}: {e}") from e
    if not isinstance(checkpoint.get("run", {}), dict):
        raise UserError(f"checkpoint {path} is of another form than ours: it was not written by `resnet-cli`")
    return checkpoint


def classes_in(checkpoint: dict[str, Any]) -> list[str]:
    """Names of the net's outputs, where a checkpoint tells them; else empty."""
    classes = checkpoint.get("run", {}).get("classes")
    return [str(name) for name in classes] if isinstance(classes, list | tuple) else []


def check_resumable(checkpoint: dict[str, Any], run_id: str) -> None:
    """Check that training can go on from a checkpoint.

    Args:
        checkpoint: its content.
        run_id: of the run that shall go on.

    Raises:
        UserError: it holds no state of a training, or another run's.
    """
    origin = checkpoint.get("run")
    theirs = origin.get("id") if isinstance(origin, dict) else None
    if isinstance(theirs, str) and theirs.partition("-")[0] != run_id.partition("-")[0]:
        raise UserError(f"it is of run {theirs}; --run.init_from takes its weights")
    if missing := [key for key in ("loops", "optimizer_states", "callbacks") if key not in checkpoint]:
        raise UserError(
            f"it holds weights alone, as a finished run keeps with --run.keep weights (no {missing[0]}); "
            "--run.init_from takes them"
        )
    loop = checkpoint["loops"].get("fit_loop") if isinstance(checkpoint["loops"], dict) else None
    if not isinstance(loop, dict) or not ({POSITION, "evaluated"} & loop.keys()):
        raise UserError("another Trainer wrote it, with its own position; --run.init_from takes its weights")


def newest_good(
    candidates: list[Path],
    say: Callable[[str], None],
    cure: str,
    check: Callable[[dict[str, Any]], None] = lambda checkpoint: None,
) -> tuple[Path | None, dict[str, Any]]:
    """Read the first checkpoint that can be read; say which ones it takes the place of, and what is wrong with them.

    Args:
        candidates: files, the newest first.
        say: tells.
        cure: what the user can do where none is good.
        check: raises UserError for a checkpoint that is of no use.

    Returns:
        The checkpoint's file and its content; None and nothing where there are no candidates.

    Raises:
        UserError: there are some, and none is good.
    """
    faults: list[str] = []
    for path in candidates:
        try:
            checkpoint = load_checkpoint(path)
        except UserError as e:
            faults.append(str(e))
            continue
        try:
            check(checkpoint)
        except UserError as e:
            faults.append(f"checkpoint {path} is not one to continue from: {e}")
            continue
        for fault in faults:
            say(f"warning: {fault}; {path} is taken in its place")
        return path, checkpoint
    if faults:
        raise UserError(f"{faults[0]}; no other is good: {cure}")
    return None, {}


def check_readable(state: dict[str, Any]) -> None:
    """Check that a checkpoint can be read back with `weights_only`, before it replaces one that can.

    Args:
        state: the checkpoint; its tensors, which can, are left out.

    Raises:
        UserError: it cannot; whose state it is, and what in it.
    """
    small = tree_map_only(torch.Tensor, _without_elements, state)
    if not _why_unreadable(small):
        return
    parts = {f"the callback {name}": part for name, part in small.get("callbacks", {}).items()}
    parts |= {f"the checkpoint's {name!r}": part for name, part in small.items() if name != "callbacks"}
    for name, part in parts.items():
        if why := _why_unreadable(part):
            raise UserError(
                f"{name} keeps {why}, which could not be read back from a checkpoint: let its state_dict (or "
                "on_save_checkpoint) give numbers, text, lists, dicts and tensors"
            )


def _without_elements(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(0, dtype=tensor.dtype) if type(tensor) is torch.Tensor else tensor


def _why_unreadable(part: Any) -> str:
    """What in it could not be read back; empty if all can."""
    file = io.BytesIO()
    try:
        torch.save(part, file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except Exception as e:  # whatever pickle and torch do not take
        if found := FORBIDDEN.search(str(e)):
            return found[1]
        return "something of another type" if isinstance(e, pickle.UnpicklingError) else one_line(e)[:200]
    return ""


class Checkpoints(Callback):
    """Saves last, prev and best in a directory.

    Args:
        folder: of the checkpoints.
        origin: what each checkpoint tells of its run: id, configuration, names of the classes.
        minutes: between two saves within an epoch.
        may_write: asked before a file takes its name: is the run still ours?
    """

    def __init__(
        self, folder: Path, origin: dict[str, Any], minutes: float = 10.0, may_write: Callable[[], bool] = lambda: True
    ) -> None:
        self.folder, self.origin, self.seconds, self.may_write = folder, origin, 60 * minutes, may_write
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
        self._step, self._saved_at, better, self._better = trainer.global_step, time.monotonic(), self._better, False
        if trainer.is_global_zero:
            state = tree_map_only(torch.Tensor, lambda t: t.detach().to("cpu", copy=True), state)
            self._wait()
            self._writer = threading.Thread(target=self._write, args=(state, better), name="Checkpoints", daemon=True)
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
            write_checkpoint({k: whole[k] for k in ("state_dict", "epoch", "global_step", "run")}, path)

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
            write_checkpoint(state, self.folder / "last.ckpt", lambda temporary: self._make_room(temporary, better))
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
