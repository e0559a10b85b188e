"""`resnet-cli convert RUN --drop-block B` and `--plain`: checkpoints of nets made of other nets."""

import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from lightning_resnet.errors import UserError
from lightning_resnet.models.complexity import PeakMemory, count_macs
from lightning_resnet.models.plain_form import plain_form, plain_options
from lightning_resnet.models.surgery import without

IMAGES = 64
REPEATS = 10
# Largest difference of the logits, as a share of the largest logit: rounding of float32.
TOLERANCE = 1e-4


def plain_checkpoint(checkpoint: dict[str, Any], net: nn.Module) -> dict[str, Any]:
    """Return the checkpoint of the plain form of a net; its recipe names the plain net.

    Args:
        checkpoint: the net's own, with the recipe in `run`.
        net: the net with its weights, in eval mode.

    Raises:
        UserError: the net has no plain form.
    """
    options = options_in(checkpoint)
    return _holding(checkpoint, plain_form(net, options), plain_options(options))


def shorter_checkpoint(
    checkpoint: dict[str, Any], net: nn.Module, names: Sequence[str]
) -> dict[str, Any]:
    """Return the checkpoint of a net without some of its blocks; its recipe names them.

    Args:
        checkpoint: the net's own, with the recipe in `run`.
        net: the net with its weights, in eval mode.
        names: blocks to leave out.

    Raises:
        UserError: a block cannot be left out.
    """
    return _holding(checkpoint, *without(net, options_in(checkpoint), names))


def options_in(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a checkpoint's net."""
    return yaml.safe_load(checkpoint["run"]["config"])["model"]["net"].get("init_args") or {}


def _holding(checkpoint: dict[str, Any], net: nn.Module, options: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint with another net in place of its own, of the same class."""
    config = yaml.safe_load(checkpoint["run"]["config"])
    config["model"]["net"]["init_args"] = options
    constants = {k: v for k, v in checkpoint["state_dict"].items() if k in ("mean", "std")}
    state = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    run = checkpoint["run"] | {"config": yaml.safe_dump(config)}
    return {"state_dict": constants | state, "run": run}


def compared(
    forms: dict[str, nn.Module], size: int, is_same: bool = True
) -> tuple[list[dict[str, Any]], float]:
    """Measure a net and the net that was made of it on random images.

    Args:
        forms: the net and what was made of it, in eval mode, by their names in the table.
        size: pixels per side.
        is_same: whether both compute the same.

    Returns:
        A row for each with parameters, multiply-adds of an image, the median of ten times for 64
        images in ms, and the largest memory of activations for an image in kB; and the largest
        difference of the logits, as a share of the largest logit.

    Raises:
        UserError: the logits differ by more than rounding does.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(IMAGES, 3, size, size, generator=generator)
    rows = []
    logits = []
    with torch.inference_mode():
        for name, each in forms.items():
            logits.append(each(images))
            rows.append(
                {
                    "net": name,
                    "parameters": sum(p.numel() for p in each.parameters()),
                    "multiply_adds": count_macs(each, (3, size, size))[1],
                    "ms": 1000 * _seconds(each, images),
                    "activations_kb": _peak(each, images) / IMAGES / 1000,
                }
            )
    difference = ((logits[0] - logits[1]).abs().max() / logits[0].abs().max()).item()
    if is_same and not difference < TOLERANCE:
        raise UserError(
            f"the plain net's logits differ by {difference:.1e} of the largest: the weights are "
            "not finite, or too large for float32"
        )
    return rows, difference


def _seconds(net: nn.Module, images: Tensor) -> float:
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        net(images)
        times.append(time.perf_counter() - start)
    return median(times)


def _peak(net: nn.Module, images: Tensor) -> int:
    with PeakMemory() as memory:
        net(images)
    return memory.peak
