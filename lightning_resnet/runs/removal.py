"""Remove run directories, and the links to them; never follow a link out of the folder of runs."""

import os
import shutil
from pathlib import Path
from typing import NamedTuple

from lightning_resnet.errors import UserError
from lightning_resnet.runs.labels import links_to
from lightning_resnet.runs.reader import Run
from lightning_resnet.runs.shared import links_of_sweeps


class Removal(NamedTuple):
    """What goes with one run.

    Attributes:
        run: the run directory, or a sweep's link to the run of another.
        links: links to it that go as well.
        stays: the run that stays, of which `run` is a link; None: the run itself goes.
    """

    run: Path
    links: list[Path]
    stays: Path | None


def plan(path: Path) -> Removal:
    """Tell what removing a run would remove.

    Args:
        path: a run directory, or a sweep's link to one, from `find_run`.

    Raises:
        UserError: the path is no run directory, or the run is being trained.
    """
    run = Run(path)
    if not path.is_dir() or not run.has_begun():
        raise UserError(
            f"{path} is no run directory, and rm removes nothing else: resnet-cli runs lists runs"
        )
    links = links_to(path)
    if path.is_symlink():
        return Removal(path, links, path.resolve())
    if run.status() == "running":
        attempt = run.last_attempt()
        raise UserError(
            f"run {path} is being trained by attempt {attempt['attempt']} on {attempt['host']}: "
            "stop it first; then the same command removes it"
        )
    for link in links_of_sweeps(path):
        links += [link, *(links_to(link) if link.parent.name != ".shared" else [])]
    return Removal(path, links, None)


def remove(removal: Removal) -> None:
    """Remove a run and its links.

    The run first gets a hidden name, so that no reader ever sees half of it.

    Raises:
        OSError: something cannot be removed.
    """
    path = removal.run
    for link in removal.links:
        link.unlink(missing_ok=True)
    if removal.stays:
        path.unlink()
        return
    hidden = path.with_name(f".removed-{path.name}-{os.getpid()}")
    path.rename(hidden)
    shutil.rmtree(hidden)
