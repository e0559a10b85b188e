"""Which paths carry the gradient (S11): n residual blocks are 2^n paths, k of whose blocks go through the branch.

`resnet-cli inspect paths runs/digits_degradation`

Veit et al. 2016, sec. 4.3: sample single paths of each length k, take the norm of the gradient that arrives at the
first block through each, and multiply the mean by the number of such paths, n over k.
"""

import math
from argparse import Namespace
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_resnet.analysis.compare.panels import Panel, panels
from lightning_resnet.analysis.inspection.subjects import Subject
from lightning_resnet.models.activations import Batch, Seen, observe, train_mode
from lightning_resnet.progress import metered

CARRIES = 0.95  # of the gradient, by the effective depth
LEGEND = (
    "Train mode, one training batch. length: blocks a path passes through their branch (elsewhere it takes the "
    "shortcut; ReLUs after sums gate it everywhere); norm: mean norm of the gradient that arrives at the first block "
    "through a single path of that length; share: of norm x number of such paths. shortest, longest: the effective "
    "depth, which is the narrowest range of lengths that carries 95 % of the gradient; of blocks: how many there are."
)


def paths(net: nn.Module, batch: Batch, draws: int = 10, seed: int = 0) -> pd.DataFrame:
    """Columns length, norm, share; a plain net has one path, through all blocks."""
    images, labels = batch
    rng = np.random.default_rng(seed)
    with train_mode(net), torch.enable_grad():
        logits, seen = observe(net, images.detach().requires_grad_())
        (start,) = torch.autograd.grad(F.cross_entropy(logits, labels), [seen[-1].y])
        steps = [_steps(block) for block in reversed(seen)]
        free = [i for i, (_, around) in enumerate(steps) if around]
        fixed = len(steps) - len(free)
        taken = metered(range(len(free) + 1), len(free) + 1, "path lengths")
        norms = {fixed + k: _mean_norm(steps, free, start, k, draws, rng) for k in taken}
    table = pd.DataFrame({"length": list(norms), "norm": list(norms.values())})
    total = table["norm"] * [float(math.comb(len(free), k)) for k in range(len(free) + 1)]
    return table.assign(share=total / total.sum())


Step = Callable[[Tensor], Tensor]  # gradient at a block's output -> at its input


def _steps(block: Seen) -> tuple[Step, Step | None]:
    """Through the branch, and around it; the graphs are built once and used for every path."""
    x = block.x.detach().requires_grad_()
    gate = (block.y > 0).to(x.dtype) if block.gated() else 1.0

    def through(function: Callable[[Tensor], Tensor]) -> Step:
        y = function(x * 1)
        return lambda at_y: torch.autograd.grad(y, x, at_y * gate, retain_graph=True)[0]

    return through(block.branch), through(block.shortcut) if block.shortcut else None


def _mean_norm(
    steps: Sequence[tuple[Step, Step | None]],
    free: Sequence[int],
    start: Tensor,
    k: int,
    draws: int,
    rng: np.random.Generator,
) -> float:
    """Of the gradient through paths that take k of the free blocks' branches; one path where there is only one."""
    norms = []
    for _ in range(draws if 0 < k < len(free) else 1):
        around = set(free) - set(rng.choice(free, k, replace=False)) if free else set()
        at = start
        for i, (branch, shortcut) in enumerate(steps):
            at = shortcut(at) if i in around else branch(at)
        norms.append(torch.linalg.vector_norm(at, dtype=torch.float64).item())
    return float(np.mean(norms))


def effective(table: pd.DataFrame) -> tuple[int, int]:
    """The narrowest range of lengths whose shares sum to 95 %; of equally narrow ones, that with the most."""
    share, length = table["share"].to_numpy(), table["length"].tolist()
    for width in range(1, len(share) + 1):
        sums = np.convolve(share, np.ones(width), "valid")
        if sums.max() >= CARRIES - 1e-9:
            return length[int(sums.argmax())], length[int(sums.argmax()) + width - 1]
    return length[0], length[-1]


def measure(subject: Subject, args: Namespace) -> pd.DataFrame:
    """For `inspect paths`."""
    return paths(subject.net, subject.train[0], args.draws)


def summarise(table: pd.DataFrame) -> dict[str, float]:
    """One net's row."""
    shortest, longest = effective(table)
    return {"blocks": table["length"].max(), "shortest": shortest, "longest": longest}


def remarks(frame: pd.DataFrame) -> list[str]:
    """What the columns are."""
    return [LEGEND]


def figure(frame: pd.DataFrame) -> Figure:
    """Norm through one path, and share of all, by length."""
    length = ("length", "blocks on the path")
    norm = Panel("norm", "norm of the gradient through one path", *length, log=True)
    share = Panel("percent", "share of the gradient (%)", *length)
    return panels(frame.assign(percent=100 * frame["share"]), [norm, share])
