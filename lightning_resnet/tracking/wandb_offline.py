"""Read runs that only Weights & Biases wrote from its offline files (*.wandb), with its reader."""

import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryFile
from threading import Timer
from typing import Any

from lightning_resnet.machine import cores
from lightning_resnet.reading import LARGEST, parse_json
from lightning_resnet.runs.metrics import Row
from lightning_resnet.runs.reader import Run
from lightning_resnet.tracking.wandb_rows import (
    Found,
    finish,
    history_row,
    largest,
    need_wandb,
    row_of,
    unreadable,
)

SILENT_S = 600.0  # seconds without a write after which a run counts as crashed, as for W&B
READ_S = 300.0  # seconds to read one file
GROWS = 100  # a file may unpack to this many times its size, in addition to `LARGEST`


def find_offline(paths: Iterable[Path]) -> list[list[Path]]:
    """Find the offline files of W&B, except those in run directories, which are mirrors of them.

    Returns:
        The files of each run, in order of time.
    """
    runs: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for path in paths:
        for file in sorted(path.rglob("run-*.wandb")):
            folder = file.parents[1]
            parent = folder.parent
            is_mirror = Run(parent).has_begun()
            is_report = (parent / "index.html").exists()  # published by `compare --wandb`
            if is_mirror or is_report or file.parent.is_symlink():
                continue
            if file not in runs[folder, file.stem]:
                runs[folder, file.stem].append(file)
    return list(runs.values())


def read_offline(runs: list[list[Path]]) -> list[Found]:
    """Read the files of each run, several runs at a time.

    The start of W&B's reader takes half a second.
    """
    need_wandb("offline runs of Weights & Biases")
    with ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(_read_run, runs))


def _read_run(files: list[Path]) -> Found:
    """Read the files of one run; a run that cannot be read has the status `unreadable`."""
    run_id = files[0].stem.removeprefix("run-")
    path = str(files[0].parent)
    try:
        return _read_files(files, run_id, path)
    except Exception as error:  # noqa: BLE001 -- the files may have any content
        return unreadable(run_id, files[0].parents[1].name, path, error)


def _read_files(files: list[Path], run_id: str, path: str) -> Found:
    """Read the files of one run, each of which is an attempt."""
    attempts = sorted((list(_records(file)) for file in files), key=_start)
    config: dict[str, Any] = {}
    facts: dict[str, Any] = {
        "status": _status(attempts[-1], files[-1]),
        "attempts": len(files),
        "seconds": 0.0,
    }
    rows: list[Row] = []
    for number, records in enumerate(attempts, 1):
        runs = _contents(records, "run")
        run = runs[0] if runs else {}
        facts["name"] = run.get("run_group") or run.get("project") or "wandb"
        if run.get("git"):
            facts["git_sha"] = run["git"].get("commit")
        for update in [run.get("config"), *_contents(records, "config")]:
            config |= (update or {}).get("update") or {}
        items = [history["item"] for history in _contents(records, "history")]
        facts["seconds"] += largest(items, "_runtime")
        for item in items:
            if row := history_row(item, number):
                rows.append(row)
    return finish(row_of(run_id, path, config, **facts), rows)


def _contents(records: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Return the contents of the records of one kind."""
    return [record[kind] for record in records if record["type"] == kind]


def _records(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a file; for a killed run those before the torn end.

    Raises:
        ValueError: W&B's reader fails, or the file unpacks to too much.
    """
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    characters_left = LARGEST + GROWS * file.stat().st_size
    with TemporaryFile("w+", errors="replace") as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
        )
        timer = Timer(READ_S, process.kill)
        timer.start()
        try:
            while line := process.stdout.readline(characters_left):
                characters_left -= len(line)
                if characters_left <= 0:
                    raise ValueError(f"it unpacks to more than {GROWS} times its size")
                yield parse_json(line)
            if process.wait():
                errors.seek(0)
                complaint = errors.read(1000).strip()
                raise ValueError(complaint or f"wandb leet inspect: exit code {process.returncode}")
        finally:
            timer.cancel()
            process.kill()
            process.wait()
            process.stdout.close()


def _start(records: list[dict[str, Any]]) -> str:
    """Return when an attempt began; empty if no record has it."""
    runs = _contents(records, "run")
    return runs[0].get("start_time", "") if runs else ""


def _status(records: list[dict[str, Any]], file: Path) -> str:
    """Return the status of a run by the records and the file of its newest attempt."""
    exits = _contents(records, "exit")
    code = exits[0].get("exit_code", 0) if exits else None
    if code is not None:
        return "failed" if code else "finished"
    return "dead" if time.time() - file.stat().st_mtime > SILENT_S else "running"
