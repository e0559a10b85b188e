"""Checkpoints: whole or not at all, written beside the training, and loaded without running code from the file.

`last.ckpt` after every epoch, every few minutes and when a signal asks for it; the one before as `prev.ckpt`;
`best.ckpt` = highest val/acc1, earliest wins. Training waits only until the tensors are copied to host memory.
"""

import io
import os
import pickle
import re
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
from lightning_resnet.runs.directory import RunDir

DTYPES = {  # of tensors that weights are read from
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
}

POSITION = "lightning_resnet"  # key of our loop's position, among what Lightning's keeps
DIRECTORY_END = struct.Struct("<4s4H2LH")  # of a zip archive without a comment: its last 22 bytes
PLAIN_FLAGS = 1 << 3 | 1 << 11  # sizes follow the member; its name is UTF-8
FORBIDDEN = re.compile(r"(?:GLOBAL|global:?|class|type) (?:GLOBAL )?([\w.]+\.[\w.]+)")  # what torch.load names


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


def check_plain(state: Mapping[Any, Any]) -> None:
    """Refuse tensors that no net of floating-point numbers is made of, such as quantized, complex or sparse ones.

    Args:
        state: of a file; what is no tensor is not looked at.

    Raises:
        UserError: the first such tensor, or one that claims more elements than the file holds.
    """
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            continue
        if not isinstance(name, str):
            raise UserError(f"a tensor goes by {name!r}, which is no name: save the net's state_dict()")
        is_dense = tensor.layout == torch.strided and not tensor.is_meta
        if is_dense and tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise UserError(f"{name} is larger than what the file holds of it")
        if not is_dense or tensor.dtype not in DTYPES:
            kind = str(tensor.dtype if is_dense else "meta" if tensor.is_meta else tensor.layout)
            raise UserError(f"{name} is a tensor of {kind.removeprefix('torch.')}: save the net in float32, dense")
