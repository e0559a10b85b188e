"""Runs that only Weights & Biases wrote, from its offline files (*.wandb), by its own local reader."""

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

from lightning_resnet.errors import one_line
from lightning_resnet.machine import cores
from lightning_resnet.reading import LARGEST, parse_json
from lightning_resnet.runs.metrics import Row
from lightning_resnet.tracking.wandb_rows import Found, finish, history_row, need_wandb, row_of

SILENT_S = 600.0  # seconds without a write after which W&B too calls a run crashed


READ_S = 300.0  # for one file


GROWS = 100  # times its size that a file may unpack to, beside `LARGEST`


def find_offline(paths: Iterable[Path]) -> list[list[Path]]:
    """Files of the same run, each list in order of time; those inside our run directories are mirrors of them."""
    runs: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for path in paths:
        for file in sorted(path.rglob("run-*.wandb")):
            folder = file.parents[1]
            ours = (folder.parent / "attempts").is_dir() or (folder.parent / "metrics.jsonl").exists()
            ours |= (folder.parent / "index.html").exists()  # what `compare --wandb` published is no run
            if not ours and not file.parent.is_symlink() and file not in runs[folder, file.stem]:
                runs[folder, file.stem].append(file)
    return [files for files in runs.values() if files]


def read_offline(runs: list[list[Path]]) -> list[Found]:
    """Read the files of each run; starting the reader takes half a second, so several at a time."""
    need_wandb("offline runs of Weights & Biases")
    with ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(_read_run, runs))


def _read_run(files: list[Path]) -> Found:
    run_id, path = files[0].stem.removeprefix("run-"), str(files[0].parent)
    try:
        return _read_files(files, run_id, path)
    except Exception as error:  # noqa: BLE001 -- any content, any shape
        return {"run_id": run_id, "name": files[0].parents[1].name, "path": path} | _unreadable(error), []


def _read_files(files: list[Path], run_id: str, path: str) -> Found:
    attempts = sorted((list(_records(file)) for file in files), key=_start)
    config: dict[str, Any] = {}
    facts: dict[str, Any] = {"status": _ended(attempts[-1], files[-1]), "attempts": len(files), "seconds": 0.0}
    rows: list[Row] = []
    for number, records in enumerate(attempts, 1):
        run = next((record["run"] for record in records if record["type"] == "run"), {})
        facts |= {"name": run.get("run_group") or run.get("project") or "wandb"}
        facts |= {"git_sha": run["git"].get("commit")} if run.get("git") else {}
        for update in [run.get("config"), *(record["config"] for record in records if record["type"] == "config")]:
            config |= (update or {}).get("update") or {}
        items = [record["history"]["item"] for record in records if record["type"] == "history"]
        facts["seconds"] += max((item.get("_runtime", 0) for item in items), default=0)
        rows += [row for item in items if (row := history_row(item, number))]
    return finish(row_of(run_id, path, config, **facts), rows)


def _unreadable(error: Exception) -> dict[str, Any]:
    return {"status": "unreadable", "error": one_line(error)}


def _records(file: Path) -> Iterator[dict[str, Any]]:
    """Of a killed run: those before the tear."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    most = LARGEST + GROWS * file.stat().st_size
    with TemporaryFile("w+", errors="replace") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL, text=True, errors="replace"
        )
        timer = Timer(READ_S, process.kill)
        timer.start()
        try:
            while line := process.stdout.readline(most):
                most -= len(line)
                if most <= 0:
                    raise ValueError(f"it unpacks to more than {GROWS} times its size")
                yield parse_json(line)
            if process.wait():
                errors.seek(0)
                raise ValueError(errors.read(1000).strip() or f"wandb leet inspect: exit code {process.returncode}")
        finally:
            timer.cancel()
            process.kill()
            process.wait()
            process.stdout.close()


def _start(records: list[dict[str, Any]]) -> str:
    return next((r["run"].get("start_time", "") for r in records if r["type"] == "run"), "")


def _ended(records: list[dict[str, Any]], file: Path) -> str:
    code = next((record["exit"].get("exit_code", 0) for record in records if record["type"] == "exit"), None)
    if code is not None:
        return "failed" if code else "finished"
    return "dead" if time.time() - file.stat().st_mtime > SILENT_S else "running"
