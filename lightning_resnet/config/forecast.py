"""Forecast the time of a training from a dry run of it."""

import torch

from lightning_resnet.config.recipe import Experiment
from lightning_resnet.config.summary import length
from lightning_resnet.engine.dry_run import DryRun, peak_memory


def epochs_by_size(experiment: Experiment) -> dict[int | None, list[int]]:
    """Return the epochs of each size of the training images, None for the size as stored.

    Args:
        experiment: experiment whose data are set up.
    """
    augment = experiment.data.augment_by_epoch()
    epochs: dict[int | None, list[int]] = {}
    for epoch in range(length(experiment).epochs):
        epochs.setdefault(augment(epoch).size, []).append(epoch)
    return epochs


def dry_run(experiment: Experiment) -> DryRun:
    """Return the callback that makes a training a dry run: the middle epoch of each size."""
    epochs = epochs_by_size(experiment)
    return DryRun({size: some[len(some) // 2] for size, some in epochs.items()})


def forecast(experiment: Experiment, found: DryRun) -> list[str]:
    """Return a line on speed and memory, and one on the time of the complete training.

    Args:
        experiment: experiment whose training was the dry run.
        found: what the dry run has measured.
    """
    trainer = experiment.trainer
    data = experiment.data
    full = length(experiment)
    ranks = trainer.world_size
    device = trainer.strategy.root_device
    epochs = {size: len(some) for size, some in epochs_by_size(experiment).items()}
    timed = {size: n for size, n in epochs.items() if size in found.seconds}
    step = sum(n * found.seconds[size] for size, n in timed.items()) / sum(timed.values())
    rates = []
    for size, n in timed.items():
        rate = f"{data.batch_size / found.seconds[size]:,.0f} images/s"
        if len(timed) > 1:
            rate += f" at {size} px ({n} epochs)"
        rates.append(rate)
    how = trainer.precision
    if experiment.task.compiled:
        how += ", compiled"
    threads = torch.get_num_threads()
    where = f"CPU, {threads} {'threads' if threads > 1 else 'thread'}"
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    if ranks > 1:
        where = f"{ranks} ranks, each on one {where}"
    epoch = full.steps * step + found.evaluation / found.evaluated_every
    hours = epoch * full.total / full.steps / 3600
    counted = "1 epoch" if full.epochs == 1 else f"{full.epochs} epochs"
    unit = "GPU-hours" if device.type == "cuda" else "rank-hours on this CPU"
    return [
        f"dry run: {1000 * step:,.1f} ms a step, {', '.join(rates)} with batches of "
        f"{data.micro_batch}, {how}, on {where}; {peak_memory(device)}",
        f"forecast: {epoch:,.1f} s an epoch, {hours:.2f} h for {counted}, "
        f"{hours * ranks:.2f} {unit}; nothing of the dry run is kept",
    ]
