"""Read the runs of `wandb://entity/project` from the server; an ended run is requested once.

The cache is in ~/.cache/lightning_resnet/wandb (XDG_CACHE_HOME moves it); it may be removed at any
time.
"""

import json
from pathlib import Path
from typing import Any

from lightning_resnet.errors import UserError
from lightning_resnet.files import cache_if_any, write_cache
from lightning_resnet.runs.metrics import Row
from lightning_resnet.tracking.wandb_rows import (
    REPORT,
    SCHEME,
    Found,
    finish,
    history_row,
    largest,
    need_wandb,
    patiently,
    row_of,
    unreadable,
)

PAGE = 1000  # rows per request
STATES = {
    "finished": "finished",
    "running": "running",
    "failed": "failed",
    "preempted": "preempted",
}


def read_project(address: str) -> list[Found]:
    """Read all runs of a project, unchanged ones from the cache.

    Args:
        address: wandb://entity/project.

    Raises:
        UserError: the address is no project, or the server does not give its runs.
    """
    need_wandb(address)
    import wandb

    entity, slash, project = address.removeprefix(SCHEME).rstrip("/").partition("/")
    if not (entity and project) or "/" in project:
        raise UserError(f"{address} is no project: write wandb://entity/project")
    api = patiently(lambda: wandb.Api(timeout=30))
    runs = patiently(
        lambda: list(api.runs(f"{entity}/{project}", per_page=100, order="+created_at"))
    )
    runs = [run for run in runs if getattr(run, "jobType", None) != REPORT]
    folder = cache_if_any() / "wandb" / entity / project
    found = [_read(run, f"{address.rstrip('/')}/{run.id}", folder) for run in runs]
    if not found:
        raise UserError(f"{address} has no runs")
    return found


def _read(run: Any, path: str, folder: Path) -> Found:
    """Read one run from the cache, or from the server if the run has changed.

    Args:
        run: a run of wandb's API.
        path: address of the run.
        folder: folder of the project in the cache.
    """
    file = folder / f"{run.id}.json"
    stamp = [run.state, getattr(run, "heartbeatAt", None), getattr(run, "historyLineCount", None)]
    try:
        content = json.loads(file.read_text())  # without a limit of size, because we wrote the file
    except (OSError, ValueError):
        content = {}
    if content.get("stamp") != stamp:
        content = {"stamp": stamp} | patiently(lambda: _request(run))
        write_cache(file, content)
    try:
        return _found(run, path, content)
    except Exception as error:  # noqa: BLE001 -- the rows of others may have any content
        return unreadable(run.id, run.project, path, error)


def _found(run: Any, path: str, content: dict[str, Any]) -> Found:
    """Make the rows of one run from what the server, or the cache, has of it."""
    history = content["history"]
    facts = {
        "name": content["group"] or run.project,
        "status": STATES.get(run.state, "dead"),
        "attempts": int(largest(history, "attempt")) or 1,
        "git_sha": content["commit"],
        "seconds": largest(history, "_runtime"),
    }
    return finish(row_of(run.id, path, content["config"], **facts), _rows(history))


def _rows(items: list[dict[str, Any]]) -> list[Row]:
    """Convert the rows of a W&B run into rows of metrics.jsonl.

    If the step decreases, another tool has resumed the run: a new attempt begins. Our mirror sends
    each step once.
    """
    rows = []
    attempt = 1
    last_step = 0
    for item in items:
        row = history_row({key: value for key, value in item.items() if key != "attempt"}, attempt)
        if row is None:
            continue
        if "attempt" not in item and row["step"] < last_step:
            attempt += 1
            row["attempt"] = attempt
        rows.append(row)
        last_step = row["step"]
    return rows


def _request(run: Any) -> dict[str, Any]:
    """Request the configuration and the history of a run from the server."""
    return {
        "config": dict(run.config),
        "group": run.group,
        "commit": run.commit,
        "history": [dict(item) for item in run.scan_history(page_size=PAGE)],
    }
