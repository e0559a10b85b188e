"""How far straight cuts tell the classes apart on each block's output (S2): linear probes (Alain & Bengio 2016).

`resnet-cli inspect probes runs/digits_degradation`

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
from lightning_resnet.models.activations import Batch, observe
from lightning_resnet.progress import metered

C = 1.0  # inverse L2 penalty of the probes, on standardised features
LEGEND = (
    "Eval mode. A logistic regression (scikit-learn, C = 1, standardised) per block, on its output averaged over "
    "positions: fitted on the images of the clean training error, error in percent on the validation images (val) and "
    "on its own (train). index -1: on the input's pixels averaged over positions. first, last: of the first and the "
    "last block; to_5: blocks until the validation error is within 5 points of the best."
)


def probes(net: nn.Module, train: Sequence[Batch], val: Sequence[Batch]) -> pd.DataFrame:
    """One row per block, and one for the input: errors (%) of the probe; `channels` it sees."""
    (x, labels), (x_val, labels_val) = (_features(net, batches) for batches in (train, val))
    rows = []
    for i, name in enumerate(metered(x, len(x), "probes")):
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=2000))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the error hardly moves after 2,000 iterations
            probe.fit(x[name], labels)
        errors = {"train": probe.score(x[name], labels), "val": probe.score(x_val[name], labels_val)}
        errors = {split: 100 * (1 - accuracy) for split, accuracy in errors.items()}
        rows.append({"index": i - 1, "block": name, "channels": x[name].shape[1], **errors})
    return pd.DataFrame(rows)


@torch.no_grad()
def _features(net: nn.Module, batches: Sequence[Batch]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Block -> [images, channels]; labels [images]."""
    parts = []
    for images, _ in metered(batches, len(batches), "batches"):
        seen = observe(net, images)[1]
        parts.append({"input": images.mean((2, 3))} | {block.name: block.y.mean((2, 3)) for block in seen})
    features = {name: torch.cat([part[name] for part in parts]).cpu().double().numpy() for name in parts[0]}
    return features, torch.cat([labels for _, labels in batches]).cpu().numpy()


def measure(subject: Subject, args: Namespace) -> pd.DataFrame:
    """For `inspect probes`."""
    return probes(subject.net, subject.train_eval, subject.val)


def summarise(table: pd.DataFrame) -> dict[str, float]:
    """One net's row."""
    val = table["val"].iloc[1:]
    near = int((val <= val.min() + 5).to_numpy().argmax()) + 1
    return {"input": table["val"].iloc[0], "first": val.iloc[0], "last": val.iloc[-1], "to_5": near}


def remarks(frame: pd.DataFrame) -> list[str]:
    """What the columns are."""
    return [LEGEND]


def figure(frame: pd.DataFrame) -> Figure:
    """Error over depth."""
    depth = ("index", "block, in order of depth (-1: input)")
    each = [Panel("val", "validation error of the probe (%)", *depth), Panel("train", "training error (%)", *depth)]
    return panels(frame, each)
