"""Where training starts: each parameter drawn from its own generator, seeded by (global seed, parameter name).

So twins start equal: the plain and the residual net of one depth share every tensor they share by name, and a deeper
net shares the layers of the shallower one, whatever else is drawn before or after.
"""

import hashlib
from typing import Literal

import torch
from torch import Tensor, nn

Init = Literal["he", "xavier", "dirac"] | float


def init_parameters(net: nn.Module, init: Init = "he", zero_last: bool = False) -> None:
    """Fill the parameters of `net` in place; norms keep weight 1 and bias 0, biases are 0.

    Args:
        net: any net of convolutions, linear layers and norms.
        init: of the convolutions. "he": N(0, 2 / fan_out) (He et al. 2015b, eq. 14). "xavier": Glorot & Bengio 2010,
            eq. 16. "dirac": identity on the channels that have one, he on the others and in the stem. A number: that
            gain times he.
        zero_last: zero the last layer of each residual branch, so that blocks start as identity (Goyal et al. 2017,
            sec. 5.1).

    Raises:
        ValueError: `zero_last` in a net with plain blocks: nothing would pass.
    """
    seed = torch.initial_seed()  # what --seed_everything set
    for name, parameter in net.named_parameters():
        module = net.get_submodule(name.rpartition(".")[0])
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif isinstance(module, nn.Conv2d):
            _init_conv(parameter, init, name, generator(seed, name))
        elif isinstance(module, nn.Linear):
            nn.init.kaiming_uniform_(parameter, a=5**0.5, generator=generator(seed, name))  # torch's default
    if zero_last:
        _zero_last(net)


def generator(seed: int, name: str) -> torch.Generator:
    """A generator of its own for each (seed, name)."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest) >> 1)


def _init_conv(weight: Tensor, init: Init, name: str, g: torch.Generator) -> None:
    """Fill one convolution weight [n_out, n_in, k, k]."""
    if init == "xavier":
        nn.init.xavier_uniform_(weight, generator=g)
        return
    nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu", generator=g)
    if init == "dirac" and name != "conv1.weight":  # the stem maps 3 colours: no identity to start from
        nn.init.dirac_(weight[: weight.shape[1]])
    elif isinstance(init, (int, float)):
        weight.data.mul_(init)


def _zero_last(net: nn.Module) -> None:
    for block in net.modules():
        if hasattr(block, "residual"):
            if not block.residual:
                raise ValueError(
                    "zero_last needs a shortcut: in a plain net nothing would pass; drop it or set shortcut"
                )
            nn.init.zeros_([m for m in block.children() if hasattr(m, "weight")][-1].weight)
