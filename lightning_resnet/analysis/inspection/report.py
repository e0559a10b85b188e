r"""`resnet-cli inspect`: a table, a figure and the numbers behind them, of what nets do inside.

resnet-cli inspect gradients runs/digits_degradation
resnet-cli inspect responses RUN/checkpoints/best.ckpt
resnet-cli inspect gradients configs/digits.yaml --model.net torchvision.models.resnet50 \
    --data.size 64

Each kind is a module of this package with the functions `measure`, `summarise`, `remarks` and
`figure`.
"""

import math
from argparse import Namespace
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd

from lightning_resnet.analysis.compare import figures, tables
from lightning_resnet.analysis.compare.tables import describe, natural, text
from lightning_resnet.analysis.inspection.subjects import Subject
from lightning_resnet.errors import UserError, tell
from lightning_resnet.files import write_file
from lightning_resnet.runs.reader import Run

GEOMETRIC_MEANS = {"first_last", "gain"}  # columns of ratios that span orders of magnitude


def inspect(args: Namespace, found: Iterable[Subject]) -> tuple[pd.DataFrame, Path]:
    """Measure all nets, and join their tables into one.

    Args:
        args: flags of `resnet-cli inspect`.
        found: the nets.

    Returns:
        The nets' tables as one, with the columns `net` (what sets the net apart) and `seed`; and
        the folder to write to.

    Raises:
        UserError: no net has anything of this kind.
    """
    module = _module(args.what)
    folder = Path(args.out or _default_folder(args.targets))
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
        tell(f"inspected {len(measured)}: {subject.path} ({subject.at})")
    if not measured:
        raise problem
    keys, values = _labels(settings)
    for label, setting, table in zip(values, settings, measured, strict=True):
        table.insert(0, "net", describe(keys, label))
        table.insert(1, "seed", setting.get("seed"))
    order = sorted(range(len(measured)), key=lambda i: [natural(value) for value in values[i]])
    return pd.concat([measured[i] for i in order], ignore_index=True), folder


def _module(kind: str) -> Any:
    return import_module(f"lightning_resnet.analysis.inspection.{kind}")


def _default_folder(targets: Sequence[str]) -> Path:
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


def _labels(settings: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
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


def write(kind: str, frame: pd.DataFrame, folder: Path) -> str:
    """Write KIND.md, .csv, .png and .svg; return the Markdown and the files' names.

    Args:
        kind: of the inspection.
        frame: from `inspect`.
        folder: where to write.
    """
    module = _module(kind)
    table = tables.markdown(summary(module, frame))
    markdown = "\n\n".join([table, *module.remarks(frame)]) + "\n"
    figure = module.figure(frame)
    contents = {
        "md": markdown.encode(),
        "csv": tables.as_csv(frame).encode(),
        "png": figures.render(figure, "png"),
        "svg": figures.render(figure, "svg"),
    }
    lines = [markdown]
    for suffix, content in contents.items():
        lines.append(str(write_file(folder / f"{kind}.{suffix}", content)))
    return "\n".join(lines)


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
                mean = math.prod(column) ** (1 / len(column))
            spread = f" ({column.min():.3g} to {column.max():.3g})" if len(column) > 1 else ""
            row[name] = f"{mean:.3g}{spread}"
        rows.append(row)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return [columns, *([row.get(key, "") for key in columns] for row in rows)]
