"""`resnet-cli export RUN`: one archive with a run's recipe, metrics and weights.

`resnet-cli export RUNS --reference DIR` copies runs without weights, for others to compare with.
"""

from argparse import Namespace
from pathlib import Path

from lightning_resnet.arguments import Parser
from lightning_resnet.errors import UserError, tell
from lightning_resnet.printing import add_json
from lightning_resnet.runs.find import find_run, find_runs
from lightning_resnet.runs.labels import labels_in
from lightning_resnet.runs.listing import size
from lightning_resnet.runs.reader import Run
from lightning_resnet.runs.reference import write_reference

SUFFIX = ".tar.gz"
SUFFIXES = (SUFFIX, ".tgz")


def make_parser() -> Parser:
    """Return the parser of `resnet-cli export`."""
    parser = Parser(
        prog="resnet-cli export",
        description="Put a run into one archive: recipe, metadata, metrics, weights of the last "
        "and the best epoch. Unpacked, it is a run again, for evaluate, predict, compare.",
    )
    parser.add_argument("run", metavar="RUN", help="folder, readable name, or id below --root")
    parser.add_argument(
        "--reference",
        metavar="DIR",
        help="copy the run, or each run in the folder RUN, there instead, without weights, host "
        "and folders of files: a set that others compare with",
    )
    parser.add_argument(
        "--about",
        default="",
        metavar="TEXT",
        help="of --reference, on its images, such as 'JPEG copy of the images'; compare shows it",
    )
    parser.add_argument(
        "-o",
        "--out",
        metavar=f"FILE{SUFFIX}",
        help="default: the run's readable name, in this folder",
    )
    parser.add_argument("--root", default="runs", help="folder of all runs (default: %(default)s)")
    add_json(parser)
    return parser


def run(args: Namespace) -> int:
    """Write the archive, and print its path and content; return 0.

    Raises:
        UserError: the word names no run, or the run has no weights.
    """
    if args.reference:
        return _reference(args)
    if args.about:
        raise UserError("--about says what a set of runs has: add --reference DIR")
    path = find_run(args.run, args.root)
    if not path.is_dir():
        raise UserError(f"{path} is no run directory: resnet-cli runs lists runs")
    name = labels_in(path.parent).get(path.name, path.name)
    out = Path(args.out or f"{path.absolute().parent.name}-{name}{SUFFIX}")
    if not out.name.endswith(SUFFIXES):
        raise UserError(f"--out {out}: it must end in {' or '.join(SUFFIXES)}")
    from lightning_resnet.runs.archive import pack

    source = Run(path)
    if source.status() != "finished":
        step, steps = source.steps()
        tell(f"{path} is not finished: {source.status()} at step {step} of {steps}")
    out.parent.mkdir(parents=True, exist_ok=True)
    members = []
    for member in pack(source, out):
        tell(f"  {member}")
        members.append(str(member))
    args.document |= {"file": out, "bytes": out.stat().st_size, "members": members}
    tell(f"{out}  {size(out.stat().st_size)}; unpack it with: tar xf {out}")
    return 0


def _reference(args: Namespace) -> int:
    """Copy the runs that a word names into a set; return 0.

    Raises:
        UserError: the word names no run, one has not finished, or --out is given too.
    """
    if args.out:
        raise UserError(
            "--out is of an archive, --reference of a set of runs: leave one of them out"
        )
    word = Path(args.run)
    path = word if word.is_dir() else find_run(args.run, args.root)
    runs = [Run(folder) for folder in find_runs([path])]
    if not runs:
        raise UserError(f"{path} holds no runs: resnet-cli runs lists them")
    written = write_reference(runs, Path(args.reference), args.about)
    for folder in written:
        tell(f"  {folder}")
    args.document |= {"folder": args.reference, "runs": [str(folder) for folder in written]}
    tell(f"{len(written)} runs; to compare with them: resnet-cli compare RUNS {args.reference}")
    return 0
