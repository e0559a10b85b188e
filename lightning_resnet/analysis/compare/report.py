"""What `resnet-cli compare` makes: one folder with the figures, the tables and a page that holds all."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lightning_resnet.analysis.compare import callback_metrics as during
from lightning_resnet.analysis.compare import effects, figures, page, pairs, tables
from lightning_resnet.analysis.compare import extra_columns as columns
from lightning_resnet.analysis.compare.load import Runs, load_runs
from lightning_resnet.analysis.compare.tables import Table, choose_rows
from lightning_resnet.errors import UserError, nearest, one_line
from lightning_resnet.files import write_file
from lightning_resnet.tracking.wandb_rows import SCHEME

if TYPE_CHECKING:  # pandas and matplotlib take seconds to import: only once there is something to read
    import pandas as pd

    Extras = dict[str, tuple[list[list[str]], str]]  # name -> cells, header first, and what they are


class Report(NamedTuple):
    """What `report` made: the table, the further ones, and the files, index.html last; and of which runs."""

    table: "Table"
    extras: "Extras"
    files: list[Path]
    runs: "Runs"


@dataclass(frozen=True)
class View:
    """What of the runs is shown, and how.

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
        panels: what callbacks logged that has a figure of its own: grad_norm | response_std | identity_distance.
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
    """Compare runs: write figures (png, svg), table.md, .csv, .tex, index.html, and pairs.* or effects.* if asked for.

    Args:
        paths: run directories, sweeps or roots; `reference:digits` is one of ours.
        out: folder to write; by default `report` beside the runs, if they all lie in one folder.
        view: what is shown.
        command: shown on the page.
    """
    view = view or View()
    runs = select(load_runs(paths, train=bool(view.panels)), view.where)
    folder = Path(out) if out else _beside(runs.runs)
    table, extras = tables.summary(runs, _rows(runs.runs, view)), {}
    keys = [name for name in table.frame if name not in tables.STATISTICS]
    table, extras = _columns(table, runs, keys, view), _extras(table, runs, keys, view)
    history = figures.with_x(runs.runs, runs.history, view.x)
    contents, pictures = _pictures(runs, history, keys, view)
    for end, write in (("md", tables.to_markdown), ("csv", tables.to_csv), ("tex", tables.to_latex)):
        contents[f"table.{end}"] = write(table).encode()
    for name, (cells, text) in extras.items():
        contents[f"{name}.md"] = f"{tables.markdown(cells)}\n\n{text}\n".encode()
    title, data = view.title or ", ".join(runs.runs["name"].unique()), page.curves(runs.runs, history, keys, view.x)
    body = [pictures[0], *_body(table, extras), *pictures[1:]]
    contents["index.html"] = page.page(title, body, data, command).encode()
    return Report(table, extras, [write_file(folder / name, content) for name, content in contents.items()], runs)


def _pictures(runs: "Runs", history: "pd.DataFrame", keys: list[str], view: View) -> tuple[dict[str, bytes], list[str]]:
    """The files of all figures, and the figures for the page: the curves, then what callbacks logged."""
    drawn = {"curves": figures.curves(runs.runs, history, keys, view.title, view.x)}
    captions, contents = {"curves": figures.caption(runs.runs, keys)}, {}
    for kind in view.panels:
        frame = during.logged(runs, keys, kind)
        drawn[kind], captions[kind] = during.figure(frame, kind), during.caption(kind)
        contents[f"{kind}.csv"] = tables.as_csv(frame).encode()
    for name, figure in drawn.items():
        contents |= {f"{name}.{kind}": figures.render(figure, kind) for kind in ("png", "svg")}
    return contents, [page.picture(contents[f"{name}.svg"], captions[name]) for name in drawn]


def select(runs: "Runs", where: str) -> "Runs":
    """Only the runs for which the expression holds, such as `depth == 56 and shortcut != "none"`."""
    if not where:
        return runs
    try:
        chosen = runs.runs.query(where, engine="python")
    except Exception as e:  # pandas raises whatever the expression does
        unknown = re.findall(r"name '(\w+)' is not defined", str(e))
        cure = (unknown and nearest(unknown[0], runs.runs)) or "; write it as in --where 'depth == 56 and lr < 0.1'"
        raise UserError(f"--where {where}: {one_line(e)}{cure}") from e
    if chosen.empty:
        raise UserError(f"--where {where}: no run is like that")
    return runs._replace(runs=chosen, history=runs.history[runs.history["path"].isin(chosen["path"])])


def _rows(runs: "pd.DataFrame", view: View) -> list[str] | None:

    rows = choose_rows(runs[runs["status"] != "unreadable"], view.rows)
    left = [row for row in rows if row not in view.over]
    return left or rows


def _columns(table: "Table", runs: "Runs", keys: list[str], view: View) -> "Table":
    """With the paper's values, where there are any, and the metrics asked for."""
    frame = columns.add_paper(table.frame, runs.runs, keys)
    for metric in view.metrics:
        frame = columns.add_metric(frame, runs, keys, metric)
    return table._replace(frame=frame)


def _extras(table: "Table", runs: "Runs", keys: list[str], view: View) -> "Extras":

    extras: Extras = {}
    if view.cols:
        if view.cols not in keys:
            raise UserError(f"--cols {view.cols} is none of the rows: {', '.join(keys)}")
        extras["cols"] = columns.pivot(table.frame, keys, view.cols), "Final validation error, %: mean ± std."
    if view.baseline:
        extras["pairs"] = pairs.to_cells(pairs.paired(runs, view.baseline, view.rows)), pairs.LEGEND
    if view.effects:
        extras["effects"] = effects.to_cells(effects.effects(runs)), effects.LEGEND
    return extras


def _body(table: "Table", extras: "Extras") -> list[str]:
    """Of the page."""
    body = [*map(page.flag, table.flags), page.table(tables.to_cells(table))]
    body += map(page.note, [tables.LEGEND, *table.notes])
    for cells, text in extras.values():
        body += [page.table(cells), page.note(text)]
    return body


def _beside(runs: "pd.DataFrame") -> Path:
    readable = runs[runs["status"] != "unreadable"]
    if any(path.startswith(SCHEME) for path in readable["path"]):
        raise UserError("runs of a server lie in no folder: say --out DIR")
    first, *others = sorted({Path(os.path.abspath(path)).parent for path in readable["path"]})
    if others:
        raise UserError(f"the runs lie in {1 + len(others)} folders ({first}, {others[0]}, ...): say --out DIR")
    return (first.relative_to(Path.cwd()) if first.is_relative_to(Path.cwd()) else first) / "report"
