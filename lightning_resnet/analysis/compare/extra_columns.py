"""Further columns of the summary table: any metric, and what the paper reports for the same protocol."""

import pandas as pd

from lightning_resnet.analysis.compare.load import Runs
from lightning_resnet.analysis.compare.tables import groups, text
from lightning_resnet.errors import UserError, nearest

# He et al. 2015, table 6: test error (%) on CIFAR-10, shortcut A; the plain nets' are read off figure 6
CIFAR10 = {20: "8.75", 32: "7.51", 44: "7.17", 56: "6.97", 110: "6.43 best, 6.61 ± 0.16"}
CIFAR10_PLAIN = {20: "about 9 (figure)", 56: "about 13 (figure)"}
# sec. 4.2; depth and shortcut may vary, and nothing else: otherwise no value of the paper stands beside ours
PROTOCOL = {
    "net": "CifarResNet",
    "width": "16",
    "block": "basic",
    "norm": "batch",
    "source": "CIFAR10",
    "data.source.init_args.holdout": "0",
    "data.batch_size": "128",
    "data.crop": "pad",
    "data.pad": "4",
    "data.flip": "True",
    "lr": "0.1",
    "model.optimizer.init_args.weight_decay": "0.0001",
}
STEPS = 64_000
STEPS_TO = {"steps_to:": "val/acc1", "train_steps_to:": "train_eval/acc1"}  # S13


def paper(run: pd.Series) -> str:
    """The paper's error (%) for a run of its protocol on CIFAR-10, else nothing.

    ImageNet has none: tables 2 and 3 are of ten crops, and we evaluate one.
    """
    if any(
        text(run.get(key)).rpartition(".")[2] != value and text(run.get(key)) != value
        for key, value in PROTOCOL.items()
    ):
        return ""
    if abs(run["steps"] - STEPS) > 0.01 * STEPS:
        return ""
    values = {"A": CIFAR10, "none": CIFAR10_PLAIN}.get(text(run.get("shortcut")), {})
    return values.get(int(run["depth"]), "")


def add_paper(table: pd.DataFrame, runs: pd.DataFrame, rows: list[str]) -> pd.DataFrame:
    """With the column `paper`, where any row has a value there."""
    done = dict(groups(runs, rows))
    values = [{paper(run) for _, run in done[tuple(row)].iterrows()} for row in table[rows].to_numpy()]
    cells = [value.pop() if len(value) == 1 else "" for value in values]
    return table.assign(paper=cells) if any(cells) else table


def add_metric(table: pd.DataFrame, runs: Runs, rows: list[str], metric: str) -> pd.DataFrame:
    """With a column for `test/acc1@last` or `@best`: mean ± std over finished runs; or for `steps_to:5`.

    `@best` is the value at the epoch of the highest val/acc1, the earliest of equal ones. Accuracies become errors
    in percent.

    Raises:
        UserError: no run has that metric.
    """
    if metric.startswith(tuple(STEPS_TO)):
        return _add_steps_to(table, runs, rows, metric)
    name, _, when = metric.partition("@")
    if name not in runs.history or when not in ("", "last", "best"):
        hint = nearest(name, runs.history.columns)
        raise UserError(f"--metric {metric}: write METRIC@last or METRIC@best with a metric of the runs{hint}")
    values = per_run(runs.history, name, when or "last")
    done = runs.runs[runs.runs["status"] == "finished"]
    parts = {key: values.reindex(part["path"]).dropna() for key, part in groups(done, rows)}
    cells = [_cell(parts.get(tuple(row), pd.Series(dtype=float))) for row in table[rows].to_numpy()]
    return table.assign(**{f"{name}@{when or 'last'}" + (" error" if _is_accuracy(name) else ""): cells})


def _add_steps_to(table: pd.DataFrame, runs: Runs, rows: list[str], metric: str) -> pd.DataFrame:
    """The mean is over those runs that get there; how many do is said."""
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
        spread = f" ± {some.std(ddof=1):.0f}" if len(some) > 1 else ""
        cells.append(f"{f'{some.mean():.0f}{spread}' if len(some) else 'never'} ({len(some)} of {len(all_runs)})")
    return table.assign(**{metric: cells})


def steps_to(history: pd.DataFrame, accuracy: str, percent: float) -> pd.Series:
    """By `path`: the first step at which the error was at most `percent`; evaluations are an epoch apart."""
    rows = history[100 * (1 - history[accuracy]) <= percent + 1e-9]
    return rows.groupby("path")["step"].min()


def per_run(history: pd.DataFrame, name: str, when: str) -> pd.Series:
    """One value per run, by `path`; of an accuracy, the error in percent."""
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
    """Final validation error with `column`'s values side by side, header first; n in every cell."""
    left = [row for row in rows if row != column]
    across = list(dict.fromkeys(table[column]))
    lines = {tuple(line): [""] * len(across) for line in table[left].to_numpy()}
    for _, row in table.iterrows():
        spread = "" if pd.isna(row["val_err_final_std"]) else f" ± {row['val_err_final_std']:.2f}"
        mean = "no result" if pd.isna(row["val_err_final_mean"]) else f"{row['val_err_final_mean']:.2f}{spread}"
        lines[tuple(row[left])][across.index(row[column])] = f"{mean} (n = {row['n']})"
    return [
        [*left, *(f"{column} {value or 'unset'}" for value in across)],
        *([*key, *line] for key, line in lines.items()),
    ]
