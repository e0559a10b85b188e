"""Tell what stays the same if a run goes on with another number of ranks, and what does not."""

import copy
import math
import random
from collections.abc import Iterator

import torch
from pytorch_lightning.callbacks import Callback
from torch import nn

from lightning_resnet.bounds import world_sizes
from lightning_resnet.config.recipe import Experiment, parse, ranks_asked
from lightning_resnet.config.summary import batches, smallest_share
from lightning_resnet.doctor.finding import Finding
from lightning_resnet.doctor.recipe import check_as_fit_does, halves
from lightning_resnet.engine.silence import silence_lightning
from lightning_resnet.engine.step import KNOWN_PACKAGES
from lightning_resnet.errors import UserError, one_line
from lightning_resnet.models.blocks import StochasticDepth
from lightning_resnet.reading import parse_yaml
from lightning_resnet.runs.identity import run_id
from lightning_resnet.runs.reader import Run
from lightning_resnet.training.callbacks import Curvature, ResponseStds
from lightning_resnet.training.hooks import TrainingHooks
from lightning_resnet.training.schedules import Schedule
from lightning_resnet.weights.trained import build_alone

# How far the gradients of a step differ where only the order of a sum does, by precision.
ROUNDING = {"64": "1e-12", "64-true": "1e-12", "32": "1e-6", "32-true": "1e-6"}
OWN_BATCH = (Curvature, ResponseStds)  # callbacks that measure the images of a rank


def elastic(recipe: list[str], run: Run) -> Iterator[Finding]:
    """Compare what a run would do on another number of ranks with what it does now.

    Args:
        recipe: arguments of `fit`: --config and the run's recipe, and then the flags with the
            number of ranks that are asked about.
        run: the run.
    """
    silence_lightning()
    config = parse("fit", recipe)
    ranks = ranks_asked(config)
    last = run.last_attempt()
    own = parse("fit", recipe[:2])
    # Older versions did not record the number of ranks.
    before = (last and last["ranks"]) or ranks_asked(own)
    try:
        experiment = build_alone(recipe, callbacks=True)
        callbacks = experiment.trainer.callbacks
        check_as_fit_does(experiment, ranks)
        made = batches(experiment, ranks)
    except (UserError, ValueError) as e:
        yield Finding("fails", "ranks", *halves(one_line(e)))
        return
    data = experiment.data
    shared = experiment.trainer.accumulate_grad_batches * smallest_share(experiment.task)
    sizes = world_sizes(data.batch_size, shared, data.batch_size)
    yield Finding("ok", "ranks", f"now {before}, then {made.text}; possible is {sizes}")
    if run_id(parse_yaml(config.resolved)) != run_id(parse_yaml(own.resolved)):
        text = "these settings make another run, which begins at step 1"
        yield Finding("warning", "run", text, "only settings of the machine keep the run")
    if ranks == before:
        text = "as many ranks continue bitwise, on the CPU, or with --trainer.deterministic true"
        yield Finding("ok", "results", text)
        return
    yield Finding("ok", "images", f"the same global batches, by --data.order {data.order}")
    yield Finding("ok", "draws", f"of {_hashed(experiment)}: the same, by image and place")
    differing = [
        *_draws(experiment, callbacks),
        *_batch_norm(experiment, before, ranks),
        *_losses(experiment),
    ]
    yield from differing
    yield _rate(experiment)
    yield _gradients(experiment, [f.what for f in differing if f.level == "warning"])
    yield from _metrics(experiment, callbacks)


def _hashed(experiment: Experiment) -> str:
    """Return in words which draws of a recipe are hashes of an image, a pair or a step."""
    augment = experiment.data.train_augment
    drawn = {
        "crops": augment.crop != "none",
        "flips": augment.flip,
        type(augment.policy).__name__: augment.policy is not None,
        "erased boxes": augment.erase > 0,
        "mixed pairs": experiment.task.mix is not None,
        "dropped branches": any(_branches(experiment.task.net)),
    }
    return ", ".join(name for name, is_drawn in drawn.items() if is_drawn) or "augmentation (none)"


def _draws(experiment: Experiment, callbacks: list[Callback]) -> Iterator[Finding]:
    """Name what draws from torch's generators, which each rank seeds for itself."""
    task = experiment.task
    drawing = []
    if _net_draws(experiment):
        drawing.append("the net (dropout)")
    if task.hooks is not None and type(task.hooks).augment is not TrainingHooks.augment:
        drawing.append(type(task.hooks).__name__)
    for callback in callbacks:
        if type(callback).__module__.partition(".")[0] not in KNOWN_PACKAGES:
            drawing.append(type(callback).__name__)
    if drawing:
        text = f"{', '.join(drawing)} may draw other numbers: generators are seeded by rank"
        yield Finding("warning", "generators", text)


def _net_draws(experiment: Experiment) -> bool:
    """Tell whether a pass of the net in training draws from torch's or Python's generator."""
    task = experiment.task
    parameter = next(task.net.parameters())
    net = copy.deepcopy(task.net).train()
    for branch in _branches(net):
        branch.eval()  # the task draws for these
    images = torch.zeros(
        smallest_share(task) * 2, *experiment.data.input_size, dtype=parameter.dtype
    )
    before = random.getstate()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        state = torch.random.get_rng_state()
        net(images)
        return not torch.equal(state, torch.random.get_rng_state()) or before != random.getstate()


def _branches(net: nn.Module) -> list[StochasticDepth]:
    """Return the layers of a net that drop residual branches."""
    return [module for module in net.modules() if isinstance(module, StochasticDepth)]


def _batch_norm(experiment: Experiment, before: int, ranks: int) -> Iterator[Finding]:
    """Compare the images over which batch norm takes statistics."""
    task = experiment.task
    former = batches(experiment, before).seen
    then = batches(experiment, ranks).seen
    is_synced = experiment.config.trainer.sync_batchnorm
    if not then:
        yield Finding("ok", "batch norm", "there is none")
    elif task.bn_batch:
        text = f"the same parts of {then} images, by --model.bn_batch; so are running statistics"
        yield Finding("ok", "batch norm", text)
    elif is_synced and experiment.trainer.accumulate_grad_batches == 1:
        yield Finding("ok", "batch norm", f"over all {then} images, by --trainer.sync_batchnorm")
    elif is_synced:
        text = f"statistics of {then} images, but others together, for they are accumulated"
        cure = "--trainer.accumulate_grad_batches 1, or --model.bn_batch, in a new run"
        yield Finding("warning", "batch norm", text, cure)
    else:
        part = math.gcd(former, then)
        text = f"statistics of {then} images in place of {former}"
        cure = f"--model.bn_batch {part} in a new run, which takes the same on both"
        yield Finding("warning", "batch norm", text, cure)


def _losses(experiment: Experiment) -> Iterator[Finding]:
    """Name what makes the mean over the ranks' losses differ from that over all images."""
    if experiment.data.on_bad == "count":
        text = "a damaged image leaves the others of its rank a larger weight"
        yield Finding("warning", "losses", text, "resnet-cli data verify finds them")


def _rate(experiment: Experiment) -> Finding:
    """Tell what the learning rate depends on."""
    schedule = experiment.task.schedule
    name = type(schedule).__name__
    if type(schedule).observe is Schedule.observe:
        return Finding("ok", "rate", f"the same: {name} goes by the step alone")
    text = f"{name} goes by metrics, whose rounding may move a step of the rate"
    return Finding("warning", "rate", text)


def _gradients(experiment: Experiment, differing: list[str]) -> Finding:
    """Tell how far a step's gradients differ.

    Args:
        experiment: experiment of the run.
        differing: names of what the step computes otherwise.
    """
    if differing:
        text = f"those of another step, because of {' and '.join(differing)}"
        return Finding("warning", "gradients", text)
    precision = str(experiment.config.trainer.precision or "32-true")
    error = ROUNDING.get(precision, "1e-2")
    text = f"equal up to the order of a sum, about {error} of a step in precision {precision}"
    return Finding("ok", "gradients", f"{text}; not bitwise")


def _metrics(experiment: Experiment, callbacks: list[Callback]) -> Iterator[Finding]:
    """Tell which metrics stay comparable."""
    text = "each image counts once: accuracies of the same net are equal, losses up to a sum"
    finding = Finding("ok", "evaluation", text)
    limit = experiment.trainer.limit_val_batches
    if limit != 1.0 or not isinstance(limit, float):
        text = "--trainer.limit_val_batches counts batches of a rank: other images are evaluated"
        finding = Finding("warning", "evaluation", text)
    yield finding
    own = [type(callback).__name__ for callback in callbacks if isinstance(callback, OWN_BATCH)]
    if own:
        text = f"{', '.join(own)}: of the images of a rank, which are others"
        yield Finding("warning", "callbacks", text)
