"""Time a trial of a recipe on this machine: one rank's training steps and evaluation.

The step is `fit`'s own (engine/step.py), with precision, compilation, mixing, loss, accumulation,
optimizer and moving average. Communication between ranks and the recipe's callbacks are left out.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import NamedTuple

import torch
from pytorch_lightning.trainer.states import RunningStage, TrainerFn

from lightning_resnet.config.recipe import Experiment
from lightning_resnet.config.summary import length
from lightning_resnet.data.loaders.base import Batch, Loader
from lightning_resnet.doctor.finding import GB
from lightning_resnet.engine.loop import FitLoop
from lightning_resnet.engine.step import Step
from lightning_resnet.engine.trainer import limited
from lightning_resnet.engine.transfer import on_device
from lightning_resnet.machine import cores
from lightning_resnet.progress import metered

WARM = 3  # steps before the first that counts
STEPS = 20  # steps that count, divided among the sizes of images
LEAST = 3  # steps of one size at least
EVALUATED = 5  # batches of an evaluation that count
LIMIT_S = 60.0  # seconds of all steps


class Pace(NamedTuple):
    """Speed of training at one size of images.

    Attributes:
        size: pixels per side; None: as stored.
        epochs: number of epochs of this size.
        seconds: seconds of an optimizer step.
    """

    size: int | None
    epochs: int
    seconds: float


class Trial(NamedTuple):
    """Time and memory that a recipe takes of one rank.

    Attributes:
        paces: speed for each size of the training images.
        evaluation: seconds of an epoch's evaluation, on average over the epochs.
        device: device of the trial, in words.
        peak: largest memory taken, in words.
    """

    paces: list[Pace]
    evaluation: float
    device: str
    peak: str

    @property
    def step(self) -> float:
        """Seconds of an optimizer step, on average over the epochs."""
        return sum(p.epochs * p.seconds for p in self.paces) / sum(p.epochs for p in self.paces)


def trial(experiment: Experiment, ranks: int) -> Trial:
    """Train a few steps at each size of the schedule, and evaluate a few batches.

    Args:
        experiment: experiment of a recipe for one device; the data are set up.
        ranks: world size of the recipe; this process trains one rank's share of the batch.
    """
    data = experiment.data
    device = experiment.trainer.strategy.root_device
    torch.set_num_threads(experiment.config.run.threads or cores())
    loop = _begin(experiment)
    global_batch = data.batch_size
    data.batch_size = global_batch // ranks
    try:
        loader = data.train_dataloader()
        sizes = _sizes(experiment)
        paces = []
        for size, epochs in sizes.items():
            seconds = _train(loop, loader, epochs[len(epochs) // 2], len(sizes))
            paces.append(Pace(size, len(epochs), seconds))
        every = experiment.trainer.check_val_every_n_epoch or 1
        evaluation = _evaluate(experiment, ranks) / every
    finally:
        data.batch_size = global_batch
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"CPU, {torch.get_num_threads()} threads"
    return Trial(paces, evaluation, name, _peak(device))


def _begin(experiment: Experiment) -> FitLoop:
    """Do what `fit` does before its first step, without a run directory; return the loop."""
    trainer = experiment.trainer
    task = experiment.task
    loop = FitLoop(trainer, None, None, 0)
    trainer.fit_loop = loop
    loop.parts = trainer.accumulate_grad_batches
    loop.max_batches = length(experiment).steps * loop.parts
    trainer.state.fn = TrainerFn.FITTING
    trainer.training = True
    trainer.datamodule = experiment.data
    task.trainer = trainer
    trainer.strategy.connect(task)
    task.setup("fit")
    trainer.strategy.setup(trainer)
    task.on_fit_start()
    task.on_train_start()
    return loop


def _sizes(experiment: Experiment) -> dict[int | None, list[int]]:
    """Return the epochs of each size of the training images."""
    augment = experiment.data._augment_by_epoch()
    sizes: dict[int | None, list[int]] = {}
    for epoch in range(length(experiment).epochs):
        sizes.setdefault(augment(epoch).size, []).append(epoch)
    return sizes


def _train(loop: FitLoop, loader: Loader, epoch: int, shares: int) -> float:
    """Return the seconds of an optimizer step in an epoch.

    Args:
        loop: the fit loop.
        loader: the training images.
        epoch: the epoch, whose size of images and learning rate hold.
        shares: number of sizes that share the steps and the time of the trial.
    """
    trainer = loop.trainer
    task = trainer.lightning_module
    loop.epoch = epoch
    loop._tell(0)
    step = Step(trainer, loop.parts)

    def done() -> None:
        loop._tell(trainer.global_step % task.total_steps)  # schedules end where training does

    with closing(on_device(_endless(loader, epoch), trainer.strategy.root_device)) as batches:

        def once(i: int) -> None:
            step(batches, i * loop.parts, done)

        steps = max(LEAST, STEPS // shares)
        return _pace(once, WARM, steps, LIMIT_S / shares, "trial steps", bool(task.compiled))


@torch.no_grad()
def _evaluate(experiment: Experiment, ranks: int) -> float:
    """Return the seconds of an evaluation, from a few batches of each of its loaders."""
    trainer = experiment.trainer
    task = experiment.task.eval()
    precision = trainer.precision_plugin
    is_compiled = bool(task.compiled)
    unit = "trial batches of an evaluation"
    seconds = 0.0
    for k, loader in enumerate(experiment.data.val_dataloader()):
        with closing(on_device(_endless(loader), trainer.strategy.root_device)) as batches:

            def once(i: int) -> None:
                batch = precision.convert_input(next(batches))  # noqa: B023
                trainer.strategy.validation_step(batch, i, k)  # noqa: B023

            # the last batch has a shape of its own to compile
            warm = len(loader) if len(loader) <= 1 + EVALUATED else 1
            lap = _pace(once, warm, EVALUATED, LIMIT_S / 4, unit, is_compiled)
        own = -(-len(loader) // ranks)
        seconds += lap * limited(own, trainer.limit_val_batches, RunningStage.VALIDATING)
    # precise_bn measures over training batches, which are half as large as those of an evaluation
    measured = task.precise_bn * trainer.accumulate_grad_batches / 2 * len(task.nets)
    return seconds + lap * measured


def _endless(loader: Loader, epoch: int = 0) -> Iterator[Batch]:
    """Yield the batches of an epoch, again and again."""
    while True:
        with closing(loader.batches(epoch)) as batches:
            yield from batches


def _pace(
    do: Callable[[int], None], warm: int, steps: int, limit: float, unit: str, is_compiled: bool
) -> float:
    """Return the seconds of a call.

    The first calls compile, choose kernels and fill the queue of batches; these do not count.

    Args:
        do: the call, which gets its number.
        warm: calls before those that count; at least one call counts.
        steps: calls that count.
        limit: seconds after which no other call is begun; a compiled one's first never counts.
        unit: word for the calls, shown with the progress.
        is_compiled: whether the first call compiles.
    """
    marks = [time.perf_counter()]
    with closing(metered(range(warm + steps), warm + steps, unit)) as numbers:
        for i in numbers:
            do(i)
            if i < warm:
                _wait()
            marks.append(time.perf_counter())
            if marks[-1] - marks[0] > limit and i >= is_compiled:
                break
    _wait()
    marks[-1] = time.perf_counter()
    first = min(warm, len(marks) - 2)
    return (marks[-1] - marks[first]) / (len(marks) - 1 - first)


def _wait() -> None:
    """Wait until the GPU has done what it was given."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _peak(device: torch.device) -> str:
    """Return the largest memory taken so far, in words."""
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated() / GB:.2f} GB of the GPU's memory"
    import resource

    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return f"the process took {taken:.2f} GB"
