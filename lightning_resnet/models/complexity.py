"""Count a net's outputs and multiply-adds."""

import inspect
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_resnet.errors import UserError, one_line


def _check_logits(net: nn.Module, found: Any, images: int) -> None:
    """Refuse a net that gives anything but one row of numbers per image, such as one with auxiliary heads."""
    if isinstance(found, torch.Tensor) and found.ndim == 2 and len(found) == images:
        return
    name, parameters = type(net).__name__, inspect.signature(type(net)).parameters
    if isinstance(found, torch.Tensor):
        shape = f"outputs of shape {tuple(found.shape)} for {images} image{'s' * (images > 1)}"
        raise UserError(f"{name} gives {shape}, not one row of class scores each: use a net that classifies images")
    off = "--model.net.aux_logits false" if "aux_logits" in parameters else "a net whose forward returns these alone"
    raise UserError(
        f"{name} gives a {type(found).__name__} in training, not one tensor of class scores (as nets with auxiliary "
        f"heads do): use {off}"
    )


def measure(net: nn.Module, input_size: tuple[int, int, int]) -> tuple[int, int]:
    """(number of outputs, multiply-adds of convolutions and linear layers) for one image.

    Raises:
        UserError: the net cannot take images of this size.
    """
    training, name = net.training, type(net).__name__
    parameter = next(net.parameters(), None)
    if parameter is None:
        raise UserError(f"{name} has no parameters to train: choose another --model.net")
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            logits = net.eval()(torch.zeros(1, *input_size, dtype=parameter.dtype, device=parameter.device))
    except MemoryError:
        raise
    except Exception as e:  # of any type: it may be the user's own net
        if "view size is not compatible" in str(e):
            raise UserError(
                f"{type(net).__name__} takes a `view` of images whose channels lie together in memory: use flatten(1) "
                "or reshape there, or add --model.channels_last false"
            ) from e
        if not isinstance(e, RuntimeError | ValueError):  # torch tells wrong sizes by these two
            told = f"{type(e).__name__}: {one_line(e)}"
            raise UserError(f"{name} fails on images of {input_size} ({told}): mend its forward") from e
        raise UserError(f"{name} cannot take images of {input_size} ({one_line(e)}): set --data.size") from e
    finally:
        net.train(training)
    _check_logits(net, logits, 1)
    return logits.shape[1], counter.get_total_flops() // 2
