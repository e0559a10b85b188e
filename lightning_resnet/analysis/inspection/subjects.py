"""Load the nets to inspect, with batches of data, from runs, checkpoints, recipes and sweeps.

A run or checkpoint brings its weights; the net of a recipe or sweep is inspected as training would
begin. Flags of a recipe choose another net or other data, for example
`--model.net torchvision.models.resnet50 --data.size 64`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from lightning_resnet.analysis.compare.columns import short_names
from lightning_resnet.config.recipe import Experiment
from lightning_resnet.config.summary import without_variance
from lightning_resnet.config.trust import Foreign
from lightning_resnet.errors import UserError, tell
from lightning_resnet.machine import cores
from lightning_resnet.models.activations import Batch, train_mode
from lightning_resnet.progress import metered
from lightning_resnet.reading import read_yaml
from lightning_resnet.runs.checkpoint import classes_in, newest_of
from lightning_resnet.runs.find import find_run, find_runs, sweep_folder
from lightning_resnet.runs.identity import flatten, read_recipe
from lightning_resnet.runs.names import is_hub_name
from lightning_resnet.runs.reader import Run
from lightning_resnet.shipped import recipe_file
from lightning_resnet.sweeps.check import arguments as arguments_of
from lightning_resnet.sweeps.points import read
from lightning_resnet.weights.classes import align
from lightning_resnet.weights.trained import (
    build_alone,
    config_in,
    read_weights,
    take_weights,
    tell_apart,
)

EVAL_BATCH = 256  # images per forward pass at most; in eval mode no result depends on it


@dataclass
class Subject:
    """A net to inspect.

    Attributes:
        experiment: experiment with the net.
        path: path of the run or file.
        at: init | last | best, or the checkpoint's name; prev if last is damaged.
        batches: number of training batches to look at.
        device: device of net and batches.
        state: tensors of the checkpoint; None before training.
        classes: names of the net's outputs; empty before training.
        foreign: recipe of the run or checkpoint; None: the command line has the recipe.
    """

    experiment: Experiment
    path: Path
    at: str
    batches: int
    device: str
    state: dict[str, torch.Tensor] | None = None
    classes: Sequence[str] = ()
    foreign: Foreign | None = None

    @property
    def net(self) -> nn.Module:
        """The net in eval mode, on the device."""
        return self.experiment.task.net.to(self.device).eval()

    @property
    def finite_net(self) -> nn.Module:
        """The net in eval mode, on the device, for measures in eval mode.

        Raises:
            UserError: a weight or statistic, or a logit of a batch, is infinite or NaN.
        """
        self._check_weights()
        with torch.no_grad():
            self._check_logits(self.net(self._first))
        return self.net

    @property
    def finite_net_in_training(self) -> nn.Module:
        """The net in eval mode, on the device, for measures in train mode.

        Raises:
            UserError: a weight or statistic, or a logit of a batch in train mode, is infinite or
                NaN, or batch norm sees one value.
        """
        self._check_weights()
        images = self._first
        net = self.net
        try:
            with torch.no_grad(), train_mode(net):
                self._check_logits(net(images))
        except ValueError as e:
            if "more than 1 value per channel" not in str(e):
                raise
            raise without_variance(net, len(images)) from e
        return net

    def _check_weights(self) -> None:
        for name, tensor in self.net.state_dict().items():
            if not torch.isfinite(tensor).all():
                raise UserError(
                    f"{name} is not finite (NaN or infinite): nothing can be measured there; "
                    "inspect an earlier checkpoint, --at best"
                )

    def _check_logits(self, logits: torch.Tensor) -> None:
        if not torch.isfinite(logits).all():
            raise UserError(
                "all weights are finite, but not the logits of a batch (NaN or infinite): nothing "
                "can be measured there; inspect an earlier checkpoint, --at best, or start with "
                "another --model.net.init"
            )

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Settings under the short names of `compare` (net, depth, shortcut, ...), and `at`."""
        tree = yaml.safe_load(self.experiment.config.resolved)
        if self.foreign:  # options that were not taken tell runs apart all the same
            kept = self.foreign.kept()
            for name, part in self.foreign.told.items():
                if isinstance(part, dict) and isinstance(tree.get(name), dict):
                    tree[name] |= {k: v for k, v in part.items() if k not in kept.get(name, {})}
        flat = flatten(tree)
        named = {short: flat[key] for key, short in short_names(flat).items()}
        # the class of the net may be that of others too: torchvision's resnet18 makes a ResNet
        net = tree["model"]["net"]["class_path"].rpartition(".")[2]
        return named | {"net": net, "at": self.at}

    @cached_property
    def train(self) -> list[Batch]:
        """First training batches of epoch 0, normalised, augmented as in training."""
        return self._take(self.experiment.data.train_dataloader(), self.batches)

    @cached_property
    def _first(self) -> torch.Tensor:
        """Images of the first training batch, as many as an evaluation takes at once."""
        first = self.train if "train" in vars(self) else None
        first = first or self._take(self.experiment.data.train_dataloader(), 1)
        return first[0][0][:EVAL_BATCH]

    @cached_property
    def train_eval(self) -> list[Batch]:
        """All training images that measure the clean training error, not augmented."""
        return self._take(self.experiment.data.val_dataloader()[1], None)

    @cached_property
    def val(self) -> list[Batch]:
        """All validation images, in batches."""
        return self._take(self.experiment.data.val_dataloader()[0], None)

    def _take(self, loader: Any, n: int | None) -> list[Batch]:
        """Return the first `n` batches of a loader, normalised; None: all batches."""
        task = self.experiment.task
        n = min(len(loader), n or len(loader))
        taken = metered(islice(loader.batches(0), n), n, "batches read")
        return [(((x - task.mean) / task.std).to(self.device), y.to(self.device)) for x, y in taken]


def subjects(
    targets: Sequence[str],
    flags: list[str] | None,
    at: str = "last",
    batches: int = 4,
    device: str = "cpu",
    trust: bool = False,
    one: bool = False,
) -> Iterator[Subject]:
    """Yield the nets of each target.

    Args:
        targets: runs, as `find_run` finds them, folders of runs, checkpoints, names of weights on
            a hub, recipes or sweeps (.yaml); none: `flags` have --config.
        flags: keys of a recipe that override the target's; None: the verb has no such flags.
        at: checkpoint of runs: last | best, or init.
        batches: number of training batches to look at.
        device: cpu | cuda.
        trust: whether recipes of runs and checkpoints may name any code, which is run.
        one: refuse a folder of several runs, and list them; all images of another folder than the
            recipe's validate.

    Raises:
        UserError: a target is none of these, has no checkpoint, has fewer outputs than the data
            has classes, or names foreign code.
    """
    for path, recipe, checkpoint, name in _all(targets, at, one):
        arguments: list[str] = []
        foreign = None
        if isinstance(recipe, list):
            arguments = recipe
        else:
            foreign = _foreign(recipe, path, trust)._replace(
                has_weights=checkpoint is not None, takes_flags=flags is not None
            )
        experiment = _build([*arguments, *(flags or [])], foreign, one)
        state = None
        classes: list[str] = []
        if checkpoint:
            state = checkpoint["state_dict"]
            take_weights(experiment.task, state)
            classes = align(experiment.data, experiment.task.net, classes_in(checkpoint))
        yield Subject(experiment, path, name, batches, device, state, classes, foreign)
    if not targets:
        yield Subject(_build(flags or []), Path("recipe"), "init", batches, device)


def again(subject: Subject, flags: list[str]) -> Subject:
    """Return the net of a subject's foreign recipe, before training, with other flags."""
    experiment = _build(flags, subject.foreign)
    return Subject(
        experiment, subject.path, "init", subject.batches, subject.device, foreign=subject.foreign
    )


def _foreign(config: str, path: Path, trust: bool) -> Foreign:
    """Read the recipe of a run or checkpoint."""
    return Foreign(read_recipe(config, path), path, trust)


# path; arguments of `fit`, or the recipe of a run or checkpoint; checkpoint; name of the checkpoint
Found = tuple[Path, list[str] | str, dict[str, Any] | None, str]


def _all(targets: Sequence[str], at: str, one: bool) -> Iterator[Found]:
    """Yield what is to be built for each target; `one`: as in `subjects`."""
    for word in targets:
        target = Path(word)
        if is_hub_name(word):
            _, checkpoint = read_weights(word)
            yield target, config_in(checkpoint, target), checkpoint, "pretrained"
            continue
        recipe = recipe_file(target)
        if recipe.suffix != ".yaml":
            target = sweep_folder(word)
            if one or not target.is_dir():
                target = find_run(word)
        if target.is_dir():
            yield from _runs(target, at)
        elif recipe.suffix == ".yaml":
            for arguments in _recipes(recipe):
                yield target, arguments, None, "init"
        else:
            _, checkpoint = read_weights(target)
            yield target, config_in(checkpoint, target), checkpoint, target.stem


def _recipes(file: Path) -> Iterator[list[str]]:
    """Yield the arguments of a recipe, or of each point of a sweep."""
    try:
        content = read_yaml(file)
    except UserError as e:
        raise UserError(f"{e}; give a recipe, a sweep, a run or a checkpoint") from e
    if not isinstance(content, dict) or "parameters" not in content:
        yield ["--config", str(file)]
        return
    sweep = read(file)
    if sweep.search:
        raise UserError(
            f"{file} is a sweep whose points are found while it runs: give the folder of its runs"
        )
    for point in sweep.points:
        yield arguments_of(sweep, point)


def _runs(root: Path, at: str) -> Iterator[Found]:
    """Yield the runs that have the checkpoint, and print a line for each other run.

    Raises:
        UserError: no run has the checkpoint.
    """
    has_any = False
    for run in find_runs([root]):
        name = at
        checkpoint = None
        missing = ""
        config_file = Run(run).config_file
        if not config_file.exists():
            missing = config_file.name
        elif at != "init":
            file, checkpoint = newest_of(run, at)
            if file:
                name = file.stem
            else:
                missing = f"{Run(run).checkpoints.name}/{at}.ckpt"
        if missing:
            tell(f"skipped {run}: no {missing}")
            continue
        has_any = True
        yield run, Run(run).config_text(), checkpoint, name
    if not has_any:
        raise UserError(
            f"no run to inspect in {root}: train one with `resnet-cli fit`, or give a recipe"
        )


def _build(
    arguments: list[str], foreign: Foreign | None = None, to_evaluate: bool = False
) -> Experiment:
    """Build an experiment for this process alone, read its data, and set the normalisation."""
    experiment = build_alone(arguments, foreign=foreign)
    torch.set_num_threads(experiment.config.run.threads or cores())
    task = experiment.task
    data = experiment.data
    # the recipe's own batch may be for many devices, and here is one
    own = 2 * data.batch_size // experiment.trainer.accumulate_grad_batches
    data.eval_batch = min(own, EVAL_BATCH)
    if foreign and to_evaluate:
        tell_apart(experiment, foreign.told)
    data.setup()
    task.mean.copy_(torch.tensor(data.source.mean).view(3, 1, 1) * 255)
    task.std.copy_(torch.tensor(data.source.std).view(3, 1, 1) * 255)
    return experiment
