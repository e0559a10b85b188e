"""Write a run directory; reader.py reads it. The directory is the truth about a run.

One attempt at a time owns the directory.
"""

import errno
import json
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from lightning_resnet.errors import UserError, one_line, tell
from lightning_resnet.files import (
    remove_unfinished,
    sync_file,
    write_atomic,
    write_json,
    write_new,
)
from lightning_resnet.masking import mask
from lightning_resnet.reading import open_plain
from lightning_resnet.runs.reader import END, Run
from lightning_resnet.runs.status import ATTEMPT_FILE, DEAD_S, array_task, process_name, restarts

HEARTBEAT_S = 10.0  # seconds between two heartbeats
STUCK_S = 60.0  # seconds that the last heartbeat has to be written, when the attempt ends
POLL_S = 1.0  # seconds between two looks at the heartbeat of another attempt


class RunDir(Run):
    """One attempt at a run: it owns the run directory and writes all records in it.

    Args:
        path: the run directory; it is made where it does not exist.

    Attributes:
        attempt: content of this attempt's file; empty before `start_attempt`, and in other ranks
            than the first.
        number: number of this attempt in all ranks; 0 before they have met. A network file system
            may show other ranks a former attempt as the newest.
        mirror: receives each row too, such as for W&B; None without one. Set before the first row.
        superseded: whether a newer attempt has taken over the run.
        is_kept: whether the directory stays when this process has ended; that of a trial does not.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.attempt: dict[str, Any] = {}
        self.number = 0
        self.mirror: Any = None
        self.superseded = False
        self.is_kept = True
        self._step = 0  # optimizer steps done
        self._sign_of_life = 0.0  # when the training last told that it goes on
        self._beats: threading.Thread | None = None
        self._has_ended = threading.Event()
        self._unwritten_rows: list[str] = []
        self._rows_lock = threading.Lock()  # the thread that writes a checkpoint appends rows too
        # The heartbeats' thread writes the attempt's file too. No signal handler takes a lock.
        self._attempt_lock = threading.Lock()
        self._heartbeat_error = ""  # why the last heartbeat failed; empty if it succeeded
        self._rows_error = ""  # the same of the last rows

    def start_attempt(self, gpus: int = 0, ranks: int = 1, nodes: int = 1) -> None:
        """Start an attempt and take over the run.

        Args:
            gpus: number of GPUs that all ranks together train on.
            ranks: world size.
            nodes: number of machines that the ranks are on.

        Raises:
            UserError: another process trains this run, or the directory cannot be written.
        """
        # Choose the number before asking for the run's status: if another process starts an
        # attempt in between, both want the same number, and write_new below lets one have it.
        n = self._free_number(1 + max(self.attempt_files(), default=0))
        if self.status() == "running" and not self._is_predecessor(self.last_attempt()):
            raise self._owned()
        if not ATTEMPT_FILE.fullmatch(self.attempt_file(n + 1).name):
            raise UserError(
                f"{self.attempt_file(n - 1)} is of no attempt of this run, which has few: remove it"
            )
        self._file = self.attempt_file(n)
        self._next_file = self.attempt_file(self._free_number(n + 1))
        self._start = time.monotonic()
        attempt = {
            "attempt": n,
            "start": datetime.now(UTC).isoformat(timespec="seconds"),
            "end": None,
            "seconds": 0.0,
            "reason": "running",
            "last_step": 0,
            "heartbeat": time.time(),
            "job_id": os.environ.get("SLURM_JOB_ID"),
            "array_task": array_task(os.environ),
            "restart_count": restarts(os.environ),
            "gpus": gpus,
            "ranks": ranks,
            "nodes": nodes,
            "host": socket.gethostname(),
            "process": process_name(),
            "error": None,
            "signal": None,
        }
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self.checkpoints.mkdir(exist_ok=True)
            _end_torn_line(self.rows_file)
        except OSError as e:
            raise self._cannot_begin(e) from e
        # Set the attempt before the file exists, so that a signal in between finds what to end.
        self.attempt = attempt
        try:
            write_new(self._file, json.dumps(attempt, indent=1) + "\n")
        except FileExistsError:  # another process started at the same time and owns the file
            self.attempt = {}
            raise self._owned() from None
        except OSError as e:
            self.attempt = {}
            raise self._cannot_begin(e) from e
        remove_unfinished(self.path)
        remove_unfinished(self._file.parent)

    def wait_for_owner(self) -> None:
        """Wait until the attempt that owns the run counts as dead, or has a new heartbeat.

        An attempt whose node was lost leaves no other sign than its last heartbeat. One whose
        process is alive on this machine never counts as dead.
        """
        owner = self.last_attempt()
        if self.status() != "running" or self._is_predecessor(owner):
            return
        where = f"attempt {owner['attempt']} on {owner['host']}"
        limit = 2 * DEAD_S  # the owner's clock may be ahead
        tell(f"{where} has not ended: waiting for up to {limit:.0f} s until it counts as dead")
        deadline = time.monotonic() + limit
        while self.status() == "running" and self.last_attempt() == owner:
            if time.monotonic() > deadline:
                return
            time.sleep(POLL_S)

    def _free_number(self, n: int) -> int:
        """Return the first number from `n` on whose name no other object, such as a folder, has."""
        while os.path.lexists(self.attempt_file(n)) and not os.path.isfile(self.attempt_file(n)):
            n += 1
        return n

    def _cannot_begin(self, e: OSError) -> UserError:
        where = e.filename or self.path
        is_full = e.errno in (errno.ENOSPC, errno.EDQUOT)
        cure = "free some space" if is_full else "correct that"
        return UserError(
            f"cannot begin a run in {self.path}: {where}: {e.strerror}; {cure}, or set "
            "--run.root to a folder you can write"
        )

    def _owned(self) -> UserError:
        owner = self.last_attempt() or {"attempt": "?", "host": "?", "start": "now"}
        number = owner.get("array_task") or owner.get("job_id")
        job = f", Slurm job {number}," if number else ""
        where = f"attempt {owner['attempt']} on {owner['host']}{job} since {owner['start']}"
        cure = "wait for it, stop it, or add --run.new for a replicate"
        if self.meta().get("point"):
            cure = "wait for it, or stop it; resnet-cli sweep tells of all points with --status"
        return UserError(
            f"run {self.path} is being trained by {where}, as attempts/{owner['attempt']}.json "
            f"tells: {cure}"
        )

    def _is_predecessor(self, owner: dict[str, Any]) -> bool:
        """Tell whether the owner is this SLURM job before it was requeued.

        A requeued job takes over the run, because the processes from before the requeue have ended
        or are about to end.
        """
        job = os.environ.get("SLURM_JOB_ID")
        if job is None or owner.get("job_id") != job:
            return False
        return owner.get("restart_count", 0) < restarts(os.environ)

    def start_heartbeats(self, hang_s: float) -> None:
        """Write heartbeats from a thread until the attempt ends.

        The thread stops with the process, and forked processes do not have it. A training that
        hangs must not look alive: heartbeats pause when `alive` has not been called for `hang_s`
        seconds.
        """
        self._sign_of_life = time.monotonic()
        self._beats = threading.Thread(
            target=self._beat, args=(hang_s,), name="Heartbeats", daemon=True
        )
        self._beats.start()

    def stop_heartbeats(self) -> bool:
        """End the thread of `start_heartbeats`, if there is one.

        Returns:
            False if the thread waits for a storage that does not answer; it ends with the process.
        """
        self._has_ended.set()
        beats = self._beats
        self._beats = None
        if beats is None:
            return True
        beats.join(STUCK_S)
        return not beats.is_alive()

    def alive(self, step: int) -> None:
        """Tell that the training goes on and how many optimizer steps are done."""
        self._step = step
        self._sign_of_life = time.monotonic()

    def note_comparison(self, step: int) -> None:
        """Record that hyperband has compared the run at a step and lets it go on."""
        self._write_heartbeat(sync=True, compared_step=step)

    def _beat(self, hang_s: float) -> None:
        while not self._has_ended.wait(HEARTBEAT_S):
            self.is_owner()
            if time.monotonic() - self._sign_of_life <= hang_s:
                self._write_heartbeat(sync=False)

    def _write_heartbeat(self, sync: bool, **facts: Any) -> None:
        """Record that the attempt is alive, how far it has come, and further facts.

        Without the lock, a heartbeat could replace a file that has newer facts.
        """
        with self._attempt_lock:
            self.attempt.update(
                facts,
                last_step=self._step,
                seconds=round(time.monotonic() - self._start, 3),
                heartbeat=time.time(),
            )
            write = partial(self._write_attempt, sync)
            self._heartbeat_error = self._try(write, self._heartbeat_error)

    def _write_attempt(self, sync: bool) -> None:
        """Write the attempt's file atomically; on a full disk overwrite the file in place."""
        content = dict(self.attempt)  # the main thread adds some keys without the lock
        try:
            write_json(self._file, content, sync)
        except OSError as e:
            if e.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            with self._file.open("r+") as file:
                file.write(json.dumps(content) + "\n")
                file.truncate()

    def is_owner(self) -> bool:
        """Tell whether this attempt still owns the run, and remember if it does not."""
        self.superseded |= os.path.isfile(self._next_file)
        return not self.superseded

    def write_config(self, text: str) -> None:
        """Write config.yaml; its last line tells readers that the file is complete."""
        write_atomic(self.config_file, text + END)

    def write_meta(self, content: dict[str, Any]) -> None:
        """Write what is known about the run, such as its code and its machine, to meta.json."""
        write_json(self.meta_file, content)

    def ready_for_checkpoint(self) -> bool:
        """Put the rows on disk, and tell whether this attempt still owns the run.

        The rows up to a checkpoint must be on disk before the checkpoint.

        Raises:
            UserError: the rows cannot be written.
        """
        if not self.is_owner():
            return False
        try:
            self._append()
        except OSError as e:
            raise UserError(
                f"{self.rows_file}, whose rows come first: {e.strerror or one_line(e)}"
            ) from e
        if self.rows_file.exists():
            sync_file(self.rows_file)
        return True

    def end(
        self, step: int, reason: str, error: str | None = None, signal: str | None = None
    ) -> None:
        """Record how far the attempt came and how it ended; tell of rows that are lost.

        Args:
            step: optimizer steps done.
            reason: finished, `status.HALVED`, failed, diverged, interrupted, preempted or
                superseded.
            error: message of the error that ended the attempt.
            signal: name of the signal that ended the attempt, such as SIGTERM.
        """
        ended = datetime.now(UTC).isoformat(timespec="seconds")
        self.attempt.update(reason=reason, error=error and mask(error), signal=signal, end=ended)
        if not self.stop_heartbeats():
            tell(
                f"warning: cannot write {self._file}: the storage has not answered for "
                f"{STUCK_S:.0f} s; how the attempt ended is not recorded",
                file=sys.stderr,
            )
            return
        self._step = step
        self._write_heartbeat(sync=True)
        try:
            self.finish()
        except UserError as e:
            if error != one_line(e):
                tell(f"warning: {e}", file=sys.stderr)

    def finish(self) -> None:
        """Write the rows that could not be written before.

        Raises:
            UserError: some rows still cannot be written.
        """
        self._rows_error = self._try(self._append, self._rows_error)
        if self._unwritten_rows:
            raise UserError(
                f"{self.rows_file} lacks {len(self._unwritten_rows)} of its rows: "
                f"{self._rows_error}"
            )

    def record(self, step: int, epoch: int, metrics: dict[str, float]) -> None:
        """Append one row to metrics.jsonl.

        Args:
            step: optimizer steps done.
            epoch: number of the epoch, from 0.
            metrics: values by name; a value that is not finite is written as null.
        """
        row = {
            "step": step,
            "epoch": epoch,
            "attempt": self.attempt["attempt"],
            "time": round(time.time(), 3),
        }
        row |= {k: v if math.isfinite(v) else None for k, v in metrics.items()}
        if not self.is_owner():
            return
        with self._rows_lock:
            self._unwritten_rows.append(json.dumps(row) + "\n")
        self._rows_error = self._try(self._append, self._rows_error)
        if self.mirror:
            self.mirror.record(row)

    def _append(self) -> None:
        """Append all rows or none, so that a disk that was full for a while leaves no torn line."""
        path = self.rows_file
        with self._rows_lock:
            rows = "".join(self._unwritten_rows).encode()
            if not rows:
                return
            with path.open("ab", buffering=0) as file:
                before = file.tell()
                if file.write(rows) != len(rows):
                    file.truncate(before)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            self._unwritten_rows.clear()

    def _try(self, write: Callable[[], None], before: str) -> str:
        """Write; if that fails warn once and let the training go on.

        Args:
            write: writes one kind of file.
            before: why the write before failed; empty if it succeeded.

        Returns:
            Why this write failed; empty if it succeeded.
        """
        try:
            write()
            return ""
        except OSError as e:
            if not before:
                print(
                    f"warning: cannot write {e.filename or self.path}: {e.strerror}; training goes "
                    "on and tries again",
                    flush=True,
                )
            return e.strerror or one_line(e)


def _end_torn_line(path: Path) -> None:
    """End the last line of a file if a killed attempt has left half a line."""
    if not os.path.lexists(path):
        return
    with open_plain(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        is_torn = file.read() not in (b"", b"\n")
    if is_torn:
        with path.open("a") as file:
            file.write("\n")
