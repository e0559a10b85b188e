"""The report as one HTML file that needs nothing else.

The page holds charts to zoom and point at, the table of all runs, and tables that a click sorts.
The files of `web/` are put into the page. Its Content-Security-Policy lets run these scripts, which
it names by their digests, and nothing else: no other script, no request, no form.
"""

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from lightning_resnet.analysis.compare.figures import render
from lightning_resnet.analysis.compare.panels import Drawing
from lightning_resnet.analysis.compare.tables import HEADS
from lightning_resnet.analysis.compare.titles import column_title
from lightning_resnet.errors import printable

STYLES = ("uplot/uPlot.min.css", "page.css")
SPREAD = "Mean ± sample standard deviation over the finished runs of a setting."
SCRIPTS = (
    "uplot/uPlot.iife.min.js",
    "filter.js",
    "table.js",
    "card.js",
    "chart.js",
    "map.js",
    "groups.js",
    "runs.js",
    "page.js",
)


def page(
    title: str,
    body: Sequence[str],
    data: dict[str, Any] | None,
    command: str,
    live: bool = False,
) -> str:
    """Return the text of the HTML file.

    Args:
        title: heading.
        body: pieces of HTML, from `drawing`, `table`, `section`, `note` and `flag`.
        data: of the runs, from `explorer.data`, whose charts come first; None: no runs.
        command: the command that made the report.
        live: the page asks the server that it came from for newer data.
    """
    style = "\n".join(map(_read, STYLES))
    scripts = [_read(name) for name in SCRIPTS]
    policy = [
        "default-src 'none'",
        f"script-src {' '.join(map(_digest, scripts))}",
        f"style-src {_digest(style)}",
        "img-src data: blob:",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    if live:
        policy.append("connect-src 'self'")
    runs = '<main id="explorer"></main>\n' + _json(data, 'id="data"') if data else ""
    pieces = [
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{"; ".join(policy)}">'
        '<meta name="viewport" content="width=device-width">',
        f"<title>{_safe(title)}</title>\n<style>{style}</style>",
        f"<header><h1>{_safe(title)}</h1>"
        f'<span id="live" class="small"{"" if live else " hidden"}></span>'
        '<button type="button" id="theme" hidden>dark / light</button></header>',
        runs,
        '<div id="report">',
        *body,
        note(f"Made by {command}"),
        "</div>",
        *(f"<script>{script}</script>" for script in scripts),
        "</html>\n",
    ]
    return "\n".join(pieces)


def _read(name: str) -> str:
    return files(__package__).joinpath("web", name).read_text(encoding="utf-8")


def _digest(content: str) -> str:
    """Return the source expression of the policy that allows just this script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _json(value: Any, attribute: str) -> str:
    """Return data for the scripts of the page."""
    # a `<!--<script>` in the data would swallow our script
    content = json.dumps(value, allow_nan=False).replace("<", "\\u003c")
    return f'<script {attribute} type="application/json">{content}</script>'


def drawing(figure: Drawing, caption: str, has_image: bool = True) -> str:
    """Return the HTML of charts to zoom and point at, with their caption.

    A browser without scripts shows an image instead.

    Args:
        figure: whose charts and maps `chart.js` and `map.js` draw.
        caption: below the charts.
        has_image: whether there is an image for browsers without scripts; it takes long to draw.
    """
    text = _safe(caption)
    data = _json({"charts": figure.charts}, 'class="charts"')
    image = ""
    if has_image:
        content = base64.b64encode(render(figure, "webp")).decode()
        image = f'<noscript><img alt="{text}" src="data:image/webp;base64,{content}"></noscript>'
    return f"<figure>{data}{image}<figcaption>{text}</figcaption></figure>"


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


def summary(cells: Sequence[Sequence[str]], left: int) -> str:
    """Return the HTML of the summary table, with full titles instead of the short heads.

    Args:
        cells: from `tables.to_cells`.
        left: number of columns that are aligned to the left.
    """
    titles = {head: title for head, _, title in HEADS.values()}
    heads = [titles.get(head) or column_title(head, head) for head in cells[0]]
    return table([heads, *cells[1:]], left)


def folded(title: str, piece: str) -> str:
    """Return the HTML of a piece that a click on its title shows."""
    return f"<details><summary>{_safe(title)}</summary>{piece}</details>"


def heading(text: str) -> str:
    """Return the HTML of a heading."""
    return f"<h2>{_safe(text)}</h2>"


def section(pieces: Sequence[str], groups: dict[str, str]) -> str:
    """Return the HTML of a part that can be chosen at the top of the page.

    Args:
        pieces: of HTML.
        groups: what the part is about, under one-word titles, such as stage: before training.
    """
    data = " ".join(f'data-{name}="{_safe(value)}"' for name, value in groups.items())
    return "\n".join([f"<section {data}>", *pieces, "</section>"])


def note(text: str) -> str:
    """Return the HTML of a remark in small print."""
    return f'<p class="small">{_safe(text)}</p>'


def flag(text: str) -> str:
    """Return the HTML of a remark on what weakens the comparison."""
    return f'<p class="flag">Warning: {_safe(text)}.</p>'


def _safe(text: object) -> str:
    """Return text for the page: no markup, and no character that cannot be seen."""
    return html.escape(printable(text))
