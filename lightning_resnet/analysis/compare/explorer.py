"""Data of the page's charts and of its table of runs: settings, results and curves of every run."""

import base64
import json
import math
import zlib
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd

from lightning_resnet.analysis.compare.columns import SHORT, short_names
from lightning_resnet.analysis.compare.figures import COLOURS, WIDE, X_LABELS, palette
from lightning_resnet.analysis.compare.load import Runs
from lightning_resnet.analysis.compare.tables import (
    decides,
    describe,
    final_errors,
    groups,
    short_key,
    text,
    varying,
)
from lightning_resnet.analysis.compare.titles import column_title, metric_title
from lightning_resnet.errors import printable

MOST_VALUES = 500_000  # numbers in the curves of a page, of training and again of evaluations
RAMP = 32  # colours where there are more than a palette has
AXES = ("step", "epoch", "images", "time", "gpu_h")
NO_METRICS = {"run_id", "path", "kind", "step", "epoch", "attempt", "time", "gpu_h"}
FACTS = {  # columns that are no settings: whether the table shows them at first
    "run_id": True,
    "name": True,
    "status": True,
    "steps": False,
    "seconds": True,
    "gpu_h": False,
    "params": False,
    "macs": False,
    "train_samples": False,
    "val_samples": False,
    "input_size": False,
    "code": False,
    "dirty": False,
    "torch": False,
    "lightning_resnet": False,
    "hardware": False,
    "error": False,
    "about": False,
    "path": False,
}
RESULTS = {
    "final": "validation error, %",
    "best": "validation error of the best epoch, %",
    "train": "training error (clean), %",
    "test": "test error, %",
}
BOTH = {  # charts of two metrics: the first solid, the second dashed
    "error": ("val/acc1", "train_eval/acc1", "validation and training error, %"),
    "loss": ("val/loss", "train_eval/loss", "validation and training loss"),
}
NO_ROWS = np.zeros(0, dtype=int)
THINNED = {"val": "evaluations", "train": "training rows that were read"}
MOST_SHOWN = 8  # settings that the table shows at first


def data(runs: Runs, history: pd.DataFrame, rows: Sequence[str], x: str) -> dict[str, Any]:
    """Return what the page's charts and table of runs are made of, ready for JSON.

    Args:
        runs: the runs.
        history: rows of the runs, with time in seconds since the first row.
        rows: columns of `runs.runs` that make the rows of the summary table.
        x: axis that the charts have at first, a key of `figures.X_LABELS`.
    """
    frame = runs.runs[runs.runs["status"] != "unreadable"]
    labels = {}
    for key, part in groups(frame, rows):
        labels |= dict.fromkeys(part["path"], printable(describe(rows, key)))
    frame = frame.assign(order=frame["path"].map({path: i for i, path in enumerate(labels)}))
    frame = frame.sort_values("order", kind="stable").drop(columns="order")
    is_metric = [name for name in history if name not in NO_METRICS and history[name].notna().any()]
    every = {kind: _stride(history, is_metric, kind) for kind in ("val", "train")}
    columns = _numbers(history, is_metric)
    by_path = history.groupby("path", sort=False).indices
    kinds = history["kind"].to_numpy()
    series = []
    listed = []
    for run in frame.to_dict("records"):
        rows_of_run = by_path.get(run["path"], NO_ROWS)
        curves = {kind: rows_of_run[kinds[rows_of_run] == kind] for kind in every}
        series.append(_curves(columns, curves, every))
        listed.append(_run(run, labels[run["path"]]))
    axes = {"images": "images seen", **X_LABELS}
    known = set(AXES) if "gpu_h" in history and history["gpu_h"].notna().any() else {*AXES[:4]}
    thinned = [f"one of {n} {THINNED[kind]}" for kind, n in every.items() if n > 1]
    note = f"Drawn is {' and '.join(thinned)}" if thinned else ""
    return {
        "x": x,
        "axes": [[name, axes[name]] for name in AXES if name in known],
        "runs": listed,
        "colours": palette(list(dict.fromkeys(labels.values()))),
        "palette": COLOURS,
        "ramp": [
            mpl.colors.to_hex(mpl.colormaps["viridis"](0.9 * i / (RAMP - 1))) for i in range(RAMP)
        ],
        "columns": _columns(frame, history, rows),
        "metrics": _metrics(is_metric),
        "start": _start(is_metric),
        "wide": WIDE,
        "note": note,
        "series": packed(series),
    }


def packed(value: Any) -> str:
    """Return a value as base64 of deflated JSON, which the browser unpacks."""
    content = json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    return base64.b64encode(zlib.compress(content, 9)).decode()


def _stride(history: pd.DataFrame, metrics: Sequence[str], kind: str) -> int:
    """Return of how many rows of a kind the page holds one, so that it stays small."""
    cells = int(history.loc[history["kind"] == kind, list(metrics)].notna().sum().sum())
    return max(1, math.ceil(cells / MOST_VALUES))


def _run(run: dict[str, Any], label: str) -> dict[str, Any]:
    return {
        "path": printable(run["path"]),
        "id": printable(run["run_id"]),
        "label": printable(f"{run['name']}/{run['run_id']}"),
        "row": label,
        "status": run["status"],
        "reference": str(run["name"]).startswith("reference:"),
        "batch_size": _cell(run.get("data.batch_size")),
        "steps_per_epoch": _cell(run.get("steps_per_epoch")),
    }


def _numbers(history: pd.DataFrame, metrics: Sequence[str]) -> dict[str, np.ndarray]:
    """Return columns of the history as arrays, those of metrics as they are drawn.

    With a frame for each of ten thousand runs, the page took minutes.

    Returns:
        Arrays of the length of the history: step, time, epoch, gpu_h, and each metric; shares and
        errors in percent.
    """
    columns = {}
    for name in ("step", "time", "epoch", "gpu_h"):
        columns[name] = history[name].astype(float).to_numpy()
    for name in metrics:
        column = history[name].astype(float)
        kind = metric_title(name).kind
        if kind == "error":
            column = (100 * (1 - column)).round(3)
        elif kind == "share":
            column = (100 * column).round(2)
        columns[name] = column.to_numpy()
    return columns


def _curves(
    columns: dict[str, np.ndarray], rows_by_kind: dict[str, np.ndarray], every: dict[str, int]
) -> list[dict[str, Any]]:
    """Return a run's curves, those of evaluations first; the test has no curve.

    Args:
        columns: columns of the history, from `_numbers`.
        rows_by_kind: numbers of the run's rows of each kind.
        every: of how many rows of each kind one is drawn; the last one is.
    """
    found = []
    metrics = [name for name in columns if name not in ("step", "time", "epoch", "gpu_h")]
    for kind, part in rows_by_kind.items():
        if kind == "train" and len(part):
            is_known = [~np.isnan(columns[name][part]) for name in metrics]
            part = part[np.any(is_known, axis=0)] if is_known else part[:0]
        part = part[(len(part) - 1) % every[kind] :: every[kind]]
        if not len(part):
            continue
        steps = [int(step) for step in columns["step"][part]]
        times = [round(10 * t) if t == t else 0 for t in columns["time"][part].tolist()]
        rows = {"step": _differences(steps), "time": _differences(times)}
        epochs = columns["epoch"][part].tolist()
        rows["epoch"] = [int(epoch) + 1 if epoch == epoch else 0 for epoch in epochs]
        hours = columns["gpu_h"][part]
        if not np.isnan(hours).any():
            rows["gpu_h"] = [_number(value) for value in hours.tolist()]
        values = {}
        for name in metrics:
            column = columns[name][part]
            if not np.isnan(column).all():
                values[name] = _values(column)
        found.append(rows | {"values": values})
    return found


def _differences(values: Sequence[int]) -> list[int]:
    return [b - a for a, b in zip([0, *values], values, strict=False)]


def _values(column: np.ndarray) -> list[float | None] | float | None:
    """Return the values of a metric, or one value if all are the same."""
    values = [_number(value) for value in column.tolist()]
    return values[0] if len(set(values)) == 1 else values


def _number(value: float) -> float | None:
    """Return a number with four digits, as an integer where it is one; null if not finite."""
    if not math.isfinite(value):
        return None
    short = float(f"{value:.4g}") if abs(value) < 1000 else float(f"{value:.6g}")
    return int(short) if short.is_integer() else short


def _cell(value: Any) -> str | float | None:
    """Return a setting for the page: a number, a text or null."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isinf(value):
        return printable(text(value))
    return int(value) if float(value).is_integer() else float(value)


def _column(name: str, title: str, values: Sequence[Any], **other: Any) -> dict[str, Any]:
    """Return a column of the table of runs; one value where all runs have the same."""
    column = {"name": printable(name), "title": printable(title), **other}
    column["text"] = any(isinstance(value, str) for value in values)
    same = len(set(values)) == 1
    return column | ({"value": values[0]} if same else {"values": list(values)})


def _columns(
    frame: pd.DataFrame, history: pd.DataFrame, rows: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the columns of the table of runs: facts, results, and all settings."""
    found = []
    several = frame["name"].nunique() > 1
    for name, shown in FACTS.items():
        values = [_cell(value) for value in frame[name]]
        if any(value is not None for value in values):
            is_shown = several if name == "name" else shown
            title = column_title(name, name)
            look = {"shown": is_shown, "setting": name == "name"}
            if name == "seconds":
                look["digits"] = 1
            found.append(_column(name, title, values, **look))
    errors = final_errors(history).reindex(frame["path"])
    if "test/acc1" in history:
        tests = history.dropna(subset="test/acc1").groupby("path")["test/acc1"].last()
        errors["test"] = 100 * (1 - tests.reindex(frame["path"]))
    results = []
    for name, title in RESULTS.items():
        if name in errors and errors[name].notna().any():
            values = [_cell(round(value, 4)) for value in errors[name]]
            look = {"shown": True, "setting": False, "digits": 2}
            results.append(_column(f"{name}_error", title, values, **look))
    names = short_names(frame.columns)
    settings = [key for key in frame if "." in key or key in SHORT]
    vary = varying(frame, settings)
    told = [names.get(key, key) for key in vary if decides(key)]
    first = [name for name in [*rows, *told] if name in told][:MOST_SHOWN]
    shown_names = {*first, "seed"}
    short = [names.get(key) or short_key(key) for key in settings]
    columns = []
    for key, name in zip(settings, short, strict=True):
        unique = name if short.count(name) == 1 and name not in FACTS else key
        values = [_cell(_setting(value, key)) for value in frame[key]]
        is_decisive = decides(key) or key == "seed_everything"
        is_shown = key in vary and is_decisive and names.get(key, key) in shown_names
        title = column_title(unique, short_key(unique) if "." in unique else unique)
        columns.append(
            _column(unique, title, values, shown=is_shown, setting=True, bare=name == "net")
        )
    columns.sort(key=lambda column: column["name"] not in ("net", "depth", "shortcut"))
    return [*found[:2], *columns, *results, *found[2:]]


def _setting(value: Any, key: str) -> Any:
    """Return the value of a setting as the tables have it: a class by its bare name."""
    if key == "model.net.init_args.shortcut" and value == "none":
        return value
    return value.rpartition(".")[2] if key.endswith("class_path") and value == value else value


def _metrics(names: Sequence[str]) -> list[dict[str, Any]]:
    """Return what can be drawn: the name, title and unit of each, and what it is made of."""
    found = []
    for name, (first, second, title) in BOTH.items():
        if first in names and second in names:
            axis = title.removeprefix("validation and training ").replace(", %", " (%)")
            kind = metric_title(first).kind
            words = ["validation", "training"]
            found.append(_metric(name, title, axis, kind, [first, second], words))
    for name in names:
        if name.startswith("test/"):
            continue
        title, kind = metric_title(name)
        found.append(_metric(name, title, title.replace(", %", " (%)"), kind, [name], [""]))
    return found


def _metric(
    name: str, title: str, axis: str, kind: str, parts: list[str], words: list[str]
) -> dict[str, Any]:
    return {
        "name": printable(name),
        "title": printable(title),
        "axis": printable(axis),
        "kind": kind,
        "unit": "" if kind == "value" else " %",
        "log": name.startswith("grad_norm/"),
        "parts": parts,
        "words": words,
    }


def _start(names: Sequence[str]) -> list[str]:
    """Return the metrics of the charts that the page has at first."""
    wanted = ["error" if "train_eval/acc1" in names else "val/acc1", "train/loss"]
    found = [name for name in wanted if name == "error" or name in names]
    return found or [name for name in names if not name.startswith("test/")][:1]
