"""Nets taken apart and made deeper, by `blocks(net)` alone.

Blocks are deleted or exchanged while the others stay (Veit et al. 2016, sec. 4.1, 4.2): a deleted residual block still
passes its shortcut; a plain block can only be deleted where its shapes are the same.

A deeper net starts as a trained shallower one (He et al. 2015, sec. 1, the "solution by construction"): it takes the
shallow one's tensors by name, and its other blocks become identity. A residual branch is zeroed at its last layer, a
plain branch becomes dirac convolutions; norms that must pass what they get take weight, bias and running statistics
from it, so that eval and train mode agree.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from lightning_resnet.errors import UserError
from lightning_resnet.models.activations import Batch, Seen, observe, train_mode
from lightning_resnet.models.blocks import Function, blocks

Statistics = tuple[Tensor, Tensor]  # mean and biased variance of each channel [C]


def anatomy(net: nn.Module, images: Tensor) -> list[Seen]:
    """The net's blocks with the shapes that `images` have there; for `drop` and `permute`."""
    with torch.no_grad():
        return observe(net, images)[1]


def droppable(seen: Sequence[Seen]) -> list[Seen]:
    """Blocks that can be deleted."""
    return [block for block in seen if block.shortcut or block.same_shape]


def drop(chosen: Sequence[Seen]) -> AbstractContextManager[None]:
    """Without these blocks, inside."""
    return _replaced({block.module: _around(block) for block in chosen})


def permute(chosen: Sequence[Seen], instead: Sequence[Seen]) -> AbstractContextManager[None]:
    """`instead[i]` computes in the place of `chosen[i]`, inside; the two must have the same shapes."""
    return _replaced({a.module: b.module.forward for a, b in zip(chosen, instead, strict=True)})


def alike(seen: Sequence[Seen]) -> list[list[Seen]]:
    """Groups, of at least two, of blocks that may change places: of the same shapes in and out."""
    groups: dict[tuple[torch.Size, torch.Size], list[Seen]] = {}
    for block in seen:
        groups.setdefault((block.x.shape, block.y.shape), []).append(block)
    return [group for group in groups.values() if len(group) > 1]


def _around(block: Seen) -> Function:
    """What is left of a deleted block."""
    around, gated = block.shortcut or nn.Identity(), block.gated()
    return lambda x: around(x).relu() if gated else around(x)


@contextmanager
def _replaced(modules: dict[nn.Module, Function]) -> Iterator[None]:
    """Inside, each module computes the function given for it; afterwards its own again."""
    for module, function in modules.items():
        module.forward = function
    try:
        yield
    finally:
        for module in modules:
            del module.forward


def take_over(shallow: nn.Module, deep: nn.Module) -> list[str]:
    """Copy the shallow net's tensors into the deep one, by name; returns the names of the blocks that only it has.

    Raises:
        UserError: the deep net is not the shallow one with more blocks.
    """
    ours, theirs = deep.state_dict(), shallow.state_dict()
    for name, tensor in theirs.items():
        if name not in ours or ours[name].shape != tensor.shape:
            raise UserError(
                f"the deeper net has no place for {name}: give a larger --depth with the same kind of blocks"
            )
    old = {name for name, _, _ in blocks(shallow)}
    added = [name for name, _, _ in blocks(deep) if name not in old]
    if not added:
        raise UserError("no block would be added: give a larger --depth")
    deep.load_state_dict(ours | theirs)
    return added


@torch.no_grad()
def deepen(shallow: nn.Module, deep: nn.Module, batches: Sequence[Batch]) -> list[str]:
    """Make the deep net compute what the shallow one does: in eval mode up to rounding, in train mode nearly.

    Args:
        shallow: trained; left as it is.
        deep: the same with more blocks in its stages (`layer2.3` beside `layer2.0` to `.2`); changed in place.
        batches: of training images, to measure what enters the added blocks.

    Returns:
        Names of the blocks added.

    Raises:
        UserError: a block that cannot be identity.
    """
    added, entering = take_over(shallow, deep), _statistics(shallow, batches)
    for name, _, shortcut in blocks(deep):
        if name in added:
            _make_identity(deep.get_submodule(name), shortcut is not None, entering[name.rpartition(".")[0]])
    expected, got = (net.eval()(batches[0][0]) for net in (shallow, deep))
    if (got - expected).norm() > 1e-3 * expected.norm():
        raise UserError(
            f"block {added[0]} cannot be identity: plain bottlenecks and plain pre-activation blocks lose part of x "
            "(use basic blocks, or a shortcut)"
        )
    return added


def _statistics(net: nn.Module, batches: Sequence[Batch]) -> dict[str, Statistics]:
    """Stage -> of what leaves its last block, as a norm in train mode sees it; means over batches."""
    found: dict[str, list[Tensor]] = {}
    with train_mode(net):
        for images, _ in batches:
            ends = {block.name.rpartition(".")[0]: block.y for block in observe(net, images)[1]}
            for stage, y in ends.items():
                moments = torch.stack([y.mean((0, 2, 3)), y.var((0, 2, 3), unbiased=False)])
                found.setdefault(stage, []).append(moments)
    return {stage: tuple(torch.stack(moments).mean(0)) for stage, moments in found.items()}


def _make_identity(block: nn.Module, residual: bool, entering: Statistics) -> None:
    """On x >= 0, as after a ReLU."""
    around = getattr(block, "downsample", None)
    branch = [m for name, child in block.named_children() if name != "downsample" for m in child.modules()]
    if residual:
        last = [m for m in branch if getattr(m, "weight", None) is not None][-1]
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
    for module in around.modules() if residual and around else [] if residual else branch:
        _pass(module, *entering)


def _pass(module: nn.Module, mean: Tensor, variance: Tensor) -> None:
    """Make a convolution or norm identity on what has these statistics."""
    if isinstance(module, nn.Conv2d):
        nn.init.dirac_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d) and module.num_features == len(mean):
        module.running_mean.copy_(mean)
        module.running_var.copy_(variance)
        module.weight.copy_((variance + module.eps).sqrt())
        module.bias.copy_(mean)
