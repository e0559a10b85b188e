"""`resnet-cli rm RUN...`: remove runs and the links to them, after a question."""

import sys
from argparse import Namespace

from lightning_resnet.arguments import Parser
from lightning_resnet.errors import UserError, tell
from lightning_resnet.printing import add_json
from lightning_resnet.runs.find import find_run
from lightning_resnet.runs.listing import counted, describe, named, size
from lightning_resnet.runs.removal import plan, remove


def make_parser() -> Parser:
    """Return the parser of `resnet-cli rm`."""
    parser = Parser(
        prog="resnet-cli rm",
        description="Remove runs, and the links to them. A run that is being trained is refused.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="folder, readable name, or id below --root",
    )
    parser.add_argument("--yes", action="store_true", help="ask nothing, for scripts")
    parser.add_argument("--root", default="runs", help="folder of all runs (default: %(default)s)")
    add_json(parser)
    return parser


def run(args: Namespace) -> int:
    """Remove the runs; return 0, or 1 if the answer was no.

    Raises:
        UserError: a word is no run, the run is live, no answer can be given, or a file cannot be
            removed.
    """
    removals = {}
    for word in args.runs:
        removal = plan(find_run(word, args.root))
        removals[removal.run.absolute()] = removal
    gone = describe(removal.run for removal in removals.values() if not removal.stays)
    if gone:
        tell(named(gone, all_of_them=True))
    for removal in removals.values():
        shown = {describe([removal.run])[0]["label"]}
        for link in removal.links:
            if link.parent != removal.run.parent or link.name not in shown:
                tell(f"  {link}  (link)")
        if removal.stays:
            tell(f"  {removal.run}  (link of this sweep; the run {removal.stays} stays)")
    total = size(sum(run["bytes"] for run in gone))
    question = f"remove {counted(len(gone))}, {total}?"
    if not args.yes:
        if not sys.stdin.isatty():
            raise UserError(f"{question} No terminal is there to answer on: add --yes")
        tell(f"{question} [y/N] ", end="")
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            tell("nothing is removed")
            args.document |= {"removed": [], "bytes": 0}
            return 1
    for removal in removals.values():
        try:
            remove(removal)
        except OSError as e:
            raise UserError(f"cannot remove {e.filename or removal.run}: {e.strerror}") from e
    args.document |= {
        "removed": [removal.run for removal in removals.values()],
        "bytes": sum(run["bytes"] for run in gone),
    }
    tell(f"removed: {counted(len(gone))}, {total}")
    return 0
