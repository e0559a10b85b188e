"""Copy finished runs into a set that others compare theirs with: recipes and metrics, no weights.

Secrets, hosts, job ids and the folders of files are left out.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_resnet.errors import UserError
from lightning_resnet.files import write_file
from lightning_resnet.masking import mask
from lightning_resnet.reading import open_plain
from lightning_resnet.runs.reader import Run

FOLDERS = re.compile(r"(^|=)(?:/|~/)(?:[^/]+/)*(?=[^/])")  # before the name of a file
PRIVATE = {"host": "-", "job_id": None, "array_task": None, "error": None}  # of an attempt


def write_reference(runs: Sequence[Run], folder: Path, about: str = "") -> list[Path]:
    """Copy runs into a folder, and return their new paths.

    Args:
        runs: readers of finished runs.
        folder: folder of the set; what it has already, stays.
        about: what others must know of the images, such as `JPEG copy of the images`; kept in
            meta.json.

    Raises:
        UserError: a run has not finished.
    """
    for run in runs:
        if run.status() != "finished":
            raise UserError(
                f"{run.path} has not finished ({run.status()}): run its command again, or name the "
                "finished runs one by one"
            )
    written = []
    for run in runs:
        for file in run.files():
            with open_plain(file) as plain:
                text = mask(plain.read().decode(errors="replace"))
            if file == run.config_file:
                text = _without_folders(text, run.config())
            elif file.suffix == ".json":
                content = _public(json.loads(text))
                if file == run.meta_file and about:
                    content["about"] = about
                text = json.dumps(content, indent=1) + "\n"
            write_file(folder / run.path.name / file.relative_to(run.path), text.encode())
        written.append(folder / run.path.name)
    return written


def _without_folders(text: str, config: Any) -> str:
    """Return a recipe with the names of files in place of their paths; comments stay."""
    paths = [value for value in _texts(config) if FOLDERS.search(value)]
    for path in sorted(paths, key=len, reverse=True):
        text = text.replace(path, FOLDERS.sub(r"\1", path))
    return text


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for part in value.values() for text in _texts(part)]
    if isinstance(value, list):
        return [text for part in value for text in _texts(part)]
    return [value] if isinstance(value, str) else []


def _public(value: Any) -> Any:
    """Return content of a JSON file without folders, host, job and error."""
    if isinstance(value, dict):
        return {key: PRIVATE.get(key, _public(part)) for key, part in value.items()}
    if isinstance(value, list):
        return [_public(part) for part in value]
    return FOLDERS.sub(r"\1", value) if isinstance(value, str) else value
