"""Networks of the paper: CIFAR nets of depth 6n+2 and ImageNet nets of depth 18 to 152.

See He et al. 2015, section 4.2 (CIFAR) and table 1 (ImageNet). `CifarResNet(56, shortcut="none")`
is plain-56 and `CifarResNet(56)` is ResNet-56. Modules have torchvision's names (`conv1 bn1
layer1.0.conv1 ... downsample.0 fc`), so torchvision's weights load without conversion.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from lightning_resnet.models import blur_pool as blur
from lightning_resnet.models.blocks import (
    BasicBlock,
    Block,
    Bottleneck,
    Norm,
    PreactBlock,
    PreactBottleneck,
    Shortcut,
    make_norm,
)
from lightning_resnet.models.initialization import Init, init_parameters

CIFAR_BLOCKS = {
    "basic": BasicBlock,
    "bottleneck": Bottleneck,
    "preact": PreactBlock,
    "preact_bottleneck": PreactBottleneck,
}
SharedActivation = Literal["first", "stages"]
IMAGENET_DEPTHS = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


class _ResNet(nn.Module):
    """Stem, stages of blocks, mean over positions, and linear head.

    Each stage after the first doubles the width and halves the height and width of the maps.
    """

    def __init__(
        self,
        conv1: nn.Conv2d,
        maxpool: nn.Module,
        block: Callable[..., Block],
        counts: Sequence[int],
        width: int,
        num_classes: int,
        shortcut: Shortcut,
        norm: Norm,
        shared_activation: SharedActivation | None = None,
    ) -> None:
        super().__init__()
        # Pre-activation blocks begin with a norm and a ReLU, so none follow the stem.
        self.preact = block in (PreactBlock, PreactBottleneck)
        self.conv1 = conv1
        self.bn1 = nn.Identity() if self.preact else make_norm(conv1.out_channels, norm)
        self.maxpool = maxpool
        n_in = conv1.out_channels
        for i, count in enumerate(counts):
            stage = nn.Sequential()
            for k in range(count):
                stride = 2 if i > 0 and k == 0 else 1
                options = {}
                if shared_activation == "first" and i == k == 0:
                    options["shares_activation"] = True
                if shared_activation == "stages" and k == 0:
                    options["shares_activation"] = True
                stage.append(block(n_in, width * 2**i, stride, shortcut, norm, **options))
                n_in = width * 2**i * stage[-1].expansion
            self.add_module(f"layer{i + 1}", stage)
        self.stages = len(counts)
        self.bn_last = make_norm(n_in, norm) if self.preact else nn.Identity()
        self.fc = nn.Linear(n_in, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images [B, 3, H, W] to logits [B, num_classes]."""
        x = self.conv1(x)
        if not self.preact:
            x = self.maxpool(F.relu(self.bn1(x), inplace=True))
        for i in range(self.stages):
            x = self.get_submodule(f"layer{i + 1}")(x)
        if self.preact:
            x = F.relu(self.bn_last(x), inplace=True)
        return self.fc(x.mean((2, 3)))


class CifarResNet(_ResNet):
    """CIFAR net of He et al. 2015, sec. 4.2: 3 stages of n blocks, for images of any size.

    The stages have `width`, 2 x `width` and 4 x `width` channels.

    Args:
        depth: layers with weights: 6n+2 (basic, preact; the paper has 20, 32, 44, 56, 110, 1202) or
            9n+2 (bottleneck, preact_bottleneck; He et al. 2016 has 164, 1001).
        shortcut: "none" = plain net; "A" = identity, zero-padded where shapes change (the paper's
            choice for CIFAR); "B" = 1x1 projection where shapes change; "C" = projections
            everywhere.
        width: channels of the first stage.
        num_classes: number of outputs.
        block: basic | bottleneck | preact | preact_bottleneck (pre-activation, He et al. 2016).
        norm: batch | none (then convolutions have a bias, which starts at 0).
        init: he | he_fan_in | xavier | dirac | a gain (times he); see `init_parameters`.
        zero_last: start residual branches at zero.
        shared_activation: preact blocks whose shortcut takes the first activation, relu(bn1(x)), in
            place of x: first (of the net: He et al. 2016, appendix) | stages (first of each stage:
            fb.resnet.torch) | null = only where a preact_bottleneck projects.

    Raises:
        ValueError: no n gives this depth (the message names the nearest depth that some n gives),
            or `shared_activation` is set for blocks without pre-activation.
    """

    def __init__(
        self,
        depth: int,
        shortcut: Shortcut = "A",
        width: int = 16,
        num_classes: int = 10,
        block: Literal["basic", "bottleneck", "preact", "preact_bottleneck"] = "basic",
        norm: Norm = "batch",
        init: Init = "he",
        zero_last: bool = False,
        shared_activation: SharedActivation | None = None,
    ) -> None:
        if shared_activation and not block.startswith("preact"):
            raise ValueError(
                f"shared_activation is about pre-activation blocks; {block} blocks have none: drop "
                "it, or set block preact"
            )
        per_n = 9 if block.endswith("bottleneck") else 6
        n = max(1, round((depth - 2) / per_n))
        if depth != per_n * n + 2:
            raise ValueError(
                f"depth of a CIFAR net with {block} blocks must be {per_n}n+2, got {depth}; try "
                f"{per_n * n + 2}"
            )
        super().__init__(
            conv1=nn.Conv2d(3, width, 3, padding=1, bias=norm == "none"),
            maxpool=nn.Identity(),
            block=CIFAR_BLOCKS[block],
            counts=[n] * 3,
            width=width,
            num_classes=num_classes,
            shortcut=shortcut,
            norm=norm,
            shared_activation=shared_activation,
        )
        init_parameters(self, init, zero_last)


class ImageNetResNet(_ResNet):
    """ImageNet net of He et al. 2015, table 1.

    Nets of depth 18 and 34 consist of basic blocks, nets of depth 50, 101 and 152 of bottlenecks.

    Args:
        depth: 18 | 34 | 50 | 101 | 152.
        shortcut: "none" = plain net; A, B (torchvision's, and the paper's from 50 on) or C; see
            `CifarResNet`.
        num_classes: number of outputs.
        norm: batch | none.
        init: he | he_fan_in | xavier | dirac | a gain (times he).
        zero_last: start residual branches at zero.
        stride_in_1x1: put the stride of a bottleneck in the first 1x1 convolution, as the paper
            does, instead of the 3x3, as torchvision does.
        blur_pool: blur before each strided convolution but the stem; see `blur_pool`.

    Raises:
        ValueError: the depth is another one, or `stride_in_1x1` is set for a net of basic blocks.
    """

    def __init__(
        self,
        depth: int,
        shortcut: Shortcut = "B",
        num_classes: int = 1000,
        norm: Norm = "batch",
        init: Init = "he",
        zero_last: bool = False,
        stride_in_1x1: bool = False,
        blur_pool: bool = False,
    ) -> None:
        if depth not in IMAGENET_DEPTHS:
            nearest = min(IMAGENET_DEPTHS, key=lambda d: abs(d - depth))
            raise ValueError(
                f"depth of an ImageNet net must be one of {[*IMAGENET_DEPTHS]}, got {depth}; try "
                f"{nearest}"
            )
        block, counts = IMAGENET_DEPTHS[depth]
        if stride_in_1x1 and block is not Bottleneck:
            raise ValueError(
                f"stride_in_1x1 is about bottlenecks (depth 50 and up); ResNet-{depth} has none: "
                "drop it"
            )
        if block is Bottleneck:
            block = partial(Bottleneck, stride_in_1x1=stride_in_1x1)
        super().__init__(
            conv1=nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=norm == "none"),
            maxpool=nn.MaxPool2d(3, 2, 1),
            block=block,
            counts=counts,
            width=64,
            num_classes=num_classes,
            shortcut=shortcut,
            norm=norm,
        )
        init_parameters(self, init, zero_last)
        if blur_pool:
            blur.blur_pool(self)
