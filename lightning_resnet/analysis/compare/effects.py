"""What the gap between deep and shallow nets depends on: main effects and interactions.

`resnet-cli compare runs/digits_gap --effects`

Gap = final validation error of a deep net minus that of its shallowest twin (all else and the seed
equal). Factors are the other settings that vary, and depth where there are several deep ones.
docs/science.md shows the measurement.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from lightning_resnet.analysis.compare.load import Runs
from lightning_resnet.analysis.compare.tables import (
    choose_rows,
    describe,
    final_errors,
    groups,
    text,
)
from lightning_resnet.errors import UserError

LEGEND = (
    "Gap: final validation error of the deep net minus that of its shallowest twin; points; "
    "relative: over the shallow net's error; chance: over what lies between the shallow net's "
    "error and chance. mean: over all cells; other lines: change of the gap from the lowest to the "
    "highest level of a factor (numbers count by their logarithm), by least squares with all "
    "two-way interactions (a x b: half the change of a's effect between the levels of b); 95 % "
    "intervals of Student's t, clear where they exclude 0."
)
MEASURES = ("points", "relative", "chance")


def gaps(runs: Runs) -> tuple[pd.DataFrame, list[str]]:
    """Return the gap of each deep run that has a shallow twin.

    Returns:
        One row per deep run, with the columns shortcut, each factor as -1 ... 1, and `MEASURES`;
        and the names of the factors.

    Raises:
        UserError: the runs have one depth only.
    """
    done = runs.runs[runs.runs["status"] == "finished"]
    rows = [row for row in choose_rows(done) if row != "shortcut"]
    if "depth" not in rows:
        raise UserError(
            "--effects is about the gap between depths: give runs of two depths or more"
        )
    errors = final_errors(runs.history)["final"].reindex(done["path"])
    done = done.assign(error=errors.to_numpy())
    twins = [key for key in (*rows, "shortcut", "seed") if key in done and key != "depth"]
    found = []
    for _, part in groups(done, twins):
        part = part.sort_values("depth")
        shallow = part.iloc[0]
        for _, deep in part[part["depth"] > shallow["depth"]].iterrows():
            found.append({key: deep[key] for key in (*twins, "depth")} | _measures(deep, shallow))
    if not found:
        raise UserError(
            "--effects measures what depth costs, and no run that has finished has a shallower "
            "twin: give runs of several depths with equal settings and seeds"
        )
    frame = pd.DataFrame(found)
    factors = [row for row in rows if frame[row].nunique() > 1]
    return frame.assign(**{row: _coded(frame[row]) for row in factors}), factors


def _measures(deep: pd.Series, shallow: pd.Series) -> dict[str, float]:
    classes = None
    for key in deep.index:
        if key.endswith("source.init_args.num_classes"):
            classes = deep[key]
            break
    chance = 100 * (1 - 1 / float(classes or deep.get("num_classes") or 10))
    gap = deep["error"] - shallow["error"]
    return {
        "points": gap,
        "relative": gap / shallow["error"] if shallow["error"] else math.nan,
        "chance": gap / (chance - shallow["error"]) if chance > shallow["error"] else math.nan,
    }


def _coded(levels: pd.Series) -> pd.Series:
    """Map levels to -1 for the lowest ... 1 for the highest.

    Numbers count by their logarithm, words by their order (two only).
    """
    values = pd.to_numeric(levels, errors="coerce")
    if values.isna().any() or (values <= 0).any():
        values = pd.Series(pd.factorize(levels.map(text), sort=True)[0], index=levels.index).add(1)
    logs = np.log(values.astype(float))
    return 2 * (logs - logs.min()) / (logs.max() - logs.min()) - 1


def effects(runs: Runs) -> pd.DataFrame:
    """Fit the gap by least squares, for each net.

    Returns:
        Columns net, effect, n, and for each of `MEASURES` its estimate, low and high.

    Raises:
        UserError: the runs have one depth only.
    """
    frame, factors = gaps(runs)
    pairs = list(itertools.combinations(factors, 2))
    lines = []
    for net, part in groups(frame, ["shortcut"]) if "shortcut" in frame else [(("",), frame)]:
        design = [
            np.ones(len(part)),
            *(part[f] / 2 for f in factors),
            *(part[a] * part[b] / 2 for a, b in pairs),
        ]
        names = ["mean", *factors, *(f"{a} x {b}" for a, b in pairs)]
        fits = {m: _fit(np.column_stack(design), part[m].to_numpy()) for m in MEASURES}
        for i, name in enumerate(names):
            line = {"net": describe(["shortcut"], net), "effect": name, "n": len(part)}
            for measure in MEASURES:
                estimate, low, high = fits[measure][i]
                line[measure] = estimate
                line[f"{measure}_low"] = low
                line[f"{measure}_high"] = high
            lines.append(line)
    return pd.DataFrame(lines)


def _fit(design: np.ndarray, y: np.ndarray) -> list[tuple[float, float, float]]:
    """Return the estimate and 95 % interval of each coefficient, by least squares.

    Args:
        design: [runs, coefficients].
        y: [runs]; runs with nan do not count.

    Returns:
        Estimate, low and high of each coefficient; nan where the runs cannot tell.
    """
    from scipy import stats  # takes 0.8 s, see `pairs.interval`

    known = ~np.isnan(y)
    design = design[known]
    y = y[known]
    freedom = len(y) - design.shape[1]
    if freedom < 1 or np.linalg.matrix_rank(design) < design.shape[1]:
        return [(math.nan,) * 3] * design.shape[1]
    estimate = np.linalg.lstsq(design, y, rcond=None)[0]
    residual = np.sum((y - design @ estimate) ** 2) / freedom
    variance = residual * np.diag(np.linalg.inv(design.T @ design))
    half = stats.t.ppf(0.975, freedom) * np.sqrt(variance)
    return list(zip(estimate, estimate - half, estimate + half, strict=True))


def to_cells(table: pd.DataFrame, measures: Sequence[str] = MEASURES) -> list[list[str]]:
    """Return the cells for people, header first."""
    cells = [["net", "effect", "n", *measures]]
    for _, row in table.iterrows():
        texts = [
            f"{row[m]:+.2f} ({row[f'{m}_low']:+.2f} to {row[f'{m}_high']:+.2f})" for m in measures
        ]
        cells.append([row["net"], row["effect"], str(row["n"]), *texts])
    return cells
