"""Say of several runs what each is: folder, what differs, state, steps, error; without torch."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from textwrap import wrap
from typing import Any

from lightning_resnet.errors import printable
from lightning_resnet.printing import aligned, room
from lightning_resnet.runs.index import Facts, Index
from lightning_resnet.runs.labels import by_importance, labels_in, varying, words_of
from lightning_resnet.runs.reader import Run
from lightning_resnet.runs.status import iso, reason_of, word_of

MOST_NAMED = 10  # runs that an error message lists
COLUMNS = ["run", "what differs", "state", "step", "error, %", "when", "size"]
ORDERS = {"began": "began", "error": "val_error", "step": "step", "size": "bytes"}
LESS = ["size", "when", "step"]  # columns to leave out first where a terminal is narrow


def describe(paths: Iterable[Path], order: str = "began") -> list[dict[str, Any]]:
    """Describe runs, in order within each folder; `differs` is within a folder too.

    Args:
        paths: run directories.
        order: key of `ORDERS`; runs that have no such value come last.

    Returns:
        For each run `path`, `run_id`, `label` (its readable name, or null), `differs` (settings by
        dotted key), `state`, `reason` (why it has this state, or null), `step`, `steps` (0: not
        known), `val_error` (%), `began`, `ended` (ISO 8601; of a run that goes on, its
        last heartbeat) and `bytes`.
    """
    with Index() as index:
        return [*_described(paths, ORDERS[order], index)]


def _described(paths: Iterable[Path], key: str, index: Index) -> Iterator[dict[str, Any]]:
    """Yield what `describe` returns, folder by folder; `key` is what the runs are sorted by."""
    for folder, runs in groupby(sorted(paths, key=_parts), _folder):
        described = [_facts(run, index.facts(run)) for run in runs]
        labels = labels_in(folder)
        settings = [run.pop("differs") for run in described]
        keys = _varying(settings)
        for run, own in zip(described, settings, strict=True):
            run["label"] = labels.get(run["run_id"])
            run["differs"] = {key: own.get(key) for key in keys}
        described.sort(key=lambda run: (run["began"] or "", run["run_id"]))
        known = [run for run in described if run[key] is not None]
        yield from sorted(known, key=itemgetter(key))
        yield from (run for run in described if run[key] is None)


def _folder(path: Path) -> Path:
    return path.parent


def _parts(path: Path) -> tuple[str, ...]:
    """Return what sorts folders as `Path` does, in less time."""
    return path.parent.parts


def _facts(path: Path, facts: Facts) -> dict[str, Any]:
    """Describe one run; `differs` holds all settings."""
    attempt = facts.attempt
    ended = None
    if attempt:
        ended = attempt["end"] or iso(attempt["heartbeat"])
    return {
        "path": str(path),
        "run_id": path.name,
        "label": None,
        "differs": facts.settings,
        "state": facts.status,
        "reason": reason_of(facts.status, attempt),
        "step": facts.step,
        "steps": facts.steps,
        "val_error": facts.val_error,
        "began": facts.began,
        "ended": ended,
        "bytes": facts.bytes,
    }


def _varying(settings: list[dict[str, Any]]) -> list[str]:
    """Return the keys whose values differ between runs: first what is told first, the seed last.

    Arguments that only some of several classes have are left out; the name of the class is there.
    """
    known = [own for own in settings if own]
    differing = varying(known)
    found = []
    for key in differing:
        is_everywhere = all(key in own for own in known)
        if is_everywhere or key.rpartition(".")[0] not in differing:
            found.append(key)
    return by_importance(found)


def unfinished(checkpoint: Path) -> str:
    """Return a line that says of which unfinished run a checkpoint is; empty for all others."""
    run = Run(checkpoint.parent.parent)
    if not run.attempts_folder.is_dir() or run.status() == "finished":
        return ""
    step, steps = run.steps()
    of = f" of {steps}" if steps else ""
    state = word_of(run.status())
    return f"{run.path} is not finished: {state} at step {step}{of}; its newest weights"


def differences_of(run: dict[str, Any]) -> str:
    """Return what differs of a run as words, without those that its label has already."""
    label = f"-{run['label'] or ''}-"
    present = {key: value for key, value in run["differs"].items() if value is not None}
    return printable(" ".join(w for w in words_of(present) if f"-{w}-" not in label))


def cells(run: dict[str, Any]) -> list[str]:
    """Return the cells of a run for a table with the heads `COLUMNS`."""
    error = run["val_error"]
    return [
        run["label"] or run["run_id"],
        differences_of(run),
        word_of(run["state"]),
        f"{run['step']}/{run['steps']}" if run["steps"] else str(run["step"]),
        "" if error is None else f"{error:.2f}",
        when(run["ended"]),
        size(run["bytes"]),
    ]


def when(time: str | None) -> str:
    """Return a time in ISO 8601 as local time, such as `27 Nov 14:02`; empty if it is none."""
    try:
        return datetime.fromisoformat(time or "").astimezone().strftime("%d %b %H:%M")
    except (ValueError, OverflowError):
        return ""


def counted(n: int) -> str:
    """Return a number of runs in words."""
    return "1 run" if n == 1 else f"{n} runs"


def size(n: int) -> str:
    """Return a number of bytes as `12 kB`, `3.4 MB` or `1.2 GB`."""
    if n < 1e6:
        return f"{n / 1e3:.0f} kB"
    return f"{n / 1e6:.1f} MB" if n < 1e9 else f"{n / 1e9:.1f} GB"


def named(runs: list[dict[str, Any]], all_of_them: bool = False) -> str:
    """Return a line for each of the newest runs, or of all: path, what differs, state and error."""
    rows = []
    most = len(runs) if all_of_them else MOST_NAMED
    for run in sorted(runs, key=lambda run: run["began"] or "")[-most:]:
        path = Path(run["path"]).with_name(run["label"] or run["run_id"])
        error = run["val_error"]
        state = word_of(run["state"])
        if error is not None:
            state += f", val error {error:.2f} %"
        rows.append((printable(path), differences_of(run), state))
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    lines = []
    for path, differing, state in rows:
        differing = f"{differing:<{widths[1]}}  " if widths[1] else ""
        lines.append(f"  {path:<{widths[0]}}  {differing}{state}")
    if len(runs) > len(rows):
        lines.append(f"  and {len(runs) - len(rows)} older: resnet-cli runs lists all")
    return "\n".join(lines)


def table(runs: list[dict[str, Any]]) -> str:
    """Return a table of runs for each folder, which fits the terminal."""
    if not runs:
        return "no runs here yet: resnet-cli fit --config digits begins one"
    parts = []
    for folder, members in groupby(runs, lambda run: str(Path(run["path"]).parent)):
        inside = list(members)
        rows = aligned([COLUMNS, *map(cells, inside)], 3, LESS, cut=2)
        reasons = [line for run in inside for line in _reason(run)]
        head = f"{printable(folder)}: {counted(len(inside))}"
        parts.append("\n".join([head, rows, *reasons, *_best(inside)]))
    return "\n\n".join(parts)


def _best(runs: list[dict[str, Any]]) -> list[str]:
    """Return a line that names the run of the least error; none where fewer than two have one."""
    measured = [run for run in runs if run["val_error"] is not None]
    if len(measured) < 2:
        return []
    best = min(measured, key=itemgetter("val_error"))
    name = printable(best["label"] or best["run_id"])
    return [f"best: {name}, error {best['val_error']:.2f} %"]


def _reason(run: dict[str, Any]) -> list[str]:
    """Return a line that says why a run is neither finished nor running; none for others."""
    if run["state"] in ("finished", "running") or not run["reason"]:
        return []
    state = word_of(run["state"])
    line = f"{run['label'] or run['run_id']}: {state}: {printable(run['reason'])}"
    return wrap(line, room(), subsequent_indent="  ", max_lines=2, placeholder=" ...")
