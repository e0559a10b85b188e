"""`resnet-cli compare RUNS --wandb [ENTITY/]PROJECT`: the report as a W&B run.

The run holds tables and figures. Where the server cannot be reached it lies in a folder next to the
report, which `wandb sync` uploads.
"""

import os
from pathlib import Path
from typing import Any

from lightning_resnet.analysis.compare.report import Report
from lightning_resnet.analysis.compare.tables import to_cells
from lightning_resnet.errors import UserError, one_line
from lightning_resnet.machine import is_installed
from lightning_resnet.tracking.mirror import PROJECT, settings_for
from lightning_resnet.tracking.mode import asked_for, choose_mode
from lightning_resnet.tracking.wandb_rows import REPORT

PATIENT = {  # settings of wandb: seconds, and an error where they are over
    "init_timeout": 60.0,
    "finish_timeout": 300.0,
    "finish_timeout_raises": True,
}


def publish(made: Report, address: str, title: str, command: str) -> str:
    """Publish tables, figures and the page; return the line that says where.

    Args:
        made: the report.
        address: `entity/project` or `project`; empty: that of the runs, else WANDB_PROJECT or
            lightning_resnet.
        title: name of the W&B run.
        command: kept in the config of the W&B run.

    Raises:
        UserError: wandb is not installed or disabled, or its server refuses.
    """
    if not is_installed("wandb"):
        raise UserError("--wandb needs wandb: pip install 'wandb>=0.31,<0.32'")
    mode, why = choose_mode("auto")
    if mode == "disabled" and asked_for("auto") == "disabled":
        raise UserError("--wandb: WANDB_MODE is disabled; unset it, or set it to offline")
    if mode == "disabled":
        raise UserError("--wandb: no key: wandb login; WANDB_MODE=offline keeps it in a folder")
    import wandb

    folder = made.files[-1].parent
    (folder / "wandb").mkdir(exist_ok=True)  # if missing, wandb goes to /tmp without a message
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
        url = run.url
        files = Path(run.dir).parent
        run.finish()
    except Exception as error:  # of many types: wandb's, requests' and its own service's
        raise UserError(
            f"--wandb: {one_line(error)}; WANDB_MODE=offline keeps it in a folder"
        ) from error
    if mode == "online":
        return f"W&B: {url}"
    reason = f" ({why})" if why else ""
    return f"W&B: offline{reason}; to upload it: wandb sync {files}"


def _where(made: Report, address: str) -> dict[str, str | None]:
    """Return entity and project: those of the address, of the runs, or of the environment."""
    entity, _, project = address.rpartition("/")
    return {
        "entity": entity or _of_runs(made, "entity") or os.environ.get("WANDB_ENTITY"),
        "project": project or _of_runs(made, "project") or os.environ.get("WANDB_PROJECT", PROJECT),
    }


def _of_runs(made: Report, key: str) -> str | None:
    """Return the value of a W&B setting that all runs share."""
    values = set(made.runs.runs.get(f"wandb.{key}", []))
    value = values.pop() if len(values) == 1 else None
    return value if isinstance(value, str) else None


def _contents(made: Report) -> dict[str, Any]:
    """Return the tables as W&B's tables, the PNGs as images, the page as it is."""
    import wandb

    tables = {"table": to_cells(made.table)}
    for name, extra in made.extras.items():
        tables[name] = extra.cells
    found: dict[str, Any] = {}
    for name, (head, *rows) in tables.items():
        found[name] = wandb.Table(columns=head, data=rows)
    for file in made.files:
        if file.suffix == ".png":
            found[file.stem] = wandb.Image(str(file))
    found["page"] = wandb.Html(made.files[-1].read_text(), inject=False)
    return found
