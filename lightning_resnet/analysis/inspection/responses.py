"""How strongly layers respond: He et al. 2015, fig. 7; F(x) against x; weights.

`resnet-cli inspect responses runs/digits_degradation`

docs/science.md shows the measurements.
"""

from argparse import Namespace
from collections.abc import Sequence

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn

from lightning_resnet.analysis.compare.panels import Panel, panels
from lightning_resnet.analysis.inspection.subjects import Subject
from lightning_resnet.models.activations import Batch, record_blocks, train_mode, watch_responses
from lightning_resnet.progress import metered

LEGEND = (
    "Train mode (batch statistics), mean over batches. std: standard deviation of a 3x3 layer's "
    "response over images, channels and positions, after its norm if one follows, before the "
    "activation and the addition (He et al. 2015, fig. 7); rank: its place when sorted, the "
    "largest first; ratio: norm of F(x) over norm of x, of the layer's block; weight_norm: of all "
    "convolution weights of that block. In the summary: std over layers, the rest over blocks. "
    "Under batch norm std is about the norm's weights, 1 at the start: short runs hardly move it."
)

HEADS = {
    "std": "std, mean",
    "std_median": "std, median",
    "ratio": "norm of F(x) / norm of x",
    "weight_norm": "norm of weights",
}


@torch.no_grad()
def responses(net: nn.Module, batches: Sequence[Batch]) -> pd.DataFrame:
    """Return one row per 3x3 layer, in order of depth, with the columns that `LEGEND` explains.

    Layers of no block (the stem) have no ratio.
    """
    stds = []
    ratios = []
    with train_mode(net):
        for images, _ in metered(batches, len(batches), "batches"):
            with watch_responses(net) as found:
                _, blocks = record_blocks(net, images)
            stds.append({layer: values[0].item() for layer, values in found.items()})
            ratios.append({b.name: (b.branch(b.x).norm() / b.x.norm()).item() for b in blocks})
    names = list(ratios[0])
    table = pd.DataFrame(stds).mean().rename_axis("layer").reset_index(name="std")
    table["rank"] = table["std"].rank(ascending=False, method="first").astype(int) - 1
    table["block"] = [_block_of(layer, names) for layer in table["layer"]]
    table["ratio"] = table["block"].map(pd.DataFrame(ratios).mean())
    norms = {name: weight_norm(net.get_submodule(name)) for name in names}
    table["weight_norm"] = table["block"].map(norms)
    return table.rename_axis("index").reset_index()


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
    return responses(subject.net, subject.train)


def summarise(table: pd.DataFrame) -> dict[str, float]:
    """Return one net's row of the summary."""
    blocks = table.drop_duplicates("block").dropna(subset="block")
    return {
        "std": table["std"].mean(),
        "std_median": table["std"].median(),
        "ratio": blocks["ratio"].mean(),
        "weight_norm": blocks["weight_norm"].mean(),
    }


def remarks(frame: pd.DataFrame) -> list[str]:
    """Return what the columns are."""
    return [LEGEND]


def figure(frame: pd.DataFrame, title: str = "", narrow: bool = False) -> Figure:
    """Draw the paper's figure 7, layers in order of depth and sorted; then F(x) against x."""
    depth = ("index", "3x3 layer, in order of depth")
    by_depth = Panel("std", "std of the response", *depth)
    by_rank = Panel("std", "std of the response", "rank", "3x3 layer, sorted by response")
    ratio = Panel("ratio", "norm of F(x) / norm of x", *depth)
    return panels(frame, [by_depth, by_rank, ratio], title, narrow)
