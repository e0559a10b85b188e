"""Linear probes: accuracy of a linear classifier on each block's output (Alain & Bengio 2016).

`resnet-cli inspect probes runs/digits_degradation`

docs/science.md shows the measurements.

A probe measures linear separability of the classes, not how "high" the features are.
"""

import warnings
from argparse import Namespace
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from lightning_resnet.analysis.compare.panels import Panel, panels
from lightning_resnet.analysis.inspection.subjects import Subject
from lightning_resnet.models.activations import Batch, record_blocks
from lightning_resnet.progress import metered

C = 1.0  # inverse L2 penalty of the probes, on standardised features
LEGEND = (
    "Eval mode. A logistic regression (scikit-learn, C = 1, standardised) per block, on its output "
    "averaged over positions: fitted on the images of the clean training error, error in percent "
    "on the validation images (val) and on its own (train). index -1: on the input's pixels "
    "averaged over positions. Summary: validation error of the input and of the first and last "
    "block; blocks to within 5 points of the best validation error."
)
HEADS = {
    "input": "input",
    "first": "first block",
    "last": "last block",
    "to_5": "blocks to best + 5",
}


def probes(net: nn.Module, train: Sequence[Batch], val: Sequence[Batch]) -> pd.DataFrame:
    """Return the errors (%) of the probes.

    Args:
        net: in eval mode.
        train: batches to fit the probes on.
        val: batches to measure the error on.

    Returns:
        One row per block, and one for the input: columns index, block, channels, train, val.
    """
    x, labels = _features(net, train)
    x_val, labels_val = _features(net, val)
    rows = []
    for i, name in enumerate(metered(x, len(x), "probes")):
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=2000))
        with warnings.catch_warnings():
            # the error hardly moves after 2,000 iterations
            warnings.simplefilter("ignore", ConvergenceWarning)
            probe.fit(x[name], labels)
        row = {
            "index": i - 1,
            "block": name,
            "channels": x[name].shape[1],
            "train": 100 * (1 - probe.score(x[name], labels)),
            "val": 100 * (1 - probe.score(x_val[name], labels_val)),
        }
        rows.append(row)
    return pd.DataFrame(rows)


@torch.no_grad()
def _features(net: nn.Module, batches: Sequence[Batch]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the outputs averaged over positions, block -> [images, channels]; labels [images]."""
    parts: dict[str, list[torch.Tensor]] = {"input": []}
    for images, _ in metered(batches, len(batches), "batches"):
        parts["input"].append(images.mean((2, 3)))
        for block in record_blocks(net, images)[1]:
            parts.setdefault(block.name, []).append(block.y.mean((2, 3)))
    features = {name: torch.cat(part).cpu().double().numpy() for name, part in parts.items()}
    return features, torch.cat([labels for _, labels in batches]).cpu().numpy()


def measure(subject: Subject, args: Namespace) -> pd.DataFrame:
    """Measure one net for `inspect probes`."""
    return probes(subject.net, subject.train_eval, subject.val)


def summarise(table: pd.DataFrame) -> dict[str, float]:
    """Return one net's row of the summary."""
    val = table["val"].iloc[1:]
    near = int((val <= val.min() + 5).to_numpy().argmax()) + 1
    return {"input": table["val"].iloc[0], "first": val.iloc[0], "last": val.iloc[-1], "to_5": near}


def remarks(frame: pd.DataFrame) -> list[str]:
    """Return what the columns are."""
    return [LEGEND]


def figure(frame: pd.DataFrame, title: str = "", narrow: bool = False) -> Figure:
    """Draw the error over depth."""
    depth = ("index", "block, in order of depth (-1: input)")
    val = Panel("val", "validation error of the probe (%)", *depth)
    train = Panel("train", "training error (%)", *depth)
    return panels(frame, [val, train], title, narrow, errors=True)
