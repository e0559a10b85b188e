"""`resnet-cli deepen`: a deeper net out of a trained shallower one, and the recipe that goes on training it (S5).

`resnet-cli deepen runs/digits/RUN --depth 32 --out keep.ckpt && resnet-cli fit --config keep.yaml`

keep: the added blocks start as identity; is that kept, lost or improved? find: they start at random; is it found?
"""

import io
from argparse import Namespace
from pathlib import Path

from lightning_resnet.analysis.compare.tables import markdown
from lightning_resnet.analysis.inspection.subjects import Subject
from lightning_resnet.config.trust import KEPT, OF_A_MACHINE
from lightning_resnet.files import write_file
from lightning_resnet.models.activations import error, train_mode


def describe(shallow: "Subject", deep: "Subject", added: list[str], arm: str) -> str:
    """What was added, and the error of both nets before the first step."""
    from torch import nn

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

    out = Path(args.out)
    recipe, left = deep.foreign.to_train()
    parsed = yaml.safe_load(deep.experiment.config.resolved)
    kept = {key: value for key, value in parsed["data"].items() if key not in OF_A_MACHINE}
    recipe["data"] = recipe.get("data", {}) | kept
    recipe["seed_everything"] = parsed["seed_everything"]
    recipe["model"] |= {key: parsed["model"][key] for key in KEPT["model"] if key in parsed["model"]}
    recipe["run"] = {"name": out.stem, "init_from": str(out)} | deep.foreign.kept()["run"]
    text = yaml.safe_dump(recipe, sort_keys=False)
    origin = {"from": args.checkpoint, "added": added, "arm": args.arm, "freeze": args.freeze}
    state = {name: tensor.cpu() for name, tensor in deep.experiment.task.state_dict().items()}
    classes, file = list(deep.experiment.data.source.classes), io.BytesIO()
    torch.save(
        {"state_dict": state, "run": {"id": out.stem, "config": text, "classes": classes}, "deepen": origin}, file
    )
    write_file(out, file.getvalue())
    callback = {"class_path": "AddedBlocks", "init_args": {"checkpoint": str(out)}}
    recipe["trainer"]["callbacks"] = [*(recipe["trainer"].get("callbacks") or []), callback]
    write_file(out.with_suffix(".yaml"), yaml.safe_dump(recipe, sort_keys=False).encode())
    return left
