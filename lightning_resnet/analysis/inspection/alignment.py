"""Whether the blocks of a net do the same small step again and again: residual alignment.

`resnet-cli inspect alignment runs/digits_degradation`

Li & Papyan 2023 (arXiv 2401.09018) find four properties in trained residual nets, none in plain
nets: the states of an image lie evenly on a line (RA1); the singular vectors of the Jacobians of F
agree, left with right and block with block (RA2); these Jacobians have at most as many large
singular values as there are classes (RA3); and the largest falls like 1 / depth (RA4).
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
from lightning_resnet.models.activations import Batch, BlockActivations, record_blocks
from lightning_resnet.models.blocks import Function
from lightning_resnet.progress import metered

JACOBIANS = 4  # images whose Jacobians are measured
OVERSAMPLED = 10  # directions more than asked for: they make the wanted ones exact
ROUNDS = 6  # of the subspace iteration
PROBES = 16  # random vectors for the energy of the other directions
LEGEND = (
    "Eval mode, training images without augmentation; Jacobians dF/dx at 4 of them. K: number of "
    "classes. straight: distance from first to last state over the length of the way, of "
    "successive blocks of one shape (1: a line); uneven: standard deviation of their steps over "
    "the mean (0: equal steps); left = right: share of the K left singular vectors that lies in "
    "the space of the K right ones; next: share that lies in the space of the next block's; K/d: "
    "what unrelated spaces would have; top K: share of the Jacobian's energy in K directions; "
    "largest: its largest singular value; times blocks: times the number of blocks."
)
HEADS = {
    "straight": "straight",
    "uneven": "uneven",
    "left_right": "left = right",
    "next": "next block",
    "unrelated": "K/d",
    "top": "top K",
    "largest": "largest",
    "times_blocks": "times blocks",
}


def singular(function: Function, x: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor, float]:
    """Return the largest singular values of a function's Jacobian, by subspace iteration.

    Args:
        function: maps images [n, C, H, W] one by one.
        x: the image [1, C, H, W] at which the Jacobian is taken.
        k: number of singular values; fewer if the Jacobian is smaller.

    Returns:
        Left singular vectors [d_out, k], singular values [k], right ones [d_in, k], and the energy
        (sum of squares) of all singular values, which is estimated beyond the first ones.
    """
    with torch.no_grad():
        d_out = function(x).numel()
    d_in = x.numel()
    size = min(k + OVERSAMPLED, d_in, d_out)
    generator = torch.Generator().manual_seed(0)

    def normal(d: int, n: int) -> Tensor:
        return torch.randn(d, n, generator=generator).to(x)

    right = torch.linalg.qr(normal(d_in, size))[0]
    for _ in range(ROUNDS):
        left = torch.linalg.qr(_forward(function, x, right))[0]
        right = torch.linalg.qr(_backward(function, x, left))[0]
    u, values, v = torch.linalg.svd(_forward(function, x, right), full_matrices=False)
    others = normal(d_out, PROBES)
    others = others - u @ (u.T @ others)
    energy = values.square().sum()
    if size < min(d_in, d_out):
        energy += _backward(function, x, others).square().sum() / PROBES
    k = min(k, size)
    return u[:, :k], values[:k], right @ v.T[:, :k], float(energy)


def _backward(function: Function, x: Tensor, vectors: Tensor) -> Tensor:
    """Return J'V [d_in, n] of vectors V [d_out, n]."""
    n = vectors.shape[1]
    with torch.enable_grad():
        copies = x.detach().expand(n, *x.shape[1:]).clone().requires_grad_()
        y = function(copies * 1)  # * 1: what works in place gets a copy
        (found,) = torch.autograd.grad(y, copies, vectors.T.reshape(y.shape))
    return found.flatten(1).T


def _forward(function: Function, x: Tensor, vectors: Tensor) -> Tensor:
    """Return JV [d_out, n] of vectors V [d_in, n]: the derivative of u -> J'u."""
    n = vectors.shape[1]
    with torch.enable_grad():
        copies = x.detach().expand(n, *x.shape[1:]).clone().requires_grad_()
        y = function(copies * 1)
        dual = torch.zeros_like(y, requires_grad=True)
        (back,) = torch.autograd.grad(y, copies, dual, create_graph=True)
        (found,) = torch.autograd.grad(back, dual, vectors.T.reshape(copies.shape))
    return found.flatten(1).T


def shared(a: Tensor, b: Tensor) -> float:
    """Return the share of the space of orthonormal columns a [d, k] that lies in that of b."""
    return ((a.T @ b).square().sum() / a.shape[1]).item()


def alignment(net: nn.Module, batches: Sequence[Batch], classes: int) -> pd.DataFrame:
    """Return one row per block, in order of depth, with the columns that `LEGEND` explains.

    Args:
        net: in eval mode, on the device of the batches.
        batches: images and labels.
        classes: number of classes.
    """
    states = []
    for images, _ in metered(batches, len(batches), "batches"):
        with torch.no_grad():
            states.append(_states(record_blocks(net, images)[1]))
    table = pd.concat(states).groupby("block", sort=False).mean()
    few = batches[0][0][:JACOBIANS]
    with torch.no_grad():
        _, blocks = record_blocks(net, few)
    parameters = [p for p in net.parameters() if p.requires_grad]
    for parameter in parameters:  # only derivatives by x are taken
        parameter.requires_grad_(False)
    try:
        rows = []
        for i in metered(range(len(few)), len(few), "images"):
            rows.append(_jacobians(blocks, i, classes))
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
    table = table.join(pd.concat(rows).groupby("block", sort=False).mean())
    table["times_blocks"] = table["largest"] * len(table)
    return table.reset_index().rename_axis("index").reset_index()


def _states(blocks: Sequence[BlockActivations]) -> pd.DataFrame:
    """Return how evenly the states of each stage lie on a line, a row per block."""
    stages: list[list[BlockActivations]] = []
    for block in blocks:
        if not stages or not block.same_shape or stages[-1][-1].y.shape != block.x.shape:
            stages.append([])
        stages[-1].append(block)
    rows = []
    for number, stage in enumerate(stages):
        inside = [block for block in stage if block.same_shape]
        straight = uneven = float("nan")
        if len(inside) > 1:
            steps = torch.stack([(b.y - b.x).flatten(1).norm(dim=1) for b in inside])
            way = (inside[-1].y - inside[0].x).flatten(1).norm(dim=1)
            straight = (way / steps.sum(0)).nanmean().item()
            uneven = (steps.std(0, correction=0) / steps.mean(0)).nanmean().item()
        for block in stage:
            rows.append((block.name, number, straight, uneven))
    return pd.DataFrame(rows, columns=["block", "stage", "straight", "uneven"])


def _jacobians(blocks: Sequence[BlockActivations], i: int, k: int) -> pd.DataFrame:
    """Return what the Jacobians of F at image i have in common, a row per block."""
    found = [singular(block.branch, block.x[i : i + 1], k) for block in blocks]
    rows = []
    for number, (block, (left, values, right, energy)) in enumerate(
        zip(blocks, found, strict=True)
    ):
        row = {
            "block": block.name,
            "left_right": float("nan"),
            "next": float("nan"),
            "unrelated": left.shape[1] / left.shape[0],
            "top": values.square().sum().item() / energy if energy else float("nan"),
            "largest": values[0].item(),
        }
        if left.shape == right.shape and values[0] > 0:
            row["left_right"] = shared(left, right)
        if number + 1 < len(blocks) and found[number + 1][0].shape == left.shape and values[0] > 0:
            row["next"] = shared(left, found[number + 1][0])
        rows.append(row)
    return pd.DataFrame(rows)


def measure(subject: Subject, args: Namespace) -> pd.DataFrame:
    """Measure one net for `inspect alignment`."""
    batches = first(subject.train_eval, args.images)
    return alignment(subject.finite_net, batches, subject.experiment.data.num_classes).assign(
        images=sum(len(labels) for _, labels in batches)
    )


def summarise(table: pd.DataFrame) -> dict[str, float]:
    """Return one net's row of the summary: means over blocks; what has no value is left out."""
    row = {key: table[key].mean() for key in HEADS}
    return {key: value for key, value in row.items() if np.isfinite(value)}


def remarks(frame: pd.DataFrame) -> list[str]:
    """Return what the columns are, what the values say, and what they cannot say."""
    found = [LEGEND]
    for net, part in frame.groupby("net", sort=False):
        of_seeds = [summarise(one) for _, one in part.groupby("seed", dropna=False)]
        mean = pd.DataFrame(of_seeds).mean()
        if "next" not in mean:
            found.append(f"{net}: no two successive blocks have Jacobians of one shape.")
            continue
        times = mean["next"] / mean["unrelated"]
        found.append(
            f"{net}: successive blocks share {mean['next']:.0%} of their leading directions, "
            f"{times:.1f} times what unrelated ones would; they hold {mean['top']:.0%} of the "
            f"Jacobian's energy; its largest singular value is {mean['largest']:.3g}."
        )
    found.append(
        "Not shown: other images. Li & Papyan 2023 measured large nets trained to zero error, with "
        "the activation inside of F; here a ReLU may follow the sum, and F of a plain net is the "
        "block without its last ReLU. A net that has learned little has no alignment to expect."
    )
    return found


def figure(frame: pd.DataFrame, title: str = "") -> Drawing:
    """Draw over depth what blocks share, the energy of K directions, and the largest value."""
    depth = ("index", "block, in order of depth")
    following = Panel("next", "directions shared with the next block", *depth)
    both = Panel("left_right", "left directions that are right ones", *depth)
    top = Panel("top", "share of energy in K directions", *depth)
    largest = Panel("largest", "largest singular value of dF/dx", *depth, log=True)
    return panels(frame, [following, both, top, largest], title)
