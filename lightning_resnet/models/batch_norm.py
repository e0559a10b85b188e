"""Precise batch norm: statistics of the present weights, not running averages over past weights.

Wu & Johnson 2021, "Rethinking 'Batch' in BatchNorm", section 3.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def measure_norms(
    net: nn.Module,
    batches: Iterable[Tensor],
    reduce: Callable[[Tensor], Tensor] = lambda sums: sums,
) -> None:
    """Set the running mean and variance of each batch norm to those over all given batches.

    While the batches pass, batch norms normalise by the batch, as in training; all other modules
    are in eval mode. Modes are restored. A norm that no batch passes keeps its statistics. Until
    the last batch has passed, the net's state is as before: a checkpoint may be saved between two.

    Args:
        net: changed in place.
        batches: normalised images [B, 3, H, W] of this rank.
        reduce: sums a tensor [3, C] of `sum_dtype` over the ranks.
    """
    norms = [m for m in net.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    modes = {m: m.training for m in net.modules()}
    sums: dict[nn.Module, Tensor] = {}
    net.eval()
    handles = []
    for norm in norms:
        norm.train()
        handles.append(norm.register_forward_pre_hook(lambda m, x: _add(sums, m, x[0])))
    try:
        for x in batches:
            with _untracked(norms):
                net(x)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    for norm in norms:
        if norm not in sums:
            continue
        n, total, squares = reduce(sums[norm])
        mean = total / n
        norm.running_mean.copy_(mean)
        norm.running_var.copy_((squares / n - mean**2) * n / (n - 1))


@contextmanager
def _untracked(norms: list[_BatchNorm]) -> Iterator[None]:
    """Let batch norms in training mode leave their running statistics as they are."""
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def _add(sums: dict[nn.Module, Tensor], norm: nn.Module, x: Tensor) -> None:
    """Add the number of positions, the sum and the sum of squares of each channel: [3, C]."""
    values = x.transpose(0, 1).flatten(1).to(sum_dtype(x.device))
    n = torch.full_like(values[:, 0], values.shape[1])
    sums[norm] = sums.get(norm, 0) + torch.stack([n, values.sum(1), (values**2).sum(1)])


def sum_dtype(device: torch.device) -> torch.dtype:
    """Return the type for sums over many images: float64, or float32 where there is no float64.

    Apple's GPUs (mps) have only float32, in which the counts of one batch are still exact.
    """
    return torch.float32 if device.type == "mps" else torch.float64
