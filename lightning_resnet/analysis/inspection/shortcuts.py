"""What trained projections do to x: their singular values, and how much of x they keep.

`resnet-cli inspect shortcuts RUN` of a net with shortcut B or C

He et al. 2015, sec. 3.3, use projections where shapes change. A 1x1 convolution with stride 2 sees
a quarter of the positions. docs/science.md shows the measurements.
"""

from argparse import Namespace
from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_resnet.analysis.compare.panels import Drawing, Panel, panels
from lightning_resnet.analysis.inspection.subjects import Subject
from lightning_resnet.errors import UserError
from lightning_resnet.models.activations import Batch, BlockActivations, record_blocks

LEGEND = (
    "Eval mode, mean over batches, of the shortcuts that are not x itself, as linear maps of the "
    "channels (a norm after the convolution included; behind an activation, as in "
    "preact_bottleneck, there is no such map). singular: singular values, rank 0 the largest; "
    "positions: share of those seen, all behind an average of pixels; visible: share of x's energy "
    "(sum of squares) at those, or in the averages; kept: "
    "share of x's energy within the channel directions that the map does not shrink below 1/10 of "
    "its largest, at those positions; spread: largest over smallest singular value (an orthogonal "
    "map, which changes x least, has 1); from_identity, distance from identity: norm of map - "
    "identity over norm of identity, where channels in = out."
)
HEADS = {
    "shortcuts": "shortcuts",
    "positions": "positions",
    "visible": "visible",
    "kept": "kept",
    "spread": "spread",
    "from_identity": "distance from identity",
}


@torch.no_grad()
def shortcuts(net: nn.Module, batches: Sequence[Batch]) -> pd.DataFrame:
    """Return one row per singular value (`rank`) of each shortcut that is not x itself.

    The row also has the figures of the shortcut that `LEGEND` explains.

    Raises:
        UserError: the net has no such shortcut.
    """
    frames = []
    for images, _ in batches:
        rows = []
        for block in record_blocks(net, images)[1]:
            if block.shortcut is not None:
                rows += _rows(block)
        frames.append(pd.DataFrame(rows))
    if frames[0].empty:
        raise UserError(
            "no shortcut of this net changes x by a linear map: inspect one with "
            "--model.net.shortcut B or C, of preact_bottleneck C"
        )
    return pd.concat(frames).groupby(["block", "rank"], sort=False).mean().reset_index()


def _rows(block: BlockActivations) -> list[dict[str, float | str]]:
    found = linear_map(block)
    if found is None:
        return []
    weight, seen, positions = found
    _, s, v = torch.linalg.svd(weight.double(), full_matrices=False)
    x = seen.double()
    energy = block.x.double().square().sum()
    keeps = v[s > s[0] / 10]
    square = weight.shape[0] == weight.shape[1]
    eye = torch.eye(*weight.shape, dtype=weight.dtype, device=weight.device)
    facts = {
        "block": block.name,
        "positions": positions,
        "visible": (x.square().sum() / energy).item(),
        "kept": (torch.einsum("kc,bchw->bkhw", keeps, x).square().sum() / energy).item(),
        "spread": (s[0] / s[-1]).item(),
        "from_identity": ((weight - eye).norm() / eye.norm()).item() if square else float("nan"),
    }
    return [facts | {"rank": i, "singular": value} for i, value in enumerate(s.tolist())]


def linear_map(block: BlockActivations) -> tuple[Tensor, Tensor, float] | None:
    """Return the shortcut as a matrix [C', C] on the channels, and what of x it is applied to.

    The matrix is found by constant images of one channel each, less the answer to zeros. A
    projection takes every `stride`-th position, or means over as many (ResNet-D): whichever gives
    its answer to x.

    Returns:
        Matrix; x at the positions that are seen, or the means of x at all positions; the share of
        positions seen. None if the shortcut is x itself or no linear map.
    """
    channels = block.x.shape[1]
    side = block.x.shape[2]
    eye = torch.eye(channels, dtype=block.x.dtype, device=block.x.device)
    probe = eye[:, :, None, None].expand(-1, -1, side, side)
    nothing = block.shortcut(torch.zeros_like(probe))
    y = block.shortcut(probe) - nothing
    opposite = block.shortcut(-probe) - nothing
    if (y + opposite).norm() > 1e-3 * y.norm():  # an activation
        return None
    # in the middle, which no padding reaches
    weight = y[:, :, y.shape[2] // 2, y.shape[3] // 2].T.contiguous()
    if block.same_shape and torch.equal(weight, eye.to(weight.dtype)):
        return None
    stride = -(-side // y.shape[2])
    strided = block.x[:, :, ::stride, ::stride]
    pool = {"ceil_mode": True, "count_include_pad": False}
    means = F.avg_pool2d(block.x, stride, **pool)
    answer = block.shortcut(block.x) - block.shortcut(torch.zeros_like(block.x))
    distances = []
    for seen in (strided, means):
        distances.append((torch.einsum("dc,bchw->bdhw", weight, seen) - answer).norm())
    if distances[0] <= distances[1]:
        return weight, strided, strided[0, 0].numel() / block.x[0, 0].numel()
    spread = means.repeat_interleave(stride, 2).repeat_interleave(stride, 3)
    return weight, spread[:, :, :side, : block.x.shape[3]], 1.0


def measure(subject: Subject, args: Namespace) -> pd.DataFrame:
    """Measure one net for `inspect shortcuts`."""
    return shortcuts(subject.finite_net, subject.train)


def summarise(table: pd.DataFrame) -> dict[str, float]:
    """Return one net's row of the summary: means over the net's shortcuts."""
    per_block = table.drop_duplicates("block")
    row = {"shortcuts": len(per_block)}
    for key in ("positions", "visible", "kept", "spread", "from_identity"):
        row[key] = per_block[key].mean()
    return row


def remarks(frame: pd.DataFrame) -> list[str]:
    """Return what the columns are."""
    return [LEGEND]


def figure(frame: pd.DataFrame, title: str = "") -> Drawing:
    """Draw the singular values of each shortcut, sorted."""
    names = frame["block"]
    if frame["net"].nunique() > 1:
        names = frame["net"] + ", " + frame["block"]
    panel = Panel("singular", "singular value", "rank", "channel direction, sorted")
    return panels(frame.assign(net=names), [panel], title)
