"""A trained net out of a checkpoint or run, and what its numbers mean, without its data."""

import logging
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from lightning_resnet.config.recipe import Experiment, build, parse
from lightning_resnet.config.trust import Foreign
from lightning_resnet.errors import UserError
from lightning_resnet.runs.checkpoint import classes_in, load_checkpoint, newest_in
from lightning_resnet.runs.identity import read_recipe
from lightning_resnet.training.state_dict import EMA, check_same_tensors
from lightning_resnet.training.task import ClassificationTask

ALONE = "--trainer.devices 1 --trainer.num_nodes 1 --trainer.strategy auto".split()
ALONE += "--trainer.logger false --trainer.profiler null".split()
CHOSEN = ("callbacks", "loggers", "profilers")  # parts of Lightning that a recipe names
Weights = Literal["net", "ema"]


@dataclass
class Trained:
    """A net with the weights of a checkpoint.

    Attributes:
        path: of the checkpoint.
        experiment: what its configuration gives.
        classes: their names, in order of label; empty in checkpoints that do not tell.
    """

    path: Path
    experiment: Experiment
    classes: list[str]

    @property
    def task(self) -> ClassificationTask:
        """In eval mode, on the CPU."""
        return self.experiment.task.eval()

    def class_names(self) -> list[str]:
        """As the checkpoint tells, else as its source does (which may be read for it); else empty."""
        source = self.experiment.data.source
        if not self.classes and not hasattr(source, "classes"):
            with suppress(UserError):
                source.splits()
        return self.classes or list(getattr(source, "classes", []))

    @property
    def options(self) -> dict[str, Any]:
        """The net's arguments, as its recipe has them."""
        return dict(self.experiment.config.values.model.net.get("init_args") or {})


def device_for(asked: str | None) -> str:
    """What `--device` says; without it a GPU where there is one.

    Raises:
        UserError: it is not there.
    """
    if asked and asked.partition(":")[0] not in ("cpu", "cuda"):
        raise UserError(f"--device {asked}: say cpu or cuda")
    found = torch.cuda.is_available()
    if asked and asked.startswith("cuda") and not found:
        raise UserError(f"--device {asked}: no NVIDIA GPU with a driver: drop --device, or say cpu")
    return asked or ("cuda" if found else "cpu")


def build_alone(
    arguments: Sequence[str], accelerator: str | None = "cpu", foreign: Foreign | None = None, callbacks: bool = False
) -> Experiment:
    """Net, task and data of a recipe, for this process alone; no data are read.

    Args:
        arguments: of `fit`.
        accelerator: instead of the recipe's; None: the recipe's.
        foreign: a recipe of somebody else, which `arguments` override.
        callbacks: make the recipe's too.
    """
    hush()
    device = [f"--trainer.accelerator={accelerator}"] if accelerator else []
    without = [] if callbacks else ["--trainer.callbacks=null"]
    return build(parse("fit", [*arguments, *ALONE, *without, *device], foreign))


def hush() -> None:
    """Lightning's greetings and its own use of torch's older names are nothing that a user can act on.

    What callbacks, loggers and profilers say is shown: the user chose them.
    """
    for name in ("pytorch_lightning", "lightning_fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in CHOSEN:
        logging.getLogger(f"pytorch_lightning.{name}").setLevel(logging.INFO)
    common = logging.getLogger("pytorch_lightning.utilities.rank_zero")  # which all of Lightning speaks through
    common.setLevel(logging.INFO)
    common.addFilter(_says_a_chosen_one)
    warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")  # with the run's own in it
    warnings.filterwarnings("ignore", "`isinstance.treespec, LeafSpec.` is deprecated")


def _says_a_chosen_one(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or Path(record.pathname).parent.name in CHOSEN


def load(path: str | Path, flags: Sequence[str] = (), weights: Weights = "net", trust: bool = False) -> Trained:
    """Read a checkpoint, or a run's last; see `newest_in` and `restore`."""
    path = Path(path)
    file, checkpoint = newest_in(path) if path.is_dir() else (path, load_checkpoint(path))
    return restore(checkpoint, file, flags, weights, trust)


def restore(
    checkpoint: dict[str, Any],
    path: Path,
    flags: Sequence[str] | None = (),
    weights: Weights = "net",
    trust: bool = False,
) -> Trained:
    """The net that a checkpoint is of, by the recipe in it.

    Args:
        checkpoint: its content.
        path: where it was.
        flags: keys of a recipe that override the checkpoint's; None: the verb has no such flags.
        weights: as trained, or their moving average.
        trust: the recipe may name any code, which is run.

    Raises:
        UserError: it tells no net, is of another than it tells, holds no average, or names foreign code.
    """
    told = read_recipe(config_in(checkpoint, path), path)
    foreign = Foreign(told, path, trust, takes_flags=flags is not None)
    # as it evaluates, also at the size that a flag asks for
    whole = [] if foreign.kept()["data"].get("size") else ["--data.eval_share=1"]
    experiment = build_alone([*whole, *(flags or [])], foreign=foreign)
    take_weights(experiment.task, checkpoint["state_dict"], weights)
    return Trained(path, experiment, classes_in(checkpoint))


def config_in(checkpoint: dict[str, Any], path: Path) -> str:
    """The resolved configuration, as YAML, that a checkpoint was made with."""
    config = (checkpoint.get("run") or {}).get("config")
    if not isinstance(config, str):
        raise UserError(
            f"{path} does not tell what net it is of: give a checkpoint that `resnet-cli fit` or `convert` wrote"
        )
    return config


def take_weights(task: ClassificationTask, state: dict[str, torch.Tensor], weights: Weights = "net") -> None:
    """Load a checkpoint's net, raw or averaged, and its normalisation.

    Args:
        task: to load into.
        state: of the checkpoint, names with their prefixes `net.` and `ema.`.
        weights: as trained, or their moving average.

    Raises:
        UserError: there is no average, or the tensors are another net's.
    """
    prefix = EMA if weights == "ema" else "net."
    net = {k.removeprefix(prefix): t for k, t in state.items() if k.startswith(prefix)}
    if weights == "ema" and not net:
        raise UserError("the checkpoint holds no averaged weights (ema): the run had none; leave --weights out")
    check_same_tensors(task.net.state_dict(), net)
    normalisation = {name: getattr(task, name) for name in ("mean", "std")}
    check_same_tensors(normalisation, {name: state[name] for name in normalisation if name in state})
    task.net.load_state_dict(net)
    for name, tensor in normalisation.items():
        tensor.copy_(state[name])
