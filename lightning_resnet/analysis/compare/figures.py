"""The paper's figure: error against iterations, plain and residual (He et al. 2015, fig. 1, 4, 6).

Figures are made through matplotlib's objects: no pyplot, no display, no state. The same runs give
the same bytes.
"""

import io
import warnings
from collections.abc import Hashable, Sequence
from textwrap import fill
from typing import Any, TypeVar

import matplotlib as mpl
import matplotlib.style
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lightning_resnet.analysis.compare.tables import describe, groups, text
from lightning_resnet.errors import UserError, printable

Key = TypeVar("Key", bound=Hashable)
SHORT_RUN_STEPS = 5_000
PANELS_PER_LINE = 4
LONGEST = 200  # characters of a text in a figure
LABEL = 36  # characters of a line of the legend: it must leave room for the panels
X_LABELS = {
    "step": "iterations (optimizer steps)",
    "epoch": "epochs",
    "time": "seconds since the first training row",
    "gpu_h": "GPU hours (hours x GPUs)",
}
# Okabe & Ito 2008, told apart by colour-blind readers; without yellow, too pale for a line, and
# black, kept for text
COLOURS = ["#E69F00", "#0072B2", "#009E73", "#D55E00", "#56B4E9", "#CC79A7"]
UNFINISHED = {"linewidth": 1.0, "alpha": 0.45}  # lines of runs that have not finished
STYLE = [
    "default",  # whatever the user's matplotlibrc says
    {
        "font.size": 11,
        "axes.titlesize": 13,
        "axes.labelsize": 12,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "0.9",
        "legend.frameon": False,
        "lines.solid_capstyle": "round",
        "svg.hashsalt": "lightning_resnet",
    },
]


def curves(
    runs: pd.DataFrame, history: pd.DataFrame, rows: Sequence[str], title: str = "", x: str = "step"
) -> Figure:
    """Draw the error (%) of the runs: solid = validation, dashed = clean training error.

    There is one colour per row: a line for the mean over its finished runs, a band from the lowest
    to the highest. A run that has not finished (it runs, was interrupted, or failed) has thin, pale
    lines of its own as far as it came. When `rows` are depth and one other key, each value of the
    other has its panel.

    Args:
        runs: the table `Runs.runs`.
        history: the table `Runs.history`, after `with_x`.
        rows: columns of `runs` that tell nets apart.
        title: above the panels.
        x: column of `history` on the horizontal axis, a key of `X_LABELS`.
    """
    shown = runs[(runs["status"] == "finished") | is_begun(runs, history)]
    other = [row for row in rows if row != "depth"]
    by_panel = len(other) == 1 and len(rows) == 2
    panels = groups(shown, other) if by_panel else [(("",), shown)]
    keys = ["depth"] if by_panel else list(rows)
    colours = palette([key for key, _ in groups(shown, keys)])
    with matplotlib.style.context(STYLE):
        figure, axes = _grid(len(panels), title, x)
        for ax, (value, part) in zip(axes, panels, strict=True):
            ax.set_title(drawn(describe(other, value)) if by_panel else "")
            for key, group in groups(part, keys):
                is_done = group["status"] == "finished"
                done = history[history["path"].isin(group[is_done]["path"])]
                _draw(ax, done, colours[key], x)
                for path in group[~is_done]["path"]:
                    _draw(ax, history[history["path"] == path], colours[key], x, done=False)
        _limits(axes)
        _legend(figure, keys, colours, bool(is_begun(runs, history).any()))
    return figure


def is_begun(runs: pd.DataFrame, history: pd.DataFrame) -> pd.Series:
    """Tell which runs have not finished, but have been evaluated.

    Args:
        runs: the table `Runs.runs`.
        history: the table `Runs.history`.

    Returns:
        True or False for each row of `runs`.
    """
    evaluated = history[history["val/acc1"].notna()]["path"]
    unfinished = ~runs["status"].isin(["finished", "unreadable"])
    return unfinished & runs["path"].isin(evaluated)


def with_x(runs: pd.DataFrame, history: pd.DataFrame, x: str) -> pd.DataFrame:
    """Return the history that `curves` draws against `x`.

    Epochs are those done, not their numbers; time is in seconds since a run's first row, not the
    date.

    Args:
        runs: the table `Runs.runs`.
        history: the table `Runs.history`.
        x: a key of `X_LABELS`.

    Raises:
        UserError: GPU hours of runs that used no GPU, or do not tell.
    """
    if x == "gpu_h":
        missing = int(runs[runs["status"] == "finished"]["gpu_h"].isna().sum())
        if missing:
            raise UserError(
                f"--x gpu_h: {missing} of the finished runs used no GPU or do not tell how many; "
                "say --x time, or leave them out with --where 'gpu_h > 0'"
            )
    if x == "time":
        began = history["path"].map(runs.set_index("path")["began"])
        first = history.groupby("path")["time"].transform("min")
        return history.assign(time=history["time"] - began.fillna(first))
    if x == "epoch":
        return history.assign(epoch=history["epoch"] + 1)
    return history


def _grid(n: int, title: str, x: str) -> tuple[Figure, list[Axes]]:
    """Make a figure of `n` panels that share both axes; only the outer ones are labelled."""
    columns = max(1, min(n, PANELS_PER_LINE))
    lines = max(1, -(-n // columns))
    figure = Figure(figsize=(10, 0.9 + 3.3 * lines), dpi=150, layout="constrained")
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for ax in grid.flat[n:]:
        ax.remove()
    figure.supxlabel(X_LABELS[x], fontsize=12)
    figure.supylabel("error (%)", fontsize=12)
    if title:
        figure.suptitle(drawn(title), fontsize=14)
    return figure, list(grid.flat[:n])


def palette(keys: Sequence[Key]) -> dict[Key, str]:
    """Return a colour for each key.

    Beyond six keys they come from a ramp that rises in lightness for every eye.
    """
    if len(keys) <= len(COLOURS):
        return dict(zip(keys, COLOURS, strict=False))
    ramp = mpl.colormaps["viridis"]
    return {key: mpl.colors.to_hex(ramp(0.9 * i / (len(keys) - 1))) for i, key in enumerate(keys)}


def draw_mean(
    ax: Axes,
    x: pd.Index | pd.Series,
    mean: pd.Series,
    low: pd.Series,
    high: pd.Series,
    colour: str,
    **line: Any,
) -> None:
    """Draw a line for the mean, and a band from the lowest to the highest where these differ.

    Args:
        ax: where to draw.
        x: horizontal positions [n].
        mean: values of the line [n].
        low: lowest values [n].
        high: highest values [n].
        colour: of line and band.
        line: properties of the line, see `Axes.plot`.
    """
    ax.plot(x, mean, color=colour, **line)
    if (high > low).any():
        ax.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)


def _draw(ax: Axes, history: pd.DataFrame, colour: str, x: str, done: bool = True) -> None:
    """Draw both errors of the runs of one setting; time is the mean over runs at each step.

    Args:
        ax: where to draw.
        history: rows of the runs.
        colour: of lines and band.
        x: column of `history` on the horizontal axis.
        done: whether the runs have finished; if not, the lines are thin and pale.
    """
    for metric, style, width in (("train_eval/acc1", "--", 1.3), ("val/acc1", "-", 2.0)):
        error = error_by_step(history, metric)
        if error.empty:
            continue
        line = {"linestyle": style, "linewidth": width}
        if not done:
            line |= UNFINISHED
        if len(error) == 1:  # a line of one point would not be seen
            line["marker"] = "o"
            line["fillstyle"] = "full" if style == "-" else "none"
        at = error.index
        if x != "step":
            at = history.groupby("step")[x].mean()[error.index]
        low = error.min(axis=1)
        high = error.max(axis=1)
        draw_mean(ax, at, error.mean(axis=1), low, high, colour, **line)


def error_by_step(history: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the error in percent, one column per run, at the steps where every run has one."""
    val = history[history["kind"] == "val"].drop_duplicates(["path", "step"], keep="last")
    return (100 * (1 - val.pivot(index="step", columns="path", values=metric))).dropna()


def _limits(axes: Sequence[Axes]) -> None:
    """Show errors from zero up to twice the highest final error, where the nets differ.

    Runs that have not finished, which may have stopped early, count only if none has finished.
    """
    drawn_lines = [line for ax in axes for line in ax.get_lines()]
    done = [line for line in drawn_lines if line.get_alpha() is None]
    lines = [line.get_ydata() for line in done or drawn_lines]
    if lines:
        highest = max(max(line) for line in lines)
        final = max(line[-1] for line in lines)
        axes[0].set_ylim(0, max(min(1.05 * highest, 2 * final), 1))
        axes[0].set_xlim(left=0)
        axes[0].xaxis.set_major_formatter(_thousands)


def _thousands(value: float, _: int) -> str:
    """Return a tick's label, 64k for 64000."""
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def drawn(text: str) -> str:
    """Return text that matplotlib may draw.

    It holds no mathematics and no hidden label, is broken into lines, and is not longer than
    `LONGEST`.
    """
    shown = fill(printable(text, LONGEST), LABEL).replace("$", r"\$")
    return (
        f" {shown}" if shown.startswith("_") else shown
    )  # matplotlib leaves out what begins with _


def _legend(
    figure: Figure, keys: Sequence[str], colours: dict[tuple[str, ...], str], is_begun: bool
) -> None:
    """Draw the legend to the right of the panels: colours, then line styles after a gap.

    Args:
        figure: the figure.
        keys: columns whose values have colours.
        colours: colour of each combination of values.
        is_begun: whether there are lines of runs that have not finished.
    """
    handles = []
    for key, colour in colours.items():
        handles.append(Line2D([], [], color=colour, linewidth=3, label=drawn(describe(keys, key))))
    for what, style, width in (("", "", 0), ("validation", "-", 2.0), ("training", "--", 1.3)):
        handles.append(Line2D([], [], color="0.25", linestyle=style, linewidth=width, label=what))
    if is_begun:
        handles.append(Line2D([], [], color="0.25", label="not finished", **UNFINISHED))
    if colours:
        figure.legend(handles=handles, loc="outside right center", handlelength=2.2)


def caption(runs: pd.DataFrame, history: pd.DataFrame, rows: Sequence[str]) -> str:
    """Return what the figure shows and, for short runs, what it cannot show.

    Args:
        runs: the table `Runs.runs`.
        history: the table `Runs.history`.
        rows: columns of `runs` that tell nets apart.
    """
    done = runs[runs["status"] == "finished"]
    begun = runs[is_begun(runs, history)]["status"].value_counts()
    pale = ""
    if len(begun):
        counts = ", ".join(f"{n} {status}" for status, n in begun.items())
        pale = f"Thin, pale lines: runs that have not finished ({counts})."
    if done.empty:
        return f"No run has finished yet. {pale}".strip()
    n = _range([len(part) for _, part in groups(done, rows)])
    seeds = "seed per setting"
    if n != "1":
        seeds = "seeds per setting (lines: mean; bands: lowest to highest)"
    data = "unknown data"
    if "source" in done:
        data = " and ".join(sorted(set(done["source"].map(text))))
    parts = [
        "Error against iterations: solid = validation, dashed = training (clean: evaluation mode, "
        "no augmentation).",
        f"n = {n} {seeds}; {_range(done['steps'])} steps on {data}.",
    ]
    if done["steps"].min() < SHORT_RUN_STEPS:
        parts.append(
            "In so few steps, a deeper plain net that does worse is harder to optimise under this "
            "budget; that says nothing of what a converged net does (He et al. 2015 train for "
            "64,000 steps)."
        )
    if pale:
        parts.append(pale)
    return " ".join(parts)


def _range(values: Sequence[float]) -> str:
    low = min(values)
    high = max(values)
    return f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"


def render(figure: Figure, kind: str) -> bytes:
    """Return the figure as png or svg, without dates or versions: same runs, same bytes."""
    out = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with matplotlib.style.context(STYLE), warnings.catch_warnings():
        # a box in the place of a glyph is warning enough
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(out, format=kind, metadata=metadata)
    return out.getvalue()
