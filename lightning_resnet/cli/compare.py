"""`resnet-cli compare RUNS...`: its flags, what it prints, and what goes elsewhere than the report.

`resnet-cli compare runs/digits`, or several sweeps:
`resnet-cli compare runs/a runs/b --rows net depth --out ab`.
"""

import re
import shlex
from argparse import Namespace
from pathlib import Path

from lightning_resnet.aliases import key_of
from lightning_resnet.analysis.compare.kinds import KINDS
from lightning_resnet.analysis.compare.where import check as check_where
from lightning_resnet.arguments import Parser, folder, positive
from lightning_resnet.errors import UserError, tell
from lightning_resnet.printing import add_json, fitted, paragraph
from lightning_resnet.runs.find import folder_of

LIST = "?"  # --published without a name


def make_parser() -> Parser:
    """Return the parser of `resnet-cli compare`."""
    parser = Parser(
        prog="resnet-cli compare",
        description="Error curves and a table of mean and spread over seeds, from runs.",
    )
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUNS",
        help="runs and folders of runs, such as runs/digits, or their names; reference:digits; "
        "wandb://entity/project",
    )
    parser.add_argument("--root", default="runs", help="folder of all runs (default: %(default)s)")
    parser.add_argument(
        "--where",
        default="",
        metavar="EXPR",
        help="only such runs: 'depth == 56 and lr < 0.1'",
    )
    parser.add_argument(
        "--rows",
        action="extend",
        nargs="+",
        metavar="K",
        help="settings that make the rows (default: those that vary)",
    )
    parser.add_argument(
        "--over",
        action="extend",
        nargs="+",
        default=["seed"],
        metavar="K",
        help="settings to average over as well",
    )
    parser.add_argument(
        "--cols",
        default="",
        metavar="K",
        help="a setting whose values stand side by side",
    )
    parser.add_argument(
        "--metric",
        action="extend",
        nargs="+",
        default=[],
        metavar="M@WHEN",
        help="columns: test/acc1@best, val/loss@last, steps_to:5 (first step with a validation "
        "error of 5 %% or less), train_steps_to:5 (the same of the clean training error)",
    )
    parser.add_argument(
        "--x",
        choices=["step", "epoch", "time", "gpu_h"],
        default="step",
        help="of the figure (default: %(default)s)",
    )
    parser.add_argument(
        "--panels",
        action="extend",
        nargs="+",
        default=[],
        choices=[*KINDS],
        help="figures of what the callbacks GradientNorms, ResponseStds and AddedBlocks logged; "
        "learned scales of branches",
    )
    parser.add_argument(
        "--baseline",
        default="",
        metavar="K=V",
        help="paired differences from it: shortcut=none",
    )
    parser.add_argument(
        "--effects",
        action="store_true",
        help="on what the gap between deep and shallow depends",
    )
    parser.add_argument(
        "--importance",
        action="store_true",
        help="how much of the error's variance each setting explains (fANOVA)",
    )
    parser.add_argument(
        "--published",
        nargs="?",
        const=LIST,
        default="",
        metavar="NAME",
        help="published errors next to yours, and how those trainings differ; without NAME: list "
        "what there is",
    )
    parser.add_argument(
        "--diff",
        nargs=2,
        metavar="RUN",
        help="only print what sets two runs' configurations apart",
    )
    parser.add_argument(
        "--parquet",
        action="store_true",
        help="also write runs.parquet and history.parquet",
    )
    parser.add_argument(
        "--wandb",
        nargs="?",
        const="",
        metavar="PROJECT",
        help="publish tables and figures on Weights & Biases (default: the runs' project)",
    )
    parser.add_argument(
        "--out",
        type=folder,
        metavar="DIR",
        help="where to write (default: report/ next to the runs, or next to the sweeps)",
    )
    parser.add_argument(
        "--serve",
        action="store_true",
        help="then show the page on this machine's loopback, and draw it again while runs grow",
    )
    parser.add_argument(
        "--port",
        type=positive,
        default=0,
        metavar="N",
        help="of --serve (default: 8765, or a free one)",
    )
    parser.add_argument("--title", default="", metavar="T", help="of the page and the figure")
    add_json(parser)
    return parser


def _check(args: Namespace) -> None:
    """Find the folders that words name, and refuse what no runs can fit, before pandas is imported.

    Raises:
        UserError: a folder of runs does not exist, or an expression has no such form.
    """
    if args.diff:
        args.diff = [str(folder_of(word, args.root)) for word in args.diff]
    if args.baseline and not re.fullmatch(r"[\w.]+=[^=]+", args.baseline):
        parts = re.fullmatch(r"([\w.]+) ?(?:==?|:) ?(\S+)", args.baseline)
        example = "=".join(parts.groups()) if parts else "shortcut=none"
        following = args.words[args.words.index(args.baseline) + 1 :][:1]
        if following and key_of(f"--{args.baseline}") and not Path(following[0]).exists():
            example = f"{args.baseline}={following[0]}"
        raise UserError(f"--baseline {args.baseline}: write it as in --baseline {example}")
    for word in args.runs:
        if word.lower() in ("vs", "vs.", "versus", "and") and not Path(word).exists():
            others = [other for other in args.words if other != word]
            raise UserError(f"leave {word} out: resnet-cli compare {shlex.join(others)}")
    for at, word in enumerate(args.runs):
        if page := re.fullmatch(
            r"(?:https?://)?(?:www\.)?wandb(?:\.ai/|:/?)([\w-]+/[\w-]+).*", word
        ):
            raise UserError(f"{word}: runs of W&B are wandb://{page[1]}")
        if word.startswith("wandb:") and not re.match(r"wandb://[\w.-]+/[\w.-]+", word):
            raise UserError(f"{word} is no project: write wandb://entity/project")
        if "," in word and not Path(word).exists():
            parts = " ".join(part for part in word.split(",") if part)
            raise UserError(f"{word}: runs have spaces between them: resnet-cli compare {parts}")
        if not word.startswith(("wandb://", "reference:")):
            if key_of(f"--{word}") and not Path(word).exists() and (args.rows or args.cols):
                raise UserError(
                    f"{word} is a setting, and no run: --rows takes several, without =, and --cols "
                    "takes one"
                )
            args.runs[at] = str(folder_of(word, args.root))
        elif word.startswith("reference:"):
            folder_of(word)
    for flag in ("rows", "over", "metric"):
        given = getattr(args, flag) or []
        if any("," in name for name in given):
            names = " ".join(given).replace(",", " ").split()
            raise UserError(f"--{flag} {' '.join(given)}: write --{flag} {' '.join(names)}")
    check_where(args.where)
    for metric in args.metric:
        kind, _, percent = metric.partition(":")
        when = metric.partition("@")[2]
        if kind.endswith("steps_to") and not re.fullmatch(r"\d+\.?\d*", percent):
            raise UserError(f"--metric {metric}: write an error in percent, as in {kind}:5")
        if when not in ("", "last", "best"):
            raise UserError(f"--metric {metric}: after @ stands last or best")
    if args.serve and args.as_json:
        raise UserError("--serve and --json: a server prints no document; leave one of them out")
    if args.port and not args.serve:
        raise UserError("--port is of --serve: say --serve too")
    if not args.runs and not args.diff and args.published != LIST:
        raise UserError("compare what? name runs, sweeps or roots: resnet-cli compare runs/digits")


def run(args: Namespace) -> int:
    """Write the report; print its tables and where the files lie; return 0.

    Raises:
        UserError: no runs are named, or a flag does not fit the runs.
    """
    _check(args)
    from lightning_resnet.analysis.compare import tables
    from lightning_resnet.analysis.compare.export import diff, write_parquet
    from lightning_resnet.analysis.compare.published import listing
    from lightning_resnet.analysis.compare.report import View, compared, index, report
    from lightning_resnet.analysis.compare.serve import listen, serve

    if args.diff:
        differing = diff(*map(Path, args.diff))
        lines = [f"{key}: {old} -> {new}" for key, (old, new) in differing.items()]
        tell("\n".join(lines) or "no setting differs")
        args.document["differences"] = differing
        return 0
    if args.published == LIST:
        sets = listing()
        tell(fitted(sets, 3))
        args.document["published"] = [dict(zip(sets[0], line, strict=True)) for line in sets[1:]]
        return 0
    view = View(
        where=args.where,
        rows=args.rows,
        over=args.over,
        cols=args.cols,
        metrics=args.metric,
        x=args.x,
        baseline=args.baseline,
        effects=args.effects,
        importance=args.importance,
        published=args.published,
        title=args.title,
        panels=args.panels,
    )
    command = shlex.join(["resnet-cli", "compare", *args.words])
    server = listen(args.port) if args.serve else None  # a taken port is told before all work
    made = report(args.runs, args.out, view, command)
    if not args.as_json:
        tell(tables.to_text(made.table))
        for extra in made.extras.values():
            tell(f"{fitted(extra.cells, extra.left, extra.less)}\n\n{paragraph(extra.legend)}\n")
    files = made.files
    if args.parquet:
        files = [*write_parquet(args.runs, args.where, files[-1].parent), *files]
    args.document |= {
        "rows": tables.to_rows(made.table),
        **({"published": []} if args.published else {}),
        **{name: extra.rows for name, extra in made.extras.items()},
        "notes": made.table.notes,
        "warnings": made.table.flags,
        "files": files,
    }
    for file in files:
        tell(file)
    if args.wandb is not None:
        from lightning_resnet.analysis.compare.publish import publish

        tell(publish(made, args.wandb, args.title, command))
    if server:

        def newest() -> str:
            return index(compared(args.runs, view), view, command, live=True)

        serve(server, newest, newest(), tell)
    return 0
