"""Share one run among several sweeps: the folders of the other sweeps hold links to the run.

<root>/.shared/<run id> names the folder that has the run. The name is the text of a symbolic link,
because links are made atomically, on NFS too: of two sweeps that begin at the same time one gets
the run, and the other finds the link.
"""

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning_resnet.runs.labels import RUN_ID
from lightning_resnet.runs.names import fault
from lightning_resnet.runs.reader import Run


def share(root: Path, name: str, run_id: str) -> bool:
    """Link `<root>/<name>/<run id>` to the same run if another sweep has it.

    Args:
        root: folder of all runs.
        name: name of the sweep.
        run_id: id of the run.

    Returns:
        Whether `<root>/<name>/<run id>` now is a link.
    """
    own = root / name / run_id
    if Run(own).attempts_folder.exists():
        return own.is_symlink()
    try:
        owner = _owner(root, name, run_id)
        if owner == name:
            return False
        # The run may not have begun yet, or may have been deleted.
        (root / owner / run_id).mkdir(parents=True, exist_ok=True)
        own.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            own.symlink_to(Path("..", owner, run_id))
    except OSError:  # no links or no permission: each sweep then has a run of its own
        return False
    return own.is_symlink()


def is_shared(path: Path) -> bool:
    """Tell whether a path is a sweep's link to the run of another, as `share` makes them."""
    if not path.is_symlink():
        return False
    parts = Path(os.readlink(path)).parts
    is_sibling = len(parts) == 3 and parts[0] == ".." and parts[2] == path.name
    return is_sibling and RUN_ID.fullmatch(path.name) is not None


def links_of_sweeps(run: Path) -> list[Path]:
    """Return the links that lead to a run from the folders of other sweeps.

    Args:
        run: the run directory `<root>/<name>/<run id>`.
    """
    root = run.absolute().parent.parent
    links = [link for link in root.glob(f"*/{run.name}") if link.is_symlink()]
    return [link for link in links if link.exists() and link.samefile(run)]


def claims_of(folder: Path, run_id: str | None = None) -> list[Path]:
    """Return the links in `.shared` by which a sweep's folder claims its runs.

    Args:
        folder: folder of the sweep.
        run_id: id of one run; None: all runs.
    """
    folder = folder.absolute()
    shared = folder.parent / ".shared"
    claims = shared.glob("*") if run_id is None else [shared / run_id]
    return [link for link in claims if link.is_symlink() and os.readlink(link) == folder.name]


def points(meta: dict[str, Any] | None) -> list[str]:
    """Return the keys of the sweep points that a run belongs to, from its meta.json."""
    found = (meta or {}).get("point") or []
    keys = found if isinstance(found, list) else [found]
    return [key for key in keys if isinstance(key, str)]


def _owner(root: Path, name: str, run_id: str) -> str:
    """Return the name of the folder that has the run; if none has it, claim the run for `name`.

    Raises:
        OSError: the link cannot be made or read, or names no folder.
    """
    link = root / ".shared" / run_id
    if not link.is_symlink():
        existing = [path.parent for path in root.glob(f"*/{run_id}/attempts")]
        begun = [run for run in existing if not run.is_symlink()]
        begun.sort(key=lambda run: (Run(run).status() != "finished", run))
        link.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            link.symlink_to(begun[0].parent.name if begun else name)
    owner = os.readlink(link)
    if fault(owner, single=True):
        raise OSError(errno.EINVAL, "names no folder of the root", str(link))
    return owner
