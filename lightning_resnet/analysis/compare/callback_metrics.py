"""Figures of what callbacks logged during training, over steps and over depth.

`resnet-cli compare runs/digits --panels grad_norm response_std`

They show norms of gradients, responses, and the distance of added blocks from the identity.
"""

import math
import re
from collections.abc import Sequence

import pandas as pd

from lightning_resnet.analysis.compare.kinds import KINDS
from lightning_resnet.analysis.compare.load import Runs
from lightning_resnet.analysis.compare.panels import Drawing, Panel, panels
from lightning_resnet.analysis.compare.tables import describe, groups
from lightning_resnet.errors import UserError

LAST = 5  # over depth: mean over the last fifth of what was logged


def caption(kind: str) -> str:
    """Return what the figure shows; `kind`: a key of `KINDS`."""
    return (
        f"{kind}: {KINDS[kind][0]}, logged in training by {KINDS[kind][1]}. Left: mean over blocks "
        "or layers; right: each, mean over the last fifth of training. Lines: mean over runs; "
        "bands: lowest to highest."
    )


def logged(runs: Runs, rows: Sequence[str], kind: str) -> pd.DataFrame:
    """Return what callbacks logged in the finished runs.

    Args:
        runs: with the rows of training.
        rows: columns of `runs.runs` that tell nets apart.
        kind: a key of `KINDS`.

    Returns:
        Columns net and run; then step and mean (over blocks), or index, block and value (at the
        end of training).

    Raises:
        UserError: no finished run has logged it.
    """
    done = runs.runs[runs.runs["status"] == "finished"]
    columns = [name for name in runs.history if name.startswith(f"{kind}/")]
    found = []
    for key, part in groups(done, rows):
        for path in part["path"]:
            values = runs.history[runs.history["path"] == path].set_index("step")[columns]
            values = values.dropna(how="all").dropna(how="all", axis=1)
            if not values.empty:
                found.append(_one_run(values).assign(net=describe(rows, key), run=path))
    if not found:
        cure = f"--trainer.callbacks+={KINDS[kind][1]}"
        if kind == "branch_scale":
            cure = "--model.net.branch_scale skip_init, or another learned one"
        raise UserError(f"--panels {kind}: no finished run has logged {kind}/*; train with {cure}")
    return pd.concat(found, ignore_index=True)


def _one_run(values: pd.DataFrame) -> pd.DataFrame:
    names = sorted(values, key=_in_order_of_depth)
    at_last = values[names].tail(math.ceil(len(values) / LAST)).mean()
    over_steps = pd.DataFrame({"step": values.index, "mean": values.mean(axis=1).to_numpy()})
    blocks = [name.partition("/")[2] for name in names]
    over_depth = pd.DataFrame(
        {"index": range(len(names)), "block": blocks, "value": at_last.to_numpy()}
    )
    return pd.concat([over_steps, over_depth], ignore_index=True)


def _in_order_of_depth(name: str) -> list[int | str]:
    """Return a key that sorts layer10 after layer2."""
    return [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", name)]


def figure(frame: pd.DataFrame, kind: str) -> Drawing:
    """Draw the metric over training, and over depth at the end of it; a colour for each setting."""
    title, _, log = KINDS[kind]
    over_steps = Panel("mean", f"{title}, mean", "step", "iterations (optimizer steps)", log)
    over_depth = Panel("value", title, "index", "block or layer, in order of depth", log)
    return panels(frame, [over_steps, over_depth])
