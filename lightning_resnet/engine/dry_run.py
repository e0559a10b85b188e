"""Time a few steps and a short evaluation of a real training, to forecast the complete one.

The training is that of `fit`, with its loop, ranks and callbacks; this callback shortens it.
"""

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint
from pytorch_lightning.trainer.states import RunningStage

from lightning_resnet.engine import graph
from lightning_resnet.engine.checkpoints import Checkpoints
from lightning_resnet.engine.trainer import Trainer, limited
from lightning_resnet.progress import Meter

WARM = graph.WARM + 1  # first steps of an epoch, which do not count
STEPS = 20  # steps that count, divided among the sizes of images
LEAST = 3  # steps of one size that count
EVALUATED = 5  # batches of each evaluated split that count
LIMIT_S = 60.0  # seconds of all steps; an epoch has two steps, even if these take longer


class DryRun(Callback):
    """Callback that shortens a training, and times its steps and evaluations.

    The training goes to one epoch of each size of images, and to the last of these a second time.
    Each has a few steps and a short evaluation. Only the last steps of an epoch and the last
    evaluation count, because the first compile, choose kernels and fill the queue of batches.

    Args:
        epochs: size of the training images (pixels per side; None: as stored) -> number of the
            epoch to train.

    Attributes:
        seconds: size of the training images -> seconds of an optimizer step.
        evaluation: seconds of a complete evaluation; 0 where the training has none.
        evaluated_every: epochs between two evaluations.
    """

    def __init__(self, epochs: dict[int | None, int]) -> None:
        self.seconds: dict[int | None, float] = {}
        self.evaluation = 0.0
        self.evaluated_every = 1
        self._visits = list(epochs.items())
        self._visits.append(self._visits[-1])
        self._steps = WARM + max(LEAST, STEPS // len(epochs))  # of each visit
        self._limit_s = LIMIT_S / len(self._visits)
        self._visit = 0
        self._step = 0
        self._marks: list[float] = []
        self._meter: Meter | None = None

    def shorten(self, trainer: Trainer) -> None:
        """Shorten the training of a trainer that `prepare_run` has prepared.

        Callbacks that write checkpoints have no part in the training.
        """
        self._limit = trainer.limit_val_batches
        self.evaluated_every = trainer.check_val_every_n_epoch or 1
        if trainer.limit_val_batches:
            trainer.limit_val_batches = 1 + EVALUATED
        trainer.check_val_every_n_epoch = 1
        saving = [c for c in trainer.callbacks if isinstance(c, Checkpoint)]
        trainer.callbacks = [c for c in trainer.callbacks if c not in saving]
        loop = trainer.fit_loop
        loop.epoch = self._visits[0][1]
        loop._tell(0)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the length of an epoch, and forget the memory that was taken before."""
        self._micro_batches = trainer.fit_loop.max_batches
        device = trainer.strategy.root_device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Shorten the epoch, and start the clock."""
        loop = trainer.fit_loop
        loop.max_batches = min(self._micro_batches, self._steps * loop.parts)
        steps = loop.max_batches // loop.parts
        self._meter = Meter(steps, "steps of a dry run", show=trainer.is_global_zero)
        self._marks = [_now()]

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Time an optimizer step, and end the epoch when its time is up on any rank."""
        if trainer.global_step == self._step:  # a micro-batch, and not the last of its step
            return
        self._step = trainer.global_step
        self._meter.update(1)
        loop = trainer.fit_loop
        done = loop.steps * loop.parts
        if len(self._marks) > 1 and done < loop.max_batches:
            is_late = time.perf_counter() - self._marks[1] > self._limit_s
            if loop.agreement.maximum(int(is_late)):
                loop.max_batches = done
        must_wait = len(self._marks) <= WARM or done == loop.max_batches
        self._marks.append(_now() if must_wait else time.perf_counter())

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock of an evaluation."""
        self._close_meter()
        self._evaluation_start = _now()

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note when the first batch begins, after what the evaluation does only once."""
        self._once = _now() - self._evaluation_start
        self._laps: list[list[float]] = []
        self._loader_start = _now()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Note when a split's first and last batch end."""
        if batch_idx == 0:
            start = self._laps[-1][-1] if self._laps else self._loader_start
            self._laps.append([start, _now()])
        elif batch_idx == trainer.num_val_batches[dataloader_idx] - 1:
            self._laps[-1].append(_now())

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Work out the seconds of an evaluation of all images."""
        last = self._laps[-1][-1] if self._laps else self._loader_start
        self.evaluation = self._once + _now() - last
        evaluated = zip(self._laps, trainer.val_dataloaders, trainer.num_val_batches, strict=False)
        for marks, loader, timed in evaluated:
            batch = (marks[-1] - marks[-2]) / max(1, timed - 1)
            all_batches = limited(len(loader), self._limit, RunningStage.VALIDATING)
            self.evaluation += batch * all_batches

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Work out the seconds of a step, and go to the next epoch to train, or end."""
        self._close_meter()
        size = self._visits[self._visit][0]
        if len(self._marks) > 1:
            first = min(WARM, len(self._marks) - 2)
            steps = len(self._marks) - 1 - first
            self.seconds[size] = (self._marks[-1] - self._marks[first]) / steps
        self._visit += 1
        if self._visit == len(self._visits):
            trainer.should_stop = True
        else:
            trainer.fit_loop.epoch = self._visits[self._visit][1] - 1  # the loop adds 1

    def on_exception(self, *args: Any) -> None:
        """Close the progress bar."""
        self._close_meter()

    def _close_meter(self) -> None:
        if self._meter:
            self._meter.close()
            self._meter = None


class UnwrittenCheckpoints(Checkpoints):
    """Checkpoints of a dry run: copied to host memory as in a training, and not written."""

    def _write(self, state: dict[str, Any], better: bool, kept: Path | None) -> None:
        """Skip the write, because a dry run leaves no checkpoint behind."""


def peak_memory(device: torch.device) -> float:
    """Return the largest memory, in GB, that this process has taken since the training began.

    Args:
        device: a GPU, whose memory counts, or the CPU.
    """
    if device.type == "cuda":
        # Reserved and not allocated memory, because a CUDA graph keeps its own for itself.
        return torch.cuda.max_memory_reserved(device) / 1e9
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _now() -> float:
    """Return the time once the GPU has done what it was given."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()
