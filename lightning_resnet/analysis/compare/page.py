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

from lightning_resnet.analysis.compare.figures import WIDE_TICKS, X_LABELS, is_wide, palette
from lightning_resnet.analysis.compare.tables import describe, groups
from lightning_resnet.errors import printable

POINTS = 200  # of each curve at most


def page(title: str, body: Sequence[str], data: dict[str, Any] | None, command: str) -> str:
    """Return the text of the HTML file.

    Args:
        title: heading.
        body: pieces of HTML before the curves, from `figure`, `table`, `note` and `flag`.
        data: from `curves`; None: the page has no curves.
        command: the command that made the report.
    """
    # a `<!--<script>` in the data would swallow our script
    content = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    style = _read("page.css")
    script = _read("page.js")
    chart = (
        '<h2>Runs</h2>\n<p id="title" class="small"></p>\n<svg id="curves"></svg>\n'
        '<p id="value" class="small"></p>\n<div id="keys"></div>'
    )
    pieces = [
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">',
        f"<title>{_safe(title)}</title>\n<style>\n{style}</style>\n<h1>{_safe(title)}</h1>",
        *body,
        chart if data else "",
        note(f"Made by {command}"),
        f'<script id="data" type="application/json">{content}</script>\n'
        f"<script>\n{script}</script>\n</html>\n",
    ]
    return "\n".join(pieces)


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def figure(wide: bytes, narrow: bytes, caption: str) -> str:
    """Return the HTML of a figure that is held inside the page, with its caption.

    Args:
        wide: the figure as SVG.
        narrow: the same for narrow screens.
        caption: below the figure.
    """
    text = _safe(caption)
    images = []
    for name, svg in (("wide", wide), ("narrow", narrow)):
        source = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
        images.append(f'<img class="{name}" alt="{text}" src="{source}">')
    return f"<figure>{''.join(images)}<figcaption>{text}</figcaption></figure>"


def table(cells: Sequence[Sequence[str]], left: int = 1, wrap: bool = False) -> str:
    """Return the HTML of a table, header first; a click on a heading sorts.

    Rows of references are pale, so that one's own are seen at once.

    Args:
        cells: the table.
        left: number of columns that are aligned to the left.
        wrap: cells hold sentences, which may take several lines.
    """
    lines = []
    for tag, row in zip(["th", *["td"] * len(cells)], cells, strict=False):
        line = ""
        for i, cell in enumerate(row):
            side = " class=left" if i < left else ""
            text = _safe(cell)
            if tag == "th":  # long names may break there
                text = text.replace("_", "_<wbr>").replace("@", "<wbr>@")
            line += f"<{tag}{side}>{text}"
        pale = " class=reference" if row[0].startswith("reference:") else ""
        lines.append(f"\n<tr{pale}>{line}")
    wrapped = " class=wrap" if wrap else ""
    return f'<div class="table"><table{wrapped}>{"".join(lines)}\n</table></div>'


def folded(title: str, piece: str) -> str:
    """Return the HTML of a piece that a click on its title shows."""
    return f"<details><summary>{_safe(title)}</summary>{piece}</details>"


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
    colours = palette([printable(describe(rows, key)) for key, _ in parts])
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
    final = [curve[kind][-1] for curve in found for kind in ("val", "train")]
    ticks = WIDE_TICKS if is_wide([error for error in final if error]) else None
    return {"runs": found, "colours": colours, "x": X_LABELS[x], "ticks": ticks}


def _safe(text: object) -> str:
    """Return text for the page: no markup, and no character that cannot be seen."""
    return html.escape(printable(text))


def _errors(accuracy: pd.Series) -> list[float | None]:
    return [None if math.isnan(a) else round(100 * (1 - a), 3) for a in accuracy]
