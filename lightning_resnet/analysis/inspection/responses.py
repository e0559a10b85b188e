"""How strongly layers respond: He et al. 2015, fig. 7; F(x) against x; weights.

And whether F(x) goes down the loss: blocks that refine what is there add to x what lowers the loss
(Jastrzebski et al. 2018, arXiv 1710.04773, sec. 3).

`resnet-cli inspect responses runs/digits_degradation`

docs/science.md shows the measurements.
"""

import math
from argparse import Namespace
from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_resnet.analysis.compare.panels import Drawing, Panel, panels
from lightning_resnet.analysis.inspection.subjects import Subject
from lightning_resnet.errors import UserError
from lightning_resnet.models.activations import (
    Batch,
    BlockActivations,
    record_blocks,
    train_mode,
    watch_responses,
)
from lightning_resnet.models.blocks import learned_scales
from lightning_resnet.progress import metered

LEGEND = (
    "Train mode (batch statistics), mean over batches. std: standard deviation of a 3x3 layer's "
    "response over images, channels and positions, after its norm if one follows, before the "
    "activation and the addition (He et al. 2015, fig. 7); rank: its place when sorted, the "
    "largest first; ratio: norm of F(x) over norm of x, of the layer's block; weight_norm: of all "
    "convolution weights of that block; descent: cosine of F(x) and -dE/dx, mean over images, of "
    "residual blocks whose x is added to F(x) in the same shape; scale: learned factor of F(x), "
    "which ratio contains. In the summary: std over layers, the rest over blocks. "
    "Under batch norm std is about the norm's weights, 1 at the start: short runs hardly move it."
)

HEADS = {
    "std": "std, mean",
    "std_median": "std, median",
    "ratio": "norm of F(x) / norm of x",
    "weight_norm": "norm of weights",
    "scale": "learned factor of F(x)",
    "descent": "cosine with descent",
}


def responses(net: nn.Module, batches: Sequence[Batch]) -> pd.DataFrame:
    """Return one row per 3x3 layer, in order of depth, with the columns that `LEGEND` explains.

    Layers of no block (the stem) have no ratio.

    Raises:
        UserError: the net has no 3x3 layers.
    """
    if not any(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in net.modules()):
        raise UserError(
            f"{type(net).__name__} has no 3x3 convolutions, whose responses are measured: inspect "
            "gradients, paths or lesions, which are about blocks"
        )
    stds = []
    ratios = []
    descents = []
    with train_mode(net):
        for images, labels in metered(batches, len(batches), "batches"):
            with watch_responses(net) as found, torch.enable_grad():
                logits, blocks = record_blocks(net, images.detach().requires_grad_())
            stds.append({layer: values[0].item() for layer, values in found.items()})
            loss = F.cross_entropy(logits, labels)
            slopes = torch.autograd.grad(loss, [block.x for block in blocks])
            with torch.no_grad():
                ratios.append({b.name: (b.branch(b.x).norm() / b.x.norm()).item() for b in blocks})
                each = zip(blocks, slopes, strict=True)
                descents.append({block.name: descent(block, slope) for block, slope in each})
    names = list(ratios[0])
    table = pd.DataFrame(stds).mean().rename_axis("layer").reset_index(name="std")
    table["rank"] = table["std"].rank(ascending=False, method="first").astype(int) - 1
    table["block"] = [_block_of(layer, names) for layer in table["layer"]]
    table["ratio"] = table["block"].map(pd.DataFrame(ratios).mean())
    norms = {name: weight_norm(net.get_submodule(name)) for name in names}
    table["weight_norm"] = table["block"].map(norms)
    scales = learned_scales(net)
    if scales:
        factors = {name: scale.weight.item() for name, scale in scales.items()}
        table["scale"] = table["block"].map(factors)
    table["descent"] = table["block"].map(pd.DataFrame(descents).mean())
    return table.rename_axis("index").reset_index()


def descent(block: BlockActivations, slope: Tensor) -> float:
    """Return the mean over images of the cosine of F(x) and -dE/dx.

    Args:
        block: its recorded input.
        slope: dE/dx at the input, [B, C, H, W].

    Returns:
        The cosine; NaN for plain blocks and those that change the shape, and where F(x) is 0.
    """
    if block.shortcut is None or not block.same_shape:
        return float("nan")
    added = block.branch(block.x).flatten(1).double()
    down = -slope.flatten(1).double()
    lengths = added.norm(dim=1) * down.norm(dim=1)
    return ((added * down).sum(1) / lengths)[lengths > 0].mean().item()


def _block_of(layer: str, blocks: Sequence[str]) -> str | None:
    return next((block for block in blocks if layer.startswith(f"{block}.")), None)


def weight_norm(block: nn.Module) -> float:
    """Return the norm of all convolution weights of a block.

    He et al. 2015, sec. 3.1, expect the weights to be driven toward zero where identity is best.
    """
    norms = []
    for module in block.modules():
        if isinstance(module, nn.Conv2d):
            norms.append(module.weight.detach().norm())
    return torch.stack(norms or [torch.zeros(())]).norm().item()


def measure(subject: Subject, args: Namespace) -> pd.DataFrame:
    """Measure one net for `inspect responses`."""
    return responses(subject.finite_net_in_training, subject.train)


def summarise(table: pd.DataFrame) -> dict[str, float]:
    """Return one net's row of the summary."""
    blocks = table.drop_duplicates("block").dropna(subset="block")
    row = {
        "std": table["std"].mean(),
        "std_median": table["std"].median(),
        "ratio": blocks["ratio"].mean(),
        "weight_norm": blocks["weight_norm"].mean(),
    }
    if "scale" in blocks and blocks["scale"].notna().any():
        row["scale"] = blocks["scale"].mean()
    if blocks["descent"].notna().any():
        row["descent"] = blocks["descent"].mean()
    return row


def remarks(frame: pd.DataFrame) -> list[str]:
    """Return what the columns are, and what the blocks add to x."""
    found = [LEGEND]
    for net, part in frame.groupby("net", sort=False):
        blocks = part.dropna(subset="descent").drop_duplicates(["seed", "block"])
        if blocks.empty:
            found.append(f"{net}: no block adds F(x) to x in the same shape: no cosine.")
            continue
        third = math.ceil(blocks["block"].nunique() / 3)
        of_blocks = blocks.groupby("block", sort=False)["descent"].mean()
        down = (of_blocks > 0).mean()
        found.append(
            f"{net}: in {100 * down:.0f} % of the blocks F(x) points down the loss; the cosine is "
            f"{of_blocks.iloc[:third].mean():.3f} in the first third of them and "
            f"{of_blocks.iloc[-third:].mean():.3f} in the last."
        )
    found.append(
        "Not shown: whether such a block lowers the loss, which is curved; lesions tell that."
    )
    return found


def figure(frame: pd.DataFrame, title: str = "") -> Drawing:
    """Draw the paper's figure 7, layers in order of depth and sorted; then F(x) against x."""
    depth = ("index", "3x3 layer, in order of depth")
    by_depth = Panel("std", "std of the response", *depth)
    by_rank = Panel("std", "std of the response", "rank", "3x3 layer, sorted by response")
    ratio = Panel("ratio", "norm of F(x) / norm of x", *depth)
    down = Panel("descent", "cosine of F(x) and -dE/dx", *depth)
    return panels(frame, [by_depth, by_rank, ratio, down], title)
