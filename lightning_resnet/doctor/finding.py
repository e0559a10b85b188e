"""One line of the doctor's report."""

import shutil
import tempfile
from pathlib import Path
from typing import Literal, NamedTuple

GB = 1e9


class Finding(NamedTuple):
    """One line: `fails` is what training would fail of."""

    level: Literal["ok", "careful", "fails"]
    what: str
    found: str
    cure: str = ""

    def __str__(self) -> str:
        mark = {"ok": "   ok", "careful": " ! ", "fails": "FAILS"}[self.level]
        return f"{mark:<6}{self.what:<14}{self.found}" + (f"\n{'':<20}-> {self.cure}" if self.cure else "")


def room(
    what: str, folder: Path, low: float, least: float, cure: str = "make room, or --run.root on a larger disk"
) -> Finding:
    """Whether a folder, or the one it would be made in, takes files.

    Args:
        what: it is for.
        folder: need not exist.
        low: free GB below which it is worth a word.
        least: free GB below which training would fail.
        cure: of too little.
    """
    folder = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as e:
        return Finding("fails", what, f"{folder} cannot be written to ({e.strerror})", cure)
    free = shutil.disk_usage(folder).free / GB
    level = "ok" if free >= max(low, least) else "careful" if free >= least else "fails"
    needs = f", at least {least:.2f} GB are needed" if level == "fails" else ""
    return Finding(level, what, f"{free:.1f} GB free in {folder}{needs}", cure * (level != "ok"))
