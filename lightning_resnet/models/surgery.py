"""Nets taken apart: blocks deleted or exchanged while the others stay (Veit et al. 2016, sec. 4.1 and 4.2).

A deleted residual block still passes its shortcut; a plain block can only be deleted where its shapes are the same.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from lightning_resnet.models.blocks import Function
from lightning_resnet.models.observe import Seen, observe


def anatomy(net: nn.Module, images: Tensor) -> list[Seen]:
    """The net's blocks with the shapes that `images` have there; for `drop` and `permute`."""
    with torch.no_grad():
        return observe(net, images)[1]


def droppable(seen: Sequence[Seen]) -> list[Seen]:
    """Blocks that can be deleted."""
    return [block for block in seen if block.shortcut or block.same_shape]


def drop(blocks: Sequence[Seen]) -> AbstractContextManager[None]:
    """Without these blocks, inside."""
    return _replaced({block.module: _around(block) for block in blocks})


def permute(blocks: Sequence[Seen], instead: Sequence[Seen]) -> AbstractContextManager[None]:
    """`instead[i]` computes in the place of `blocks[i]`, inside; the two must have the same shapes."""
    return _replaced({a.module: b.module.forward for a, b in zip(blocks, instead, strict=True)})


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
