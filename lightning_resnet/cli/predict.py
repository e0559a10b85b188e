"""`resnet-cli predict RUN IMAGE...`: the most probable classes of images."""

import sys
from argparse import Namespace

from lightning_resnet.arguments import TRUST, Parser, positive
from lightning_resnet.errors import tell


def make_parser() -> Parser:
    """Return the parser of `resnet-cli predict IMAGE...`."""
    parser = Parser(
        recipe="keys",
        prog="resnet-cli predict",
        description="Print the most probable classes of images. Without images: of the "
        "validation images, as CSV.",
        usage="resnet-cli predict RUN IMAGE... [options] | resnet-cli predict RUN [options]",
        epilog="Any key of a recipe is a flag too, such as --data.size 256.",
    )
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="files, or folders of them",
    )
    parser.add_argument(
        "--ckpt_path",
        required=True,
        metavar="RUN",
        help="the run or checkpoint, instead of the first word",
    )
    parser.add_argument(
        "--top",
        type=positive,
        default=5,
        metavar="K",
        help="classes of each (default: %(default)s)",
    )
    parser.add_argument(
        "--format", choices=["table", "csv", "json"], default="table", help="default: %(default)s"
    )
    parser.add_argument(
        "--json", dest="format", action="store_const", const="json", help="as --format json"
    )
    parser.add_argument(
        "--weights",
        choices=["net", "ema"],
        default="net",
        help="as trained, or their moving average",
    )
    parser.add_argument("--device", help="cpu | cuda (default: cuda where there is one)")
    parser.add_argument("--trust", action="store_true", help=TRUST)
    return parser


def run(args: Namespace) -> int:
    """Predict; return 0, or 1 if an image could not be read."""
    from lightning_resnet.engine.signals import importing

    with importing():  # takes seconds
        from lightning_resnet.analysis.evaluation.predict import FORMATS, find, other_data, predict
        from lightning_resnet.runs.listing import unfinished
        from lightning_resnet.weights.trained import load

    files = find(args.images)
    trained = load(args.ckpt_path, args.recipe_keys, args.weights, args.trust)
    for line in (unfinished(trained.path), other_data(trained, files[0])):
        if line:
            tell(line, file=sys.stderr)
    return 0 if FORMATS[args.format](predict(trained, files, args)) == len(files) else 1
