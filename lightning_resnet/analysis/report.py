"""`resnet-cli compare RUNS...`: one folder with the figure, the tables and a page that holds all.

`resnet-cli compare runs/digits`, or of several sweeps: `resnet-cli compare runs/a runs/b --rows net depth --out ab`.
"""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lightning_resnet.analysis.foreign import SCHEME
from lightning_resnet.errors import Parser, UserError, one_line

if TYPE_CHECKING:  # pandas and matplotlib take seconds to import: only once there is something to read
    import pandas as pd

    from lightning_resnet.analysis.runs import Runs
    from lightning_resnet.analysis.tables import Table

    Extras = dict[str, tuple[list[list[str]], str]]  # name -> cells, header first, and what they are


class Report(NamedTuple):
    """What `report` made: the table, the further ones, and the files, index.html last."""

    table: "Table"
    extras: "Extras"
    files: list[Path]


@dataclass(frozen=True)
class View:
    """What of the runs is shown, and how.

    Attributes:
        where: expression over the columns of `load_runs(...).runs` that runs must satisfy.
        rows: columns that make the rows; by default the settings that vary.
        over: columns to average over although they vary.
        cols: a row key whose values stand side by side in a table of their own.
        metrics: further columns of the table, such as `test/acc1@best`.
        x: of the figure: step | epoch | time.
        baseline: `shortcut=none`: paired differences of twins from it.
        effects: fit the gap between deep and shallow nets.
        title: of the page and the figure.
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


def report(
    paths: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str] | None = None,
    view: View | None = None,
    command: str = "",
) -> Report:
    """Compare runs: write curves.png, .svg, table.md, .csv, .tex, index.html, and pairs.* or effects.* if asked for.

    Args:
        paths: run directories, sweeps or roots; `reference:digits` is one of ours.
        out: folder to write; by default `report` beside the runs, if they all lie in one folder.
        view: what is shown.
        command: shown on the page.
    """
    from lightning_resnet.analysis import figures, page, tables
    from lightning_resnet.analysis.runs import load_runs

    view = view or View()
    runs = select(load_runs(paths, train=view.x == "time"), view.where)
    folder = Path(out) if out else _beside(runs.runs)
    table, extras = tables.summary(runs, _rows(runs.runs, view)), {}
    keys = [name for name in table.frame if name not in tables.STATISTICS]
    table, extras = _columns(table, runs, keys, view), _extras(table, runs, keys, view)
    history = figures.with_x(runs.history, view.x)
    figure, caption = figures.curves(runs.runs, history, keys, view.title, view.x), figures.caption(runs.runs, keys)
    svg = figures.render(figure, "svg")
    contents = {"curves.png": figures.render(figure, "png"), "curves.svg": svg}
    for end, write in (("md", tables.to_markdown), ("csv", tables.to_csv), ("tex", tables.to_latex)):
        contents[f"table.{end}"] = write(table).encode()
    for name, (cells, text) in extras.items():
        contents[f"{name}.md"] = f"{tables.markdown(cells)}\n\n{text}\n".encode()
    title, data = view.title or ", ".join(runs.runs["name"].unique()), page.curves(runs.runs, history, keys, view.x)
    contents["index.html"] = page.page(title, svg, caption, _body(table, extras), data, command).encode()
    return Report(table, extras, [_write(folder / name, content) for name, content in contents.items()])


def select(runs: "Runs", where: str) -> "Runs":
    """Only the runs for which the expression holds, such as `depth == 56 and shortcut != "none"`."""
    if not where:
        return runs
    try:
        chosen = runs.runs.query(where, engine="python")
    except Exception as e:  # pandas raises whatever the expression does
        raise UserError(f"--where {where}: {one_line(e)}; write it as in --where 'depth == 56 and lr < 0.1'") from e
    if chosen.empty:
        raise UserError(f"--where {where}: no run is like that")
    return runs._replace(runs=chosen, history=runs.history[runs.history["path"].isin(chosen["path"])])


def _rows(runs: "pd.DataFrame", view: View) -> list[str] | None:
    from lightning_resnet.analysis.tables import choose_rows

    rows = choose_rows(runs[runs["status"] != "unreadable"], view.rows)
    left = [row for row in rows if row not in view.over]
    return left or rows


def _columns(table: "Table", runs: "Runs", keys: list[str], view: View) -> "Table":
    """With the paper's values, where there are any, and the metrics asked for."""
    from lightning_resnet.analysis import columns

    frame = columns.add_paper(table.frame, runs.runs, keys)
    for metric in view.metrics:
        frame = columns.add_metric(frame, runs, keys, metric)
    return table._replace(frame=frame)


def _extras(table: "Table", runs: "Runs", keys: list[str], view: View) -> "Extras":
    from lightning_resnet.analysis import columns, effects, pairs

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
    from lightning_resnet.analysis import page, tables

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


def _write(file: Path, content: bytes) -> Path:
    """Whole or not at all: a reader never meets half a file."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, file)
    except OSError as error:
        raise UserError(f"cannot write {file} ({error.strerror}); say --out DIR with a folder that can be") from error
    return file


def make_parser() -> Parser:
    """The flags of `resnet-cli compare`."""
    parser = Parser(
        prog="resnet-cli compare", description="Error curves and a table of mean and spread over seeds, from runs."
    )
    runs = "folders of runs, such as runs/digits; reference:digits; wandb://entity/project"
    parser.add_argument("runs", nargs="*", metavar="RUNS", help=runs)
    parser.add_argument("--where", default="", metavar="EXPR", help="only such runs: 'depth == 56 and lr < 0.1'")
    parser.add_argument("--rows", nargs="+", metavar="K", help="settings that make the rows (default: those that vary)")
    parser.add_argument("--over", nargs="+", default=["seed"], metavar="K", help="settings to average over as well")
    parser.add_argument("--cols", default="", metavar="K", help="a setting whose values stand side by side")
    parser.add_argument("--metric", nargs="+", default=[], metavar="M@WHEN", help="columns, such as test/acc1@best")
    parser.add_argument("--x", choices=["step", "epoch", "time"], default="step", help="of the figure (default: step)")
    parser.add_argument("--baseline", default="", metavar="K=V", help="paired differences from it: shortcut=none")
    parser.add_argument("--effects", action="store_true", help="on what the gap between deep and shallow depends")
    parser.add_argument("--diff", nargs=2, metavar="RUN", help="only print what sets two runs' configurations apart")
    parser.add_argument("--parquet", action="store_true", help="also write runs.parquet and history.parquet")
    parser.add_argument("--out", metavar="DIR", help="where to write (default: report/ beside the runs)")
    parser.add_argument("--title", default="", metavar="T", help="of the page and the figure")
    return parser


def main(argv: Sequence[str]) -> int:
    """Write the report, print its tables and where it lies; 0, or an error the user can cure."""
    args = make_parser().parse_args(argv)
    if args.diff:
        print(diff(*map(Path, args.diff)))
        return 0
    if not args.runs:
        raise UserError("compare what? name runs, sweeps or roots: resnet-cli compare runs/digits")
    view = View(
        args.where, args.rows, args.over, args.cols, args.metric, args.x, args.baseline, args.effects, args.title
    )
    made = report(args.runs, args.out, view, shlex.join(["resnet-cli", "compare", *argv]))
    from lightning_resnet.analysis import tables

    print(tables.to_markdown(made.table))
    for cells, text in made.extras.values():
        print(f"{tables.markdown(cells)}\n\n{text}\n")
    parquet = write_parquet(args.runs, args.where, made.files[-1].parent) if args.parquet else []
    for file in [*parquet, *made.files]:
        print(file)
    return 0


def diff(a: Path, b: Path) -> str:
    """`key: value of a -> value of b` for each setting that differs."""
    import yaml

    from lightning_resnet.analysis.runs import locate
    from lightning_resnet.runtime.rundir import differences

    configs = []
    for path in map(locate, (a, b)):
        try:
            configs.append(yaml.safe_load((path / "config.yaml").read_text()))
        except (OSError, yaml.YAMLError) as e:
            raise UserError(f"cannot read {path}/config.yaml: --diff takes two run directories") from e
    return "\n".join(differences(*configs)) or "no setting differs"


def write_parquet(paths: Sequence[str], where: str, folder: Path) -> list[Path]:
    """Both tables of `load_runs`, training rows included."""
    from lightning_resnet.analysis.runs import load_runs

    runs = select(load_runs(paths), where)
    files = [folder / "runs.parquet", folder / "history.parquet"]
    try:
        for frame, file in zip(runs, files, strict=True):
            texts = frame.select_dtypes("object").map(lambda v: v if isinstance(v, str) or v is None else str(v))
            frame.assign(**texts).to_parquet(file)
    except ImportError as e:
        raise UserError("--parquet needs pyarrow: pip install pyarrow") from e
    return files
