"""How alike the layers of a net are, and those of two nets: linear CKA.

`resnet-cli inspect similarity runs/digits_degradation`

Kornblith et al. 2019 (arXiv 1905.00414), eq. 4: ||Y'X||^2 / (||X'X|| ||Y'Y||) of centred outputs X,
Y of the same images. HSIC is estimated without bias (Song et al. 2012, eq. 5): the plain estimate
calls unrelated layers alike where they have more numbers than there are images.
"""

import math
from argparse import Namespace
from collections.abc import Sequence

import matplotlib.style
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lightning_resnet.analysis.compare.figures import STYLE, drawn, palette
from lightning_resnet.analysis.compare.panels import Drawing, Map, map_of
from lightning_resnet.analysis.inspection.landscape import first
from lightning_resnet.analysis.inspection.subjects import Subject
from lightning_resnet.errors import UserError
from lightning_resnet.models.activations import Batch, record_blocks
from lightning_resnet.progress import metered

FEWEST = 4  # images: the estimate divides by n - 3
MOST_BYTES = 4e9  # memory for the outputs of all blocks, and their Gram matrices
# bytes of a layer for each pair of images: float64, of two nets, and both again to compare them
BYTES_OF_PAIR = 4 * 8
ALIKE = 0.9
ITSELF = "itself"
FIRST = "the first net"
LEGEND = (
    "Linear CKA between the outputs of blocks for the same training images, not augmented; eval "
    "mode. 1: equal up to rotation and scale; about 0: unrelated. Estimated without bias, so that "
    "values slightly below 0 occur. neighbours: mean CKA of successive blocks; first / last: CKA "
    "of the first and the last block; alike at the end: last blocks in a row with a CKA of 0.9 or "
    "more to the last one; to the first net: mean over blocks of the highest CKA to any block of "
    "the first net that was measured. CSV: i, j count from -1, the input; the last is logits."
)
HEADS = {
    "blocks": "blocks",
    "neighbours": "neighbours",
    "first_last": "first / last",
    "alike": "alike at the end",
    "to_first": "to the first net",
}
Grams = dict[str, Tensor]  # name of a layer -> centred Gram matrix [N, N] of the images


def centred(features: Tensor) -> Tensor:
    """Return the Gram matrix [n, n] of features [n, d], centred, with zeros on the diagonal.

    The sum of the products of two such matrices is n (n - 3) times the estimate of HSIC by Song et
    al. 2012, eq. 5.
    """
    x = features.double()
    x = x - x.mean(0)  # changes nothing but the rounding
    n = len(x)
    gram = x @ x.T
    gram.fill_diagonal_(0)
    rows = gram.sum(1) / (n - 2)
    gram = gram - rows[:, None] - rows[None, :] + gram.sum() / ((n - 1) * (n - 2))
    return gram.fill_diagonal_(0)


@torch.no_grad()
def grams(net: nn.Module, batches: Sequence[Batch]) -> Grams:
    """Return the centred Gram matrices of the images, of each block's output and of the logits.

    Args:
        net: in eval mode, on the device of the batches.
        batches: images and labels, at least 4 of them.

    Returns:
        Name -> matrix [N, N] over all N images, in order of depth.

    Raises:
        UserError: there are too few images, too many for the memory, or the net has no blocks.
    """
    n = sum(len(labels) for _, labels in batches)
    if n < FEWEST:
        raise UserError(f"CKA needs {FEWEST} images or more, and here are {n}: --images 500")
    parts: dict[str, list[Tensor]] = {}
    for images, _ in metered(batches, len(batches), "batches"):
        logits, blocks = record_blocks(net, images)
        outputs = {"input": images} | {block.name: block.y for block in blocks}
        outputs["logits"] = logits
        per_image = sum(output[0].numel() * output.element_size() for output in outputs.values())
        per_pair = BYTES_OF_PAIR * len(outputs)
        if n * per_image + n**2 * per_pair > MOST_BYTES:
            root = math.sqrt(per_image**2 + 4 * per_pair * MOST_BYTES)
            most = int((root - per_image) / (2 * per_pair))
            raise UserError(
                f"the outputs of all blocks take {per_image / 1e6:.2g} MB per image, and "
                f"{per_pair:,} bytes per pair of images: --images {most} or fewer"
            )
        for name, output in outputs.items():
            parts.setdefault(name, []).append(output.flatten(1))
    return {name: centred(torch.cat(part)).cpu() for name, part in parts.items()}


def similarity(net: Grams, other: Grams) -> pd.DataFrame:
    """Return the CKA of each layer of a net and each layer of another, or of the same net.

    Args:
        net: from `grams`.
        other: from `grams`, of the same images.

    Returns:
        One row per pair: columns i, j (places in order of depth, -1: input), layer, other_layer,
        cka; NaN where the output of a layer does not depend on the image.
    """
    a = torch.stack([gram.flatten() for gram in net.values()])
    b = torch.stack([gram.flatten() for gram in other.values()])
    norms = torch.outer(a.norm(dim=1), b.norm(dim=1))
    table = torch.where(norms > 0, (a @ b.T) / norms, torch.nan).numpy()
    rows = []
    for i, layer in enumerate(net):
        for j, other_layer in enumerate(other):
            rows.append((i - 1, j - 1, layer, other_layer, table[i, j]))
    return pd.DataFrame(rows, columns=["i", "j", "layer", "other_layer", "cka"])


def measure(subject: Subject, args: Namespace) -> pd.DataFrame:
    """Measure one net for `inspect similarity`; the first one is kept in `args` for the others."""
    batches = first(subject.train_eval, args.images)
    found = grams(subject.finite_net, batches)
    labels = torch.cat([labels for _, labels in batches]).cpu()
    tables = [similarity(found, found).assign(to=ITSELF)]
    kept = getattr(args, "first_net", None)
    if kept is None:
        args.first_net = (found, labels)
    elif torch.equal(kept[1], labels):
        tables.append(similarity(found, kept[0]).assign(to=FIRST))
    joined = pd.concat(tables, ignore_index=True)
    return joined.assign(images=len(labels), is_first=kept is None)


def _square(table: pd.DataFrame, to: str) -> np.ndarray:
    """Return the CKA [layers, layers of the other]; empty if it was not measured."""
    part = table[table["to"] == to]
    return part.pivot(index="i", columns="j", values="cka").to_numpy()


def summarise(table: pd.DataFrame) -> dict[str, float]:
    """Return one net's row of the summary."""
    own = _square(table, ITSELF)[1:-1, 1:-1]
    row = {"blocks": len(own), "neighbours": np.nan}
    if len(own) > 1:
        row["neighbours"] = float(np.mean(np.diagonal(own, 1)))
    row["first_last"] = own[0, -1]
    differs = np.flatnonzero(~(own[-1] >= ALIKE))
    row["alike"] = len(own) - 1 - differs[-1] if len(differs) else len(own)
    to_first = _square(table, FIRST)[1:-1, 1:-1]
    if to_first.size:
        row["to_first"] = float(np.mean(np.max(to_first, axis=1)))
    return row


def remarks(frame: pd.DataFrame) -> list[str]:
    """Return what the columns are, what the values say, and what they cannot say."""
    found = [LEGEND]
    for net, part in frame.groupby("net", sort=False):
        of_seeds = [summarise(one) for _, one in part.groupby("seed", dropna=False)]
        mean = pd.DataFrame(of_seeds).mean()
        if np.isnan(mean["first_last"]):
            found.append(f"{net}: the output of some block is the same for all images.")
            continue
        found.append(
            f"{net}: of {mean['blocks']:.0f} blocks the last {mean['alike']:.0f} have nearly the "
            f"same output, up to rotation and scale; the first and the last have a CKA of "
            f"{mean['first_last']:.2f}."
        )
    found.append(
        f"Not shown: other images than these {frame['images'].max():,}. CKA follows the directions "
        "of largest variance: a few images far from the rest can decide it, and layers may do "
        "different work at a high CKA (Davari et al. 2023)."
    )
    return found


def _maps(frame: pd.DataFrame) -> list[Map]:
    """Return a map of CKA for each net against itself and against the first net, of one seed."""
    maps = []
    first_net = frame["net"][frame["is_first"]].iloc[0]
    for to in (ITSELF, FIRST):
        for net in dict.fromkeys(frame["net"]):
            part = frame[frame["net"] == net]
            one = part[part["seed"].isna() | (part["seed"] == part["seed"].min())]
            one = one[one["to"] == to]
            if one.empty or (to == FIRST and net == first_net):
                continue
            rows = one.drop_duplicates("i").sort_values("i")
            columns = one.drop_duplicates("j").sort_values("j")
            maps.append(
                Map(
                    net,
                    _square(one, to),
                    "linear CKA",
                    "block" if to == ITSELF else f"block of {first_net}",
                    "block, in order of depth",
                    columns["j"].tolist(),
                    rows["i"].tolist(),
                    (0.0, 1.0),
                    against="" if to == ITSELF else first_net,
                    names=(columns["other_layer"].tolist(), rows["layer"].tolist()),
                )
            )
    return maps


def figure(frame: pd.DataFrame, title: str = "") -> Drawing:
    """Draw a map of CKA for each net against itself and against the first net, of one seed."""
    maps = _maps(frame)
    columns = min(len(maps), 3)
    lines = -(-len(maps) // columns)
    size = (max(6.5, 4.2 * columns), 1.2 + 3.8 * lines)
    colour_of = palette(list(dict.fromkeys(frame["net"])))
    with matplotlib.style.context(STYLE):
        drawing = Drawing(figsize=size, dpi=150, layout="constrained")
        drawing.charts = [map_of(one, colour_of[one.net]) for one in maps]
        axes = drawing.subplots(lines, columns, squeeze=False).ravel()
        for ax, one in zip(axes, maps, strict=False):
            ends = (-1.5, len(one.xs) - 1.5, -1.5, len(one.ys) - 1.5)
            image = ax.imshow(
                one.values,
                origin="lower",
                extent=ends,
                vmin=0,
                vmax=1,
                cmap=one.colours,
                aspect="auto",
            )
            ax.grid(visible=False)
            ax.set(title=drawn(one.net), ylabel=one.y, xlabel=drawn(one.x))
        for ax in axes[len(maps) :]:
            ax.remove()
        drawing.colorbar(image, ax=list(axes[: len(maps)]), label=maps[0].title, shrink=0.8)
        if title:
            drawing.suptitle(title, fontsize=14)
    return drawing
