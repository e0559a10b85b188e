"""Paired differences of twins, runs that differ in one setting only, with interval and test.

`resnet-cli compare runs/digits_shortcuts --baseline shortcut=none`

Twins share the seed, so they share initial tensors and order of data: the differences of twins
spread less than their errors.
"""

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
from lightning_resnet.errors import UserError, nearest

LEGEND = (
    "Paired differences of final validation error, in points, setting minus baseline over twins "
    "(all else and the seed equal): mean, 95 % interval and p of Student's t (paired, two-sided). "
    "Below 0 the setting is better."
)


def paired(runs: Runs, baseline: str, rows: Sequence[str] | None = None) -> pd.DataFrame:
    """Return the paired differences from a baseline, one row per setting.

    Args:
        runs: of which the finished ones are paired.
        baseline: `shortcut=none`: a column of `runs.runs` and its value.
        rows: settings that tell runs apart; by default those that vary.

    Returns:
        Columns setting, baseline, n, difference, low, high, p (nan where n is 1).

    Raises:
        UserError: no run has that setting, or none has a twin.
    """
    key, _, value = baseline.partition("=")
    done = runs.runs[runs.runs["status"] == "finished"]
    if key not in done or value not in set(done[key].map(text)):
        hint = nearest(key, done) or "; write it as in shortcut=none"
        if key in done:
            hint = f"; {key} is {', '.join(sorted(set(done[key].map(text))))} there"
        raise UserError(f"--baseline {baseline}: no finished run has that{hint}")
    others = [row for row in choose_rows(done, rows) if row != key]
    errors = final_errors(runs.history)["final"].reindex(done["path"])
    done = done.assign(error=errors.to_numpy())
    lines = []
    for same, part in groups(done, others) if others else [((), done)]:
        by_value = {values[0]: _by_seed(of) for values, of in groups(part, [key])}
        if value not in by_value:
            continue
        for other, errors in by_value.items():
            difference = (errors - by_value[value]).dropna()
            if other != value and len(difference):
                names = {
                    "setting": describe([key, *others], [other, *same]),
                    "baseline": describe([key, *others], [value, *same]),
                }
                lines.append(names | interval(difference))
    if not lines:
        raise UserError(
            f"--baseline {baseline}: no run has a twin that differs in {key} alone and has its seed"
        )
    return pd.DataFrame(lines)


def _by_seed(part: pd.DataFrame) -> pd.Series:
    """Return the error by seed: replicates of one seed are averaged, they are not independent."""
    return part["error"].groupby(part["seed"].map(text) if "seed" in part else "").mean()


def interval(difference: pd.Series) -> dict[str, float]:
    """Return n, the mean difference with its 95 % interval, and p of Student's t.

    One value gives no interval, and equal values give no p.
    """
    from scipy import stats  # takes 0.8 s, which a comparison without intervals need not wait for

    n = len(difference)
    mean = difference.mean()
    half = math.nan
    p = math.nan
    if n > 1:
        half = stats.t.ppf(0.975, n - 1) * difference.std(ddof=1) / math.sqrt(n)
        if np.ptp(difference) > 1e-9:  # beyond rounding: errors are in percent
            p = stats.ttest_1samp(difference, 0).pvalue
    return {"n": n, "difference": mean, "low": mean - half, "high": mean + half, "p": p}


def to_cells(pairs: pd.DataFrame) -> list[list[str]]:
    """Return the cells for people, header first; "one run" where an interval would need more."""
    cells = [["setting", "baseline", "n", "difference", "95 % interval", "p"]]
    for row in pairs.itertuples():
        spread = f"{row.low:+.2f} to {row.high:+.2f}"
        p = f"{row.p:.3f}" if row.p >= 0.001 else "< 0.001"
        if np.isnan(row.p):
            p = ""
        if row.n == 1:
            spread = "one run"
            p = "one run"
        cells.append([row.setting, row.baseline, f"{row.n}", f"{row.difference:+.2f}", spread, p])
    return cells
