"""Which process of a training this is: rank, world size, accumulation, epochs and the device."""

from dataclasses import dataclass

import pytorch_lightning as pl
import torch


@dataclass(frozen=True)
class Shard:
    """One process's part of a training; the defaults are those of a single process.

    Attributes:
        rank: global rank of this process.
        world_size: number of ranks.
        local_ranks: number of ranks on this machine, which share its cores and memory.
        accumulate: micro-batches per optimizer step on each rank.
        epochs: epochs of the training; None or below 1: not known.
        repeats_epoch: give each epoch the batches of the first, as Lightning's `overfit_batches`
            does.
        device: device of this rank.
    """

    rank: int = 0
    world_size: int = 1
    local_ranks: int = 1
    accumulate: int = 1
    epochs: int | None = None
    repeats_epoch: bool = False
    device: torch.device = torch.device("cpu")

    @classmethod
    def of(cls, trainer: pl.Trainer) -> "Shard":
        """Return the part of the process in which this trainer runs."""
        return cls(
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            local_ranks=trainer.num_devices,
            accumulate=trainer.accumulate_grad_batches,
            epochs=trainer.max_epochs,
            repeats_epoch=trainer.overfit_batches > 0,
            device=trainer.strategy.root_device,
        )
