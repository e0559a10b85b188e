"""`resnet-cli deepen`: a deeper net out of a trained shallower one, and the recipe that goes on training it (S5).

`resnet-cli deepen runs/digits/RUN --depth 32 --out keep.ckpt && resnet-cli fit --config keep.yaml`

keep: the added blocks start as identity; is that kept, lost or improved? find: they start at random; is it found?
"""

import io
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_resnet.errors import TRUST, Parser, UserError, positive, tell

if TYPE_CHECKING:
    from lightning_resnet.analysis.subjects import Subject


def make_parser() -> Parser:
    """The flags of `resnet-cli deepen`."""
    parser = Parser(prog="resnet-cli deepen", description="Add blocks to a trained net; write checkpoint and recipe.")
    parser.add_argument("checkpoint", metavar="CKPT", help="a checkpoint, or a run or the folder of one: its last")
    parser.add_argument("--depth", type=positive, required=True, metavar="D", help="of the new net")
    parser.add_argument(
        "--out", required=True, metavar="NEW.ckpt", help="checkpoint to write; the recipe stands beside it"
    )
    parser.add_argument("--arm", choices=["keep", "find"], default="keep", help="added blocks: identity | random")
    parser.add_argument("--freeze", action="store_true", help="only the added blocks will learn")
    parser.add_argument(
        "--batches", type=positive, default=20, metavar="N", help="to calibrate on (default: %(default)s)"
    )
    parser.add_argument("--trust", action="store_true", help=TRUST)
    return parser


def main(argv: Sequence[str]) -> int:
    """Deepen, print the error before the first step and how to go on; 0, or an error the user can cure."""
    args = make_parser().parse_args(argv)
    out = Path(args.out)
    if out.suffix != ".ckpt":
        raise UserError(f"--out {out}: it must end in .ckpt")
    from lightning_resnet.analysis.subjects import again, subjects
    from lightning_resnet.models.surgery import deepen, take_over

    found = list(subjects([args.checkpoint], None, batches=args.batches, trust=args.trust))
    if len(found) > 1:
        raise UserError(f"{args.checkpoint} holds {len(found)} runs: give one of them")
    shallow = found[0]
    if shallow.foreign is None:
        raise UserError(f"{args.checkpoint} is no checkpoint and no run: there is nothing trained to deepen")
    deep = again(shallow, ["--model.net.depth", str(args.depth)])
    added = take_over(shallow.net, deep.net)
    if args.arm == "keep":
        deepen(shallow.net, deep.net, shallow.train)
    tell(describe(shallow, deep, added, args.arm))
    if left := write(args, deep, added):
        tell(
            f"warning: left out of {out.with_suffix('.yaml')}, as it may name code of others: {', '.join(left)}; "
            "give it by flags, or deepen with --trust"
        )
    tell(f"{out}\ngo on training: resnet-cli fit --config {out.with_suffix('.yaml')}")
    return 0


def describe(shallow: "Subject", deep: "Subject", added: list[str], arm: str) -> str:
    """What was added, and the error of both nets before the first step."""
    from torch import nn

    from lightning_resnet.analysis.tables import markdown
    from lightning_resnet.models.observe import error, train_mode

    layers = [m for name in added for m in deep.net.get_submodule(name).modules() if isinstance(m, nn.Conv2d)]
    rows = [["net", "validation error, %, eval mode", "training error, %, train mode"]]
    for name, subject in (("shallow", shallow), ("deep", deep)):
        evaluated = error(subject.net, shallow.val)
        with train_mode(subject.net):
            rows.append([name, f"{evaluated:.2f}", f"{error(subject.net, shallow.train):.2f}"])
    how = "as identity" if arm == "keep" else "at random"
    return f"{len(added)} blocks added {how}, {len(layers)} convolutions: {', '.join(added)}\n\n{markdown(rows)}\n"


def write(args: Namespace, deep: "Subject", added: list[str]) -> list[str]:
    """Write the checkpoint, and the recipe that starts from it and logs the added blocks' distance from identity.

    Returns:
        Keys of the foreign recipe that were left out.
    """
    import torch
    import yaml

    from lightning_resnet.analysis.report import write_file
    from lightning_resnet.trust import KEPT, OF_A_MACHINE

    out = Path(args.out)
    recipe, left = deep.foreign.to_train()
    parsed = yaml.safe_load(deep.cli.resolved)
    kept = {key: value for key, value in parsed["data"].items() if key not in OF_A_MACHINE}
    recipe["data"] = recipe.get("data", {}) | kept
    recipe["seed_everything"] = parsed["seed_everything"]
    recipe["model"] |= {key: parsed["model"][key] for key in KEPT["model"] if key in parsed["model"]}
    recipe["run"] = {"name": out.stem, "init_from": str(out)} | deep.foreign.kept()["run"]
    text = yaml.safe_dump(recipe, sort_keys=False)
    origin = {"from": args.checkpoint, "added": added, "arm": args.arm, "freeze": args.freeze}
    state = {name: tensor.cpu() for name, tensor in deep.cli.model.state_dict().items()}
    classes, file = list(deep.cli.datamodule.source.classes), io.BytesIO()
    torch.save(
        {"state_dict": state, "run": {"id": out.stem, "config": text, "classes": classes}, "deepen": origin}, file
    )
    write_file(out, file.getvalue())
    callback = {"class_path": "AddedBlocks", "init_args": {"checkpoint": str(out)}}
    recipe["trainer"]["callbacks"] = [*(recipe["trainer"].get("callbacks") or []), callback]
    write_file(out.with_suffix(".yaml"), yaml.safe_dump(recipe, sort_keys=False).encode())
    return left
