"""What settings the error depends on: the share of its variance that each explains, by fANOVA.

`resnet-cli compare runs/lr_search --importance`

Hutter, Hoos and Leyton-Brown 2014, "An Efficient Approach for Assessing Hyperparameter Importance";
the forest and the shares are Optuna's.
"""

import math

import pandas as pd

from lightning_resnet.analysis.compare.load import Runs
from lightning_resnet.analysis.compare.tables import choose_rows, final_errors, text
from lightning_resnet.errors import UserError
from lightning_resnet.sweeps.search import import_optuna

LEAST = 8  # runs; a forest of fewer tells nothing
LEAST_RANGE = 1e-9  # of errors; less is rounding
WIDE = 30  # a setting whose largest value is so many times its least counts by its logarithm
LEGEND = (
    "importance: share of the variance of the last validation error that a setting explains by "
    "itself, by a forest of regression trees over the settings (fANOVA); the shares add up to 1. "
    "best: its value in the run of the least error. Runs that diverged, failed or were stopped "
    "early are left out."
)


def importances(runs: Runs) -> pd.DataFrame:
    """Return the importance of each setting that varies, the largest first.

    Returns:
        Columns setting, importance (0 to 1), levels, best (as text) and n (runs).

    Raises:
        UserError: there are too few finished runs, no setting varies, all errors are equal, or
            Optuna is missing.
    """
    done = runs.runs[runs.runs["status"] == "finished"]
    keys = [key for key in (*choose_rows(done), "seed") if key in done and done[key].nunique() > 1]
    errors = final_errors(runs.history)["final"].reindex(done["path"]).to_numpy()
    is_known = pd.Series(errors, index=done.index).map(math.isfinite)
    table = done[is_known]
    errors = errors[is_known.to_numpy()]
    if len(table) < LEAST or not keys:
        raise UserError(
            f"--importance needs {LEAST} finished runs or more, and a setting that varies; "
            f"{len(table)} of {len(runs.runs)} runs are finished (one that was stopped early is "
            f"not), and {len(keys)} settings vary"
        )
    if errors.max() - errors.min() < LEAST_RANGE:
        raise UserError("--importance: all runs have the same error, which no setting decides")
    optuna = import_optuna("--importance")
    columns = {key: _scaled(table[key]) for key in keys}
    space = {}
    for key, values in columns.items():
        low = min(values)
        space[key] = optuna.distributions.FloatDistribution(low, max(*values, low + 1e-9))
    study = optuna.create_study()
    for i, error in enumerate(errors):
        params = {key: values[i] for key, values in columns.items()}
        study.add_trial(
            optuna.trial.create_trial(params=params, distributions=space, value=float(error))
        )
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    best = table.iloc[int(errors.argmin())]
    found = []
    for key, share in shares.items():
        row = {"setting": key, "importance": float(share), "levels": int(table[key].nunique())}
        found.append(row | {"best": text(best[key]), "n": len(table)})
    return pd.DataFrame(found)


def to_cells(table: pd.DataFrame) -> list[list[str]]:
    """Return the cells for people, header first."""
    cells = [["setting", "importance", "levels", "best", "n"]]
    for row in table.itertuples():
        share = f"{row.importance:.2f}"
        cells.append([row.setting, share, str(row.levels), row.best, str(row.n)])
    return cells


def _scaled(column: pd.Series) -> list[float]:
    """Return a setting as numbers: logarithms over a wide range, and numbers of words."""
    values = pd.to_numeric(column, errors="coerce").astype(float)
    if values.isna().any():
        values = pd.Series(pd.factorize(column.map(text), sort=True)[0], dtype=float)
    elif values.min() > 0 and values.max() / values.min() > WIDE:
        values = values.map(math.log)
    return values.tolist()
