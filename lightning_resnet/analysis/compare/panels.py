"""The figure of every inspection: lines over blocks, layers or numbers of blocks, one per net."""

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib.style
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lightning_resnet.analysis.compare.figures import STYLE, draw_mean, drawn, palette


class Panel(NamedTuple):
    """One panel of a figure.

    Attributes:
        y: column of the frame.
        title: what the y axis says, with its unit.
        x: column of the frame.
        label: what the x axis says, with its unit.
        log: whether the y axis is logarithmic; values of 0 and below are then left out.
    """

    y: str
    title: str
    x: str
    label: str
    log: bool = False


def panels(frame: pd.DataFrame, each: Sequence[Panel]) -> Figure:
    """Draw panels side by side: mean over the rows of one net and x, band from lowest to highest.

    Args:
        frame: with a column `net` and those the panels name.
        each: the panels.
    """
    colours = palette(list(dict.fromkeys(frame["net"])))
    size = (max(7.0, 4.6 * len(each)), 3.9 + 0.22 * len(colours))
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=size, dpi=150, layout="constrained")
        axes = figure.subplots(1, len(each), squeeze=False)[0]
        for ax, panel in zip(axes, each, strict=True):
            for net, colour in colours.items():
                _draw(ax, frame[frame["net"] == net], panel, colour)
            ax.set(xlabel=panel.label, ylabel=panel.title)
            if panel.log:
                ax.set_yscale("log")
            else:
                highest = max(
                    (line.get_ydata().max(initial=0) for line in ax.get_lines()), default=1
                )
                ax.set_ylim(0, 1.05 * highest or 1)
            if panel.x != "step":
                ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        handles = []
        for net, colour in colours.items():
            handles.append(Line2D([], [], color=colour, linewidth=3, label=drawn(net)))
        columns = min(len(handles), max(2, 2 * len(each) - 1))
        figure.legend(handles=handles, loc="outside lower center", ncols=columns)
    return figure


def _draw(ax: Axes, part: pd.DataFrame, panel: Panel, colour: str) -> None:
    """Draw one net's line, with markers where there are few points."""
    values = part[part[panel.y] > 0] if panel.log else part
    groups = values.groupby(panel.x)[panel.y]
    mean = groups.mean().dropna()
    low = groups.min().dropna()
    high = groups.max().dropna()
    size = 3.5 if len(mean) < 40 else 0
    draw_mean(ax, mean.index, mean, low, high, colour, linewidth=1.8, marker="o", markersize=size)
