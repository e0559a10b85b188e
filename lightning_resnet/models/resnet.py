"""Networks of the paper: CIFAR nets of depth 6n+2 and ImageNet nets of depth 18 to 152.

See He et al. 2015, section 4.2 (CIFAR) and table 1 (ImageNet). `CifarResNet(56, shortcut="none")`
is plain-56 and `CifarResNet(56)` is ResNet-56. Modules have torchvision's names (`conv1 bn1
layer1.0.conv1 ... downsample.0 fc`), so torchvision's weights load without conversion.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

from torch import Tensor, nn

from lightning_resnet.bounds import check_imagenet_depth, cifar_blocks
from lightning_resnet.models import blur_pool as blur
from lightning_resnet.models.blocks import (
    BEGIN_WITH_ACTIVATION,
    KERNELS,
    Block,
    BranchScale,
    Draws,
    Norm,
    Order,
    Shift,
    Shortcut,
    StochasticDepth,
    conv,
    make_norm,
    rectify,
)
from lightning_resnet.models.initialization import Init, init_fixup, init_parameters

CifarBlock = Literal[
    "basic",
    "bottleneck",
    "single",
    "preact",
    "preact_bottleneck",
    "preact_single",
    "bn_after_add",
    "bn_after_add_bottleneck",
    "relu_before_add",
    "relu_before_add_bottleneck",
    "relu_preact",
    "relu_preact_bottleneck",
]
SharedActivation = Literal["first", "stages"]
TAILORED_CORRELATION = 0.9  # Zhang et al. 2022, sec. 4
StochasticDepthPer = Literal["batch", "image"]
IMAGENET_STAGES = {
    14: ("bottleneck", (1, 1, 1, 1)),
    18: ("basic", (2, 2, 2, 2)),
    26: ("bottleneck", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}


def split_block(block: CifarBlock) -> tuple[tuple[int, ...], Order]:
    """Return the kernels and the order that the name of a block stands for."""
    for kind, kernels in KERNELS.items():
        if block == kind:
            return kernels, "original"
        if block.endswith(f"_{kind}"):
            return kernels, block.removesuffix(f"_{kind}")
    return KERNELS["basic"], block


def check_start(
    init: Init,
    zero_last: bool,
    width: int,
    shortcut: Shortcut,
    norm: Norm,
    activation: Literal["tat"] | None,
    order: Order = "original",
    branch_scale: BranchScale | None = None,
) -> None:
    """Refuse a start from which a net could never learn, or that does not exist.

    Raises:
        ValueError: all gradients of a branch would be 0 for good, channels have no pairs, or the
            net does not keep what the initialization is made for.
    """
    if zero_last and order in ("bn_after_add", "relu_before_add"):
        raise ValueError(
            f"zero_last in order {order} puts a ReLU behind zeros, so no gradient passes: drop it"
        )
    if zero_last and branch_scale in ("skip_init", "rezero", "fixup"):
        raise ValueError(
            f"zero_last and branch_scale {branch_scale} both start a branch at 0, and then neither "
            "gets a gradient: drop zero_last"
        )
    if init in ("delta_orthogonal", "looks_linear") and norm == "scaled_weights":
        raise ValueError(
            f"init {init} sets kernels that norm scaled_weights would standardize, so that nothing "
            "stays orthogonal: set norm none, or drop init"
        )
    if init != "looks_linear":
        return
    if shortcut != "none":
        raise ValueError(
            "init looks_linear makes plain nets linear, and a net with shortcuts is not: set "
            "shortcut none, or drop init"
        )
    if activation:
        raise ValueError(
            f"init looks_linear is made for ReLUs, and grows with each layer behind activation "
            f"{activation}: drop one of the two"
        )
    if width % 2:
        raise ValueError(f"init looks_linear pairs channels: set an even width, not {width}")


def tailored_slope(layers: int, shortcut: Shortcut, norm: Norm) -> float:
    """Return the slope of leaky ReLUs that Tailored Activation Transformation finds for a depth.

    Zhang et al. 2022, eq. 8: the map of the correlation of two inputs through all layers takes 0 to
    0.9, where ReLUs would take it to 0.944 in 19 layers and to 0.997 in 109. In few layers ReLUs
    stay below 0.9, and the slope is 0: a ReLU.

    Args:
        layers: convolutions in sequence.
        shortcut: of the net.
        norm: of the net.

    Raises:
        ValueError: the net has shortcuts or norms, for which the map is another.
    """
    if shortcut != "none" or norm != "none":
        raise ValueError(
            "activation tat is solved for plain nets without norms: set shortcut none and norm "
            "none, or drop it"
        )
    low = 0.0
    high = 1.0
    for _ in range(60):  # bisection: the correlation falls as the slope rises
        slope = (low + high) / 2
        correlation = 0.0
        for _ in range(layers):
            correlation = correlation_after(slope, correlation)
        if correlation > TAILORED_CORRELATION:
            low = slope
        else:
            high = slope
    return low


def correlation_after(slope: float, correlation: float) -> float:
    """Return the correlation of two normal inputs after a random layer and a leaky ReLU.

    Zhang et al. 2022, eq. 9, for weights of mean 0.
    """
    angle = (1 - correlation**2) ** 0.5 - correlation * math.acos(correlation)
    return correlation + (1 - slope) ** 2 / (math.pi * (1 + slope**2)) * angle


def check_stochastic_depth(
    survival: float | None, per: StochasticDepthPer | None, shortcut: Shortcut
) -> None:
    """Refuse a stochastic depth that means nothing.

    Raises:
        ValueError: the net is plain, the survival is no probability above 0, or there is none.
    """
    if survival is None:
        if per is not None:
            raise ValueError("stochastic_depth_per needs stochastic_depth, such as 0.5: set both")
        return
    if shortcut == "none":
        raise ValueError(
            "stochastic_depth leaves the shortcut alone in place, and a plain net has none: drop "
            "it, or set shortcut A"
        )
    if not 0 < survival <= 1:
        raise ValueError(
            f"stochastic_depth is the survival of the last block, above 0 and at most 1; got "
            f"{survival}"
        )


def ranges(names: Sequence[str]) -> str:
    """Return the names of blocks by their stages, such as `layer1.0 to layer1.2`."""
    stages: dict[str, list[str]] = {}
    for name in names:
        stages.setdefault(name.partition(".")[0], []).append(name)
    return ", ".join(f"{stage[0]} to {stage[-1]}" for stage in stages.values())


def check_dropped(names: Sequence[str] | None, counts: Sequence[int]) -> set[str]:
    """Return the names of the blocks that a net goes without.

    Args:
        names: such as `layer2.3`.
        counts: blocks of each stage.

    Raises:
        ValueError: there is no such block, or none would be left.
    """
    dropped = set(names or ())
    known = [f"layer{i + 1}.{k}" for i, count in enumerate(counts) for k in range(count)]
    for name in sorted(dropped):
        if name not in known:
            raise ValueError(f"drop_blocks: there is no block {name}; there are {ranges(known)}")
    if len(dropped) == len(known):
        raise ValueError("drop_blocks: no block would be left: drop fewer")
    return dropped


class _ResNet(nn.Module):
    """Stem, stages of blocks, mean over positions, and linear head.

    Each stage after the first doubles the width and halves the height and width of the maps.
    """

    def __init__(
        self,
        conv1: nn.Module,
        maxpool: nn.Module,
        counts: Sequence[int],
        width: int,
        stem_width: int,
        num_classes: int,
        shortcut: Shortcut,
        norm: Norm,
        order: Order = "original",
        shared_activation: SharedActivation | None = None,
        stochastic_depth: float | None = None,
        stochastic_depth_per: StochasticDepthPer | None = None,
        drop_blocks: Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        check_stochastic_depth(stochastic_depth, stochastic_depth_per, shortcut)
        if options.get("carries_input") and shortcut != "none":
            raise ValueError(
                "carries_input makes room for a shortcut in plain blocks, and these have one: drop "
                "it, or set shortcut none"
            )
        self.draws = Draws()
        self.slope = options.get("slope")
        self.preact = order in BEGIN_WITH_ACTIVATION
        self.fixup = options.get("branch_scale") == "fixup"
        self.conv1 = conv1
        # Pre-activation blocks begin with a norm, so none follows the stem.
        self.bn1 = nn.Identity() if order == "preact" else make_norm(stem_width, norm)
        if self.fixup:
            self.bn1 = Shift()
        self.maxpool = maxpool
        n_in = stem_width
        dropped = check_dropped(drop_blocks, counts)
        kept = 0
        for i, count in enumerate(counts):
            stage = nn.Sequential()
            for k in range(count):
                stride = 2 if i > 0 and k == 0 else 1
                shares_first = shared_activation == "first" and i == k == 0
                shares_in_stage = shared_activation == "stages" and k == 0
                drops = None
                if stochastic_depth is not None:
                    place = sum(counts[:i]) + k + 1
                    survival = 1 - place / sum(counts) * (1 - stochastic_depth)
                    per_image = stochastic_depth_per == "image"
                    drops = StochasticDepth(survival, kept, self.draws, per_image)
                block = Block(
                    n_in,
                    width * 2**i,
                    stride,
                    shortcut,
                    norm,
                    order=order,
                    shares_activation=shares_first or shares_in_stage,
                    stochastic_depth=drops,
                    **options,
                )
                name = f"layer{i + 1}.{k}"
                if name not in dropped:
                    stage.append(block)
                    kept += 1
                elif n_in == block.n_out and stride == 1:
                    stage.append(nn.Identity())
                else:
                    raise ValueError(
                        f"drop_blocks: block {name} changes the shape, so the next one would not "
                        "fit: leave it out of drop_blocks"
                    )
                n_in = block.n_out
            self.add_module(f"layer{i + 1}", stage)
        self.stages = len(counts)
        self.bn_last = make_norm(n_in, norm) if order == "preact" else nn.Identity()
        if self.fixup:
            self.bn_last = Shift()
        self.fc = nn.Linear(n_in, num_classes)

    def _start(self, init: Init, zero_last: bool) -> None:
        """Fill the parameters as the arguments of the net say."""
        init_parameters(self, init, zero_last, rectified=self.slope is None)
        if self.fixup:
            init_fixup(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images [B, 3, H, W] to logits [B, num_classes]."""
        x = self.bn1(self.conv1(x))
        # Nets whose blocks begin with an activation have it at their end in place of the stem.
        if not self.preact:
            x = self.maxpool(rectify(x, self.slope, inplace=True))
        for i in range(self.stages):
            x = self.get_submodule(f"layer{i + 1}")(x)
        x = self.bn_last(x)
        if self.preact:
            x = rectify(x, self.slope, inplace=True)
        return self.fc(x.mean((2, 3)))


class CifarResNet(_ResNet):
    """CIFAR net of He et al. 2015, sec. 4.2: 3 stages of n blocks, for images of any size.

    The stages have `width`, 2 x `width` and 4 x `width` channels.

    Args:
        depth: layers with weights: 6n+2 (two layers a block; the paper has 20, 32, 44, 56, 110,
            1202), 9n+2 (bottlenecks; He et al. 2016 has 164, 1001) or 3n+2 (one layer a block).
        shortcut: "none" = plain net; "A" = identity, zero-padded where shapes change (the paper's
            choice for CIFAR); "B" = 1x1 projection where shapes change; "C" = projections
            everywhere. Those of He et al. 2016, table 1, padded where shapes change: "scaled" =
            x times a constant, "dropout" of x, "gate" = (1 - g(x)) x with a gate
            g(x) = sigmoid(conv1x1(x)), "exclusive_gate" = that, and g(x) F(x) in place of F(x)
            (highway networks).
        width: channels of the first stage.
        num_classes: number of outputs.
        block: basic | bottleneck | single (one layer), or an order of norms and activations of
            He et al. 2016, figure 4: preact | relu_preact | bn_after_add | relu_before_add, and
            each with _bottleneck; preact_single.
        norm: batch | scaled_weights (no norm, but kernels that are standardized in each pass, Brock
            et al. 2021) | none. Without batch norm convolutions have a bias, which starts at 0.
        init: he | he_fan_in | xavier | dirac | delta_orthogonal | looks_linear | a gain (times he);
            see `init_parameters`.
        zero_last: start residual branches at zero.
        shared_activation: preact blocks whose shortcut takes the first activation, relu(bn1(x)), in
            place of x: first (of the net: He et al. 2016, appendix) | stages (first of each stage:
            fb.resnet.torch) | null = only where a preact_bottleneck projects.
        shortcut_value: the constant of scaled (default 0.5), the probability of dropout (0.5) or
            the bias at which a gate starts (-6).
        branch_scale: factor of F(x): a constant, or learned, one number a block: skip_init (De &
            Smith 2020) and rezero (Bachlechner et al. 2021) start at 0 and are the same here; fixup
            (Zhang et al. 2019) starts at 1, with learned offsets before and after each layer, its
            own scale of the first weights, and no norm.
        stochastic_depth: probability p_L that the branch of the last block is kept in training;
            block l of L is kept with 1 - l / L (1 - p_L) (Huang et al. 2016, eq. 4; 0.5 there).
        stochastic_depth_per: batch (the paper; default) | image: what one draw decides for. The
            draws are functions of the seed, the epoch and the place in its order.
        activation: tat = a leaky ReLU whose slope is solved for the depth of a plain net without
            norms, so that images do not grow alike with depth (Zhang et al. 2022); null = ReLU.
        carries_input: whether the layers of a plain block, but the last, have as many channels more
            as x has: then there are parameters with which the plain net computes a residual one,
            see `plain_form`.
        drop_blocks: blocks that the net goes without, such as [layer2.3]; the others keep their
            names. For a net that `resnet-cli convert --drop-block` made.

    Raises:
        ValueError: no n gives this depth (the message names the nearest depth that some n gives),
            or an argument means nothing in such a net.
    """

    def __init__(
        self,
        depth: int,
        shortcut: Shortcut = "A",
        width: int = 16,
        num_classes: int = 10,
        block: CifarBlock = "basic",
        norm: Norm = "batch",
        init: Init = "he",
        zero_last: bool = False,
        shared_activation: SharedActivation | None = None,
        shortcut_value: float | None = None,
        branch_scale: BranchScale | None = None,
        stochastic_depth: float | None = None,
        stochastic_depth_per: StochasticDepthPer | None = None,
        activation: Literal["tat"] | None = None,
        carries_input: bool | None = None,
        drop_blocks: list[str] | None = None,
    ) -> None:
        if block not in get_args(CifarBlock):
            raise ValueError(f"block must be one of {', '.join(get_args(CifarBlock))}; got {block}")
        kernels, order = split_block(block)
        if shared_activation and order not in BEGIN_WITH_ACTIVATION:
            raise ValueError(
                f"shared_activation is about pre-activation blocks; {block} blocks have none: drop "
                "it, or set block preact"
            )
        check_start(init, zero_last, width, shortcut, norm, activation, order, branch_scale)
        n = cifar_blocks(depth, block)
        super().__init__(
            conv1=conv(3, width, 3, 1, norm, False if branch_scale == "fixup" else None),
            maxpool=nn.Identity(),
            counts=[n] * 3,
            width=width,
            stem_width=width,
            num_classes=num_classes,
            shortcut=shortcut,
            norm=norm,
            order=order,
            shared_activation=shared_activation,
            kernels=kernels,
            shortcut_value=shortcut_value,
            branch_scale=branch_scale,
            stochastic_depth=stochastic_depth,
            stochastic_depth_per=stochastic_depth_per,
            slope=tailored_slope(depth - 1, shortcut, norm) if activation else None,
            carries_input=bool(carries_input),
            drop_blocks=drop_blocks,
        )
        self._start(init, zero_last)


class ImageNetResNet(_ResNet):
    """ImageNet net of He et al. 2015, table 1.

    Nets of depth 18 and 34 consist of basic blocks, the others of bottlenecks. Relatives, under
    their names in torchvision or timm, with the default shortcut B: resnext50_32x4d (groups 32,
    width_per_group 4), wide_resnet50_2 (width_per_group 128), resnet50d (stem deep, downsample
    average) and seresnet50 (se_ratio 0.0625).

    Args:
        depth: 14 | 18 | 26 | 34 | 50 | 101 | 152; 14 and 26 are timm's (one and two bottlenecks in
            each stage), the others the paper's.
        shortcut: "none" = plain net; A, B (torchvision's, and the paper's from 50 on), C and the
            others of `CifarResNet`.
        num_classes: number of outputs.
        norm: batch | scaled_weights | none; see `CifarResNet`.
        init: see `init_parameters`.
        zero_last: start residual branches at zero.
        stride_in_1x1: put the stride of a bottleneck in the first 1x1 convolution, as the paper
            does, instead of the 3x3, as torchvision does.
        blur_pool: blur before each strided convolution but the stem; see `blur_pool`.
        shortcut_value: see `CifarResNet`.
        branch_scale: see `CifarResNet`.
        stochastic_depth: see `CifarResNet`.
        stochastic_depth_per: see `CifarResNet`.
        activation: see `CifarResNet`.
        carries_input: see `CifarResNet`.
        groups: groups of the 3x3 convolutions of bottlenecks (ResNeXt, Xie et al. 2017; default 1).
        width_per_group: channels of a group in the first stage (default 64); 128 in one group is a
            wide net (Zagoruyko & Komodakis 2016, sec. 3.4).
        stem: deep = three 3x3 convolutions of 32, 32 and 64 channels in place of the 7x7 (He et al.
            2019, ResNet-C).
        downsample: average = projections that change the size take means of 2x2 pixels and have no
            stride (He et al. 2019, ResNet-D).
        se_ratio: squeeze-and-excitation at the end of each branch (Hu et al. 2018): its inner
            channels as a share of the outer ones, 1/16 in the paper.
        drop_blocks: see `CifarResNet`.

    Raises:
        ValueError: the depth is another one, or an argument means nothing in such a net.
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
        shortcut_value: float | None = None,
        branch_scale: BranchScale | None = None,
        stochastic_depth: float | None = None,
        stochastic_depth_per: StochasticDepthPer | None = None,
        activation: Literal["tat"] | None = None,
        carries_input: bool | None = None,
        groups: int | None = None,
        width_per_group: int | None = None,
        stem: Literal["deep"] | None = None,
        downsample: Literal["average"] | None = None,
        se_ratio: float | None = None,
        drop_blocks: list[str] | None = None,
    ) -> None:
        for name, value in (("groups", groups), ("width_per_group", width_per_group)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more; got {value}")
        if se_ratio is not None and not 0 < se_ratio <= 1:
            raise ValueError(f"se_ratio is a share, above 0 and at most 1; got {se_ratio}")
        if blur_pool and norm == "scaled_weights":
            raise ValueError(
                "blur_pool has no blurring convolution with norm scaled_weights: drop one of the "
                "two"
            )
        width = width_per_group or 64
        check_start(init, zero_last, width, shortcut, norm, activation, branch_scale=branch_scale)
        if activation and stem:
            raise ValueError(
                "activation tat is solved for the 7x7 stem: drop stem, or drop activation"
            )
        check_imagenet_depth(depth)
        kind, counts = IMAGENET_STAGES[depth]
        bottleneck_options = {
            "stride_in_1x1": stride_in_1x1,
            "groups": groups,
            "width_per_group": width_per_group,
        }
        for name, value in bottleneck_options.items():
            if value and kind != "bottleneck":
                raise ValueError(
                    f"{name} is about bottlenecks (depth 50 and up, 14 and 26); ResNet-{depth} has "
                    "none: drop it"
                )
        if downsample and shortcut not in ("B", "C"):
            raise ValueError(
                f"downsample {downsample} is about projections, and shortcut {shortcut} has none: "
                "drop it, or set shortcut B"
            )
        bias = False if branch_scale == "fixup" else None
        conv1: nn.Module = conv(3, 64, 7, 2, norm, bias)
        if stem == "deep":
            conv1 = nn.Sequential(
                conv(3, 32, 3, 2, norm, bias),
                make_norm(32, norm),
                nn.ReLU(inplace=True),
                conv(32, 32, 3, 1, norm, bias),
                make_norm(32, norm),
                nn.ReLU(inplace=True),
                conv(32, 64, 3, 1, norm, bias),
            )
        super().__init__(
            conv1=conv1,
            maxpool=nn.MaxPool2d(3, 2, 1),
            counts=counts,
            width=64,
            stem_width=64,
            num_classes=num_classes,
            shortcut=shortcut,
            norm=norm,
            kernels=KERNELS[kind],
            stride_in_1x1=stride_in_1x1,
            shortcut_value=shortcut_value,
            branch_scale=branch_scale,
            stochastic_depth=stochastic_depth,
            stochastic_depth_per=stochastic_depth_per,
            slope=tailored_slope(depth - 1, shortcut, norm) if activation else None,
            carries_input=bool(carries_input),
            drop_blocks=drop_blocks,
            groups=groups or 1,
            width_per_group=width_per_group or 64,
            se_ratio=se_ratio,
            average_shortcut=downsample == "average",
        )
        self._start(init, zero_last)
        if blur_pool:
            blur.blur_pool(self)
