"""What `resnet-cli compare` makes: a folder with the figures, the tables and a page of all."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from lightning_resnet.analysis.compare import (
    callback_metrics,
    effects,
    explorer,
    extra_columns,
    figures,
    importance,
    page,
    pairs,
    published,
    tables,
)
from lightning_resnet.analysis.compare.load import Runs, load_runs
from lightning_resnet.analysis.compare.tables import Table
from lightning_resnet.analysis.compare.where import EXAMPLE, in_columns, why_unknown
from lightning_resnet.analysis.compare.where import check as check_where
from lightning_resnet.errors import UserError, nearest, one_line
from lightning_resnet.files import write_file
from lightning_resnet.printing import markdown, prose
from lightning_resnet.shipped import REFERENCE
from lightning_resnet.tracking.wandb_rows import SCHEME


class Extra(NamedTuple):
    """Further table of a report, below the summary.

    Attributes:
        cells: for people, header first.
        legend: what the cells are.
        rows: the same values for programs.
        left: number of columns that are aligned to the left.
        less: heads of columns that a narrow terminal leaves out.
        wrap: cells hold sentences.
    """

    cells: list[list[str]]
    legend: str
    rows: list[dict[str, Any]]
    left: int = 1
    less: tuple[str, ...] = ()
    wrap: bool = False


class Compared(NamedTuple):
    """Tables of a report, and the runs.

    Attributes:
        table: the summary table.
        extras: further tables, by name.
        runs: what was compared.
    """

    table: Table
    extras: dict[str, Extra]
    runs: Runs


class Report(NamedTuple):
    """Result of `report`: its tables, the files it wrote, and the runs it compared.

    Attributes:
        table: the summary table.
        extras: further tables, by name.
        files: what was written, index.html last.
        runs: what was compared.
    """

    table: Table
    extras: dict[str, Extra]
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
        importance: tell how much of the error's variance each setting explains.
        published: set of published results that stand next to the runs, such as `cifar10`.
        title: of the page and the figure.
        panels: what callbacks logged that has a figure of its own: grad_norm | response_std |
            identity_distance | branch_scale.
    """

    where: str = ""
    rows: Sequence[str] | None = None
    over: Sequence[str] = ("seed",)
    cols: str = ""
    metrics: Sequence[str] = ()
    x: str = "step"
    baseline: str = ""
    effects: bool = False
    importance: bool = False
    published: str = ""
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
        out: folder to write; by default `report` in the innermost folder that holds all runs of
            the user, or in the working directory where there is none below it.
        view: what is shown.
        command: shown on the page.

    Raises:
        UserError: there are no such runs, or they do not have what the view asks for.
    """
    view = view or View()
    found = compared(paths, view)
    table, extras, runs = found
    folder = Path(out) if out else _default_folder(runs.runs)
    history = figures.with_x(runs.runs, runs.history, view.x)
    drawing = figures.curves(runs.runs, history, table.labels, view.title, view.x)
    contents = figures.files("curves", drawing)
    for kind in view.panels:
        frame = callback_metrics.logged(runs, table.labels, kind)
        contents |= figures.files(kind, callback_metrics.figure(frame, kind))
        contents[f"{kind}.csv"] = tables.as_csv(frame).encode()
    contents["table.md"] = tables.to_markdown(table).encode()
    contents["table.csv"] = tables.to_csv(table).encode()
    contents["table.tex"] = tables.to_latex(table).encode()
    for name, extra in extras.items():
        told = markdown(extra.cells, extra.left)
        contents[f"{name}.md"] = f"{told}\n\n{prose(extra.legend)}\n".encode()
    if "published" in extras:
        frame = pd.DataFrame(extras["published"].rows).astype({"n": "Int64"})
        frame["differs"] = ["; ".join(words) for words in frame["differs"]]
        contents["published.csv"] = tables.as_csv(frame).encode()
    contents["index.html"] = index(found, view, command).encode()
    files = [write_file(folder / name, content) for name, content in contents.items()]
    return Report(table, extras, files, runs)


def compared(paths: Sequence[str | os.PathLike[str]], view: View) -> Compared:
    """Read runs, and return the tables of a report; see `report`."""
    results = published.named(view.published) if view.published else []
    runs = select(load_runs(paths, train=bool(view.panels), sample=True), view.where)
    table = tables.summary(runs, view.rows, view.over)
    extras = _extras(table, runs, view)
    if view.published:
        found = published.match(results, runs.runs, table.keys)
        table = _with_published(table, runs, view.published, found)
        lines = published.to_rows(found, table.keys)
        if found:
            cells = published.to_cells(found)
            extras["published"] = Extra(cells, published.legend(found), lines, 5, ("where",), True)
    return Compared(_with_columns(table, runs, view), extras, runs)


def index(found: Compared, view: View, command: str, live: bool = False) -> str:
    """Return the text of index.html.

    Args:
        found: the tables and runs.
        view: what is shown.
        command: shown on the page.
        live: the page asks its server for newer runs.
    """
    table, extras, runs = found
    body = _body(table, extras, figures.caption(runs.runs, runs.history, table.labels, view.x))
    for kind in view.panels:
        frame = callback_metrics.logged(runs, table.labels, kind)
        drawn = callback_metrics.figure(frame, kind)
        body.append(page.drawing(drawn, callback_metrics.caption(kind), has_image=not live))
    title = view.title or ", ".join(runs.runs["name"].unique())
    seconds = figures.with_x(runs.runs, runs.history, "time")
    data = explorer.data(runs, seconds, table.labels, view.x)
    return page.page(title, body, data, command, live)


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
    check_where(where)
    columns = tables.columns_by_name(runs.runs)
    try:
        chosen = runs.runs.query(in_columns(where, columns), engine="python")
    except Exception as e:  # pandas raises whatever the expression does
        told = f"{one_line(e)}; {EXAMPLE}"
        if "None of [" in str(e):
            told = f"this is no condition; {EXAMPLE}"
        if "is not defined" in str(e):
            values = {name: runs.runs[column].tolist() for name, column in columns.items()}
            told = why_unknown(where, values, tables.choose_rows(runs.runs))
        raise UserError(f"--where {where}: {told}") from e
    if chosen.empty:
        told = []
        for name in dict.fromkeys(re.findall(r"\w+", where)):
            if name in runs.runs:
                values = sorted({str(value) for value in runs.runs[name].dropna()})
                told.append(f"{name} is {', '.join(values[:20])}")
        there = f"; there {'; '.join(told)}" if told else ""
        raise UserError(f"--where {where}: no run is like that{there}")
    history = runs.history[runs.history["path"].isin(chosen["path"])]
    return runs._replace(runs=chosen, history=history)


def _with_published(
    table: Table, runs: Runs, name: str, matches: Sequence[published.Match]
) -> Table:
    """Add published errors, and a note on the rows that have none."""
    frame = table.frame
    if matches:
        frame = published.add_published(frame, matches, table.keys)
    note = published.unmatched(name, matches, runs.runs, table.keys, table.labels)
    return table._replace(frame=frame, notes=[*note, *table.notes])


def _with_columns(table: Table, runs: Runs, view: View) -> Table:
    """Add the papers' values for just this training, where there are any, and further metrics."""
    frame = table.frame
    if not view.published:
        frame = published.add_paper(frame, runs.runs, table.keys)
    for metric in view.metrics:
        frame = extra_columns.add_metric(frame, runs, table.keys, metric)
    return table._replace(frame=frame)


def _extras(table: Table, runs: Runs, view: View) -> dict[str, Extra]:
    extras: dict[str, Extra] = {}
    if view.cols:
        if view.cols not in table.keys:
            hint = nearest(view.cols, table.keys)
            rows = ", ".join(table.keys)
            raise UserError(f"--cols {view.cols} is none of the rows: {rows}{hint}")
        cells = extra_columns.pivot(table.frame, table.keys, view.cols)
        rows = [dict(zip(cells[0], line, strict=True)) for line in cells[1:]]
        extras["cols"] = Extra(cells, "Final validation error, %: mean ± std.", rows)
    for name, module, frame in (
        ("pairs", pairs, pairs.paired(runs, view.baseline, view.rows) if view.baseline else None),
        ("effects", effects, effects.effects(runs) if view.effects else None),
        ("importance", importance, importance.importances(runs) if view.importance else None),
    ):
        if frame is not None:
            extras[name] = Extra(module.to_cells(frame), module.LEGEND, frame.to_dict("records"))
    return extras


def _body(table: Table, extras: dict[str, Extra], told: str) -> list[str]:
    """Return the tables of the page and what is to be said of them."""
    body = [page.heading("Mean over seeds"), *map(page.flag, table.flags)]
    body.append(page.summary(tables.to_cells(table), len(table.labels)))
    if rest := tables.differing(table):
        body.append(page.folded(f"What differs: {len(rest) - 1} settings", page.table(rest)))
    body += [page.note(text) for text in (page.SPREAD, told, *table.notes)]
    for extra in extras.values():
        body += [page.table(extra.cells, extra.left, extra.wrap), page.note(extra.legend)]
    return body


def _default_folder(runs: pd.DataFrame) -> Path:
    """Return the folder `report` next to the runs, or next to the sweeps that hold them.

    Reference runs and runs of a server do not count; where there are no others, and where sweeps
    share no folder below the working directory, the report goes there.
    """
    folders = set()
    for path in runs[runs["status"] != "unreadable"]["path"]:
        folder = Path(os.path.abspath(path)).parent
        if not path.startswith(SCHEME) and not folder.is_relative_to(REFERENCE):
            folders.add(folder)
    common = Path(os.path.commonpath(folders)) if folders else Path.cwd()
    if common.is_relative_to(Path.cwd()):
        common = common.relative_to(Path.cwd())
    elif len(folders) > 1:
        common = Path()
    return common / "report"
