"""`resnet-cli recipes [NAME]`: what comes with the package, or the text of one of these files.

resnet-cli recipes
resnet-cli recipes digits > my.yaml
"""

import shutil
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

from lightning_resnet import shipped
from lightning_resnet.arguments import Parser
from lightning_resnet.errors import UserError, nearest, tell
from lightning_resnet.meant import OF_YOUR_OWN, recipe
from lightning_resnet.printing import JSON_HELP, as_json
from lightning_resnet.runs.find import begun_runs

NARROWEST = 60  # columns of the list on a narrow terminal


def make_parser() -> Parser:
    """Return the parser of `resnet-cli recipes`."""
    parser = Parser(
        prog="resnet-cli recipes",
        description="List the recipes, sweeps, measured runs and batch scripts that come with the "
        "package; or print one of these files.",
        epilog="To change a recipe, copy it: resnet-cli recipes digits > my.yaml",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="print this file")
    parser.add_argument("--json", action="store_true", help=f"for the list: {JSON_HELP}")
    return parser


def run(args: Namespace) -> int:
    """Print the list, or the file that is named; return 0.

    Raises:
        UserError: nothing of this name comes with the package.
    """
    if args.name is None:
        known = {
            "recipes": _told_by(shipped.recipes()),
            "sweeps": _told_by(shipped.sweeps()),
            "measured runs": {
                name: _told_by_runs(folder) for name, folder in shipped.references().items()
            },
            "batch scripts": _told_by(shipped.batch_files()),
        }
        if args.json:
            tell(as_json(known))
        else:
            _list(known)
        return 0
    if args.json:
        raise UserError("--json is for the list of all recipes: leave it out, or the name")
    files = shipped.recipes() | shipped.sweeps() | shipped.batch_files()
    name = args.name.removeprefix("configs/").removeprefix(shipped.SWEEPS).removesuffix(".yaml")
    name = name.removeprefix("slurm/")
    if name not in files:
        if name.startswith("reference:"):
            raise UserError(f"{name} is a set of runs: resnet-cli compare RUNS {name}")
        hint = recipe(name)
        if hint.endswith(OF_YOUR_OWN):
            hint = nearest(name, files) or "; resnet-cli recipes lists them"
        raise UserError(f"there is no recipe {args.name}{hint}")
    tell(files[name].read_text(), end="")
    return 0


def _list(known: Mapping[str, Mapping[str, str]]) -> None:
    """Print a line for each file, by what it is for."""
    print("Recipes: resnet-cli fit --config NAME")
    _print_lines(known["recipes"])
    print("\nSweeps: resnet-cli sweep NAME --list, then --local -j 2")
    _print_lines(known["sweeps"])
    print("\nMeasured runs: resnet-cli compare RUNS reference:NAME")
    _print_lines(known["measured runs"])
    print("\nBatch scripts for SLURM: resnet-cli recipes NAME > NAME")
    _print_lines(known["batch scripts"])
    print("\nresnet-cli recipes NAME prints a file; `> my.yaml` copies it. A file of that")
    print("name where you are goes before ours.")


def _print_lines(texts: Mapping[str, str]) -> None:
    """Print names and what they stand for, cut to the width of the terminal."""
    width = max(map(len, texts))
    room = max(NARROWEST, shutil.get_terminal_size().columns) - width - 4
    for name, text in texts.items():
        shown = text if len(text) <= room else f"{text[: room - 4].rstrip()} ..."
        tell(f"  {name:<{width}}  {shown}".rstrip())


def _told_by(files: Mapping[str, Path]) -> dict[str, str]:
    """Return what the head of each file says of it: its first comment that is no command."""
    return {name: _summary(file.read_text()) for name, file in files.items()}


def _summary(text: str) -> str:
    """Return the first line of comments that is neither a command nor a shell's name."""
    for line in text.splitlines():
        comment = line.removeprefix("# ")
        if comment != line and not comment.startswith("resnet-cli "):
            return comment
    return ""


def _told_by_runs(folder: Path) -> str:
    """Return how many runs a folder of measured runs has, and of which sweep they are."""
    runs = list(begun_runs(folder))
    names = sorted({str((run.meta() or {}).get("name")) for run in runs})
    return f"{len(runs)} runs of {', '.join(names)}"
