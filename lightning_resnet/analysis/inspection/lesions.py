"""What a trained net loses with its blocks: each deleted, several deleted, several exchanged.

`resnet-cli inspect lesions runs/digits_degradation` also shows plain nets under the same lesions.

Veit et al. 2016; docs/science.md shows the measurements.
"""

from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import pandas as pd
import torch
from torch import nn

from lightning_resnet.analysis.compare.panels import Drawing, Panel, panels
from lightning_resnet.analysis.inspection.subjects import Subject
from lightning_resnet.errors import UserError
from lightning_resnet.models.activations import Batch, BlockActivations, error, record_blocks
from lightning_resnet.models.surgery import alike, drop, droppable, permute
from lightning_resnet.progress import metered

COUNTS = 8  # numbers of blocks to delete or move, spread over what is possible
LEGEND = (
    "Validation error in percent, eval mode, no training after the lesion. A deleted residual "
    "block passes its shortcut alone; plain blocks are deleted where their shapes are the same; of "
    "blocks to exchange, those of equal shapes change places in a random cycle. no lesion: the "
    "net as it is; one deleted: mean over the single blocks that neither begin nor end a stage; "
    "worst one: over all; half deleted, half moved: mean over random draws of half of the blocks. "
    "CSV: every lesion."
)
HEADS = {
    "unharmed": "no lesion",
    "one_middle": "one deleted",
    "one_worst": "worst one",
    "half_deleted": "half deleted",
    "half_moved": "half moved",
}


def lesions(
    net: nn.Module, batches: Sequence[Batch], draws: int = 10, seed: int = 0
) -> pd.DataFrame:
    """Return the error (%) after each lesion.

    Args:
        net: in eval mode, on the device of the batches.
        batches: to measure the error on.
        draws: random lesions of each number of blocks.
        seed: of the random lesions.

    Returns:
        Columns lesion (none | one | delete | permute), block (of `one`), index, changed (number of
        blocks), error.

    Raises:
        UserError: no block can be deleted.
    """
    with torch.no_grad():
        _, blocks = record_blocks(net, batches[0][0][:2])
    if not droppable(blocks):
        raise UserError(
            "no block of this net can be deleted: all are plain and change the shape; inspect a "
            "deeper net, or one with shortcuts"
        )
    plan = list(_plan(blocks, draws, np.random.default_rng(seed)))
    rows = []
    for row, lesion in metered(plan, len(plan), "lesions"):
        with lesion:
            rows.append(row | {"error": error(net, batches)})
    return pd.DataFrame(rows)


def _plan(
    blocks: list[BlockActivations], draws: int, rng: np.random.Generator
) -> Iterator[tuple[dict, AbstractContextManager]]:
    """Yield each lesion: what its row says, and the lesion itself."""
    yield {"lesion": "none", "changed": 0}, nullcontext()
    deletable = droppable(blocks)
    for block in deletable:
        row = {"lesion": "one", "changed": 1, "block": block.name, "index": blocks.index(block)}
        yield row, drop([block])
    for k in _spread(1, len(deletable)):
        for _ in range(draws):
            chosen = [deletable[i] for i in rng.choice(len(deletable), k, replace=False)]
            yield {"lesion": "delete", "changed": k}, drop(chosen)
    movable = [block for group in alike(blocks) for block in group]
    for k in _spread(2, len(movable)):
        for _ in range(draws):
            chosen = [movable[i] for i in rng.permutation(len(movable))[:k]]
            yield {"lesion": "permute", "changed": k}, permute(*_cycles(chosen))


def _cycles(
    chosen: Sequence[BlockActivations],
) -> tuple[list[BlockActivations], list[BlockActivations]]:
    """Return the blocks, and for each the block that takes its place.

    That is the next block of the same shapes, in the order given.
    """
    blocks = []
    next_blocks = []
    for group in alike(chosen):
        blocks += group
        next_blocks += [*group[1:], group[0]]
    return blocks, next_blocks


def _spread(low: int, high: int) -> list[int]:
    """Return `COUNTS` whole numbers from low to high, or all if there are fewer."""
    if high < low:
        return []
    return sorted({round(k) for k in np.linspace(low, high, COUNTS)})


def measure(subject: Subject, args: Namespace) -> pd.DataFrame:
    """Measure one net for `inspect lesions`."""
    found = lesions(subject.finite_net, subject.val, args.draws)
    return found.assign(classes=subject.experiment.data.num_classes)


def summarise(table: pd.DataFrame) -> dict[str, float]:
    """Return one net's row of the summary."""
    half = {}
    for lesion in ("delete", "permute"):
        part = table[table["lesion"] == lesion]
        distance = (part["changed"] - part["changed"].max() / 2).abs()
        half[lesion] = part["error"][distance == distance.min()].mean()
    one = table[table["lesion"] == "one"]
    last = set(one.groupby(one["block"].str.rpartition(".")[0])["index"].max())
    middle = one[~one["block"].str.endswith(".0") & ~one["index"].isin(last)]
    return {
        "unharmed": table["error"][table["lesion"] == "none"].iloc[0],
        "one_middle": middle["error"].mean(),
        "one_worst": one["error"].max(),
        "half_deleted": half["delete"],
        "half_moved": half["permute"],
    }


def remarks(frame: pd.DataFrame) -> list[str]:
    """Return what the columns are."""
    return [LEGEND]


def figure(frame: pd.DataFrame, title: str = "") -> Drawing:
    """Draw the error without each block, and against the number of blocks deleted or moved."""
    kind = frame["lesion"]
    wide = frame.assign(
        one=frame["error"].where(kind == "one"),
        delete=frame["error"].where(kind.isin(["delete", "none"])),
        permute=frame["error"].where(kind.isin(["permute", "none"])),
        unharmed=frame["error"].where(kind == "none"),
    )
    text = "validation error (%)"
    each = [
        Panel("one", text, "index", "the one block deleted", level="unharmed", error=True),
        Panel("delete", text, "changed", "random blocks deleted", level="unharmed", error=True),
        Panel(
            "permute", text, "changed", "random blocks out of place", level="unharmed", error=True
        ),
    ]
    chance = 100 * (1 - 1 / frame["classes"].max())
    return panels(wide, each, title, chance=chance)
