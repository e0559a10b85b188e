"""BlurPool: strided convolutions blur their input, so shifted images alias less (Zhang 2019).

As in ffcv-imagenet, a 3x3 binomial filter precedes every strided convolution but the stem. (Zhang
blurs after the convolution; blurring before the convolution costs less.) The filter has no
parameters, so the names and shapes of the net's parameters stay.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MIN_CHANNELS = 16  # a convolution of fewer channels is the stem, whose input are colours


class BlurConv2d(nn.Conv2d):
    """Convolution of the blurred input."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, n_in, H, W] to [B, n_out, H / stride, W / stride]."""
        blur = self.blur.to(x.dtype).expand(x.shape[1], 1, 3, 3)
        return super().forward(F.conv2d(x, blur, padding=1, groups=x.shape[1]))


def blur_pool(net: nn.Module) -> None:
    """Change the strided convolutions of a net, in place, so that each blurs its input first."""
    line = torch.tensor([1.0, 2.0, 1.0]) / 4
    for module in net.modules():
        is_convolution = type(module) is nn.Conv2d
        if is_convolution and max(module.stride) > 1 and module.in_channels >= MIN_CHANNELS:
            module.__class__ = BlurConv2d
            module.register_buffer("blur", line[:, None] * line, persistent=False)
