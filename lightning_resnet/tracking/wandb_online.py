"""`wandb://entity/project` -> rows, through wandb.Api(); a run that has ended is asked for once.

The cache lies in ~/.cache/lightning_resnet/wandb (XDG_CACHE_HOME moves it); it may be removed at any time.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning_resnet.errors import UserError
from lightning_resnet.files import cache_if_any, write_whole
from lightning_resnet.runs.metrics import Row
from lightning_resnet.tracking.wandb_rows import (
    REPORT,
    SCHEME,
    Found,
    finish,
    history_row,
    need_wandb,
    patiently,
    row_of,
)

PAGE = 1000  # rows per request
STATES = {"finished": "finished", "running": "running", "failed": "failed", "preempted": "preempted"}


def read_project(address: str) -> list[Found]:
    """All runs of a project; what does not grow any more is asked for once and kept in the cache.

    Args:
        address: wandb://entity/project.
    """
    need_wandb(address)
    import wandb

    entity, slash, project = address.removeprefix(SCHEME).rstrip("/").partition("/")
    if not (entity and project) or "/" in project:
        raise UserError(f"{address} is no project: write wandb://entity/project")
    api = patiently(lambda: wandb.Api(timeout=30))
    runs = patiently(lambda: list(api.runs(f"{entity}/{project}", per_page=100, order="+created_at")))
    runs = [run for run in runs if getattr(run, "jobType", None) != REPORT]
    folder = cache_if_any() / "wandb" / entity / project
    found = [_read(run, f"{address.rstrip('/')}/{run.id}", folder) for run in runs]
    if not found:
        raise UserError(f"{address} has no runs")
    return found


def _read(run: Any, path: str, folder: Path) -> Found:
    file = folder / f"{run.id}.json"
    stamp = [run.state, getattr(run, "heartbeatAt", None), getattr(run, "historyLineCount", None)]
    try:
        content = json.loads(file.read_text())  # ours, however large
    except (OSError, ValueError):
        content = {}
    if content.get("stamp") != stamp:
        content = {"stamp": stamp} | patiently(lambda: _ask(run))
        _keep(file, content)
    rows = _rows(content["history"])
    facts = {"name": content["group"] or run.project, "status": STATES.get(run.state, "dead")}
    facts |= {"attempts": max((item.get("attempt", 1) for item in content["history"]), default=1)}
    facts |= {
        "git_sha": content["commit"],
        "seconds": max((item.get("_runtime", 0) for item in content["history"]), default=0.0),
    }
    return finish(row_of(run.id, path, content["config"], **facts), rows)


def _rows(items: list[dict[str, Any]]) -> list[Row]:
    """Of a run that others resumed, a step back begins an attempt; our mirror sends each step once."""
    rows, attempt, last = [], 1, 0
    for item in items:
        row = history_row({key: value for key, value in item.items() if key != "attempt"}, attempt)
        if row and "attempt" not in item and row["step"] < last:
            row["attempt"] = attempt = attempt + 1
        if row:
            rows.append(row)
            last = row["step"]
    return rows


def _ask(run: Any) -> dict[str, Any]:
    history = [dict(item) for item in run.scan_history(page_size=PAGE)]
    return {"config": dict(run.config), "group": run.group, "commit": run.commit, "history": history}


def _keep(file: Path, content: dict[str, Any]) -> None:
    """Whole or not at all; without a cache everything still works."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(content), sync=False)
