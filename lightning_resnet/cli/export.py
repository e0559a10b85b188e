"""`resnet-cli export RUN`: one archive with a run's recipe, metrics and weights."""

from argparse import Namespace
from pathlib import Path

from lightning_resnet.arguments import Parser
from lightning_resnet.errors import UserError, tell
from lightning_resnet.runs.find import find_run
from lightning_resnet.runs.labels import labels_in
from lightning_resnet.runs.listing import size
from lightning_resnet.runs.reader import Run

SUFFIX = ".tar.gz"


def make_parser() -> Parser:
    """Return the parser of `resnet-cli export`."""
    parser = Parser(
        prog="resnet-cli export",
        description="Put a run into one archive: recipe, metadata, metrics, weights of the last "
        "and the best epoch. Unpacked, it is a run again, for evaluate, predict, compare.",
    )
    parser.add_argument("run", metavar="RUN", help="folder, readable name, or id below --root")
    parser.add_argument(
        "--out", metavar=f"FILE{SUFFIX}", help="default: the run's readable name, in this folder"
    )
    parser.add_argument("--root", default="runs", help="folder of all runs (default: %(default)s)")
    return parser


def run(args: Namespace) -> int:
    """Write the archive, and print its path and content; return 0.

    Raises:
        UserError: the word names no run, or the run has no weights.
    """
    path = find_run(args.run, args.root)
    if not path.is_dir():
        raise UserError(f"{path} is no run directory: resnet-cli runs lists runs")
    name = labels_in(path.parent).get(path.name, path.name)
    out = Path(args.out or f"{path.absolute().parent.name}-{name}{SUFFIX}")
    if not out.name.endswith(SUFFIX):
        raise UserError(f"--out {out}: it must end in {SUFFIX}")
    from lightning_resnet.runs.archive import pack

    source = Run(path)
    if source.status() != "finished":
        step, steps = source.steps()
        tell(f"{path} is not finished: {source.status()} at step {step} of {steps}")
    out.parent.mkdir(parents=True, exist_ok=True)
    for member in pack(source, out):
        tell(f"  {member}")
    tell(f"{out}  {size(out.stat().st_size)}; unpack it with: tar xf {out}")
    return 0
