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

from lightning_resnet.models.activations import NORMS, BlockActivations
from lightning_resnet.models.blocks import Block, ScaledConv2d
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
    return [m for m in _in_branch(module) if isinstance(m, nn.Conv2d | nn.Linear)]


def _in_branch(module: nn.Module) -> list[nn.Module]:
    """Return the modules within a block that are neither on the shortcut nor in a gate or SE."""
    aside = []
    for name in ("downsample", "gate", "se"):
        part = getattr(module, name, None)
        if isinstance(part, nn.Module):
            aside += part.modules()
    return [m for m in module.modules() if not any(m is other for other in aside)]


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
    if any(block.shortcut is not None for block in blocks):
        return np.full(len(blocks), math.nan)
    squares = np.ones(len(blocks))
    for i in reversed(range(len(blocks) - 1)):
        block = blocks[i]
        factor = 1.0
        for layer in layers(block.module):
            scaled = isinstance(layer, ScaledConv2d)
            weight = (layer.standardized() if scaled else layer.weight).detach()
            without_norm = weight[0].numel() * weight.square().mean().item() / 2
            factor *= BATCH_NORM_GROWTH if has_batch_norm(block.module) else without_norm
        squares[i] = squares[i + 1] * factor
    return np.sqrt(squares)


def cosines_of_gradients(blocks: Sequence[BlockActivations]) -> np.ndarray:
    """Return the cosine between two images' gradients at each block's input, 1 at the output.

    A plain layer halves the cosine. In a residual block with batch norm F(x) has the energy 1,
    without norm that of x; factors of F(x) and of x multiply these. So the branch of the l-th block
    of a usual net has 1/l of the energy of its input. What takes the shortcut keeps the cosine
    (Balduzzi et al. 2017, sec. 3; for blocks without a ReLU after the sum).

    Returns:
        One number per block; NaN before a block with a gate, whose factor is not known.
    """
    keeps = []
    energy = 1.0  # of x
    for block in blocks:
        kept = RELU_KEEPS ** len(layers(block.module))
        if block.shortcut is not None:
            of_branch, of_x = factors(block.module)
            branch = of_branch**2 * (1.0 if has_batch_norm(block.module) else energy)
            carried = of_x**2 * energy
            energy = carried + branch
            kept = (carried + kept * branch) / energy if energy else math.nan
        keeps.append(kept)
    return np.cumprod(keeps[::-1])[::-1]


def factors(module: nn.Module) -> tuple[float, float]:
    """Return the factors of F(x) and of x in a residual block's sum, in eval mode.

    F(x) has the factor 0 where its last layer is zero; blocks of other packages have no others.

    Returns:
        Two numbers; NaN where there is a gate.
    """
    layers_of_branch = [m for m in _in_branch(module) if isinstance(m, (nn.Conv2d, *NORMS))]
    weights = [m.weight for m in layers_of_branch if m.weight is not None]
    branch = 0.0 if weights and not weights[-1].any() else 1.0
    if not isinstance(module, Block):
        return branch, 1.0
    if module.gate is not None:
        return math.nan, math.nan
    if module.scale is not None:
        branch *= module.scale.weight.item()
    if module.branch_factor is not None:
        branch *= module.branch_factor
    if module.stochastic_depth is not None:
        branch *= module.stochastic_depth.survival
    return branch, 1.0 if module.shortcut_factor is None else module.shortcut_factor


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
        c = c if block.shortcut is None else math.nan
        found.append(c)
    return np.array(found)
