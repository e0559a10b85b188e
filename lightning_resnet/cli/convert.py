"""`resnet-cli convert IN --out OUT`: other layouts into ours, and ours into ONNX and others."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning_resnet.arguments import TRUST, Parser, above_zero, finite, positive
from lightning_resnet.errors import UserError, tell
from lightning_resnet.printing import add_json, markdown
from lightning_resnet.runs.find import check_weights, quote

CONSTANTS = ("mean", "std")
KINDS = (".ckpt", ".pth", ".safetensors", ".onnx")


def make_parser() -> Parser:
    """Return the parser of `resnet-cli convert`."""
    parser = Parser(
        takes_run=True,
        prog="resnet-cli convert",
        description="Weights of torchvision, timm or akamaster in; ours out.",
        epilog="Not supported: timm's nets with BlurPool2d (resnetblur18, resnetblur50). Their "
        "tensors are those of ordinary nets, so they convert without an error, but they blur after "
        "the convolution, ours before it (blur_pool): the logits differ. Keep the .ckpt of your "
        "own nets with blur_pool, stride_in_1x1 and other options without tensors, for the same "
        "reason: a .pth does not tell.",
    )
    parser.add_argument(
        "file", metavar="FILE", help="theirs (.pth .th .bin .safetensors), or our run or checkpoint"
    )
    parser.add_argument(
        "--out", required=True, metavar="FILE", help=f"what to write: {' | '.join(KINDS)}"
    )
    parser.add_argument(
        "--shortcut",
        choices=["none", "A", "B", "C"],
        help="none: weights without projections are plain",
    )
    parser.add_argument(
        "--classes",
        metavar="FILE",
        help="names, one on a line (default: ImageNet's where there are 1000)",
    )
    for name in CONSTANTS:
        parser.add_argument(
            f"--{name}",
            nargs=3,
            type=above_zero if name == "std" else finite,
            metavar=("R", "G", "B"),
            help="of FILE, for pixels from 0 to 1 (default: what a .safetensors of ours tells, "
            "else ImageNet's)",
        )
    parser.add_argument(
        "--weights", choices=["net", "ema"], default="net", help="as trained | their moving average"
    )
    parser.add_argument(
        "--size",
        type=positive,
        metavar="N",
        help="pixels per side of .onnx (default: the run's)",
    )
    parser.add_argument(
        "--drop-block",
        action="append",
        metavar="layer2.3",
        help="leave out a block, of which the shortcut is the identity; give it again for more",
    )
    parser.add_argument(
        "--plain",
        action="store_true",
        help="write the plain net of wider blocks that computes the same (RMNet)",
    )
    parser.add_argument("--trust", action="store_true", help=TRUST)
    add_json(parser)
    return parser


def run(args: Namespace) -> int:
    """Convert, print what was made, and return 0.

    Raises:
        UserError: a flag does not fit the file, or the file cannot be converted.
    """
    out = Path(args.out)
    if out.suffix not in KINDS:
        hint = f"; did you mean {out.with_suffix('.pth')}?" if out.suffix in (".pt", ".th") else ""
        raise UserError(
            f"--out {out}: its ending says what to write, one of {' '.join(KINDS)}{hint}"
        )
    remade = args.plain or args.drop_block
    if args.size and out.suffix != ".onnx" and not remade:
        raise UserError(
            f"--size is of .onnx files, which take one size of images: leave it out for {out}"
        )
    check_weights(args.file)
    if args.classes and not Path(args.classes).exists():
        raise UserError(
            f"--classes {args.classes} does not exist (seen from {Path.cwd()}): a file with the "
            "names, one on a line"
        )
    from lightning_resnet.engine.signals import importing

    with importing():  # takes seconds
        from lightning_resnet.files import write_file
        from lightning_resnet.runs.checkpoint import write_checkpoint
        from lightning_resnet.runs.names import is_hub_name
        from lightning_resnet.weights.convert import (
            CLASSES,
            check_classes,
            describe,
            read,
            text,
            untold,
            use_elsewhere,
        )
        from lightning_resnet.weights.hubs import read_named
        from lightning_resnet.weights.trained import restore

    if is_hub_name(args.file):
        if given := [flag for flag in (*CONSTANTS, "shortcut", "classes") if getattr(args, flag)]:
            raise UserError(
                f"--{given[0]} is for files, and {args.file} tells its own: leave it out"
            )
        path, checkpoint = read_named(args.file)
    else:
        checkpoint, path = read(args)
    trained = restore(checkpoint, path, None, args.weights, args.trust)
    rows = []
    if remade:
        from lightning_resnet.weights.plain import compared, plain_checkpoint, shorter_checkpoint

        given = trained.task.net
        forms = {"given": given}
        if args.drop_block:
            names = [name.strip() for words in args.drop_block for name in words.split(",")]
            checkpoint = shorter_checkpoint(checkpoint, given, names)
            trained = restore(checkpoint, path, None, "net", args.trust)
            forms["without " + ", ".join(names)] = trained.task.net
        if args.plain:
            checkpoint = plain_checkpoint(checkpoint, trained.task.net)
            forms = {"residual": trained.task.net}
            trained = restore(checkpoint, path, None, "net", args.trust)
            forms["plain"] = trained.task.net
        size = args.size or (trained.input_size or (3, 32, 32))[1]
        rows, difference = compared(forms, size, is_same=args.plain)
        tell(f"largest difference of the logits: {difference:.1e} of the largest logit")
        _print_rows(rows, size)
    net = trained.task.net
    normalisation = {name: checkpoint["state_dict"][name] for name in CONSTANTS}
    check_classes(net, trained.classes, args.classes)
    tell(f"{path}: {describe(net, trained.options)}, {len(trained.classes) or 'no'} class names")
    state = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".ckpt":
        net_state = {f"net.{name}": tensor for name, tensor in state.items()}
        write_checkpoint({"state_dict": normalisation | net_state, "run": checkpoint["run"]}, out)
    elif out.suffix == ".onnx":
        from lightning_resnet.weights.onnx_export import export

        tell(export(trained, out, args.size))
    else:
        from safetensors.torch import save

        tell(use_elsewhere(net, trained.class_path, trained.options))
        if names := untold(net, trained.options):
            tell(
                f"warning: the tensors do not tell {', '.join(names)}, so that {out} read back is "
                "another net: keep the .ckpt, which tells"
            )
        if out.suffix == ".pth":
            write_checkpoint(state, out)
            tell(
                f"normalisation is not in this file: {text(normalisation)}; give both to convert "
                "it back"
            )
        else:
            told = {
                name: json.dumps(tensor.flatten().tolist())
                for name, tensor in normalisation.items()
            }
            told[CLASSES] = json.dumps(trained.classes)
            write_file(out, save(state, metadata={"format": "pt"} | told))
    if out.suffix == ".ckpt" and trained.options.get("drop_blocks"):
        left_out = quote(json.dumps(trained.options["drop_blocks"]))
        tell(
            "train on: the flags of the training, --model.net.drop_blocks "
            f"{left_out} --run.init_from {quote(out)}"
        )
    args.document |= {
        "source": path,
        "file": out,
        "net": type(net).__name__,
        "options": trained.options,
        "classes": len(trained.classes),
    }
    if rows:
        args.document |= {"forms": rows, "difference": difference}
    tell(out)
    return 0


def _print_rows(rows: list[dict[str, Any]], size: int) -> None:
    """Print what the net and its plain form cost."""
    lines = [["net", "parameters", "M multiply-adds", "ms for 64 images", "kB of activations"]]
    for row in rows:
        multiply_adds = f"{row['multiply_adds'] / 1e6:.1f}"
        memory = f"{row['activations_kb']:.0f}"
        lines.append(
            [row["net"], f"{row['parameters']:,}", multiply_adds, f"{row['ms']:.1f}", memory]
        )
    print(markdown(lines, left=1))
    print(f"at {size} pixels; activations: of one image in evaluation, at their largest")
