"""`resnet-cli sweep S.yaml`: list the points of a sweep, run them here, or submit them to SLURM.

resnet-cli sweep configs/sweeps/digits_degradation.yaml --list
resnet-cli sweep configs/sweeps/digits_degradation.yaml --local -j 2
resnet-cli sweep configs/sweeps/digits_degradation.yaml --submit --throttle 2 -- --time 30
"""

import shlex
import shutil
from argparse import Namespace
from pathlib import Path
from typing import NoReturn

from lightning_resnet.arguments import Parser, positive
from lightning_resnet.console import report_only
from lightning_resnet.errors import UserError, tell
from lightning_resnet.printing import add_json
from lightning_resnet.sweeps.points import Sweep, check_keys, read
from lightning_resnet.sweeps.state import assign_runs, facts, link_shared, listing

# Options of sbatch that people give without the `--` that comes before them.
OF_SBATCH = (
    "--account --comment --constraint --cpus-per-gpu --cpus-per-task --dependency --exclude "
    "--exclusive --export --gpus --gpus-per-node --gpus-per-task --gres --job-name --mail-type "
    "--mail-user --mem --mem-per-cpu --mem-per-gpu --nice --no-requeue --nodelist --nodes --ntasks "
    "--ntasks-per-node --output --partition --qos --requeue --reservation --signal --time --wckey "
    "-A -C -J -N -n -p -t -w -x"
).split()


class SweepParser(Parser):
    """Parser that tells where the options of sbatch belong."""

    def error(self, message: str) -> NoReturn:
        """Raise a UserError; where a word is an option of sbatch, show the place for it."""
        for place, word in enumerate(self.words):
            if word.partition("=")[0] in OF_SBATCH:
                given = shlex.join(self.words[place : place + (1 if "=" in word else 2)])
                raise UserError(
                    f"{word} is an option of sbatch: such options come last, after ` -- `: "
                    f"resnet-cli sweep FILE --submit -- {given}"
                )
        super().error(message)


def make_parser() -> Parser:
    """Return the parser of `resnet-cli sweep`."""
    parser = SweepParser(
        prog="resnet-cli sweep",
        description="List or run the points of a sweep. Options of sbatch come last, after ` -- `.",
    )
    parser.add_argument(
        "file",
        metavar="FILE",
        help="YAML in W&B's sweep format, or one of ours, such as digits_degradation",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--list", action="store_true", help="print the points and do nothing (the default)"
    )
    how.add_argument("--local", action="store_true", help="run here what is not finished")
    how.add_argument(
        "--submit",
        action="store_true",
        help="as one SLURM array: what is not finished, running or queued",
    )
    how.add_argument(
        "--retry-failed", action="store_true", help="submit only what failed or was stopped"
    )
    how.add_argument(
        "--status",
        action="store_true",
        help="how far each point is, and what waits in SLURM's queue",
    )
    how.add_argument("--cancel", action="store_true", help="cancel this sweep's jobs")
    parser.add_argument(
        "-j",
        type=positive,
        default=1,
        metavar="N",
        help="runs at a time; each gets cores / N threads",
    )
    parser.add_argument(
        "--throttle",
        type=positive,
        metavar="N",
        help="tasks of the array at a time (default: all)",
    )
    parser.add_argument(
        "--pack", type=positive, default=1, metavar="K", help="runs per task, which share its GPU"
    )
    parser.add_argument(
        "--chain",
        type=positive,
        default=1,
        metavar="N",
        help="N arrays, each after the other: no requeueing",
    )
    parser.add_argument("--root", default="runs", help="folder of all runs (default: %(default)s)")
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="only warnings and the last line"
    )
    parser.add_argument(
        "--yes",
        action="store_true",
        help="more than 100,000 points, or data that only the nodes of jobs have, are meant",
    )
    add_json(parser)
    return parser


def run(args: Namespace) -> int:
    """Run `resnet-cli sweep`, and return the exit status; `args.rest` has options of sbatch."""
    if args.as_json and (args.local or args.submit or args.retry_failed or args.cancel):
        raise UserError("--json tells what --list and --status tell: leave one of the two out")
    sweep = read(args.file, args.yes)
    check_keys(sweep)
    assign_runs(sweep, args.root)
    if args.local or args.submit or args.retry_failed:
        link_shared(sweep, Path(args.root))
    if args.local or args.submit or args.retry_failed or args.cancel:
        report_only()
    if args.local:
        from lightning_resnet.cli.main import shielded
        from lightning_resnet.sweeps.local import run_points

        return run_points(sweep, Path(args.root), args.j, shielded)
    if args.submit or args.retry_failed or args.status or args.cancel:
        return _on_slurm(sweep, args)
    args.document |= facts(sweep)
    if not args.as_json:
        tell(listing(sweep))
    if not args.list:
        tell(f"run them here: resnet-cli sweep {args.file} --local -j 2; on a cluster: --submit")
    return 0


def _on_slurm(sweep: Sweep, args: Namespace) -> int:
    """Submit the sweep, show the progress of its points, or cancel its jobs."""
    from lightning_resnet.sweeps import slurm

    home = Path(args.root, sweep.name, "submitted")
    if args.status:
        args.document |= facts(sweep, slurm.queued(home))
        if not args.as_json:
            slurm.tell_status(sweep, home)
        return 0
    if args.cancel:
        return slurm.cancel(home)
    points = slurm.points_to_submit(sweep, home, args.retry_failed)
    if not points:
        return 0
    from lightning_resnet.sweeps.check import check_data, check_points

    check_points(sweep, points)
    slurm.check_site()
    if shutil.which("sbatch") and not args.yes:
        check_data(sweep, points)
    folder = slurm.freeze(sweep, points, Path(args.root), home)
    return slurm.submit(sweep, points, args, args.rest, folder)
