"""`resnet-cli deepen RUN --depth D --out NEW`: add blocks to a trained net."""

from argparse import Namespace
from pathlib import Path

from lightning_resnet.arguments import TRUST, Parser, positive
from lightning_resnet.bounds import check_imagenet_depth, cifar_blocks
from lightning_resnet.errors import UserError, tell
from lightning_resnet.runs.find import check_weights, find_run, quote
from lightning_resnet.runs.identity import flatten
from lightning_resnet.runs.names import is_hub_name
from lightning_resnet.runs.reader import Run


def make_parser() -> Parser:
    """Return the parser of `resnet-cli deepen`."""
    parser = Parser(
        takes_run=True,
        prog="resnet-cli deepen",
        description="Add blocks to a trained net; write checkpoint and recipe.",
    )
    parser.add_argument(
        "checkpoint", metavar="RUN", help="a run: its last checkpoint; or a checkpoint"
    )
    parser.add_argument(
        "--depth",
        type=positive,
        required=True,
        metavar="D",
        help="of the new net",
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="NEW.ckpt",
        help="checkpoint to write; the recipe stands next to it",
    )
    parser.add_argument(
        "--arm",
        choices=["keep", "find"],
        default="keep",
        help="added blocks: identity | random",
    )
    parser.add_argument("--freeze", action="store_true", help="only the added blocks will learn")
    parser.add_argument(
        "--batches",
        type=positive,
        default=20,
        metavar="N",
        help="to calibrate on (default: %(default)s)",
    )
    parser.add_argument("--trust", action="store_true", help=TRUST)
    return parser


def _check_depth(word: str, depth: int) -> None:
    """Refuse a depth that the deeper net of a run cannot have, before torch is imported.

    Raises:
        UserError: the depth is none of such a net, or not above that of the run's net.
    """
    path = Path(word) if is_hub_name(word) else find_run(word)
    if not path.is_dir():
        return
    told = flatten(Run(path).config_if_good()[0])
    net = str(told.get("model.net.class_path")).rpartition(".")[2]
    own = told.get("model.net.init_args.depth")
    try:
        if net == "CifarResNet":
            cifar_blocks(depth, str(told.get("model.net.init_args.block") or "basic"))
        if net == "ImageNetResNet":
            check_imagenet_depth(depth)
    except ValueError as e:
        raise UserError(f"--depth {depth}: {e}") from e
    if isinstance(own, int) and own >= depth:
        raise UserError(
            f"--depth {depth}: the net of {word} has {own} layers, and blocks are added: give more"
        )


def run(args: Namespace) -> int:
    """Deepen; print the error before the first step and how to go on; return 0.

    Raises:
        UserError: there is nothing trained to deepen, or `--out` is no checkpoint's name.
    """
    out = Path(args.out)
    recipe = out.with_suffix(".yaml")
    if out.suffix != ".ckpt":
        raise UserError(f"--out {out}: it must end in .ckpt")
    check_weights(args.checkpoint)
    _check_depth(args.checkpoint, args.depth)
    from lightning_resnet.engine.signals import importing

    with importing():  # takes seconds
        from lightning_resnet.analysis.inspection.deepen import describe, write
        from lightning_resnet.analysis.inspection.subjects import again, subjects
        from lightning_resnet.models.surgery import deepen, take_over

    found = list(
        subjects([args.checkpoint], None, batches=args.batches, trust=args.trust, one=True)
    )
    if len(found) > 1:
        raise UserError(f"{args.checkpoint} has {len(found)} nets: give a run of one")
    shallow = found[0]
    if shallow.foreign is None:
        raise UserError(f"{args.checkpoint} is no checkpoint and no run: nothing trained to deepen")
    deep = again(shallow, ["--model.net.depth", str(args.depth)])
    added = take_over(shallow.net, deep.net)
    if args.arm == "keep":
        deepen(shallow.net, deep.net, shallow.train)
    tell(describe(shallow, deep, added, args.arm))
    left = write(args, deep, added)
    if left:
        tell(
            f"warning: left out of {recipe}, as it may name code of others: {', '.join(left)}; "
            "give it by flags, or deepen with --trust"
        )
    tell(f"{out}\ngo on training: resnet-cli fit --config {quote(recipe)}")
    return 0
