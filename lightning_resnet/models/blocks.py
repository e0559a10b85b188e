"""Building blocks of the paper, plain and residual: one block with one switch.

A residual block computes `relu(F(x) + shortcut(x))`, the plain block `relu(F(x))` (He et al. 2015,
eq. 1-2). Both have the same parameters under the same names. The names are those of torchvision, so
weights can be compared and loaded one to one.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_resnet.bounds import SHORTCUT_VALUES
from lightning_resnet.models.foreign_blocks import foreign_block

Shortcut = Literal["none", "A", "B", "C", "scaled", "dropout", "gate", "exclusive_gate"]
Norm = Literal["batch", "scaled_weights", "none"]
Order = Literal["original", "bn_after_add", "relu_before_add", "relu_preact", "preact"]
BranchScale = float | Literal["skip_init", "rezero", "fixup"]
Function = Callable[[Tensor], Tensor]

# Blocks whose sum is not followed by an activation, because the next block begins with one.
BEGIN_WITH_ACTIVATION = ("relu_preact", "preact")
KERNELS = {"basic": (3, 3), "bottleneck": (1, 3, 1), "single": (3,)}


class ScaledConv2d(nn.Conv2d):
    """Convolution whose kernels are standardized in each pass (Brock et al. 2021, eq. 1).

    Each output channel has weights of mean 0 and variance 1 / fan_in, times a learned gain, which
    starts at 1, and the constant that keeps the variance behind a ReLU.
    """

    GAIN_OF_RELU = (2 / (1 - 1 / math.pi)) ** 0.5

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(torch.ones(self.out_channels))

    def standardized(self) -> Tensor:
        """Return the kernels that are applied [n_out, n_in / groups, k, k]."""
        fan_in = self.weight[0].numel()
        variance, mean = torch.var_mean(self.weight, (1, 2, 3), correction=0, keepdim=True)
        scale = self.GAIN_OF_RELU * torch.rsqrt((fan_in * variance).clamp(min=1e-4))
        return (self.weight - mean) * scale * self.gain[:, None, None, None]

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, n_in, H, W] to [B, n_out, H / stride, W / stride]."""
        return self._conv_forward(x, self.standardized(), self.bias)


def conv(
    n_in: int,
    n_out: int,
    kernel: int,
    stride: int,
    norm: Norm,
    bias: bool | None = None,
    groups: int = 1,
) -> nn.Conv2d:
    """Make a convolution that keeps the size at stride 1.

    By default it has a bias where no norm follows.
    """
    kind = ScaledConv2d if norm == "scaled_weights" else nn.Conv2d
    has_bias = norm != "batch" if bias is None else bias
    return kind(n_in, n_out, kernel, stride, kernel // 2, groups=groups, bias=has_bias)


def make_norm(channels: int, norm: Norm) -> nn.Module:
    """Make batch normalisation, or the identity where the net has no norm."""
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.Identity()


def rectify(x: Tensor, slope: float | None, inplace: bool = False) -> Tensor:
    """Return the activation of x: a ReLU, or a leaky one that keeps the second moment.

    Args:
        x: of any shape.
        slope: slope of the leaky ReLU below 0; its values are scaled by sqrt(2 / (1 + slope^2)),
            so that E[y^2] = E[x^2] for x of mean 0 and normal distribution (Zhang et al. 2022,
            sec. 4). None: a ReLU.
        inplace: whether a ReLU may change x.
    """
    if slope is None:
        return F.relu(x, inplace=inplace)
    return (2 / (1 + slope**2)) ** 0.5 * F.leaky_relu(x, slope)


class ZeroPad(nn.Module):
    """Shortcut of option A: identity with zero padding (He et al. 2015, sec. 3.3).

    The shortcut takes every `stride`-th position. The new channels are zero, half of them before
    and half after the old ones.
    """

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        before = (n_out - n_in) // 2
        after = n_out - n_in - before
        self.pad = (before, after)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, n_in, H, W] to [B, n_out, ceil(H / stride), ceil(W / stride)]."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *self.pad))


class Gate(nn.Conv2d):
    """Gate of a shortcut, a function of x for each channel and position: sigmoid(conv1x1(x)).

    Args:
        channels: channels of x.
        initial_bias: bias b_g before training; the lower, the more passes (He et al. 2016,
            sec. 3.1, and Srivastava et al. 2015).
    """

    def __init__(self, channels: int, initial_bias: float) -> None:
        super().__init__(channels, channels, 1)
        self.initial_bias = initial_bias

    def forward(self, x: Tensor) -> Tensor:
        """Compute the gate g(x), between 0 and 1, for x [B, channels, H, W]."""
        return torch.sigmoid(super().forward(x))


class Scale(nn.Module):
    """A learned factor, one number for all channels and positions.

    Args:
        start: the factor before training.
    """

    def __init__(self, start: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(float(start)))

    def forward(self, x: Tensor) -> Tensor:
        """Compute weight * x for x of any shape."""
        return self.weight * x


class Shift(nn.Module):
    """A learned offset, one number for all channels and positions, which starts at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Compute x + bias for x of any shape."""
        return x + self.bias


class Draws:
    """Choice of the residual branches that the next pass in training keeps.

    The code that trains the net sets it.

    Attributes:
        kept: 1 for a branch that is kept, 0 for one that is dropped, [blocks, 1] for all images of
            a batch or [blocks, B] for each; None: each block draws from torch's generator.
    """

    def __init__(self) -> None:
        self.kept: Tensor | None = None


class StochasticDepth(nn.Module):
    """Layer that drops a residual branch at random, in training (Huang et al. 2016, eq. 2 to 5).

    In training F(x) is multiplied by 1 or 0, in evaluation by the probability of 1, as in the
    paper. (torchvision and timm divide by it in training, and change nothing in evaluation.) A
    dropped branch is computed all the same, so that its norms see every batch and no step differs
    from the next: dropping saves no time here.

    Args:
        survival: probability that the branch is kept, above 0 and at most 1.
        number: number of the block in the net, from 0.
        draws: shared by all blocks of a net.
        per_image: whether torch's generator decides for each image, not for the batch; of no effect
            where `draws` is set.
    """

    def __init__(self, survival: float, number: int, draws: Draws, per_image: bool) -> None:
        super().__init__()
        self.survival = survival
        self.number = number
        self.draws = draws
        self.per_image = per_image

    def extra_repr(self) -> str:
        """Tell the survival probability, which no tensor holds."""
        return f"survival={self.survival:g}"

    def forward(self, x: Tensor) -> Tensor:
        """Return x [B, C, H, W] times 1, 0 or the survival probability."""
        if not self.training:
            return self.survival * x
        if self.draws.kept is not None:
            kept = self.draws.kept[self.number].to(x.dtype)
        else:
            n = len(x) if self.per_image else 1
            kept = torch.empty(n, dtype=x.dtype, device=x.device).bernoulli_(self.survival)
        return kept.view(-1, 1, 1, 1) * x


class SqueezeExcite(nn.Module):
    """Layer that scales channels by a function of all channels' means (Hu et al. 2018, sec. 3).

    Args:
        channels: channels of x.
        reduced: channels between the two 1x1 convolutions.
    """

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, reduced, 1)
        self.fc2 = nn.Conv2d(reduced, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute x * sigmoid(fc2(relu(fc1(mean over positions)))) for x [B, channels, H, W]."""
        means = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(means), inplace=True)))


def make_downsample(
    n_in: int,
    n_out: int,
    stride: int,
    shortcut: Shortcut,
    norm: Norm,
    has_norm: bool,
    bias: bool | None,
    average: bool,
) -> nn.Module | None:
    """Make the module on the shortcut; None where x passes unchanged, and in plain nets."""
    same_shape = n_in == n_out and stride == 1
    if shortcut == "none" or (same_shape and shortcut != "C"):
        return None
    if shortcut not in ("B", "C"):
        return ZeroPad(n_in, n_out, stride)
    layers: list[nn.Module] = []
    if average and stride == 2:
        layers.append(nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False))
    elif average:
        layers.append(nn.Identity())  # keeps timm's names of the next two
    layers.append(conv(n_in, n_out, 1, 1 if average else stride, norm, bias))
    if has_norm:
        layers.append(make_norm(n_out, norm))
    return nn.Sequential(*layers)


def value_of(shortcut: Shortcut, given: float | None) -> float | None:
    """Return the number that a kind of shortcut takes; None where it takes none.

    Raises:
        ValueError: the number belongs to another kind of shortcut, or is no probability.
    """
    if shortcut not in SHORTCUT_VALUES:
        if given is not None:
            kinds = ", ".join(SHORTCUT_VALUES)
            raise ValueError(
                f"shortcut_value is about the shortcuts {kinds}; {shortcut} takes none: drop it"
            )
        return None
    value = SHORTCUT_VALUES[shortcut] if given is None else given
    if shortcut == "dropout" and not 0 <= value < 1:
        raise ValueError(
            f"shortcut_value of dropout is a probability, at least 0 and below 1; got {value}"
        )
    return value


def check_branch_scale(
    branch_scale: BranchScale | None,
    shortcut: Shortcut,
    norm: Norm,
    kernels: tuple[int, ...],
    order: Order,
) -> None:
    """Refuse a scale of the branch that means nothing in such a block.

    Raises:
        ValueError: the block is plain, or is not one that Fixup was made for.
    """
    if branch_scale is None:
        return
    if shortcut == "none":
        raise ValueError(
            "branch_scale scales F(x) against the shortcut, and a plain net has none: drop it, or "
            "set shortcut A"
        )
    if branch_scale != "fixup":
        return
    if norm != "none":
        raise ValueError("branch_scale fixup replaces the norms: set norm none")
    if order != "original" or len(kernels) == 1:
        raise ValueError(
            "branch_scale fixup is made for basic blocks and bottlenecks: set block basic or "
            "bottleneck"
        )


def squeezed(channels: int, ratio: float) -> int:
    """Return the channels inside squeeze-and-excitation: a multiple of 8, as in timm."""
    return max(8, int(channels * ratio + 4) // 8 * 8)


class Block(nn.Module):
    """A plain or residual block: a branch F of convolutions, the shortcut and their sum.

    The order of norms and activations is one of the five of He et al. 2016, figure 4:

    | order           | F(x)                                   | after the sum  |
    |:----------------|:---------------------------------------|:---------------|
    | original        | bn2(conv2(relu(bn1(conv1(x)))))        | relu           |
    | bn_after_add    | conv2(relu(bn1(conv1(x))))             | bn2, then relu |
    | relu_before_add | relu(bn2(conv2(relu(bn1(conv1(x))))))  | nothing        |
    | relu_preact     | bn2(conv2(relu(bn1(conv1(relu(x))))))  | nothing        |
    | preact          | conv2(relu(bn2(conv1(relu(bn1(x))))))  | nothing        |

    Args:
        n_in: channels of x.
        width: channels of the 3x3 convolutions. The output has as many, but four times as many in a
            bottleneck.
        stride: stride of the block.
        shortcut: none | A | B | C | scaled | dropout | gate | exclusive_gate; see `CifarResNet`.
        norm: batch | scaled_weights | none; see `CifarResNet`.
        kernels: sizes of the convolutions: (3, 3) is the basic block (He et al. 2015, fig. 5 left),
            (1, 3, 1) the bottleneck (fig. 5 right), (3,) a block of one layer.
        order: see above.
        stride_in_1x1: put the stride of a bottleneck in its first convolution, as in the paper. By
            default it is in the 3x3, as in torchvision ("v1.5": more accurate, 6 % more
            multiply-adds).
        shares_activation: the shortcut takes the first activation of the branch in place of x, in
            the orders that begin with one.
        shortcut_value: see `CifarResNet`.
        branch_scale: see `CifarResNet`.
        groups: groups of the 3x3 convolution of a bottleneck (Xie et al. 2017).
        width_per_group: channels of a group where `width` is 64.
        se_ratio: channels between the two layers of squeeze-and-excitation, as a share of those of
            F(x); None = no such layers.
        stochastic_depth: module that drops F(x) at times; None = F(x) always counts.
        slope: of a leaky ReLU in place of the ReLU; see `rectify`.
        carries_input: whether the layers but the last have as many channels more as x has.
        average_shortcut: where shapes change, the projection takes means of 2x2 pixels and has no
            stride (He et al. 2019, ResNet-D).

    Raises:
        ValueError: there is no such shortcut, or two arguments do not go together.
    """

    def __init__(
        self,
        n_in: int,
        width: int,
        stride: int,
        shortcut: Shortcut,
        norm: Norm,
        kernels: tuple[int, ...] = KERNELS["basic"],
        order: Order = "original",
        stride_in_1x1: bool = False,
        shares_activation: bool = False,
        shortcut_value: float | None = None,
        branch_scale: BranchScale | None = None,
        groups: int = 1,
        width_per_group: int = 64,
        se_ratio: float | None = None,
        stochastic_depth: StochasticDepth | None = None,
        slope: float | None = None,
        carries_input: bool = False,
        average_shortcut: bool = False,
    ) -> None:
        super().__init__()
        if shortcut not in get_args(Shortcut):
            choices = ", ".join(get_args(Shortcut))
            raise ValueError(
                f"shortcut must be one of {choices}; got {shortcut!r}; a plain net has 'none'"
            )
        bottleneck = kernels == KERNELS["bottleneck"]
        n_out = 4 * width if bottleneck else width
        self.n_out = n_out
        fixup = branch_scale == "fixup"
        bias = False if fixup else None
        check_branch_scale(branch_scale, shortcut, norm, kernels, order)
        self.order = order
        self.slope = slope
        self.layers = len(kernels)
        self.fixup = fixup
        self.residual = shortcut != "none"

        # Pre-activation blocks have no norm on the shortcut.
        has_norm = order != "preact" and not fixup
        self.downsample = make_downsample(
            n_in, n_out, stride, shortcut, norm, has_norm, bias, average_shortcut
        )
        changes_shape = n_in != n_out or stride > 1
        projects = isinstance(self.downsample, nn.Sequential)
        # The bottlenecks of He et al. 2016 project relu(bn1(x)) where the shape changes (appendix
        # of the paper, and its authors' code).
        projects_activation = order == "preact" and bottleneck and changes_shape and projects
        self.shares_activation = shares_activation or projects_activation

        value = value_of(shortcut, shortcut_value)
        self.shortcut_factor = value if shortcut == "scaled" else None
        self.dropout = nn.Dropout(value) if shortcut == "dropout" else None
        self.gate = Gate(n_out, value) if shortcut in ("gate", "exclusive_gate") else None
        self.exclusive = shortcut == "exclusive_gate"
        self.scale = Scale(0.0) if branch_scale in ("skip_init", "rezero") else None
        self.stochastic_depth = stochastic_depth
        self.branch_factor = branch_scale if isinstance(branch_scale, (int, float)) else None

        inner = int(width * width_per_group / 64) * groups if bottleneck else width
        if carries_input:
            inner += n_in
        strided = 1 if bottleneck and not stride_in_1x1 else 0
        channels = [n_in, *[inner] * (self.layers - 1), n_out]
        for i, kernel in enumerate(kernels):
            name = i + 1
            grouped = groups if bottleneck and kernel == 3 else 1
            layer_stride = stride if i == strided else 1
            if fixup:
                self.add_module(f"shift{name}", Shift())
            if order == "preact":
                self.add_module(f"bn{name}", make_norm(channels[i], norm))
            layer = conv(channels[i], channels[i + 1], kernel, layer_stride, norm, bias, grouped)
            self.add_module(f"conv{name}", layer)
            if order != "preact":
                after = make_norm(channels[i + 1], norm)
                if fixup:
                    last = name == self.layers
                    after = nn.Sequential(Scale(1.0), Shift()) if last else Shift()
                self.add_module(f"bn{name}", after)
        self.se = None if se_ratio is None else SqueezeExcite(n_out, squeezed(n_out, se_ratio))

    def extra_repr(self) -> str:
        """Tell what the block computes as far as neither its layers nor its tensors do."""
        names = ("order", "residual", "shares_activation", "exclusive")
        names += ("shortcut_factor", "branch_factor", "slope")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)

    def activate(self, x: Tensor) -> Tensor:
        """Compute what the branch begins with: an activation of x in two of the orders, else x."""
        if self.order == "preact":
            x = self.bn1(x)
        # not in place: x may also take the shortcut
        return rectify(x, self.slope) if self.order in BEGIN_WITH_ACTIVATION else x

    def transform(self, active: Tensor) -> Tensor:
        """Compute F(x), without a gate, from `activate(x)`."""
        x = active
        for i in range(1, self.layers + 1):
            if self.fixup:
                x = getattr(self, f"shift{i}")(x)
            if self.order == "preact" and i > 1:
                x = rectify(getattr(self, f"bn{i}")(x), self.slope)
            x = getattr(self, f"conv{i}")(x)
            is_last = i == self.layers
            norm_comes_later = self.order == "bn_after_add" and is_last
            if self.order == "preact" or norm_comes_later:
                continue
            x = getattr(self, f"bn{i}")(x)
            if not is_last or self.order == "relu_before_add":
                x = rectify(x, self.slope, inplace=True)
        if self.se is not None:
            x = self.se(x)
        if self.scale is not None:
            x = self.scale(x)
        if self.branch_factor is not None:
            x = self.branch_factor * x
        return x if self.stochastic_depth is None else self.stochastic_depth(x)

    def carry(self, x: Tensor) -> Tensor:
        """Compute the shortcut of x, brought to the shape of F(x), without a gate."""
        if self.fixup and isinstance(self.downsample, nn.Sequential):
            x = self.shift1(x)
        if self.downsample is not None:
            x = self.downsample(x)
        if self.dropout is not None:
            x = self.dropout(x)
        return x if self.shortcut_factor is None else self.shortcut_factor * x

    def branch(self, x: Tensor) -> Tensor:
        """Compute the branch's term of the sum: F(x), or g(x) F(x) with an exclusive gate."""
        active = self.activate(x)
        residue = self.transform(active)
        if not self.exclusive:
            return residue
        return self.gate(self.carry(active if self.shares_activation else x)) * residue

    def shortcut(self, x: Tensor) -> Tensor:
        """Compute the shortcut's term of the sum, [B, C, H / stride, W / stride]."""
        carried = self.carry(self.activate(x) if self.shares_activation else x)
        return carried if self.gate is None else (1 - self.gate(carried)) * carried

    def forward(self, x: Tensor) -> Tensor:
        """Compute the sum of branch and shortcut and what follows it; the branch in a plain net.

        Each norm is called once: in train mode each call updates its running statistics.
        """
        active = self.activate(x)
        total = self.transform(active)
        if self.residual:
            carried = self.carry(active if self.shares_activation else x)
            if self.gate is not None:
                gate = self.gate(carried)
                carried = (1 - gate) * carried
                total = gate * total if self.exclusive else total
            total = total + carried
        if self.order == "bn_after_add":
            total = getattr(self, f"bn{self.layers}")(total)
        if self.order in ("original", "bn_after_add"):
            total = rectify(total, self.slope, inplace=True)
        return total


def learned_scales(net: nn.Module) -> dict[str, Scale]:
    """Return the learned factors of branches, by the name of their block, in order of depth."""
    found = {}
    for name, module in net.named_modules():
        if isinstance(module, Block):
            scales = [part for part in module.modules() if isinstance(part, Scale)]
            if scales:
                found[name] = scales[0]
    return found


def block_modules(net: nn.Module) -> list[nn.Module]:
    """Return the modules of the blocks of a net, as `blocks` finds them, in order of depth."""
    return [net.get_submodule(name) for name, _, _ in blocks(net)]


def blocks(net: nn.Module) -> Iterator[tuple[str, Function, Function | None]]:
    """Yield the name, branch and shortcut of each block in order of depth.

    The function works on the nets of this package, on the ResNets of torchvision and timm, and on
    any net that has a method `blocks()` yielding the same, or blocks with the methods `branch(x)`
    and `shortcut(x)` (and `residual = False` on the plain ones).

    Yields:
        The name, such as `layer2.3`, and two functions [B, C, H, W] -> [B, C', H', W'] that share
        the net's parameters. Neither contains the activation after the sum. The shortcut is None
        in a plain block.
    """
    own = getattr(net, "blocks", None)
    # `blocks` is also what many nets call the module that holds theirs
    if callable(own) and not isinstance(own, nn.Module):
        yield from own()
        return
    for name, module in net.named_modules():
        if hasattr(module, "branch") and hasattr(module, "shortcut"):
            is_residual = getattr(module, "residual", True)
            yield name, module.branch, module.shortcut if is_residual else None
        elif (foreign := foreign_block(module)) is not None:
            branch, shortcut = foreign
            yield name, branch, shortcut
