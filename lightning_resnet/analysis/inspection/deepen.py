"""`resnet-cli deepen`: a deeper net from a trained shallower one, and the recipe to train it.

`resnet-cli deepen runs/digits/RUN --depth 32 --out keep.ckpt && resnet-cli fit --config keep.yaml`

Arm `keep`: the added blocks start as the identity; is the identity kept, lost or improved? Arm
`find`: the added blocks start at random; is the identity found? See docs/science.md.
"""

import io
from argparse import Namespace
from pathlib import Path

import torch
import yaml
from torch import nn

from lightning_resnet.analysis.inspection.subjects import Subject
from lightning_resnet.config.trust import KEPT, OF_A_MACHINE
from lightning_resnet.files import write_file
from lightning_resnet.models.activations import error, train_mode
from lightning_resnet.printing import markdown


def describe(shallow: Subject, deep: Subject, added: list[str], arm: str) -> str:
    """Return what was added, and the error of both nets before the first step.

    Args:
        shallow: the trained net.
        deep: the deeper net.
        added: names of the added blocks.
        arm: keep | find.
    """
    layers = 0
    for name in added:
        modules = deep.net.get_submodule(name).modules()
        layers += sum(isinstance(module, nn.Conv2d) for module in modules)
    rows = [["net", "validation error, %, eval mode", "training error, %, train mode"]]
    for name, subject in (("shallow", shallow), ("deep", deep)):
        evaluated = error(subject.net, shallow.val)
        with train_mode(subject.net):
            trained = error(subject.net, shallow.train)
        rows.append([name, f"{evaluated:.2f}", f"{trained:.2f}"])
    how = "as identity" if arm == "keep" else "at random"
    return (
        f"{len(added)} blocks added {how}, {layers} convolutions: {', '.join(added)}\n\n"
        f"{markdown(rows)}\n"
    )


def write(args: Namespace, deep: Subject, added: list[str]) -> list[str]:
    """Write the checkpoint and the recipe that starts from it.

    The recipe also logs the added blocks' distance from the identity.

    Args:
        args: flags of `resnet-cli deepen`.
        deep: the deeper net.
        added: names of the added blocks.

    Returns:
        Keys of the foreign recipe that were left out.
    """
    out = Path(args.out)
    recipe, left = deep.foreign.to_train()
    parsed = yaml.safe_load(deep.experiment.config.resolved)
    kept = {key: value for key, value in parsed["data"].items() if key not in OF_A_MACHINE}
    recipe["data"] = recipe.get("data", {}) | kept
    recipe["seed_everything"] = parsed["seed_everything"]
    for key in KEPT["model"]:
        if key in parsed["model"]:
            recipe["model"][key] = parsed["model"][key]
    recipe["run"] = {"name": out.stem, "init_from": str(out)} | deep.foreign.kept()["run"]
    classes = list(deep.experiment.data.source.classes)
    state = deep.experiment.task.state_dict()
    checkpoint = {
        "state_dict": {name: tensor.cpu() for name, tensor in state.items()},
        "run": {
            "id": out.stem,
            "config": yaml.safe_dump(recipe, sort_keys=False),
            "classes": classes,
        },
        "deepen": {
            "from": args.checkpoint,
            "added": added,
            "arm": args.arm,
            "freeze": args.freeze,
        },
    }
    file = io.BytesIO()
    torch.save(checkpoint, file)
    callback = {"class_path": "AddedBlocks", "init_args": {"checkpoint": str(out)}}
    if args.freeze:
        callback["init_args"]["freeze"] = True
    trainer = recipe.setdefault("trainer", {})
    own = trainer.get("callbacks") or []
    trainer["callbacks"] = [*([own] if isinstance(own, dict) else own), callback]
    write_file(out, file.getvalue())
    write_file(out.with_suffix(".yaml"), yaml.safe_dump(recipe, sort_keys=False).encode())
    return left
