"""Further columns of the summary table: any metric, and settings side by side."""

import pandas as pd

from lightning_resnet.analysis.compare.columns import HISTORY
from lightning_resnet.analysis.compare.load import Runs
from lightning_resnet.analysis.compare.tables import describe, groups
from lightning_resnet.errors import UserError, nearest
from lightning_resnet.words import VALUES, by_word

STEPS_TO = {"steps_to:": "val/acc1", "train_steps_to:": "train_eval/acc1"}


def add_metric(table: pd.DataFrame, runs: Runs, rows: list[str], metric: str) -> pd.DataFrame:
    """Add a column to the summary table: mean ± std of a metric over finished runs.

    Accuracies become errors in percent.

    Args:
        table: the summary table.
        runs: from `load_runs`.
        rows: the row keys.
        metric: `test/acc1@last`; or `test/acc1@best`, the value at the epoch of the highest
            val/acc1, the earliest of equal ones; or `steps_to:5`.

    Raises:
        UserError: no run has that metric.
    """
    if metric.startswith(tuple(STEPS_TO)):
        return _add_steps_to(table, runs, rows, metric)
    name, _, when = metric.partition("@")
    known = [column for column in runs.history if column not in HISTORY or "/" in column]
    if name not in known or when not in ("", "last", "best"):
        meaning = by_word(VALUES["compare --metric"]).get(name.lower().replace("-", "_"))
        hint = f"; did you mean {meaning}?" if meaning in known else nearest(name, known)
        raise UserError(
            f"--metric {metric}: METRIC@last or METRIC@best, where METRIC is one of "
            f"{', '.join(sorted(known))}{hint}"
        )
    when = when or "last"
    values = per_run(runs.history, name, when)
    done = runs.runs[runs.runs["status"] == "finished"]
    parts = {key: values.reindex(part["path"]).dropna() for key, part in groups(done, rows)}
    empty = pd.Series(dtype=float)
    cells = [_cell(parts.get(tuple(row), empty)) for row in table[rows].to_numpy()]
    column = f"{name}@{when}"
    if _is_accuracy(name):
        column += " error"
    return table.assign(**{column: cells})


def _add_steps_to(table: pd.DataFrame, runs: Runs, rows: list[str], metric: str) -> pd.DataFrame:
    """Add the mean number of steps over those runs that reach an error, and how many do."""
    kind, _, percent = metric.partition(":")
    try:
        reached = steps_to(runs.history, STEPS_TO[f"{kind}:"], float(percent))
    except ValueError as e:
        raise UserError(f"--metric {metric}: write an error in percent, as in {kind}:5") from e
    done = runs.runs[runs.runs["status"] == "finished"]
    parts = {key: reached.reindex(part["path"]) for key, part in groups(done, rows)}
    cells = []
    for row in table[rows].to_numpy():
        all_runs = parts.get(tuple(row), pd.Series(dtype=float))
        some = all_runs.dropna()
        mean = f"{some.mean():.0f}" if len(some) else "never"
        spread = f" ± {some.std(ddof=1):.0f}" if len(some) > 1 else ""
        cells.append(f"{mean}{spread} ({len(some)} of {len(all_runs)})")
    return table.assign(**{metric: cells})


def steps_to(history: pd.DataFrame, accuracy: str, percent: float) -> pd.Series:
    """Return, by `path`, the first step at which the error was at most `percent`.

    Evaluations are an epoch apart.
    """
    rows = history[100 * (1 - history[accuracy]) <= percent + 1e-9]
    return rows.groupby("path")["step"].min()


def per_run(history: pd.DataFrame, name: str, when: str) -> pd.Series:
    """Return one value per run, by `path`; for an accuracy, the error in percent.

    Args:
        history: the table `Runs.history`.
        name: of the metric.
        when: last | best.
    """
    rows = history.dropna(subset=name)
    if when == "best":
        best = history.dropna(subset="val/acc1")
        best = best.loc[best.groupby("path")["val/acc1"].idxmax()][["path", "step"]]
        rows = rows.merge(best, on=["path", "step"])
    last = rows.groupby("path")[name].last()
    return 100 * (1 - last) if _is_accuracy(name) else last


def _is_accuracy(name: str) -> bool:
    return name.rpartition("/")[2].startswith("acc")


def _cell(values: pd.Series) -> str:
    if values.empty:
        return ""
    spread = f" ± {values.std(ddof=1):.3g}" if len(values) > 1 else ""
    return f"{values.mean():.4g}{spread} (n = {len(values)})"


def pivot(table: pd.DataFrame, rows: list[str], column: str) -> list[list[str]]:
    """Return cells, header first, with the final validation error and n.

    Args:
        table: the summary table.
        rows: its row keys.
        column: the row key whose values stand side by side.
    """
    left = [row for row in rows if row != column]
    across = list(dict.fromkeys(table[column]))
    lines = {tuple(line): [""] * len(across) for line in table[left].to_numpy()}
    for _, row in table.iterrows():
        spread = "" if pd.isna(row["val_err_final_std"]) else f" ± {row['val_err_final_std']:.2f}"
        mean = "no result"
        if not pd.isna(row["val_err_final_mean"]):
            mean = f"{row['val_err_final_mean']:.2f}{spread}"
        lines[tuple(row[left])][across.index(row[column])] = f"{mean} (n = {row['n']})"
    head = [*left, *(describe([column], [value]) for value in across)]
    return [head, *([*key, *line] for key, line in lines.items())]
