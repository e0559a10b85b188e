"""The loss on a plane or a line through a net's weights, along filter-normalised directions.

`resnet-cli inspect landscape runs/digits_degradation`

Li et al. 2018 (arXiv 1712.09913), sec. 4: a direction is drawn from a normal distribution, and each
of its filters gets the norm of the net's filter at that place. So the axes have the same meaning in
nets whose filters are of different size: at distance 1 each filter has moved by its own norm.
"""

import copy
import hashlib
import json
import math
from argparse import Namespace
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue

import matplotlib as mpl
import matplotlib.style
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.contour import ContourSet
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_resnet.analysis.compare.figures import STYLE, drawn, palette
from lightning_resnet.analysis.compare.panels import (
    Drawing,
    Map,
    Panel,
    chart_of,
    draw_panel,
    map_of,
    panels,
)
from lightning_resnet.analysis.inspection.subjects import Subject
from lightning_resnet.analysis.inspection.trajectory import Trajectory, kept_nets, trajectory
from lightning_resnet.errors import UserError
from lightning_resnet.models.activations import Batch
from lightning_resnet.progress import Meter
from lightning_resnet.training.hessian import hessian_product, lanczos, random_signs

LEGEND = (
    "Eval mode, training images without augmentation. The plane goes through the net's weights, at "
    "(0, 0); biases and norms stay (Li et al. 2018). at the net: loss and error (%) at (0, 0); at "
    "the ends: median loss at both ends of the line y = 0; better than chance: share of the points "
    "where the loss is below ln(classes); bent down: share of the inner points where a second "
    "difference along x or y is negative, which shows that the loss is not convex there; with "
    "--hessian, ratio: "
    "|smallest / largest| eigenvalue of the Hessian by weights of two dimensions or more, "
    "which is small where the loss looks convex in all directions. direction: number of the pair "
    "of directions."
)
HEADS = {
    "loss": "loss at the net",
    "error": "error at the net, %",
    "ends": "loss at the ends",
    "better": "better than chance, %",
    "bent": "bent down, %",
    "ratio": "ratio at the net",
    "ratio_median": "ratio, median",
    "first": "first component, %",
    "second": "second component, %",
}
RANDOM = "Each filter of the plane's two random directions has the norm of the net's filter."
PATH = (
    "The plane is that of the first two principal components of the weights of kept epochs (Li et "
    "al. 2018, sec. 7); norms have the statistics of the last net there. CSV: rows with an epoch "
    "are the nets on the path, with their own loss; x and y are distances. A random walk of many "
    "steps in many dimensions would have 61 % and 15 % in its first two components (Antognini & "
    "Sohl-Dickstein 2018): large shares do not tell that the path is simple."
)
Point = tuple[int, float, float]  # number of the pair of directions, x, y
Values = tuple[float, ...]  # loss, error in percent; with the Hessian also the ratio
RATIO = "|smallest / largest| eigenvalue"
STEPS = 20  # of the Lanczos method at each point
FLAT = 1e-3  # a second difference below this share of the loss there counts as 0


def landscape(
    net: nn.Module,
    batches: Sequence[Batch],
    points: int = 25,
    reach: float = 1.0,
    directions: int = 1,
    line: bool = False,
    known: Path | None = None,
    hessian: bool = False,
    path: Trajectory | None = None,
) -> pd.DataFrame:
    """Return loss and error over planes through the net's weights.

    Threads share the points, as many as torch has threads; each computes with one.

    Args:
        net: in eval mode, on the device of the batches; it is not changed.
        batches: images and labels of which loss and error are taken.
        points: points along each axis, an odd number.
        reach: the axes go from -reach to reach.
        directions: pairs of random directions, a plane for each; pair 0, 1, ... is always the same.
        line: only the points with y = 0.
        known: file of points that are known already, and to which new ones are added.
        hessian: also measure the Hessian at each point, which takes some 50 times as long.
        path: take the plane of a training's path, and not random directions.

    Returns:
        One row per point: columns direction, x, y, loss (mean cross-entropy), error (%), and with
        `hessian` ratio, that of its smallest and largest eigenvalue, without sign.

    Raises:
        UserError: `known` cannot be written.
    """
    axis = [reach * (2 * i / (points - 1) - 1) for i in range(points)]
    along_x, along_y = path.axes(points) if path else (axis, axis)
    wanted = []
    for direction in range(directions):
        for y in [0.0] if line else along_y:
            wanted += [(direction, x, y) for x in along_x]
    found = _read(known) if known else {}
    missing = [point for point in wanted if point not in found]
    meter = Meter(len(wanted), "points", first=len(wanted) - len(missing))
    try:
        for point, values in _measured(net, batches, missing, hessian, path):
            found[point] = values
            meter.update(1)
            if known:
                with known.open("a") as file:
                    file.write(json.dumps([*point, *values]) + "\n")
    finally:
        meter.close()
    rows = [[*point, *found[point]] for point in wanted]
    columns = ["direction", "x", "y", "loss", "error"]
    return pd.DataFrame(rows, columns=[*columns, "ratio"] if hessian else columns)


def _read(known: Path) -> dict[Point, Values]:
    """Return the points in a file, less lines that are cut off or damaged; end the last line."""
    try:
        known.parent.mkdir(parents=True, exist_ok=True)
        with known.open("a+") as file:
            file.seek(0)
            text = file.read()
            if text and not text.endswith("\n"):
                file.write("\n")
    except OSError as error:
        raise UserError(
            f"cannot write {known} ({error.strerror}); give --out DIR with a folder that you can "
            "write"
        ) from error
    found = {}
    for row in text.splitlines():
        try:
            direction, x, y, *values = json.loads(row)
            found[direction, float(x), float(y)] = tuple(map(float, values))
        except (ValueError, TypeError):  # cut off or damaged: measured again
            continue
    return found


def direction_of(net: nn.Module, seed: int) -> list[Tensor]:
    """Return a filter-normalised random direction, a tensor for each parameter.

    Each filter of a convolution and each row of a matrix has the norm of the net's; biases and the
    parameters of norms get zero.
    """
    generator = torch.Generator().manual_seed(seed)
    direction = []
    for parameter in net.parameters():
        noise = torch.randn(parameter.shape, generator=generator).to(parameter)
        if parameter.dim() < 2:
            direction.append(torch.zeros_like(noise))
            continue
        over = tuple(range(1, parameter.dim()))
        norms = torch.linalg.vector_norm(parameter.detach(), dim=over, keepdim=True)
        own = torch.linalg.vector_norm(noise, dim=over, keepdim=True)
        direction.append(noise * norms / (own + 1e-10))
    return direction


def _measured(
    net: nn.Module,
    batches: Sequence[Batch],
    wanted: Sequence[Point],
    hessian: bool,
    path: Trajectory | None,
) -> Iterator[tuple[Point, Values]]:
    """Yield loss and error at each point, in the order in which they are ready."""
    threads = torch.get_num_threads() if batches[0][0].device.type == "cpu" else 1
    threads = max(1, min(threads, len(wanted)))
    pairs = {}
    for number in {point[0] for point in wanted}:
        random = (direction_of(net, 2 * number), direction_of(net, 2 * number + 1))
        pairs[number] = path.plane if path else random
    start = [parameter.detach().clone() for parameter in net.parameters()]
    free: SimpleQueue[nn.Module] = SimpleQueue()
    for _ in range(threads):
        own = copy.deepcopy(net)
        for parameter in own.parameters():
            parameter.requires_grad_(parameter.dim() > 1 and parameter.requires_grad)
        free.put(own)

    @torch.no_grad()
    def measure_one(point: Point) -> tuple[Point, Values]:
        moved = free.get()
        number, x, y = point
        try:
            for parameter, at, along_x, along_y in zip(
                moved.parameters(), start, *pairs[number], strict=True
            ):
                parameter.copy_(at).add_(along_x, alpha=x).add_(along_y, alpha=y)
            values = loss_and_error(moved, batches)
            return point, (*values, ratio(moved, batches)) if hessian else values
        finally:
            free.put(moved)

    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        if threads == 1:
            yield from map(measure_one, wanted)
        else:
            for done in as_completed([pool.submit(measure_one, point) for point in wanted]):
                yield done.result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


@torch.no_grad()
def loss_and_error(net: nn.Module, batches: Sequence[Batch]) -> Values:
    """Return the mean cross-entropy and the error in percent, of the net in its present mode."""
    loss = 0.0
    wrong = 0
    for images, labels in batches:
        logits = net(images).float()
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
        wrong += int((logits.argmax(1) != labels).sum())
    n = sum(len(labels) for _, labels in batches)
    return loss / n, 100 * wrong / n


def ratio(net: nn.Module, batches: Sequence[Batch]) -> float:
    """Return |smallest / largest| eigenvalue of the Hessian by the weights that are trained.

    Li et al. 2018, sec. 6, call a loss convex where this is small. NaN without positive eigenvalue.
    """
    product, names = hessian_product(net, batches)
    if not names:
        return math.nan
    weights = [net.get_parameter(name) for name in names]
    start = random_signs(weights, torch.Generator().manual_seed(0))
    values, _, _ = lanczos(product, start, STEPS)
    return abs(values[0] / values[-1]) if values[-1] > 0 else math.nan


def first(batches: Sequence[Batch], n: int) -> list[Batch]:
    """Return the first n images of batches; all if there are fewer."""
    taken = []
    for images, labels in batches:
        if n > 0:
            taken.append((images[:n], labels[:n]))
        n -= len(labels)
    return taken


def measure(subject: Subject, args: Namespace) -> pd.DataFrame:
    """Measure one net for `inspect landscape`."""
    net = subject.finite_net
    batches = first(subject.train_eval, args.images)
    kind = "-hessian" if args.hessian else ""
    path = None
    rows = pd.DataFrame()
    if args.trajectory:
        path, rows = _path(subject, batches, args)
    name = f"{_digest(net, batches, path)}{kind}.jsonl"
    known = args.folder / "landscape.points" / name
    found = landscape(
        net, batches, args.points, args.range, args.directions, args.line, known, args.hessian, path
    )
    if path:
        found = pd.concat([found, rows], ignore_index=True)
        found = found.assign(first=100 * path.explained[0], second=100 * path.explained[1])
    return found.assign(
        classes=subject.experiment.data.num_classes,
        images=sum(len(labels) for _, labels in batches),
    )


def _path(
    subject: Subject, batches: Sequence[Batch], args: Namespace
) -> tuple[Trajectory, pd.DataFrame]:
    """Return the plane of a run's path, and a row for each net on it, with the net's own loss."""
    kept = {}
    measured = {}
    for epoch, net in kept_nets(subject, args):
        kept[epoch] = [parameter.detach().cpu().clone() for parameter in net.parameters()]
        measured[epoch] = loss_and_error(net, batches)
    path = trajectory(subject.net, kept)
    rows = []
    for epoch, (x, y) in zip(path.epochs, path.places.tolist(), strict=True):
        loss, error = measured[epoch]
        rows.append({"epoch": epoch, "x": x, "y": y, "loss": loss, "error": error})
    return path, pd.DataFrame(rows)


def _plane(table: pd.DataFrame) -> pd.DataFrame:
    """Return the points of the planes, without the nets of a path."""
    return table[table["epoch"].isna()] if "epoch" in table else table


@torch.no_grad()
def _digest(net: nn.Module, batches: Sequence[Batch], path: Trajectory | None) -> str:
    """Return a name for the results of these weights on these images, in the plane of a path.

    What a net of a user computes may be in neither its text nor its tensors, but is in its logits.
    The name holds three digits of their norm for each of two images: a sum in another order, such
    as on more threads, hardly ever changes these, and then the points are measured again.
    """
    digest = hashlib.sha256(repr(net).encode())
    norms = net(batches[0][0][:2]).norm(dim=1).tolist()
    digest.update(" ".join(f"{norm:.3g}" for norm in norms).encode())
    along = [*path.plane[0], *path.plane[1]] if path else []
    of_images = [part for batch in batches for part in batch]
    for tensor in [*net.state_dict().values(), *of_images, *along]:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def summarise(table: pd.DataFrame) -> dict[str, float]:
    """Return one net's row of the summary."""
    table = _plane(table)
    net = table[(table["x"] == 0) & (table["y"] == 0)].iloc[0]
    ends = table[(table["y"] == 0) & table["x"].isin([table["x"].min(), table["x"].max()])]
    bent = []
    for _, plane in table.groupby("direction"):
        bent.append(_bent(plane.pivot(index="y", columns="x", values="loss").to_numpy()))
    row = {
        "loss": net["loss"],
        "error": net["error"],
        "ends": ends["loss"].median(),
        "better": 100 * (table["loss"] < np.log(table["classes"])).mean(),
        "bent": 100 * float(np.mean(bent)),
    }
    if "ratio" in table:
        row |= {"ratio": net["ratio"], "ratio_median": table["ratio"].median()}
    if "first" in table:
        row |= {"first": net["first"], "second": net["second"]}
    return row


def _bent(plane: np.ndarray) -> float:
    """Return the share of inner points of [y, x] where a second difference is negative."""
    with np.errstate(invalid="ignore"):  # where the loss is infinite, nothing bends
        along_x = np.diff(plane, 2, axis=1) < -FLAT * plane[:, 1:-1]
        if len(plane) == 1:
            return float(along_x.mean())
        along_y = np.diff(plane, 2, axis=0) < -FLAT * plane[1:-1]
    return float((along_x[1:-1] | along_y[:, 1:-1]).mean())


def remarks(frame: pd.DataFrame) -> list[str]:
    """Return what the columns are, what the values say, and what they cannot say."""
    found = [LEGEND, PATH if "first" in frame else RANDOM]
    flat = []
    for net, part in frame.groupby("net", sort=False):
        chance = math.log(part["classes"].iloc[0])
        of_seeds = [summarise(one) for _, one in part.groupby("seed", dropna=False)]
        mean = pd.DataFrame(of_seeds).mean()
        where = f"where each filter has moved by {part['x'].max():g} times its norm"
        if "first" in mean:
            where = "at the ends of the line y = 0"
        found.append(
            f"{net}: the loss is {mean['loss']:.3g} at the net and {mean['ends']:.3g} {where}; "
            f"chance is {chance:.3g}. "
            f"{mean['better']:.0f} % of the points are better than chance, and at "
            f"{mean['bent']:.0f} % the loss bends down."
        )
        if "ratio" in mean:
            found.append(
                f"{net}: the smallest eigenvalue of the Hessian has {mean['ratio']:.1%} of the "
                f"largest one's size at the net; the median over all points is "
                f"{mean['ratio_median']:.1%}."
            )
        if "first" in mean:
            n = part["epoch"].nunique()
            found.append(
                f"{net}: of the variance of the weights of {n} kept nets and the last one, the "
                f"first component holds {mean['first']:.1f} % and the second {mean['second']:.1f} "
                "%."
            )
        if mean["loss"] > 0.8 * chance:
            flat.append(net)
    images = frame["images"].max()
    pairs = frame["direction"].nunique()
    found.append(
        f"Not shown: other directions than these {2 * pairs}, and other images than "
        f"these {images:,}. Points that bend down prove a loss that is not convex; none prove "
        "nothing about the directions in which training moves."
    )
    if flat:
        found.append(
            f"{' and '.join(flat)}: the loss at the net is not clearly below chance, so this is "
            "the landscape around weights that have learned little, not around a minimum."
        )
    return found


def _planes(frame: pd.DataFrame, path: pd.DataFrame, column: str) -> list[Map]:
    """Return a map of the first plane of each net, of one seed.

    Args:
        frame: points of the planes.
        path: nets on the way of a training; may be empty.
        column: of the frame: loss, or ratio.
    """
    values = frame["loss"][np.isfinite(frame["loss"]) & (frame["loss"] > 0)]
    ends = (values.min(), max(values.max(), 1.01 * values.min()))
    maps = []
    for net, part in frame.groupby("net", sort=False):
        one = part[part["seed"].isna() | (part["seed"] == part["seed"].min())]
        plane = one[one["direction"] == 0].pivot(index="y", columns="x", values=column)
        shown = Map(
            net,
            plane.to_numpy(),
            "loss",
            "direction 1",
            "direction 2",
            plane.columns.tolist(),
            plane.index.tolist(),
            ends,
            log=True,
            smooth=True,
            path=([0.0], [0.0], ["net"]),
        )
        if column == "ratio":
            shown = shown._replace(title=RATIO, ends=(1e-3, 1.0), colours="magma", smooth=False)
        if len(path):
            shown = _with_path(shown, path[path["net"] == net])
        maps.append(shown)
    return maps


def _with_path(shown: Map, path: pd.DataFrame) -> Map:
    """Return a map with the nets of one seed on their way to (0, 0), and what its axes are."""
    one = path[path["seed"].isna() | (path["seed"] == path["seed"].min())]
    numbers = [f"{epoch:.0f}" for epoch in one["epoch"]]
    first, second = one.iloc[0][["first", "second"]]
    return shown._replace(
        x=f"first component ({first:.3g} %)",
        y=f"second component ({second:.3g} %)",
        path=([*one["x"], 0.0], [*one["y"], 0.0], [*numbers, "net"]),
    )


def _draw_plane(ax: Axes, shown: Map, levels: np.ndarray) -> ContourSet:
    """Draw the contours of a plane, with the net or the way to the net."""
    z = np.clip(shown.values, *shown.ends)
    norm = LogNorm(*shown.ends)
    filled = ax.contourf(shown.xs, shown.ys, z, levels, norm=norm, cmap=shown.colours)
    ax.contour(shown.xs, shown.ys, z, levels, colors="black", linewidths=0.4)
    ax.set(title=drawn(shown.net), xlabel=shown.x, ylabel=shown.y)
    ax.grid(visible=False)
    xs, ys, told = shown.path
    if len(xs) == 1:
        ax.plot(xs, ys, marker="+", color="white", markersize=9)
        ax.set_aspect("equal")
        return filled
    ax.plot(xs, ys, "o-", color="white", markersize=3, linewidth=1)
    for i in (0, -2):
        at = (xs[i], ys[i])
        ax.annotate(told[i], at, (4, 4), textcoords="offset points", color="white")
    return filled


def figure(frame: pd.DataFrame, title: str = "") -> Drawing:
    """Draw contours and surface of the first plane of each net on one scale, and the line y = 0."""
    distance = ("x", "distance in norms of the filters")
    level = "direction 2 = 0"
    path = frame[~frame.index.isin(_plane(frame).index)]
    frame = _plane(frame)
    if len(path):
        distance = ("x", "distance along the first component")
        level = "second component = 0"
    line = frame[frame["y"] == 0]
    hessian = "ratio" in frame
    if frame["y"].nunique() == 1:
        each = [Panel("loss", "loss", *distance, log=True), Panel("error", "error (%)", *distance)]
        ratios = [Panel("ratio", RATIO, *distance, log=True)] if hessian else []
        return panels(line, [*each, *ratios], title)
    loss = Panel("loss", f"loss at {level}", *distance, log=True)
    error = Panel("error", f"error at {level} (%)", *distance)
    planes = _planes(frame, path, "loss")
    ratios = _planes(frame, path, "ratio") if hessian else []
    colour_of = palette([plane.net for plane in planes])
    n = len(planes)
    norm = LogNorm(*planes[0].ends)
    lines = 4 if hessian else 3
    with matplotlib.style.context(STYLE):
        size = (max(7.5, 1.2 + 4.1 * n), 3.85 * lines)
        drawing = Drawing(figsize=size, dpi=150, layout="constrained")
        drawing.charts = [map_of(one, colour_of[one.net]) for one in [*planes, *ratios]]
        drawing.charts += [chart_of(line, panel, colour_of) for panel in (loss, error)]
        drawing.get_layout_engine().set(w_pad=0.12)
        grid = drawing.add_gridspec(lines, 2 * n)
        levels = np.geomspace(norm.vmin, norm.vmax, 19)
        flat_axes = []
        for i, plane in enumerate(planes):
            columns = slice(2 * i, 2 * i + 2)
            ax = drawing.add_subplot(grid[0, columns])
            filled = _draw_plane(ax, plane, levels)
            flat_axes.append(ax)
            ax = drawing.add_subplot(grid[1, columns], projection="3d")
            x, y = np.meshgrid(plane.xs, plane.ys)
            z = np.clip(plane.values, *plane.ends)
            colours = mpl.colormaps[plane.colours](norm(z))
            ax.plot_surface(x, y, np.log10(z), facecolors=colours, rstride=1, cstride=1, lw=0)
            ax.set(zlim=np.log10(plane.ends))
            ax.zaxis.set_major_formatter(lambda value, _: f"{10**value:.2g}")
            ax.zaxis.set_major_locator(mpl.ticker.MaxNLocator(4))
            if hessian:
                ax = drawing.add_subplot(grid[2, columns])
                one = ratios[i]
                scale = LogNorm(*one.ends)
                mesh = ax.pcolormesh(one.xs, one.ys, one.values, norm=scale, cmap=one.colours)
                ax.set(xlabel=one.x, ylabel=one.y, aspect="auto" if len(path) else "equal")
                ax.grid(visible=False)
                drawing.colorbar(mesh, ax=ax, label=RATIO)
        bar = drawing.colorbar(
            filled, ax=flat_axes, label="loss", location="bottom", aspect=40, shrink=0.9
        )
        told = levels[::3]
        bar.set_ticks(told, labels=[f"{level:.2g}" for level in told])
        bar.ax.xaxis.set_minor_locator(mpl.ticker.NullLocator())
        for i, panel in enumerate([loss, error]):
            ax = drawing.add_subplot(grid[-1, i * n : (i + 1) * n])
            for net, colour in colour_of.items():
                draw_panel(ax, line[line["net"] == net], panel, colour)
            ax.set(xlabel=panel.label, ylabel=panel.title)
            if panel.log:
                ax.set_yscale("log")
        handles = []
        for net, colour in colour_of.items():
            handles.append(mpl.lines.Line2D([], [], color=colour, linewidth=3, label=drawn(net)))
        drawing.legend(handles=handles, loc="outside lower center", ncols=max(2, n))
        if title:
            drawing.suptitle(title, fontsize=14)
    return drawing
