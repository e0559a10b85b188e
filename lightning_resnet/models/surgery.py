"""Delete, exchange and add blocks of a net, by means of `blocks(net)`.

Blocks are deleted or exchanged while the others stay (Veit et al. 2016, sec. 4.1, 4.2). A deleted
residual block still passes its shortcut. A plain block can only be deleted where its input and
output have the same shape.

A deeper net can start as a trained shallower net (He et al. 2015, sec. 1, "solution by
construction"): the deeper net takes the tensors of the shallow net by name, and the added blocks
become the identity. The last layer of a residual branch is zeroed, or its learned factor instead,
so that the branch can learn; the convolutions of a plain branch become dirac. A norm in a plain
branch takes its weight, bias and running statistics from the data that enters the block, so that
the norm is the identity in eval and in train mode.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_resnet.errors import UserError
from lightning_resnet.models.activations import Batch, BlockActivations, record_blocks, train_mode
from lightning_resnet.models.blocks import (
    BEGIN_WITH_ACTIVATION,
    Block,
    Function,
    Scale,
    ScaledConv2d,
    blocks,
)
from lightning_resnet.models.resnet import CifarResNet, ImageNetResNet, ranges

Statistics = tuple[Tensor, Tensor]  # mean and biased variance of each channel [C]


def droppable(recorded: Sequence[BlockActivations]) -> list[BlockActivations]:
    """Return the blocks that can be deleted."""
    return [block for block in recorded if block.shortcut is not None or block.same_shape]


def drop(chosen: Sequence[BlockActivations]) -> AbstractContextManager[None]:
    """Delete these blocks for the duration of the context."""
    return _replaced({block.module: _around(block) for block in chosen})


def permute(
    chosen: Sequence[BlockActivations], instead: Sequence[BlockActivations]
) -> AbstractContextManager[None]:
    """Let `instead[i]` compute in place of `chosen[i]` for the duration of the context.

    The two must have the same shapes.
    """
    return _replaced({a.module: b.module.forward for a, b in zip(chosen, instead, strict=True)})


def alike(recorded: Sequence[BlockActivations]) -> list[list[BlockActivations]]:
    """Return groups, of two blocks or more, with equal input and equal output shapes."""
    groups: dict[tuple[torch.Size, torch.Size], list[BlockActivations]] = {}
    for block in recorded:
        groups.setdefault((block.x.shape, block.y.shape), []).append(block)
    return [group for group in groups.values() if len(group) > 1]


def _around(block: BlockActivations) -> Function:
    """Return the function that remains of a deleted block: the shortcut and the activation."""
    shortcut = nn.Identity() if block.shortcut is None else block.shortcut
    gated = block.gated()
    return lambda x: shortcut(x).relu() if gated else shortcut(x)


@contextmanager
def _replaced(modules: dict[nn.Module, Function]) -> Iterator[None]:
    """Replace the forward of each module by the given function for the duration of the context."""
    for module, function in modules.items():
        module.forward = function
    try:
        yield
    finally:
        for module in modules:
            del module.forward


def without(
    net: nn.Module, options: dict[str, Any], names: Sequence[str]
) -> tuple[nn.Module, dict[str, Any]]:
    """Return a net without some of its blocks, in eval mode, and the arguments it is made with.

    Where the branch of a block is zero, the outputs are the same without the block.

    Args:
        net: a `CifarResNet` or an `ImageNetResNet`; it is not changed.
        options: the arguments that the net was made with.
        names: blocks to leave out, such as `layer2.3`.

    Raises:
        UserError: there is no such block, or more than the identity would be lost with it.
    """
    if type(net) not in (CifarResNet, ImageNetResNet):
        raise UserError(
            f"blocks are dropped of CifarResNet and ImageNetResNet, not of {type(net).__name__}"
        )
    known = {name: module for name, module in net.named_modules() if isinstance(module, Block)}
    for name in names:
        if name not in known:
            raise UserError(f"there is no block {name}; there are {ranges(list(known))}")
        if why := _why_kept(known[name]):
            raise UserError(f"block {name} cannot be dropped: {why}")
    gone = {*(options.get("drop_blocks") or ()), *names}
    options = options | {"drop_blocks": sorted(gone)}
    try:
        shorter = type(net)(**options)
    except ValueError as e:
        raise UserError(str(e)) from e
    kept = shorter.state_dict().keys()
    shorter.load_state_dict({k: tensor for k, tensor in net.state_dict().items() if k in kept})
    return shorter.eval(), options


def _why_kept(block: Block) -> str | None:
    """Return why a block does more than add its branch to x, or None."""
    n_in = block.conv1.in_channels
    if not block.residual:
        return "it is plain, and x reaches the next block through its branch alone"
    if block.n_out != n_in:
        return f"it changes the shape, {n_in} to {block.n_out} channels, for the next block"
    if block.downsample is not None:
        return "its shortcut is a projection, and only the identity can be left out"
    if block.dropout is not None:
        return "its shortcut drops parts of x in training, which would be lost"
    if block.shares_activation:
        return "its shortcut takes the activation of x, not x"
    changes = _changes_carried(block)
    return f"{changes}, which would be lost" if changes else None


def _changes_carried(block: Block) -> str | None:
    """Return what a residual block does to x although its branch is 0, or None."""
    if block.shortcut_factor is not None:
        return f"its shortcut multiplies x by {block.shortcut_factor:g}"
    if block.gate is not None:
        return "its shortcut has a gate"
    if block.order == "bn_after_add":
        return "a norm follows its sum"
    return None


def _why_no_identity(block: nn.Module, residual: bool) -> str:
    """Return why a block changes x although `_make_identity` has done what it can."""
    if not isinstance(block, Block):
        return "its branch and shortcut are not those that this package knows"
    if residual and (changes := _changes_carried(block)):
        return changes
    if block.stochastic_depth is not None:
        return (
            "stochastic_depth scales each branch by its place among all blocks, which changes with "
            "the depth"
        )
    passes = block.downsample if residual else block
    if passes and any(isinstance(module, ScaledConv2d) for module in passes.modules()):
        return "norm scaled_weights standardizes kernels, and no such kernel is the identity"
    if block.slope is not None:
        return "activation tat scales x, by a slope that changes with the depth"
    if not residual and block.se is not None:
        return "squeeze-and-excitation scales what passes"
    if not residual and (block.layers == 3 or block.order in BEGIN_WITH_ACTIVATION):
        return (
            "plain bottlenecks and plain pre-activation blocks lose part of x (use basic blocks, "
            "or a shortcut)"
        )
    return "the deeper net computes something else, though the block passes x"


def take_over(shallow: nn.Module, deep: nn.Module) -> list[str]:
    """Copy the tensors of the shallow net into the deep net, by name.

    Returns:
        The names of the blocks that only the deep net has.

    Raises:
        UserError: the deep net is not the shallow one with more blocks.
    """
    deep_state = deep.state_dict()
    shallow_state = shallow.state_dict()
    for name, tensor in shallow_state.items():
        if name not in deep_state or deep_state[name].shape != tensor.shape:
            raise UserError(
                f"the deeper net has no place for {name}: give a larger --depth with the same kind "
                "of blocks"
            )
    shallow_names = {name for name, _, _ in blocks(shallow)}
    added = [name for name, _, _ in blocks(deep) if name not in shallow_names]
    if not added:
        raise UserError("no block would be added: give a larger --depth")
    deep.load_state_dict(deep_state | shallow_state)
    return added


@torch.no_grad()
def deepen(shallow: nn.Module, deep: nn.Module, batches: Sequence[Batch]) -> list[str]:
    """Make the deep net compute the same as the shallow net.

    The two agree up to rounding in eval mode, and nearly in train mode.

    Args:
        shallow: a trained net, which is not changed.
        deep: the same net with more blocks in its stages (`layer2.3` after `layer2.0` to `.2`);
            changed in place.
        batches: batches of training images, to measure what enters the added blocks.

    Returns:
        Names of the added blocks.

    Raises:
        UserError: a block cannot be made the identity.
    """
    added = take_over(shallow, deep)
    last = deep.get_submodule(added[-1])
    if isinstance(last, Block) and last.residual and last.order == "relu_before_add":
        raise UserError(
            f"block {added[-1]} cannot start as identity: order relu_before_add puts a ReLU behind "
            "zeros, so no gradient passes; use --arm find"
        )
    statistics = _stage_statistics(shallow, batches)
    for name, _, shortcut in blocks(deep):
        if name in added:
            stage = name.rpartition(".")[0]
            _make_identity(deep.get_submodule(name), shortcut is not None, statistics[stage])
    images = batches[0][0]
    expected = shallow.eval()(images)
    got = deep.eval()(images)
    if (got - expected).norm() > 1e-3 * expected.norm():
        is_residual = {name: shortcut is not None for name, _, shortcut in blocks(deep)}
        reason = _why_no_identity(deep.get_submodule(added[0]), is_residual[added[0]])
        raise UserError(f"block {added[0]} cannot be identity: {reason}")
    return added


def _stage_statistics(net: nn.Module, batches: Sequence[Batch]) -> dict[str, Statistics]:
    """Return mean and variance of each stage's output in train mode, averaged over the batches."""
    found: dict[str, list[Tensor]] = {}
    with train_mode(net):
        for images, _ in batches:
            _, recorded = record_blocks(net, images)
            outputs = {block.name.rpartition(".")[0]: block.y for block in recorded}
            for stage, y in outputs.items():
                moments = torch.stack([y.mean((0, 2, 3)), y.var((0, 2, 3), unbiased=False)])
                found.setdefault(stage, []).append(moments)
    return {stage: tuple(torch.stack(moments).mean(0)) for stage, moments in found.items()}


def _make_identity(block: nn.Module, residual: bool, entering: Statistics) -> None:
    """Make the block the identity for non-negative inputs, such as the output of a ReLU.

    Args:
        block: changed in place.
        residual: whether the block has a shortcut.
        entering: mean and variance of each channel of the block's input.
    """
    branch: list[nn.Module] = []
    for name, child in block.named_children():
        if name not in ("downsample", "gate", "se"):
            branch.extend(child.modules())
    if not residual:
        for module in branch:
            _pass_through(module, *entering)
        return
    _zero_branch(block, branch)
    downsample = getattr(block, "downsample", None)
    if downsample:
        for module in downsample.modules():
            _pass_through(module, *entering)


def _zero_branch(block: nn.Module, branch: Sequence[nn.Module]) -> None:
    """Make the branch of a residual block 0 such that the gradient reaches what is 0.

    Of two factors in sequence, such as a kernel and its gain, one alone is zeroed: otherwise
    neither would get a gradient.

    Args:
        block: changed in place.
        branch: modules of its branch, in order.
    """
    factor = getattr(block, "scale", None)
    if isinstance(factor, Scale):
        nn.init.zeros_(factor.weight)
        return
    layers = [m for m in branch if getattr(m, "weight", None) is not None]
    last = [layer for layer in layers if not isinstance(layer, Scale)][-1]
    for name, parameter in last.named_parameters():
        # a kernel near 0 that is standardized is at once as large as any other
        if not isinstance(last, ScaledConv2d) or name != "weight":
            nn.init.zeros_(parameter)


def _pass_through(module: nn.Module, mean: Tensor, variance: Tensor) -> None:
    """Make a convolution or a norm the identity for inputs with these statistics."""
    if isinstance(module, nn.Conv2d):
        nn.init.dirac_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d) and module.num_features == len(mean):
        module.running_mean.copy_(mean)
        module.running_var.copy_(variance)
        module.weight.copy_((variance + module.eps).sqrt())
        module.bias.copy_(mean)
