"""Remove run directories, and the links to them; never follow a link out of the folder of runs."""

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from lightning_resnet.errors import UserError
from lightning_resnet.runs.find import find_runs, quote
from lightning_resnet.runs.labels import RUN_ID, is_label, links_in
from lightning_resnet.runs.reader import Run
from lightning_resnet.runs.shared import claims_of, is_shared, links_of_sweeps

# Folders that sweep, compare and inspect make next to runs, and a file in each that is ours.
EXTRAS = {
    "points": f"{'[0-9a-f]' * 10}.json",
    "submitted": "[0-9]*/table.txt",
    "report": "*.html",
    "search": "journal.log",
}

HIDDEN = ".removed-"  # begins the name of a run that is being removed


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


def plan(paths: Iterable[Path]) -> list[Removal]:
    """Tell what removing runs would remove.

    Args:
        paths: run directories, and sweeps' links to such, from `find_run`.

    Raises:
        UserError: a path is no run directory, or a run is being trained.
    """
    in_folders: dict[Path, dict[str, list[Path]]] = {}

    def links_to(path: Path) -> list[Path]:
        if path.parent not in in_folders:
            in_folders[path.parent] = links_in(path.parent)
        return in_folders[path.parent].get(path.name, [])

    removals = []
    for path in paths:
        if not path.is_dir() or not Run(path).has_begun():
            raise UserError(
                f"{path} is no run directory, and rm removes nothing else: resnet-cli runs lists "
                "runs"
            )
        links = [*links_to(path)]
        stays = path.resolve() if path.is_symlink() else None
        if not stays:
            for link in links_of_sweeps(path):
                links += [link, *links_to(link)]
        removals.append(Removal(path, links, stays))
        refuse_live(removals[-1])
    return removals


def refuse_live(removal: Removal) -> None:
    """Refuse to remove a run that is being trained.

    Raises:
        UserError: the run is being trained.
    """
    run = Run(removal.run)
    if not removal.stays and run.status() == "running":
        attempt = run.last_attempt()
        raise UserError(
            f"run {run.path} is being trained by attempt {attempt['attempt']} on "
            f"{attempt['host']}: stop it first; then the same command removes it"
        )


def runs_in(folder: Path, root: Path | None) -> list[Path] | None:
    """Return the runs of a sweep, links to those of others too; None: the folder is no sweep's.

    Args:
        folder: a folder that is no run.
        root: folder of all runs; the error names an example in it. None: the error names none.

    Raises:
        UserError: the runs lie in folders below it.
    """
    runs = [*find_runs([folder], shared=True)]
    below = sorted({run.parent for run in runs if run.parent != folder})
    if below:
        inside = [path for path in below if root and path.resolve().is_relative_to(root.resolve())]
        example = f", such as {inside[0]}" if inside else ""
        raise UserError(
            f"{folder} holds {len(runs)} runs, in folders of their own: name those{example}; "
            f"resnet-cli runs {quote(folder)} lists them"
        )
    extras = extras_of(folder)
    is_left = any(_has_mark(folder / name) for name in extras if name != "report")
    is_left = is_left or (bool(extras) and _is_empty(folder))
    return runs if runs or is_left else None


def extras_of(folder: Path) -> list[str]:
    """Return the names of the folders that go with a sweep's runs.

    Links are left alone, and so are folders of these names that others have made.
    """
    paths = [folder / name for name in EXTRAS]
    folders = [path for path in paths if path.is_dir() and not path.is_symlink()]
    return [path.name for path in folders if _has_mark(path) or _is_empty(path)]


def _has_mark(extra: Path) -> bool:
    """Tell whether a folder has a file that is named as ours are; see `EXTRAS`."""
    return any(True for _ in extra.glob(EXTRAS[extra.name]))


def _is_empty(folder: Path) -> bool:
    """Tell whether a folder holds nothing but folders without files."""
    return all(path.is_dir() and not path.is_symlink() for path in folder.rglob("*"))


def remove(removal: Removal) -> None:
    """Remove a run and its links.

    The run first gets a hidden name, so that no reader ever sees half of it.

    Raises:
        UserError: the run is being trained.
        OSError: something cannot be removed.
    """
    refuse_live(removal)
    path = removal.run
    for link in removal.links:
        link.unlink(missing_ok=True)
    if removal.stays:
        path.unlink(missing_ok=True)
        return
    for claim in claims_of(path.parent, path.name):
        claim.unlink(missing_ok=True)
    hidden = path.with_name(f"{HIDDEN}{path.name}-{os.getpid()}")
    path.rename(hidden)
    with suppress(FileNotFoundError):  # another `rm` has taken it for a leftover
        shutil.rmtree(hidden)


def remove_rest(folder: Path) -> list[str]:
    """Remove what a sweep leaves without its runs; return the names of what stays, of others.

    Raises:
        OSError: something cannot be removed.
    """
    _remove_leftovers(folder)
    for name in extras_of(folder):
        shutil.rmtree(folder / name)
    for claim in claims_of(folder):
        claim.unlink(missing_ok=True)
    for path in sorted(folder.iterdir(), key=is_label):  # labels after the runs that they name
        is_left = is_label(path) and not path.exists()
        if is_shared(path) or (is_left and RUN_ID.fullmatch(os.readlink(path))):
            path.unlink()  # its run has not begun, or is gone
        elif path.is_dir() and not path.is_symlink():
            links = links_of_sweeps(path)
            with suppress(OSError):  # it is not empty
                path.rmdir()  # of a run that has not begun
                for link in links:
                    link.unlink(missing_ok=True)
    if any(folder.iterdir()):
        return sorted(path.name for path in folder.iterdir())
    folder.rmdir()
    return []


def remove_empty(runs: Iterable[Path]) -> None:
    """Remove what runs, which are removed, leave next to them: empty folders, and leftovers."""
    for folder in {run.parent for run in runs}:
        _remove_leftovers(folder)
        for name in EXTRAS:
            with suppress(OSError):  # there is none, or it is not empty
                (folder / name).rmdir()


def _remove_leftovers(folder: Path) -> None:
    """Remove what a killed `rm` has left in a folder of runs."""
    for hidden in folder.glob(f"{HIDDEN}*"):
        shutil.rmtree(hidden, ignore_errors=True)
