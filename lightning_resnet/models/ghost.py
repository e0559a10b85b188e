"""Batch norm over parts of a batch (Hoffer et al. 2017, algorithm 1): few devices follow the recipe of many.

Each part of `bn_batch` images is normalised by its own statistics, as if it were a rank's batch; the running statistics
are those of the first part, as they are those of the first rank under DDP.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _Ghost(_BatchNorm):
    """What a norm becomes; parameters, buffers and their names stay."""

    bn_batch: int

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, ...] -> the same shape; B a multiple of `bn_batch` in training."""
        if not self.training:
            return super().forward(x)
        if len(x) % self.bn_batch:
            raise ValueError(f"a batch of {len(x)} images per rank is not divisible by bn_batch {self.bn_batch}")
        tracked, parts = self.track_running_stats, []
        for part in x.split(self.bn_batch):
            parts.append(super().forward(part))
            self.track_running_stats = False  # torch then passes no running statistics on
        self.track_running_stats = tracked
        return torch.cat(parts) if len(parts) > 1 else parts[0]


def ghost_batch_norm(net: nn.Module, bn_batch: int) -> None:
    """Change the batch norms of a net in place, of whatever class.

    Args:
        net: any net.
        bn_batch: images per part.

    Raises:
        ValueError: one image has no statistics.
    """
    if bn_batch < 2:
        raise ValueError(f"--model.bn_batch must be 2 or more, got {bn_batch}")
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            kind = type(module)
            module.__class__ = type(f"Ghost{kind.__name__}", (_Ghost, kind), {"bn_batch": bn_batch})


def batch_norms(net: nn.Module) -> bool:
    """Whether there are any."""
    return any(isinstance(m, _BatchNorm) for m in net.modules())
