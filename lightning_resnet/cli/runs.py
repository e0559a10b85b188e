"""`resnet-cli runs [RUNS...]`: what runs there are, how they differ, and how far each is."""

import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning_resnet.arguments import Parser
from lightning_resnet.errors import UserError, tell
from lightning_resnet.printing import as_json
from lightning_resnet.runs.find import find_runs, folder_of, no_run
from lightning_resnet.runs.listing import ORDERS, describe, table

EVERY_S = 3.0  # seconds between two looks of --watch
CLEAR = "\x1b[H\x1b[2J"  # escape codes: cursor to the top, clear the terminal


def make_parser() -> Parser:
    """Return the parser of `resnet-cli runs`."""
    parser = Parser(
        prog="resnet-cli runs",
        description="List runs: folder, what differs, state, steps, validation error, when, size.",
        epilog="Where a verb takes a run, give the folder, the readable name, the id or the "
        "beginning of one of them: resnet-cli evaluate 4df5",
    )
    parser.add_argument(
        "folders",
        nargs="*",
        metavar="RUNS",
        help="runs, sweeps or folders of them, or their names below runs/ (default: runs)",
    )
    parser.add_argument(
        "--sort",
        choices=list(ORDERS),
        default="began",
        help="within a folder: the least first (default: %(default)s, the oldest)",
    )
    parser.add_argument("--root", default="runs", help="folder of all runs (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON list, for programs")
    parser.add_argument(
        "--watch",
        action="store_true",
        help=f"look again every {EVERY_S:.0f} seconds until Ctrl-C; in a pipe: print each change",
    )
    return parser


def run(args: Namespace) -> int:
    """List the runs; return 0.

    Raises:
        UserError: a word names no runs.
    """
    if args.json and args.watch:
        raise UserError("--watch is for people, --json for programs: leave one of them out")
    root = Path(args.root)
    if args.root != "runs" and not root.is_dir():
        is_file = Path(root).exists()
        why = "is a file, and no folder of runs" if is_file else "does not exist"
        raise UserError(f"--root {root} {why} (seen from {Path.cwd()})")
    words = [] if args.folders == [args.root] else args.folders
    folders = [folder_of(word, root) for word in words]
    for folder in folders:
        if not args.watch and not any(True for _ in find_runs([folder])):
            raise UserError(no_run(folder))
    if not args.watch:
        runs = _runs(folders or [root], args.sort)
        tell(as_json(runs) if args.json else table(runs))
        return 0
    last = ""
    try:
        while True:
            text = table(_runs(folders or [root], args.sort))
            if sys.stdout.isatty():
                # the terminal's own codes, which `tell` would escape
                print(CLEAR, end="")
                tell(f"{text}\n\nCtrl-C ends this")
            elif text != last:
                tell(text)
            last = text
            time.sleep(EVERY_S)
    except KeyboardInterrupt:
        return 0


def _runs(folders: list[Path], order: str) -> list[dict[str, Any]]:
    """Describe the runs in folders, which may not exist yet."""
    return describe(find_runs(filter(Path.is_dir, folders), shared=True), order)
