"""A net watched from outside: what goes into and comes out of each block, with nothing in the net changed.

All inspections stand on `blocks(net)` and these: ours, torchvision's, timm's and a user's nets look alike from here.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from lightning_resnet.errors import UserError
from lightning_resnet.models.blocks import Function, blocks

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)
Batch = tuple[Tensor, Tensor]  # normalised images [B, 3, H, W], labels [B]


@dataclass
class Seen:
    """One block in one forward pass.

    Attributes:
        name: such as `layer2.3`.
        module: the block.
        branch: F.
        shortcut: what is added to F(x); None = plain.
        x: input [B, C, H, W].
        y: output [B, C', H', W'].
    """

    name: str
    module: nn.Module
    branch: Function
    shortcut: Function | None
    x: Tensor
    y: Tensor

    def total(self) -> Tensor:
        """F(x) + shortcut(x), or F(x) in a plain block: what the block's last activation receives."""
        return self.branch(self.x) + self.shortcut(self.x) if self.shortcut else self.branch(self.x)

    def gated(self) -> bool:
        """Whether a ReLU follows the sum (He et al. 2015), rather than nothing (He et al. 2016)."""
        with torch.no_grad():
            total = self.total()
            return bool((self.y - total).norm() >= (self.y - total.relu()).norm())  # equal: no sum is below 0

    @property
    def same_shape(self) -> bool:
        """Whether a block more or less leaves the shapes as they are."""
        return self.x.shape == self.y.shape


@contextmanager
def train_mode(net: nn.Module) -> Iterator[nn.Module]:
    """Train mode inside; afterwards modes and running statistics are what they were."""
    modes = {module: module.training for module in net.modules()}
    buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
    net.train()
    try:
        yield net
    finally:
        for module, training in modes.items():
            module.training = training
        with torch.no_grad():
            for name, buffer in net.named_buffers():
                buffer.copy_(buffers[name])


def observe(net: nn.Module, images: Tensor) -> tuple[Tensor, list[Seen]]:
    """Run the net on [B, 3, H, W]; returns its logits [B, classes] and its blocks, in order of depth.

    Raises:
        UserError: the net has no blocks, or a block that is no submodule or was not called.
    """
    found = list(blocks(net))
    if not found:
        raise UserError(f"{type(net).__name__} has no blocks: give it a method blocks() as models/blocks.py describes")
    seen = [Seen(name, _module(net, name), branch, shortcut, *2 * [images]) for name, branch, shortcut in found]
    called: list[Seen] = []
    handles = [handle for block in seen for handle in _hooks(block, called)]
    try:
        logits = net(images)
    finally:
        for handle in handles:
            handle.remove()
    if len(called) != len(seen):
        missing = next(block.name for block in seen if block not in called)
        raise UserError(f"block {missing} was not called as a module: let the net's forward call it")
    return logits, seen


def _hooks(block: Seen, called: list[Seen]) -> list[torch.utils.hooks.RemovableHandle]:
    """Note x and y; copies, because what follows may work in place."""

    def enter(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        block.x = args[0].clone()
        return (block.x, *args[1:])

    def leave(module: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> Tensor:
        block.y = y
        called.append(block)
        return y.clone()

    return [block.module.register_forward_pre_hook(enter), block.module.register_forward_hook(leave)]


def _module(net: nn.Module, name: str) -> nn.Module:
    try:
        return net.get_submodule(name)
    except AttributeError as e:
        raise UserError(f"block {name} of {type(net).__name__}.blocks() is no submodule: name it as it is one") from e


@contextmanager
def watch_responses(net: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Inside, each forward pass appends the std of each 3x3 layer's response, a scalar, under the layer's name."""
    stds: dict[str, list[Tensor]] = defaultdict(list)
    last: list[tuple[str, Tensor]] = []  # the newest response, and the layer it is of

    def after_conv(name: str, response: Tensor) -> None:
        last[:] = [(name, response)]
        stds[name].append(response.detach().float().std())

    def after_norm(x: Tensor, response: Tensor) -> None:
        if last and x is last[0][1]:
            stds[last[0][0]][-1] = response.detach().float().std()

    handles = []
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            handles.append(module.register_forward_hook(lambda m, x, y, name=name: after_conv(name, y)))
        elif isinstance(module, NORMS):
            handles.append(module.register_forward_hook(lambda m, x, y: after_norm(x[0], y)))
    try:
        yield stds
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def error(net: nn.Module, batches: list[Batch]) -> float:
    """Percent of images classified wrongly, in the mode the net is in."""
    wrong = sum(int((net(x).argmax(1) != y).sum()) for x, y in batches)
    return 100 * wrong / sum(len(y) for _, y in batches)
