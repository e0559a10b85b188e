"""Index of what the files of runs say, so that ten thousand runs are listed in seconds.

Each folder of runs has one file in the user's cache: for each run its facts, and the times and
sizes of the files that they are from. A fact is used as long as these are the same; a run that is
being trained is always read. The index may be removed at any time, and where there is no cache that
can be written, all runs are read. Several processes may write it, also on NFS: a file is replaced
as one, and what another process has found is read again later.
"""

import json
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from lightning_resnet.files import cache_if_any, write_cache
from lightning_resnet.runs.identity import decides, flatten, with_public_paths
from lightning_resnet.runs.reader import Run
from lightning_resnet.runs.shared import points
from lightning_resnet.runs.status import status_of

VERSION = 2  # of the facts; higher when they are read in another way
FILES = ("", "/config.yaml", "/meta.json", "/metrics.jsonl", "/attempts", "/checkpoints")
Stamps = list[int]  # time and size of each file of a run that facts are from


class Facts(NamedTuple):
    """What the files of a run say.

    Attributes:
        points: keys of the sweep points that the run belongs to.
        attempt: last attempt; None where there is none.
        seconds: run time of all attempts.
        step: optimizer steps done.
        steps: optimizer steps of the full training; 0: not known.
        val_error: error (%) of the last evaluation; None where there is none.
        began: when the run began, in ISO 8601.
        bytes: size of all files; None: not asked for.
        settings: settings by dotted key that may decide the result, empty if they cannot be read;
            None: not asked for.
    """

    points: list[str]
    attempt: dict[str, Any] | None
    seconds: float
    step: int
    steps: int
    val_error: float | None
    began: str | None
    bytes: int | None
    settings: dict[str, Any] | None

    @property
    def status(self) -> str:
        """Status of the run at this time; see `status_of`."""
        return status_of(self.attempt)


class Index:
    """Reader of the facts of runs, which keeps them for the next reader at its end.

    `with Index() as index: index.facts(path)`
    """

    def __init__(self) -> None:
        self._place = cache_if_any() / "index"
        self._folders: dict[str, _Folder] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for folder in self._folders.values():
            folder.save()

    def facts(self, path: Path, details: bool = True) -> Facts:
        """Return the facts of a run: those that are kept, if no file has changed since.

        Args:
            path: the run directory.
            details: with bytes and settings, which take most of the time.
        """
        parent, name = os.path.split(path)
        if parent not in self._folders:
            self._folders[parent] = _Folder(os.path.abspath(parent), self._place)
        return self._folders[parent].facts(name, details)


class _Folder:
    """Facts of the runs in one folder.

    Args:
        path: the folder.
        place: folder of the index.
    """

    def __init__(self, path: str, place: Path) -> None:
        self._path = path
        self._file = place / f"{self._path.strip('/').replace('/', '%')[-200:]}.json"
        self._kept: dict[str, tuple[Stamps, Facts]] = {}
        self._seen: set[str] = set()
        self._has_changed = False
        with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
            self._load()  # there is none, or one that is torn or of another version

    def _load(self) -> None:
        """Read the index of the folder."""
        content = json.loads(self._file.read_text())
        if content["version"] != VERSION or content["folder"] != self._path:
            return
        shared = content["settings"]
        for name, (stamps, *facts, own, lacks) in content["runs"].items():
            settings = None
            if own is not None:
                settings = shared | own
                for key in lacks:
                    del settings[key]
            self._kept[name] = (stamps, Facts(*facts, settings))

    def facts(self, name: str, details: bool) -> Facts:
        """Return the facts of a run in this folder; see `Index.facts`."""
        path = f"{self._path}/{name}"
        self._seen.add(name)
        if name in self._kept:
            stamps, facts = self._kept[name]
            has_all = not details or facts.settings is not None
            if has_all and stamps == _stamps(path, facts.attempt):
                return facts
            del self._kept[name]
            self._has_changed = True
        # the files may change while they are read: their times are taken before
        run = Run(Path(path))
        before = _stamps(path, run.last_attempt())
        facts = read(run, details)
        if facts.status not in ("new", "running"):
            self._kept[name] = (before, facts)
            self._has_changed = True
        return facts

    def save(self) -> None:
        """Write the index of the folder, if it has changed, without runs that are gone."""
        if not self._has_changed:
            return
        for name in [*self._kept]:
            if name not in self._seen and not os.path.isdir(os.path.join(self._path, name)):
                del self._kept[name]
        known = (facts.settings for _, facts in self._kept.values() if facts.settings)
        shared = next(known, {})
        runs = {}
        for name, (stamps, facts) in self._kept.items():
            own = None
            lacks = []
            if facts.settings is not None:
                own = _differing(facts.settings, shared)
                lacks = [key for key in shared if key not in facts.settings]
            runs[name] = [stamps, *facts[:-1], own, lacks]
        content = {"version": VERSION, "folder": self._path, "settings": shared, "runs": runs}
        write_cache(self._file, content)


def read(run: Run, details: bool) -> Facts:
    """Read the facts of a run from its files; see `Index.facts`."""
    meta = run.meta()
    attempts = run.attempts()
    last = attempts[-1] if attempts else None
    step, steps = run.steps(meta, attempts)
    return Facts(
        points=points(meta),
        attempt=last,
        seconds=sum(attempt["seconds"] for attempt in attempts),
        step=step,
        steps=steps,
        val_error=run.validation_error(len(attempts)),
        began=meta.get("created") or (last["start"] if last else None),
        bytes=run.size() if details else None,
        settings=_settings(run) if details else None,
    )


def _settings(run: Run) -> dict[str, Any]:
    """Return the settings in config.yaml that may decide the result; empty if it is damaged.

    A class stands under the key of its option: `model.net`, not `model.net.class_path`.
    """
    settings = {}
    for key, value in flatten(with_public_paths(run.config_if_good()[0])).items():
        if decides(key):
            plain = key.replace(".init_args", "").removesuffix(".class_path")
            settings[plain] = json.dumps(value) if isinstance(value, list) else value
    return settings


def _stamps(path: str, attempt: dict[str, Any] | None) -> Stamps:
    """Return time, size and inode of the files and folders of a run, zeros for missing ones.

    Args:
        path: the run directory.
        attempt: its last attempt, whose file may be written in place.
    """
    names = [*FILES]
    if attempt:
        names.append(f"/attempts/{attempt['attempt']}.json")
    found = []
    for name in names:
        try:
            status = os.stat(path + name)
            found += [status.st_mtime_ns, status.st_size, status.st_ino]
        except OSError:
            found += [0, 0, 0]
    return found


def _differing(settings: dict[str, Any], shared: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that others do not have alike; 1 is not True, nor 1.0."""
    own = {}
    for key, value in settings.items():
        is_shared = key in shared and type(shared[key]) is type(value) and shared[key] == value
        if not is_shared:
            own[key] = value
    return own
