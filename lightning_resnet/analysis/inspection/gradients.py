"""Where the gradient goes: through the shortcut, through the branch, and how much of it arrives.

`resnet-cli inspect gradients runs/digits_degradation`

A residual block gives dE/dx = (shortcut' + F')^T dE/ds, a plain one F'^T dE/ds, where s is the sum
before the ReLU: the added identity lives in dE/dx, and on the paper's block the ReLU after the sum
gates it (He et al. 2016, eq. 5 and sec. 3 need the pre-activation block for a clean 1).
docs/science.md shows the measurements.

Two more measures tell how alike gradients are (see `shattering`), and the lines of `theory` stand
next to what is measured.
"""

import math
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_resnet.analysis.compare.figures import THEORY
from lightning_resnet.analysis.compare.panels import Drawing, Panel, panels
from lightning_resnet.analysis.inspection import theory
from lightning_resnet.analysis.inspection.derivation import sentence
from lightning_resnet.analysis.inspection.report import geometric_mean
from lightning_resnet.analysis.inspection.shattering import lowest_cosine, shattering
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
    "blocks; deviation: the largest sum_error. cosine: mean cosine between two images' gradients "
    "of one combination of logits at the block's input, in the summary that of the first block; "
    "batch norm there takes the batch's statistics as constants. confusion: lowest cosine between "
    "two batches' dE/dw, in the summary that of all weights. theory: see below; layers: those with "
    "weights in the block."
)
UNSEEN = 1e-5  # cosines below that are lost in the noise of a net of real width, and are not drawn
HEADS = {
    "first_last": "dE/dx, first / last block",
    "first_last_theory": "by theory",
    "gain": "gain of a block",
    "shortcut_share": "shortcut's share",
    "gate": "gate",
    "sum_error": "deviation",
    "cosine": "cosine of images",
    "confusion": "lowest cosine of batches",
}


def gradients(net: nn.Module, batches: Sequence[Batch]) -> pd.DataFrame:
    """Return one row per block, in order of depth, with the columns that `LEGEND` explains.

    The net is afterwards as it was before.
    """
    frames = []
    vectors = []
    for images, labels in metered(batches, len(batches), "batches"):
        frame, of_batch = _one_batch(net, images, labels)
        frames.append(frame.assign(cosine=shattering(net, images)))
        vectors.append(of_batch)
    grouped = pd.concat(frames).groupby("block", sort=False)
    table = grouped.mean()
    table["sum_error"] = grouped["sum_error"].max()
    table["confusion"] = [lowest_cosine(of_block) for of_block in zip(*vectors, strict=True)][:-1]
    table["confusion_net"] = lowest_cosine([of_batch[-1] for of_batch in vectors])
    table["theory_x"] *= table["grad_x"].iloc[-1]
    table["pairs_of_batches"] = len(batches) * (len(batches) - 1) // 2
    return table.reset_index().rename_axis("index").reset_index()


def _one_batch(net: nn.Module, images: Tensor, labels: Tensor) -> tuple[pd.DataFrame, list[Tensor]]:
    """Return a row per block; and dE/dw of each block's weights, and of all weights, as vectors."""
    with train_mode(net), torch.enable_grad():
        logits, blocks = record_blocks(net, images.detach().requires_grad_())
        weights = [p for p in net.parameters() if p.requires_grad]
        inputs = [block.x for block in blocks]
        outputs = [block.y for block in blocks]
        found = torch.autograd.grad(
            F.cross_entropy(logits, labels), [*inputs, *outputs, *weights], materialize_grads=True
        )
        n = len(blocks)
        at_weights = dict(zip(weights, found[2 * n :], strict=True))
        rows = []
        vectors = []
        for block, at_x, at_y in zip(blocks, found[:n], found[n : 2 * n], strict=True):
            own = [at_weights[p] for p in block.module.parameters() if p.requires_grad]
            norms = [norm(part) for part in own] or [torch.zeros(())]
            row = _row(block, at_x, at_y, norm(torch.stack(norms)))
            rows.append(row | {"layers": len(theory.layers(block.module))})
            vectors.append(_flat(own))
        vectors.append(_flat(at_weights.values()))
    frame = pd.DataFrame(rows).assign(
        theory_x=theory.norms_of_gradients(blocks),
        theory_cosine=theory.cosines_of_gradients(blocks),
    )
    return frame, vectors


def _flat(parts: Iterable[Tensor]) -> Tensor:
    """Return tensors as one vector on the CPU, where the vectors of all batches find room."""
    return torch.cat([part.detach().flatten().cpu() for part in parts] or [torch.zeros(0)])


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

    shortcut = torch.zeros_like(x) if block.shortcut is None else through(block.shortcut)
    return shortcut, through(block.branch), at_sum


def measure(subject: Subject, args: Namespace) -> pd.DataFrame:
    """Measure one net for `inspect gradients`."""
    return gradients(subject.finite_net_in_training, subject.train)


def summarise(table: pd.DataFrame) -> dict[str, float]:
    """Return one net's row: end-to-end ratio, geometric mean gain, what the shortcut carries.

    Cosines and the line of theory are left out where they could not be measured.
    """
    x = table["grad_x"]
    energy = table[["shortcut", "branch"]] ** 2
    row = {
        "first_last": x.iloc[0] / x.iloc[-1],
        "first_last_theory": table["theory_x"].iloc[0] / table["theory_x"].iloc[-1],
        "gain": float(np.exp(np.log(table["gain"]).mean())),
        "shortcut_share": (energy["shortcut"] / energy.sum(axis=1)).mean(),
        "gate": table["gate"].mean(),
        "sum_error": table["sum_error"].max(),
        "cosine": table["cosine"].iloc[0],
        "confusion": table["confusion_net"].iloc[0],
    }
    optional = ("first_last_theory", "cosine", "confusion")
    return {key: value for key, value in row.items() if key not in optional or value == value}


def remarks(frame: pd.DataFrame) -> list[str]:
    """Return what the columns are, the derivation in numbers, and blocks of another form."""
    found = [LEGEND, sentence()]
    for net, part in frame.groupby("net", sort=False):
        found += _told(net, part)
    found.append(
        "Theory: of wide dense nets at initialisation. Batch norm and ReLU multiply the norm of "
        "dE/dx by sqrt(pi / (pi - 1)) = 1.211 per plain layer (Yang et al. 2019), He's "
        "initialization without norm by 1, Xavier's by 0.71; with shortcuts and batch norm the "
        "growth is polynomial, for which no line is drawn. A plain layer halves the cosine of two "
        "images' gradients; with shortcuts and batch norm it falls like blocks^(-1/2) where a "
        "branch has one layer (Balduzzi et al. 2017), like blocks^(-3/4) where it has two; factors "
        "of F(x) and x count, a ReLU after the sum, which lowers it, does not. Convolutions share "
        "masks in space, so their cosines are higher. The lines "
        "say nothing about weights after training."
    )
    broken = frame[frame["sum_error"] > 1e-4]
    for name in set(broken["block"]):
        found.append(f"Warning: {name} is not relu(F(x) + shortcut(x)), nor that without relu.")
    return found


def _told(net: str, part: pd.DataFrame) -> list[str]:
    """Return what the values of a net say, in sentences."""
    of_seeds = [one for _, one in part.groupby("seed", dropna=False)]
    n_layers = int(of_seeds[0]["layers"].iloc[:-1].sum())
    mean = pd.DataFrame([summarise(one) for one in of_seeds]).mean()
    found = []
    if "first_last_theory" in mean and n_layers:
        rates = [(one["grad_x"].iloc[0] / one["grad_x"].iloc[-1]) for one in of_seeds]
        rate = geometric_mean(rates) ** (1 / n_layers)
        predicted = mean["first_last_theory"] ** (1 / n_layers)
        found.append(
            f"{net}: going back, the norm of dE/dx is multiplied by {rate:.3f} per layer, over "
            f"{n_layers} layers; by theory {predicted:.3f}."
        )
    if "cosine" in mean:
        of_theory = np.mean([one["theory_cosine"].iloc[0] for one in of_seeds])
        by_theory = f"by theory {of_theory:.2g}"
        if math.isnan(of_theory):
            by_theory = "theory knows no gates"
        found.append(
            f"{net}: two images' gradients have a mean cosine of {mean['cosine']:.3g} at the first "
            f"block's input; {by_theory}."
        )
    if "confusion" in mean:
        found.append(
            f"{net}: the lowest cosine between the gradients of two batches is "
            f"{mean['confusion']:.2f}, of {part['pairs_of_batches'].iloc[0]} pairs."
        )
    else:
        found.append(f"{net}: the cosine of batches needs --batches 2 or more.")
    return found


def figure(frame: pd.DataFrame, title: str = "") -> Drawing:
    """Draw norms of dE/dx and dE/dw and the cosine of images over depth, with lines of theory."""
    x = ("index", "block, in order of depth")
    at_x = Panel("grad_x", "norm of dE/dx at the block's input", *x, log=True)
    at_w = Panel("grad_w", "norm of dE/dw", *x, log=True)
    cosine = Panel("cosine", "cosine of two images' gradients", *x, log=True)
    by_theory = frame.assign(
        net=frame["net"] + THEORY,
        grad_x=frame["theory_x"],
        grad_w=np.nan,
        cosine=frame["theory_cosine"].where(frame["theory_cosine"] > UNSEEN),
    )
    return panels(pd.concat([frame, by_theory]), [at_x, at_w, cosine], title)
