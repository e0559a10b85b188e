"""Forecast the time of a training from a dry run of it."""

from typing import Any

import torch

from lightning_resnet.config.recipe import Experiment
from lightning_resnet.config.summary import length
from lightning_resnet.engine.dry_run import DryRun, peak_memory

# Variable with the path of a file to which `fit --run.dry` writes its forecast as JSON.
FORECAST = "LIGHTNING_RESNET_FORECAST"


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


def forecast(experiment: Experiment, found: DryRun) -> dict[str, Any]:
    """Forecast speed, memory and time of a complete training.

    Args:
        experiment: experiment whose training was the dry run.
        found: what the dry run has measured.

    Returns:
        `step_s` (seconds), `images_per_s` (a list, with `size` in pixels, null as stored, and its
        `epochs`), `micro_batch`, `precision`, `compiled`, `device`, `ranks`, `threads`,
        `memory_gb`, `epochs`, `epoch_s`, `hours` (of the training) and `device_hours` (of all
        ranks).
    """
    trainer = experiment.trainer
    data = experiment.data
    full = length(experiment)
    device = trainer.strategy.root_device
    epochs = {size: len(some) for size, some in epochs_by_size(experiment).items()}
    timed = {size: n for size, n in epochs.items() if size in found.seconds}
    step = sum(n * found.seconds[size] for size, n in timed.items()) / sum(timed.values())
    rates = []
    for size, n in timed.items():
        rate = data.batch_size / found.seconds[size]
        rates.append({"size": size, "epochs": n, "images_per_s": rate})
    epoch = full.steps * step + found.evaluation / found.evaluated_every
    hours = epoch * full.total / full.steps / 3600
    on_gpu = device.type == "cuda"
    return {
        "step_s": step,
        "images_per_s": rates,
        "micro_batch": data.micro_batch,
        "precision": trainer.precision,
        "compiled": bool(experiment.task.compiled),
        "device": torch.cuda.get_device_name(device) if on_gpu else "CPU",
        "ranks": trainer.world_size,
        "threads": torch.get_num_threads(),
        "memory_gb": peak_memory(device),
        "epochs": full.epochs,
        "epoch_s": epoch,
        "hours": hours,
        "device_hours": hours * trainer.world_size,
    }


def lines_of(numbers: dict[str, Any]) -> list[str]:
    """Return a line on speed and memory, and one on the time of the complete training.

    Args:
        numbers: result of `forecast`.
    """
    rates = []
    for each in numbers["images_per_s"]:
        rate = f"{each['images_per_s']:,.0f} images/s"
        if len(numbers["images_per_s"]) > 1:
            rate += f" at {each['size']} px ({each['epochs']} epochs)"
        rates.append(rate)
    how = numbers["precision"]
    if numbers["compiled"]:
        how += ", compiled"
    threads = numbers["threads"]
    where = numbers["device"]
    on_gpu = where != "CPU"
    memory = f"{numbers['memory_gb']:.2f} GB of the GPU's memory"
    unit = "GPU-hours"
    if not on_gpu:
        where = f"CPU, {threads} {'threads' if threads > 1 else 'thread'}"
        memory = f"the process took {numbers['memory_gb']:.2f} GB"
        unit = "rank-hours on this CPU"
    if numbers["ranks"] > 1:
        where = f"{numbers['ranks']} ranks, each on one {where}"
    counted = "1 epoch" if numbers["epochs"] == 1 else f"{numbers['epochs']} epochs"
    return [
        f"dry run: {1000 * numbers['step_s']:,.1f} ms a step, {', '.join(rates)} with batches of "
        f"{numbers['micro_batch']}, {how}, on {where}; {memory}",
        f"forecast: {numbers['epoch_s']:,.1f} s an epoch, {numbers['hours']:.2f} h for {counted}, "
        f"{numbers['device_hours']:.2f} {unit}; nothing of the dry run is kept",
    ]
