"""How strongly layers respond (S8): He et al. 2015, fig. 7; F(x) against x; weights.

`resnet-cli inspect responses runs/digits_degradation`
"""

from argparse import Namespace
from collections.abc import Sequence

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn

from lightning_resnet.analysis.compare.panels import Panel, panels
from lightning_resnet.analysis.inspection.subjects import Subject
from lightning_resnet.models.activations import Batch, observe, train_mode, watch_responses
from lightning_resnet.progress import metered

LEGEND = (
    "Train mode (batch statistics), mean over batches. std: standard deviation of a 3x3 layer's response over images, "
    "channels and positions, after its norm if one follows, before the activation and the addition (He et al. 2015, "
    "fig. 7); rank: its place when sorted, the largest first; ratio: norm of F(x) over norm of x, of the layer's "
    "block; weight_norm: of all convolution weights of that block. In the summary: std over layers, the rest over "
    "blocks. Under batch norm std is about the norm's weights, 1 at the start: short runs hardly move it."
)


@torch.no_grad()
def responses(net: nn.Module, batches: Sequence[Batch]) -> pd.DataFrame:
    """One row per 3x3 layer, in order of depth: see LEGEND; layers of no block (the stem) have no ratio."""
    stds, ratios = [], []
    with train_mode(net):
        for images, _ in metered(batches, len(batches), "batches"):
            with watch_responses(net) as found:
                _, seen = observe(net, images)
            stds.append({layer: values[0].item() for layer, values in found.items()})
            ratios.append({b.name: (b.branch(b.x).norm() / b.x.norm()).item() for b in seen})
    table = pd.DataFrame(stds).mean().rename_axis("layer").reset_index(name="std")
    table["rank"] = table["std"].rank(ascending=False, method="first").astype(int) - 1
    table["block"] = [next((n for n in ratios[0] if layer.startswith(f"{n}.")), None) for layer in table["layer"]]
    table["ratio"] = table["block"].map(pd.DataFrame(ratios).mean())
    table["weight_norm"] = table["block"].map({n: weight_norm(net.get_submodule(n)) for n in ratios[0]})
    return table.rename_axis("index").reset_index()


def weight_norm(block: nn.Module) -> float:
    """Of all convolution weights: He et al. 2015, sec. 3.1, expect them driven toward zero where identity is best."""
    weights = [m.weight.detach().norm() for m in block.modules() if isinstance(m, nn.Conv2d)]
    return torch.stack(weights or [torch.zeros(())]).norm().item()


def measure(subject: Subject, args: Namespace) -> pd.DataFrame:
    """For `inspect responses`."""
    return responses(subject.net, subject.train)


def summarise(table: pd.DataFrame) -> dict[str, float]:
    """One net's row."""
    blocks = table.drop_duplicates("block").dropna(subset="block")
    means = {"std": table["std"].mean(), "std_median": table["std"].median()}
    return means | {"ratio": blocks["ratio"].mean(), "weight_norm": blocks["weight_norm"].mean()}


def remarks(frame: pd.DataFrame) -> list[str]:
    """What the columns are."""
    return [LEGEND]


def figure(frame: pd.DataFrame) -> Figure:
    """The paper's figure 7: layers in order of depth, and sorted; then F(x) against x."""
    depth, rank = ("index", "3x3 layer, in order of depth"), ("rank", "3x3 layer, sorted by response")
    std, ratio = ("std", "std of the response"), ("ratio", "norm of F(x) / norm of x")
    return panels(frame, [Panel(*std, *depth), Panel(*std, *rank), Panel(*ratio, *depth)])
