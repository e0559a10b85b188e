"""The summary table of runs: one row per setting, with mean and spread over its seeds.

Errors are in percent. Only finished runs are averaged; the others are counted in `notes`. Runs that
were averaged although they were not made alike (code, or a setting that is no row) are named in
`flags`.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import pandas as pd

from lightning_resnet.analysis.compare.columns import STATISTICS, short_names
from lightning_resnet.analysis.compare.load import Runs
from lightning_resnet.errors import UserError, csv_cell, nearest, printable
from lightning_resnet.printing import LEFT_OUT, fitted, markdown, paragraph, prose
from lightning_resnet.runs import identity
from lightning_resnet.runs.status import word_of

CODE = ("code", "torch", "lightning_resnet")  # columns of `runs` that say which code ran
DATA = ("train_samples", "val_samples")
MANY = 4  # settings; of rows that differ in more, names are shown and the settings apart
HEADS = {  # column -> its head in a terminal, what it is, and its head on the page
    "val_err_final_mean": (
        "error, %",
        "validation error after the last epoch",
        "validation error, %",
    ),
    "val_err_best_mean": ("best", "that of the best epoch", "at the best epoch, %"),
    "train_err_mean": (
        "training",
        "clean training error after the last epoch",
        "training error, %",
    ),
    "gap_points": (
        "gap",
        "error minus that of the shallowest depth, in points",
        "gap to the shallowest, points",
    ),
    "n": ("n", "finished runs", "finished runs"),
    "params": ("parameters", "", "parameters"),
    "macs": ("multiply-adds", "of one image", "multiply-adds of an image"),
    "seconds": ("seconds", "wall-clock time of a run", "time of a run, s"),
}
LESS = ("multiply-adds", "parameters", "seconds", "best", "training")  # left out first if narrow

PUBLISHED = ("paper", "others")  # columns of published errors, next to those of the runs

# (values of the row keys, the runs that share them)
Parts = list[tuple[tuple[str, ...], pd.DataFrame]]


class Table(NamedTuple):
    """Summary table, with the notes and flags that are printed below its rows.

    Attributes:
        frame: row keys as text, then `STATISTICS`.
        notes: what was counted.
        flags: what weakens the comparison.
        keys: row keys, in the order of their columns.
        labels: row keys that people see; the others are told by `differing`.
    """

    frame: pd.DataFrame
    notes: list[str]
    flags: list[str]
    keys: list[str]
    labels: list[str]


def summary(
    runs: Runs, rows: Sequence[str] | None = None, over: Sequence[str] = ("seed",)
) -> Table:
    """Summarise runs as a table with a row for each setting, over its seeds.

    Args:
        runs: from `load_runs`.
        rows: columns of `runs.runs` that make the rows; by default the settings that vary.
        over: columns that make no rows although they vary, without `rows`.

    Raises:
        UserError: the runs have no such column.
    """
    frame, history = runs
    readable = frame[frame["status"] != "unreadable"]
    keys = choose_rows(readable, rows)
    given = [name for name in over if name != "seed"]  # which runs of other programs lack
    averaged = {*over, *_columns_of("--over", given, readable)}
    if rows is None:
        keys = [key for key in keys if key not in averaged] or keys
    labels = keys
    if rows is None:
        labels = _labels(readable, keys)
        keys = [*labels, *(key for key in keys if key not in labels)]
    parts = groups(readable, keys)
    results = final_errors(history).reindex(readable["path"])
    lines = [_line(part[part["status"] == "finished"], results) for _, part in parts]
    table = pd.DataFrame([key for key, _ in parts], columns=keys).join(pd.DataFrame(lines))
    table["gap_points"] = _gaps(table, keys)
    names = [tuple(line) for line in table[labels].to_numpy()]
    told = [(key, part) for key, (_, part) in zip(names, parts, strict=True)]
    return Table(
        table[[*keys, *STATISTICS]],
        _notes(frame, told, labels),
        _flags(told, keys, labels, results),
        keys,
        labels,
    )


def _labels(runs: pd.DataFrame, rows: Sequence[str]) -> list[str]:
    """Return the columns that people see of each row: those that tell the rows apart.

    If each row is of one name, that comes first. Of more than `MANY` settings only few are shown.
    """
    n = len(groups(runs, rows))
    names = runs["name"].nunique()
    if n == 1:
        return [*rows]
    if len(groups(runs, [*rows, "name"])) == names == n:
        return ["name"] if len(rows) > MANY else ["name", *(row for row in rows if row != "name")]
    if len(rows) <= MANY:
        return [*rows]
    net = [key for key in ("depth", "shortcut") if key in rows]
    run = ["run_id"] if names == 1 else ["name", "run_id"]
    for labels in (net, ["name", *net], run):
        if labels and len(groups(runs, [*rows, *labels])) == len(groups(runs, labels)) == n:
            return labels
    return [*rows]


def choose_rows(runs: pd.DataFrame, rows: Sequence[str] | None = None) -> list[str]:
    """Return the row keys: those asked for, or the settings that vary.

    If none varies they are depth and shortcut, or the net.

    Args:
        runs: the table `Runs.runs`.
        rows: the keys asked for.

    Raises:
        UserError: the runs have no such column.
    """
    if rows is None:
        names = short_names(runs.columns)
        settings = varying(runs, [key for key in runs if decides(key)])
        rows = [names.get(key, key) for key in settings]
        if runs["name"].str.startswith("reference:").nunique() > 1:  # reference and user's runs
            rows.append("name")
        if not rows:
            rows = [key for key in ("depth", "shortcut") if key in runs]
        if not rows:
            rows = ["net" if "net" in runs else "name"]
        order = {"name": 0, "net": 1, "depth": 2, "shortcut": 3}
        return sorted(rows, key=lambda row: order.get(row, 4))
    return list(dict.fromkeys(_columns_of("--rows", rows, runs)))


def columns_by_name(runs: pd.DataFrame) -> dict[str, str]:
    """Return column -> column, also for the names that flags and people give the columns."""
    columns = [name for name in runs if name not in STATISTICS]
    flags = {name.replace(".init_args", "").removesuffix(".class_path"): name for name in columns}
    return {short_key(name): name for name in columns} | flags | {name: name for name in columns}


def _columns_of(flag: str, names: Iterable[str], runs: pd.DataFrame) -> list[str]:
    """Return the columns that the words of a flag name.

    Raises:
        UserError: the runs have no such column.
    """
    valid = columns_by_name(runs)
    for name in names:
        if name not in valid:
            hint = nearest(name, valid)
            if re.fullmatch(r"(train|train_eval|val|val_ema|test)/\w+", name):
                hint = f"; a metric is a column: --metric {name}"
            hint = hint or "; name it as in config.yaml with dots, such as data.batch_size"
            raise UserError(f"{flag} {name}: the runs have no such setting{hint}")
    return [valid[name] for name in names]


def short_key(key: str) -> str:
    """Return a config key as people see it: `optimizer.weight_decay`, `progressive.start`."""
    section, _, rest = key.partition(".")
    parts = [part for part in rest.split(".") if part not in ("init_args", "class_path")]
    return ".".join(parts) or section


def decides(key: str) -> bool:
    """Return whether a config key decides the result.

    The seed does not count, nor where and on what the run was made.
    """
    section, _, name = key.partition(".")
    if section in ("trainer", "model", "data", "run"):
        is_data_set = section == "data" and key.endswith(".root")
        is_code = key in ("trainer.callbacks", "trainer.plugins")  # most of which only look on
        return is_data_set or (identity.decides(key) and not is_code)
    return bool(name) and section != "wandb"  # a setting of a run that only W&B wrote


def varying(runs: pd.DataFrame, keys: Iterable[str]) -> list[str]:
    """Return the keys with several values; arguments of a class only among runs of that class."""
    found = []
    for key in keys:
        if any(part[key].map(text).nunique() > 1 for part in _same_class(runs, key)):
            found.append(key)
    return found


def _same_class(runs: pd.DataFrame, key: str) -> list[pd.DataFrame]:
    """Part the runs by the class whose argument the key is."""
    owner = key.rpartition(".init_args.")[0] + ".class_path"
    return [part for _, part in groups(runs, [owner])] if owner in runs else [runs]


def groups(runs: pd.DataFrame, rows: Sequence[str]) -> Parts:
    """Part the runs by the values, as text, of their row keys; in natural order."""
    found: dict[tuple[str, ...], list[int]] = {}
    for i, values in enumerate(runs[list(rows)].itertuples(index=False, name=None)):
        found.setdefault(tuple(map(text, values)), []).append(i)
    keys = sorted(found, key=lambda key: [natural(value) for value in key])
    return [(key, runs.iloc[found[key]]) for key in keys]


def text(value: Any) -> str:
    """Return a setting as one writes it: 20 for 20.0, an empty text for a missing value.

    Pandas turns integers into floats in columns with gaps.
    """
    if pd.isna(value):
        return ""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(float(value))
    return str(value)


def natural(value: str) -> tuple[int, float, str]:
    """Return a key that sorts numbers by size, then `none`, then words, then what is unset.

    The names of references come after other words: one's own runs are read first.
    """
    try:
        return 0, float(value), ""
    except ValueError:
        pass
    if value == "none":
        return 1, 0.0, value
    return 2 if value else 3, float(value.startswith("reference:")), value


def describe(rows: Sequence[str], values: Sequence[str]) -> str:
    """Return a row in words: `depth 56, plain`."""
    words = [_word(row, value) for row, value in zip(rows, values, strict=True) if value]
    return ", ".join(words) or "unset"


def _word(row: str, value: str) -> str:
    value = _value(row, value)
    plain = row in ("net", "name", "run_id", "shortcut") or row.endswith(".class_path")
    return value if plain else f"{short_key(row)} {value}"


def _value(row: str, value: str) -> str:
    """Return the value of a setting in words."""
    if row == "shortcut" and value:
        return "plain" if value == "none" else f"residual ({value})"
    return value.rpartition(".")[2] if row.endswith(".class_path") else value


def final_errors(history: pd.DataFrame) -> pd.DataFrame:
    """Return the errors of each run, in percent.

    Returns:
        Index `path`; columns `final` and `best`, validation error, and `train`, clean training
        error after the last epoch.
    """
    val = history[history["kind"] == "val"]
    last = val.groupby("path").tail(1).set_index("path")  # .last() would skip a null
    best = val.groupby("path")["val/acc1"].max()
    accuracies = {"final": last["val/acc1"], "best": best, "train": last["train_eval/acc1"]}
    return 100 * (1 - pd.DataFrame(accuracies))


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
    """Return each final error minus that of the shallowest depth with the same other keys.

    Where there is one depth of these keys, there is no gap.
    """
    if "depth" not in rows or table["depth"].nunique() < 2:
        return [math.nan] * len(table)
    others = [tuple(row) for row in table[[row for row in rows if row != "depth"]].to_numpy()]
    error = table["val_err_final_mean"]
    depth = table["depth"]
    shallowest = {}
    for i in sorted(table.index, key=lambda i: natural(depth[i])):
        shallowest.setdefault(others[i], error[i])
    count = Counter(key for key, value in zip(others, depth, strict=True) if value)
    found = []
    for i in table.index:
        has_gap = depth[i] and count[others[i]] > 1
        found.append(error[i] - shallowest[others[i]] if has_gap else math.nan)
    return found


def _notes(runs: pd.DataFrame, parts: Parts, rows: Sequence[str]) -> list[str]:
    notes = [f"{_runs(len(runs))}: {_statuses(runs)}."]
    for key, part in parts:
        rest = part[part["status"] != "finished"]
        if len(rest):
            ids = ", ".join(rest["run_id"])
            notes.append(f"Not averaged, {describe(rows, key)}: {_statuses(rest)} ({ids}).")
    for name, about in runs[["name", "about"]].dropna().drop_duplicates().to_numpy():
        notes.append(f"{name}: {about}.")
    for run in runs[runs["status"] == "unreadable"].itertuples():
        notes.append(f"Unreadable: {run.path} ({run.error}).")
    made = []
    for key in (*CODE, "hardware"):
        values = sorted(set(runs[key].map(text)) - {""})
        made.append(f"{key} {' and '.join(values) or 'unknown'}")
    return [*notes, f"Made with: {', '.join(made)}."]


def _flags(
    parts: Parts, rows: Sequence[str], labels: Sequence[str], results: pd.DataFrame
) -> list[str]:
    done = [(describe(labels, key), part[part["status"] == "finished"]) for key, part in parts]
    flags = []
    for label, part in done:
        flags += _row_flags(label, part, rows, results)
    everything = pd.concat([part for _, part in done])
    own = _own(everything)
    for key in varying(own, CODE):
        if not any(f" mixes {key}:" in flag for flag in flags):
            flags.append(f"rows differ in {key}: {_values(own[key])}")
    # a kill tears one line at most
    torn = everything[everything["unreadable_lines"] > everything["attempts"]]
    for run in torn.itertuples():
        flags.append(f"run {run.run_id} has {run.unreadable_lines:.0f} torn lines")
    return flags


def _own(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that are of no reference set, whose code is always another."""
    return runs.loc[[not text(name).startswith("reference:") for name in runs["name"]]]


def _row_flags(
    label: str, part: pd.DataFrame, rows: Sequence[str], results: pd.DataFrame
) -> list[str]:
    names = short_names(part.columns)
    protocol = [key for key in part if decides(key) and not {key, names.get(key)} & set(rows)]
    flags = []
    for runs, keys in ((part, protocol), (_own(part), CODE), (part, DATA)):
        for key in varying(runs, keys):
            name = names.get(key) or short_key(key)
            flags.append(f"{label} mixes {name}: {_values(runs[key])}")
    seeds = part["seed"].map(text) if "seed" in part else ()
    for seed, n in Counter(seeds).items():
        if n > 1:
            flags.append(
                f"{label} counts seed {seed or 'unset'} {n} times: runs of one seed are not "
                "independent"
            )
    unmeasured = part["run_id"][results.loc[part["path"], "final"].isna().to_numpy()]
    return flags + [f"{label} has no final validation error in run {run}" for run in unmeasured]


def _statuses(runs: pd.DataFrame) -> str:
    """Return `10 finished, 1 failed`, the most frequent first."""
    counts = Counter(runs["status"]).most_common()
    return ", ".join(f"{n} {word_of(status)}" for status, n in counts)


def _values(column: pd.Series) -> str:
    """Return `64 (4 runs), 128 (1 run)`, the most frequent first."""
    counts = Counter(column.map(text)).most_common()
    return ", ".join(f"{value or 'unset'} ({_runs(n)})" for value, n in counts)


def _runs(n: int) -> str:
    return f"{n} run" if n == 1 else f"{n} runs"


def to_csv(table: Table) -> str:
    """Return the table as CSV: errors with 4 decimals, an empty field where there is no value."""
    return as_csv(_as_text(table.frame, 4, ""))


def to_rows(table: Table) -> list[dict[str, Any]]:
    """Return the table for programs, under the heads of the CSV; settings that are numbers as such.

    Values that are missing are null in JSON.
    """
    frame = table.frame.copy()
    for key in table.keys:
        frame[key] = [_number_in(value) for value in frame[key]]
    return frame.to_dict("records")


def _number_in(value: str) -> Any:
    try:
        number = float(value)
    except ValueError:
        return value or None
    return int(number) if number.is_integer() else number


def as_csv(frame: pd.DataFrame) -> str:
    """Return a table as CSV that a spreadsheet may open."""
    safe = frame.map(lambda value: csv_cell(value) if isinstance(value, str) else value)
    return safe.rename(columns=csv_cell).to_csv(index=False, lineterminator="\n")


def to_markdown(table: Table) -> str:
    """Return the tables as Markdown, with legend, notes and flags."""
    remarks = [
        legend(table),
        *map(prose, table.notes),
        *(f"**Warning:** {prose(flag)}." for flag in table.flags),
    ]
    if rest := differing(table):
        remarks.insert(0, markdown(rest, left=1))
    return markdown(to_cells(table), len(table.labels)) + "\n\n" + "\n\n".join(remarks) + "\n"


def to_text(table: Table) -> str:
    """Return the summary table as it fits a terminal, with legend, notes and flags."""
    less = (*LESS, "gap") if {*PUBLISHED} & {*table.frame} else LESS
    shown = fitted(to_cells(table), len(table.labels), less)
    remarks = [
        legend(table, shown.partition(LEFT_OUT)[2]),
        *table.notes,
        *(f"Warning: {flag}." for flag in table.flags),
    ]
    if rest := differing(table):
        keys = ", ".join(line[0] for line in rest[1:])
        remarks.insert(
            0,
            f"Different settings: {keys}. The page and table.md have the values; `resnet-cli "
            "compare --diff RUN RUN` has those of two runs.",
        )
    return "\n\n".join([shown, *map(paragraph, remarks)]) + "\n"


def legend(table: Table, without: str = "") -> str:
    """Return what the columns are that the table for people has.

    Args:
        table: the table.
        without: heads, in one text, that are not shown.
    """
    heads = [head for head in to_cells(table)[0] if head not in without]
    told = [f"{head}: {what}" for head, what, _ in HEADS.values() if head in heads and what]
    return f"Mean ± sample standard deviation over n runs; errors in percent. {'; '.join(told)}."


def differing(table: Table) -> list[list[str]]:
    """Return the settings that no label shows: cells, header first, a line for each setting."""
    keys = [key for key in table.keys if key not in table.labels]
    labels = table.frame[table.labels].to_numpy()
    lines = [["setting", *(describe(table.labels, label) for label in labels)]]
    for key in keys:
        lines.append([short_key(key), *(_value(key, value) for value in table.frame[key])])
    return lines if keys else []


def to_latex(table: Table) -> str:
    """Return the table as a LaTeX tabular with booktabs rules."""
    words = {
        "±": r"$\pm$",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": r"\textbackslash{}",
    }
    words |= {"[": "{[}", "*": "{*}"}  # after the end of a row TeX takes these for its arguments
    special = str.maketrans({c: f"\\{c}" for c in "&%$#_{}"} | words)
    cells = to_cells(table)
    lines = [[printable(cell, None).translate(special) for cell in row] for row in cells]
    head, *rows = (" & ".join(line) + r" \\" for line in lines)
    columns = "l" * len(table.labels) + "r" * (len(cells[0]) - len(table.labels))
    pieces = [
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        head,
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(pieces) + "\n"


def to_cells(table: Table) -> list[list[str]]:
    """Return the table's cells for people, header first: errors with 2 decimals.

    Settings that no label shows, and columns without a value, are left out.
    """
    texts = _as_text(table.frame, 2, ",")
    shown = {short_key(key): [_value(key, v) for v in texts[key]] for key in table.labels}
    for name, (head, *_) in HEADS.items():
        if name in ("n", "val_err_final_mean") or any(texts[name]):
            shown[head] = texts[name]
        if name == "val_err_final_mean":
            shown |= {column: texts[column] for column in PUBLISHED if column in texts}
    spreads = [f" ± {std}" if std else "" for std in texts["val_err_final_std"]]
    shown["error, %"] = texts["val_err_final_mean"] + spreads
    known = (*table.keys, *STATISTICS, *PUBLISHED)
    frame = pd.DataFrame(shown).join(texts[[name for name in texts if name not in known]])
    return [list(frame.columns), *frame.to_numpy().tolist()]


def _as_text(frame: pd.DataFrame, decimals: int, thousands: str) -> pd.DataFrame:
    """Return each cell as text.

    Args:
        frame: the summary table.
        decimals: of errors; counts have none, seconds have one.
        thousands: what separates thousands, a comma or nothing.
    """
    digits = {"n": 0, "params": 0, "macs": 0, "seconds": 1}
    shown = {}
    for name in frame:
        shown[name] = frame[name]
        if name in STATISTICS:
            places = digits.get(name, decimals)
            shown[name] = [_number(value, places, thousands) for value in frame[name]]
    return pd.DataFrame(shown, dtype=str)


def _number(value: Any, places: int, thousands: str) -> str:
    if pd.isna(value):
        return ""
    rounded = round(float(value), places) + 0.0  # turns -0.0 into 0.0
    return f"{rounded:{thousands}.{places}f}"
