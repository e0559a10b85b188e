"""Readable names of runs: links next to the ids, such as `depth56-none-seed1 -> 4df5017e32`.

A link leads to its sibling, so it names a run a second time, and no reader follows it from the
folder.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

SEED = "seed_everything"
LONGEST = 60  # characters of a label
TOLD_FIRST = (
    "model.net",
    "model.net.depth",
    "model.net.shortcut",
    "model.optimizer",
    "model.optimizer.lr",
    "trainer.max_epochs",
)
UNSAFE = re.compile(r"[^A-Za-z0-9_.+=-]+")  # becomes a hyphen
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.I)
RUN_ID = re.compile(r"[0-9a-f]{10}(-\d+)?")
# Other folders next to runs, and names that could be the id of a run.
TAKEN = re.compile(rf"points|search|submitted|report|wandb|{RUN_ID.pattern}")
OF_NO_NAME = ("checkpoints", "last.ckpt", "best.ckpt", "prev.ckpt")  # in the path of a checkpoint


def short_keys(keys: Iterable[str]) -> dict[str, str]:
    """Return key -> its last part; the key in full where two keys have the same last part."""
    short = {key: key.rpartition(".")[2] for key in keys}
    if SEED in short:
        short[SEED] = "seed"
    count = Counter(short.values())
    return {key: name if count[name] == 1 else key for key, name in short.items()}


def by_importance(keys: Iterable[str]) -> list[str]:
    """Return dotted keys in the order in which people are told them.

    First what is told first, data after other settings, the seed last.
    """
    rank = {key: place for place, key in enumerate(TOLD_FIRST)}
    last = len(rank)
    return sorted(keys, key=lambda key: (key == SEED, key.startswith("data."), rank.get(key, last)))


def varying(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys whose values differ between several settings, in the order of the keys."""
    keys = dict.fromkeys(key for own in settings for key in own)
    first = settings[0] if settings else {}
    return [key for key in keys if any(own.get(key) != first.get(key) for own in settings)]


def words_of(settings: Mapping[str, Any]) -> list[str]:
    """Return settings as words of safe characters, such as `depth56`, `none`, `seed1`.

    Args:
        settings: values, or their texts, by dotted key.
    """
    short = short_keys(settings)
    words = [_word(short[key], value) for key, value in settings.items()]
    return [word for word in words if word]


def label_of(settings: Mapping[str, Any], replicate: int = 1, asked: str | None = None) -> str:
    """Return the readable name of a run, of at most `LONGEST` safe characters.

    Args:
        settings: values, or their texts, by dotted key; none: the recipe as it is.
        replicate: number of the replicate.
        asked: name to use instead of the settings.
    """
    words = words_of({key: settings[key] for key in by_importance(settings)})
    suffix = f"-replicate{replicate}" if replicate > 1 else ""
    if not asked and SEED in settings and len(words) > 1:
        suffix = f"-{words.pop()}{suffix}"  # a long name keeps its seed
    kept: list[str] = []
    for word in words:  # a long word gives way to shorter ones, which may be all that differs
        if not kept or len("-".join([*kept, word])) <= LONGEST - len(suffix):
            kept.append(word)
    name = _safe(asked or "-".join(kept)) or "recipe"
    if TAKEN.fullmatch(name):
        name = f"run-{name}"
    return _cut(name, LONGEST - len(suffix)) + suffix


def _cut(name: str, most: int) -> str:
    """Return a name of at most so many characters, without a part of a word at the end."""
    if len(name) <= most:
        return name
    kept, _, _ = name[: most + 1].rpartition("-")
    return (kept or name[:most]).rstrip("-.")


def _word(name: str, value: Any) -> str:
    """Return a word for a setting: `lr0.1`, `none`, `nesterov-false`; only safe characters."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    if text in ("true", "false", "null", "True", "False", "None"):
        text = f"{name}-{text.lower()}"
    elif NUMBER.fullmatch(text):
        text = f"{name}{text}"
    elif name == "init_from":
        parts = [part for part in text.split("/") if part not in OF_NO_NAME]
        text = f"from-{parts[-1] if parts else ''}"
    elif "/" not in text and all(part.isidentifier() for part in text.split(".")):
        text = text.rpartition(".")[2]  # the path of a class
    else:
        text = text.rpartition("/")[2]
    return _safe(text)


def _safe(text: str) -> str:
    """Return a text with safe characters only, the first of them no hyphen or full stop."""
    return UNSAFE.sub("-", text).strip("-.")


def is_label(path: str | os.PathLike[str]) -> bool:
    """Tell whether a path is a link to its sibling, which names a run a second time."""
    try:
        return "/" not in os.readlink(path)
    except OSError:  # no link
        return False


def links_in(folder: Path) -> dict[str, list[Path]]:
    """Return the readable links in a folder of runs, by the name of the run directory.

    There are none where the folder cannot be read: another rank may have still to make it.
    """
    found: dict[str, list[Path]] = {}
    with suppress(OSError):
        for name in sorted(os.listdir(folder)):
            if is_label(folder / name):
                found.setdefault(os.readlink(folder / name), []).append(folder / name)
    return found


def labels_in(folder: Path) -> dict[str, str]:
    """Return the readable names in a folder of runs: name of the run directory -> label."""
    return {run: links[-1].name for run, links in links_in(folder).items()}


def links_to(run: Path) -> list[Path]:
    """Return the readable links that lead to a run, in its own folder."""
    return links_in(run.parent).get(run.name, [])


def with_label(run: Path) -> str:
    """Return the path of a run, and in brackets its readable name next to it, if it has one."""
    links = links_to(run)
    return f"{run} ({links[0].name})" if links else str(run)


def link_label(run: Path, label: str) -> None:
    """Make a link with a readable name next to a run, unless there is one.

    Where another run has the name, the run's id is appended. A link whose run is gone is replaced.
    Nothing happens on a file system without links.
    """
    with suppress(OSError):  # no links, or no permission
        if links_to(run) or _make(run.with_name(label), run):
            return
        _make(run.with_name(f"{label}-{run.name}"), run)


def _make(link: Path, run: Path) -> bool:
    """Make a link to a run; return whether it is there now, and not another run's."""
    with suppress(FileExistsError):
        link.symlink_to(run.name)
        return True
    if not is_label(link) or link.exists():  # a folder, or the link of another run
        return False
    temporary = link.with_name(f".{link.name[:200]}.{os.getpid()}")
    temporary.symlink_to(run.name)
    os.replace(temporary, link)
    return os.readlink(link) == run.name
