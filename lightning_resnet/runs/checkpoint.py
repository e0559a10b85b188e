"""Checkpoint files: written atomically, and loaded without running code from the file.

When `last.ckpt`, `prev.ckpt` and `best.ckpt` are written is decided in engine/checkpoints.py, and
which of them a run continues from in runs/reader.py.
"""

import io
import os
import pickle
import re
import shlex
import struct
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from lightning_resnet.errors import UserError, one_line, tell
from lightning_resnet.files import replacing
from lightning_resnet.reading import open_plain
from lightning_resnet.runs.reader import Run

# Types of tensors that weights are read from.
DTYPES = {
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
}
WEIGHTS = ("state_dict", "epoch", "global_step", "run")  # what a finished run needs to be used
POSITION = "lightning_resnet"  # key of our loop's position in the state of Lightning's loop
POSITION_FORMS = {
    **dict.fromkeys(("epoch", "steps", "global_step"), int),
    **dict.fromkeys(("evaluated", "should_stop"), bool),
}
STATE_FORMS = {  # of what a checkpoint has besides weights and position
    "global_step": int,
    "optimizer_states": list,
    "callbacks": dict,
    "schedule": dict,
    "frozen": list,
    "unmeasured": list,
    "last_taken": int,
    "train_sums": Tensor | None,
}
# The last 22 bytes of a zip archive without a comment: the end of its central directory.
DIRECTORY_END = struct.Struct("<4s4H2LH")
PLAIN_FLAGS = 1 << 3 | 1 << 11  # the sizes follow the member; its name is UTF-8
# The name of a class or function in an error message of torch.load.
FORBIDDEN = re.compile(r"(?:GLOBAL|global:?|class|type) (?:GLOBAL )?([\w.]+\.[\w.]+)")


def write_checkpoint(
    checkpoint: dict[str, Any], path: Path, before: Callable[[Path], None] = lambda temporary: None
) -> None:
    """Write a checkpoint to a temporary file, verify the file on disk, then rename it.

    Args:
        checkpoint: content of the checkpoint.
        path: path of the file.
        before: called with the verified temporary file, before it takes the name `path`.
    """
    with replacing(path) as file:
        # torch.save to a Python file lets other threads run between the pieces it writes.
        torch.save(checkpoint, file)
        file.flush()
        os.fsync(file.fileno())
        temporary = Path(file.name)
        check_archive(temporary)
        before(temporary)


def check_archive(path: str | Path) -> None:
    """Check that an archive has the form that torch writes, and verify its checksums.

    `torch.load` checks neither. Torch stores its members uncompressed and without attributes; any
    other form can take memory out of proportion, or make torch read other bytes than those that the
    checksums cover.

    Raises:
        ValueError: the archive is damaged or has another form.
    """
    with open_plain(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - DIRECTORY_END.size))
        end = file.read()
        is_complete = len(end) == DIRECTORY_END.size and end.startswith(b"PK\x05\x06")
        if not is_complete or end[-2:] != bytes(2):
            raise ValueError(
                "it does not end as an archive does: it is cut off, or something was added"
            )
        with zipfile.ZipFile(file) as archive:
            _check_members(archive.infolist(), size, end)
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} does not match its checksum")


def _check_members(members: list[zipfile.ZipInfo], size: int, end: bytes) -> None:
    """Check the central directory of an archive.

    Args:
        members: the members that Python finds in the directory.
        size: size of the file in bytes.
        end: last bytes of the file, as torch reads them.

    Raises:
        ValueError: the directory is damaged, or has a member that torch would not write.
    """
    _, disk, first_disk, on_this_disk, in_all, *_ = DIRECTORY_END.unpack(end)
    if disk or first_disk or not on_this_disk == in_all == min(len(members), 0xFFFF):
        raise ValueError("its directory is damaged")
    names = {member.filename for member in members}
    leads_out = any(".." in name or name[:1] == "/" or "\\" in name for name in names)
    if len(names) < len(members) or leads_out:
        raise ValueError("it holds a name twice, or one that leads out of it")
    for member in members:
        _check_member(member)
    if sum(member.file_size for member in members) > size:
        raise ValueError("its members are larger than the file")


def _check_member(member: zipfile.ZipInfo) -> None:
    """Check that torch could have written a member of an archive."""
    attributes = (
        member.compress_type,
        member.external_attr,
        member.internal_attr,
        member.volume,
        member.flag_bits & ~PLAIN_FLAGS,
    )
    extra = member.extra
    # Torch writes one extra field, for sizes of more than 4 GB.
    is_size_field = len(extra) >= 4 and extra[:2] == b"\1\0" and len(extra) == 4 + extra[2]
    if any(attributes) or member.comment or (extra and not is_size_field):
        raise ValueError(f"{member.filename} is compressed, or marked as torch marks nothing")
    if member.compress_size != member.file_size:
        raise ValueError(f"{member.filename} has two sizes")


def newest_in(run: Path) -> tuple[Path, dict[str, Any]]:
    """Read the last checkpoint of a run; see `newest_of`.

    Returns:
        The path of the checkpoint and its content.

    Raises:
        UserError: the run has no checkpoint that can be read.
    """
    file, checkpoint = newest_of(run)
    if file is None:
        raise UserError(
            f"checkpoint {Run(run).checkpoints / 'last.ckpt'} does not exist: give a run that "
            "`resnet-cli fit` has begun, or a checkpoint"
        )
    return file, checkpoint


def newest_of(run: Path, at: str = "last") -> tuple[Path | None, dict[str, Any]]:
    """Read a checkpoint of a run, to use its net.

    Where `last` is damaged, the checkpoint is read that `fit` would continue from.

    Args:
        run: the run directory.
        at: `last`, or the name of another checkpoint, which has no replacement.

    Returns:
        The path of the checkpoint and its content; None and an empty dict where the run has none.

    Raises:
        UserError: the run has checkpoints, and none can be read.
    """
    files = Run(run).candidates()
    if at != "last":
        files = [file for file in files if file.stem == at]
    return newest_good(files, _warn, "restore one, or give another run or checkpoint")


def _warn(text: str) -> None:
    tell(text, file=sys.stderr)  # the standard output is for the verb's result


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, with `weights_only`.

    Args:
        path: a checkpoint that this package wrote.

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
    except ValueError as e:  # raised by check_archive
        raise UserError(
            f"checkpoint {path} cannot be read: {one_line(e)}; it is damaged or not a checkpoint"
        ) from e
    except Exception as e:  # torch.load raises many types for a damaged archive
        if found := FORBIDDEN.search(str(e)):
            raise UserError(
                f"checkpoint {path} cannot be read: it holds {found[1]}, not tensors and plain "
                "values"
            ) from e
        raise UserError(
            f"checkpoint {path} cannot be read ({type(e).__name__}): it is damaged or not a "
            "checkpoint"
        ) from e
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise UserError(
            f"checkpoint {path} has no state_dict: make it one of ours with `resnet-cli convert "
            f"{shlex.quote(str(path))} --out NAME.ckpt`"
        )
    try:
        check_plain(checkpoint["state_dict"])
    except UserError as e:
        raise UserError(f"checkpoint {path}: {e}") from e
    if not isinstance(checkpoint.get("run", {}), dict):
        raise UserError(
            f"checkpoint {path} is of another form than ours: it was not written by `resnet-cli`"
        )
    return checkpoint


def classes_in(checkpoint: dict[str, Any]) -> list[str]:
    """Return the names of the net's outputs; empty where the checkpoint has none."""
    classes = checkpoint.get("run", {}).get("classes")
    return [str(name) for name in classes] if isinstance(classes, list | tuple) else []


def check_resumable(checkpoint: dict[str, Any], run_id: str) -> None:
    """Check that training can continue from a checkpoint.

    Args:
        checkpoint: content of the checkpoint.
        run_id: id of the run that is to continue.

    Raises:
        UserError: the checkpoint holds no state of a training, or that of another run.
    """
    origin = checkpoint.get("run")
    origin_id = origin.get("id") if isinstance(origin, dict) else None
    if isinstance(origin_id, str) and origin_id.partition("-")[0] != run_id.partition("-")[0]:
        raise UserError(f"it is of run {origin_id}; --run.init_from takes its weights")
    for key in ("loops", "optimizer_states", "callbacks"):
        if key not in checkpoint:
            raise UserError(
                "it holds weights alone, as a finished run keeps with --run.keep weights "
                f"(no {key}); --run.init_from takes them"
            )
    loops = checkpoint["loops"]
    loop = loops.get("fit_loop") if isinstance(loops, dict) else None
    if not isinstance(loop, dict) or not ({POSITION, "evaluated"} & loop.keys()):
        raise UserError(
            "another Trainer wrote it, with its own position; --run.init_from takes its weights"
        )
    if key := _malformed(checkpoint, loop.get(POSITION, loop)):
        raise UserError(
            f"its `{key}` is not what `fit` writes there; --run.init_from takes its weights"
        )


def _malformed(checkpoint: dict[str, Any], position: Any) -> str:
    """Return the first key whose value is not one that `fit` writes there; empty if there is none.

    Args:
        checkpoint: content of the checkpoint.
        position: position of the training in it.
    """
    if not isinstance(position, dict):
        return POSITION
    for key, form in POSITION_FORMS.items():
        if not isinstance(position.get(key), form):
            return key
    for key, form in STATE_FORMS.items():
        if key in checkpoint and not isinstance(checkpoint[key], form):
            return key
    sums = checkpoint.get("train_sums")
    if sums is not None and sums.shape != (5,):
        return "train_sums"
    return "unmeasured" if "frozen" in checkpoint and "unmeasured" not in checkpoint else ""


def newest_good(
    candidates: list[Path],
    say: Callable[[str], None],
    cure: str,
    check: Callable[[dict[str, Any]], None] = lambda checkpoint: None,
) -> tuple[Path | None, dict[str, Any]]:
    """Read the first good checkpoint, and warn about those that were not good.

    Args:
        candidates: paths of checkpoints, the newest first.
        say: prints a warning.
        cure: what the user can do where no checkpoint is good.
        check: raises UserError for a checkpoint that is of no use.

    Returns:
        The path of the checkpoint and its content; None and an empty dict where there are no
        candidates.

    Raises:
        UserError: there are candidates, and none is good.
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
    """Check that a checkpoint can be read back with `weights_only`, before it replaces a good one.

    Args:
        state: content of the checkpoint. Its tensors can always be read back, so they are replaced
            by empty ones for the check.

    Raises:
        UserError: the checkpoint cannot be read back; the message names the part and its owner.
    """
    small = tree_map_only(torch.Tensor, _without_elements, state)
    if not _why_unreadable(small):
        return
    parts = {f"the callback {name}": part for name, part in small.get("callbacks", {}).items()}
    for name, part in small.items():
        if name != "callbacks":
            parts[f"the checkpoint's {name!r}"] = part
    for name, part in parts.items():
        if why := _why_unreadable(part):
            raise UserError(
                f"{name} keeps {why}, which could not be read back from a checkpoint: let its "
                "state_dict (or on_save_checkpoint) give numbers, text, lists, dicts and tensors"
            )


def _without_elements(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(0, dtype=tensor.dtype) if type(tensor) is torch.Tensor else tensor


def _why_unreadable(part: Any) -> str:
    """Return what could not be read back, such as the name of a class; empty if all can."""
    file = io.BytesIO()
    try:
        torch.save(part, file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except Exception as e:  # pickle and torch raise many types
        if found := FORBIDDEN.search(str(e)):
            return found[1]
        if isinstance(e, pickle.UnpicklingError):
            return "something of another type"
        return one_line(e)[:200]
    return ""


def check_plain(state: Mapping[Any, Any]) -> None:
    """Refuse tensors that are not dense or of another type, such as quantized or complex ones.

    Args:
        state: a state dict from a file; values that are no tensors are ignored.

    Raises:
        UserError: the first such tensor, or one that claims more elements than the file holds.
    """
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            continue
        if not isinstance(name, str):
            raise UserError(
                f"a tensor goes by {name!r}, which is no name: save the net's state_dict()"
            )
        kind = tensor.dtype
        if tensor.is_meta:
            kind = "meta"
        elif tensor.layout != torch.strided:
            kind = tensor.layout
        elif tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise UserError(f"{name} is larger than what the file holds of it")
        if kind not in DTYPES:
            raise UserError(
                f"{name} is a tensor of {str(kind).removeprefix('torch.')}: save the net in "
                "float32, dense"
            )
