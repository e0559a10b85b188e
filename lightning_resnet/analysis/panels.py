"""The figure of every inspection: lines over blocks, layers or numbers of blocks; a colour for each net."""

from collections.abc import Mapping

import matplotlib as mpl
import matplotlib.style
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lightning_resnet.analysis.figures import COLOURS, STYLE


def panels(frame: pd.DataFrame, titles: Mapping[str, str], x: str, label: str, log: bool = False) -> Figure:
    """A panel per column of `titles`: mean over the rows that share net and x, band from lowest to highest.

    Args:
        frame: with the columns `net`, `x` and those of `titles`.
        titles: column -> what its axis says, with the unit.
        x: column of the horizontal axis.
        label: of that axis.
        log: vertical axes; values of 0 and below are then left out.
    """
    nets = list(dict.fromkeys(frame["net"]))
    colours = palette(nets)
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(5.2 * len(titles) + 1.6, 4.2), dpi=150, layout="constrained")
        axes = figure.subplots(1, len(titles), squeeze=False)[0]
        for ax, (column, title) in zip(axes, titles.items(), strict=True):
            for net in nets:
                draw(ax, frame[frame["net"] == net], x, column, colours[net], log)
            ax.set(xlabel=label, ylabel=title, yscale="log" if log else "linear")
        legend(figure, colours)
    return figure


def draw(ax: Axes, part: pd.DataFrame, x: str, column: str, colour: str, log: bool = False) -> None:
    """One net's line; a marker on each point where they are few."""
    values = part[part[column] > 0] if log else part
    by = values.groupby(x)[column]
    mean, low, high = by.mean(), by.min(), by.max()
    ax.plot(mean.index, mean, color=colour, linewidth=1.8, marker="o", markersize=3.5 if len(mean) < 60 else 0)
    if (high > low).any():
        ax.fill_between(mean.index, low, high, color=colour, alpha=0.15, linewidth=0)


def palette(nets: list[str]) -> dict[str, str]:
    """A colour for each net; beyond six, a ramp that rises in lightness for every eye."""
    ramp = mpl.colormaps["viridis"]
    many = [mpl.colors.to_hex(ramp(0.9 * i / max(1, len(nets) - 1))) for i in range(len(nets))]
    return dict(zip(nets, COLOURS if len(nets) <= len(COLOURS) else many, strict=False))


def legend(figure: Figure, colours: Mapping[str, str]) -> None:
    """Beside the panels, so that it covers no data."""
    handles = [Line2D([], [], color=colour, linewidth=3, label=net) for net, colour in colours.items()]
    figure.legend(handles=handles, loc="outside lower center" if len(handles) < 4 else "outside right center", ncols=1)
