"""Find run directories in folders."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from lightning_resnet.errors import UserError

REFERENCE = Path(__file__).parents[2] / "reference"  # runs that we measured and ship


def locate(path: str | os.PathLike[str]) -> Path:
    """The folder; `reference:digits` lies in the repository."""
    kind, _, name = str(path).partition(":")
    return REFERENCE / name if kind == "reference" else Path(path)


def find_runs(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield each run directory once; a folder that may not be opened counts as one (and proves unreadable)."""
    seen: set[str] = set()  # real paths: links may lead in circles, paths may overlap
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path} is not a folder; give a run, a sweep or the folder that holds them")
        locked: list[Path] = []
        walk = os.walk(path, followlinks=True, onerror=lambda error, to=locked: to.append(Path(error.filename)))
        for folder, inside, files in walk:
            is_run = "metrics.jsonl" in files or "attempts" in inside or {"config.yaml", "meta.json"} <= set(files)
            new = os.path.realpath(folder) not in seen
            seen.add(os.path.realpath(folder))
            inside[:] = sorted(name for name in inside if name[0] != ".") if new and not is_run else []
            if is_run and new:
                yield Path(folder)
        yield from locked
