"""BlurPool: convolutions that stride see a blurred map, so that shifted pictures alias less (Zhang 2019).

As ffcv-imagenet has it: a 3x3 binomial filter before every strided convolution but the stem. (Zhang blurs after the
convolution; before it costs less.) It has no parameters, so names and shapes of the net's stay.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MIN_CHANNELS = 16  # fewer are colours


class BlurConv2d(nn.Conv2d):
    """A convolution of the blurred input."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, n_in, H, W] -> [B, n_out, H / stride, W / stride]."""
        blur = self.blur.to(x.dtype).expand(x.shape[1], 1, 3, 3)
        return super().forward(F.conv2d(x, blur, padding=1, groups=x.shape[1]))


def blur_pool(net: nn.Module) -> None:
    """Make the strided convolutions of a net blur first, in place."""
    line = torch.tensor([1.0, 2.0, 1.0]) / 4
    for module in net.modules():
        if type(module) is nn.Conv2d and max(module.stride) > 1 and module.in_channels >= MIN_CHANNELS:
            module.__class__ = BlurConv2d
            module.register_buffer("blur", line[:, None] * line, persistent=False)
