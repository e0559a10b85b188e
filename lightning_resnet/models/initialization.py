"""Initialization: each parameter has its own generator, seeded by the seed and its name.

The plain and the residual net of one depth therefore start with equal tensors wherever they have a
name in common, and a deeper net starts with the layers of the shallower one, whatever else is drawn
before or after.
"""

import hashlib
from typing import Literal

import torch
from torch import Tensor, nn

Init = Literal["he", "he_fan_in", "xavier", "dirac", "delta_orthogonal", "looks_linear"] | float


def init_parameters(
    net: nn.Module, init: Init = "he", zero_last: bool = False, rectified: bool = True
) -> None:
    """Fill the parameters of `net` in place; norms keep weight 1 and bias 0, biases are 0.

    Args:
        net: any net of convolutions, linear layers and norms.
        init: initialization of the convolutions. "he": N(0, 2 / fan_out) (He et al. 2015b, eq. 14).
            "he_fan_in": N(0, 2 / fan_in) (eq. 10 there). "xavier": Glorot & Bengio 2010, eq. 16.
            "dirac": identity on the channels that have one, he on the others and in the stem.
            "delta_orthogonal": an orthogonal matrix at the centre of the kernel, else 0 (Xiao et
            al. 2018, algorithm 1). "looks_linear": the same for pairs of channels of opposite sign,
            so that the ReLUs of a net without norms pass a linear function (Balduzzi et al. 2017,
            sec. 5); with a gain of 1 where delta_orthogonal has the ReLU's, sqrt(2). A number:
            that gain times he.
        rectified: whether ReLUs follow, which halve the second moment. "he", "he_fan_in" and
            "delta_orthogonal" make up for it by a factor of 2; without, the factor is 1.
        zero_last: zero the last layer of each residual branch, so that blocks start as identity
            (Goyal et al. 2017, sec. 5.1).

    Raises:
        ValueError: `zero_last` is set and the net has plain blocks, whose output would be zero.
    """
    seed = torch.initial_seed()  # the value of --seed_everything
    for name, parameter in net.named_parameters():
        module = net.get_submodule(name.rpartition(".")[0])
        if name.endswith("bias"):
            nn.init.constant_(parameter, getattr(module, "initial_bias", 0.0))  # not 0 in a gate
        elif isinstance(module, nn.Conv2d) and parameter.ndim == 4:  # not its gains
            _init_conv(parameter, module.groups, init, rectified, name, generator(seed, name))
        elif isinstance(module, nn.Linear):
            # This is torch's default.
            nn.init.kaiming_uniform_(parameter, a=5**0.5, generator=generator(seed, name))
            if init == "looks_linear":
                parameter.data[:, 1::2] = -parameter.data[:, ::2]
    if zero_last:
        _zero_last(net)


@torch.no_grad()
def init_fixup(net: nn.Module) -> None:
    """Scale the weights of a net as Fixup does (Zhang et al. 2019, sec. 3), in place.

    In a net of L blocks whose branches have m layers, the first m - 1 layers of a branch are scaled
    by L^(-1 / (2m - 2)). The last layer of each branch and the linear head start at 0.
    """
    blocks = [module for module in net.modules() if hasattr(module, "residual")]
    for block in blocks:
        layers = [child for name, child in block.named_children() if name.startswith("conv")]
        for layer in layers[:-1]:
            layer.weight.mul_(len(blocks) ** (-1 / (2 * len(layers) - 2)))
        nn.init.zeros_(layers[-1].weight)
    nn.init.zeros_(net.fc.weight)


def generator(seed: int, name: str) -> torch.Generator:
    """Return the generator for a parameter, seeded by a hash of the seed and the name."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest) >> 1)


def _init_conv(
    weight: Tensor, groups: int, init: Init, rectified: bool, name: str, g: torch.Generator
) -> None:
    """Fill one convolution weight [n_out, n_in / groups, k, k]."""
    if init == "xavier":
        nn.init.xavier_uniform_(weight, generator=g)
        return
    if init in ("delta_orthogonal", "looks_linear"):
        gain = 2**0.5 if rectified and init == "delta_orthogonal" else 1.0
        for of_group in weight.data.chunk(groups):
            _init_orthogonal(of_group, gain, init == "looks_linear", g)
        return
    mode = "fan_in" if init == "he_fan_in" else "fan_out"
    followed_by = "relu" if rectified else "linear"
    nn.init.kaiming_normal_(weight, mode=mode, nonlinearity=followed_by, generator=g)
    # The stem maps 3 colours, so there is no identity to start from.
    is_stem = name in ("conv1.weight", "conv1.0.weight")
    if init == "dirac" and not is_stem:
        nn.init.dirac_(weight[: weight.shape[1] * groups], groups)
    elif isinstance(init, (int, float)):
        weight.data.mul_(init)


def _init_orthogonal(weight: Tensor, gain: float, mirrored: bool, g: torch.Generator) -> None:
    """Fill the weight of one group [n_out, n_in, k, k] with an orthogonal matrix at its centre.

    Args:
        weight: changed in place.
        gain: factor of the matrix.
        mirrored: channels 2i and 2i + 1 of the output, and of the input of all layers but the stem,
            have opposite signs.
        g: source of the matrix.
    """
    n_out, n_in, k, _ = weight.shape
    nn.init.zeros_(weight)
    centre = weight[:, :, k // 2, k // 2]
    if not mirrored:
        # Rows or columns of length 1, whichever are fewer.
        nn.init.orthogonal_(centre, gain=gain, generator=g)
        return
    pairs_in = n_in // 2 if n_in % 2 == 0 else n_in
    matrix = torch.empty(n_out // 2, pairs_in)
    nn.init.orthogonal_(matrix, gain=gain, generator=g)
    signs = torch.tensor([1.0, -1.0])
    columns = matrix if pairs_in == n_in else torch.kron(matrix, signs)
    centre.copy_(torch.stack([columns, -columns], dim=1).flatten(0, 1))


def _zero_last(net: nn.Module) -> None:
    """Zero the last layer of each residual branch."""
    for block in net.modules():
        if not hasattr(block, "residual"):
            continue
        if not block.residual:
            raise ValueError(
                "zero_last needs a shortcut: in a plain net nothing would pass; drop it or set "
                "shortcut"
            )
        layers = [m for m in block.children() if hasattr(m, "weight")]
        nn.init.zeros_(layers[-1].weight)
