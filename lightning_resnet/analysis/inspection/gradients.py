"""Where the gradient goes: through the shortcut, through the branch, and how much of it arrives.

`resnet-cli inspect gradients runs/digits_degradation`

A residual block gives dE/dx = (shortcut' + F')^T dE/ds, a plain one F'^T dE/ds, where s is the sum
before the ReLU: the added identity lives in dE/dx, and on the paper's block the ReLU after the sum
gates it (He et al. 2016, eq. 5 and sec. 3 need the pre-activation block for a clean 1).
docs/science.md shows the measurements.
"""

from argparse import Namespace
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_resnet.analysis.compare.panels import Panel, panels
from lightning_resnet.analysis.inspection.derivation import sentence
from lightning_resnet.analysis.inspection.subjects import Subject
from lightning_resnet.models.activations import Batch, BlockActivations, record_blocks, train_mode
from lightning_resnet.progress import metered

LEGEND = (
    "Train mode, mean over batches of one loss gradient each. grad_x, grad_w: norm of dE/dx at the "
    "block's input, of dE/dw of its parameters; shortcut, branch: norms of the two parts of dE/dx; "
    "sum_error: largest relative deviation of their sum from the total; gate: share of the "
    "gradient's energy that passes the ReLU after the sum; gain: grad_x over the same norm at the "
    "block's output. In the summary, first / last block: grad_x of the first block over that of "
    "the last; shortcut's share: energy of the shortcut's part over that of both parts, mean over "
    "blocks; deviation: the largest sum_error."
)
HEADS = {
    "first_last": "dE/dx, first / last block",
    "gain": "gain of a block",
    "shortcut_share": "shortcut's share",
    "gate": "gate",
    "sum_error": "deviation",
}


def gradients(net: nn.Module, batches: Sequence[Batch]) -> pd.DataFrame:
    """Return one row per block, in order of depth, with the columns that `LEGEND` explains.

    The net is afterwards as it was before.
    """
    each = metered(batches, len(batches), "batches")
    frame = pd.concat([_one_batch(net, images, labels) for images, labels in each])
    grouped = frame.groupby("block", sort=False)
    table = grouped.mean()
    table["sum_error"] = grouped["sum_error"].max()
    return table.reset_index().rename_axis("index").reset_index()


def _one_batch(net: nn.Module, images: Tensor, labels: Tensor) -> pd.DataFrame:
    with train_mode(net), torch.enable_grad():
        logits, blocks = record_blocks(net, images.detach().requires_grad_())
        weights = []
        for block in blocks:
            weights.append([p for p in block.module.parameters() if p.requires_grad])
        inputs = [block.x for block in blocks]
        outputs = [block.y for block in blocks]
        wanted = [*inputs, *outputs, *(p for part in weights for p in part)]
        found = iter(torch.autograd.grad(F.cross_entropy(logits, labels), wanted))
        at_inputs = [next(found) for _ in blocks]
        at_outputs = [next(found) for _ in blocks]
        rows = []
        for block, part, at_x, at_y in zip(blocks, weights, at_inputs, at_outputs, strict=True):
            norms = [norm(next(found)) for _ in part] or [torch.zeros(())]
            rows.append(_row(block, at_x, at_y, norm(torch.stack(norms))))
    return pd.DataFrame(rows)


def _row(
    block: BlockActivations, at_x: Tensor, at_y: Tensor, at_w: Tensor
) -> dict[str, float | str]:
    shortcut, branch, at_sum = parts(block, at_y)
    values = {  # tensors: where no gradient arrives at all, ratios are nan
        "grad_x": norm(at_x),
        "grad_w": at_w,
        "shortcut": norm(shortcut),
        "branch": norm(branch),
        "gate": (norm(at_sum) / norm(at_y)) ** 2,
        "gain": norm(at_x) / norm(at_y),
        "sum_error": norm(shortcut + branch - at_x) / norm(at_x),
    }
    return {"block": block.name} | {key: value.item() for key, value in values.items()}


def norm(x: Tensor) -> Tensor:
    """Return the Euclidean norm, in float64.

    Squares of what has vanished or exploded are beyond float32.
    """
    return torch.linalg.vector_norm(x, dtype=torch.float64)


def parts(block: BlockActivations, at_y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the parts of a block's gradient.

    Args:
        block: its recorded input and output.
        at_y: dE/dy at the output.

    Returns:
        dE/dx through the shortcut (zero if plain), dE/dx through the branch, and dE/ds before the
        ReLU after the sum.
    """
    at_sum = at_y * (block.y > 0) if block.gated() else at_y
    x = block.x.detach().requires_grad_()

    def through(function: Callable[[Tensor], Tensor]) -> Tensor:
        y = function(x * 1)  # x * 1: what works in place gets a copy
        return torch.autograd.grad(y, x, at_sum)[0]

    shortcut = through(block.shortcut) if block.shortcut else torch.zeros_like(x)
    return shortcut, through(block.branch), at_sum


def measure(subject: Subject, args: Namespace) -> pd.DataFrame:
    """Measure one net for `inspect gradients`."""
    return gradients(subject.net, subject.train)


def summarise(table: pd.DataFrame) -> dict[str, float]:
    """Return one net's row: end-to-end ratio, geometric mean gain, what the shortcut carries."""
    x = table["grad_x"]
    energy = table[["shortcut", "branch"]] ** 2
    return {
        "first_last": x.iloc[0] / x.iloc[-1],
        "gain": float(np.exp(np.log(table["gain"]).mean())),
        "shortcut_share": (energy["shortcut"] / energy.sum(axis=1)).mean(),
        "gate": table["gate"].mean(),
        "sum_error": table["sum_error"].max(),
    }


def remarks(frame: pd.DataFrame) -> list[str]:
    """Return what the columns are, the derivation in numbers, and blocks of another form."""
    remarks = [LEGEND, sentence()]
    broken = frame[frame["sum_error"] > 1e-4]
    for name in set(broken["block"]):
        remarks.append(f"Warning: {name} is not relu(F(x) + shortcut(x)), nor that without relu.")
    return remarks


def figure(frame: pd.DataFrame, title: str = "", narrow: bool = False) -> Figure:
    """Draw the norms of dE/dx and dE/dw over depth, a colour for each net."""
    x = ("index", "block, in order of depth")
    at_x = Panel("grad_x", "norm of dE/dx at the block's input", *x, log=True)
    at_w = Panel("grad_w", "norm of dE/dw", *x, log=True)
    return panels(frame, [at_x, at_w], title, narrow)
