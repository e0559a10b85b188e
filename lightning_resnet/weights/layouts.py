"""Weights of other people's ResNets under our names: torchvision's, timm's and akamaster's layouts.

Torchvision and timm name their plain ResNets' tensors as we do. akamaster/pytorch_resnet_cifar10 calls the head
`linear` and projections `shortcut`. What net it is, the names and shapes tell: there is nothing to be said by hand but
that a net without projections is a plain one (its tensors are those of option A).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_resnet.errors import UserError
from lightning_resnet.models.blocks import Shortcut
from lightning_resnet.models.resnet import IMAGENET_DEPTHS, CifarResNet, ImageNetResNet
from lightning_resnet.runs.checkpoint import check_plain
from lightning_resnet.training.state_dict import differing

State = dict[str, Tensor]
CONTAINERS = ("state_dict", "model", "model_state_dict", "net")  # keys under which training scripts keep weights
AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict")  # timm's, torchvision's; keys of a moving average
WRAPPERS = ("module.", "_orig_mod.", "net.", "model.")  # DataParallel's and DDP's, torch.compile's, Lightning modules'
RENAMED = {"linear.": "fc.", ".shortcut.": ".downsample."}  # akamaster's -> ours


class Known(NamedTuple):
    """A net of ours that computes what the weights were trained as; `kind` and `options` are its YAML."""

    kind: type[nn.Module]
    options: dict[str, Any]
    net: nn.Module


def average_in(content: Any) -> str | None:
    """The key under which a file also holds a moving average of its weights; None: it holds none."""
    held = content if isinstance(content, Mapping) else {}
    return next((key for key in AVERAGES if isinstance(held.get(key), Mapping)), None)


def unwrap(content: Any) -> State:
    """The tensors of a file, without what training scripts put around them, under our names, in float32.

    Args:
        content: as read: name -> tensor, perhaps under one of `CONTAINERS`, all names perhaps after one of `WRAPPERS`;
            what is no tensor is left out, integers stay.

    Raises:
        UserError: it is no mapping, an empty one, or holds tensors that are no weights.
    """
    for key in CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content:
        raise UserError("it holds no weights by name: save the net's state_dict()")
    check_plain(content)
    state = {k: t.float() if t.is_floating_point() else t for k, t in content.items() if isinstance(t, Tensor)}
    while wrapper := next((w for w in WRAPPERS if state and all(k.startswith(w) for k in state)), None):
        state = {k.removeprefix(wrapper): t for k, t in state.items()}
    return {_renamed(k): t.detach() for k, t in state.items()}


def recognise(state: State, shortcut: Shortcut | None = None) -> Known:
    """The net of ours that these weights are of, with them loaded.

    Args:
        state: from `unwrap`.
        shortcut: where the weights leave it open: none, for a plain net; default: A where there are no projections.

    Raises:
        UserError: no net of ours has these tensors, and the first that differs.
    """
    try:
        kind, options = _infer(state, shortcut)
        net = kind(**options)
    except (KeyError, IndexError, ValueError) as e:
        raise UserError(
            f"no plain CIFAR or ImageNet ResNet ({e}); deep stems, other widths and attention are nets of their own: "
            "use them by --model.net"
        ) from e
    counters = {k: torch.tensor(0) for k in net.state_dict() if k.endswith("num_batches_tracked")}  # not in old files
    state = counters | state
    if found := differing(net.state_dict(), state):
        raise UserError(f"no net of ours: {found}, in {kind.__name__} {options}")
    net.load_state_dict(state)
    return Known(kind, options, net.eval())


def _renamed(name: str) -> str:
    for theirs, ours in RENAMED.items():
        name = name.replace(theirs, ours) if theirs[0] == "." or name.startswith(theirs) else name
    return name


def _infer(state: State, shortcut: Shortcut | None) -> tuple[type[nn.Module], dict[str, Any]]:
    """Class and arguments, from shapes and from which blocks there are."""
    stem, classes = state["conv1.weight"], state["fc.weight"].shape[0]
    blocks = sorted({tuple(k.split(".")[:2]) for k in state if k.startswith("layer")})
    counts = [sum(stage == f"layer{i + 1}" for stage, _ in blocks) for i in range(len({s for s, _ in blocks}))]
    projected = sum(f"{stage}.{k}.downsample.0.weight" in state for stage, k in blocks)
    found = "C" if projected == len(blocks) else "B" if projected else "A"
    if shortcut not in (None, found) and (shortcut, found) != ("none", "A"):
        raise UserError(f"--shortcut {shortcut}: the weights have those of option {found}")
    bottleneck = "layer1.0.conv3.weight" in state
    depth = sum(counts) * (3 if bottleneck else 2) + 2
    options = {"depth": depth, "shortcut": shortcut or found, "num_classes": classes}
    if "bn1.weight" not in state:
        options["norm"] = "none"
    if stem.shape[-1] == 7 and depth in IMAGENET_DEPTHS:
        return ImageNetResNet, options
    if stem.shape[-1] == 3 and len(counts) == 3:
        block = {"block": "bottleneck"} if bottleneck else {}
        return CifarResNet, options | block | {"width": stem.shape[0]}
    raise ValueError(f"{stem.shape[-1]}x{stem.shape[-1]} stem, stages of {counts} blocks")
