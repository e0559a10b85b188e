"""Ghost batch norm: batch norm over parts of a batch (Hoffer et al. 2017, algorithm 1).

Few devices can so follow the recipe of many. Each part of `bn_batch` images is normalised by its
own statistics, as if the part were the batch of one rank. The running statistics are those of the
first part, as they are those of the first rank under DDP.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _Ghost(_BatchNorm):
    """Class that a batch norm is changed to; parameters, buffers and their names stay."""

    bn_batch: int

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [B, C, ...]; in training B must be a multiple of `bn_batch`.

        Raises:
            ValueError: B is not a multiple of `bn_batch`.
        """
        if not self.training:
            return super().forward(x)
        if len(x) % self.bn_batch:
            raise ValueError(
                f"a batch of {len(x)} images per rank is not divisible by bn_batch {self.bn_batch}"
            )
        tracked = self.track_running_stats
        parts = []
        for part in x.split(self.bn_batch):
            parts.append(super().forward(part))
            # From the second part on, torch is not to update the running statistics.
            self.track_running_stats = False
        self.track_running_stats = tracked
        return torch.cat(parts) if len(parts) > 1 else parts[0]


def ghost_batch_norm(net: nn.Module, bn_batch: int) -> None:
    """Change the batch norms of a net, of whatever class, into ghost batch norms, in place.

    Args:
        net: any net.
        bn_batch: images per part.

    Raises:
        ValueError: `bn_batch` is below 2, and one image has no statistics.
    """
    if bn_batch < 2:
        raise ValueError(f"--model.bn_batch must be 2 or more, got {bn_batch}")
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            kind = type(module)
            name = f"Ghost{kind.__name__}"
            module.__class__ = type(name, (_Ghost, kind), {"bn_batch": bn_batch})


def batch_norms(net: nn.Module) -> bool:
    """Tell whether a net has any batch norms."""
    return any(isinstance(m, _BatchNorm) for m in net.modules())
