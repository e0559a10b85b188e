"""`resnet-cli export RUN...`: one archive with recipes, metrics and weights of runs.

`resnet-cli export RUNS --reference DIR` copies runs without weights, for others to compare with.
"""

from argparse import Namespace
from pathlib import Path

from lightning_resnet.arguments import Parser
from lightning_resnet.errors import UserError, tell
from lightning_resnet.printing import add_json
from lightning_resnet.runs.find import find_runs, folder_of, no_run, quote
from lightning_resnet.runs.labels import labels_in
from lightning_resnet.runs.listing import size
from lightning_resnet.runs.reader import Run
from lightning_resnet.runs.reference import write_reference

SUFFIX = ".tar.gz"
SUFFIXES = (SUFFIX, ".tgz")
OF_CONVERT = (".onnx", ".pth", ".safetensors")  # ends of files that `convert` writes


def make_parser() -> Parser:
    """Return the parser of `resnet-cli export`."""
    parser = Parser(
        prog="resnet-cli export",
        description="Put runs into one archive: recipe, metadata, metrics, weights of the last "
        "and the best epoch. Unpacked, they are runs again, for evaluate, predict, compare.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="folder, readable name, or id below --root; or the folder or name of a sweep",
    )
    parser.add_argument(
        "--reference",
        metavar="DIR",
        help="copy the runs there instead, without weights, host and folders of files: a set that "
        "others compare with",
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
        help="default: the name of the run or sweep, in this folder",
    )
    parser.add_argument("--root", default="runs", help="folder of all runs (default: %(default)s)")
    add_json(parser)
    return parser


def run(args: Namespace) -> int:
    """Write the archive, and print its path and content; return 0.

    Raises:
        UserError: a word names no run, or a run has no weights.
    """
    if args.reference and args.out:
        raise UserError(
            "--out is of an archive, --reference of a set of runs: leave one of them out"
        )
    if args.about and not args.reference:
        raise UserError("--about says what a set of runs has: add --reference DIR")
    if args.out and args.out.endswith(OF_CONVERT):
        run = quote(Path(args.runs[0]))
        raise UserError(
            f"--out {args.out}: an archive is packed; weights for others are: resnet-cli convert "
            f"{run} --out {args.out}"
        )
    if args.out and not args.out.endswith(SUFFIXES):
        raise UserError(f"--out {args.out}: it must end in {' or '.join(SUFFIXES)}")
    folders = []
    for word in args.runs:
        if word.endswith(SUFFIXES) and not Path(word).is_dir():
            raise UserError(f"{word} is no run; did you mean --out {word}?")
        if word.endswith(OF_CONVERT):
            raise UserError(
                f"{word} is no run, and weights for others are: resnet-cli convert RUN --out {word}"
            )
        folders.append(folder_of(word, args.root))
    runs = []
    for folder in folders:
        inside = [Run(path) for path in find_runs([folder], shared=True)]
        if not inside:
            raise UserError(no_run(folder))
        runs += inside
    runs = [*{run.path.absolute(): run for run in runs}.values()]
    if args.reference:
        return _reference(args, runs)
    from lightning_resnet.runs.archive import pack

    out = Path(args.out or f"{_name(folders, runs)}{SUFFIX}")
    for source in runs:
        if source.status() != "finished":
            step, steps = source.steps()
            tell(f"{source.path} is not finished: {source.status()} at step {step} of {steps}")
    members = []
    for member in pack(runs, out):
        tell(f"  {member}")
        members.append(str(member))
    args.document |= {"file": out, "bytes": out.stat().st_size, "members": members}
    first = runs[0].path.absolute()
    name = labels_in(first.parent).get(first.name, first.name)
    run_inside = Path(first.parent.name, name) if len(runs) > 1 else Path(name)
    tell(f"{out}  {size(out.stat().st_size)}; unpack it with: tar xf {quote(out)}")
    tell(f"next to what comes out: resnet-cli predict {quote(run_inside)} IMAGE...")
    return 0


def _name(folders: list[Path], runs: list[Run]) -> str:
    """Return the name of an archive: that of the only run or folder, or of the run's folder."""
    path = runs[0].path.absolute()
    if len(runs) == 1:
        return f"{path.parent.name}-{labels_in(path.parent).get(path.name, path.name)}"
    names = {folder.absolute().name for folder in folders}
    return names.pop() if len(names) == 1 else path.parent.name


def _reference(args: Namespace, runs: list[Run]) -> int:
    """Copy runs into a set; return 0.

    Raises:
        UserError: a run has not finished.
    """
    written = write_reference(runs, Path(args.reference), args.about)
    for folder in written:
        tell(f"  {folder}")
    args.document |= {"folder": args.reference, "runs": [str(folder) for folder in written]}
    tell(f"{len(written)} runs; to compare with them: resnet-cli compare RUNS {args.reference}")
    return 0
