"""`resnet-cli inspect`: what a net does inside, block by block; a table, a figure and the numbers behind them.

`resnet-cli inspect gradients runs/digits_degradation`, `resnet-cli inspect responses RUN/checkpoints/best.ckpt`,
`resnet-cli inspect gradients configs/digits.yaml --model.net torchvision.models.resnet50 --data.size 64`
"""

import math
from argparse import Namespace
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_resnet.analysis.compare import figures, report, tables
from lightning_resnet.analysis.compare.tables import describe, natural, text
from lightning_resnet.analysis.inspection.subjects import Subject
from lightning_resnet.errors import UserError, tell

if TYPE_CHECKING:
    import pandas as pd


GEOMETRIC = {"first_last", "gain"}  # ratios that span orders of magnitude


def inspect(args: Namespace, found: "Iterable[Subject]") -> "tuple[pd.DataFrame, Path]":
    """All nets' tables as one, with the columns `net` (what sets it apart) and `seed`; and the folder to write to."""
    import pandas as pd

    module = import_module(f"lightning_resnet.analysis.inspection.{args.what}")
    settings, tables, folder = [], [], Path(args.out or _beside(args.targets))
    problem = UserError(f"nothing to inspect in {' '.join(args.targets)}")
    for subject in found:
        try:
            tables.append(module.measure(subject, args))
        except UserError as e:  # of many nets, some may have nothing of the kind
            tell(f"passed over {subject.path}: {e}")
            problem = e
            continue
        settings.append(subject.settings)
        tell(f"inspected {len(tables)}: {subject.path} ({subject.at})")
    if not tables:
        raise problem
    rows, labels = _labels(settings)
    for label, setting, table in zip(labels, settings, tables, strict=True):
        table.insert(0, "net", describe(rows, label))
        table.insert(1, "seed", setting.get("seed"))
    order = sorted(range(len(tables)), key=lambda i: [natural(value) for value in labels[i]])
    return pd.concat([tables[i] for i in order], ignore_index=True), folder


def _beside(targets: Sequence[str]) -> Path:
    """`report` in the one run, the folder of runs, or the run whose checkpoint it is; else in the working directory."""
    if len(targets) != 1:
        return Path("report")
    target = Path(targets[0])
    run = target.parent.parent
    folder = run if target.suffix == ".ckpt" and (run / "config.yaml").exists() else target
    return folder / "report" if folder.is_dir() else Path("report")


def _labels(settings: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """The keys that tell the nets apart, seeds aside, and each net's values."""
    keys = list(dict.fromkeys(key for setting in settings for key in setting if key != "seed"))
    values = {key: [text(setting.get(key)) for setting in settings] for key in keys}
    shown = [key for key in keys if len(set(values[key])) > 1 or key in ("depth", "shortcut")] or ["net"]
    shown.sort(key=lambda key: {"net": 0, "depth": 1, "shortcut": 2}.get(key, 3))
    return shown, [[values[key][i] for key in shown] for i in range(len(settings))]


def write(what: str, frame: "pd.DataFrame", folder: Path) -> str:
    """Write WHAT.md, .csv, .png and .svg; returns the Markdown and the files' names."""
    module = import_module(f"lightning_resnet.analysis.inspection.{what}")
    markdown = "\n\n".join([tables.markdown(summary(module, frame)), *module.remarks(frame)]) + "\n"
    figure = module.figure(frame)
    contents = {"md": markdown.encode(), "csv": tables.as_csv(frame).encode()}
    contents |= {kind: figures.render(figure, kind) for kind in ("png", "svg")}
    files = [report.write_file(folder / f"{what}.{kind}", content) for kind, content in contents.items()]
    return "\n".join([markdown, *map(str, files)])


def summary(module: Any, frame: "pd.DataFrame") -> list[list[str]]:
    """A row per net, header first: means (geometric of ratios) over seeds with the lowest and highest."""
    import pandas as pd

    rows = []
    for net, part in frame.groupby("net", sort=False):
        values = pd.DataFrame([module.summarise(one) for _, one in part.groupby("seed", dropna=False)])
        cells = {}
        for name, column in values.items():
            mean = math.prod(column) ** (1 / len(column)) if name in GEOMETRIC else column.mean()
            spread = f" ({column.min():.3g} to {column.max():.3g})" if len(column) > 1 else ""
            cells[name] = f"{mean:.3g}{spread}"
        rows.append({"net": net, "n": str(len(values)), **cells})
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return [columns, *([row.get(key, "") for key in columns] for row in rows)]
