"""The report as one HTML file that needs nothing else.

The page holds the figures, tables that a click sorts, and the curves of all runs to point at and to
switch off. `page.css` and `page.js` next to this module are put into the page.
"""

import base64
import html
import json
import math
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import pandas as pd

from lightning_resnet.analysis.compare.figures import palette
from lightning_resnet.analysis.compare.tables import describe, groups
from lightning_resnet.errors import printable

POINTS = 200  # of each curve at most


def page(title: str, body: Sequence[str], data: dict[str, Any], command: str) -> str:
    """Return the text of the HTML file.

    Args:
        title: heading.
        body: pieces of HTML before the curves, from `figure`, `table`, `note` and `flag`.
        data: from `curves`.
        command: the command that made the report.
    """
    # a `<!--<script>` in the data would swallow our script
    content = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    style = _read("page.css")
    script = _read("page.js")
    pieces = [
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">',
        f"<title>{_safe(title)}</title>\n<style>\n{style}</style>\n<h1>{_safe(title)}</h1>",
        *body,
        '<h2>Runs</h2>\n<div id="keys"></div>\n<svg id="curves"></svg>\n'
        '<p id="value" class="small"></p>',
        note(f"Made by {command}"),
        f'<script id="data" type="application/json">{content}</script>\n'
        f"<script>\n{script}</script>\n</html>\n",
    ]
    return "\n".join(pieces)


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def figure(svg: bytes, caption: str) -> str:
    """Return the HTML of a figure that is held inside the page, with its caption."""
    source = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
    text = _safe(caption)
    return f'<figure><img alt="{text}" src="{source}"><figcaption>{text}</figcaption></figure>'


def table(cells: Sequence[Sequence[str]]) -> str:
    """Return the HTML of a table, header first; a click on a heading sorts."""
    head, *rows = ([_safe(cell) for cell in row] for row in cells)
    head = [cell.replace("_", "_<wbr>") for cell in head]  # long names may break there
    body = "".join("\n<tr><td>" + "<td>".join(row) for row in rows)
    return f'<div class="table"><table>\n<tr><th>{"<th>".join(head)}{body}\n</table></div>'


def note(text: str) -> str:
    """Return the HTML of a remark in small print."""
    return f'<p class="small">{_safe(text)}</p>'


def flag(text: str) -> str:
    """Return the HTML of a remark on what weakens the comparison."""
    return f'<p class="flag">Warning: {_safe(text)}.</p>'


def curves(
    runs: pd.DataFrame, history: pd.DataFrame, rows: Sequence[str], x: str
) -> dict[str, Any]:
    """Return the errors in percent of every run that has been evaluated, thinned out.

    Args:
        runs: the table `Runs.runs`.
        history: the table `Runs.history`, after `figures.with_x`.
        rows: columns of `runs` that make the rows of the summary table.
        x: column of `history` against which the page draws.
    """
    parts = groups(runs[runs["status"] != "unreadable"], rows)
    colours = {}
    for key, colour in palette([key for key, _ in parts]).items():
        colours[printable(describe(rows, key))] = colour
    val = dict(iter(history[history["kind"] == "val"].groupby("path")))
    found = []
    for key, part in parts:
        for run in part.itertuples():
            evaluations = val.get(run.path, history.iloc[:0])
            evaluations = evaluations.iloc[:: max(1, len(evaluations) // POINTS)]
            if evaluations.empty:
                continue
            curve = {
                "row": printable(describe(rows, key)),
                "run": printable(run.run_id),
                "x": [float(v) for v in evaluations[x]],
                "val": _errors(evaluations["val/acc1"]),
                "train": _errors(evaluations["train_eval/acc1"]),
            }
            found.append(curve)
    return {"runs": found, "colours": colours, "x": x}


def _safe(text: object) -> str:
    """Return text for the page: no markup, and no character that cannot be seen."""
    return html.escape(printable(text))


def _errors(accuracy: pd.Series) -> list[float | None]:
    return [None if math.isnan(a) else round(100 * (1 - a), 3) for a in accuracy]
