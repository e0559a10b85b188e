"""A trial of a recipe on this machine: its own training step and evaluation, one rank's share; what they take.

resnet-cli doctor --config R.yaml

The step is `fit`'s own (runtime/step.py), with precision, compilation, mixing, loss, accumulation, optimizer and moving
average. What ranks say to one another and the recipe's callbacks have no part in it.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
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

WARM, STEPS, LEAST, EVALUATED, LIMIT_S = 3, 20, 3, 5, 60.0


class Pace(NamedTuple):
    """How fast training is at one size of images.

    Attributes:
        size: pixels per side; None: as stored.
        epochs: that have it.
        seconds: of an optimizer step.
    """

    size: int | None
    epochs: int
    seconds: float


class Trial(NamedTuple):
    """What a recipe takes of one rank.

    Attributes:
        paces: by size of the training images.
        evaluation: seconds, on average over the epochs.
        device: where it was measured, in words.
        peak: memory taken at most, in words.
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
        experiment: a recipe's, for one device; the data are set up.
        ranks: whose batch this one has a share of.
    """
    data, device = experiment.data, experiment.trainer.strategy.root_device
    torch.set_num_threads(experiment.config.run.threads or cores())
    loop = _begin(experiment)
    whole, data.batch_size = data.batch_size, data.batch_size // ranks
    try:
        loader, sizes = data.train_dataloader(), _sizes(experiment)
        paces = [
            Pace(size, len(epochs), _train(loop, loader, epochs[len(epochs) // 2], len(sizes)))
            for size, epochs in sizes.items()
        ]
        evaluation = _evaluate(experiment, ranks) / (experiment.trainer.check_val_every_n_epoch or 1)
    finally:
        data.batch_size = whole
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    return Trial(paces, evaluation, name, _peak(device))


def _begin(experiment: Experiment) -> FitLoop:
    """What `fit` does before its first step, without a run directory."""
    trainer, task, data = experiment.trainer, experiment.task, experiment.data
    trainer.fit_loop = loop = FitLoop(trainer, None, None, 0)
    loop.parts = trainer.accumulate_grad_batches
    loop.max_batches = length(experiment).steps * loop.parts
    trainer.state.fn, trainer.training = TrainerFn.FITTING, True
    trainer.datamodule, task.trainer = data, trainer
    trainer.strategy.connect(task)
    task.setup("fit")
    trainer.strategy.setup(trainer)
    task.on_fit_start()
    task.on_train_start()
    return loop


def _sizes(experiment: Experiment) -> dict[int | None, list[int]]:
    """Epochs of each size of the training images."""
    augment, sizes = experiment.data._augment_by_epoch(), {}
    for epoch in range(length(experiment).epochs):
        sizes.setdefault(augment(epoch).size, []).append(epoch)
    return sizes


def _train(loop: FitLoop, loader: Loader, epoch: int, shares: int) -> float:
    """Seconds of an optimizer step in an epoch; of the steps and the time for all it may take one of `shares`."""
    trainer, task = loop.trainer, loop.trainer.lightning_module
    loop.epoch = epoch
    loop._tell(0)
    step, total = Step(trainer, loop.parts), task.total_steps
    done = lambda: loop._tell(trainer.global_step % total)  # noqa: E731 -- schedules end where training does
    with closing(on_device(_endless(loader, epoch), trainer.strategy.root_device)) as batches:
        once = lambda i: step(batches, i * loop.parts, done)  # noqa: E731
        return _pace(once, WARM, max(LEAST, STEPS // shares), LIMIT_S / shares, "trial steps", bool(task.compiled))


@torch.no_grad()
def _evaluate(experiment: Experiment, ranks: int) -> float:
    """Seconds of an evaluation, from a few batches of each of its loaders."""
    trainer, data, task = experiment.trainer, experiment.data, experiment.task.eval()
    precision, seconds = trainer.precision_plugin, 0.0
    for k, loader in enumerate(data.val_dataloader()):
        with closing(on_device(_endless(loader), trainer.strategy.root_device)) as batches:

            def once(i: int) -> None:
                trainer.strategy.validation_step(precision.convert_input(next(batches)), i, k)  # noqa: B023

            warm = (
                len(loader) if len(loader) <= 1 + EVALUATED else 1
            )  # the last batch has a shape of its own to compile
            lap = _pace(once, warm, EVALUATED, LIMIT_S / 4, "trial batches of an evaluation", bool(task.compiled))
        mine = -(-len(loader) // ranks)
        seconds += lap * limited(mine, trainer.limit_val_batches, RunningStage.VALIDATING)
    # batches of an evaluation are twice as large as those of training, over which precise_bn measures
    return seconds + lap * task.precise_bn * trainer.accumulate_grad_batches / 2 * len(task.nets)


def _endless(loader: Loader, epoch: int = 0) -> Iterator[Batch]:
    """Yield the batches of an epoch, again and again."""
    for _ in count():
        with closing(loader.batches(epoch)) as batches:
            yield from batches


def _pace(do: Callable[[int], None], warm: int, steps: int, limit: float, unit: str, compiled: bool) -> float:
    """Seconds of a call. The first `warm` compile, choose kernels and fill the queue of batches: they do not count.

    Args:
        do: is given the number of the call.
        warm: calls before those that count, of which there is at least one.
        steps: calls that count.
        limit: seconds after which no other call is begun; a compiled one's first never counts.
        unit: what the calls are, for the progress.
        compiled: whether the first compiles.
    """
    marks = [time.perf_counter()]
    with closing(metered(range(warm + steps), warm + steps, unit)) as numbers:
        for i in numbers:
            do(i)
            if i < warm:
                _wait()
            marks.append(time.perf_counter())
            if marks[-1] - marks[0] > limit and i >= compiled:
                break
    _wait()
    marks[-1] = time.perf_counter()
    first = min(warm, len(marks) - 2)
    return (marks[-1] - marks[first]) / (len(marks) - 1 - first)


def _wait() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _peak(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated() / GB:.2f} GB of the GPU's memory"
    import resource

    return f"the process took {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB"
