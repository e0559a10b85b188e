"""Recognise other people's ResNets by their tensors: torchvision's, timm's and akamaster's layouts.

Torchvision and timm name their plain ResNets' tensors as we do. akamaster/pytorch_resnet_cifar10
calls the head `linear` and projections `shortcut`. Names and shapes of the tensors tell the net,
with one exception: a net without projections may be plain or have shortcuts of option A.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_resnet.bounds import IMAGENET_DEPTHS
from lightning_resnet.errors import UserError, one_line
from lightning_resnet.models.blocks import Shortcut
from lightning_resnet.models.resnet import CifarResNet, ImageNetResNet
from lightning_resnet.runs.checkpoint import check_plain
from lightning_resnet.training.state_dict import differing

State = dict[str, Tensor]
# keys under which training scripts keep weights
CONTAINERS = ("state_dict", "model", "model_state_dict", "net")
# timm's and torchvision's keys of a moving average
AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict")
# prefixes of DataParallel and DDP, of torch.compile, and of Lightning modules
WRAPPERS = ("module.", "_orig_mod.", "net.", "model.")
RENAMED = {"linear.": "fc.", ".shortcut.": ".downsample."}  # akamaster's -> ours


class RecognisedNet(NamedTuple):
    """A net that computes what the weights were trained as.

    Attributes:
        class_path: class of the net: one of ours, or a function of `torchvision.models`.
        options: arguments of the class.
        net: the net with the weights.
    """

    class_path: str
    options: dict[str, Any]
    net: nn.Module

    @property
    def is_imagenet(self) -> bool:
        """Whether the net is of ImageNet's form."""
        return self.class_path != CifarResNet.__name__


def average_in(content: Any) -> str | None:
    """Return the key under which a file holds a moving average of its weights; None without one."""
    if not isinstance(content, Mapping):
        return None
    for key in AVERAGES:
        if isinstance(content.get(key), Mapping):
            return key
    return None


def unwrap(content: Any) -> State:
    """Return the tensors of a file under our names, in float32, without what surrounds them.

    Args:
        content: content of the file: name -> tensor, perhaps under one of `CONTAINERS`, all names
            perhaps after one of `WRAPPERS`. What is no tensor is left out; integers stay.

    Raises:
        UserError: the content is no mapping, an empty one, or holds tensors that are no weights.
    """
    for key in CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content:
        raise UserError("it holds no weights by name: save the net's state_dict()")
    check_plain(content)
    state = {}
    for name, tensor in content.items():
        if isinstance(tensor, Tensor):
            state[name] = tensor.float() if tensor.is_floating_point() else tensor
    while wrapper := _wrapper_of(state):
        state = {name.removeprefix(wrapper): tensor for name, tensor in state.items()}
    return {_renamed(name): tensor.detach() for name, tensor in state.items()}


def _wrapper_of(state: State) -> str | None:
    """Return the prefix of `WRAPPERS` that all names have; None: there is none."""
    for wrapper in WRAPPERS:
        if state and all(name.startswith(wrapper) for name in state):
            return wrapper
    return None


def recognise(state: State, shortcut: Shortcut | None = None) -> RecognisedNet:
    """Return the net of ours that weights are of, with the weights loaded.

    Args:
        state: tensors from `unwrap`.
        shortcut: `none` for a plain net, where the weights leave it open; default: A where there
            are no projections.

    Raises:
        UserError: no net of ours has these tensors; the message names the first that differs.
    """
    try:
        kind, options = _infer(state, shortcut)
        with torch.device("meta"):  # a small file may name a net larger than the memory
            form = kind(**options).state_dict()
    except (KeyError, IndexError, ValueError, ArithmeticError, RuntimeError) as e:
        raise UserError(
            f"no CIFAR or ImageNet ResNet of ours ({one_line(e)[:200]}); other stems, widths "
            "and attention are nets of their own: use them by --model.net"
        ) from e
    # counters of batches are not in old files
    names = [name for name in form if name.endswith("num_batches_tracked")]
    state = {name: torch.tensor(0) for name in names} | state
    if found := differing(form, state):
        raise UserError(f"no net of ours: {found}, in {kind.__name__} {options}")
    net = kind(**options)
    net.load_state_dict(state)
    return RecognisedNet(kind.__name__, options, net.eval())


def _renamed(name: str) -> str:
    for theirs, ours in RENAMED.items():
        if theirs.startswith(".") or name.startswith(theirs):
            name = name.replace(theirs, ours)
    return name


def _infer(state: State, shortcut: Shortcut | None) -> tuple[type[nn.Module], dict[str, Any]]:
    """Return class and arguments of a net, from shapes and from which blocks there are."""
    is_deep = "conv1.0.weight" in state
    stem = state["conv1.0.weight" if is_deep else "conv1.weight"]
    classes = state["fc.weight"].shape[0]
    blocks = sorted({tuple(name.split(".")[:2]) for name in state if name.startswith("layer")})
    stages = len({stage for stage, _ in blocks})
    counts = [sum(stage == f"layer{i + 1}" for stage, _ in blocks) for i in range(stages)]
    projections = [f"{stage}.{k}.downsample" for stage, k in blocks]
    plain = sum(f"{name}.0.weight" in state for name in projections)
    # The projection is the second of three modules where means are taken first.
    averaged = sum(f"{name}.2.weight" in state for name in projections)
    projected = plain + averaged
    if projected == len(blocks):
        found = "C"
    elif projected:
        found = "B"
    else:
        found = "A"
    if shortcut not in (None, found) and (shortcut, found) != ("none", "A"):
        raise UserError(f"--shortcut {shortcut}: the weights have those of option {found}")
    is_bottleneck = "layer1.0.conv3.weight" in state
    depth = sum(counts) * (3 if is_bottleneck else 2) + 2
    options = {"depth": depth, "shortcut": shortcut or found, "num_classes": classes}
    if "bn1.weight" not in state:
        options["norm"] = "none"
    if (stem.shape[-1] == 7 or is_deep) and depth in IMAGENET_DEPTHS:
        if is_deep:
            options["stem"] = "deep"
        if averaged:
            options["downsample"] = "average"
        return ImageNetResNet, options | _inside_of_blocks(state, is_bottleneck, blocks[-1])
    if stem.shape[-1] == 3 and len(counts) == 3:
        if is_bottleneck:
            options["block"] = "bottleneck"
        return CifarResNet, options | {"width": stem.shape[0]}
    raise ValueError(f"{stem.shape[-1]}x{stem.shape[-1]} stem, stages of {counts} blocks")


def _inside_of_blocks(state: State, is_bottleneck: bool, last: tuple[str, str]) -> dict[str, Any]:
    """Return groups, width and squeeze-and-excitation of an ImageNet net, where it has them.

    Args:
        state: tensors from `unwrap`.
        is_bottleneck: whether the blocks have three convolutions.
        last: stage and number of the last block.
    """
    options: dict[str, Any] = {}
    if is_bottleneck:
        inner, per_group = state["layer1.0.conv2.weight"].shape[:2]
        if inner != per_group:
            options["groups"] = inner // per_group
        if per_group != 64:
            options["width_per_group"] = per_group
    squeeze = state.get(".".join((*last, "se.fc1.weight")))
    if squeeze is not None:
        options["se_ratio"] = squeeze.shape[0] / squeeze.shape[1]
    return options
