"""`resnet-cli convert`: weights in and out; the file's ending says what is made.

`resnet-cli convert resnet50-11ad3fa6.pth --out resnet50.ckpt`: torchvision's, timm's or akamaster's -> ours, for
`--run.init_from`, `validate`, `predict` and `inspect`. `resnet-cli convert runs/digits/RUN --out net.onnx`: ours (or
theirs) -> .pth or .safetensors in torchvision's names, or .onnx with the normalisation inside, checked in onnxruntime.
"""

import json
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_resnet.data.sources.base import IMAGENET_MEAN, IMAGENET_STD
from lightning_resnet.errors import UserError, one_line, tell
from lightning_resnet.reading import read_text
from lightning_resnet.runs.checkpoint import check_archive, check_plain, newest_in
from lightning_resnet.weights.layouts import Known, State, average_in, recognise, unwrap

if TYPE_CHECKING:
    from torch import nn


CIFAR_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()
CONSTANTS = ("mean", "std")
TORCHVISION_DEPTHS = (18, 34, 50, 101, 152)


def read(args: Namespace) -> tuple[dict[str, Any], Path]:
    """A checkpoint in our form, made of theirs where the file is one; and the file.

    Args:
        args: of `make_parser`.

    Raises:
        UserError: the file cannot be read, is of no net of ours, or a flag does not apply to it.
    """
    import torch

    path = Path(args.file)
    if path.is_dir():
        path, content = newest_in(path)
    else:
        content = read_file(path)
    names = read_text(Path(args.classes)).split("\n") if args.classes else []
    classes = [name.strip() for name in names if name.strip()]
    run = content.get("run") if isinstance(content, dict) else None
    if isinstance(run, dict) and "config" in run:
        if given := [flag for flag in ("shortcut", *CONSTANTS) if getattr(args, flag)]:
            raise UserError(f"--{given[0]} is for weights of others, and {path} tells its own: leave it out")
        if not isinstance(content.get("state_dict"), dict):
            raise UserError(f"{path} has no state_dict: it is not whole")
        try:
            check_plain(content["state_dict"])
        except UserError as e:
            raise UserError(f"{path}: {e}") from e
        content["run"] |= {"classes": classes} if classes else {}
        return content, path
    average = average_in(content)
    if args.weights == "ema":
        if average is None:
            raise UserError(f"{path} holds no averaged weights (ema): leave --weights out")
        content = {name: t for name, t in content[average].items() if name != "n_averaged"}  # torch's counter
        tell(f"weights: their moving average, {average}")
        args.weights = "net"  # of what is made of it
    elif average:
        tell(f"weights: as trained; the file also holds their moving average, {average}: --weights ema takes that")
    try:
        known = recognise(unwrap(content), args.shortcut)
    except UserError as e:
        raise UserError(f"{path}: {e}") from e
    content, told = ours(known, path.stem, classes or _usual_classes(known)), _told(path)
    if args.std and min(args.std) <= 0:
        raise UserError(f"--std {args.std}: above 0, of each of red, green and blue")
    given = {k: [255 * v for v in getattr(args, k)] for k in CONSTANTS if getattr(args, k)}
    content["state_dict"] |= {k: torch.tensor(v).view(3, 1, 1) for k, v in (told | given).items()}
    source = "as given" if given else "from the file" if told else "assumed, as the file tells none"
    tell(f"normalisation {source}: {text(content['state_dict'])}")
    return content, path


def _told(path: Path) -> dict[str, list[float]]:
    """Normalisation of pixels from 0 to 255 that a .safetensors of ours holds; else nothing."""
    from safetensors import safe_open

    if path.suffix != ".safetensors":
        return {}
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    return {name: json.loads(metadata[name]) for name in CONSTANTS if name in metadata}


def text(state: "State") -> str:
    """The flags that give this normalisation."""
    return " ".join(f"--{k} {' '.join(f'{v / 255:.4g}' for v in state[k].flatten().tolist())}" for k in CONSTANTS)


def check_classes(net: "nn.Module", classes: list[str], file: str | None) -> None:
    """Refuse names that are not as many as the net has outputs.

    Raises:
        UserError: how many there are of each.
    """
    from torch import nn

    outputs = [m.out_features for m in net.modules() if isinstance(m, nn.Linear)][-1:]
    if file and outputs and len(classes) != outputs[0]:
        raise UserError(f"{file} names {len(classes)} classes, the net has {outputs[0]} outputs")


def read_file(path: Path) -> Any:
    """What weights or a checkpoint of anyone's hold; no code in them is run.

    Raises:
        UserError: it is missing, damaged, or holds more than tensors and plain values.
    """
    import zipfile

    import torch
    from safetensors.torch import load_file

    if not path.is_file():
        raise UserError(f"weights {path} do not exist")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if zipfile.is_zipfile(path):  # not before torch 1.6
            check_archive(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # damaged files fail in many ways
        why = one_line(e) if type(e) is ValueError else type(e).__name__  # check_archive tells what it found
        raise UserError(
            f"{path} cannot be read as weights ({why}): it is damaged, or holds more than tensors; save "
            "net.state_dict() alone"
        ) from e


def ours(known: "Known", name: str, classes: list[str]) -> dict[str, Any]:
    """A checkpoint of ours: the weights, ImageNet's normalisation (all three peers' on any data), and a recipe.

    Args:
        known: the net.
        name: of the run that the checkpoint tells.
        classes: in order of output; empty: not known.
    """
    import torch
    import yaml

    options = known.options
    n, imagenet = options["num_classes"], "ImageNet" in known.kind.__name__
    source = {(True, 1000): "ImageNet", (False, 10): "CIFAR10", (False, 100): "CIFAR100"}.get(
        (imagenet, n), "ImageFolder"
    )
    root = "data" if source.startswith("CIFAR") else f"data/{name}" if source == "ImageFolder" else "data/imagenet"
    augmented = {"size": 224, "crop": "resized"} if imagenet else {"crop": "pad"}
    if not imagenet and source == "ImageFolder":
        augmented = {"size": 32, "crop": "resized"}
    config = {
        "trainer": {"max_epochs": 1},
        "model": {"net": {"class_path": known.kind.__name__, "init_args": options}},
        "data": {"source": {"class_path": source, "init_args": {"root": root}}, "flip": True, **augmented},
        "run": {"name": name},
    }
    constants = zip(CONSTANTS, (IMAGENET_MEAN, IMAGENET_STD), strict=True)
    state: State = {k: torch.tensor(v).view(3, 1, 1) * 255 for k, v in constants}
    state |= {f"net.{k}": t for k, t in known.net.state_dict().items()}
    return {"state_dict": state, "run": {"id": name, "config": yaml.safe_dump(config), "classes": classes}}


def _usual_classes(known: "Known") -> list[str]:
    """ImageNet's and CIFAR-10's names, where the net has as many outputs and its kind's form."""
    imagenet, n = "ImageNet" in known.kind.__name__, known.options["num_classes"]
    if imagenet and n == 1000:
        from torchvision.models import ResNet18_Weights

        return list(ResNet18_Weights.DEFAULT.meta["categories"])
    return CIFAR_CLASSES if not imagenet and n == 10 else []


def describe(net: Any, options: dict[str, Any]) -> str:
    """`ImageNetResNet depth=50 shortcut=B num_classes=1000, 25,557,032 parameters`."""
    text = " ".join(f"{k}={options[k]}" for k in ("depth", "shortcut", "block", "num_classes") if k in options)
    return f"{type(net).__name__} {text}, {sum(p.numel() for p in net.parameters()):,} parameters"


def whose(kind: str, options: dict[str, Any]) -> str:
    """Whether torchvision has this net."""
    same = kind == "ImageNetResNet" and options.get("shortcut", "B") == "B" and options.get("norm", "batch") == "batch"
    elsewhere = {"stride_in_1x1": "its bottlenecks stride elsewhere", "blur_pool": "it blurs before it strides"}
    changed = [why for option, why in elsewhere.items() if options.get(option)]
    if same and not changed:
        return f"torchvision.models.resnet{options['depth']}(num_classes={options.get('num_classes', 1000)}) loads it"
    if same:
        return (
            f"careful: torchvision.models.resnet{options['depth']} loads it, but computes another net's logits: here "
            f"{' and '.join(changed)}"
        )
    why = "no projections where shapes change, or another form"
    return f"careful: in torchvision's names, but no net of torchvision's computes it ({why})"
