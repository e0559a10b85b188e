"""`resnet-cli sweep S.yaml`: list the points of a sweep, run them here, or submit them to SLURM.

resnet-cli sweep configs/sweeps/digits_degradation.yaml --list
resnet-cli sweep configs/sweeps/digits_degradation.yaml --local -j 2
resnet-cli sweep configs/sweeps/digits_degradation.yaml --submit --throttle 2 -- --time 30
"""

import os
import shlex
import shutil
from argparse import Namespace
from pathlib import Path
from typing import NoReturn

from lightning_resnet.arguments import Parser, positive
from lightning_resnet.console import report_only
from lightning_resnet.errors import UserError, tell
from lightning_resnet.printing import add_json
from lightning_resnet.sweeps.points import Sweep, check_keys, idle_keys, read
from lightning_resnet.sweeps.search import import_optuna, refresh, take
from lightning_resnet.sweeps.state import (
    best,
    facts,
    link_shared,
    listing,
    prepare_command,
    ranking,
    with_root,
)

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
    how.add_argument(
        "--next",
        nargs="?",
        const="",
        metavar="SLOT",
        help="method bayes: run one point, which the results so far decide; a task of --submit "
        "names its slot. Flags of fit come last, after ` -- `",
    )
    how.add_argument(
        "--best", type=positive, metavar="N", help="print the N points with the best results"
    )
    parser.add_argument(
        "-j",
        type=positive,
        metavar="N",
        help="runs at a time of --local (default: 1); each gets cores / N threads",
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
    is_next = args.next is not None
    if args.as_json and (args.local or args.submit or args.retry_failed or args.cancel or is_next):
        raise UserError(
            "--json tells what --best, --list and --status tell: leave one of the two out"
        )
    if args.j and not args.local:
        raise UserError(
            "-j is for --local; --throttle N is the number of tasks at a time of --submit"
        )
    is_submitted = args.submit or args.retry_failed
    for flag in ("throttle", "pack", "chain"):
        if getattr(args, flag) not in (None, 1) and not is_submitted:
            raise UserError(
                f"--{flag} is for --submit: leave it out, or add --submit; --local -j N is the "
                "number of runs at a time"
            )
    if args.rest and not is_submitted and not is_next:
        raise UserError(
            f"-- {shlex.join(args.rest)}: options after -- are those of sbatch, for --submit; keys "
            "of all runs are in the sweep's file (resnet-cli recipes NAME > my.yaml)"
        )
    root = Path(args.root)
    sweep = read(args.file, args.yes)
    if is_next and not sweep.search:
        raise UserError(
            f"--next is for method bayes: the points of {args.file} are known, run them with "
            "--local or --submit"
        )
    check_keys(sweep)
    if sweep.search and sweep.size < sweep.search.cap and not is_next and not args.as_json:
        tell(f"note: the parameters make {sweep.size} points, fewer than run_cap")
    if not args.as_json and (idle := idle_keys(sweep)):
        tell(
            f"warning: no result depends on {' and '.join(idle)}, so that points that differ in "
            "nothing else share one run"
        )
    if sweep.search and (is_next or args.local or args.submit):
        import_optuna()  # refused before anything is written, or waits in a queue
    refresh(sweep, root)
    if is_next:
        return _next(sweep, root, args)
    if args.local or args.submit or args.retry_failed:
        link_shared(sweep, root)
    if args.local or args.submit or args.retry_failed or args.cancel:
        report_only()
    if args.local:
        from lightning_resnet.cli.main import shielded
        from lightning_resnet.sweeps.local import run_points

        return run_points(sweep, root, args.j or 1, shielded)
    if args.submit or args.retry_failed or args.status or args.cancel:
        return _on_slurm(sweep, args)
    if args.best:
        return _best(sweep, args)
    args.document |= facts(sweep)
    if not args.as_json:
        tell(listing(sweep))
    if not args.list:
        command = with_root(f"resnet-cli sweep {shlex.quote(args.file)} --local -j 2", root)
        tell(f"run them here: {command}; on a cluster: --submit")
    return 0


def _best(sweep: Sweep, args: Namespace) -> int:
    """Print the points with the best results; return 0."""
    found = best(sweep, args.best)
    if args.as_json:
        sweep.points = [point for point, _ in found]
        args.document |= facts(sweep) | {"metric": sweep.goal.metric}
        for told, (_, value) in zip(args.document["points"], found, strict=True):
            told["result"] = value
    else:
        tell(ranking(sweep, found))
    return 0


def _next(sweep: Sweep, root: Path, args: Namespace) -> int:
    """Run one point in this process; return the exit status of its `fit`, 0 if none is left."""
    from lightning_resnet.cli.main import shielded

    taken = take(sweep, root, args.next)
    if not taken:
        tell(f"{sweep.name}: no point is left to take of {sweep.size}")
        return 0
    number, point = taken
    tell(f"[{number + 1}/{sweep.size}] {sweep.text(point)}")
    threads = os.environ.get("THREADS") if args.next else None  # that slurm/sweep.sbatch sets
    arguments, _ = prepare_command(sweep, point, root, threads)
    return shielded([*arguments, *args.rest])


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
    if sweep.search and args.retry_failed:
        raise UserError("--retry-failed is for listed points: --submit takes failed ones up too")
    points = []
    slots = []
    if sweep.search:
        slots = slurm.slots_to_submit(sweep, home)
        if len(slots) > 1 and not args.throttle:
            tell(
                f"warning: {len(slots)} tasks may start together, and what they try then is not "
                "chosen by results: --throttle 2 runs two at a time"
            )
    else:
        points = slurm.points_to_submit(sweep, home, args.retry_failed)
    if not points and not slots:
        return 0
    from lightning_resnet.sweeps.check import check_data, check_points

    samples = points or sweep.samples
    check_points(sweep, samples)
    slurm.check_site()
    if shutil.which("sbatch") and not args.yes:
        check_data(sweep, samples)
    folder = slurm.freeze(sweep, points, slots, Path(args.root), home)
    return slurm.submit(sweep, len(points or slots), args, args.rest, folder)
