"""`resnet-cli compare RUNS...`: one folder with the figure, the table and a page that holds both.

`resnet-cli compare runs/digits`, or of several sweeps: `resnet-cli compare runs/a runs/b --rows net depth --out ab`.
"""

import base64
import html
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lightning_resnet.analysis.foreign import SCHEME
from lightning_resnet.errors import Parser, UserError

if TYPE_CHECKING:  # pandas and matplotlib take seconds to import: only once there is something to read
    import pandas as pd

    from lightning_resnet.analysis.tables import Table

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ max-width: 68rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif; color: #222 }}
img {{ width: 100% }}
figure {{ margin: 0 }}
figcaption, .small {{ color: #555; font-size: 0.9rem }}
.table {{ overflow-x: auto }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1.5rem 0 }}
th, td {{ padding: 0.3rem 0.7rem; text-align: right; border-bottom: 1px solid #ddd }}
th {{ font-weight: 600; border-bottom: 2px solid #888 }}
.flag {{ border-left: 4px solid #D55E00; padding-left: 0.7rem }}
code {{ background: #f4f4f4; padding: 0.1rem 0.3rem }}
</style>
<h1>{title}</h1>
<figure><img alt="{caption}" src="data:image/svg+xml;base64,{figure}"><figcaption>{caption}</figcaption></figure>
{flags}
<div class="table">{table}</div>
{notes}
<p class="small">Made by <code>{command}</code></p>
</html>
"""


class Report(NamedTuple):
    """What `report` made: the table, and the files, index.html last."""

    table: "Table"
    files: list[Path]


def report(
    paths: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str] | None = None,
    rows: Sequence[str] | None = None,
    title: str = "",
    command: str = "",
) -> Report:
    """Compare runs: write curves.png, curves.svg, table.md, table.csv and index.html.

    Args:
        paths: run directories, sweeps or roots.
        out: folder to write; by default `report` beside the runs, if they all lie in one folder.
        rows: columns of `load_runs(...).runs` that make the rows; by default the settings that vary.
        title: of the page and the figure; the page's is otherwise the name of the sweep.
        command: shown on the page.
    """
    from lightning_resnet.analysis import figures, tables
    from lightning_resnet.analysis.runs import load_runs

    runs = load_runs(paths)
    folder = Path(out) if out else _beside(runs.runs)
    table = tables.summary(runs, rows)
    keys = [name for name in table.frame if name not in tables.STATISTICS]
    figure = figures.curves(*runs, keys, title)
    svg, markdown, csv = figures.render(figure, "svg"), tables.to_markdown(table), tables.to_csv(table)
    caption = figures.caption(runs.runs, keys)
    page = _page(title or ", ".join(runs.runs["name"].unique()), caption, svg, table, command)
    contents = {"curves.png": figures.render(figure, "png"), "curves.svg": svg}
    contents |= {"table.md": markdown.encode(), "table.csv": csv.encode(), "index.html": page.encode()}
    return Report(table, [_write(folder / name, content) for name, content in contents.items()])


def _beside(runs: "pd.DataFrame") -> Path:
    readable = runs[runs["status"] != "unreadable"]
    if any(path.startswith(SCHEME) for path in readable["path"]):
        raise UserError("runs of a server lie in no folder: say --out DIR")
    first, *others = sorted({Path(os.path.abspath(path)).parent for path in readable["path"]})
    if others:
        raise UserError(f"the runs lie in {1 + len(others)} folders ({first}, {others[0]}, ...): say --out DIR")
    return (first.relative_to(Path.cwd()) if first.is_relative_to(Path.cwd()) else first) / "report"


def _page(title: str, caption: str, svg: bytes, table: "Table", command: str) -> str:
    from lightning_resnet.analysis.tables import LEGEND, to_cells

    head, *body = ([html.escape(cell) for cell in row] for row in to_cells(table))
    cells = "<tr><th>" + "<th>".join(head) + "".join("\n<tr><td>" + "<td>".join(row) for row in body)
    return PAGE.format(
        title=html.escape(title),
        caption=html.escape(caption),
        figure=base64.b64encode(svg).decode(),
        flags="\n".join(f'<p class="flag">Careful: {html.escape(flag)}.</p>' for flag in table.flags),
        table=f"<table>\n{cells}\n</table>",
        notes="\n".join(f'<p class="small">{html.escape(note)}</p>' for note in [LEGEND, *table.notes]),
        command=html.escape(command or "lightning_resnet.analysis.report"),
    )


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
    parser.add_argument(
        "runs", nargs="+", metavar="RUNS", help="folders of runs, such as runs/digits; wandb://entity/project"
    )
    parser.add_argument("--rows", nargs="+", metavar="K", help="settings that make the rows (default: those that vary)")
    parser.add_argument("--out", metavar="DIR", help="where to write (default: report/ beside the runs)")
    parser.add_argument("--title", default="", metavar="T", help="of the page and the figure")
    return parser


def main(argv: Sequence[str]) -> int:
    """Write the report, print its table and where it lies; 0, or an error the user can cure."""
    args = make_parser().parse_args(argv)
    command = shlex.join(["resnet-cli", "compare", *argv])
    made = report(args.runs, args.out, args.rows, args.title, command)
    from lightning_resnet.analysis.tables import to_markdown

    print(to_markdown(made.table))
    for file in made.files:
        print(file)
    return 0
