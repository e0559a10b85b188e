"""Building blocks of the paper, plain and residual: one block with one switch.

A residual block computes `relu(F(x) + shortcut(x))`, the plain block `relu(F(x))` (He et al. 2015,
eq. 1-2). Both have the same parameters under the same names. The names are those of torchvision, so
weights can be compared and loaded one to one.
"""

from collections.abc import Callable, Iterator
from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from lightning_resnet.models.foreign_blocks import foreign_block

Shortcut = Literal["none", "A", "B", "C"]
Norm = Literal["batch", "none"]
Function = Callable[[Tensor], Tensor]


def conv(n_in: int, n_out: int, kernel: int, stride: int, norm: Norm) -> nn.Conv2d:
    """Make a convolution that keeps the size at stride 1; it has a bias only without a norm."""
    return nn.Conv2d(n_in, n_out, kernel, stride, padding=kernel // 2, bias=norm == "none")


def make_norm(channels: int, norm: Norm) -> nn.Module:
    """Make batch normalisation, or the identity where the net has no norm."""
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.Identity()


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


def make_downsample(
    n_in: int, n_out: int, stride: int, shortcut: Shortcut, norm: Norm
) -> nn.Module | None:
    """Make the module on the shortcut; None where x passes unchanged, and in plain nets."""
    same_shape = n_in == n_out and stride == 1
    if shortcut == "none" or (same_shape and shortcut != "C"):
        return None
    if shortcut == "A":
        return ZeroPad(n_in, n_out, stride)
    return nn.Sequential(conv(n_in, n_out, 1, stride, norm), make_norm(n_out, norm))


class Block(nn.Module):
    """Base class of all blocks: the sum of branch and shortcut, and the activation after the sum.

    Args:
        n_in: channels of x.
        width: channels of the 3x3 convolutions; the output has `width * expansion`.
        stride: stride of the block.
        shortcut: none | A | B | C.
        norm: batch | none.
    """

    expansion = 1

    def __init__(self, n_in: int, width: int, stride: int, shortcut: Shortcut, norm: Norm) -> None:
        super().__init__()
        if shortcut not in get_args(Shortcut):
            choices = ", ".join(get_args(Shortcut))
            raise ValueError(
                f"shortcut must be one of {choices}; got {shortcut!r}; a plain net has 'none'"
            )
        self.residual = shortcut != "none"
        self.downsample = make_downsample(n_in, width * self.expansion, stride, shortcut, norm)

    def branch(self, x: Tensor) -> Tensor:
        """Compute F(x) [B, width * expansion, H / stride, W / stride]."""
        raise NotImplementedError

    def shortcut(self, x: Tensor) -> Tensor:
        """Compute the term that is added to F(x): x, or x brought to the shape of F(x)."""
        return x if self.downsample is None else self.downsample(x)

    def forward(self, x: Tensor) -> Tensor:
        """Compute relu(F(x) + shortcut(x)), or relu(F(x)) in a plain net."""
        total = self.branch(x) + self.shortcut(x) if self.residual else self.branch(x)
        return F.relu(total, inplace=True)


class BasicBlock(Block):
    """Block of two 3x3 convolutions (He et al. 2015, fig. 5 left)."""

    def __init__(self, n_in: int, width: int, stride: int, shortcut: Shortcut, norm: Norm) -> None:
        super().__init__(n_in, width, stride, shortcut, norm)
        self.conv1 = conv(n_in, width, 3, stride, norm)
        self.bn1 = make_norm(width, norm)
        self.conv2 = conv(width, width, 3, 1, norm)
        self.bn2 = make_norm(width, norm)

    def branch(self, x: Tensor) -> Tensor:
        """Compute F(x) = bn2(conv2(relu(bn1(conv1(x)))))."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return self.bn2(self.conv2(x))


class Bottleneck(Block):
    """Bottleneck of 1x1, 3x3 and 1x1 convolutions (He et al. 2015, fig. 5 right).

    The default stride is in the 3x3 convolution, as in torchvision ("v1.5": more accurate, 6 % more
    multiply-adds). `stride_in_1x1` puts the stride in the first 1x1 convolution, as in the paper.
    """

    expansion = 4

    def __init__(
        self,
        n_in: int,
        width: int,
        stride: int,
        shortcut: Shortcut,
        norm: Norm,
        stride_in_1x1: bool = False,
    ) -> None:
        super().__init__(n_in, width, stride, shortcut, norm)
        stride_1x1 = stride if stride_in_1x1 else 1
        stride_3x3 = 1 if stride_in_1x1 else stride
        self.conv1 = conv(n_in, width, 1, stride_1x1, norm)
        self.bn1 = make_norm(width, norm)
        self.conv2 = conv(width, width, 3, stride_3x3, norm)
        self.bn2 = make_norm(width, norm)
        self.conv3 = conv(width, width * self.expansion, 1, 1, norm)
        self.bn3 = make_norm(width * self.expansion, norm)

    def branch(self, x: Tensor) -> Tensor:
        """Compute F(x) = bn3(conv3(relu(bn2(conv2(relu(bn1(conv1(x))))))))."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        return self.bn3(self.conv3(x))


class Preact(Block):
    """Base class of pre-activation blocks (He et al. 2016, eq. 1).

    No activation follows the sum, and projections on the shortcut have no norm.

    Args:
        n_in: channels of x.
        width: see `Block`.
        stride: stride of the block.
        shortcut: none | A | B | C.
        norm: batch | none.
        shares_activation: whether the shortcut takes the first activation of the branch,
            relu(bn1(x)), in place of x.
    """

    def __init__(
        self,
        n_in: int,
        width: int,
        stride: int,
        shortcut: Shortcut,
        norm: Norm,
        shares_activation: bool = False,
    ) -> None:
        super().__init__(n_in, width, stride, shortcut, norm)
        self.shares_activation = shares_activation
        if isinstance(self.downsample, nn.Sequential):
            self.downsample = self.downsample[:1]
        self.bn1 = make_norm(n_in, norm)

    def activate(self, x: Tensor) -> Tensor:
        """Compute the first activation of the branch, relu(bn1(x))."""
        return F.relu(self.bn1(x))  # not in place: x may also take the shortcut

    def convolve(self, active: Tensor) -> Tensor:
        """Compute F(x) from its first activation, relu(bn1(x))."""
        raise NotImplementedError

    def branch(self, x: Tensor) -> Tensor:
        """Compute F(x), which begins with relu(bn1(x))."""
        return self.convolve(self.activate(x))

    def shortcut(self, x: Tensor) -> Tensor:
        """Compute the term that is added to F(x), from relu(bn1(x)) where that is shared."""
        return super().shortcut(self.activate(x) if self.shares_activation else x)

    def forward(self, x: Tensor) -> Tensor:
        """Compute F(x) + shortcut(x), or F(x) in a plain net."""
        # Call bn1 only once: in train mode each call updates the running statistics.
        active = self.activate(x)
        if not self.residual:
            return self.convolve(active)
        return self.convolve(active) + super().shortcut(active if self.shares_activation else x)


class PreactBlock(Preact):
    """Block of two 3x3 convolutions, each after a norm and a ReLU (He et al. 2016, fig. 1b).

    Every shortcut acts on x itself, unless the net shares activations (`CifarResNet`).
    """

    def __init__(
        self,
        n_in: int,
        width: int,
        stride: int,
        shortcut: Shortcut,
        norm: Norm,
        shares_activation: bool = False,
    ) -> None:
        super().__init__(n_in, width, stride, shortcut, norm, shares_activation)
        self.conv1 = conv(n_in, width, 3, stride, norm)
        self.bn2 = make_norm(width, norm)
        self.conv2 = conv(width, width, 3, 1, norm)

    def convolve(self, active: Tensor) -> Tensor:
        """Compute F(x) = conv2(relu(bn2(conv1(active))))."""
        return self.conv2(F.relu(self.bn2(self.conv1(active))))


class PreactBottleneck(Preact):
    """Bottleneck of 1x1, 3x3 and 1x1 convolutions, each after a norm and a ReLU.

    The nets of 164 and 1001 layers of He et al. 2016 consist of these blocks. A projection that
    changes the shape takes the first activation of the branch, relu(bn1(x)), in place of x
    (appendix of the paper, and its authors' code). All other shortcuts act on x itself, unless the
    net shares activations (`CifarResNet`): identity, zero padding, and the remaining projections of
    option C. The stride is in the 3x3 convolution, as in `Bottleneck`, so that the two blocks
    differ in their order only; the authors' code has the stride in the first 1x1 convolution.
    """

    expansion = 4

    def __init__(
        self,
        n_in: int,
        width: int,
        stride: int,
        shortcut: Shortcut,
        norm: Norm,
        shares_activation: bool = False,
    ) -> None:
        super().__init__(n_in, width, stride, shortcut, norm, shares_activation)
        self.conv1 = conv(n_in, width, 1, 1, norm)
        self.bn2 = make_norm(width, norm)
        self.conv2 = conv(width, width, 3, stride, norm)
        self.bn3 = make_norm(width, norm)
        self.conv3 = conv(width, width * self.expansion, 1, 1, norm)
        changes_shape = n_in != width * self.expansion or stride > 1
        if changes_shape and isinstance(self.downsample, nn.Sequential):
            self.shares_activation = True

    def convolve(self, active: Tensor) -> Tensor:
        """Compute F(x) = conv3(relu(bn3(conv2(relu(bn2(conv1(active)))))))."""
        x = F.relu(self.bn2(self.conv1(active)))
        return self.conv3(F.relu(self.bn3(self.conv2(x))))


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
    if hasattr(net, "blocks"):
        yield from net.blocks()
        return
    for name, module in net.named_modules():
        if hasattr(module, "branch") and hasattr(module, "shortcut"):
            is_residual = getattr(module, "residual", True)
            yield name, module.branch, module.shortcut if is_residual else None
        elif (foreign := foreign_block(module)) is not None:
            branch, shortcut = foreign
            yield name, branch, shortcut
