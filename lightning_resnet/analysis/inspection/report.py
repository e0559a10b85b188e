r"""`resnet-cli inspect`: a table, a figure, a page and the numbers, of what nets do inside.

resnet-cli inspect gradients runs/digits_degradation
resnet-cli inspect responses RUN/checkpoints/best.ckpt
resnet-cli inspect gradients configs/digits.yaml --model.net torchvision.models.resnet50 \
    --data.size 64

Each kind is a module of this package with the functions `measure`, `summarise`, `remarks` and
`figure`.
"""

import math
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lightning_resnet.analysis.compare import figures, page, tables
from lightning_resnet.analysis.compare.tables import describe, natural, text
from lightning_resnet.analysis.inspection.subjects import Subject
from lightning_resnet.errors import UserError, tell
from lightning_resnet.files import write_file
from lightning_resnet.printing import fitted, markdown, paragraph, prose
from lightning_resnet.runs.labels import with_label
from lightning_resnet.runs.reader import Run

STATES = {"init": "before training", "last": "after training", "best": "at the best epoch"}
LINES = "Lines: mean over n nets, which differ in the seed; bands: lowest to highest."
GEOMETRIC_MEANS = {
    "first_last",
    "first_last_theory",
    "gain",
}  # columns of ratios that span orders of magnitude


def inspect(args: Namespace, found: Iterable[Subject]) -> tuple[pd.DataFrame, Path, str]:
    """Measure all nets, and join their tables into one.

    Args:
        args: flags of `resnet-cli inspect`; `folder` is set to where results lie.
        found: the nets.

    Returns:
        The nets' tables as one, with the columns `net` (what sets the net apart) and `seed`; the
        folder to write to; and a title, which tells kind, state of the nets, n and data.

    Raises:
        UserError: no net has anything of this kind.
    """
    module = module_of(args.what)
    folder = Path(args.out or default_folder(args.targets))
    args.folder = folder
    settings = []
    measured = []
    problem = UserError(f"nothing to inspect in {' '.join(args.targets)}")
    for subject in found:
        try:
            measured.append(module.measure(subject, args))
        except UserError as e:  # of many nets, some may have nothing of the kind
            tell(f"skipped {subject.path}: {e}")
            problem = e
            continue
        settings.append(subject.settings)
        tell(f"inspected {len(measured)}: {with_label(subject.path)}, {subject.at}")
    if not measured:
        raise problem
    settings = _with_replicates(settings)
    keys, values = labels(settings)
    for label, setting, table in zip(values, settings, measured, strict=True):
        table.insert(0, "net", describe(keys, label))
        table.insert(1, "seed", setting.get("seed"))
    order = sorted(range(len(measured)), key=lambda i: [natural(value) for value in values[i]])
    frame = pd.concat([measured[i] for i in order], ignore_index=True)
    return frame, folder, _title(args.what, settings, frame)


def _with_replicates(settings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tell nets of equal settings and equal seeds apart, such as the runs of `fit --run.new`.

    The first of them keeps its settings; the others get `replicate`, 2 and so on.
    """
    counts: Counter[str] = Counter()
    told = []
    for setting in settings:
        same = repr(sorted((key, text(value)) for key, value in setting.items()))
        counts[same] += 1
        told.append(setting | ({"replicate": counts[same]} if counts[same] > 1 else {}))
    return told


def _title(kind: str, settings: list[dict[str, Any]], frame: pd.DataFrame) -> str:
    """Return `gradients, after training, n = 3, Digits`."""
    states = {state_of(text(one["at"])) for one in settings}
    n = frame.groupby("net")["seed"].nunique(dropna=False)
    counts = f"{n.min()}" if n.min() == n.max() else f"{n.min()} to {n.max()}"
    data = {text(one.get("source")).rpartition(".")[2] for one in settings}
    return f"{kind}, {' and '.join(sorted(states))}, n = {counts}, {' and '.join(sorted(data))}"


def state_of(at: str) -> str:
    """Return in words which weights a net has: of which checkpoint, or those before training."""
    return STATES.get(at, f"at {at}")


def module_of(kind: str) -> Any:
    """Return the module of a kind of inspection."""
    return import_module(f"lightning_resnet.analysis.inspection.{kind}")


def default_folder(targets: Sequence[str]) -> Path:
    """Return the folder `report` in the one run, or in the one folder of runs.

    A checkpoint in a run stands for the run. Otherwise the folder lies in the working directory.
    """
    if len(targets) != 1:
        return Path("report")
    folder = Path(targets[0])
    run = Run(folder.parent.parent)
    if folder.suffix == ".ckpt" and run.config_file.exists():
        folder = run.path
    return folder / "report" if folder.is_dir() else Path("report")


def labels(settings: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return the keys that tell the nets apart, seeds aside, and each net's values."""
    keys = list(dict.fromkeys(key for setting in settings for key in setting if key != "seed"))
    shown = []
    for key in keys:
        values = {text(setting.get(key)) for setting in settings}
        if len(values) > 1 or key in ("depth", "shortcut"):
            shown.append(key)
    shown = shown or ["net"]
    order = {"net": 0, "depth": 1, "shortcut": 2}
    shown.sort(key=lambda key: order.get(key, 3))
    return shown, [[text(setting.get(key)) for key in shown] for setting in settings]


def write(kind: str, frame: pd.DataFrame, folder: Path, title: str, command: str) -> list[Path]:
    """Write KIND.md, .csv, .png, .svg and .html; return the files.

    Args:
        kind: of the inspection.
        frame: from `inspect`.
        folder: where to write.
        title: of figure and page.
        command: shown on the page.
    """
    module = module_of(kind)
    cells = summary(module, frame)
    heading = f"{title[0].upper()}{title[1:]}"
    told = [f"{heading}. {LINES}", *module.remarks(frame)]
    drawn = module.figure(frame, title)
    contents = figures.files(kind, drawn)
    body = [page.drawing(drawn, told[0]), page.table(cells)]
    body += map(page.note, told[1:])
    contents[f"{kind}.csv"] = tables.as_csv(frame).encode()
    contents[f"{kind}.md"] = ("\n\n".join([markdown(cells, 1), *map(prose, told)]) + "\n").encode()
    contents[f"{kind}.html"] = page.page(heading, body, None, command).encode()
    return [write_file(folder / name, content) for name, content in contents.items()]


def geometric_mean(values: Iterable[float]) -> float:
    """Return the geometric mean of numbers that are 0 or more; it leaves no range of floats."""
    with np.errstate(divide="ignore"):
        return float(np.exp(np.log(np.asarray([*values], dtype=float)).mean()))


def rows(kind: str, frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the summary for programs: a row per net and seed, under short names."""
    found = []
    for (net, seed), part in frame.groupby(["net", "seed"], sort=False, dropna=False):
        found.append({"net": net, "seed": seed} | module_of(kind).summarise(part))
    return found


def to_text(kind: str, frame: pd.DataFrame, title: str) -> str:
    """Return the summary as it fits a terminal, with remarks."""
    module = module_of(kind)
    remarks = [f"{title[0].upper()}{title[1:]}.", *module.remarks(frame)]
    return "\n\n".join([fitted(summary(module, frame), 1), *map(paragraph, remarks)]) + "\n"


def summary(module: Any, frame: pd.DataFrame) -> list[list[str]]:
    """Return the cells of the summary, a row per net, header first.

    Cells are means over seeds (geometric for ratios) with the lowest and highest.

    Args:
        module: of the inspection.
        frame: from `inspect`.
    """
    rows = []
    for net, part in frame.groupby("net", sort=False):
        of_seeds = [module.summarise(one) for _, one in part.groupby("seed", dropna=False)]
        row = {"net": net, "n": str(len(of_seeds))}
        for name, column in pd.DataFrame(of_seeds).items():
            mean = column.mean()
            if name in GEOMETRIC_MEANS:
                mean = geometric_mean(column)
            spread = f" ({column.min():.3g} to {column.max():.3g})" if len(column) > 1 else ""
            row[name] = "none" if math.isnan(mean) else f"{mean:.3g}{spread}"
        rows.append(row)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    heads = [module.HEADS.get(name, name) for name in columns]
    return [heads, *([row.get(key, "") for key in columns] for row in rows)]
