"""`resnet-cli requeue`: the last line of a SLURM batch script; requeue the job, wait, or end."""

import os
import signal
import sys
import time
from argparse import Namespace
from contextlib import redirect_stdout

from lightning_resnet.arguments import Parser, not_negative
from lightning_resnet.errors import UserError, tell
from lightning_resnet.runs.status import restarts
from lightning_resnet.sweeps.requeue import (
    LIMIT,
    STAY_S,
    decide,
    folders,
    is_elastic,
    nodes_left,
    of_this_job,
    requeue,
)


def make_parser() -> Parser:
    """Return the parser of `resnet-cli requeue`."""
    parser = Parser(
        prog="resnet-cli requeue",
        description="In a batch script: requeue the job, wait, or end.",
    )
    parser.add_argument(
        "--status",
        type=not_negative,
        required=True,
        metavar="N",
        help="exit status of the training",
    )
    parser.add_argument(
        "--limit",
        type=not_negative,
        default=LIMIT,
        metavar="N",
        help="requeues of a job (default: %(default)s)",
    )
    parser.add_argument(
        "--left",
        type=not_negative,
        metavar="N",
        help="only print on how many nodes, fewer than N, a step of --run.elastic is to go on "
        "after a loss; exit 1 if it is not",
    )
    parser.add_argument("command", nargs="...", help="fit ARGS, or table FILE")
    return parser


def run(args: Namespace) -> int:
    """Run `resnet-cli requeue`; return the training's status, or the site's requeue exit code."""
    env = dict(os.environ)
    if args.command[:1] not in (["fit"], ["table"]):
        got = f"; got {args.command[0]}" if args.command else ""
        raise UserError(f"requeue needs the command that was run: fit ARGS, or table FILE{got}")
    if not env.get("SLURM_JOB_ID"):
        raise UserError(
            "requeue is the last line of a batch script: outside a Slurm job there is nothing to "
            "requeue"
        )
    if args.left is not None:
        left = 0
        if is_elastic(args.command):
            (folder,) = folders(args.command)
            with redirect_stdout(sys.stderr):
                left = nodes_left(folder, args.status, env, args.left)
        if left:
            tell(left)
        return int(not left)
    made = [pair for folder in folders(args.command) for pair in of_this_job(folder, env)]
    decision, reason = decide(made, args.status, restarts(env), args.limit)
    if reason:
        tell(reason)
    if decision == "requeue":
        return requeue(env, args.status)
    if decision == "stay":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(STAY_S)
    return args.status
