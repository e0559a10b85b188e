"""Find run directories in folders."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from lightning_resnet.errors import UserError, nearest
from lightning_resnet.runs.reader import Run
from lightning_resnet.shipped import references


def locate(path: str | os.PathLike[str]) -> Path:
    """Return the path of a folder; `reference:digits` is one that comes with the package.

    Raises:
        UserError: no runs of this name come with the package.
    """
    kind, _, name = str(path).partition(":")
    if kind != "reference":
        return Path(path)
    first, *rest = name.strip("/").split("/")
    known = references()
    if first not in known:
        raise UserError(f"there is no {path}{nearest(first, known)}; there are {', '.join(known)}")
    return known[first].joinpath(*rest)


def find_runs(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield each run directory once.

    A folder that may not be opened is yielded too, so that its reader reports it as unreadable.

    Args:
        paths: run directories, or folders that hold run directories at any depth.

    Raises:
        UserError: a path is no folder.
    """
    seen: set[str] = set()  # real paths, because links may lead in circles and paths may overlap
    for path in paths:
        if not path.is_dir():
            raise UserError(
                f"{path} is not a folder; give a run, a sweep or the folder that holds them"
            )
        unreadable: list[Path] = []

        def note(error: OSError, unreadable: list[Path] = unreadable) -> None:
            unreadable.append(Path(error.filename))

        for folder, inside, files in os.walk(path, followlinks=True, onerror=note):
            has_recipe = "config.yaml" in files and "meta.json" in files
            is_run = "metrics.jsonl" in files or "attempts" in inside or has_recipe
            real_path = os.path.realpath(folder)
            is_new = real_path not in seen
            seen.add(real_path)
            if is_run and is_new:
                yield Path(folder)
            if is_run or not is_new:
                inside.clear()
            else:
                inside[:] = sorted(name for name in inside if name[0] != ".")
        yield from unreadable


def described_runs(folder: Path, pattern: str = "*") -> Iterator[Run]:
    """Yield the runs below a folder that have a meta.json.

    Args:
        folder: folder of runs of one name, or with another pattern, the root.
        pattern: run directories as seen from the folder, for `Path.glob`.
    """
    for file in folder.glob(f"{pattern}/meta.json"):
        yield Run(file.parent)


def begun_runs(folder: Path) -> Iterator[Run]:
    """Yield the runs in a folder that have begun."""
    for attempts in folder.glob("*/attempts"):
        yield Run(attempts.parent)
