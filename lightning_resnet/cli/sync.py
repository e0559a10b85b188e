"""`resnet-cli sync RUNS...`: upload runs to Weights & Biases from a machine that can reach it."""

import time
from argparse import Namespace
from pathlib import Path
from tempfile import TemporaryDirectory

from lightning_resnet.arguments import Parser
from lightning_resnet.console import report_only
from lightning_resnet.errors import UserError
from lightning_resnet.machine import is_installed
from lightning_resnet.runs.find import find_runs, folder_of
from lightning_resnet.tracking.mode import choose_mode
from lightning_resnet.tracking.upload import LONGEST_S, Uploader


def make_parser() -> Parser:
    """Return the parser of `resnet-cli sync`."""
    parser = Parser(
        prog="resnet-cli sync",
        description="Upload runs to Weights & Biases; nothing is ever deleted.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUNS",
        help="runs, sweeps or folders of them, such as runs/digits, or their names below runs/",
    )
    parser.add_argument("--root", default="runs", help="folder of all runs (default: %(default)s)")
    parser.add_argument(
        "--watch",
        action="store_true",
        help="go on until Ctrl-C: what grows or begins is sent too",
    )
    parser.add_argument(
        "--every",
        type=float,
        default=20,
        metavar="S",
        help="seconds between two uploads (%(default)s)",
    )
    return parser


def run(args: Namespace) -> int:
    """Run `resnet-cli sync`; return 0, or 1 if a run could not be uploaded."""
    report_only()
    if not 0 < args.every <= LONGEST_S:  # refuses NaN too
        raise UserError(f"--every {args.every:g}: a number of seconds above 0, up to {LONGEST_S:,}")
    paths = [folder_of(word, args.root) for word in args.runs]
    if not is_installed("wandb"):
        raise UserError("sync needs wandb: pip install 'wandb>=0.31,<0.32'")
    mode, why = choose_mode("online", patient=True)
    if mode != "online":
        raise UserError(f"W&B cannot be reached: {why}")
    with TemporaryDirectory() as folder:
        uploader = Uploader(Path(folder), args.every if args.watch else 0.0)
        try:
            failed = uploader.upload(find_runs(paths))
            while args.watch:
                time.sleep(args.every)
                failed = uploader.upload(find_runs(paths))
        finally:
            uploader.close()
    return 1 if failed else 0
