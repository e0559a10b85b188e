"""Read a run directory `<root>/<name>/<run id>/`, without torch; directory.py writes it.

config.yaml        reproduces the run, alone
meta.json          code, versions, hardware, command
metrics.jsonl      one row per log interval and per evaluation
attempts/<n>.json  one file per start of the run: how far it came, how it ended
checkpoints/       last, prev, best; epoch-005 and such with --run.keep_epochs

No file outside of this package names these files (tests/test_floor_plan.py).
"""

import math
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning_resnet.errors import UserError
from lightning_resnet.reading import (
    lines_of,
    parse_file,
    parse_json,
    parse_yaml,
    read_json,
    read_text,
    read_yaml,
)
from lightning_resnet.runs.metrics import Rows, merge, read_rows
from lightning_resnet.runs.status import (
    ATTEMPT_FILE,
    is_like,
    known_attempt,
    known_meta,
    status_of,
)

KEPT_EPOCH = re.compile(r"epoch-(\d{3,})\.ckpt")
END = "# The end of config.yaml: without this line the file is not whole.\n"


class Run:
    """Reader of a run directory. Each call reads the files as they are at that time.

    The files may be missing, damaged, or in the middle of a write by another process.

    Args:
        path: the run directory; need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    # -- files -------------------------------------------------------------------------------------

    @property
    def config_file(self) -> Path:
        """Path of config.yaml, which holds the run's complete recipe."""
        return self.path / "config.yaml"

    @property
    def meta_file(self) -> Path:
        """Path of meta.json, which tells what is known about the run besides its recipe."""
        return self.path / "meta.json"

    @property
    def rows_file(self) -> Path:
        """Path of metrics.jsonl, which holds one row of metrics per line."""
        return self.path / "metrics.jsonl"

    @property
    def attempts_folder(self) -> Path:
        """Folder of the attempts' files and of the crash reports."""
        return self.path / "attempts"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    def attempt_file(self, n: int) -> Path:
        """Return the path of the n-th attempt's file."""
        return self.attempts_folder / f"{n}.json"

    def attempt_files(self) -> dict[int, Path]:
        """Return the files of the attempts by number, in ascending order."""
        try:
            names = os.listdir(self.attempts_folder)
        except OSError:
            return {}
        attempts = [name for name in names if ATTEMPT_FILE.fullmatch(name)]
        numbers = sorted(int(name.partition(".")[0]) for name in attempts)
        files = {number: self.attempt_file(number) for number in numbers}
        return {number: file for number, file in files.items() if os.path.isfile(file)}

    def report_file(self, rank: int, attempt: int = 0) -> Path:
        """Return the path of a rank's crash report.

        Args:
            rank: global rank.
            attempt: number of the attempt; 0: the newest in the folder.
        """
        newest = {} if attempt else self.last_attempt() or {}
        return self.attempts_folder / f"{attempt or newest.get('attempt', 0)}.rank{rank}.txt"

    def files(self) -> list[Path]:
        """List the files that exist and that tables are made of."""
        files = [self.config_file, self.meta_file, self.rows_file, *self.attempt_files().values()]
        return [file for file in files if file.exists()]

    def has_begun(self) -> bool:
        """Tell whether `fit` has written here: an attempt, or rows."""
        return self.attempts_folder.is_dir() or self.rows_file.exists()

    def candidates(self) -> list[Path]:
        """List the checkpoints to continue from, the newest first.

        The list also holds files that cannot be read: links that lead nowhere, and last.ckpt where
        it is missing but another checkpoint is there.
        """
        last = self.checkpoints / "last.ckpt"
        others = [self.checkpoints / "prev.ckpt", self.checkpoints / "best.ckpt"]
        existing = [file for file in others if os.path.lexists(file)]
        return [last, *existing] if existing or os.path.lexists(last) else []

    def checkpoint_stamps(self) -> dict[str, tuple[int, int]]:
        """Return inode and time of the files in `candidates`, to tell whether one was replaced."""
        stamps = {}
        for file in self.candidates():
            with suppress(OSError):
                status = os.stat(file)
                stamps[file.name] = (status.st_ino, status.st_mtime_ns)
        return stamps

    def epoch_file(self, epoch: int) -> Path:
        """Return the path of the checkpoint that --run.keep_epochs keeps after an epoch."""
        return self.checkpoints / f"epoch-{epoch:03}.ckpt"

    def kept_epochs(self) -> dict[int, Path]:
        """Return the checkpoints that --run.keep_epochs has kept, by number of epochs."""
        found = {}
        for file in self.checkpoints.glob("epoch-*.ckpt"):
            if match := KEPT_EPOCH.fullmatch(file.name):
                found[int(match[1])] = file
        return dict(sorted(found.items()))

    # -- configuration and metadata ----------------------------------------------------------------

    def config_text(self) -> str:
        """Read config.yaml as text.

        Raises:
            UserError: the file is missing or cannot be read.
        """
        return read_text(self.config_file)

    def config(self) -> dict[str, Any]:
        """Read the recipe in config.yaml, and return it as a mapping.

        Raises:
            UserError: the file is missing, cannot be read, or holds no mapping.
        """
        content = read_yaml(self.config_file)
        if not isinstance(content, dict):
            raise UserError(f"{self.config_file} is not a mapping")
        return content

    def config_if_good(self) -> tuple[dict[str, Any], bool]:
        """Read config.yaml where a damaged one does not matter, because it is written again.

        Returns:
            The configuration, empty where it cannot be read or lacks a part, and whether the file
            is complete.
        """
        try:
            text = read_text(self.config_file)
            content = parse_yaml(text)
        except UserError:
            return {}, False
        is_complete = text.endswith(END)
        if not isinstance(content, dict) or "seed_everything" not in content:
            return {}, is_complete
        if not all(isinstance(content.get(key), dict) for key in ("data", "model")):
            return {}, is_complete
        return content, is_complete

    def meta(self, strict: bool = False) -> dict[str, Any]:
        """Read meta.json, without values of another type than `META` has; may be empty.

        Args:
            strict: refuse a damaged file instead of returning an empty mapping.

        Raises:
            UserError: `strict`, and the file exists but cannot be read or holds no mapping.
        """
        if not strict:
            return known_meta(read_json(self.meta_file) or {})
        if not self.meta_file.exists():
            return {}
        content = parse_file(self.meta_file, parse_json)
        if not isinstance(content, dict):
            raise UserError(f"{self.meta_file} is not a mapping")
        return known_meta(content)

    # -- attempts ----------------------------------------------------------------------------------

    def attempts(self) -> list[dict[str, Any]]:
        """Read all attempts, in ascending order."""
        return [_read_attempt(number, file) for number, file in self.attempt_files().items()]

    def ranks(self) -> int:
        """Return the world size that the run began with; 0 where no attempt tells one."""
        return next((attempt["ranks"] for attempt in self.attempts() if attempt["ranks"]), 0)

    def last_attempt(self) -> dict[str, Any] | None:
        """Read the attempt with the highest number; None where there is none."""
        files = self.attempt_files()
        if not files:
            return None
        number = max(files)
        return _read_attempt(number, files[number])

    def status(self) -> str:
        """Return the status: new, running, dead, finished, ...; see `status_of`."""
        return status_of(self.last_attempt())

    def steps(
        self, meta: dict[str, Any] | None = None, attempts: list[dict[str, Any]] | None = None
    ) -> tuple[int, int]:
        """Return the optimizer steps done, and those of the full training.

        The steps done are those of the last attempt that made any: it may have continued from an
        older checkpoint than the attempt before reached. Those of the full training are 0 where
        meta.json does not tell.

        Args:
            meta: content of meta.json, if it has been read.
            attempts: all attempts, if they have been read.
        """
        meta = self.meta() if meta is None else meta
        attempts = self.attempts() if attempts is None else attempts
        done = 0
        for attempt in reversed(attempts):
            done = attempt["last_step"]
            if attempt["reason"] == "running":  # its rows are ahead of its heartbeats
                done = max(done, self._last_row_of(attempt["attempt"]))
            if done:
                break
        by_epochs = meta.get("steps_per_epoch", 0) * max(0, meta.get("epochs") or 0)
        return done, meta.get("steps") or by_epochs  # older runs tell epochs only

    def size(self) -> int:
        """Return the bytes of all files of the run."""
        total = 0
        for folder, _, files in os.walk(self.path):
            for name in files:
                with suppress(OSError):  # removed in between
                    total += os.lstat(os.path.join(folder, name)).st_size
        return total

    # -- rows --------------------------------------------------------------------------------------

    def rows(self, train: bool = True, sample: int = 0) -> Rows:
        """Read metrics.jsonl; see `read_rows`."""
        return read_rows(self.rows_file, train, sample)

    def final_row(self, metric: str) -> dict[str, Any] | None:
        """Read the last row that has a metric; None where there is none.

        The metric's value is a number, or None where it was not finite.
        """
        try:
            lines = [line for line in lines_of(self.rows_file) if f'"{metric}"' in line]
        except OSError:
            return None
        for line in reversed(lines):
            row = _parsed(line)
            if metric in row and (row[metric] is None or is_like(row[metric], 0.0)):
                return row
        return None

    def _last_row_of(self, attempt: int) -> int:
        """Return the step of the last row, if it is one of this attempt; else 0."""
        row = self.final_row("step") or {}
        step = row.get("step")
        return step if row.get("attempt", 1) == attempt and isinstance(step, int) else 0

    def validation_error(self, attempts: int) -> float | None:
        """Return the error (%) of the last evaluation; None where there is none.

        Args:
            attempts: number of attempts; rows of one attempt hide none, and are read faster.
        """
        if attempts < 2:
            row = self.final_row("val/acc1") or {}
            accuracy = row.get("val/acc1")
            return None if accuracy is None else 100 * (1 - accuracy)
        try:
            rows = merge(self.rows(train=False).rows)
        except (OSError, ValueError):
            return None
        accuracies = [row["val/acc1"] for row in rows if "val/acc1" in row]
        if not accuracies or not math.isfinite(accuracies[-1]):
            return None
        return 100 * (1 - accuracies[-1])


def _read_attempt(number: int, file: Path) -> dict[str, Any]:
    """Read an attempt's file; an attempt that has just begun may not have written its file yet."""
    found = read_json(file) or {}
    try:
        written = file.stat().st_mtime
    except OSError:  # the file was removed in between
        written = 0.0
    return known_attempt(found, written) | {"attempt": number}


def _parsed(line: str) -> dict[str, Any]:
    """Return the mapping in a line; empty where the line holds none."""
    try:
        row = parse_json(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}
