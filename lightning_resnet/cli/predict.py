"""`resnet-cli predict RUN IMAGE...`: the most probable classes of images."""

import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from lightning_resnet.arguments import TRUST, Parser, device, positive, value_of
from lightning_resnet.errors import UserError, printable, tell
from lightning_resnet.flags import refuse_training
from lightning_resnet.meant import check_named
from lightning_resnet.runs.find import LOOKS, check_weights, find_runs, has_images
from lightning_resnet.runs.names import is_hub_name

NO_IMAGES = (".yaml", ".yml", ".json", ".csv", ".txt", ".py")  # endings of other files


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
        help="files, or folders of them; of other sizes than the net's: their central squares",
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
    parser.add_argument(
        "--device", type=device, help="cpu | cuda (default: cuda where there is one)"
    )
    parser.add_argument("--trust", action="store_true", help=TRUST)
    return parser


def run(args: Namespace) -> int:
    """Predict; return 0, or 1 if an image could not be read.

    Raises:
        UserError: there is no such run or image, or the two stand in the wrong order.
    """
    check_words(args.ckpt_path, args.images, value_of("--run.root", args.recipe_keys) or "runs")
    refuse_training(args.recipe_keys, "predict")
    from lightning_resnet.engine.signals import importing

    with importing():  # takes seconds
        from lightning_resnet.analysis.evaluation.predict import (
            FORMATS,
            find,
            other_data,
            predict,
            words_of,
        )
        from lightning_resnet.runs.listing import unfinished
        from lightning_resnet.weights.trained import load

    files = find(args.images)
    trained = load(args.ckpt_path, args.recipe_keys, args.weights, args.trust)
    for line in (unfinished(trained.path), other_data(trained, files[0])):
        if line:
            tell(line, file=sys.stderr)
    written = FORMATS[args.format](predict(trained, files, args), words_of(trained))
    return 0 if written == len(files) else 1


def check_words(run: str, images: Sequence[str], root: str) -> None:
    """Refuse a missing run or image before torch is imported.

    Args:
        run: the first word, or the value of `--ckpt_path`.
        images: the other words; none: the validation images are predicted.
        root: folder of all runs.

    Raises:
        UserError: the message tells how to write the command line.
    """
    if is_hub_name(run) and not images:
        check_named(run)
        raise UserError(f"predict which images? resnet-cli predict {run} IMAGE...")
    names = [word for word in images if not word.lower().partition("?")[0].endswith(LOOKS)]
    runs = [word for word in names if is_hub_name(word) or _has_run(Path(word))]
    first = Path(run)
    is_image = first.suffix.lower() in LOOKS or (first.is_dir() and not _has_run(first))
    if runs and not is_image:
        raise UserError(
            f"{printable(run)} and {printable(runs[0])} are both weights: give one, then images"
        )
    if is_image and runs:
        rest = [word for word in (run, *images) if word != runs[0]]
        line = shlex.join(["resnet-cli", "predict", runs[0], *rest])
        raise UserError(f"the run comes first, then the images: {line}")
    if is_image and (first.exists() or first.suffix.lower() in LOOKS):
        raise UserError(
            f"{printable(first)} is no run, and the run comes first: resnet-cli predict RUN "
            "IMAGE...; resnet-cli runs lists runs"
        )
    try:
        check_weights(run, root)
    except UserError as e:
        cure = "" if images else "; the run comes first: resnet-cli predict RUN IMAGE..."
        raise UserError(f"{e}{cure}") from e
    for word in images:
        if not Path(word).exists():
            cure = ""
            if "://" in word:
                cure = ": download it first"
            elif {*word} & {*"*?"}:
                cure = ": the shell found no file for this pattern"
            raise UserError(f"image {printable(word)} does not exist{cure}")
        if Path(word).suffix.lower() in NO_IMAGES:
            raise UserError(f"{printable(word)} is no image: give images, or their folder")
        if Path(word).is_dir() and not has_images(Path(word)):
            raise UserError(f"no images in {printable(word)}: give images, or their folder")


def _has_run(path: Path) -> bool:
    """Tell whether a path is a checkpoint or a folder with a run.

    A folder of images with more folders than `find_runs` looks at is taken for one without runs.
    """
    if path.is_dir():
        try:
            return any(True for _ in find_runs([path]))
        except UserError:
            return False
    return path.is_file() and path.suffix in (".ckpt", ".pth", ".pt", ".safetensors")
