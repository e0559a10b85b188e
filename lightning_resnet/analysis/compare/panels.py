"""The figure of every inspection: lines over blocks, layers or numbers of blocks; a colour for each net."""

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib as mpl
import matplotlib.style
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lightning_resnet.analysis.compare.figures import COLOURS, STYLE, drawn


class Panel(NamedTuple):
    """One panel: `y` over `x`, columns of the frame, and what the axes say, with units."""

    y: str
    title: str
    x: str
    label: str
    log: bool = False


def panels(frame: pd.DataFrame, each: Sequence[Panel]) -> Figure:
    """Panels side by side: mean over the rows that share net and x, band from lowest to highest.

    Args:
        frame: with a column `net` and those the panels name.
        each: panel; on a logarithmic axis values of 0 and below are left out.
    """
    colours = palette(list(dict.fromkeys(frame["net"])))
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(max(7.0, 4.6 * len(each)), 3.9 + 0.22 * len(colours)), dpi=150, layout="constrained")
        axes = figure.subplots(1, len(each), squeeze=False)[0]
        for ax, panel in zip(axes, each, strict=True):
            for net, colour in colours.items():
                draw(ax, frame[frame["net"] == net], panel, colour)
            ax.set(xlabel=panel.label, ylabel=panel.title)
            if panel.log:
                ax.set_yscale("log")
            else:
                ax.set_ylim(0, 1.05 * max((line.get_ydata().max(initial=0) for line in ax.get_lines()), default=1) or 1)
            if panel.x != "step":
                ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        handles = [Line2D([], [], color=colour, linewidth=3, label=drawn(net)) for net, colour in colours.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), max(2, 2 * len(each) - 1)))
    return figure


def draw(ax: Axes, part: pd.DataFrame, panel: Panel, colour: str) -> None:
    """One net's line; markers where its points are few."""
    values = part[part[panel.y] > 0] if panel.log else part
    by = values.groupby(panel.x)[panel.y]
    mean, low, high = by.mean().dropna(), by.min().dropna(), by.max().dropna()
    ax.plot(mean.index, mean, color=colour, linewidth=1.8, marker="o", markersize=3.5 if len(mean) < 40 else 0)
    if (high > low).any():
        ax.fill_between(mean.index, low, high, color=colour, alpha=0.15, linewidth=0)


def palette(nets: Sequence[str]) -> dict[str, str]:
    """A colour for each net; beyond six, a ramp that rises in lightness for every eye."""
    if len(nets) <= len(COLOURS):
        return dict(zip(nets, COLOURS, strict=False))
    ramp = mpl.colormaps["viridis"]
    return {net: mpl.colors.to_hex(ramp(0.9 * i / (len(nets) - 1))) for i, net in enumerate(nets)}
