"""What a trained net loses with its blocks (S11): each deleted, several deleted, several exchanged (Veit et al. 2016).

`resnet-cli inspect lesions runs/digits_degradation`: plain nets under the same lesions, for contrast.
"""

from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import nn

from lightning_resnet.analysis.compare.panels import Panel, panels
from lightning_resnet.analysis.inspection.subjects import Subject
from lightning_resnet.models.activations import Batch, Seen, error
from lightning_resnet.models.surgery import alike, anatomy, drop, droppable, permute
from lightning_resnet.progress import metered

COUNTS = 8  # numbers of blocks to delete or move, spread over what is possible
LEGEND = (
    "Validation error in percent, eval mode, no training after the lesion. A deleted residual block passes its "
    "shortcut alone; plain blocks are deleted where their shapes are the same; of blocks to exchange, those of equal "
    "shapes change places in a random cycle. unharmed: the whole net; one_middle: mean over the single blocks that "
    "neither begin nor end a stage; one_worst: over all; half_deleted, half_moved: mean over random draws of half of "
    "the blocks. CSV: every lesion."
)


def lesions(net: nn.Module, batches: Sequence[Batch], draws: int = 10, seed: int = 0) -> pd.DataFrame:
    """Error (%) after each lesion.

    Args:
        net: in eval mode, on the device of the batches.
        batches: to measure the error on.
        draws: random lesions of each number of blocks.
        seed: of those.

    Returns:
        Columns lesion (none | one | delete | permute), block (of `one`), index, changed (number of blocks), error.
    """
    plan, rows = [*_plan(anatomy(net, batches[0][0][:2]), draws, np.random.default_rng(seed))], []
    for row, lesion in metered(plan, len(plan), "lesions"):
        with lesion:
            rows.append(row | {"error": error(net, batches)})
    return pd.DataFrame(rows)


def _plan(seen: list[Seen], draws: int, rng: np.random.Generator) -> Iterator[tuple[dict, AbstractContextManager]]:
    """Each lesion: what its row says, and the lesion itself."""
    can, flat = droppable(seen), [block for group in alike(seen) for block in group]
    yield {"lesion": "none", "changed": 0}, nullcontext()
    for block in can:
        yield {"lesion": "one", "changed": 1, "block": block.name, "index": seen.index(block)}, drop([block])
    for k in [k for k in _spread(1, len(can)) for _ in range(draws)]:
        chosen = [can[i] for i in rng.choice(len(can), k, replace=False)]
        yield {"lesion": "delete", "changed": k}, drop(chosen)
    for k in [k for k in _spread(2, len(flat)) for _ in range(draws)]:
        chosen = [flat[i] for i in rng.permutation(len(flat))[:k]]
        yield {"lesion": "permute", "changed": k}, permute(*_cycles(chosen))


def _cycles(chosen: Sequence[Seen]) -> tuple[list[Seen], list[Seen]]:
    """Each block and the one that takes its place: the next one of its shapes, in the order given."""
    groups = alike(chosen)
    blocks = [block for group in groups for block in group]
    return blocks, [block for group in groups for block in [*group[1:], group[0]]]


def _spread(low: int, high: int) -> list[int]:
    return sorted({round(k) for k in np.linspace(low, high, COUNTS)}) if high >= low else []


def measure(subject: Subject, args: Namespace) -> pd.DataFrame:
    """For `inspect lesions`."""
    return lesions(subject.net, subject.val, args.draws)


def summarise(table: pd.DataFrame) -> dict[str, float]:
    """One net's row."""
    one, half = table[table["lesion"] == "one"], {}
    for lesion in ("delete", "permute"):
        part = table[table["lesion"] == lesion]
        near = (part["changed"] - part["changed"].max() / 2).abs()
        half[lesion] = part["error"][near == near.min()].mean()
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
    """What the columns are."""
    return [LEGEND]


def figure(frame: pd.DataFrame) -> Figure:
    """Error without each block, and against the number of blocks deleted or moved."""
    of = lambda *kinds: frame["error"].where(frame["lesion"].isin(kinds))  # noqa: E731
    wide = frame.assign(one=of("one"), delete=of("delete", "none"), permute=of("permute", "none"))
    text = "validation error (%)"
    return panels(
        wide,
        [
            Panel("one", text, "index", "the one block deleted"),
            Panel("delete", text, "changed", "random blocks deleted"),
            Panel("permute", text, "changed", "random blocks out of place"),
        ],
    )
