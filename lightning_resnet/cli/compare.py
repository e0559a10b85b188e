"""`resnet-cli compare RUNS...`: its flags, what it prints, and what goes elsewhere than into the report.

`resnet-cli compare runs/digits`, or of several sweeps: `resnet-cli compare runs/a runs/b --rows net depth --out ab`.
"""

import shlex
from argparse import Namespace
from pathlib import Path

from lightning_resnet.arguments import Parser
from lightning_resnet.errors import UserError, tell


def make_parser() -> Parser:
    """The flags of `resnet-cli compare`."""
    parser = Parser(
        prog="resnet-cli compare", description="Error curves and a table of mean and spread over seeds, from runs."
    )
    runs = "folders of runs, such as runs/digits; reference:digits; wandb://entity/project"
    parser.add_argument("runs", nargs="*", metavar="RUNS", help=runs)
    parser.add_argument("--where", default="", metavar="EXPR", help="only such runs: 'depth == 56 and lr < 0.1'")
    parser.add_argument("--rows", nargs="+", metavar="K", help="settings that make the rows (default: those that vary)")
    parser.add_argument("--over", nargs="+", default=["seed"], metavar="K", help="settings to average over as well")
    parser.add_argument("--cols", default="", metavar="K", help="a setting whose values stand side by side")
    metric = "columns: test/acc1@best, val/loss@last, steps_to:5 (first step with a validation error of 5 %% or less), "
    metric += "train_steps_to:5 (the same of the clean training error)"
    parser.add_argument("--metric", nargs="+", default=[], metavar="M@WHEN", help=metric)
    axes = ["step", "epoch", "time", "gpu_h"]
    parser.add_argument("--x", choices=axes, default="step", help="of the figure (default: %(default)s)")
    kinds = ["grad_norm", "response_std", "identity_distance"]
    panels = "figures of what the callbacks GradientNorms, ResponseStds and AddedBlocks logged"
    parser.add_argument("--panels", nargs="+", default=[], choices=kinds, help=panels)
    parser.add_argument("--baseline", default="", metavar="K=V", help="paired differences from it: shortcut=none")
    parser.add_argument("--effects", action="store_true", help="on what the gap between deep and shallow depends")
    parser.add_argument("--diff", nargs=2, metavar="RUN", help="only print what sets two runs' configurations apart")
    parser.add_argument("--parquet", action="store_true", help="also write runs.parquet and history.parquet")
    publish = "publish tables and figures on Weights & Biases (default: the runs' project)"
    parser.add_argument("--wandb", nargs="?", const="", metavar="PROJECT", help=publish)
    parser.add_argument("--out", metavar="DIR", help="where to write (default: report/ beside the runs)")
    parser.add_argument("--title", default="", metavar="T", help="of the page and the figure")
    return parser


def run(args: Namespace) -> int:
    """Write the report, print its tables and where it lies; 0, or an error the user can cure."""
    from lightning_resnet.analysis.compare import tables
    from lightning_resnet.analysis.compare.export import diff, write_parquet
    from lightning_resnet.analysis.compare.report import View, report

    if args.diff:
        tell(diff(*map(Path, args.diff)))
        return 0
    if not args.runs:
        raise UserError("compare what? name runs, sweeps or roots: resnet-cli compare runs/digits")
    view = View(
        **{key: getattr(args, key) for key in ("where", "rows", "over", "cols", "x", "baseline", "effects", "title")},
        metrics=args.metric,
        panels=args.panels,
    )
    command = shlex.join(["resnet-cli", "compare", *args.words])
    made = report(args.runs, args.out, view, command)
    tell(tables.to_markdown(made.table))
    for cells, text in made.extras.values():
        tell(f"{tables.markdown(cells)}\n\n{text}\n")
    parquet = write_parquet(args.runs, args.where, made.files[-1].parent) if args.parquet else []
    for file in [*parquet, *made.files]:
        tell(file)
    if args.wandb is not None:
        from lightning_resnet.analysis.compare.publish import publish

        tell(publish(made, args.wandb, args.title, command))
    return 0
