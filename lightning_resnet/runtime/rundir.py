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
from pathlib import Path
from typing import Any

import yaml

from lightning_resnet.errors import UserError
from lightning_resnet.files import write_json
from lightning_resnet.runtime.status import attempts, last_attempt, process_name, status
from lightning_resnet.secrets import mask

HEARTBEAT_S = 10.0  # seconds between signs of life


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
        self._complained = False

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are."""
        return self.path / "checkpoints"

    def candidates(self) -> list[Path]:
        """Checkpoints to continue from, the newest first."""
        return [p for p in (self.checkpoints / "last.ckpt", self.checkpoints / "prev.ckpt") if p.exists()]

    def claim(self, gpus: int = 0) -> None:
        """Begin an attempt.

        Args:
            gpus: that all ranks together train on.

        Raises:
            UserError: another process is at this run, or the directory cannot be written.
        """
        n = 1 + max((a["attempt"] for a in attempts(self.path)), default=0)  # before looking who runs: see below
        if status(self.path) == "running" and not self._is_predecessor(last_attempt(self.path)):
            raise self._owned()
        try:
            (self.path / "attempts").mkdir(parents=True, exist_ok=True)
            self.checkpoints.mkdir(exist_ok=True)
            (self.path / "attempts" / f"{n}.json").open("x").close()
            _end_torn_line(self.path / "metrics.jsonl")
        except FileExistsError:  # two starts at once: only one makes the file
            raise self._owned() from None
        except OSError as e:
            raise UserError(
                f"cannot begin a run in {self.path}: {e.strerror}; set --run.root to a folder you can write"
            ) from e
        self.attempt = {
            "attempt": n,
            "start": datetime.now(UTC).isoformat(timespec="seconds"),
            "end": None,
            "seconds": 0.0,
            "reason": "running",
            "last_step": 0,
            "job_id": os.environ.get("SLURM_JOB_ID"),
            "restart_count": int(os.environ.get("SLURM_RESTART_COUNT") or 0),
            "gpus": gpus,
            "host": socket.gethostname(),
            "process": process_name(),
            "error": None,
            "signal": None,
        }
        self._t0 = time.monotonic()
        self.beat(0, force=True)

    def _owned(self) -> UserError:
        owner = last_attempt(self.path)
        return UserError(
            f"run {self.path} is being trained by attempt {owner['attempt']} on {owner['host']} since "
            f"{owner['start']}; wait for it, stop it, or add --run.new for a replicate"
        )

    def _is_predecessor(self, owner: dict[str, Any]) -> bool:
        """A requeued job takes over from itself: what it was before the requeue has ended, or is about to."""
        job, restarts = os.environ.get("SLURM_JOB_ID"), int(os.environ.get("SLURM_RESTART_COUNT") or 0)
        return job is not None and owner.get("job_id") == job and owner.get("restart_count", 0) < restarts

    def beat(self, step: int, force: bool = False) -> None:
        """Show that the attempt is alive and how far it has come; writes at most every `HEARTBEAT_S`."""
        if force or time.monotonic() - self._last_beat > HEARTBEAT_S:
            self.look()
            self._last_beat = time.monotonic()
            self.attempt.update(last_step=step, seconds=round(self._last_beat - self._t0, 3), heartbeat=time.time())
            self._try(lambda: write_json(self.path / "attempts" / f"{self.attempt['attempt']}.json", self.attempt))

    def look(self) -> bool:
        """Whether the run is still this attempt's."""
        self.superseded |= (self.path / "attempts" / f"{self.attempt['attempt'] + 1}.json").exists()
        return not self.superseded

    def end(self, step: int, reason: str, error: str | None = None, signal: str | None = None) -> None:
        """Record how far the attempt came and how it ended."""
        ended = datetime.now(UTC).isoformat(timespec="seconds")
        self.attempt.update(reason=reason, error=error and mask(error), signal=signal, end=ended)
        self.beat(step, force=True)

    def record(self, step: int, epoch: int, metrics: dict[str, float]) -> None:
        """Append one row to metrics.jsonl: `step` = optimizer steps done, `epoch` 0-based; not finite = null."""
        row = {"step": step, "epoch": epoch, "attempt": self.attempt["attempt"], "time": round(time.time(), 3)}
        row |= {k: v if math.isfinite(v) else None for k, v in metrics.items()}
        if not self.look():
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
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._unwritten.clear()

    def _try(self, write: Callable[[], None]) -> None:
        """Write; where that fails say so once, and let the training go on."""
        try:
            write()
            self._complained = False
        except OSError as e:
            if not self._complained:
                print(
                    f"careful: cannot write to {self.path}: {e.strerror}; training goes on and tries again", flush=True
                )
            self._complained = True


def _end_torn_line(path: Path) -> None:
    """A killed attempt may have left half a line: what follows must begin a new one."""
    if path.exists() and (text := path.read_bytes()) and not text.endswith(b"\n"):
        with path.open("a") as file:
            file.write("\n")


def read_config(path: Path) -> dict[str, Any] | None:
    """A run's config.yaml; None where there is none that can be read."""
    try:
        content = yaml.safe_load((path / "config.yaml").read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return content if isinstance(content, dict) and {"data", "model", "seed_everything"} <= content.keys() else None
