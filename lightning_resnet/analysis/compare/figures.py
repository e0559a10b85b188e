"""The paper's figure: error against iterations, plain and residual (He et al. 2015, fig. 1, 4, 6).

Figures are made through matplotlib's objects: no pyplot, no display, no state. The same runs give
the same bytes.
"""

import io
import re
import warnings
from collections.abc import Sequence
from itertools import product
from textwrap import fill
from typing import Any

import matplotlib as mpl
import matplotlib.style
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from lightning_resnet.analysis.compare.tables import describe, groups, text
from lightning_resnet.errors import UserError, printable

SHORT_RUN_STEPS = 5_000
PANELS_PER_LINE = 4
LONGEST = 200  # characters of a text in a figure
LINE_HEIGHT = 0.25  # inches of a line of the legend
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
# of a net's depth: plain, residual; the paper's depths follow each other, others go by remainder
TONES = [
    ("#56B4E9", "#0072B2"),
    ("#45B896", "#00694C"),
    ("#B79AD8", "#6A3D9A"),
    ("#E69F00", "#D55E00"),
    ("#E58FB8", "#A3195B"),
]
DEPTHS = {20: 0, 32: 1, 44: 2, 56: 3, 110: 4, 18: 0, 34: 1, 50: 2, 101: 3, 152: 4}
NET = re.compile(r"\bdepth (\d+)(?:, (plain|residual \((\w+)\)))?$")  # at the end of a label
FEW = 5  # evaluations, of which the first ones count as much as the last
WIDE = 8  # highest over lowest final error, from which the axis is logarithmic
WIDE_TICKS = (0, 1, 2, 5, 10, 20, 50, 100)
SHADES = {"B": 0.7, "C": 0.45}  # of the lightness of residual (A)
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
    runs: pd.DataFrame,
    history: pd.DataFrame,
    rows: Sequence[str],
    title: str = "",
    x: str = "step",
) -> Figure:
    """Draw the error (%) of the runs: solid = validation, dashed = clean training error.

    There is one colour per row: a line for the mean over its finished runs, a band from the lowest
    to the highest. A run that has not finished (it runs, was interrupted, or failed) has thin, pale
    lines of its own as far as it came. When `rows` are depth and one other key, each value of the
    other has its panel; with the name as well, each name has its line of panels.

    Args:
        runs: the table `Runs.runs`.
        history: the table `Runs.history`, after `with_x`.
        rows: columns of `runs` that tell nets apart.
        title: above the panels.
        x: column of `history` on the horizontal axis, a key of `X_LABELS`.
    """
    shown = runs[(runs["status"] == "finished") | is_begun(runs, history)]
    across = [row for row in rows if row not in ("depth", "name")]
    by_panel = "depth" in rows and len(rows) > 1 and len(across) < 2
    names = [row for row in rows if row == "name" and by_panel]
    sides = across if by_panel else []
    lines = [key for key, _ in groups(shown, names)] if names else [()]
    columns = [key for key, _ in groups(shown, sides)] if sides else [()]
    in_legend = [row for row in rows if row not in names]
    colours = palette([describe(rows, key) for key, _ in groups(shown, rows)])
    drawn_nets = {}
    with matplotlib.style.context(STYLE):
        figure, axes = _grid(len(lines), len(columns), title, x)
        for ax, (line, column) in zip(axes, product(lines, columns), strict=True):
            ax.set_title(drawn(describe([*names, *sides], [*line, *column])) if by_panel else "")
            for key, group in groups(shown, rows):
                value = dict(zip(rows, key, strict=True))
                if [value[row] for row in (*names, *sides)] != [*line, *column]:
                    continue
                colour = colours[describe(rows, key)]
                drawn_nets[describe(in_legend, [value[row] for row in in_legend])] = colour
                is_done = group["status"] == "finished"
                done = history[history["path"].isin(group[is_done]["path"])]
                _draw(ax, done, colour, x)
                for path in group[~is_done]["path"]:
                    _draw(ax, history[history["path"] == path], colour, x, done=False)
        _limits(figure, axes)
        _legend(figure, drawn_nets, bool(is_begun(runs, history).any()))
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


def _grid(lines: int, columns: int, title: str, x: str) -> tuple[Figure, list[Axes]]:
    """Make a figure of panels that share both axes; only the outer ones are labelled."""
    n = lines * columns
    if lines == 1:
        columns = max(1, min(n, PANELS_PER_LINE))
    lines = max(1, -(-n // columns))
    figure = Figure(figsize=(10, 0.9 + 3.3 * lines), dpi=150, layout="constrained")
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for ax in grid.flat[n:]:
        ax.remove()
    figure.supxlabel(X_LABELS[x], fontsize=12)
    if title:
        figure.suptitle(drawn(title), fontsize=14)
    return figure, list(grid.flat[:n])


THEORY = ", theory"  # ends the label of what theory says of a net, which is drawn dashed


def is_theory(label: str) -> bool:
    """Tell whether a label is that of what theory says of a net."""
    return label.endswith(THEORY)


def palette(labels: Sequence[str]) -> dict[str, str]:
    """Return a colour for each label.

    Nets that are told apart by depth and shortcut have the same colours everywhere; those of
    reference runs are those of one's own. Other labels have colours in their order; beyond six,
    these come from a ramp that rises in lightness for every eye. A line of theory has the colour
    of its net.

    Args:
        labels: from `tables.describe`.
    """
    nets = list(dict.fromkeys(label.removesuffix(THEORY) for label in labels))
    colours = _of_nets(nets)
    return {label: colours[label.removesuffix(THEORY)] for label in labels}


def _of_nets(labels: Sequence[str]) -> dict[str, str]:
    """Return a colour for each net."""
    fixed = {label: _colour(label) for label in labels}
    own = [label for label in labels if not label.startswith("reference:")]
    if all(fixed.values()) and len({fixed[label] for label in own}) == len(own):
        return fixed
    if len(labels) <= len(COLOURS):
        return dict(zip(labels, COLOURS, strict=False))
    ramp = mpl.colormaps["viridis"]
    last = len(labels) - 1
    return {label: mpl.colors.to_hex(ramp(0.9 * i / last)) for i, label in enumerate(labels)}


def _colour(label: str) -> str:
    """Return the colour of a net of some depth and shortcut; empty if the label tells others."""
    found = NET.search(label)
    if not found:
        return ""
    depth = int(found[1])
    plain, residual = TONES[DEPTHS.get(depth, depth // 6 % len(TONES))]
    if found[2] == "plain":
        return plain
    shade = SHADES.get(found[3], 1.0)
    return mpl.colors.to_hex([shade * part for part in mpl.colors.to_rgb(residual)])


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


def _limits(figure: Figure, axes: Sequence[Axes]) -> None:
    """Show errors from zero up to twice the highest final error, where the nets differ.

    If the final errors are far apart the axis is logarithmic above 1 %, so that all can be seen.
    Runs that have not finished, which may have stopped early, count only if none has finished.
    """
    drawn_lines = [line for ax in axes for line in ax.get_lines()]
    done = [line for line in drawn_lines if line.get_alpha() is None]
    lines = [line.get_ydata() for line in done or drawn_lines]
    words = "error (%)"
    if lines:
        highest = max(ax.dataLim.y1 for ax in axes if ax.get_lines())  # of the bands too
        final = [line[-1] for line in lines if line[-1] > 0]
        top = 1.05 * highest
        if max(map(len, lines)) >= FEW:
            top = max(min(top, 2 * max(final, default=1)), 1)
        if is_wide(final):
            words = "error (%), logarithmic above 1"
            top = 1.1 * highest
            axes[0].set_yscale("symlog", linthresh=1, linscale=0.5)
            axes[0].yaxis.set_major_locator(FixedLocator(WIDE_TICKS))
            axes[0].yaxis.set_major_formatter("{x:g}")
            axes[0].yaxis.set_minor_locator(NullLocator())
        axes[0].set_ylim(0, top)
        axes[0].set_xlim(left=0)
        axes[0].xaxis.set_major_formatter(_thousands)
    figure.supylabel(words, fontsize=12)


def is_wide(errors: Sequence[float]) -> bool:
    """Tell whether errors (%) are so far apart that the low ones need a logarithmic axis."""
    return max(errors, default=1) > WIDE * max(1, min(errors, default=1))


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


def _legend(figure: Figure, colours: dict[str, str], is_begun: bool) -> None:
    """Draw the legend to the right of the panels: colours, then line styles.

    Args:
        figure: the figure.
        colours: colour of each label.
        is_begun: whether there are lines of runs that have not finished.
    """
    handles = []
    for label, colour in colours.items():
        handles.append(Line2D([], [], color=colour, linewidth=3, label=drawn(label)))
    handles.append(Line2D([], [], linewidth=0, label=""))
    for what, style, width in (("validation", "-", 2.0), ("training", "--", 1.3)):
        handles.append(Line2D([], [], color="0.25", linestyle=style, linewidth=width, label=what))
    if is_begun:
        handles.append(Line2D([], [], color="0.25", label="not finished", **UNFINISHED))
    if not colours:
        return
    lines = sum(handle.get_label().count("\n") + 1 for handle in handles)
    # The figure grows where the legend would not fit.
    figure.set_figheight(max(figure.get_figheight(), LINE_HEIGHT * lines))
    figure.legend(handles=handles, loc="outside right center", handlelength=2.2)


def caption(runs: pd.DataFrame, history: pd.DataFrame, rows: Sequence[str], x: str = "step") -> str:
    """Return what the figure shows and, for short runs, what it cannot show.

    Args:
        runs: the table `Runs.runs`.
        history: the table `Runs.history`.
        rows: columns of `runs` that tell nets apart.
        x: a key of `X_LABELS`.
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
        f"Error against {X_LABELS[x]}: solid = validation, dashed = training (clean: evaluation "
        "mode, no augmentation).",
        f"n = {n} {seeds}; {_range(done['steps'])} steps on {data}.",
    ]
    plain = done[done["shortcut"] == "none"] if "shortcut" in done else done.iloc[:0]
    if done["steps"].min() < SHORT_RUN_STEPS and len(plain) and plain["depth"].nunique() > 1:
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


def files(name: str, figure: Figure) -> dict[str, bytes]:
    """Return the contents of the files NAME.png and NAME.svg."""
    return {f"{name}.{kind}": render(figure, kind) for kind in ("png", "svg")}


def render(figure: Figure, kind: str) -> bytes:
    """Return the figure as png, svg or webp, without dates or versions: same runs, same bytes.

    WebP is small, for pages: half of the resolution.
    """
    out = io.BytesIO()
    options: dict[str, Any] = {
        "png": {"metadata": {"Software": None}},
        "svg": {"metadata": {"Date": None}},
        "webp": {"dpi": figure.dpi / 2, "pil_kwargs": {"quality": 75}},
    }[kind]
    with matplotlib.style.context(STYLE), warnings.catch_warnings():
        # a box in the place of a glyph is warning enough
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(out, format=kind, **options)
    return out.getvalue()
