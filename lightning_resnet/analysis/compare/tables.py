"""Runs -> the summary table: one row per setting, mean and spread over its seeds, and what to be careful about.

Errors are in percent. Only finished runs are averaged; the others are counted in `notes`. Runs that were averaged
although they were not made alike (code, or a setting that is no row) are named in `flags`.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import pandas as pd

from lightning_resnet.analysis.compare.load import STATISTICS, Runs, short_names
from lightning_resnet.errors import UserError, nearest, printable
from lightning_resnet.runs.identity import DATA_KEYS_WITHOUT_EFFECT, TRAINER_KEYS

CODE = ("code", "torch", "lightning_resnet")  # columns of `runs` that say which code ran
DATA = ("train_samples", "val_samples")
LEGEND = (
    "Errors in percent, over finished runs: mean and sample standard deviation (std) of n runs. final = last epoch; "
    "best = best epoch; train = clean training error after the last epoch; gap_points = final minus that of the "
    "shallowest depth; macs = multiply-adds of one image; seconds = mean wall-clock time of a run."
)


Parts = list[tuple[tuple[str, ...], pd.DataFrame]]  # (values of the row keys, the runs that share them)


class Table(NamedTuple):
    """`frame`: row keys as text, then STATISTICS. `notes`: what was counted. `flags`: what weakens the comparison."""

    frame: pd.DataFrame
    notes: list[str]
    flags: list[str]


def summary(runs: Runs, rows: Sequence[str] | None = None) -> Table:
    """Summarise runs by `rows`: columns of `runs.runs`, by default the settings that vary among the runs."""
    frame, history = runs
    readable = frame[frame["status"] != "unreadable"]
    rows = choose_rows(readable, rows)
    parts = groups(readable, rows)
    results = final_errors(history).reindex(readable["path"])
    lines = [_line(part[part["status"] == "finished"], results) for _, part in parts]
    table = pd.DataFrame([key for key, _ in parts], columns=rows).join(pd.DataFrame(lines))
    table["gap_points"] = _gaps(table, rows)
    return Table(table[[*rows, *STATISTICS]], _notes(frame, parts, rows), _flags(parts, rows, results))


def choose_rows(runs: pd.DataFrame, rows: Sequence[str] | None = None) -> list[str]:
    """The row keys asked for, checked; or the settings that vary; or, when none does, depth and shortcut or the net."""
    if rows is None:
        names = short_names(runs.columns)
        rows = [names.get(key, key) for key in varying(runs, [key for key in runs if decides(key)])]
        if runs["name"].str.startswith("reference:").nunique() > 1:  # ours beside the user's
            rows.append("name")
        rows = rows or [key for key in ("depth", "shortcut") if key in runs] or ["net" if "net" in runs else "name"]
        return sorted(rows, key=lambda row: {"name": 0, "net": 1, "depth": 2, "shortcut": 3}.get(row, 4))
    valid = [name for name in runs if name not in STATISTICS]
    for row in rows:
        if row not in valid:
            hint = nearest(row, valid) or "; name it as in config.yaml with dots, such as data.batch_size"
            raise UserError(f"--rows {row}: the runs have no such setting{hint}")
    return list(dict.fromkeys(rows))


def decides(key: str) -> bool:
    """Whether a config key decides the result: not the seed, nor where and on what the run was made."""
    section, _, name = key.partition(".")
    if section == "trainer":
        return name in TRAINER_KEYS
    if section == "data":
        return name not in DATA_KEYS_WITHOUT_EFFECT
    return bool(name) and section != "wandb" and (section != "run" or name == "init_from")


def varying(runs: pd.DataFrame, keys: Iterable[str]) -> list[str]:
    """The keys with several values; arguments of a class only among runs of that class."""
    return [key for key in keys if any(part[key].map(text).nunique() > 1 for part in _same_class(runs, key))]


def _same_class(runs: pd.DataFrame, key: str) -> list[pd.DataFrame]:
    owner = key.rpartition(".init_args.")[0] + ".class_path"
    return [part for _, part in groups(runs, [owner])] if owner in runs else [runs]


def groups(runs: pd.DataFrame, rows: Sequence[str]) -> Parts:
    """The runs by the values, as text, of their row keys, in natural order."""
    found: dict[tuple[str, ...], list[int]] = {}
    for i, values in enumerate(runs[list(rows)].itertuples(index=False, name=None)):
        found.setdefault(tuple(map(text, values)), []).append(i)
    return [(key, runs.iloc[found[key]]) for key in sorted(found, key=lambda key: [natural(value) for value in key])]


def text(value: Any) -> str:
    """A setting as one writes it: 20 for 20.0 (pandas makes floats of integers beside gaps), nothing for none."""
    if pd.isna(value):
        return ""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(float(value))
    return str(value)


def natural(value: str) -> tuple[int, float, str]:
    """Numbers by size, then none, then words, then what is unset."""
    try:
        return 0, float(value), ""
    except ValueError:
        return (1 if value == "none" else 2 if value else 3), 0.0, value


def describe(rows: Sequence[str], values: Sequence[str]) -> str:
    """A row in words: `depth 56, plain`."""
    return ", ".join(_word(row, value) for row, value in zip(rows, values, strict=True) if value) or "unset"


def _word(row: str, value: str) -> str:
    if row == "shortcut":
        return "plain" if value == "none" else f"residual ({value})"
    if row.endswith(".class_path"):
        return value.rpartition(".")[2]
    return value if row in ("net", "name") else f"{row.rpartition('.')[2]} {value}"


def final_errors(history: pd.DataFrame) -> pd.DataFrame:
    """Per run (index `path`), in percent: `final` and `best` validation error, `train` clean training error at last."""
    val = history[history["kind"] == "val"]
    last = val.groupby("path").tail(1).set_index("path")  # not .last(), which would pass over a null
    best = val.groupby("path")["val/acc1"].max()
    return 100 * (1 - pd.DataFrame({"final": last["val/acc1"], "best": best, "train": last["train_eval/acc1"]}))


def _line(part: pd.DataFrame, results: pd.DataFrame) -> dict[str, Any]:
    errors = results.loc[part["path"]]
    mean = errors.mean(skipna=False)  # a mean over n runs, or none
    return {
        "n": len(part),
        "val_err_final_mean": mean["final"],
        "val_err_final_std": errors["final"].std(ddof=1, skipna=False),
        "val_err_best_mean": mean["best"],
        "train_err_mean": mean["train"],
        "params": part["params"].mean(),
        "macs": part["macs"].mean(),
        "seconds": part["seconds"].mean(),
    }


def _gaps(table: pd.DataFrame, rows: Sequence[str]) -> list[float]:
    """Final error above that of the shallowest depth with the same other keys, in points."""
    if "depth" not in rows or table["depth"].nunique() < 2:
        return [math.nan] * len(table)
    others = [tuple(row) for row in table[[row for row in rows if row != "depth"]].to_numpy()]
    error, shallowest = table["val_err_final_mean"], {}
    for i in sorted(table.index, key=lambda i: natural(table["depth"][i])):
        shallowest.setdefault(others[i], error[i])
    return [error[i] - shallowest[others[i]] if table["depth"][i] else math.nan for i in table.index]


def _notes(runs: pd.DataFrame, parts: Parts, rows: Sequence[str]) -> list[str]:
    notes = [f"{_runs(len(runs))}: {_statuses(runs)}."]
    for key, part in parts:
        rest = part[part["status"] != "finished"]
        if len(rest):
            notes.append(f"Not averaged, {describe(rows, key)}: {_statuses(rest)} ({', '.join(rest['run_id'])}).")
    for run in runs[runs["status"] == "unreadable"].itertuples():
        notes.append(f"Unreadable: {run.path} ({run.error}).")
    made = {key: " and ".join(sorted(filter(None, set(runs[key].map(text))))) for key in (*CODE, "hardware")}
    return [*notes, "Made with: " + ", ".join(f"{key} {value or 'unknown'}" for key, value in made.items()) + "."]


def _flags(parts: Parts, rows: Sequence[str], results: pd.DataFrame) -> list[str]:
    done = [(describe(rows, key), part[part["status"] == "finished"]) for key, part in parts]
    flags = [flag for label, part in done for flag in _row_flags(label, part, rows, results)]
    everything = pd.concat([part for _, part in done])
    for key in varying(everything, CODE):
        if not any(f" mixes {key}:" in flag for flag in flags):
            flags.append(f"rows differ in {key}: {_values(everything[key])}")
    torn = everything[everything["unreadable_lines"] > everything["attempts"]]  # a kill tears one line at most
    return flags + [f"run {run.run_id} has {run.unreadable_lines:.0f} torn lines" for run in torn.itertuples()]


def _row_flags(label: str, part: pd.DataFrame, rows: Sequence[str], results: pd.DataFrame) -> list[str]:
    names = short_names(part.columns)
    protocol = [key for key in part if decides(key) and not {key, names.get(key)} & set(rows)]
    mixed = varying(part, [*protocol, *CODE, *DATA])
    flags = [f"{label} mixes {names.get(key, key)}: {_values(part[key])}" for key in mixed]
    for seed, n in Counter(part["seed"].map(text) if "seed" in part else ()).items():
        if n > 1:
            flags.append(f"{label} counts seed {seed or 'unset'} {n} times: runs of one seed are not independent")
    unmeasured = part["run_id"][results.loc[part["path"], "final"].isna().to_numpy()]
    return flags + [f"{label} has no final validation error in run {run}" for run in unmeasured]


def _statuses(runs: pd.DataFrame) -> str:
    """`10 finished, 1 failed`, the most frequent first."""
    return ", ".join(f"{n} {status}" for status, n in Counter(runs["status"]).most_common())


def _values(column: pd.Series) -> str:
    """`64 (4 runs), 128 (1 run)`, the most frequent first."""
    return ", ".join(f"{value or 'unset'} ({_runs(n)})" for value, n in Counter(column.map(text)).most_common())


def _runs(n: int) -> str:
    return f"{n} run" if n == 1 else f"{n} runs"


def to_csv(table: Table) -> str:
    """The table as CSV: errors with 4 decimals, an empty field where there is no value."""
    return as_csv(_as_text(table.frame, 4, ""))


def as_csv(frame: pd.DataFrame) -> str:
    """A table as CSV that a spreadsheet may open."""
    safe = frame.map(lambda value: csv_cell(value) if isinstance(value, str) else value)
    return safe.rename(columns=csv_cell).to_csv(index=False, lineterminator="\n")


def csv_cell(text: str) -> str:
    """A cell on one line that spreadsheets take for text, not for a formula, unless it is a number."""
    shown = printable(text, None)
    if not shown.startswith(("=", "+", "-", "@")):
        return shown
    try:
        float(shown)
    except ValueError:
        return f"'{shown}"
    return shown


def prose(text: str) -> str:
    """Text on one line of Markdown, in which no HTML and no link of others acts."""
    return printable(text, None).replace("<", "\\<").replace("](", "]\\(")


def to_markdown(table: Table) -> str:
    """The table as Markdown, with its legend, notes and flags."""
    remarks = [LEGEND, *map(prose, table.notes), *(f"**Careful:** {prose(flag)}." for flag in table.flags)]
    return markdown(to_cells(table)) + "\n\n" + "\n\n".join(remarks) + "\n"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Cells as a Markdown table, header first."""
    cells = [[prose(cell).replace("|", "\\|") for cell in row] for row in rows]
    width = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = ["| " + " | ".join(cell.rjust(w) for cell, w in zip(row, width, strict=True)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (w + 1) + ":" for w in width) + "|")
    return "\n".join(lines)


def to_latex(table: Table) -> str:
    """The table as a LaTeX tabular with booktabs rules."""
    words = {"±": r"$\pm$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
    words |= {"[": "{[}", "*": "{*}"}  # after the end of a row TeX takes these for its arguments
    special = str.maketrans({c: f"\\{c}" for c in "&%$#_{}"} | words)
    lines = [[printable(cell, None).translate(special) for cell in row] for row in to_cells(table)]
    head, *rows = (" & ".join(line) + r" \\" for line in lines)
    columns = "l" * sum(name not in STATISTICS for name in table.frame) + "r" * len(STATISTICS)
    begin, end = rf"\begin{{tabular}}{{{columns}}}", r"\end{tabular}"
    return "\n".join([begin, r"\toprule", head, r"\midrule", *rows, r"\bottomrule", end]) + "\n"


def to_cells(table: Table) -> list[list[str]]:
    """The table for people, header first: errors with 2 decimals."""
    frame = _as_text(table.frame, 2, ",")
    return [list(frame.columns), *frame.to_numpy().tolist()]


def _as_text(frame: pd.DataFrame, decimals: int, thousands: str) -> pd.DataFrame:
    """Each cell as text: counts whole, seconds to a tenth, errors to `decimals`."""
    digits = {"n": 0, "params": 0, "macs": 0, "seconds": 1}

    def cell(value: Any, name: str) -> str:
        number = 0.0 if pd.isna(value) else round(float(value), digits.get(name, decimals)) + 0.0  # no -0.0
        return "" if pd.isna(value) else f"{number:{thousands}.{digits.get(name, decimals)}f}"

    shown = {
        name: [cell(value, name) for value in frame[name]] if name in STATISTICS else frame[name] for name in frame
    }
    return pd.DataFrame(shown, dtype=str)
