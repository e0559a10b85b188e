"""What mean-field theory says of wide nets at initialisation, to draw next to what is measured.

The theory is that of dense layers of infinite width, each followed by a ReLU, and of large batches.
Convolutions share their ReLUs' masks in space, and real nets are narrow: expect the same order, not
the same number.
"""

import math
from collections.abc import Sequence

import numpy as np
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_resnet.models.activations import BlockActivations
from lightning_resnet.models.resnet import correlation_after

# growth of the squared norm of dE/dx per layer of batch norm and ReLU (Yang et al. 2019, arXiv
# 1902.08129)
BATCH_NORM_GROWTH = math.pi / (math.pi - 1)
# correlation of two images' gradients that a ReLU keeps (Balduzzi et al. 2017, 1702.08591): both
# let 1/4 of the units pass, each 1/2
RELU_KEEPS = 0.5


def layers(module: nn.Module) -> list[nn.Module]:
    """Return the layers with weights of a block's branch, which are in sequence.

    What stands on the shortcut, in a gate or in squeeze-and-excitation is left out.
    """
    aside = []
    for name in ("downsample", "gate", "se"):
        part = getattr(module, name, None)
        if isinstance(part, nn.Module):
            aside += part.modules()
    found = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    return [layer for layer in found if not any(layer is other for other in aside)]


def has_batch_norm(module: nn.Module) -> bool:
    """Tell whether a block has batch norm."""
    return any(isinstance(m, _BatchNorm) for m in module.modules())


def norms_of_gradients(blocks: Sequence[BlockActivations]) -> np.ndarray:
    """Return the norm of dE/dx at each block's input over that at the last block's input.

    A layer multiplies the expected square by pi / (pi - 1) = 1.467 if batch norm follows (Yang et
    al. 2019), else by half the fan-in times the mean squared weight: 1 after He's initialization,
    1/2 after Xavier's at equal width (He et al. 2015, 1502.01852).

    Returns:
        One number per block; NaN for residual nets: shortcuts make the growth polynomial in depth,
        with a constant that depends on the block.
    """
    if any(block.shortcut for block in blocks):
        return np.full(len(blocks), math.nan)
    squares = np.ones(len(blocks))
    for i in reversed(range(len(blocks) - 1)):
        block = blocks[i]
        factor = 1.0
        for layer in layers(block.module):
            fan_in = layer.weight[0].numel()
            without_norm = fan_in * layer.weight.detach().square().mean().item() / 2
            factor *= BATCH_NORM_GROWTH if has_batch_norm(block.module) else without_norm
        squares[i] = squares[i + 1] * factor
    return np.sqrt(squares)


def cosines_of_gradients(blocks: Sequence[BlockActivations]) -> np.ndarray:
    """Return the cosine between two images' gradients at each block's input, 1 at the output.

    A plain layer halves the cosine. In a residual block with batch norm, the l-th of the net, the
    branch has 1/l of the energy of its input, without norm as much as its input; what takes the
    shortcut keeps the cosine (Balduzzi et al. 2017, sec. 3; for blocks without a ReLU after the
    sum).
    """
    found = np.ones(len(blocks) + 1)
    for i in reversed(range(len(blocks))):
        block = blocks[i]
        keeps = RELU_KEEPS ** len(layers(block.module))
        if block.shortcut:
            share = 1 / (i + 1) if has_batch_norm(block.module) else 1.0
            keeps = (1 + keeps * share) / (1 + share)
        found[i] = found[i + 1] * keeps
    return found[:-1]


def cosines_of_outputs(blocks: Sequence[BlockActivations], first: float) -> np.ndarray:
    """Return the cosine between two images' outputs of each block, of plain nets without norm.

    A layer maps a cosine by the C-map (Cho & Saul 2009; Martens et al. 2021, 2110.01765), that of
    its own leaky ReLU where the net has them.

    Args:
        blocks: the blocks in order of depth.
        first: cosine at the first block's input.

    Returns:
        One number per block; NaN from the first residual block on, and where `first` is NaN.
    """
    if math.isnan(first):
        return np.full(len(blocks), math.nan)
    c = first
    found = []
    for block in blocks:
        for _ in layers(block.module):
            slope = getattr(block.module, "slope", None) or 0.0
            c = correlation_after(slope, min(1.0, max(-1.0, c)))
        c = math.nan if block.shortcut else c
        found.append(c)
    return np.array(found)
