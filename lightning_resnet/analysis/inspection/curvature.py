"""The Hessian of the loss: largest and smallest eigenvalue, trace by layer, density of eigenvalues.

`resnet-cli inspect curvature runs/digits_degradation`

All come from products Hv (two backward passes) by the Lanczos method, as in PyHessian (Yao et al.
2020); the line 2/lr is where gradient descent becomes unstable (Cohen et al. 2021).
"""

from argparse import Namespace
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lightning_resnet.analysis.compare.panels import Drawing, Panel, panels
from lightning_resnet.analysis.inspection.landscape import first
from lightning_resnet.analysis.inspection.subjects import Subject
from lightning_resnet.errors import UserError
from lightning_resnet.models.activations import Batch
from lightning_resnet.progress import Meter
from lightning_resnet.training.hessian import hessian_product, lanczos, random_signs

STEPS = 60  # of the Lanczos method
BINS = 80  # values of the density
LEGEND = (
    "Hessian of the mean cross-entropy by all weights; eval mode, training images without "
    "augmentation. largest, smallest: eigenvalues by the Lanczos method; residual: of the largest, "
    "the norm of Hv - lambda v over lambda; trace: by Hutchinson's estimate, mean over random "
    "signs, and its standard error; negative: share of the density below -1 % of the largest. CSV: "
    "what is eigenvalue (x: its number), trace (x: place of the tensor of weights), or density (x: "
    "eigenvalue over the largest magnitude; value: share of the eigenvalues near it)."
)
HEADS = {
    "largest": "largest eigenvalue",
    "smallest": "smallest",
    "trace": "trace",
    "trace_error": "its error",
    "negative": "negative, %",
    "limit": "2 / lr",
}


def curvature(
    net: nn.Module, batches: Sequence[Batch], draws: int = 10, steps: int = STEPS, runs: int = 1
) -> pd.DataFrame:
    """Return eigenvalues, trace and density of the Hessian.

    Args:
        net: in the mode to measure in; its buffers must not change, as in eval mode.
        batches: images and labels of which the loss is the mean cross-entropy.
        draws: random vectors for the trace.
        steps: products of the Lanczos method; fewer for large nets.
        runs: random vectors of the Lanczos method.

    Returns:
        Columns what (eigenvalue | residual | trace | trace_error | density), name, x, value.

    Raises:
        UserError: no weight is trained, or second derivatives are not finite.
    """
    product, names = hessian_product(net, batches)
    if not names:
        raise UserError("no weight of this net is trained: nothing to measure")
    parameters = [net.get_parameter(name) for name in names]
    sizes = [p.numel() for p in parameters]
    generator = torch.Generator().manual_seed(0)
    meter = Meter(draws + runs * steps, "products with the Hessian")

    def counted(v: Tensor) -> Tensor:
        found = product(v)
        meter.update(1)
        if not torch.isfinite(found).all():
            raise UserError("the second derivatives of the loss are not finite")
        return found

    try:
        traces = []
        for _ in range(draws):
            v = random_signs(parameters, generator)
            parts = (v * counted(v)).split(sizes)
            traces.append([float(part.sum()) for part in parts])
        found = []
        for _ in range(runs):
            found.append(lanczos(counted, random_signs(parameters, generator), steps))
    finally:
        meter.close()
    largest = max(found, key=lambda run: run[0][-1])
    smallest = min(values[0] for values, _, _ in found)
    rows = [
        ("eigenvalue", "largest", 0, largest[0][-1]),
        ("eigenvalue", "smallest", 1, smallest),
        ("residual", "largest", 0, largest[2] / (abs(largest[0][-1]) or 1)),
    ]
    by_tensor = np.mean(traces, axis=0)
    rows += [("trace", names[i], i, by_tensor[i]) for i in range(len(names))]
    totals = np.sum(traces, axis=1)
    error = totals.std(ddof=1) / np.sqrt(draws) if draws > 1 else np.nan
    rows.append(("trace_error", "", 0, error))
    scale = max(abs(smallest), abs(largest[0][-1])) or 1.0
    edges = np.linspace(-1, 1, BINS + 1)
    density = np.zeros(BINS)
    for values, weights, _ in found:
        density += np.histogram(np.clip(values / scale, -1, 1), edges, weights=weights)[0] / runs
    middles = (edges[1:] + edges[:-1]) / 2
    rows += [("density", "", x, value) for x, value in zip(middles, density, strict=True)]
    below = [weights[values < -0.01 * scale].sum() for values, weights, _ in found]
    rows.append(("negative", "", 0, float(np.mean(below))))
    return pd.DataFrame(rows, columns=["what", "name", "x", "value"])


def measure(subject: Subject, args: Namespace) -> pd.DataFrame:
    """Measure one net for `inspect curvature`."""
    batches = first(subject.train_eval, args.images)
    table = curvature(subject.finite_net, batches, args.draws)
    return table.assign(
        lr=subject.settings.get("lr"), images=sum(len(labels) for _, labels in batches)
    )


def summarise(table: pd.DataFrame) -> dict[str, float]:
    """Return one net's row of the summary."""

    def values(what: str, name: str | None = None) -> pd.Series:
        chosen = table["what"] == what
        return table["value"][chosen if name is None else chosen & (table["name"] == name)]

    largest = values("eigenvalue", "largest").iloc[0]
    smallest = values("eigenvalue", "smallest").iloc[0]
    return {
        "largest": largest,
        "smallest": smallest,
        "trace": values("trace").sum(),
        "trace_error": values("trace_error").iloc[0],
        "negative": 100 * values("negative").iloc[0],
        "limit": 2 / pd.to_numeric(table["lr"], errors="coerce").iloc[0],
    }


def remarks(frame: pd.DataFrame) -> list[str]:
    """Return what the columns are, what the values say, and what they cannot say."""
    found = [LEGEND]
    for net, part in frame.groupby("net", sort=False):
        of_seeds = [summarise(one) for _, one in part.groupby("seed", dropna=False)]
        mean = pd.DataFrame(of_seeds).mean()
        limit = ""
        if np.isfinite(mean["limit"]):
            side = "above" if mean["largest"] > mean["limit"] else "below"
            limit = f", {side} 2/lr = {mean['limit']:.3g}"
        smallest = f"the smallest is {mean['smallest']:.3g}"
        if mean["smallest"] < 0 < mean["largest"]:
            smallest += f", {-mean['smallest'] / mean['largest']:.1%} of the largest in size"
        found.append(
            f"{net}: the largest eigenvalue is {mean['largest']:.3g}{limit}; {smallest}, and "
            f"{mean['negative']:.2g} % of all are clearly negative."
        )
        if (part["value"][part["what"] == "residual"] > 0.05).any():
            found.append(f"Warning: {net}: the largest eigenvalue has not converged.")
    found.append(
        f"Not shown: other images than these {frame['images'].max():,}. 2/lr is the limit of "
        "gradient descent on all images at the recipe's lr; momentum raises the limit, small "
        "batches and a schedule of the lr move it. Curvature in eval mode is not the one "
        "that training with batch statistics sees."
    )
    return found


def figure(frame: pd.DataFrame, title: str = "") -> Drawing:
    """Draw the density of eigenvalues, and the trace of each tensor of weights."""
    wide = frame.assign(
        density=frame["value"].where(frame["what"] == "density"),
        trace=frame["value"].where(frame["what"] == "trace"),
    )
    density = Panel("density", "share of eigenvalues", "x", "eigenvalue over the largest", log=True)
    trace = Panel("trace", "trace", "x", "tensor of weights, in order of depth", log=True)
    drawn = wide[wide["density"].notna() | wide["trace"].notna()]
    return panels(drawn, [density, trace], title)
