"""The report as one file that needs nothing else: figure, tables that sort, curves to point at and to switch off."""

import base64
import html
import json
import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from lightning_resnet.analysis.compare.figures import _colours
from lightning_resnet.analysis.compare.tables import describe, groups
from lightning_resnet.errors import printable

POINTS = 200  # of each curve at most
STYLE = """
body { max-width: 68rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif; color: #222 }
img { width: 100% }
figure { margin: 0 }
figcaption, .small { color: #555; font-size: 0.9rem }
.table { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1.5rem 0 }
th, td { padding: 0.3rem 0.7rem; text-align: right; border-bottom: 1px solid #ddd }
td { white-space: nowrap }
th { font-weight: 600; vertical-align: bottom; border-bottom: 2px solid #888; cursor: pointer }
th[aria-sort=ascending]::after { content: " \\25B2" }
th[aria-sort=descending]::after { content: " \\25BC" }
.flag { border-left: 4px solid #D55E00; padding-left: 0.7rem }
code { background: #f4f4f4; padding: 0.1rem 0.3rem }
#curves { width: 100%; height: 24rem }
#curves polyline { fill: none; stroke-width: 1.5 }
#curves polyline.train { stroke-dasharray: 5 4 }
#curves text { font-size: 12px; fill: #555 }
#keys label { margin-right: 1rem; white-space: nowrap }
#keys i { display: inline-block; width: 1.2em; height: 0.3em; margin: 0 0.4em; vertical-align: middle }
#value { min-height: 1.5rem }
"""
SCRIPT = """
for (const th of document.querySelectorAll('th')) th.onclick = () => {
  const body = th.closest('table'), rows = [...body.rows].slice(1), i = th.cellIndex;
  const up = th.getAttribute('aria-sort') !== 'ascending';
  const key = r => { const t = r.cells[i].textContent.replaceAll(',', ''), n = parseFloat(t); return isNaN(n) ? t : n };
  const order = (a, b) => a === b ? 0 : typeof a !== typeof b ? (typeof a === 'number' ? -1 : 1) : a < b ? -1 : 1;
  rows.sort((a, b) => (up ? 1 : -1) * order(key(a), key(b)));
  for (const other of body.querySelectorAll('th')) other.removeAttribute('aria-sort');
  th.setAttribute('aria-sort', up ? 'ascending' : 'descending');
  rows.forEach(r => r.parentNode.append(r));
};
const { runs, colours, x } = JSON.parse(document.getElementById('data').textContent);
const svg = document.getElementById('curves'), keys = document.getElementById('keys'), off = new Set();
const make = (name, attributes, text) => {
  const e = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const a in attributes) e.setAttribute(a, attributes[a]);
  if (text !== undefined) e.textContent = text;
  return svg.appendChild(e);
};
let shown = [];
const draw = () => {
  svg.replaceChildren();
  const w = svg.clientWidth, h = svg.clientHeight, here = runs.filter(r => !off.has(r.row));
  const all = here.flatMap(r => r.x), ys = here.flatMap(r => [...r.val, ...r.train]).filter(v => v !== null);
  const most = a => a.reduce((x, y) => Math.max(x, y), 1), right = most(all), top = most(ys);
  const px = v => 50 + v / right * (w - 70), py = v => h - 30 - v / top * (h - 50);
  for (let i = 0; i <= 4; i++) {
    make('line', { x1: 50, x2: w - 20, y1: py(top * i / 4), y2: py(top * i / 4), stroke: '#e5e5e5' });
    make('text', { x: 44, y: py(top * i / 4) + 4, 'text-anchor': 'end' }, +(top * i / 4).toPrecision(3));
    make('text', { x: px(right * i / 4), y: h - 12, 'text-anchor': 'middle' }, +(right * i / 4).toPrecision(4));
  }
  make('text', { x: 50, y: 14 }, 'error (%) against ' + x + '; solid: validation, dashed: training');
  shown = [];
  for (const r of here) for (const kind of ['val', 'train']) {
    const points = r.x.map((v, i) => [v, r[kind][i]]).filter(p => p[1] !== null);
    const line = points.map(p => px(p[0]) + ',' + py(p[1])).join(' ');
    make('polyline', { points: line, stroke: colours[r.row], class: kind });
    const text = p => `${r.row}, run ${r.run}: ${kind} error ${p[1].toFixed(2)} % at ${x} ${+p[0].toPrecision(6)}`;
    for (const p of points) shown.push({ x: px(p[0]), y: py(p[1]), text: text(p) });
  }
};
svg.onmousemove = e => {
  const box = svg.getBoundingClientRect(), far = p => Math.hypot(p.x - e.clientX + box.left, p.y - e.clientY + box.top);
  const near = shown.reduce((a, b) => far(b) < far(a) ? b : a, shown[0]);
  document.getElementById('value').textContent = near && far(near) < 40 ? near.text : '';
};
for (const row in colours) {
  const [label, box, line] = ['label', 'input', 'i'].map(tag => document.createElement(tag));
  box.type = 'checkbox'; box.checked = true; line.style.background = colours[row];
  box.onchange = () => { box.checked ? off.delete(row) : off.add(row); draw() };
  label.append(box, line, row); keys.append(label);
}
draw(); window.onresize = draw;
"""


def page(title: str, body: Sequence[str], data: dict[str, Any], command: str) -> str:
    """The whole file.

    Args:
        title: heading.
        body: pieces of HTML before the curves, from `picture`, `table`, `note` and `flag`.
        data: from `curves`.
        command: that made it.
    """
    content = json.dumps(data, allow_nan=False).replace("<", "\\u003c")  # `<!--<script>` would swallow ours
    pieces = [
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        f"<title>{_safe(title)}</title>\n<style>{STYLE}</style>\n<h1>{_safe(title)}</h1>",
        *body,
        '<h2>Runs</h2>\n<div id="keys"></div>\n<svg id="curves"></svg>\n<p id="value" class="small"></p>',
        note(f"Made by {command}"),
        f'<script id="data" type="application/json">{content}</script>\n<script>{SCRIPT}</script>\n</html>\n',
    ]
    return "\n".join(pieces)


def picture(svg: bytes, caption: str) -> str:
    """A figure with what it shows, inside the file."""
    source = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
    text = _safe(caption)
    return f'<figure><img alt="{text}" src="{source}"><figcaption>{text}</figcaption></figure>'


def table(cells: Sequence[Sequence[str]]) -> str:
    """A table, header first; a click on a heading sorts."""
    head, *rows = ([_safe(cell) for cell in row] for row in cells)
    head = [cell.replace("_", "_<wbr>") for cell in head]  # long names may break there
    body = "".join("\n<tr><td>" + "<td>".join(row) for row in rows)
    return f'<div class="table"><table>\n<tr><th>{"<th>".join(head)}{body}\n</table></div>'


def note(text: str) -> str:
    """Small print."""
    return f'<p class="small">{_safe(text)}</p>'


def flag(text: str) -> str:
    """What weakens the comparison."""
    return f'<p class="flag">Careful: {_safe(text)}.</p>'


def curves(runs: pd.DataFrame, history: pd.DataFrame, rows: Sequence[str], x: str) -> dict[str, Any]:
    """Errors in percent of every run that has been evaluated, thinned out; by the column `x` of `history`."""
    parts = groups(runs[runs["status"] != "unreadable"], rows)
    colours = {printable(describe(rows, key)): colour for key, colour in _colours([key for key, _ in parts]).items()}
    val = dict(iter(history[history["kind"] == "val"].groupby("path")))
    found = []
    for key, part in parts:
        for run in part.itertuples():
            of = val.get(run.path, history.iloc[:0])
            of = of.iloc[:: max(1, len(of) // POINTS)]
            errors = {name: _errors(of[f"{name}/acc1"]) for name in ("val", "train_eval")}
            found.append(
                {"row": printable(describe(rows, key)), "run": printable(run.run_id), "x": [float(v) for v in of[x]]}
            )
            found[-1] |= {"val": errors["val"], "train": errors["train_eval"]}
    return {"runs": [run for run in found if run["x"]], "colours": colours, "x": x}


def _safe(text: object) -> str:
    """As text of the page: no markup, and no character that cannot be seen."""
    return html.escape(printable(text))


def _errors(accuracy: pd.Series) -> list[float | None]:
    return [None if math.isnan(a) else round(100 * (1 - a), 3) for a in accuracy]
