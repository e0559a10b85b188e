"""`resnet-cli rm RUN...`: remove runs or sweeps and the links to them, after a question."""

import os
import sys
from argparse import Namespace
from pathlib import Path

from lightning_resnet.arguments import Parser
from lightning_resnet.errors import UserError, printable, tell
from lightning_resnet.printing import add_json
from lightning_resnet.runs.find import find_run, is_run, sweep_folder
from lightning_resnet.runs.listing import counted, describe, named, size
from lightning_resnet.runs.removal import (
    Removal,
    extras_of,
    plan,
    refuse_live,
    remove,
    remove_empty,
    remove_rest,
    runs_in,
)
from lightning_resnet.shipped import REFERENCE


def make_parser() -> Parser:
    """Return the parser of `resnet-cli rm`."""
    parser = Parser(
        prog="resnet-cli rm",
        description="Remove runs, or sweeps with all their runs, and the links to them. A run that "
        "is being trained is refused.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="folder, readable name, or id below --root; or the folder or name of a sweep",
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
    removals: dict[Path, Removal] = {}
    sweeps: dict[Path, list[str]] = {}  # folder -> folders in it that go too
    for word in args.runs:
        folder = sweep_folder(word, args.root)
        if folder.is_symlink() and folder.is_dir() and not is_run(folder):
            raise UserError(
                f"{printable(folder)} is a link to {printable(folder.resolve())}, and rm follows "
                "none: name that folder, or remove the link"
            )
        found = None
        if folder.is_dir() and not is_run(folder):
            found = runs_in(folder, None if args.yes else Path(args.root))
        if found is None:
            found = [find_run(word, args.root)]
        else:
            _refuse_queued(folder)
            sweeps[folder.absolute()] = extras_of(folder)
        if any(_is_ours(path) for path in (folder, *found)):
            raise UserError(f"{printable(word)} comes with the package, and is not removed")
        removals |= {removal.run.absolute(): removal for removal in plan(found)}
    real = {removal.run.resolve() for removal in removals.values() if not removal.stays}
    removals = {path: each for path, each in removals.items() if each.stays not in real}
    gone = describe(removal.run for removal in removals.values() if not removal.stays)
    if gone:
        tell(named(gone, all_of_them=True))
    for removal in removals.values():
        own = [link for link in removal.links if link.parent == removal.run.parent]
        for link in removal.links:
            if link not in own[-1:]:  # by which the run is named
                tell(f"  {link}  (link)")
        if removal.stays:
            tell(f"  {removal.run}  (link of this sweep; the run {removal.stays} stays)")
    for folder, extras in sweeps.items():
        with_it = f", with {', '.join(extras)}" if extras else ""
        tell(f"  {printable(folder)}  (folder{with_it})")
    what = _counted(removals, sweeps, sum(run["bytes"] for run in gone))
    question = f"remove {what}?"
    if not args.yes:
        if not sys.stdin.isatty():
            raise UserError(f"{question} No terminal is there to answer on: add --yes")
        tell(f"{question} [y/N] ", end="")
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            tell("nothing is removed")
            args.document |= {"removed": [], "bytes": 0}
            return 1
    for removal in removals.values():  # a training may have begun while the question stood
        refuse_live(removal)
    for folder in sweeps:
        _refuse_queued(folder)
    try:
        for removal in removals.values():
            remove(removal)
        remove_empty(removals)
        for folder in sweeps:
            if left := remove_rest(folder):
                tell(f"{printable(folder)} stays: it holds {printable(', '.join(left))}")
    except OSError as e:
        raise UserError(f"cannot remove {e.filename or 'the runs'}: {e.strerror}") from e
    args.document |= {
        "removed": [removal.run for removal in removals.values()],
        "bytes": sum(run["bytes"] for run in gone),
    }
    tell(f"removed: {what}")
    return 0


def _is_ours(path: Path) -> bool:
    """Tell whether a path lies in what comes with the package; a link may lead to itself."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(REFERENCE))


def _counted(removals: dict[Path, Removal], sweeps: dict[Path, list[str]], total: int) -> str:
    """Return in words what goes: `8 runs, 3.2 MB, and the folder digits`."""
    links = sum(removal.stays is not None for removal in removals.values())
    runs = len(removals) - links
    parts = []
    if runs:
        parts.append(f"{counted(runs)}, {size(total)}")
    if links:
        parts.append("1 link to a run" if links == 1 else f"{links} links to runs")
    if sweeps:
        names = ", ".join(printable(folder.name) for folder in sweeps)
        parts.append(f"the folder {names}" if len(sweeps) == 1 else f"the folders {names}")
    *others, last = parts
    return f"{', '.join(others)}, and {last}" if others else last


def _refuse_queued(folder: Path) -> None:
    """Refuse to remove a sweep whose jobs wait in Slurm's queue or run.

    Raises:
        UserError: there are such jobs.
    """
    from lightning_resnet.sweeps.slurm import queued

    if waiting := queued(folder / "submitted"):
        raise UserError(
            f"{folder} has jobs in Slurm's queue, for points {', '.join(sorted(waiting)[:3])}: "
            "resnet-cli sweep FILE --cancel ends them; then the same command removes the folder"
        )
