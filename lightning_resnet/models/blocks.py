"""The paper's building blocks, plain and residual: one block, one switch.

A residual block computes `relu(F(x) + shortcut(x))`, its plain twin `relu(F(x))` (He et al. 2015, eq. 1-2). Both own
the same parameters under the same names, which are torchvision's, so weights compare and load one to one.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

Shortcut = Literal["none", "A", "B", "C"]
Norm = Literal["batch", "none"]
Function = Callable[[Tensor], Tensor]


def conv(n_in: int, n_out: int, kernel: int, stride: int, norm: Norm) -> nn.Conv2d:
    """A convolution that keeps the size at stride 1; its bias is the norm's business unless there is no norm."""
    return nn.Conv2d(n_in, n_out, kernel, stride, padding=kernel // 2, bias=norm == "none")


def make_norm(channels: int, norm: Norm) -> nn.Module:
    """Batch normalisation, or nothing."""
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.Identity()


class ZeroPad(nn.Module):
    """Option A: every `stride`-th position, new channels zero, half on each side (He et al. 2015, sec. 3.3)."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.pad = ((n_out - n_in) // 2, n_out - n_in - (n_out - n_in) // 2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, n_in, H, W] -> [B, n_out, ceil(H / stride), ceil(W / stride)]."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *self.pad))


def make_downsample(n_in: int, n_out: int, stride: int, shortcut: Shortcut, norm: Norm) -> nn.Module | None:
    """The module on the shortcut; None where x passes as it is (and in plain nets)."""
    same_shape = n_in == n_out and stride == 1
    if shortcut == "none" or (same_shape and shortcut != "C"):
        return None
    if shortcut == "A":
        return ZeroPad(n_in, n_out, stride)
    return nn.Sequential(conv(n_in, n_out, 1, stride, norm), make_norm(n_out, norm))


class Block(nn.Module):
    """What all blocks share: where x goes around the branch.

    Args:
        n_in: channels of x.
        width: channels of the 3x3 convolutions; the output has `width * expansion`.
        stride: of the block.
        shortcut: none | A | B | C.
        norm: batch | none.
    """

    expansion = 1

    def __init__(self, n_in: int, width: int, stride: int, shortcut: Shortcut, norm: Norm) -> None:
        super().__init__()
        self.residual = shortcut != "none"
        self.downsample = make_downsample(n_in, width * self.expansion, stride, shortcut, norm)

    def branch(self, x: Tensor) -> Tensor:
        """F(x)."""
        raise NotImplementedError

    def shortcut(self, x: Tensor) -> Tensor:
        """What is added to F(x): x itself, or x brought to the shape of F(x)."""
        return x if self.downsample is None else self.downsample(x)

    def forward(self, x: Tensor) -> Tensor:
        """Relu(F(x) + shortcut(x)), or relu(F(x)) in a plain net."""
        return F.relu(self.branch(x) + self.shortcut(x) if self.residual else self.branch(x), inplace=True)


class BasicBlock(Block):
    """Two 3x3 convolutions (He et al. 2015, fig. 5 left)."""

    def __init__(self, n_in: int, width: int, stride: int, shortcut: Shortcut, norm: Norm) -> None:
        super().__init__(n_in, width, stride, shortcut, norm)
        self.conv1 = conv(n_in, width, 3, stride, norm)
        self.bn1 = make_norm(width, norm)
        self.conv2 = conv(width, width, 3, 1, norm)
        self.bn2 = make_norm(width, norm)

    def branch(self, x: Tensor) -> Tensor:
        """F(x) = bn2(conv2(relu(bn1(conv1(x)))))."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return self.bn2(self.conv2(x))


class Bottleneck(Block):
    """1x1, 3x3, 1x1 convolutions (fig. 5 right).

    The paper strides in the first 1x1; torchvision, and we by default, in the 3x3 ("v1.5": more accurate, 6 % more
    multiply-adds).
    """

    expansion = 4

    def __init__(
        self, n_in: int, width: int, stride: int, shortcut: Shortcut, norm: Norm, stride_in_1x1: bool = False
    ) -> None:
        super().__init__(n_in, width, stride, shortcut, norm)
        s1, s3 = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = conv(n_in, width, 1, s1, norm)
        self.bn1 = make_norm(width, norm)
        self.conv2 = conv(width, width, 3, s3, norm)
        self.bn2 = make_norm(width, norm)
        self.conv3 = conv(width, width * self.expansion, 1, 1, norm)
        self.bn3 = make_norm(width * self.expansion, norm)

    def branch(self, x: Tensor) -> Tensor:
        """F(x) = bn3(conv3(relu(bn2(conv2(relu(bn1(conv1(x))))))))."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        return self.bn3(self.conv3(x))


class Preact(Block):
    """What pre-activation blocks share: nothing gates the sum, projections carry no norm (He et al. 2016, eq. 1)."""

    def __init__(self, n_in: int, width: int, stride: int, shortcut: Shortcut, norm: Norm) -> None:
        super().__init__(n_in, width, stride, shortcut, norm)
        if isinstance(self.downsample, nn.Sequential):
            self.downsample = self.downsample[:1]

    def forward(self, x: Tensor) -> Tensor:
        """F(x) + shortcut(x), or F(x) in a plain net."""
        return self.branch(x) + self.shortcut(x) if self.residual else self.branch(x)


class PreactBlock(Preact):
    """Two 3x3 convolutions, each after its norm and ReLU (He et al. 2016, fig. 1b); every shortcut acts on x itself."""

    def __init__(self, n_in: int, width: int, stride: int, shortcut: Shortcut, norm: Norm) -> None:
        super().__init__(n_in, width, stride, shortcut, norm)
        self.bn1 = make_norm(n_in, norm)
        self.conv1 = conv(n_in, width, 3, stride, norm)
        self.bn2 = make_norm(width, norm)
        self.conv2 = conv(width, width, 3, 1, norm)

    def branch(self, x: Tensor) -> Tensor:
        """F(x) = conv2(relu(bn2(conv1(relu(bn1(x))))))."""
        x = self.conv1(F.relu(self.bn1(x)))  # not in place: x also takes the shortcut
        return self.conv2(F.relu(self.bn2(x)))


class PreactBottleneck(Preact):
    """1x1, 3x3, 1x1 convolutions, each after its norm and ReLU: He et al. 2016's blocks of 164 and 1001 layers.

    A projection that changes the shape takes the branch's first activation, relu(bn1(x)), in place of x (that paper's
    appendix and its authors' code). All else acts on x itself: identity, zero padding, option C's other projections.
    Strides in the 3x3 as `Bottleneck` does, so that the two differ in their order alone; the authors' code strides in
    the first 1x1.
    """

    expansion = 4

    def __init__(self, n_in: int, width: int, stride: int, shortcut: Shortcut, norm: Norm) -> None:
        super().__init__(n_in, width, stride, shortcut, norm)
        self.bn1 = make_norm(n_in, norm)
        self.conv1 = conv(n_in, width, 1, 1, norm)
        self.bn2 = make_norm(width, norm)
        self.conv2 = conv(width, width, 3, stride, norm)
        self.bn3 = make_norm(width, norm)
        self.conv3 = conv(width, width * self.expansion, 1, 1, norm)
        changes = n_in != width * self.expansion or stride > 1
        self.shares = changes and isinstance(self.downsample, nn.Sequential)

    def branch(self, x: Tensor) -> Tensor:
        """F(x) = conv3(relu(bn3(conv2(relu(bn2(conv1(relu(bn1(x)))))))))."""
        return self._convolve(F.relu(self.bn1(x)))

    def shortcut(self, x: Tensor) -> Tensor:
        """See `Block`; downsample(relu(bn1(x))) where the activation is shared."""
        return super().shortcut(F.relu(self.bn1(x)) if self.shares else x)

    def forward(self, x: Tensor) -> Tensor:
        """F(x) + shortcut(x), or F(x) in a plain net."""
        if not self.shares:
            return super().forward(x)
        active = F.relu(self.bn1(x))  # once: a norm in train mode counts what it sees
        return self._convolve(active) + self.downsample(active)

    def _convolve(self, active: Tensor) -> Tensor:
        x = F.relu(self.bn2(self.conv1(active)))
        return self.conv3(F.relu(self.bn3(self.conv2(x))))


def blocks(net: nn.Module) -> Iterator[tuple[str, Function, Function | None]]:
    """Yield (name such as `layer2.3`, branch, shortcut) of each block in order of depth; shortcut None = plain.

    Works on our nets, torchvision's and timm's ResNets, and on any net that has a method `blocks()` yielding the same
    or blocks with methods `branch(x)` and `shortcut(x)` (and `residual = False` on the plain ones). Branch and shortcut
    are functions [B, C, H, W] -> [B, C', H', W'] that share the net's parameters; the activation after the sum is in
    neither.
    """
    if hasattr(net, "blocks"):
        yield from net.blocks()
        return
    for name, module in net.named_modules():
        if hasattr(module, "branch") and hasattr(module, "shortcut"):
            yield name, module.branch, module.shortcut if getattr(module, "residual", True) else None
        elif hasattr(module, "downsample") and hasattr(module, "bn2"):  # torchvision's and timm's blocks
            yield name, partial(_foreign_branch, module), module.downsample if module.downsample else nn.Identity()


def _foreign_branch(block: nn.Module, x: Tensor) -> Tensor:
    """Everything a torchvision or timm block does before the sum."""
    for i in (1, 2, 3):
        if not hasattr(block, f"conv{i}"):
            break
        if i > 1:
            x = block.relu(x) if hasattr(block, "relu") else _timm_between(block, i - 1, x)
        x = getattr(block, f"bn{i}")(getattr(block, f"conv{i}")(x))
    for name in ("se", "drop_path"):  # timm's, None or absent in plain ResNets
        x = (getattr(block, name, None) or nn.Identity())(x)
    return x


def _timm_between(block: nn.Module, i: int, x: Tensor) -> Tensor:
    """What timm puts between convolution i and the next: dropblock, activation, anti-aliasing after the strided one."""
    strided = 1 if not hasattr(block, "conv3") else 2
    x = getattr(block, f"act{i}")(block.drop_block(x) if i == strided else x)
    return block.aa(x) if i == strided and block.aa is not None else x
