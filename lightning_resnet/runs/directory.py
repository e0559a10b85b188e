"""The run directory `<root>/<name>/<run id>/`: who owns it, what it records. It is the truth about a run.

config.yaml        reproduces the run, alone
meta.json          code, versions, hardware, command
metrics.jsonl      one row per log interval and per evaluation
attempts/<n>.json  one file per start of the run: how far it came, how it ended
checkpoints/       last, prev, best
"""

import errno
import json
import math
import os
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from lightning_resnet.errors import UserError, one_line
from lightning_resnet.files import remove_unfinished, write_json, write_new, write_whole
from lightning_resnet.masking import mask
from lightning_resnet.reading import open_plain, parse_yaml, read_text
from lightning_resnet.runs.status import ATTEMPT_FILE, attempt_files, last_attempt, process_name, restarts, status

HEARTBEAT_S = 10.0  # seconds between signs of life
END = "# The end of config.yaml: without this line the file is not whole.\n"


class RunDir:
    """One attempt at a run.

    Args:
        path: the directory; made where it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.attempt: dict[str, Any] = {}
        self.mirror: Any = None  # of the rows, outside the directory; set before the first
        self.superseded = False  # a newer attempt has the run
        self._last_beat = 0.0
        self._unwritten: list[str] = []  # rows
        self._complaint = ""  # why the last write failed

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are."""
        return self.path / "checkpoints"

    def candidates(self) -> list[Path]:
        """List the checkpoints to continue from, the newest first.

        A link that leads nowhere is one that cannot be read, and so is last.ckpt where it is missing beside others.
        """
        last, *others = [self.checkpoints / f"{name}.ckpt" for name in ("last", "prev", "best")]
        there = [file for file in others if os.path.lexists(file)]
        return [last, *there] if there or os.path.lexists(last) else []

    def start_attempt(self, gpus: int = 0) -> None:
        """Begin an attempt.

        Args:
            gpus: that all ranks together train on.

        Raises:
            UserError: another process is at this run, or the directory cannot be written.
        """
        n = self._free_number(1 + max(attempt_files(self.path), default=0))  # before looking who runs: see below
        if status(self.path) == "running" and not self._is_predecessor(last_attempt(self.path)):
            raise self._owned()
        if not ATTEMPT_FILE.fullmatch(self._attempt_file(n + 1).name):
            raise UserError(f"{self._attempt_file(n - 1)} is of no attempt of this run, which has few: remove it")
        self._file = self._attempt_file(n)
        self._next = self._attempt_file(self._free_number(n + 1))
        self._t0 = self._last_beat = time.monotonic()
        attempt = {
            "attempt": n,
            "start": datetime.now(UTC).isoformat(timespec="seconds"),
            "end": None,
            "seconds": 0.0,
            "reason": "running",
            "last_step": 0,
            "heartbeat": time.time(),
            "job_id": os.environ.get("SLURM_JOB_ID"),
            "restart_count": restarts(os.environ),
            "gpus": gpus,
            "host": socket.gethostname(),
            "process": process_name(),
            "error": None,
            "signal": None,
        }
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self.checkpoints.mkdir(exist_ok=True)
            _end_torn_line(self.path / "metrics.jsonl")
        except OSError as e:
            raise self._cannot_begin(e) from e
        self.attempt = attempt  # before the file is there: a signal in between must find what to end
        try:
            write_new(self._file, json.dumps(attempt, indent=1) + "\n")
        except FileExistsError:  # two starts at once: only one makes the file
            self.attempt = {}  # the file is the other start's, and so is its end
            raise self._owned() from None
        except OSError as e:
            self.attempt = {}
            raise self._cannot_begin(e) from e
        remove_unfinished(self.path)
        remove_unfinished(self._file.parent)

    def _attempt_file(self, n: int) -> Path:
        return self.path / "attempts" / f"{n}.json"

    def _free_number(self, n: int) -> int:
        """The first from `n` on whose name is not taken by something that is no attempt, such as a folder."""
        while os.path.lexists(self._attempt_file(n)) and not os.path.isfile(self._attempt_file(n)):
            n += 1
        return n

    def _cannot_begin(self, e: OSError) -> UserError:
        where = e.filename or self.path
        return UserError(
            f"cannot begin a run in {self.path}: {where}: {e.strerror}; mend that, or set --run.root to a folder "
            "you can write"
        )

    def _owned(self) -> UserError:
        owner = last_attempt(self.path) or {"attempt": "?", "host": "?", "start": "now"}
        return UserError(
            f"run {self.path} is being trained by attempt {owner['attempt']} on {owner['host']} since "
            f"{owner['start']}, as attempts/{owner['attempt']}.json tells: wait for it, stop it, or add --run.new "
            "for a replicate"
        )

    def _is_predecessor(self, owner: dict[str, Any]) -> bool:
        """A requeued job takes over from itself: what it was before the requeue has ended, or is about to."""
        job, count = os.environ.get("SLURM_JOB_ID"), restarts(os.environ)
        return job is not None and owner.get("job_id") == job and owner.get("restart_count", 0) < count

    def heartbeat(self, step: int, force: bool = False) -> None:
        """Show that the attempt is alive and how far it has come; writes at most every `HEARTBEAT_S`."""
        if force or time.monotonic() - self._last_beat > HEARTBEAT_S:
            self.is_owner()
            self._last_beat = time.monotonic()
            self.attempt.update(last_step=step, seconds=round(self._last_beat - self._t0, 3), heartbeat=time.time())
            self._try(partial(self._write_attempt, force))

    def _write_attempt(self, sync: bool) -> None:
        """Whole; where the disk is full, over the file that is there, which takes no more room."""
        try:
            write_json(self._file, self.attempt, sync)
        except OSError as e:
            if e.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            with self._file.open("r+") as file:
                file.write(json.dumps(self.attempt) + "\n")
                file.truncate()

    def is_owner(self) -> bool:
        """Whether the run is still this attempt's."""
        self.superseded |= os.path.isfile(self._next)
        return not self.superseded

    def end(self, step: int, reason: str, error: str | None = None, signal: str | None = None) -> None:
        """Record how far the attempt came and how it ended."""
        ended = datetime.now(UTC).isoformat(timespec="seconds")
        self.attempt.update(reason=reason, error=error and mask(error), signal=signal, end=ended)
        self.heartbeat(step, force=True)

    def finish(self) -> None:
        """See that all rows are written.

        Raises:
            UserError: some could not be.
        """
        if self._unwritten:
            self._try(self._append)
        if self._unwritten:
            raise UserError(f"{len(self._unwritten)} rows are missing in {self.path}/metrics.jsonl: {self._complaint}")

    def record(self, step: int, epoch: int, metrics: dict[str, float]) -> None:
        """Append one row to metrics.jsonl: `step` = optimizer steps done, `epoch` 0-based; not finite = null."""
        row = {"step": step, "epoch": epoch, "attempt": self.attempt["attempt"], "time": round(time.time(), 3)}
        row |= {k: v if math.isfinite(v) else None for k, v in metrics.items()}
        if not self.is_owner():
            return
        self._unwritten.append(json.dumps(row) + "\n")
        self._try(self._append)
        if self.mirror:
            self.mirror.record(row)

    def _append(self) -> None:
        """All rows or none, so that a disk that was full for a while leaves no torn line."""
        path, rows = self.path / "metrics.jsonl", "".join(self._unwritten).encode()
        with path.open("ab", buffering=0) as file:
            before = file.tell()
            if file.write(rows) != len(rows):
                file.truncate(before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        self._unwritten.clear()

    def _try(self, write: Callable[[], None]) -> None:
        """Write; where that fails say so once, and let the training go on."""
        try:
            write()
            self._complaint = ""
        except OSError as e:
            if not self._complaint:
                print(
                    f"careful: cannot write {e.filename or self.path}: {e.strerror}; training goes on and tries again",
                    flush=True,
                )
            self._complaint = e.strerror or one_line(e)


def _end_torn_line(path: Path) -> None:
    """A killed attempt may have left half a line: what follows must begin a new one."""
    if not os.path.lexists(path):
        return
    with open_plain(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        is_torn = file.read() not in (b"", b"\n")
    if is_torn:
        with path.open("a") as file:
            file.write("\n")


def write_config(path: Path, text: str) -> None:
    """Write a run's config.yaml, with a last line that tells that it is whole."""
    write_whole(path / "config.yaml", text + END)


def read_config(path: Path) -> tuple[dict[str, Any], bool]:
    """A run's config.yaml, empty where there is none that can be read; and whether it ends as we end it."""
    try:
        text = read_text(path / "config.yaml")
        content = parse_yaml(text)
    except UserError:
        return {}, False
    ours = isinstance(content, dict) and all(isinstance(content.get(key), dict) for key in ("data", "model"))
    return (content if ours and "seed_everything" in content else {}), text.endswith(END)
