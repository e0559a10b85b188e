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

from lightning_resnet.errors import TRUST, Parser, UserError, positive, tell

if TYPE_CHECKING:
    import pandas as pd

    from lightning_resnet.analysis.subjects import Subject

KINDS = {
    "gradients": "norms of dE/dx and dE/dw, and the part of each that takes the shortcut (train mode)",
    "responses": "standard deviation of each 3x3 layer's response (He et al. 2015, fig. 7), F(x) against x, weights",
    "lesions": "validation error with blocks deleted or exchanged (Veit et al. 2016)",
    "paths": "share of the gradient by length of the path it takes, and the effective depth (Veit et al. 2016)",
    "probes": "how well a linear classifier does on each block's output",
    "shortcuts": "singular values of projections on shortcuts, and the energy of x they keep",
}
GEOMETRIC = {"first_last", "gain"}  # ratios that span orders of magnitude


def make_parser() -> Parser:
    """The flags of `resnet-cli inspect`."""
    parser = Parser(
        prog="resnet-cli inspect",
        description="What a net does inside, block by block.",
        epilog="Any key of a recipe is a flag too, such as --model.net.depth 56 or --data.size 64.",
    )
    parser.add_argument("what", choices=KINDS, help="; ".join(f"{kind}: {text}" for kind, text in KINDS.items()))
    parser.add_argument(
        "targets",
        nargs="*",
        metavar="TARGET",
        help="runs, folders of runs or checkpoints; or recipes or sweeps (.yaml): their nets before training",
    )
    parser.add_argument("--at", choices=["last", "best", "init"], default="last", help="of runs (default: %(default)s)")
    parser.add_argument(
        "--batches", type=positive, default=4, metavar="N", help="training batches (default: %(default)s)"
    )
    parser.add_argument(
        "--draws", type=positive, default=10, metavar="N", help="random choices each (default: %(default)s)"
    )
    parser.add_argument("--device", default="cpu", help="cpu | cuda (default: %(default)s)")
    parser.add_argument("--trust", action="store_true", help=TRUST)
    parser.add_argument("--out", metavar="DIR", help="where to write (default: report/ in the target's folder)")
    return parser


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """(arguments of the inspection, keys of a recipe with their values)."""
    ours, recipe, rest = [], [], list(argv)
    while rest:
        key, has_value, _ = rest[0].partition("=")
        if key in ("-c", "--config", "--seed_everything") or (key.startswith("--") and "." in key):
            n = 1 if has_value else 2
            recipe, rest = recipe + rest[:n], rest[n:]
        else:
            ours.append(rest.pop(0))
    return ours, recipe


def main(argv: Sequence[str]) -> int:
    """Inspect, print the table and where the files lie; 0, or an error the user can cure."""
    ours, recipe = split(argv)
    args = make_parser().parse_args(ours)
    if not args.targets and "--config" not in recipe and "-c" not in recipe:
        raise UserError(f"inspect what? name a run or a recipe: resnet-cli inspect {args.what} configs/digits.yaml")
    from lightning_resnet.analysis.subjects import subjects
    from lightning_resnet.trained import device_for

    found = subjects(args.targets, recipe, args.at, args.batches, device_for(args.device), args.trust)
    frame, folder = inspect(args, found)
    tell(write(args.what, frame, folder))
    return 0


def inspect(args: Namespace, found: "Iterable[Subject]") -> "tuple[pd.DataFrame, Path]":
    """All nets' tables as one, with the columns `net` (what sets it apart) and `seed`; and the folder to write to."""
    import pandas as pd

    from lightning_resnet.analysis.tables import describe, natural

    module = import_module(f"lightning_resnet.analysis.{args.what}")
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
    from lightning_resnet.analysis.tables import text

    keys = list(dict.fromkeys(key for setting in settings for key in setting if key != "seed"))
    values = {key: [text(setting.get(key)) for setting in settings] for key in keys}
    shown = [key for key in keys if len(set(values[key])) > 1 or key in ("depth", "shortcut")] or ["net"]
    shown.sort(key=lambda key: {"net": 0, "depth": 1, "shortcut": 2}.get(key, 3))
    return shown, [[values[key][i] for key in shown] for i in range(len(settings))]


def write(what: str, frame: "pd.DataFrame", folder: Path) -> str:
    """Write WHAT.md, .csv, .png and .svg; returns the Markdown and the files' names."""
    from lightning_resnet.analysis import figures, report, tables

    module = import_module(f"lightning_resnet.analysis.{what}")
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
