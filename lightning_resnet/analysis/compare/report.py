"""What `resnet-cli compare` makes: a folder with the figures, the tables and a page of all."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from lightning_resnet.analysis.compare import (
    callback_metrics,
    effects,
    extra_columns,
    figures,
    page,
    pairs,
    tables,
)
from lightning_resnet.analysis.compare.load import Runs, load_runs
from lightning_resnet.analysis.compare.tables import Table, choose_rows
from lightning_resnet.errors import UserError, nearest, one_line
from lightning_resnet.files import write_file
from lightning_resnet.tracking.wandb_rows import SCHEME

Extras = dict[str, tuple[list[list[str]], str]]  # name -> cells, header first, and their legend


class Report(NamedTuple):
    """Result of `report`: its tables, the files it wrote, and the runs it compared.

    Attributes:
        table: the summary table.
        extras: further tables.
        files: what was written, index.html last.
        runs: what was compared.
    """

    table: Table
    extras: Extras
    files: list[Path]
    runs: Runs


@dataclass(frozen=True)
class View:
    """Choice of what of the runs is shown, and how.

    Attributes:
        where: expression over the columns of `load_runs(...).runs` that runs must satisfy.
        rows: columns that make the rows; by default the settings that vary.
        over: columns to average over although they vary.
        cols: a row key whose values stand side by side in a table of their own.
        metrics: further columns of the table, such as `test/acc1@best` or `steps_to:5`.
        x: of the figure: step | epoch | time | gpu_h.
        baseline: `shortcut=none`: paired differences of twins from it.
        effects: fit the gap between deep and shallow nets.
        title: of the page and the figure.
        panels: what callbacks logged that has a figure of its own: grad_norm | response_std |
            identity_distance.
    """

    where: str = ""
    rows: Sequence[str] | None = None
    over: Sequence[str] = ("seed",)
    cols: str = ""
    metrics: Sequence[str] = ()
    x: str = "step"
    baseline: str = ""
    effects: bool = False
    title: str = ""
    panels: Sequence[str] = ()


def report(
    paths: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str] | None = None,
    view: View | None = None,
    command: str = "",
) -> Report:
    """Compare runs and write the report.

    Written are figures (png, svg), table.md, table.csv, table.tex, index.html, and the further
    tables that were asked for.

    Args:
        paths: run directories, sweeps or roots; `reference:digits` is one of ours.
        out: folder to write; by default `report` next to the runs, if they all lie in one folder.
        view: what is shown.
        command: shown on the page.

    Raises:
        UserError: there are no such runs, or they do not have what the view asks for.
    """
    view = view or View()
    runs = select(load_runs(paths, train=bool(view.panels)), view.where)
    folder = Path(out) if out else _default_folder(runs.runs)
    table = tables.summary(runs, _rows(runs.runs, view))
    keys = [name for name in table.frame if name not in tables.STATISTICS]
    wider = _with_columns(table, runs, keys, view)
    extras = _extras(table, runs, keys, view)
    table = wider
    history = figures.with_x(runs.runs, runs.history, view.x)
    contents, drawn = _figures(runs, history, keys, view)
    contents["table.md"] = tables.to_markdown(table).encode()
    contents["table.csv"] = tables.to_csv(table).encode()
    contents["table.tex"] = tables.to_latex(table).encode()
    for name, (cells, legend) in extras.items():
        contents[f"{name}.md"] = f"{tables.markdown(cells)}\n\n{legend}\n".encode()
    title = view.title or ", ".join(runs.runs["name"].unique())
    body = [drawn[0], *_body(table, extras), *drawn[1:]]
    data = page.curves(runs.runs, history, keys, view.x)
    contents["index.html"] = page.page(title, body, data, command).encode()
    files = [write_file(folder / name, content) for name, content in contents.items()]
    return Report(table, extras, files, runs)


def _figures(
    runs: Runs, history: pd.DataFrame, keys: list[str], view: View
) -> tuple[dict[str, bytes], list[str]]:
    """Return the files of all figures, and the figures as pieces of the page.

    The curves come first, then what callbacks logged.
    """
    drawn = {"curves": figures.curves(runs.runs, history, keys, view.title, view.x)}
    captions = {"curves": figures.caption(runs.runs, runs.history, keys)}
    contents = {}
    for kind in view.panels:
        frame = callback_metrics.logged(runs, keys, kind)
        drawn[kind] = callback_metrics.figure(frame, kind)
        captions[kind] = callback_metrics.caption(kind)
        contents[f"{kind}.csv"] = tables.as_csv(frame).encode()
    for name, figure in drawn.items():
        for kind in ("png", "svg"):
            contents[f"{name}.{kind}"] = figures.render(figure, kind)
    return contents, [page.figure(contents[f"{name}.svg"], captions[name]) for name in drawn]


def select(runs: Runs, where: str) -> Runs:
    """Return only the runs that satisfy an expression, such as `depth == 56 and lr < 0.1`.

    Args:
        runs: from `load_runs`.
        where: expression over the columns of `runs.runs`; empty: all runs.

    Raises:
        UserError: the expression is wrong, or no run satisfies it.
    """
    if not where:
        return runs
    try:
        chosen = runs.runs.query(where, engine="python")
    except Exception as e:  # pandas raises whatever the expression does
        unknown = re.findall(r"name '(\w+)' is not defined", str(e))
        cure = nearest(unknown[0], runs.runs) if unknown else ""
        cure = cure or "; write it as in --where 'depth == 56 and lr < 0.1'"
        raise UserError(f"--where {where}: {one_line(e)}{cure}") from e
    if chosen.empty:
        raise UserError(f"--where {where}: no run is like that")
    history = runs.history[runs.history["path"].isin(chosen["path"])]
    return runs._replace(runs=chosen, history=history)


def _rows(runs: pd.DataFrame, view: View) -> list[str] | None:
    rows = choose_rows(runs[runs["status"] != "unreadable"], view.rows)
    left = [row for row in rows if row not in view.over]
    return left or rows


def _with_columns(table: Table, runs: Runs, keys: list[str], view: View) -> Table:
    """Add the paper's values, where there are any, and the metrics asked for."""
    frame = extra_columns.add_paper(table.frame, runs.runs, keys)
    for metric in view.metrics:
        frame = extra_columns.add_metric(frame, runs, keys, metric)
    return table._replace(frame=frame)


def _extras(table: Table, runs: Runs, keys: list[str], view: View) -> Extras:
    extras: Extras = {}
    if view.cols:
        if view.cols not in keys:
            raise UserError(f"--cols {view.cols} is none of the rows: {', '.join(keys)}")
        cells = extra_columns.pivot(table.frame, keys, view.cols)
        extras["cols"] = cells, "Final validation error, %: mean ± std."
    if view.baseline:
        paired = pairs.paired(runs, view.baseline, view.rows)
        extras["pairs"] = pairs.to_cells(paired), pairs.LEGEND
    if view.effects:
        extras["effects"] = effects.to_cells(effects.effects(runs)), effects.LEGEND
    return extras


def _body(table: Table, extras: Extras) -> list[str]:
    """Return the pieces of the page below the first figure."""
    body = [page.flag(text) for text in table.flags]
    body.append(page.table(tables.to_cells(table)))
    body += [page.note(text) for text in (tables.LEGEND, *table.notes)]
    for cells, legend in extras.values():
        body += [page.table(cells), page.note(legend)]
    return body


def _default_folder(runs: pd.DataFrame) -> Path:
    """Return the folder `report` next to the runs.

    Raises:
        UserError: the runs lie in several folders, or on a server.
    """
    readable = runs[runs["status"] != "unreadable"]
    if any(path.startswith(SCHEME) for path in readable["path"]):
        raise UserError("runs of a server lie in no folder: say --out DIR")
    folders = sorted({Path(os.path.abspath(path)).parent for path in readable["path"]})
    first = folders[0]
    if len(folders) > 1:
        raise UserError(
            f"the runs lie in {len(folders)} folders ({first}, {folders[1]}, ...): say --out DIR"
        )
    if first.is_relative_to(Path.cwd()):
        first = first.relative_to(Path.cwd())
    return first / "report"
