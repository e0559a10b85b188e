"""Branch and shortcut of the blocks that torchvision's and timm's ResNets consist of."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn


def foreign_block(
    module: nn.Module,
) -> tuple[Callable[[Tensor], Tensor], nn.Module] | None:
    """Return the branch and the shortcut of a block of torchvision or timm; None for other modules.

    Both are functions [B, C, H, W] -> [B, C', H', W'] that share the block's parameters.
    """
    if not hasattr(module, "downsample") or not hasattr(module, "bn2"):
        return None
    return partial(_branch, module), module.downsample or nn.Identity()


def _branch(block: nn.Module, x: Tensor) -> Tensor:
    """Compute everything that a block of torchvision or timm does before the sum."""
    for i in (1, 2, 3):
        if not hasattr(block, f"conv{i}"):
            break
        if i > 1:
            x = block.relu(x) if hasattr(block, "relu") else _between_in_timm(block, i - 1, x)
        x = getattr(block, f"conv{i}")(x)
        x = getattr(block, f"bn{i}")(x)
    for name in ("se", "drop_path"):  # timm only; None or absent in plain ResNets
        module = getattr(block, name, None)
        if module is not None:
            x = module(x)
    return x


def _between_in_timm(block: nn.Module, i: int, x: Tensor) -> Tensor:
    """Apply what timm has between convolution i and the next one.

    That is the activation and, at the strided convolution, dropblock before and anti-aliasing after
    the activation.
    """
    activation = getattr(block, f"act{i}")
    strided = 2 if hasattr(block, "conv3") else 1
    if i != strided:
        return activation(x)
    x = activation(block.drop_block(x))
    return x if block.aa is None else block.aa(x)
