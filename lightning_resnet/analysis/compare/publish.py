"""`resnet-cli compare RUNS --wandb [ENTITY/]PROJECT`: the report as a run of that project, tables and figures.

Online, or where the server cannot be reached in a folder beside the report, which `wandb sync` uploads.
"""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning_resnet.analysis.compare.report import Report
from lightning_resnet.analysis.compare.tables import to_cells
from lightning_resnet.errors import UserError, one_line
from lightning_resnet.tracking.mirror import PROJECT, settings_for
from lightning_resnet.tracking.mode import choose_mode
from lightning_resnet.tracking.wandb_rows import REPORT

PATIENT = {"init_timeout": 60.0, "finish_timeout": 300.0, "finish_timeout_raises": True}  # seconds


def publish(made: Report, address: str, title: str, command: str) -> str:
    """Publish tables, figures and the page; returns the line that says where.

    Args:
        made: the report.
        address: `entity/project` or `project`; empty: that of the runs, else WANDB_PROJECT or lightning_resnet.
        title: name of the W&B run.
        command: kept in its config.

    Raises:
        UserError: wandb is not installed or disabled, or its server refuses.
    """
    if not find_spec("wandb"):
        raise UserError("--wandb needs wandb: pip install 'wandb>=0.31,<0.32'")
    mode, why = choose_mode("auto")
    if mode == "disabled":
        raise UserError("--wandb: WANDB_MODE is disabled; unset it, or set it to offline")
    import wandb

    folder = made.files[-1].parent
    (folder / "wandb").mkdir(exist_ok=True)  # if missing, wandb goes to /tmp without a word
    try:
        run = wandb.init(
            **_where(made, address),
            name=title or folder.resolve().parent.name,
            job_type=REPORT,
            config={"command": command, "runs": sorted(made.runs.runs["run_id"])},
            dir=folder,
            reinit="create_new",
            settings=wandb.Settings(**(settings_for(mode, {}, False) | PATIENT)),
        )
        run.log(_contents(made))
        url, files = run.url, Path(run.dir).parent
        run.finish()
    except Exception as error:  # of many types: wandb's, requests' and its own service's
        raise UserError(f"--wandb: {one_line(error)}; WANDB_MODE=offline keeps it in a folder") from error
    return f"W&B: {url}" if mode == "online" else f"W&B: offline{why and f' ({why})'}; to upload it: wandb sync {files}"


def _where(made: Report, address: str) -> dict[str, str | None]:
    """Entity and project."""
    entity, _, project = address.rpartition("/")
    theirs = {key: set(made.runs.runs.get(f"wandb.{key}", [])) for key in ("entity", "project")}
    of_runs = {key: next(iter(v)) for key, v in theirs.items() if len(v) == 1 and isinstance(next(iter(v)), str)}
    return {
        "entity": entity or of_runs.get("entity") or os.environ.get("WANDB_ENTITY"),
        "project": project or of_runs.get("project") or os.environ.get("WANDB_PROJECT", PROJECT),
    }


def _contents(made: Report) -> dict[str, Any]:
    """Tables as W&B's tables, PNGs as pictures, the page as it is."""
    import wandb

    tables = {"table": to_cells(made.table)} | {name: cells for name, (cells, _) in made.extras.items()}
    found: dict[str, Any] = {name: wandb.Table(columns=head, data=rows) for name, (head, *rows) in tables.items()}
    for file in made.files:
        if file.suffix == ".png":
            found[file.stem] = wandb.Image(str(file))
    return found | {"page": wandb.Html(made.files[-1].read_text(), inject=False)}
