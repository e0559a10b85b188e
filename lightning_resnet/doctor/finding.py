"""Lines of the doctor's report, and a check of free disk space."""

import shutil
import tempfile
from pathlib import Path
from typing import Literal, NamedTuple

GB = 1e9


class Finding(NamedTuple):
    """A line of the report.

    Attributes:
        level: ok; warning; or fails, if training would fail.
        what: what was looked at.
        found: what was found, in words.
        cure: what to do; empty if nothing is to be done.
    """

    level: Literal["ok", "warning", "fails"]
    what: str
    found: str
    cure: str = ""

    def __str__(self) -> str:
        mark = {"ok": "   ok", "warning": " ! ", "fails": "FAILS"}[self.level]
        line = f"{mark:<6}{self.what:<14}{self.found}"
        if self.cure:
            line += f"\n{'':<20}-> {self.cure}"
        return line


def room(
    what: str,
    folder: Path,
    low: float,
    least: float,
    cure: str = "make room, or --run.root on a larger disk",
) -> Finding:
    """Check that a folder can be written to, and how much room its disk has.

    Args:
        what: what the folder is for.
        folder: the folder; if it does not exist, its nearest parent that does is checked.
        low: free GB below which the finding is a warning.
        least: free GB below which training would fail.
        cure: what to do about too little room.
    """
    folder = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as e:
        return Finding("fails", what, f"{folder} cannot be written to ({e.strerror})", cure)
    free = shutil.disk_usage(folder).free / GB
    text = f"{free:.1f} GB free in {folder}"
    if free < least:
        return Finding("fails", what, f"{text}, at least {least:.2f} GB are needed", cure)
    if free < low:
        return Finding("warning", what, text, cure)
    return Finding("ok", what, text)
