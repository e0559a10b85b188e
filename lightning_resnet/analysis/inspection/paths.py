"""Which paths carry the gradient: n residual blocks make 2^n paths.

`resnet-cli inspect paths runs/digits_degradation`

A path of length k goes through the branch of k blocks, and around the others. Veit et al. 2016,
sec. 4.3: sample single paths of each length k, take the norm of the gradient that arrives at the
first block through each, and multiply the mean by the number of such paths, n over k.
docs/science.md shows the measurements.
"""

import math
from argparse import Namespace
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_resnet.analysis.compare.panels import Drawing, Panel, panels
from lightning_resnet.analysis.inspection.subjects import Subject
from lightning_resnet.models.activations import Batch, BlockActivations, record_blocks, train_mode
from lightning_resnet.progress import metered

HEADS = {"blocks": "blocks", "shortest": "shortest path", "longest": "longest path"}
CARRIES = 0.95  # share of the gradient that the effective depth carries
LEGEND = (
    "Train mode, one training batch. length: blocks a path passes through their branch (elsewhere "
    "it takes the shortcut; ReLUs after sums gate it everywhere); norm: mean norm of the gradient "
    "that arrives at the first block through a single path of that length; share: of norm x number "
    "of such paths. shortest, longest: the effective depth, which is the narrowest range of "
    "lengths that carries 95 % of the gradient; of blocks: how many there are."
)


def paths(net: nn.Module, batch: Batch, draws: int = 10, seed: int = 0) -> pd.DataFrame:
    """Return the norm and share of the gradient by length of path.

    Args:
        net: a net of blocks; a plain one has one path, through all blocks.
        batch: images and labels of which the loss is taken.
        draws: paths of each length.
        seed: of the paths.

    Returns:
        Columns length, norm, share.
    """
    images, labels = batch
    rng = np.random.default_rng(seed)
    with train_mode(net), torch.enable_grad():
        logits, blocks = record_blocks(net, images.detach().requires_grad_())
        (start,) = torch.autograd.grad(F.cross_entropy(logits, labels), [blocks[-1].y])
        steps = [_steps(block) for block in reversed(blocks)]
        free = [i for i, (_, around) in enumerate(steps) if around]
        fixed = len(steps) - len(free)
        norms = {}
        for k in metered(range(len(free) + 1), len(free) + 1, "path lengths"):
            norms[fixed + k] = _mean_norm(steps, free, start, k, draws, rng)
    table = pd.DataFrame({"length": list(norms), "norm": list(norms.values())})
    total = table["norm"] * [float(math.comb(len(free), k)) for k in range(len(free) + 1)]
    return table.assign(share=total / total.sum())


Step = Callable[[Tensor], Tensor]  # gradient at a block's output -> at its input


def _steps(block: BlockActivations) -> tuple[Step, Step | None]:
    """Return the step through a block's branch, and the step around it, if there is one.

    The graphs are built once and used for every path.
    """
    x = block.x.detach().requires_grad_()
    gate = (block.y > 0).to(x.dtype) if block.gated() else 1.0

    def through(function: Callable[[Tensor], Tensor]) -> Step:
        y = function(x * 1)

        def step(at_y: Tensor) -> Tensor:
            return torch.autograd.grad(y, x, at_y * gate, retain_graph=True)[0]

        return step

    around = None if block.shortcut is None else through(block.shortcut)
    return through(block.branch), around


def _mean_norm(
    steps: Sequence[tuple[Step, Step | None]],
    free: Sequence[int],
    start: Tensor,
    k: int,
    draws: int,
    rng: np.random.Generator,
) -> float:
    """Return the mean norm of the gradient through paths that take k of the free branches.

    Args:
        steps: of each block, from the last to the first.
        free: indices of the blocks that have a way around.
        start: gradient at the last block's output.
        k: branches of free blocks that a path takes.
        draws: paths.
        rng: draws the paths.
    """
    norms = []
    several = 0 < k < len(free)
    for _ in range(draws if several else 1):
        around = set(free) - set(rng.choice(free, k, replace=False)) if free else set()
        at = start
        for i, (branch, shortcut) in enumerate(steps):
            at = shortcut(at) if i in around else branch(at)
        norms.append(torch.linalg.vector_norm(at, dtype=torch.float64).item())
    return float(np.mean(norms))


def effective(table: pd.DataFrame) -> tuple[int, int]:
    """Return the narrowest range of lengths whose shares sum to 95 %.

    Of equally narrow ranges it is the one with the largest sum.
    """
    share = table["share"].to_numpy()
    length = table["length"].tolist()
    for width in range(1, len(share) + 1):
        sums = np.convolve(share, np.ones(width), "valid")
        if sums.max() >= CARRIES - 1e-9:
            first = int(sums.argmax())
            return length[first], length[first + width - 1]
    return length[0], length[-1]


def measure(subject: Subject, args: Namespace) -> pd.DataFrame:
    """Measure one net for `inspect paths`."""
    return paths(subject.finite_net_in_training, subject.train[0], args.draws)


def summarise(table: pd.DataFrame) -> dict[str, float]:
    """Return one net's row of the summary."""
    shortest, longest = effective(table)
    return {"blocks": table["length"].max(), "shortest": shortest, "longest": longest}


def remarks(frame: pd.DataFrame) -> list[str]:
    """Return what the columns are."""
    return [LEGEND]


def figure(frame: pd.DataFrame, title: str = "") -> Drawing:
    """Draw the norm through one path, and the share of all paths, by length."""
    length = ("length", "blocks on the path")
    norm = Panel("norm", "norm of the gradient through one path", *length, log=True)
    share = Panel("percent", "share of the gradient (%)", *length)
    return panels(frame.assign(percent=100 * frame["share"]), [norm, share], title)
