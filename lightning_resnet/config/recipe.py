"""Parse a command line and its recipes, and build the experiment that they describe.

`parse` gives a Config and writes nothing; `build` makes an Experiment of a Config. Both use
LightningCLI. The signatures of ClassificationTask, ImageData, Trainer and RunOptions are the only
schema.
"""

import inspect
import os
import re
from argparse import ArgumentError
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace, get_loader, set_loader
from pytorch_lightning import seed_everything
from pytorch_lightning.callbacks import Checkpoint, ProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.nn.parallel import DistributedDataParallel
from yaml import YAMLError

import lightning_resnet.data.augment.policies
import lightning_resnet.data.sources
import lightning_resnet.models
import lightning_resnet.training.callbacks  # noqa: F401 -- recipes name these classes by a word
from lightning_resnet import shipped
from lightning_resnet.aliases import true_classes, understood
from lightning_resnet.config.options import (
    RunOptions,
    check,
    check_gpus,
    gpus,
    local_devices,
    refuse_gpus_on_cpu,
)
from lightning_resnet.config.trust import Foreign, check_classes
from lightning_resnet.config.values import check_values, explain
from lightning_resnet.credentials import (
    refuse_secret_flags,
    refuse_secret_variables,
    refuse_secrets,
)
from lightning_resnet.data.module import ImageData
from lightning_resnet.data.shard import Shard
from lightning_resnet.engine import observers
from lightning_resnet.engine.launch import Launcher, Place, master_address, place, resolve
from lightning_resnet.engine.refused import check_plugins, refuse_plugins_named
from lightning_resnet.engine.rendezvous import Ranks
from lightning_resnet.engine.trainer import Trainer
from lightning_resnet.errors import UserError, one_line
from lightning_resnet.flags import read_recipe
from lightning_resnet.reading import check_yaml, line_of
from lightning_resnet.runs.find import weights_of
from lightning_resnet.runs.identity import public_path, with_public_paths
from lightning_resnet.runs.names import check_name, check_texts, is_hub_name
from lightning_resnet.runs.status import DEAD_S
from lightning_resnet.tracking.mirror import WandbOptions
from lightning_resnet.training.task import ClassificationTask

# our own code does what these options would do
TRAINER_DEFAULTS = {
    "logger": False,
    "enable_progress_bar": None,  # True if a progress bar is among the callbacks
    "enable_model_summary": False,
    "enable_checkpointing": None,  # True if a ModelCheckpoint is among the callbacks
    "num_sanity_val_steps": 0,  # would validate before the first step, and discard the result
}
COUNTS = [
    "trainer.overfit_batches",
    *(f"trainer.limit_{s}_batches" for s in ("train", "val", "test", "predict")),
]
# torch 2.13 has renamed broadcast_buffers
_SYNC_BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in inspect.signature(DistributedDataParallel.__init__).parameters
)


def _load(text: str) -> Any:
    """Check and read YAML: a file that a recipe or flag names, or the value of a flag.

    jsonargparse reads with its own loader, once the text is known to be harmless.
    """
    check_yaml(text)
    return true_classes(with_public_paths(_plain_load(text)))


_plain_load = get_loader("yaml")
set_loader("yaml", _load, (YAMLError,))


@dataclass(frozen=True)
class Config:
    """A recipe with its flags, parsed and checked; nothing is built.

    Attributes:
        verb: fit | validate | test | predict.
        values: value of each option, by its dotted key.
        parser: the parser that read the options.
    """

    verb: str
    values: Namespace
    parser: "RecipeParser"

    @property
    def run(self) -> Namespace:
        """Options of the run (`--run.KEY`)."""
        return self.values.run

    @property
    def trainer(self) -> Namespace:
        """Options of the trainer (`--trainer.KEY`)."""
        return self.values.trainer

    def replaced(self, values: dict[str, Any]) -> "Config":
        """Return a copy with other values of some options, by dotted key."""
        copied = self.values.clone()
        for key, value in values.items():
            copied[key] = value
        return replace(self, values=copied)

    @property
    def resolved(self) -> str:
        """The configuration as YAML, without what concerns one attempt only."""
        values = self.values.clone()
        for key in ("ckpt_path", "launcher"):
            values.pop(key, None)
        values.run.new = False
        values.run.must_resume = False
        values.run.dry = False
        values.run.code = None
        values.run.label = None
        return quoted(self.parser.parser.dump(values))


@dataclass
class Experiment:
    """What a configuration was built into.

    Attributes:
        trainer: Lightning's trainer.
        task: net, loss and optimizer.
        data: images and their loaders, not set up yet.
        config: the configuration.
    """

    trainer: Trainer
    task: ClassificationTask
    data: ImageData
    config: Config


def parse(verb: str, args: list[str], foreign: Foreign | None = None) -> Config:
    """Parse and check a command line; nothing is built or written.

    Args:
        verb: fit | validate | test | predict.
        args: the command line after the verb.
        foreign: recipe of a checkpoint or run, which `args` override.

    Raises:
        UserError: an option is unknown or refused; the message names a cure.
    """
    return RecipeParser(verb).read(args, foreign)


def build(config: Config, run_path: Path | None = None) -> Experiment:
    """Seed the generators, and build the data, the task and the trainer for this process.

    Args:
        config: the parsed configuration.
        run_path: directory of the run; default folder of the trainer and of loggers.

    Raises:
        UserError: a constructor refuses an option, or several ranks have yet to be started.
    """
    return config.parser.build(config, run_path)


def ranks_asked(config: Config) -> int:
    """Return the world size that the trainer's options ask for, where no launcher tells another."""
    return local_devices(config.trainer) * config.trainer.num_nodes


def find_place(config: Config) -> Place | None:
    """Return this process's place among the ranks; None: no launcher has started this process.

    Raises:
        UserError: the options do not match the ranks that the launcher has started.
    """
    launcher = resolve(config.values.launcher, os.environ)
    here = place(launcher, os.environ)
    trainer = config.trainer
    refuse_gpus_on_cpu(trainer, here is not None)
    check_gpus(trainer, launcher == "local")
    if here is None:
        return None
    asked = trainer.devices
    size = local_devices(trainer)
    if config.run.new and launcher != "local" and here.local_size * here.nodes > 1:
        raise UserError(
            "--run.new: ranks started by others cannot agree on a number; give --run.replicate N"
        )
    if asked not in ("auto", -1, "-1") and size != here.local_size:
        cure = "drop it"
        if launcher != "local":
            cure = "drop it, or add --launcher local to start them from here"
        if launcher == "slurm":
            cure = f"drop it, and ask Slurm: sbatch or srun --ntasks-per-node {size}"
        raise UserError(
            f"{launcher} runs {here.local_size} ranks per node, --trainer.devices is {asked}: "
            f"{cure}"
        )
    if trainer.num_nodes not in (1, here.nodes):
        raise UserError(
            f"{launcher} runs on {here.nodes} nodes, --trainer.num_nodes is {trainer.num_nodes}: "
            "drop it"
        )
    return here


def _take_place(config: Config) -> tuple[Place, Namespace]:
    """Tell Lightning this process's place; return the place, and the options for this place.

    Raises:
        UserError: several ranks have yet to be started.
    """
    here = find_place(config)
    values = config.values.clone()
    if here is None:
        ranks = ranks_asked(config)
        if ranks > 1:
            raise UserError(
                f"{ranks} ranks are asked for, and this process is alone: add --trainer.devices 1, "
                "or train with `resnet-cli fit`, which starts the ranks"
            )
        rank_zero_only.rank = 0
        # left in the shell; Lightning would read them
        for name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT"):
            os.environ.pop(name, None)
        return Place(0, 1, 0, 1), values
    rank_zero_only.rank = here.rank
    if here.local_size * here.nodes > 1:
        os.environ |= master_address(resolve(values.launcher, os.environ), os.environ)
    os.environ |= {"LOCAL_RANK": str(here.local_rank), "NODE_RANK": str(here.node)}
    asked = values.trainer.devices
    if not isinstance(asked, (str, list)) or asked in ("auto", "-1"):
        values.trainer.devices = here.local_size
    values.trainer.num_nodes = here.nodes
    return here, values


class RecipeParser(LightningCLI):
    """The parser of recipes, and Lightning's way to build from them.

    LightningCLI's constructor parses and builds at once. Here the constructor makes the parser
    only, `read` parses, and `build` builds.

    Args:
        verb: fit | validate | test | predict.
    """

    def __init__(self, verb: str) -> None:
        self.verb = verb
        observers.make_folders_optional()
        super().__init__(
            ClassificationTask,
            ImageData,
            trainer_class=Trainer,
            run=False,
            args=[],
            save_config_callback=None,
            seed_everything_default=0,
            trainer_defaults=TRAINER_DEFAULTS,
            parser_kwargs={
                "exit_on_error": False,
                "allow_abbrev": False,
                "prog": f"resnet-cli {verb}",
            },
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of the run, of W&B and of the launcher; a limit of 1 is one batch.

        Typing takes Lightning's `int | float` for any older union of these, float first: 1 would be
        1.0, all batches.
        """
        for action in parser._actions:
            if action.dest in COUNTS:
                action._typehint = int | float | None
        parser.add_class_arguments(RunOptions, "run")
        parser.add_class_arguments(WandbOptions, "wandb")
        parser.add_argument(
            "--launcher", type=Launcher, default="auto", help="what started, or starts, the ranks"
        )
        if self.verb != "fit":
            parser.add_argument(
                "--ckpt_path",
                type=str | None,
                default=None,
                help="default: the run's last checkpoint",
            )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse nothing: the constructor calls this, and neither parses nor seeds."""
        self.config = Namespace(seed_everything=False)

    def instantiate_classes(self) -> None:
        """Build nothing: the constructor calls this; `build` builds."""

    def read(self, args: list[str], foreign: Foreign | None = None) -> Config:
        """Parse and check a command line; see `parse`."""
        args = normalise(args, self.verb)
        refuse_secret_flags(args)
        refuse_secret_variables()
        recipes = [
            Path(word)
            for flag, word in zip(args, args[1:], strict=False)
            if flag in ("-c", "--config")
        ]
        for recipe in recipes:
            refuse_secrets(read_recipe(recipe), str(recipe))
        try:
            begun = foreign.parse(self.parser, args) if foreign else None
            values = self.parser.parse_args(args, namespace=begun)
        except ArgumentError as e:
            if "trainer.plugins" in str(e):
                refuse_plugins_named(str(e).rpartition("Given value")[2])
            key, why, value = explain(one_line(e), self.parser, args)
            raise UserError(why + _place(key, value, args, recipes)) from e
        check_classes(self.parser, values)
        check_values(values, self.parser)
        check(values)
        for key in ("callbacks", "plugins"):
            if isinstance(values.trainer[key], Namespace):  # a single one is a list of one
                values.trainer[key] = [values.trainer[key]]
            for item in values.trainer[key] or []:
                _use_plain_words(item.get("init_args", Namespace()))
        plugins = values.trainer.plugins or []
        refuse_plugins_named(" ".join(plugin.class_path for plugin in plugins))
        if values.run.init_from and not is_hub_name(values.run.init_from):
            values.run.init_from = str(weights_of(values.run.init_from, values.run.root))
        if values.run.name is None:
            values.run.name = recipes[0].stem if recipes else "run"
        check_name(values.run.name, "--run.name")
        check_texts(values.as_dict())
        refuse_secrets(values.as_dict())  # whatever way it came in: nothing has been written yet
        return Config(self.verb, values, self)

    def build(self, config: Config, run_path: Path | None) -> Experiment:
        """Build the objects of a configuration; see the function `build`."""
        self.place, self.config = _take_place(config)
        self.run_path = run_path
        seed_everything(self.config.seed_everything, workers=True)
        observers.place(self.config.trainer.logger, run_path or Path())
        try:
            super().instantiate_classes()
        except (ValueError, MisconfigurationException) as e:
            raise UserError(explain(one_line(e), self.parser)[1]) from e
        except ModuleNotFoundError as e:
            if not str(e).startswith("Requirement "):
                raise
            # Lightning's, about a device or precision whose package is missing
            raise UserError(one_line(e)) from e
        except (RuntimeError, TypeError) as e:  # torch's own, which do not tell whose they are
            net = self.config.model.net.class_path
            raise UserError(f"{net}, or what it is trained with: {one_line(e)}") from e
        self.datamodule.shard = Shard.of(self.trainer)
        return Experiment(self.trainer, self.model, self.datamodule, config)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer; several ranks get our strategy, which sends nothing but gradients."""
        trainer = self.config.trainer
        environment = LightningEnvironment()
        plugins = self.config_init.trainer.plugins or []
        check_plugins(plugins)
        kwargs |= self._observing()
        if local_devices(trainer) * trainer.num_nodes == 1:
            return super().instantiate_trainer(plugins=[environment, *plugins], **kwargs)
        if trainer.sync_batchnorm and not gpus(trainer):
            raise UserError(
                "--trainer.sync_batchnorm needs GPUs: leave it out; --model.bn_batch fixes what "
                "batch norm sees, for any number of ranks"
            )
        run = self.config.run
        # Longer than the watchdog waits: the rank that hangs must be the first to tell. And longer
        # than rank 0 of an elastic run waits for a lost owner, whose clock may be ahead.
        longest_s = max(run.hang_s, 2 * DEAD_S) if run.elastic else run.hang_s
        strategy = Ranks(
            self.place,
            cluster_environment=environment,
            timeout=timedelta(seconds=longest_s + 60),
            **{_SYNC_BUFFERS: False},  # in every step; we do before each evaluation
            gradient_as_bucket_view=True,
            find_unused_parameters=trainer.strategy == "ddp_find_unused_parameters_true",
        )
        return super().instantiate_trainer(strategy=strategy, **kwargs)

    def _observing(self) -> dict[str, Any]:
        """Return the trainer's default folder, and the switches that its callbacks need."""
        trainer = self.config_init.trainer
        callbacks = trainer.callbacks
        if not isinstance(callbacks, list):
            callbacks = [callbacks]
        chosen: dict[str, Any] = {}
        kinds = {"enable_checkpointing": Checkpoint, "enable_progress_bar": ProgressBar}
        for key, kind in kinds.items():
            found = [
                type(callback).__name__ for callback in callbacks if isinstance(callback, kind)
            ]
            if found and trainer[key] is False:
                raise UserError(
                    f"--trainer.{key} false and {found[0]} among the callbacks exclude each other"
                )
            chosen[key] = bool(found) if trainer[key] is None else trainer[key]
        if trainer.default_root_dir is None and self.run_path is not None:
            chosen["default_root_dir"] = str(self.run_path)
        return chosen


def _use_plain_words(arguments: Namespace) -> None:
    """Turn enumerations, such as Timer's `Interval.step`, and devices into words for YAML."""
    for key, value in arguments.items():
        if isinstance(value, Enum):
            arguments[key] = value.value
        elif isinstance(value, torch.device):
            arguments[key] = str(value)


def quoted(text: str) -> str:
    """Quote hashes such as 3e69836295 in YAML, which jsonargparse would read as numbers.

    PyYAML, which wrote the text, does not.
    """
    return re.sub(r"(?m)^(\s*(?:[^\s:]+:|-) )(\d+e\d+)$", r"\1'\2'", text)


def normalise(args: list[str], verb: str = "fit") -> list[str]:
    """Write out short names, and move `--config FILE` before all flags.

    Flags win over recipes wherever they stand. The name of a recipe of ours becomes its file.
    """
    recipes: list[str] = []
    flags: list[str] = []
    rest = understood(args, verb, tells=False)
    while rest:
        arg = rest.pop(0)
        if arg in ("-c", "--config"):
            recipes += ["--config", *(str(shipped.recipe_file(word)) for word in rest[:1])]
            rest = rest[1:]
        elif arg.startswith("--config="):
            recipes += ["--config", str(shipped.recipe_file(arg.removeprefix("--config=")))]
        else:
            flag, equals, value = arg.partition("=")
            flags.append(f"{flag}={public_path(value)}" if equals else public_path(arg))
    return recipes + flags


def _place(key: str, value: str, args: list[str], recipes: list[Path]) -> str:
    """Return the recipe and line that give a key, in brackets; empty if a flag gives the key.

    The text also tells if YAML has read a word such as `off` as false.

    Args:
        key: key of the option.
        value: value as parsed.
        args: the command line.
        recipes: files of the command line's recipes.
    """
    if not key or any(arg.startswith(f"--{key}") for arg in args):
        return ""
    for recipe in reversed(recipes):  # the last wins
        text = recipe.read_text()
        line = line_of(text, key)
        if not line:
            continue
        found = text.splitlines()[line - 1]
        word = re.search(r"[\s{,](on|off|yes|no|y|n)\s*([},#]|$)", found, re.I)
        where = f"{recipe}, line {line}"
        if word and value in ("True", "False"):
            return f" ({where}; YAML reads {word[1]} as {value.lower()}: quote it)"
        return f" ({where})"
    return ""
