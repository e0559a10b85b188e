"""Ghost batch norm: batch norm over parts of a batch (Hoffer et al. 2017, algorithm 1).

Few devices can so follow the recipe of many. Each part of `bn_batch` images is normalised by its
own statistics, as if the part were the batch of one rank. The running statistics are those of the
first part of an optimizer step, as they are those of the first rank under DDP. They therefore
depend neither on the number of ranks nor on accumulation.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _Ghost(_BatchNorm):
    """Class that a batch norm is changed to; parameters, buffers and their names stay.

    Attributes:
        bn_batch: images per part.
        starts_step: whether the micro-batch is the first of an optimizer step; only such a one
            updates the running statistics.
    """

    bn_batch: int
    starts_step = True

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
        # Without tracking, torch does not update the running statistics.
        self.track_running_stats = tracked and self.starts_step
        parts = []
        for part in x.split(self.bn_batch):
            parts.append(super().forward(part))
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


def ghosts(net: nn.Module) -> list[_Ghost]:
    """Return the ghost batch norms of a net."""
    return [m for m in net.modules() if isinstance(m, _Ghost)]


def batch_norms(net: nn.Module) -> bool:
    """Tell whether a net has any batch norms."""
    return any(isinstance(m, _BatchNorm) for m in net.modules())
