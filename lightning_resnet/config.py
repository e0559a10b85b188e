"""From command line and YAML to a trainer, a task and data: LightningCLI, with errors that tell the cure.

The signatures of ClassificationTask, ImageData, Trainer and RunOptions are the schema; there is no other.
"""

import inspect
import re
from argparse import ArgumentError
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import yaml
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities.exceptions import MisconfigurationException

import lightning_resnet.analysis.callbacks
import lightning_resnet.data.imagenet
import lightning_resnet.data.sources
import lightning_resnet.data.subset
import lightning_resnet.models  # noqa: F401 -- short class names are those of imported classes
from lightning_resnet.data.module import ImageData
from lightning_resnet.errors import UserError, nearest, one_line
from lightning_resnet.task import ClassificationTask

TRAINER_DEFAULTS = {  # ours does these
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "num_sanity_val_steps": 0,  # would validate before the first step, on batches that it then forgets
}


@dataclass
class RunOptions:
    """Where a run is kept and how it starts.

    Args:
        root: folder of all runs.
        name: folder of this one's kind; default: the recipe's file name.
        new: begin a numbered replicate instead of continuing.
        init_from: checkpoint to take the weights from, and nothing else.
        threads: of torch on the CPU; default: all cores, or what the run began with.
        point: key of the sweep point that this run is.
    """

    root: str = "runs"
    name: str | None = None
    new: bool = False
    init_from: str | None = None
    threads: int | None = None
    point: str | None = None


class ResNetCLI(LightningCLI):
    """Parses and instantiates; the verbs of `fit.py` do the rest.

    Args:
        verb: fit | validate | test | predict.
        args: the command line after the verb.
    """

    def __init__(self, verb: str, args: list[str]) -> None:
        self.verb = verb
        super().__init__(
            ClassificationTask,
            ImageData,
            run=False,
            args=normalise(args),
            save_config_callback=None,
            seed_everything_default=0,
            trainer_defaults=TRAINER_DEFAULTS,
            parser_kwargs={"exit_on_error": False, "allow_abbrev": False, "prog": f"resnet-cli {verb}"},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The run, and the checkpoint to evaluate."""
        parser.add_class_arguments(RunOptions, "run")
        if self.verb != "fit":
            parser.add_argument("--ckpt_path", type=str | None, default=None, help="default: the run's last checkpoint")

    def parse_arguments(self, parser: LightningArgumentParser, args: list[str]) -> None:
        """Parse; the run's name is by default the first recipe's."""
        recipes = [Path(b) for a, b in zip(args, args[1:], strict=False) if a in ("-c", "--config")]
        for recipe in recipes:
            _check_mapping(recipe)
        try:
            self.config = parser.parse_args(args)
        except ArgumentError as e:
            raise UserError(explain(one_line(e), parser)) from e
        if self.config.seed_everything < 0 or self.config.trainer.log_every_n_steps == 0:
            raise UserError("--seed_everything must be 0 or more, --trainer.log_every_n_steps 1 or more")
        if self.config.run.name is None:
            self.config.run.name = recipes[0].stem if recipes else "run"

    def instantiate_classes(self) -> None:
        """Build the data, the task and the trainer; what their constructors refuse is the user's to cure."""
        try:
            super().instantiate_classes()
        except (ValueError, RuntimeError, TypeError, MisconfigurationException) as e:
            raise UserError(one_line(e)) from e

    @property
    def resolved(self) -> str:
        """The whole configuration as YAML."""
        config = self.config.clone()
        config.pop("ckpt_path", None)
        config.run.new = False
        return self.parser.dump(config)


def normalise(args: list[str]) -> list[str]:
    """Move `--config FILE` before all flags, because flags win whatever their place; let `--run.new` stand alone."""
    recipes, flags, rest = [], [], list(args)
    while rest:
        arg = rest.pop(0)
        if arg in ("-c", "--config"):
            recipes += ["--config", *rest[:1]]
            rest = rest[1:]
        elif arg.startswith("--config="):
            recipes += ["--config", arg.removeprefix("--config=")]
        elif arg == "--run.new" and rest[:1] not in (["true"], ["false"]):
            flags.append("--run.new=true")
        else:
            flags.append(arg)
    return recipes + flags


def explain(message: str, parser: LightningArgumentParser) -> str:
    """A parser's message, with the nearest valid name for a key that does not exist."""
    unknown = re.search(r"Option '([^']+)' is not accepted|unrecognized arguments: (\S+)", message)
    if "are required" in message:
        return f"{message}: give a recipe, such as --config configs/digits.yaml"
    if not unknown:
        return re.sub(r'Parser key "([^"]+)":', r"\1:", message)
    key = (unknown[1] or unknown[2]).partition("=")[0].removeprefix("--")
    owner = re.findall(r"class_path '([^']+)'", message)
    if owner:
        valid = list(inspect.signature(resolve_name(owner[-1])).parameters)
        return f"unknown option {key} of {owner[-1].rpartition('.')[2]}{nearest(key, valid)}"
    valid = [a.dest for a in parser._actions if a.dest != "help"]
    return f"unknown option {key}{nearest(key, valid)}"


def _check_mapping(recipe: Path) -> None:
    try:
        content: Any = yaml.safe_load(recipe.read_text())
    except OSError as e:
        raise UserError(f"cannot read recipe {recipe}: {e.strerror}") from e
    except yaml.YAMLError as e:
        raise UserError(f"recipe {recipe} is not YAML: {one_line(e)}") from e
    if not isinstance(content, dict):
        raise UserError(f"recipe {recipe} is not a mapping (lines `key: value`) but a {type(content).__name__}")
    for key in content:  # jsonargparse would build the recipe's class, or lose the arguments, without a word
        if isinstance(content[key], str) and (arguments := [k for k in content if str(k).startswith(f"{key}.")]):
            raise UserError(
                f"{recipe} gives the class {key} and its argument {arguments[0]} as flat keys: write {key}.class_path "
                f"and {key}.init_args.{arguments[0].removeprefix(f'{key}.')} (in a sweep's parameters too)"
            )
