"""Cache of what `compare` read of finished runs, in the user's cache folder.

The second time, only what has changed is read.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning_resnet.files import cache_if_any, write_cache
from lightning_resnet.runs.reader import Run

Read = tuple[dict[str, Any], list[dict[str, Any]]]  # one row of `runs`, its rows of `history`
VERSION = 4  # of what is kept; higher when `read_run` gives other columns


class Cache:
    """Reader of runs that keeps each in a file of XDG_CACHE_HOME (~/.cache by default).

    Args:
        read: reads a run directory.
        sample: number of training rows that `read` keeps.
    """

    def __init__(self, read: Callable[[Path], Read], sample: int) -> None:
        self._read = read
        self._sample = sample
        self._folder = cache_if_any() / "runs"

    def read(self, path: Path) -> Read:
        """Return what was kept, if no file of the run has changed since; else read the run."""
        signature = [VERSION, self._sample, str(path), *_files(path)]
        name = path.absolute().as_posix().strip("/").replace("/", "%")[-200:]
        file = self._folder / f"{name}.json"
        try:
            kept = json.loads(file.read_text())
            if kept["signature"] == signature:
                return kept["row"], kept["history"]
        except (OSError, ValueError, LookupError, TypeError):
            pass  # there is no file, or a torn one
        row, history = self._read(path)
        if row.get("status") == "finished":  # of the others, the state depends on the time
            write_cache(file, {"signature": signature, "row": row, "history": history})
        return row, history


def _files(path: Path) -> list[list[Any]]:
    """Return name, size and time of the files that a run is read from."""
    found = []
    for file in Run(path).files():
        stat = file.stat()
        found.append([file.name, stat.st_size, stat.st_mtime_ns])
    return found
