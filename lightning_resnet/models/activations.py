"""Record what enters and leaves each block of a net, without changing the net.

All inspections use `blocks(net)` and this file, so they treat the nets of this package, of
torchvision, of timm and of users in the same way.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from lightning_resnet.errors import UserError
from lightning_resnet.models.blocks import Function, blocks

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)
# layers that draw at random, besides torch's: ours, torchvision's, timm's and copies of these
RANDOM = ("StochasticDepth", "DropPath", "DropBlock2d", "DropBlock3d")
Batch = tuple[Tensor, Tensor]  # normalised images [B, 3, H, W], labels [B]


@dataclass
class BlockActivations:
    """Input and output of one block in one forward pass.

    Attributes:
        name: name of the module, such as `layer2.3`.
        module: the block.
        branch: the function F.
        shortcut: the function that is added to F(x); None in a plain block.
        x: input [B, C, H, W].
        y: output [B, C', H', W'].
    """

    name: str
    module: nn.Module
    branch: Function
    shortcut: Function | None
    x: Tensor
    y: Tensor

    def gated(self) -> bool:
        """Tell whether a ReLU follows the sum (He et al. 2015) or nothing does (He et al. 2016).

        Raises:
            UserError: something else follows the sum, such as a norm.
        """
        with torch.no_grad():
            distance_to_sum, distance_to_relu = self._distances(self.x, self.y)
            if min(distance_to_sum, distance_to_relu) > 0.01 * self.y.norm():
                raise UserError(
                    f"block {self.name} does more than a ReLU to the sum of branch and shortcut "
                    "(a norm or another activation follows it): this measure is not defined for it"
                )
            if distance_to_sum == distance_to_relu:
                # no sum is negative, as behind a branch that ends with a ReLU; of -x many are
                distance_to_sum, distance_to_relu = self._distances(-self.x, self.module(-self.x))
            return bool(distance_to_sum >= distance_to_relu)

    def _distances(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return how far an output is from F(x) + shortcut(x), or F(x) if plain, and its ReLU."""
        total = self.branch(x)
        if self.shortcut is not None:
            total = total + self.shortcut(x)
        return (y - total).norm(), (y - total.relu()).norm()

    @property
    def same_shape(self) -> bool:
        """Whether the block's input and output have the same shape."""
        return self.x.shape == self.y.shape


@contextmanager
def eval_mode(net: nn.Module) -> Iterator[nn.Module]:
    """Put the net in eval mode; afterwards restore modes."""
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield net
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def train_mode(net: nn.Module) -> Iterator[nn.Module]:
    """Put the net in train mode; afterwards restore modes and buffers (running statistics).

    What draws at random stays in eval mode, so that two passes compute the same.
    """
    buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
    try:
        with eval_mode(net):  # which restores the modes
            net.train()
            for module in net.modules():
                if isinstance(module, _DropoutNd) or type(module).__name__ in RANDOM:
                    module.eval()
            yield net
    finally:
        with torch.no_grad():
            for name, buffer in net.named_buffers():
                buffer.copy_(buffers[name])


def record_blocks(net: nn.Module, images: Tensor) -> tuple[Tensor, list[BlockActivations]]:
    """Run the net on images and record the input and output of each block.

    Args:
        net: any net with blocks; it is not changed.
        images: normalised images [B, 3, H, W].

    Returns:
        The logits [B, classes] and the blocks in order of depth.

    Raises:
        UserError: the net has no blocks, or a block is no submodule or was not called once.
    """
    recorded: list[BlockActivations] = []
    called: list[str] = []
    for name, branch, shortcut in blocks(net):
        # The forward pass below replaces the placeholders x and y.
        block = BlockActivations(name, _module(net, name), branch, shortcut, x=images, y=images)
        recorded.append(block)
    if not recorded:
        raise UserError(
            f"{type(net).__name__} has no blocks that are known: give its residual modules methods "
            "branch(x) and shortcut(x), whose sum they compute, or the net a method blocks(); "
            "section 8 of docs/python.md shows one"
        )
    handles = [handle for block in recorded for handle in _hooks(block, called)]
    try:
        logits = net(images)
    finally:
        for handle in handles:
            handle.remove()
    for block in recorded:
        times = called.count(block.name)
        if times == 0:
            raise UserError(
                f"block {block.name} was not called as a module: let the net's forward call it"
            )
        if times > 1:
            raise UserError(
                f"block {block.name} was called {times} times in one pass: make a module for each "
                "call, which may share its layers with others"
            )
    return logits, recorded


def _hooks(block: BlockActivations, called: list[str]) -> list[torch.utils.hooks.RemovableHandle]:
    """Record x and y of a block, and pass copies on, because later layers may work in place."""

    def enter(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        block.x = args[0].clone()
        return (block.x, *args[1:])

    def leave(module: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> Tensor:
        block.y = y
        called.append(block.name)
        return y.clone()

    return [
        block.module.register_forward_pre_hook(enter),
        block.module.register_forward_hook(leave),
    ]


def _module(net: nn.Module, name: str) -> nn.Module:
    try:
        return net.get_submodule(name)
    except AttributeError as e:
        raise UserError(
            f"block {name} of {type(net).__name__}.blocks() is no submodule: yield the name that "
            "named_modules() has for it"
        ) from e


@contextmanager
def watch_responses(net: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Record the standard deviation of each 3x3 layer's response (He et al. 2015, fig. 7).

    Yields:
        A dict from the layer's name to one scalar for each forward pass; the response is taken
        after the norm that follows the convolution, if there is one.
    """
    stds: dict[str, list[Tensor]] = defaultdict(list)
    newest_name = ""
    newest_response: Tensor | None = None

    def after_conv(name: str, response: Tensor) -> None:
        nonlocal newest_name, newest_response
        newest_name = name
        newest_response = response
        stds[name].append(response.detach().float().std())

    def after_norm(x: Tensor, response: Tensor) -> None:
        if newest_response is not None and x is newest_response:
            stds[newest_name][-1] = response.detach().float().std()

    handles = []
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            handles.append(
                module.register_forward_hook(lambda m, x, y, name=name: after_conv(name, y))
            )
        elif isinstance(module, NORMS):
            handles.append(module.register_forward_hook(lambda m, x, y: after_norm(x[0], y)))
    try:
        yield stds
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def error(net: nn.Module, batches: list[Batch]) -> float:
    """Return the percentage of images that the net, in its present mode, classifies wrongly."""
    wrong = sum(int((net(x).argmax(1) != y).sum()) for x, y in batches)
    return 100 * wrong / sum(len(y) for _, y in batches)
