"""The figure of every inspection: lines over blocks, layers or numbers of blocks, one per net.

The figure is drawn by matplotlib for files; for pages it says what their charts and maps draw.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from lightning_resnet.analysis.compare.figures import (
    STYLE,
    WIDE_TICKS,
    draw_mean,
    drawn,
    is_theory,
    is_wide,
    palette,
)
from lightning_resnet.errors import printable

NAMES = ("block", "layer", "tensor")  # columns that name what stands at an x
RAMP = 32  # colours of a map, between which the page interpolates


class Drawing(Figure):
    """Figure of which a page makes charts.

    Attributes:
        charts: what a page draws, one for each panel, as `chart.js` and `map.js` take it.
    """

    charts: list[dict[str, Any]]


class Panel(NamedTuple):
    """One panel of a figure.

    Attributes:
        y: column of the frame.
        title: what the y axis says, with its unit.
        x: column of the frame.
        label: what the x axis says, with its unit.
        log: whether the y axis is logarithmic; values of 0 and below are then left out.
        level: column of the frame: a dashed line across the panel for each net.
        error: whether it shows an error in percent; such panels of a figure have one scale.
    """

    y: str
    title: str
    x: str
    label: str
    log: bool = False
    level: str = ""
    error: bool = False


class Map(NamedTuple):
    """Values of a net over two axes, which are shown as colours.

    Attributes:
        net: as in the figure.
        values: [rows, columns].
        title: what the values are.
        x: what the x axis says.
        y: what the y axis says.
        xs: places of the columns, evenly spaced.
        ys: places of the rows, evenly spaced.
        ends: values of the first and the last colour, the same for maps that are compared.
        colours: name of the colours in matplotlib.
        log: whether the colours follow the logarithm of the values.
        against: another net that the map is about; empty if there is none.
        smooth: whether there are values between the points too: a surface, with contours.
        names: what stands at each of `xs`, and at each of `ys`; None: nothing but a place.
        path: x, y and words of nets on their way over the map.
    """

    net: str
    values: np.ndarray
    title: str
    x: str
    y: str
    xs: Sequence[float]
    ys: Sequence[float]
    ends: tuple[float, float]
    colours: str = "viridis"
    log: bool = False
    against: str = ""
    smooth: bool = False
    names: tuple[Sequence[str], Sequence[str]] | None = None
    path: tuple[Sequence[float], Sequence[float], Sequence[str]] | None = None


def panels(
    frame: pd.DataFrame,
    each: Sequence[Panel],
    title: str = "",
    chance: float | None = None,
) -> Drawing:
    """Draw panels: mean over the rows of one net and x, band from lowest to highest.

    Args:
        frame: with a column `net` and those the panels name.
        each: the panels; those without a value that can be drawn are left out, and words stand in
            place of all of them.
        title: above the panels.
        chance: a dotted line across the panels.
    """
    colours = palette(list(dict.fromkeys(frame["net"])))
    drawable = [panel for panel in each if _has_values(frame[panel.y], panel.log)]
    if not drawable:
        return _nothing(each, title)
    each = drawable
    n = len(each)
    size = (max(7.0, 4.6 * n), 4.2 + 0.22 * len(colours))
    with matplotlib.style.context(STYLE):
        figure = Drawing(figsize=size, dpi=150, layout="constrained")
        axes = figure.subplots(1, n, squeeze=False).ravel()
        errors = [panel.y for panel in each if panel.error]
        figure.charts = [chart_of(frame, panel, colours, errors, chance) for panel in each]
        with_errors = [ax for ax, panel in zip(axes, each, strict=True) if panel.error]
        for ax in with_errors[1:]:
            ax.sharey(with_errors[0])
        for ax, panel in zip(axes, each, strict=True):
            for net, colour in colours.items():
                dashed = "--" if is_theory(net) else "-"
                draw_panel(ax, frame[frame["net"] == net], panel, colour, dashed)
            if chance is not None:
                ax.axhline(chance, color="0.45", linestyle=":", linewidth=1.3)
            ax.set(xlabel=panel.label, ylabel=panel.title)
            values = frame[panel.y].dropna()
            if panel.log:
                ax.set_yscale("log")
                _log_ticks(ax)
            elif panel.error and is_wide(frame[errors].stack()):
                ax.set_yscale("symlog", linthresh=1, linscale=0.5)
                ax.yaxis.set_major_locator(FixedLocator(WIDE_TICKS))
                ax.yaxis.set_major_formatter("{x:g}")
                ax.yaxis.set_minor_locator(NullLocator())
                ax.set_ylim(0, 110)
            else:
                if panel.error:
                    values = frame[errors].stack()
                lowest = 1.05 * min(values.min(), 0)
                ax.set_ylim(lowest, 1.05 * max(values.max(), chance or 0) or 1)
            if panel.x != "step":
                ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        if title:
            figure.suptitle(title, fontsize=14)
        handles = []
        for net, colour in colours.items():
            dashed = "--" if is_theory(net) else "-"
            handles.append(Line2D([], [], color=colour, linewidth=3, ls=dashed, label=drawn(net)))
        if any(panel.level for panel in each):
            handles.append(Line2D([], [], color="0.25", linestyle="--", label="net without lesion"))
        if chance is not None:
            handles.append(Line2D([], [], color="0.45", linestyle=":", label="chance"))
        columns = min(len(handles), max(2, 2 * n - 1))
        figure.legend(handles=handles, loc="outside lower center", ncols=columns)
    titles = [chart["title"] for chart in figure.charts]
    for chart, panel in zip(figure.charts, each, strict=True):
        if titles.count(chart["title"]) > 1:
            chart["title"] += f": {panel.label}"
    return figure


def chart_of(
    frame: pd.DataFrame,
    panel: Panel,
    colours: dict[str, str],
    errors: Sequence[str] = (),
    chance: float | None = None,
) -> dict[str, Any]:
    """Return what a page draws of a panel.

    Args:
        frame: see `panels`.
        panel: the panel.
        colours: colour of each net.
        errors: columns of all panels that show errors, which have one scale.
        chance: a dotted line.
    """
    lines = []
    for net, colour in colours.items():
        part = frame[frame["net"] == net]
        values = part[part[panel.y] > 0] if panel.log else part
        values = values[np.isfinite(values[panel.y].astype(float))]
        label = printable(net)
        groups = values.groupby(panel.x)[panel.y]
        line = {"label": label, "legend": label, "colour": colour, "points": True}
        if is_theory(net):
            line["dash"] = [6, 4]
        line["x"] = groups.mean().index.tolist()
        for name, found in (("y", groups.mean()), ("low", groups.min()), ("high", groups.max())):
            line[name] = [float(f"{value:.5g}") for value in found]
        for name in NAMES:
            if name in values and values.groupby(panel.x)[name].nunique().eq(1).all():
                line["told"] = [printable(text) for text in values.groupby(panel.x)[name].first()]
                break
        lines.append(line)
        if panel.level:
            height = float(part[panel.level].mean())
            level = {"label": f"{label}, without lesion", "legend": label, "colour": colour}
            lines.append(level | {"level": True, "x": [], "y": [height], "dash": [6, 4]})
    if chance is not None:
        level = {"label": "chance", "legend": "chance", "colour": "#737373", "dash": [2, 3]}
        lines.append(level | {"level": True, "x": [], "y": [chance]})
    is_integer = all(float(x).is_integer() for line in lines for x in line["x"])
    shared = frame[errors].stack() if panel.error else None
    is_log = panel.log or (shared is not None and is_wide(shared))
    return {
        "title": re.sub(r" \([^)]*\)$", "", panel.title),
        "x": panel.label,
        "y": panel.title,
        "unit": " %" if panel.title.endswith("(%)") else "",
        "log": bool(is_log),
        "zero": panel.error,
        "fromZero": True,
        "top": None if shared is None or shared.empty else float(shared.max()),
        "integers": is_integer and panel.x != "step",
        "lines": lines,
    }


def map_of(one: Map, colour: str) -> dict[str, Any]:
    """Return what a page draws of a map; null stands for values that are not finite.

    Args:
        one: the map.
        colour: of the net.
    """
    rows = []
    for row in one.values.astype(float):
        rows.append([float(f"{v:.5g}") if np.isfinite(v) else None for v in row])
    net = printable(one.net)
    ramp = mpl.colormaps[one.colours](np.linspace(0, 1, RAMP))
    against = f" against {printable(one.against)}" if one.against else ""
    chart = {
        "title": f"{one.title}: {net}{against}",
        "legend": net,
        "colour": colour,
        "x": printable(one.x),
        "y": printable(one.y),
        "xs": [float(f"{x:.7g}") for x in one.xs],
        "ys": [float(f"{y:.7g}") for y in one.ys],
        "values": rows,
        "value": one.title,
        "low": float(one.ends[0]),
        "high": float(one.ends[1]),
        "colours": [mpl.colors.to_hex(shade) for shade in ramp],
        "log": one.log,
        "smooth": one.smooth,
    }
    if one.names:
        chart["names"] = [[printable(name) for name in names] for names in one.names]
    if one.path:
        xs, ys, told = one.path
        chart["path"] = {"x": list(xs), "y": list(ys), "told": list(told)}
    return chart


def draw_panel(ax: Axes, part: pd.DataFrame, panel: Panel, colour: str, dashed: str = "-") -> None:
    """Draw one net's line, with markers that get smaller with the number of points."""
    values = part[part[panel.y] > 0] if panel.log else part
    groups = values.groupby(panel.x)[panel.y]
    mean = groups.mean().dropna()
    low = groups.min().dropna()
    high = groups.max().dropna()
    size = 3.5 if len(mean) < 40 else 2
    style = {"linewidth": 1.8, "linestyle": dashed, "marker": "o", "markersize": size}
    draw_mean(ax, mean.index, mean, low, high, colour, **style)
    if panel.level:
        ax.axhline(part[panel.level].mean(), color=colour, linestyle="--", linewidth=1.0)


def _nothing(each: Sequence[Panel], title: str) -> Drawing:
    """Return a drawing without panels, which tells what has no value that can be drawn."""
    with matplotlib.style.context(STYLE):
        figure = Drawing(figsize=(7.0, 2.0), dpi=150)
        figure.charts = []
        missing = ", ".join(dict.fromkeys(panel.title for panel in each))
        figure.text(0.5, 0.5, f"no value to draw: {missing}", ha="center", va="center", wrap=True)
        if title:
            figure.suptitle(title, fontsize=14)
    return figure


def _has_values(values: pd.Series, log: bool) -> bool:
    """Tell whether there is anything to draw."""
    return bool((values > 0).any() if log else values.notna().any())


def _log_ticks(ax: Axes) -> None:
    """Label a logarithmic axis at three values or more: powers of ten, or also 2 and 5 times."""
    low, high = ax.get_ylim()
    powers = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    for factors in ([1], [1, 2, 5], [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9]):
        ticks = np.outer(powers, factors).ravel()
        ticks = ticks[(low <= ticks) & (ticks <= high)]
        if len(ticks) >= 3:
            break
    if len(ticks) < 2:  # the axis lies between two of them
        ticks = np.linspace(low, high, 3)
    ax.yaxis.set_major_locator(FixedLocator(ticks[:: -(-len(ticks) // 8)]))
    ax.yaxis.set_major_formatter("{x:.3g}")
    ax.yaxis.set_minor_locator(NullLocator())
