"""`resnet-cli inspect KIND TARGET...`: what a net does inside, block by block."""

from collections.abc import Sequence

from lightning_resnet.analysis.inspection.report import KINDS, inspect, write
from lightning_resnet.arguments import TRUST, Parser, positive, split
from lightning_resnet.errors import UserError, tell


def make_parser() -> Parser:
    """The flags of `resnet-cli inspect`."""
    parser = Parser(
        prog="resnet-cli inspect",
        description="What a net does inside, block by block.",
        epilog="Any key of a recipe is a flag too, such as --model.net.depth 56 or --data.size 64.",
    )
    parser.add_argument("what", choices=KINDS, help="; ".join(f"{kind}: {text}" for kind, text in KINDS.items()))
    parser.add_argument(
        "targets",
        nargs="*",
        metavar="TARGET",
        help="runs, folders of runs or checkpoints; or recipes or sweeps (.yaml): their nets before training",
    )
    parser.add_argument("--at", choices=["last", "best", "init"], default="last", help="of runs (default: %(default)s)")
    parser.add_argument(
        "--batches", type=positive, default=4, metavar="N", help="training batches (default: %(default)s)"
    )
    parser.add_argument(
        "--draws", type=positive, default=10, metavar="N", help="random choices each (default: %(default)s)"
    )
    parser.add_argument("--device", default="cpu", help="cpu | cuda (default: %(default)s)")
    parser.add_argument("--trust", action="store_true", help=TRUST)
    parser.add_argument("--out", metavar="DIR", help="where to write (default: report/ in the target's folder)")
    return parser


def main(argv: Sequence[str]) -> int:
    """Inspect, print the table and where the files lie; 0, or an error the user can cure."""
    ours, recipe = split(argv)
    args = make_parser().parse_args(ours)
    if not args.targets and "--config" not in recipe and "-c" not in recipe:
        raise UserError(f"inspect what? name a run or a recipe: resnet-cli inspect {args.what} configs/digits.yaml")
    from lightning_resnet.analysis.inspection.subjects import subjects
    from lightning_resnet.weights.trained import device_for

    found = subjects(args.targets, recipe, args.at, args.batches, device_for(args.device), args.trust)
    frame, folder = inspect(args, found)
    tell(write(args.what, frame, folder))
    return 0
