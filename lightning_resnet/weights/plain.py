"""`resnet-cli convert RUN --plain`: a checkpoint of the plain net that computes the same."""

import time
from statistics import median
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from lightning_resnet.errors import UserError
from lightning_resnet.models.complexity import PeakMemory, count_macs
from lightning_resnet.models.plain_form import plain_form, plain_options

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
    config = yaml.safe_load(checkpoint["run"]["config"])
    described = config["model"]["net"]
    options = described.get("init_args") or {}
    plain = plain_form(net, options)
    described["init_args"] = plain_options(options)
    constants = {k: v for k, v in checkpoint["state_dict"].items() if k in ("mean", "std")}
    state = {f"net.{name}": tensor for name, tensor in plain.state_dict().items()}
    run = checkpoint["run"] | {"config": yaml.safe_dump(config)}
    return {"state_dict": constants | state, "run": run}


def compared(net: nn.Module, plain: nn.Module, size: int) -> tuple[list[dict[str, Any]], float]:
    """Measure a net and its plain form on random images.

    Args:
        net: the net, in eval mode.
        plain: its plain form, in eval mode.
        size: pixels per side.

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
        for name, each in (("residual", net), ("plain", plain)):
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
    if not difference < TOLERANCE:
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
