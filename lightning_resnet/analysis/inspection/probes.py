"""Linear probes of each block's output: the class, the input's pixels, and what images share.

`resnet-cli inspect probes runs/digits_degradation`

docs/science.md shows the measurements.

A classifier (Alain & Bengio 2016) measures linear separability of the classes, not how "high" the
features are. A decoder of the pixels shows what of the input is lost by depth (Zhang et al. 2024,
arXiv 2402.08645). Two images' outputs become alike by depth in plain nets (Martens et al. 2021).
"""

import warnings
from argparse import Namespace
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional as F

from lightning_resnet.analysis.compare.figures import THEORY
from lightning_resnet.analysis.compare.panels import Drawing, Panel, panels
from lightning_resnet.analysis.inspection.shattering import mean_cosine
from lightning_resnet.analysis.inspection.subjects import Subject
from lightning_resnet.analysis.inspection.theory import cosines_of_outputs
from lightning_resnet.errors import UserError
from lightning_resnet.models.activations import Batch, BlockActivations, record_blocks
from lightning_resnet.progress import metered

C = 1.0  # inverse L2 penalty of the probes, on standardised features
DECODED = 500  # images of each split for the decoder and for cosines, at most
DECODED_BYTES = 5e8  # memory for the outputs of the images of a split
POSITIONS = 8  # in height and width: larger outputs and inputs are averaged for the decoder
ENTERING = "entering the first block"
PENALTIES = np.logspace(-8, 2, 11)  # of the decoder, over the mean eigenvalue
LEGEND = (
    "Eval mode. A logistic regression (scikit-learn, C = 1, standardised) per block, on its output "
    "averaged over positions: fitted on the images of the clean training error, error in percent "
    "on the validation images (val) and on its own (train). index -1: on the input's pixels "
    "averaged over positions. recovered: share of the input's variance, in percent, that a linear "
    "decoder (ridge, at most 8 x 8 positions) finds in the block's output, on validation images; "
    "cosine: mean cosine of two validation images' outputs; theory: that of a wide plain net "
    "without norm at He's initialization, which starts from the first block's input. Summary: "
    "validation error of the input and of the first and last block; blocks to within 5 points of "
    "the best validation error; recovered and cosine after the last block."
)
HEADS = {
    "input": "input",
    "first": "first block",
    "last": "last block",
    "to_5": "blocks to best + 5",
    "recovered": "input recovered, %",
    "cosine": "cosine of images",
    "theory_cosine": "by theory",
}


def probes(net: nn.Module, train: Sequence[Batch], val: Sequence[Batch]) -> pd.DataFrame:
    """Return the errors (%) of the probes.

    Args:
        net: in eval mode.
        train: batches to fit the probes on.
        val: batches to measure the error on.

    Returns:
        One row per block, and one for the input: columns index, block, channels, train, val,
        recovered, cosine, theory_cosine.

    Raises:
        UserError: the training images are of one class.
    """
    x, labels = _features(net, train)
    if len(set(labels.tolist())) < 2:
        raise UserError("a probe needs training images of two classes or more")
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
    return pd.DataFrame(rows).merge(survivals(net, train, val), on="block", how="left")


@torch.no_grad()
def survivals(net: nn.Module, train: Sequence[Batch], val: Sequence[Batch]) -> pd.DataFrame:
    """Return what of the input the output of each block still has, and how alike outputs are.

    Args:
        net: in eval mode.
        train: batches to fit the decoder on, of which the first images are taken.
        val: batches to measure on, of which the first images are taken.

    Returns:
        One row per block, and one for the input: columns block, recovered (%), cosine,
        theory_cosine.
    """
    x, _ = _outputs(net, train)
    x_val, blocks = _outputs(net, val)
    theory = [np.nan, *cosines_of_outputs(blocks, mean_cosine(x_val.pop(ENTERING)))]
    rows = []
    for name, by_theory in zip(x_val, theory, strict=True):
        features = x[name]
        row = {
            "block": name,
            "recovered": 100 * recovered(features, x["input"], x_val[name], x_val["input"]),
            "cosine": mean_cosine(x_val[name]),
            "theory_cosine": by_theory,
        }
        rows.append(row)
    return pd.DataFrame(rows)


def _outputs(
    net: nn.Module, batches: Sequence[Batch]
) -> tuple[dict[str, torch.Tensor], list[BlockActivations]]:
    """Return the input, what enters the first block, and the outputs of blocks, of some images.

    Each is [images, numbers].

    The images are spread evenly, because the first ones of a folder are of one class.
    """
    outputs, blocks = _of_images(net, batches[0][0][:2])
    per_image = sum(output[0].numel() * 4 for output in outputs.values())
    most = max(2, min(DECODED, int(DECODED_BYTES / per_image)))
    total = sum(len(labels) for _, labels in batches)
    wanted = torch.linspace(0, total - 1, min(most, total), dtype=torch.double).round().long()
    chosen = []
    begin = 0
    for images, _ in batches:
        here = wanted[(wanted >= begin) & (wanted < begin + len(images))] - begin
        chosen.append(images[here.to(images.device)])
        begin += len(images)
    parts: dict[str, list[torch.Tensor]] = {}
    for images in torch.cat(chosen).split(len(batches[0][0])):
        outputs, blocks = _of_images(net, images)
        for name, output in outputs.items():
            parts.setdefault(name, []).append(output)
    return {name: torch.cat(part) for name, part in parts.items()}, blocks


def _of_images(
    net: nn.Module, images: torch.Tensor
) -> tuple[dict[str, torch.Tensor], list[BlockActivations]]:
    """Return what `_outputs` does of all these images, averaged over positions."""
    _, blocks = record_blocks(net, images)
    outputs = {"input": images, ENTERING: blocks[0].x} | {block.name: block.y for block in blocks}
    return {name: _small(output).flatten(1).cpu() for name, output in outputs.items()}, blocks


def _small(x: torch.Tensor) -> torch.Tensor:
    """Return [B, C, H, W] averaged to at most `POSITIONS` in height and width."""
    size = [min(side, POSITIONS) for side in x.shape[2:]]
    return F.adaptive_avg_pool2d(x, size)


def recovered(x: torch.Tensor, y: torch.Tensor, x_val: torch.Tensor, y_val: torch.Tensor) -> float:
    """Return the share of the variance of y_val that ridge regression predicts from x_val.

    The penalty is the one with the least leave-one-out error on the training images.

    Args:
        x: features [n, d] to fit on.
        y: what is predicted from them, [n, p].
        x_val: features [m, d] to measure on.
        y_val: what is predicted from these, [m, p].

    Returns:
        1 - residual over total sum of squares: 1 if all is found, 0 or less if nothing is.
    """
    x, y, x_val, y_val = (part.double() for part in (x, y, x_val, y_val))
    center = x.mean(0)
    x = x - center
    target = y - y.mean(0)
    gram = x @ x.T
    scale = gram.trace().item() / len(x)
    total = (y_val - y.mean(0)).square().sum()
    if not scale > 0 or not total > 0:
        return 0.0
    # the means are fitted too: a large eigenvalue along (1, 1, ...) counts them among what is
    # fitted, and changes nothing else, since the target has no such part
    values, vectors = torch.linalg.eigh(gram + scale)
    best = None
    along = vectors.T @ target
    for penalty in PENALTIES:
        inverse = 1 / (values.clamp_min(0) + penalty * scale)
        dual = vectors @ (inverse[:, None] * along)
        own = (vectors.square() * inverse).sum(1)
        error = (dual / own[:, None]).square().sum().item()
        if best is None or error < best[0]:
            best = (error, dual)
    predicted = y.mean(0) + (x_val - center) @ (x.T @ best[1])
    return (1 - (y_val - predicted).square().sum() / total).item()


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
    return probes(subject.finite_net, subject.train_eval, subject.val)


def summarise(table: pd.DataFrame) -> dict[str, float]:
    """Return one net's row of the summary; theory is left out where there is none."""
    val = table["val"].iloc[1:]
    near = int((val <= val.min() + 5).to_numpy().argmax()) + 1
    last = table.iloc[-1]
    row = {"input": table["val"].iloc[0], "first": val.iloc[0], "last": val.iloc[-1], "to_5": near}
    row |= {key: last[key] for key in ("recovered", "cosine")}
    if np.isfinite(last["theory_cosine"]):
        row["theory_cosine"] = last["theory_cosine"]
    return row


def remarks(frame: pd.DataFrame) -> list[str]:
    """Return what the columns are, and what the values say."""
    found = [LEGEND]
    for net, part in frame.groupby("net", sort=False):
        mean = part.groupby("index")[["recovered", "cosine"]].mean()
        blocks = mean.iloc[1:]
        middle = blocks.iloc[(len(blocks) - 1) // 2]
        found.append(
            f"{net}: a linear decoder recovers {blocks['recovered'].iloc[0]:.0f} % of the input's "
            f"variance after the first block, {middle['recovered']:.0f} % in the middle and "
            f"{blocks['recovered'].iloc[-1]:.0f} % after the last; two images' outputs have a "
            f"cosine of {blocks['cosine'].iloc[0]:.2f} and {blocks['cosine'].iloc[-1]:.2f} there."
        )
    found.append(
        "Not shown: what a decoder that is not linear would find. A net that classifies well also "
        "forgets what does not tell classes apart, in its last blocks."
    )
    return found


def figure(frame: pd.DataFrame, title: str = "") -> Drawing:
    """Draw the errors, what is recovered of the input, and the cosine of images, over depth."""
    depth = ("index", "block, in order of depth (-1: input)")
    val = Panel("val", "validation error of the probe (%)", *depth, error=True)
    train = Panel("train", "training error (%)", *depth, error=True)
    survives = Panel("recovered", "input recovered (%)", *depth)
    alike = Panel("cosine", "cosine of two images' outputs", *depth)
    shown = frame.assign(recovered=frame["recovered"].clip(lower=0))
    has_theory = frame[frame["theory_cosine"].notna()]
    by_theory = has_theory.assign(
        net=has_theory["net"] + THEORY,
        cosine=has_theory["theory_cosine"],
        val=np.nan,
        train=np.nan,
        recovered=np.nan,
    )
    shown = pd.concat([shown, by_theory])
    return panels(shown, [val, train, survives, alike], title)
