"""A point that several sweeps share is one run: of the other sweeps' folders each holds a link to its directory.

<root>/.shared/<run id> names the folder that has the run. It is the text of a symbolic link, which is made at once or
not at all, on NFS too: of two sweeps that begin together one has the run, and the other meets its claim.
"""

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning_resnet.runs.names import fault
from lightning_resnet.runs.status import status


def share(root: Path, name: str, run_id: str) -> bool:
    """Link `<root>/<name>/<run id>` to the same run where it is kept under another name; whether it is now linked."""
    own = root / name / run_id
    if (own / "attempts").exists():
        return own.is_symlink()
    try:
        if (owner := _owner(root, name, run_id)) == name:
            return False
        (root / owner / run_id).mkdir(parents=True, exist_ok=True)  # where it is still to begin, or was deleted
        own.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            own.symlink_to(Path("..", owner, run_id))
    except OSError:  # no links here, or no right to write: then it is a run of its own, as without sweeps
        return False
    return own.is_symlink()


def points(meta: dict[str, Any] | None) -> list[str]:
    """Keys of the sweep points that a run is, from its meta.json."""
    found = (meta or {}).get("point") or []
    keys = found if isinstance(found, list) else [found]
    return [key for key in keys if isinstance(key, str)]


def _owner(root: Path, name: str, run_id: str) -> str:
    """Name of the folder that has the run, or now shall have it."""
    mark = root / ".shared" / run_id
    if not mark.is_symlink():
        begun = [path.parent for path in root.glob(f"*/{run_id}/attempts") if not path.parent.is_symlink()]
        begun.sort(key=lambda run: (status(run) != "finished", run))
        mark.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            mark.symlink_to(begun[0].parent.name if begun else name)
    owner = os.readlink(mark)
    if fault(owner, single=True):
        raise OSError(errno.EINVAL, "names no folder beside it", str(mark))
    return owner
