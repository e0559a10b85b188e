"""The plain net that computes what a residual net computes, exactly (Meng et al. 2021, RMNet).

The input of a block whose order is the original one is the output of a ReLU, so it is not negative,
and a ReLU leaves it as it is. The first layers of the plain block therefore carry a copy of x, in
as many channels as x has, through their ReLUs; the last layer adds it, as the shortcut did. Norms
become part of the convolutions. The paper of He et al. 2015 argues with a net that exists by
construction (sec. 1); this one exists too.
"""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_resnet.errors import UserError
from lightning_resnet.models.blocks import Block, ScaledConv2d, ZeroPad
from lightning_resnet.models.blur_pool import BlurConv2d
from lightning_resnet.models.resnet import CifarResNet, ImageNetResNet

# Arguments of a net that its plain form has no use for.
SPENT = (
    "init",
    "zero_last",
    "branch_scale",
    "shortcut_value",
    "stochastic_depth",
    "stochastic_depth_per",
)


def plain_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of the plain form of a net with these arguments."""
    kept = {name: value for name, value in options.items() if name not in SPENT}
    return kept | {"shortcut": "none", "norm": "none", "carries_input": True}


@torch.no_grad()
def plain_form(net: nn.Module, options: dict[str, Any]) -> nn.Module:
    """Return the plain net without norms that computes the same as a residual net in eval mode.

    Args:
        net: a `CifarResNet` or an `ImageNetResNet`; it is not changed.
        options: the arguments that the net was made with.

    Raises:
        UserError: the net is plain already, or its blocks have no plain form.
    """
    if type(net) not in (CifarResNet, ImageNetResNet):
        raise UserError(
            f"the plain form is of CifarResNet and ImageNetResNet, not of {type(net).__name__}"
        )
    for name, module in net.named_modules():
        if isinstance(module, Block) and (why := _why_not(module)):
            raise UserError(f"block {name} has no plain form: {why}")
    if not isinstance(net.conv1, nn.Conv2d):
        raise UserError("a net with a deep stem has no plain form here: its stem keeps norms")
    plain = type(net)(**plain_options(options))
    plain.conv1.weight.copy_(fold(net.conv1, net.bn1)[0])
    plain.conv1.bias.copy_(fold(net.conv1, net.bn1)[1])
    plain.fc.load_state_dict(net.fc.state_dict())
    for name, module in net.named_modules():
        if isinstance(module, Block):
            _fill(plain.get_submodule(name), module)
    return plain.eval()


def _why_not(block: Block) -> str | None:
    """Return why a block has no plain form, or None."""
    if not block.residual:
        return "it is plain already"
    if block.order != "original":
        return f"in order {block.order} x may be negative, and no ReLU would pass it on"
    if block.gate is not None:
        return "a gate multiplies x by a function of x"
    if block.se is not None:
        return "squeeze-and-excitation multiplies F(x) by a function of F(x)"
    if any(isinstance(module, ScaledConv2d) for module in block.modules()):
        return "its kernels are standardized in each pass"
    if block.fixup:
        return "the offsets of Fixup are not folded"
    if any(isinstance(module, BlurConv2d) for module in block.modules()):
        return "its strided convolutions blur what they take"
    if any(isinstance(m, nn.Conv2d) and m.groups > 1 for m in block.modules()):
        return "grouped convolutions would not stay grouped"
    if any(isinstance(module, nn.AvgPool2d) for module in block.modules()):
        return "its projection takes means of pixels"
    return None


def fold(conv: nn.Conv2d, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the convolution that computes norm(conv(x)) in eval mode."""
    bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias
    if not isinstance(norm, nn.BatchNorm2d):
        return conv.weight, bias
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    weight = conv.weight * factor[:, None, None, None]
    return weight, norm.bias + (bias - norm.running_mean) * factor


def _fill(plain: Block, block: Block) -> None:
    """Give a plain block the parameters with which it computes what a residual block computes."""
    carried = block.conv1.in_channels
    for i in range(1, block.layers + 1):
        conv = block.get_submodule(f"conv{i}")
        weight, bias = fold(conv, block.get_submodule(f"bn{i}"))
        target = plain.get_submodule(f"conv{i}")
        nn.init.zeros_(target.weight)
        nn.init.zeros_(target.bias)
        n_out, n_in = weight.shape[:2]
        if i == block.layers:
            factor = _factor(block)
            added, added_bias = _shortcut(block, weight.shape[-1])
            target.weight[:, :n_in] = factor * weight
            # In blocks of one layer x itself enters, in others its copy behind F's channels.
            target.weight[:, -carried:] += added
            target.bias.copy_(factor * bias + added_bias)
            continue
        target.weight[:n_out, :n_in] = weight
        target.bias[:n_out] = bias
        centre = weight.shape[-1] // 2
        first = 0 if i == 1 else n_in  # where x is found among the channels that enter
        for channel in range(carried):
            target.weight[n_out + channel, first + channel, centre, centre] = 1


def _factor(block: Block) -> Tensor | float:
    """Return the factor of F(x) in eval mode."""
    factor = 1.0 if block.branch_factor is None else block.branch_factor
    if block.scale is not None:
        factor = factor * block.scale.weight
    if block.stochastic_depth is not None:
        factor = factor * block.stochastic_depth.survival
    return factor


def _shortcut(block: Block, kernel: int) -> tuple[Tensor, Tensor]:
    """Return the shortcut as a convolution of x, which has its stride already: weight and bias."""
    n_in = block.conv1.in_channels
    weight = torch.zeros(block.n_out, n_in, kernel, kernel)
    bias = torch.zeros(block.n_out)
    centre = kernel // 2
    if isinstance(block.downsample, nn.Sequential):
        projection, bias = fold(block.downsample[0], block.downsample[-1])
        weight[:, :, centre, centre] = projection[:, :, 0, 0]
    else:
        before = block.downsample.pad[0] if isinstance(block.downsample, ZeroPad) else 0
        for channel in range(n_in):
            weight[before + channel, channel, centre, centre] = 1
    factor = 1.0 if block.shortcut_factor is None else block.shortcut_factor
    return factor * weight, factor * bias
