"""Read weights of any layout as a checkpoint of ours, and describe what they are.

`resnet-cli convert resnet50-11ad3fa6.pth --out resnet50.ckpt` converts torchvision's, timm's or
akamaster's weights into ours, for `--run.init_from`, `validate`, `predict` and `inspect`.
`resnet-cli convert runs/digits/RUN --out net.onnx` converts ours (or theirs) into .pth or
.safetensors in torchvision's names, or into .onnx with the normalisation inside, checked in
onnxruntime.
"""

import inspect
import sys
import zipfile
from argparse import Namespace
from collections.abc import Collection
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torchvision import models

from lightning_resnet.data.sources.base import IMAGENET_MEAN, IMAGENET_STD
from lightning_resnet.errors import UserError, one_line, printable, tell
from lightning_resnet.models.resnet import CifarResNet, ImageNetResNet
from lightning_resnet.reading import parse_json, read_text
from lightning_resnet.runs.checkpoint import check_archive, check_plain, newest_in
from lightning_resnet.runs.find import find_run
from lightning_resnet.weights.layouts import RecognisedNet, State, average_in, recognise, unwrap

CIFAR_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()
CLASSES = "classes"  # in the metadata of a .safetensors: a JSON list of their names
CONSTANTS = ("mean", "std")
LARGEST_CONSTANT = 1e6  # pixels go to 255


def read(args: Namespace) -> tuple[dict[str, Any], Path]:
    """Return a checkpoint in our form, converted if the file has another layout; and its path.

    Args:
        args: arguments of `resnet-cli convert`.

    Raises:
        UserError: the file cannot be read, is of no net of ours, or a flag does not apply to it.
    """
    path = find_run(args.file)
    if path.is_dir():
        path, content = newest_in(path)
    else:
        content = read_file(path)
    classes = _names_in(args.classes)
    if is_ours(content, path):
        if given := [flag for flag in ("shortcut", *CONSTANTS) if getattr(args, flag)]:
            raise UserError(
                f"--{given[0]} is for weights of others, and {path} tells its own: leave it out"
            )
        content["run"] |= {"classes": classes} if classes else {}
        return content, path
    average = average_in(content)
    if args.weights == "ema":
        if average is None:
            raise UserError(f"{path} holds no averaged weights (ema): leave --weights out")
        # n_averaged is torch's counter
        content = {name: t for name, t in content[average].items() if name != "n_averaged"}
        tell(f"weights: their moving average, {average}")
        args.weights = "net"  # the converted checkpoint has one kind of weights
    elif average:
        tell(
            f"weights: as trained; the file also holds their moving average, {average}: "
            "--weights ema takes that"
        )
    try:
        known = recognise(unwrap(content), args.shortcut)
    except UserError as e:
        raise UserError(f"{path}: {e}") from e
    metadata = _metadata(path)
    told_classes = _told_classes(metadata, known.options["num_classes"])
    if not classes and told_classes is not None:
        classes = told_classes
    elif not classes and (classes := _usual_classes(known)):
        tell(
            f"class names assumed, as the file tells none: {', '.join(classes[:3])}, ...; "
            "`resnet-cli convert FILE --classes NAMES.txt` gives others"
        )
    content = checkpoint_of(known, path.stem, classes)
    given = {k: [255 * v for v in getattr(args, k)] for k in CONSTANTS if getattr(args, k)}
    told = _told(path, metadata, given)
    content["state_dict"] |= {k: torch.tensor(v).view(3, 1, 1) for k, v in (told | given).items()}
    if given:
        source = "as given"
    elif told:
        source = "from the file"
    else:
        source = "assumed, as the file tells none"
    tell(f"normalisation {source}: {text(content['state_dict'])}")
    return content, path


def is_ours(content: Any, name: str | Path) -> bool:
    """Tell whether the content of a file is a checkpoint of ours, and check its tensors then.

    Args:
        content: content of the file.
        name: path or name of the file.

    Raises:
        UserError: the checkpoint has no state_dict, or tensors of another type.
    """
    run = content.get("run") if isinstance(content, dict) else None
    if not isinstance(run, dict) or "config" not in run:
        return False
    if not isinstance(content.get("state_dict"), dict):
        raise UserError(f"{name} has no state_dict: the file is incomplete")
    try:
        check_plain(content["state_dict"])
    except UserError as e:
        raise UserError(f"{name}: {e}") from e
    return True


def taken(path: Path) -> dict[str, Any]:
    """Return the weights in a file of any layout as `convert` makes a checkpoint of them.

    What is assumed is told on stderr.

    Raises:
        UserError: the file cannot be read, or is of no net of ours.
    """
    unsaid = dict.fromkeys(("classes", "shortcut", *CONSTANTS))
    with redirect_stdout(sys.stderr):
        return read(Namespace(file=path, weights="net", **unsaid))[0]


def _names_in(file: str | None) -> list[str]:
    """Return the class names in a file, one on a line; none without a file."""
    if not file:
        return []
    lines = read_text(Path(file)).split("\n")
    return [line.strip() for line in lines if line.strip()]


def _metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a .safetensors; of another file none."""
    if path.suffix != ".safetensors":
        return {}
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def _told_classes(metadata: dict[str, str], outputs: int) -> list[str] | None:
    """Return the class names in the metadata of a .safetensors of ours, of which there may be none.

    None: the file tells nothing of classes. Other programs may write something else there.
    """
    names = None
    with suppress(ValueError):
        names = parse_json(metadata.get(CLASSES, "null"))
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if is_list and len(names) in (0, outputs) else None


def _told(path: Path, metadata: dict[str, str], given: Collection[str]) -> dict[str, list[float]]:
    """Return the normalisation in a .safetensors of ours, for pixels from 0 to 255; else none.

    Args:
        path: the file.
        metadata: of the file.
        given: names that are not read, as flags give them.

    Raises:
        UserError: the file tells a mean or std that can be none.
    """
    told = {}
    for name in CONSTANTS:
        if name not in metadata or name in given:
            continue
        try:
            told[name] = normalisation(name, parse_json(metadata[name]))
        except ValueError as e:
            raise UserError(
                f"{path}: {name} in its metadata is {printable(metadata[name], 80)}, not three "
                f"numbers{' above 0' if name == 'std' else ''}: give it by `resnet-cli convert "
                f"FILE --{name}`"
            ) from e
    return told


def normalisation(name: str, values: Any) -> list[float]:
    """Return a mean or std that a file tells as a list of three numbers.

    Raises:
        ValueError: the file tells another thing, or a std that is not above 0.
    """
    is_list = isinstance(values, list | tuple) and len(values) == 3
    if not is_list or not all(type(value) in (int, float) for value in values):
        raise ValueError(f"{name} is not three numbers")
    lowest = 0.0 if name == "std" else -LARGEST_CONSTANT
    if not all(lowest < value < LARGEST_CONSTANT for value in values):
        raise ValueError(f"{name} cannot be {values}")
    return [float(value) for value in values]


def text(state: State) -> str:
    """Return the flags that give the normalisation of a checkpoint."""
    flags = []
    for name in CONSTANTS:
        values = [f"{value / 255:.4g}" for value in state[name].flatten().tolist()]
        flags += [f"--{name}", *values]
    return " ".join(flags)


def check_classes(net: nn.Module, classes: list[str], file: str | None) -> None:
    """Refuse class names whose number is not the net's number of outputs.

    Raises:
        UserError: the numbers differ.
    """
    outputs = [m.out_features for m in net.modules() if isinstance(m, nn.Linear)][-1:]
    if file and outputs and len(classes) != outputs[0]:
        raise UserError(f"{file} names {len(classes)} classes, the net has {outputs[0]} outputs")


def read_file(path: Path) -> Any:
    """Return the content of a file of weights or a checkpoint; no code in the file is run.

    Raises:
        UserError: the file is missing, damaged, or holds more than tensors and plain values.
    """
    if not path.is_file():
        raise UserError(f"weights {path} do not exist")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if zipfile.is_zipfile(path):  # not before torch 1.6
            check_archive(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # damaged files fail in many ways
        # ValueErrors are check_archive's, which tell what it found
        why = one_line(e) if type(e) is ValueError else type(e).__name__
        raise UserError(
            f"{path} cannot be read as weights ({why}): it is damaged, or holds more than tensors; "
            "save net.state_dict() alone"
        ) from e


def checkpoint_of(
    known: RecognisedNet, name: str, classes: list[str], data: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return a checkpoint of ours: weights, ImageNet's normalisation, and a recipe.

    torchvision, timm and akamaster normalise by ImageNet's mean and std on any data.

    Args:
        known: net with its weights.
        name: name of the run in the checkpoint.
        classes: class names in order of output; empty: not known.
        data: further options of the data.
    """
    options = known.options
    is_imagenet = known.is_imagenet
    augmented: dict[str, Any] = {"crop": "pad"}
    if is_imagenet and options.get("num_classes", 1000) == 1000:
        source = "ImageNet"
        root = "data/imagenet"
    elif not is_imagenet and options["num_classes"] in (10, 100):
        source = f"CIFAR{options['num_classes']}"
        root = "data"
    else:
        source = "ImageFolder"
        root = f"data/{name}"
        augmented = {"size": 32, "crop": "resized"}
    if is_imagenet:
        augmented = {"size": 224, "crop": "resized"}
    source_config = {"class_path": source, "init_args": {"root": root}}
    config = {
        "trainer": {"max_epochs": 1},
        "model": {"net": {"class_path": known.class_path, "init_args": options}},
        "data": {"source": source_config, "flip": True, **augmented, **(data or {})},
        "run": {"name": name},
    }
    state: State = {}
    for constant, values in zip(CONSTANTS, (IMAGENET_MEAN, IMAGENET_STD), strict=True):
        state[constant] = torch.tensor(values).view(3, 1, 1) * 255
    for key, tensor in known.net.state_dict().items():
        state[f"net.{key}"] = tensor
    return {
        "state_dict": state,
        "run": {"id": name, "config": yaml.safe_dump(config), "classes": classes},
    }


def _usual_classes(known: RecognisedNet) -> list[str]:
    """Return the names of ImageNet or CIFAR-10 for a net of their form and size; else none."""
    is_imagenet = known.is_imagenet
    n = known.options["num_classes"]
    if is_imagenet and n == 1000:
        from torchvision.models import ResNet18_Weights

        return list(ResNet18_Weights.DEFAULT.meta["categories"])
    return CIFAR_CLASSES if not is_imagenet and n == 10 else []


def describe(net: Any, options: dict[str, Any]) -> str:
    """Return a line such as `ImageNetResNet depth=50 num_classes=1000, 25,557,032 parameters`."""
    told = ("depth", "shortcut", "block", "num_classes", "drop_blocks")
    shown = [k for k in told if options.get(k) is not None]
    text = " ".join(f"{k}={options[k]}" for k in shown)
    return f"{type(net).__name__} {text}, {sum(p.numel() for p in net.parameters()):,} parameters"


def _name_in_torchvision(options: dict[str, Any]) -> str | None:
    """Return the name of torchvision's net with the tensors of an `ImageNetResNet`, or None."""
    others = ("stem", "downsample", "se_ratio", "branch_scale", "drop_blocks")
    if options.get("norm", "batch") != "batch" or any(options.get(name) for name in others):
        return None
    depth = options["depth"]
    groups = options.get("groups") or 1
    width = options.get("width_per_group") or 64
    name = f"resnet{depth}"
    if groups > 1:
        name = f"resnext{depth}_{groups}x{width}d"
    elif width != 64:
        name = f"wide_resnet{depth}_{width / 64:g}"
    return name if name in models.list_models(module=models) else None


def untold(net: nn.Module, options: dict[str, Any]) -> list[str]:
    """Return the arguments of a net that its tensors do not tell: read back, it is another net.

    Nets of others are not asked for theirs.
    """
    if type(net) not in (CifarResNet, ImageNetResNet):
        return []
    shortcut = "none" if options.get("shortcut") == "none" else None
    try:
        known = recognise(dict(net.state_dict()), shortcut).options
    except UserError:  # they cannot be taken for a net of ours
        return ["drop_blocks"] if options.get("drop_blocks") else []
    parameters = inspect.signature(type(net)).parameters
    found = []
    for name, value in options.items():
        default = parameters[name].default
        same = value == known.get(name, default) or value == default
        if not same and name not in ("init", "zero_last"):
            found.append(name)
    return found


def use_elsewhere(net: nn.Module, class_path: str, options: dict[str, Any]) -> str:
    """Return a line that tells what loads and computes these weights without this package.

    Args:
        net: the net.
        class_path: class of the net, or the function that makes it.
        options: its arguments.
    """
    if type(net) not in (CifarResNet, ImageNetResNet):
        given = [f"{key}={value!r}" for key, value in options.items() if value is not None]
        return f"{class_path}({', '.join(given)}) loads it"
    name = None
    if type(net) is ImageNetResNet and options.get("shortcut", "B") == "B":
        name = _name_in_torchvision(options)
    if name is None:
        why = "no projections where shapes change, or another form"
        return f"warning: in torchvision's names, but no net of torchvision's computes it ({why})"
    name = f"torchvision.models.{name}"
    elsewhere = {
        "stride_in_1x1": "its bottlenecks stride elsewhere",
        "blur_pool": "it blurs before it strides",
        "stochastic_depth": "F(x) counts with its survival",
    }
    changed = [why for option, why in elsewhere.items() if options.get(option)]
    if changed:
        return (
            f"warning: {name} loads it, but computes another net's logits: here "
            f"{' and '.join(changed)}"
        )
    return f"{name}(num_classes={options.get('num_classes', 1000)}) loads it"
