"""Count the outputs and multiply-adds of a net."""

import inspect
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_resnet.errors import UserError, one_line


def check_logits(net: nn.Module, found: Any, images: int) -> None:
    """Check that a net gives one row of class scores per image.

    Args:
        net: the net that gave `found`.
        found: output of the net.
        images: number of images in the batch.

    Raises:
        UserError: the output is something else, as that of a net with auxiliary heads.
    """
    name = type(net).__name__
    if isinstance(found, torch.Tensor):
        if found.ndim == 2 and len(found) == images:
            return
        batch = "1 image" if images == 1 else f"{images} images"
        raise UserError(
            f"{name} gives outputs of shape {tuple(found.shape)} for {batch}, not one row of class "
            "scores each: use a net that classifies images"
        )
    cure = "a net whose forward returns these alone"
    if "aux_logits" in inspect.signature(type(net)).parameters:
        cure = "--model.net.aux_logits false"
    raise UserError(
        f"{name} gives a {type(found).__name__} in training, not one tensor of class scores (as "
        f"nets with auxiliary heads do): use {cure}"
    )


def count_macs(net: nn.Module, input_size: tuple[int, int, int]) -> tuple[int, int]:
    """Count the outputs of a net, and the multiply-adds of convolutions and linear layers.

    Args:
        net: any net; its mode is restored.
        input_size: size of one image: channels, height, width.

    Returns:
        The number of outputs and the number of multiply-adds for one image.

    Raises:
        UserError: the net has no parameters, or cannot take images of this size.
    """
    training = net.training
    name = type(net).__name__
    parameter = next(net.parameters(), None)
    if parameter is None:
        raise UserError(f"{name} has no parameters to train: choose another --model.net")
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            image = torch.zeros(1, *input_size, dtype=parameter.dtype, device=parameter.device)
            logits = net.eval()(image)
    except MemoryError:
        raise
    except Exception as e:  # a user's own net may raise anything
        if "view size is not compatible" in str(e):
            raise UserError(
                f"{name} takes a `view` of images whose channels lie together in memory: use "
                "flatten(1) or reshape there, or add --model.channels_last false"
            ) from e
        if not isinstance(e, RuntimeError | ValueError):  # torch raises these two for wrong sizes
            raise UserError(
                f"{name} fails on images of {input_size} ({type(e).__name__}: {one_line(e)}): "
                "correct its forward"
            ) from e
        raise UserError(
            f"{name} cannot take images of {input_size} ({one_line(e)}): set --data.size"
        ) from e
    finally:
        net.train(training)
    check_logits(net, logits, 1)
    return logits.shape[1], counter.get_total_flops() // 2
