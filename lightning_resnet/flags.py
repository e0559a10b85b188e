"""Check the keys of a recipe and their values, in flags and in files, before torch is imported.

What is refused here, the parser of recipes would refuse too, seconds later. What only the parser
can judge is let through: arguments of classes that are not ours, and options of a Lightning or
torch other than those that `keys.json` was written with.
"""

import errno
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import lcm
from pathlib import Path
from typing import Any

from lightning_resnet import meant, shipped
from lightning_resnet.aliases import (
    NO,
    PATHS,
    SHORT,
    SYNONYMS,
    YES,
    is_flag,
    key_of,
    of_verb,
    said,
    true_name,
)
from lightning_resnet.bounds import (
    MOST_RANKS,
    TRAIN_IMAGES,
    check_batch,
    check_crop,
    check_devices,
    check_imagenet_depth,
    check_pad,
    check_parts,
    cifar_blocks,
)
from lightning_resnet.credentials import refuse_secrets
from lightning_resnet.errors import UserError, most_similar, nearest, printable
from lightning_resnet.files import IMAGES
from lightning_resnet.keys import (
    Key,
    class_of,
    classes,
    is_current,
    keys,
    record_of,
    weights_of_torchvision,
)
from lightning_resnet.reading import line_of, parse_yaml, read_yaml
from lightning_resnet.words import INSTEAD, NO_SHORT, PLACES, by_word

SHOWN = 60  # characters of a value in a message
MOST_UNKNOWN = 5  # unknown keys of a recipe in one message
OF_TRAINING = (  # keys that change nothing about a trained run
    "trainer.max_epochs",
    "trainer.min_epochs",
    "trainer.max_steps",
    "trainer.min_steps",
    "model.schedule",
    "model.optimizer",
)
OTHERS = ("config", "print_config", "print_shtab", "help")  # flags that are no keys
SECTIONS = {  # section of a recipe -> one of its keys
    "trainer": "trainer.max_epochs",
    "model": "model.net",
    "data": "data.batch_size",
    "run": "run.name",
    "wandb": "wandb.mode",
}
BETWEEN = ("class_path", "init_args", "dict_kwargs")  # words within the key of an argument
CLASS_WORDS = ("_target_", "target", "type", "name", "cls", "class")  # for class_path
ARGUMENT_WORDS = ("args", "params", "kwargs", "arguments", "init_arg", "options")  # for init_args
PACKAGES = ("lightning_resnet", "torch.optim")  # whose classes are in the table
EXPONENT = re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+")  # a number such as 1e-3
SWITCHES = ("--json", "--trust")  # flags of the other verbs that are no keys
NOT_FOR_FIT = ("ckpt_path",)
SEVERAL = "one run has one value, and a sweep trains with several: resnet-cli recipes "
SEVERAL += "digits_degradation"
OF_OURS = {  # key that takes no class of another package -> how to write a class of one's own
    "data.source": ": a subclass of Source is (docs/extending.md), or --data FOLDER",
    "model.schedule": ": a subclass of Schedule is (docs/extending.md)",
}
TRAINED = "trainer.limit_train_batches"
LIMITS = dict.fromkeys(  # keys of a part of the batches -> what they may be
    (
        TRAINED,
        "trainer.limit_val_batches",
        "trainer.limit_test_batches",
        "trainer.limit_predict_batches",
        "trainer.overfit_batches",
    ),
    "a share of the batches from 0 to 1, such as 0.5, or a whole number of batches",
)
SWITCHED = dict.fromkeys(YES, "true") | dict.fromkeys(NO, "false")
UNITS = {"run.save_minutes": "min", "run.hang_s": "s"}  # keys of times -> unit
# trainer options that our loop does not have, and what to use instead
OTHER_WAYS = {
    "max_time": "it would cut the schedule; let SIGUSR1 end the job in time, and the same command "
    "continue",
    "val_check_interval": "use --trainer.check_val_every_n_epoch",
    "reload_dataloaders_every_n_epochs": "the loaders know the epoch",
    "barebones": "resnet-cli bench step measures the bare step",
    "model_registry": "nothing is uploaded to a model hub; resnet-cli convert writes weights that "
    "can be",
}
STRATEGIES = (
    "auto",
    "ddp",
    "ddp_find_unused_parameters_true",
    "ddp_find_unused_parameters_false",
)


@dataclass
class Given:
    """A key and its value, as a flag or a recipe gives them.

    Attributes:
        key: dotted key, with `init_args` where a recipe has it.
        value: a text if a flag gives it, else the value that YAML has.
        recipe: path of the recipe; None: a flag.
    """

    key: str
    value: Any
    recipe: Path | None = None

    @property
    def parsed(self) -> Any:
        """The value as YAML reads it."""
        if self.recipe or not isinstance(self.value, str) or self.value.endswith(":"):
            return self.value  # torchvision: is no mapping
        try:
            return parse_yaml(self.value)
        except UserError:
            return self.value

    @property
    def dashes(self) -> str:
        """What stands before the key where the user writes it."""
        return "" if self.recipe else "--"

    @property
    def place(self) -> str:
        """The recipe and the line of the key, in brackets; empty for a flag."""
        if not self.recipe:
            return ""
        line = line_of(self.recipe.read_text(), self.key)
        return f" ({self.recipe}, line {line})" if line else f" ({self.recipe})"


def check(words: Sequence[str], verb: str, is_complete: bool = True) -> "Checked | None":
    """Refuse keys that do not exist, and values that a key cannot have.

    Args:
        words: flags and recipes, with true keys (`aliases.understood`).
        verb: the verb, which decides whether there is a `ckpt_path`.
        is_complete: whether flags and recipes are all there is; False: they override the recipe of
            a run or checkpoint.

    Returns:
        All keys with their values; None where the command line asks for help.

    Raises:
        UserError: the message names a cure.
    """
    pages = (".help", "--help", "-h", "--help-all")
    if any(word.endswith(pages) or "--print_" in word for word in words):
        return None
    if verb != "fit":
        words = [word for word in words if word not in SWITCHES]
    flags = list(_flags_in(words, verb))
    if any(given.key == "ckpt_path" for given in flags):
        is_complete = False
    recipes = []
    for given in flags:
        if given.key == "config" and given.value in shipped.sweeps():
            raise UserError(f"{given.value} is a sweep, no recipe: resnet-cli sweep {given.value}")
        if given.key == "config":
            recipes.append(_file_of(given.value))
    contents = {recipe: read_recipe(recipe) for recipe in recipes}
    everything: list[Given] = []
    for recipe, content in contents.items():
        refuse_secrets(content, str(recipe))
        everything += _flatten(content, recipe)
    everything += [given for given in flags if given.key not in OTHERS]
    checked = Checked(everything, verb, is_complete)
    for recipe in [*contents, None]:
        together = [given for given in everything if given.recipe == recipe]
        if recipe:  # a mapping has no order
            for given in together:
                checked.choose(given)
        unknown = []
        for given in together:
            checked.choose(given)
            try:
                checked.one(given)
            except UserError as e:
                if recipe is None or not str(e).startswith("unknown option "):
                    raise
                unknown.append(str(e))
        if unknown:  # all at once, as one writes a recipe
            raise UserError("; ".join(unknown[:MOST_UNKNOWN]))
    if is_complete:
        checked.required()
        checked.together()
    return checked


def refuse_training(words: Sequence[str], verb: str) -> None:
    """Refuse keys of the training itself where a trained run or checkpoint is used.

    Args:
        words: the keys of a recipe, as flags, next to the run.
        verb: the verb, which trains nothing.

    Raises:
        UserError: a key would change nothing without a word.
    """
    used = ("model.optimizer",) if verb == "inspect" else ()  # curvature has a line at 2 / lr
    for word in words:
        key = word.partition("=")[0].removeprefix("--")
        of_training = [name for name in OF_TRAINING if key == name or key.startswith(f"{name}.")]
        if is_flag(word) and of_training and of_training[0] not in used:
            raise UserError(
                f"{word.partition('=')[0]} changes nothing here, as {verb} does not train: leave "
                "it out; resnet-cli fit trains"
            )


def _file_of(word: str) -> Path:
    """Return the file of a recipe.

    Raises:
        UserError: a folder is named, or no recipe but another kind of file.
    """
    file = shipped.recipe_file(word)
    shown = printable(word, SHOWN)
    if word and file.is_dir():
        raise UserError(f"--config {shown} is a folder: give the file of a recipe in it")
    if "://" in word:
        raise UserError(f"--config {shown} is an address: fetch the file first, and give its path")
    if "," in word and not file.exists():
        raise UserError(f"--config {shown}: write --config {shown.replace(',', ' --config ')}")
    if not word:
        raise UserError("--config needs a value: a recipe, such as digits")
    first, *others = word.split() or [word]
    is_line = (others[:1] or ["--"])[0].startswith("-")
    if first != word and is_line and not file.exists() and shipped.recipe_file(first).is_file():
        raise UserError(f"--config '{shown}': leave the quotes out: --config {word.strip()}")
    if told := _of_other_file(file) if file.is_file() else "":
        raise UserError(f"--config {shown} {told}")
    if word == "-":
        raise UserError("--config -: a recipe is read from a file, not from the standard input")
    return file


def _of_other_file(file: Path) -> str:
    """Return what a file is by its name, and what to do; empty: it may be a recipe."""
    shown = shlex.quote(str(file))
    if file.suffix in (".ckpt", ".pth", ".pt", ".th", ".safetensors"):
        return f"is a file of weights: --run.init_from {shown} starts from them"
    if file.suffix.lower() in IMAGES:
        return "is an image: a recipe follows --config, such as digits"
    if file.suffix in (".sbatch", ".slurm", ".sh"):
        return f"is a batch script: sbatch {shown} --config digits submits it"
    return ""


def read_recipe(recipe: Path) -> dict[str, Any]:
    """Read a recipe's file, and refuse what jsonargparse would misread without an error.

    Raises:
        UserError: the file cannot be read, is no mapping, or gives an option twice.
    """
    try:
        content: Any = read_yaml(recipe)
    except UserError as e:
        if recipe.exists():
            raise UserError(f"recipe {e}") from e
        hint = _similar_recipe(recipe)
        raise UserError(f"cannot read recipe {recipe}: {os.strerror(errno.ENOENT)}{hint}") from e
    if not isinstance(content, dict):
        raise UserError(
            f"recipe {recipe} is not a mapping (lines `key: value`) but {kind_of(content)}"
        )
    if "parameters" in content and content.keys() & {"method", "command"}:
        raise UserError(f"{recipe} is a sweep, no recipe: resnet-cli sweep {recipe}")
    if told := _of_other_program(content):
        raise UserError(f"{recipe} is {told}; resnet-cli recipes digits > my.yaml begins a recipe")
    # jsonargparse would build the recipe's class, or lose the arguments, without an error
    for key, value in content.items():
        arguments = [other for other in content if str(other).startswith(f"{key}.")]
        if isinstance(value, str) and arguments:
            name = arguments[0].removeprefix(f"{key}.")
            raise UserError(
                f"{recipe} gives the class {key} and its argument {arguments[0]} as flat keys: "
                f"write {key}.class_path and {key}.init_args.{name} (in a sweep's parameters too)"
            )
    told: set[str] = set()
    for key in _options_in(content):  # one of two would win, without an error
        if key in told:
            raise UserError(
                f"recipe {recipe} gives {key} twice, once with dots: remove or join one of them"
            )
        told.add(key)
    return content


def _of_other_program(content: Mapping[str, Any]) -> str:
    """Return what a file of another program is, by its keys; empty: it may be a recipe."""
    has_targets = any(isinstance(part, dict) and "_target_" in part for part in content.values())
    if {"defaults", "hydra", "_target_"} & content.keys() or has_targets:
        return "a Hydra config, whose keys are others here"
    if "names" in content and content.keys() & {"train", "val", "nc"}:
        return "a list of images for ultralytics: --data FOLDER takes one folder per class"
    if "wandb_version" in content:
        return "W&B's record of a run: the recipe is config.yaml in the run's own folder"
    if content.keys() & {"architectures", "model_type"}:
        return "a net's config of Hugging Face: --run.init_from hf:ORG/REPO starts from its weights"
    return ""


def _similar_recipe(recipe: Path) -> str:
    """Return a suggestion for a recipe that does not exist: a file next to it, or one of ours."""
    names = {str(file.with_suffix("")): str(file) for file in recipe.parent.glob("*.y*ml")}
    given = re.sub(r"\.(yaml|yml|json)$", "", str(recipe))
    best = most_similar(given, names)
    hint = f"; did you mean {names[best]}?" if best else meant.recipe(str(recipe))
    is_path = recipe.suffix or re.search(r"[/\\]", str(recipe))
    return f" (seen from {Path.cwd()})" if is_path and hint.endswith(meant.OF_YOUR_OWN) else hint


def _options_in(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted key of each option in a recipe; lists are options."""
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value:
            yield from _options_in(value, f"{key}.")
        else:
            yield key


def _flags_in(words: Sequence[str], verb: str) -> Iterator[Given]:
    """Yield each flag with its value; all verbs but fit may have a run as a word of its own.

    Raises:
        UserError: a word is no flag, or a flag has no value.
    """
    rest = list(words)
    before = ""
    while rest:
        word = rest.pop(0)
        if not is_flag(word):
            if verb == "fit" or re.match(r"[+~]*[\w.]+=|~", word):
                at = len(words) - len(rest) - 1
                flag = words[at - 2].partition("=")[0] if at > 1 else ""
                if is_flag(flag) and _is_unknown(flag):
                    raise UserError(f"unknown option {flag}{hint_for(flag.lstrip('-'), verb)}")
                raise UserError(f"unknown option {printable(word, SHOWN)}{_stray(words, at)}")
            if before == "--ckpt_path":
                if word == "-":
                    raise UserError(
                        "-: images are read from files, not from the standard input: give the "
                        "name of a file"
                    )
                raise UserError(
                    f"{printable(word, SHOWN)}, a word too many: {verb} takes one run, and the "
                    "images of its recipe; other images are --data FOLDER"
                )
            yield Given("ckpt_path", word)
            continue
        flag, has_value, value = word.partition("=")
        if not has_value:
            if not rest or is_flag(rest[0]):
                key = flag.lstrip("-").rstrip("+")
                record = record_of(key)
                needs = f": {record.needs}" if record else ""
                if key in ("data", "model"):
                    what = {"data": "a folder of images, or CIFAR10", "model": "a net: resnet20"}
                    raise UserError(f"{flag} needs a value, such as {what[key]}")
                if key in SECTIONS:
                    raise UserError(f"{flag} needs a key, as in --{SECTIONS[key]} VALUE")
                if key == "model.net":
                    needs = ": a net, such as resnet20"
                if key in ("config", "c"):
                    needs = ": a recipe, such as digits"
                if record or key in OTHERS or class_of(key):
                    raise UserError(f"{flag} needs a value{needs}")
                value = ""
            else:
                value = rest.pop(0)
        if re.match("-[A-Za-z]{2}", flag) and flag[1:] in OTHERS:
            raise UserError(f"unknown option {flag}: write -{flag}, with two hyphens")
        if re.match("-[A-Za-z]", flag) and flag != "-c":
            raise UserError(f"unknown option {flag}{hint_for(flag[1:], verb)}")
        if value == "=" and rest:
            raise UserError(f"{flag} = {printable(rest[0], SHOWN)}: leave the = out")
        name = flag.lstrip("-").rstrip("+")
        before = flag
        pair = re.fullmatch(r"(\w+)=(.+)", value) if name == "ckpt_path" else None
        if pair and pair[1] in PLACES.split() and not Path(value).exists():
            raise UserError(f"{value}: the run is a word: resnet-cli {verb} {pair[2]}")
        yield Given("config" if flag == "-c" else name, value)


def _is_unknown(flag: str) -> bool:
    """Tell whether a flag with two hyphens is no key, section or option of the parser."""
    name = flag.lstrip("-").rstrip("+")
    known = (*SECTIONS, *OTHERS)
    if not flag.startswith("--") or name in known or _is_below_an_object(name):
        return False
    return record_of(name) is None and class_of(name) is None


def _stray(words: Sequence[str], at: int) -> str:
    """Return the end of the message for a word of `fit` that is no flag: what is meant.

    Args:
        words: the command line after the verb.
        at: position of the word.
    """
    word = words[at]
    shown = printable(word, SHOWN)
    spaced = " ".join(words[at - 1 : at + 1])
    if at and Path(spaced).exists():
        return f": a path with a space needs quotes: {shlex.quote(spaced)}"
    if line := _of_pairs(words):
        return f": write {line}"
    if at > 1 and words[at - 1].startswith("{"):
        pasted = shlex.quote(" ".join(words[at - 1 : at + 1]))
        return f": a mapping is in quotes in a shell: {words[at - 2]} {pasted}"
    if (hydra := re.fullmatch(r"([+~]*)([\w./-]+?)=(.*)", word)) or word.startswith("~"):
        return _of_hydra(*hydra.groups()) if hydra else _of_hydra("~", word[1:], "")
    if words[at + 1 : at + 2] == ["="] and key_of(f"--{word}"):
        return f": write --{key_of(f'--{word}')} {' '.join(words[at + 2 : at + 3])}"
    pair = re.fullmatch(r"([A-Za-z][\w.]*):(\S+)", word)
    if pair and key_of(f"--{pair[1]}"):
        return f": write --{key_of(f'--{pair[1]}')} {pair[2]}"
    if words[at + 1 : at + 2] and not is_flag(words[at + 1]) and key_of(f"--{word}"):
        return f": write --{key_of(f'--{word}')} {words[at + 1]}"
    if re.match("-?[\u2013\u2014\u2212]", word):  # what a text program makes of two hyphens
        bare = word.lstrip("-\u2013\u2014\u2212")
        return f": it begins with another sign than two hyphens: --{bare}"
    if word in shipped.sweeps():
        return f": this is a sweep: resnet-cli sweep {shown}"
    if word.endswith((".yaml", ".yml", ".json")) or word in shipped.recipes():
        return f": put --config before a recipe: --config {shown}"
    if told := _of_other_file(Path(word)) if Path(word).is_file() else "":
        return f": it {told}"
    if Path(word).is_dir():
        return f": for a folder of images give --data {shown}"
    if meant.numbers([word]) and at > 1 and words[at - 2].startswith("-"):
        return _several(words, at)
    hint = meant.recipe(word)
    if " is a folder of recipes" in hint:
        return hint
    if word.lower() in weights_of_torchvision() or re.fullmatch(r"(resnet|plain)-?\d+", word):
        return f": put --arch before a net: --arch {shown}"
    if (name := true_name("data.source", word)) in keys()["data.source"].classes:
        return f": put --data before images: --data {name}"
    if word in ("help", "?"):
        return "; resnet-cli fit --help tells the options"
    if word == "--":
        return ": leave it out"
    if re.fullmatch(r"[\w/.-]+", word) and not hint.endswith(meant.OF_YOUR_OWN):
        return f": a recipe follows --config{hint}"
    return ": options begin with --; a recipe follows --config"


def _of_pairs(words: Sequence[str]) -> str:
    """Return a command line with flags for several words KEY=VALUE; empty: a key is unknown."""
    written = []
    n = 0
    for word in words:
        pair = re.fullmatch(r"\+*([\w./-]+?)=(.+)", word)
        if is_flag(word) or not pair:
            written.append(word)
            continue
        n += 1
        name = pair[1].replace("/", ".")
        key = key_of(f"--{name}") or (name if record_of(name) else "")
        if name in ("data", "model", "config"):
            key = name
        if not key:
            return ""
        written += [f"--{key}", pair[2]]
    return shlex.join(written) if n > 1 else ""


def _of_hydra(sign: str, name: str, value: str) -> str:
    """Return what stands for an override of Hydra, such as +model.ema.decay=0.9."""
    name = name.replace("/", ".")
    key = key_of(f"--{name}") or (name if record_of(name) else "")
    if "~" in sign:
        is_null = key and "null" in record_of(key).kinds
        return f": leave {key or name} out{f', or give --{key} null' if is_null else ''}"
    if name in ("experiment", "recipe", "cfg") and value in shipped.recipes():
        return f": write --config {value}"
    if key or name in ("data", "model"):
        return f": write --{key or name} {value or 'VALUE'}"
    if name.startswith("hydra."):
        return ": there is no Hydra here: each key is a flag, and SLURM is sweep FILE --submit"
    if name == "config":
        return f": write --config {value or 'RECIPE'}"
    if name in PATHS:
        return f": {PATHS[name]}"
    return f": keys are flags, and there is no --{name}{hint_for(name, 'fit')}"


def _several(words: Sequence[str], at: int) -> str:
    """Return what is meant by a number after the value of a flag.

    Args:
        words: the command line after the verb.
        at: position of the number.
    """
    end = at
    while end < len(words) and meant.numbers([words[end]]):
        end += 1
    flag = words[at - 2].partition("=")[0]
    record = record_of(flag.lstrip("-"))
    if flag == "--data.size":
        return f": images are square: --data.size {words[end - 1]}"
    if record is None:
        return hint_for(flag.lstrip("-"), "fit")
    if "a list" not in record.needs:
        return f": {SEVERAL}"
    hint = f"{flag} {meant.numbers(words[at - 1 : end])}"
    if flag == "--model.optimizer.betas" and "--model.optimizer" not in words:
        hint = f"--model.optimizer AdamW {hint}"  # a recipe's SGD has none
    return f": a list is in brackets: {hint}"


def hint_for(key: str, verb: str, dashes: str = "--") -> str:
    """Return a suggestion for a key that does not exist.

    Args:
        key: the key.
        verb: the verb that the key is given to.
        dashes: what stands before a key where the user writes it.
    """
    key = key.strip(":,;")
    if " " in key:
        return f": leave the quotes out: {dashes}{key}"
    if meaning := _switched(key, verb, dashes):
        return meaning
    if found := key_of(f"--{key.removesuffix('.class_path')}"):
        return f"; did you mean {dashes}{found}?"
    if meaning := said(verb, f"--{key}"):
        return meaning
    if found := key_of(f"--{key}s"):  # such as epoch
        return f"; did you mean {dashes}{found}?"
    letter = re.fullmatch(r"([a-z])(\d+)", key)
    if letter and (found := key_of(f"-{letter[1]}")):  # such as -b64
        return f"; did you mean --{found} {letter[2]}?"
    known = ["config", "print_config", *(name for name in keys() if name not in NOT_FOR_FIT)]
    for base, record in keys().items():
        known += [f"{base}.{name}" for cls in record.classes for name in classes().get(cls, {})]
    is_vague = key in NO_SHORT  # many keys end so
    near = "" if is_vague else most_similar(key, known, 0.9)
    last = key.rpartition(".")[2]
    if not near and (meaning := said(verb, f"--{last}")):
        return meaning
    if not near and (found := key_of(f"--{last}")):
        return f"; did you mean {dashes}{found}?"
    shorts = {name: full for name, full in SHORT.items() if "." not in key}
    if not near and not is_vague:
        near = most_similar(key, SECTIONS, 0.75) or most_similar(key, known, 0.75)
        near = near or most_similar(key, shorts, 0.82)
    if near:
        return f"; did you mean {dashes}{shorts.get(near, near)}?"
    if meaning := of_verb(key):
        return meaning
    words = re.split("[-_]", key)
    for first in range(1, len(words)):  # such as base_learning_rate
        if found := key_of(f"--{'_'.join(words[first:])}"):
            return f"; did you mean {dashes}{found}?"
    if together := re.fullmatch(r"([A-Za-z_-]+)[:.]?(\d.*)", key):
        if found := key_of(f"--{together[1]}"):
            return f"; did you mean {dashes}{found} {together[2]}?"
    return f"; resnet-cli {verb} --help-all tells the options"


def _switched(name: str, verb: str, dashes: str) -> str:
    """Return what stands for a name such as no_nesterov or use_compile; empty: no key does."""
    found = re.fullmatch(r"(no|disable|without|use|enable|with)[-_](.+)", name.lower())
    key = key_of(f"--{found[2]}") if found else None
    record = record_of(key) if key else None
    if record is None:
        return said(verb, f"--{found[2]}") if found else ""
    is_off = found[1] in ("no", "disable", "without")
    if "bool" in record.kinds:
        return f"; did you mean {dashes}{key} {'false' if is_off else 'true'}?"
    if is_off and "null" in record.kinds:
        return f"; did you mean {dashes}{key} null?"
    if is_off and "none" in record.choices:
        return f"; did you mean {dashes}{key} none?"
    return f": {dashes}{key} is {record.needs}"


def _flatten(tree: dict[str, Any], recipe: Path, prefix: str = "") -> Iterator[Given]:
    """Yield each option of a recipe; a mapping is one option where a key takes mappings."""
    for name, value in tree.items():
        key = f"{prefix}{name}"
        is_option = key in keys() and not keys()[key].classes
        if isinstance(value, dict) and value and not is_option:
            yield from _flatten(value, recipe, f"{key}.")
        else:
            yield Given(key, value, recipe)


def _is_below_an_object(key: str) -> bool:
    """Tell whether a key is below one that takes an object of a class that is not listed."""
    return any(
        key.startswith(f"{name}.") and "other" in record.kinds and not record.classes
        for name, record in keys().items()
    )


class Checked:
    """Check of all keys that are given together.

    Args:
        everything: keys of recipes, then flags, in order.
        verb: the verb.
        is_complete: whether nothing else gives keys.
    """

    def __init__(self, everything: list[Given], verb: str, is_complete: bool) -> None:
        self.verb = verb
        self.everything = everything
        # whether classes of a user or of another package are named, by which bare names are known
        self.is_open = False
        for given in everything:
            record = record_of(given.key.replace(".init_args", ""))
            is_text = record is not None and "str" in record.kinds
            self.is_open = self.is_open or (not is_text and _names_module(given.value))
        self.chosen: dict[str, str] = {}  # class key -> class; "": one that the table has not
        for base, record in keys().items():
            if record.classes:
                self.chosen[base] = str(record.default or "") if is_complete else ""
            if record.needs.startswith("a mapping"):
                self.chosen[base] = record.classes[0]

    def choose(self, given: Given) -> None:
        """Note the class that a key names."""
        base = class_of(given.key)
        if base is None or given.key not in (base, f"{base}.class_path"):
            return
        value = given.parsed
        if isinstance(value, dict):
            value = value.get("class_path")
        if isinstance(value, str):
            path, _, last = value.rpartition(".")
            name = true_name(base, last if path in PACKAGES else value)
            self.chosen[base] = name if name in classes() else ""
        elif value is not None:
            self.chosen[base] = ""

    def one(self, given: Given) -> None:
        """Refuse one key or its value.

        Raises:
            UserError: the message names a cure.
        """
        key = given.key
        base = class_of(key)
        if key in keys():
            is_other_lightning = not keys()[key].is_ours and not is_current()
            if key in NOT_FOR_FIT and self.verb == "fit":
                hint = hint_for(key, self.verb, given.dashes)
                raise UserError(f"unknown option {given.dashes}{key}{hint}{given.place}")
            if base == key:
                self._class(base, given)
            elif not is_other_lightning:
                _value(keys()[key], given, key)
        elif base:
            self._argument(base, given)
        elif _is_below_an_object(key):
            return  # the user's own class, whose arguments only the parser knows
        elif key in SECTIONS:
            self._section(key, given)
        elif key in OTHERS:
            return
        elif key.startswith("trainer.") and not is_current():
            return
        elif key.endswith(".class_path") and key.partition(".")[0] in PATHS:
            cure = PATHS[key.partition(".")[0]]
            raise UserError(f"unknown option {given.dashes}{key}: {cure}{given.place}")
        else:
            hint = hint_for(key, self.verb, given.dashes)
            raise UserError(f"unknown option {given.dashes}{key}{hint}{given.place}")

    def _section(self, key: str, given: Given) -> None:
        """Refuse a section of a recipe that is neither keys with values nor a file of them."""
        value = given.parsed
        if isinstance(value, dict) or value is None:
            return
        example = f"{given.dashes}{SECTIONS[key]}"
        needs = f"{given.dashes}{key} holds keys with values, such as {example}"
        if isinstance(value, list):
            raise UserError(f"{needs}, and is a list: leave the dashes out{given.place}")
        if pair := re.fullmatch(r"([\w.]+):(\S.*)", str(value)):
            raise UserError(
                f"{key} has no value for {pair[1]}: a space belongs after the colon, {pair[1]}: "
                f"{pair[2]}{given.place}"
            )
        if not Path(str(value)).is_file():
            pair = re.fullmatch(r"([\w.]+)[ =]+(\S+)", str(value))
            if pair and record_of(f"{key}.{pair[1]}"):
                right = f"{given.dashes}{key}.{pair[1]} {pair[2]}"
                raise UserError(f"{given.dashes}{key} {_shown(value)}; did you mean {right}?")
            cure = PATHS.get(key, f"give its keys, such as {example}")
            raise UserError(f"{given.dashes}{key} {_shown(value)}: {cure}{given.place}")

    def _class(self, base: str, given: Given) -> None:
        """Refuse a class that does not exist; for a key that takes a mapping, anything else."""
        record = keys()[base]
        value = given.parsed
        is_one = base not in ("trainer.callbacks", "trainer.logger", "trainer.plugins")
        if isinstance(value, list) and is_one:
            raise UserError(
                f"{given.dashes}{base} takes one class, and got a list: {_shown(value)}"
                f"{given.place}"
            )
        if isinstance(value, list):
            for item in value:
                self._class(base, Given(base, item, given.recipe))
            return
        if value is None and "null" not in record.kinds and not given.recipe:
            there = ", ".join(sorted(record.classes))
            raise UserError(f"--{base} cannot be null: there are {there}, or module.Class")
        if isinstance(value, dict) or value is None:
            return
        if record.needs.startswith("a mapping"):
            if not Path(str(given.value)).is_file():
                needs = f"--{base} must be {record.needs}"
                hint = "" if given.recipe else _of_mapping(base, given)
                raise UserError(f"{needs}; got {_shown(given.value)}{hint}{given.place}")
            return
        if not isinstance(value, str):
            return
        self._name(base, value, given)

    def _name(self, base: str, name: str, given: Given) -> None:
        """Refuse the name of a class that the table and the named modules do not have."""
        record = keys()[base]
        word = printable(name, SHOWN)
        words = SYNONYMS.get(base, {})
        told = words.get(name.lower().replace("-", "_"), "")
        if told and name not in record.classes:
            hint = _offered(told)
            raise UserError(f"--{base}: there is no class {word}{hint}{given.place}")
        if call := re.fullmatch(r"([\w.]+)\((.*)\)", name):
            arguments = re.findall(r"(\w+) ?= ?([^,]+)", call[2])
            values = [value.strip() for value in call[2].split(",") if value.strip()]
            if not arguments:
                arguments = [*zip(classes().get(call[1], {}), values, strict=False)]
            written = "".join(f" --{base}.{key} {value}" for key, value in arguments)
            raise UserError(f"--{base} {word}: write --{base} {call[1]}{written}{given.place}")
        if is_hub_like(name) or name.endswith((".pth", ".pt", ".ckpt", ".safetensors")):
            weights = meant.hub_name(name) if is_hub_like(name) else ""
            weights = weights or name
            raise UserError(
                f"--{base} {word} names weights: --run.init_from {weights} starts from them, and "
                f"--{base} takes a net, such as torchvision.models.resnet50{given.place}"
            )
        package, _, last = name.rpartition(".")
        if base in OF_OURS and package.startswith(("torch.", "torchvision.", "timm.")):
            found = words.get(last.lower()) or true_name(base, last)
            hint = f"; did you mean {found}?" if found in record.classes else OF_OURS[base]
            raise UserError(f"--{base}: {word} has not the form that is needed{hint}{given.place}")
        is_file = name.endswith((".yaml", ".yml", ".json"))  # of the class and its arguments
        if problem := "" if is_file else meant.missing_class(name):
            raise UserError(f"--{base}: {problem}{given.place}")
        is_known = true_name(base, name) in record.classes
        is_path = "/" in name or re.fullmatch(r"\w+(\.\w+)+", name) is not None
        if is_known or is_path or self.is_open or "str" in record.kinds:
            return
        if not is_current() and not _is_ours(record):
            return
        if Path(name).exists() or name in ("Source", "Policy", "Schedule", "Annealed", "Callback"):
            return
        text = f"--{base}: there is no class {word}"
        several = [true_name(base, part.strip("[ ]")) for part in name.split(",")]
        if len(several) > 1 and {*several} <= {*record.classes}:
            raise UserError(f"{text}: {SEVERAL}{given.place}")
        if base == "model.net":
            found = [net for net in weights_of_torchvision() if net.startswith(name.lower())]
            if found:
                raise UserError(f"{text}; did you mean torchvision.models.{found[0]}?{given.place}")
            if name in meant.nets_of("timm"):
                raise UserError(f"{text}; did you mean timm.models.{name}?{given.place}")
        if "null" in record.kinds and name.lower() in ("none", "off", "no", "false"):
            raise UserError(f"{text}; did you mean null?{given.place}")
        holding = [cls for cls in record.classes if name.lower() in cls.lower()]
        hint = nearest(name, record.classes)
        if len(holding) == 1:
            hint = f"; did you mean {holding[0]}?"
        elif not hint:
            held = [cls for cls in record.classes if len(cls) > 3 and cls.lower() in name.lower()]
            hint = f"; did you mean {max(held, key=len)}?" if held else ""
        if base == "data.source" and not hint:
            text += f", and no folder {word} here (--data FOLDER takes one folder per class)"
        listed = ", ".join(sorted(record.classes))
        hint = hint or f"; there are {listed}, or any other as module.Class"
        raise UserError(f"{text}{hint}{given.place}")

    def _argument(self, base: str, given: Given) -> None:
        """Refuse an argument that no named class has, and its value."""
        parts = [part for part in given.key.removeprefix(f"{base}.").split(".") if part]
        if parts[:1] == ["class_path"]:
            if isinstance(given.value, str):
                self._name(base, given.value, given)
            return
        if "dict_kwargs" in parts:
            return
        self._refuse_next_to_class(base, parts[0] if parts else "", given)
        parts = [part for part in parts if part not in BETWEEN]
        cls = self.chosen[base]
        if not parts or not cls or (base == "model.optimizer" and not is_current()):
            return
        arguments = classes().get(cls, {})
        if parts[0] not in arguments:
            prefix = "" if given.recipe else f"--{base}."
            others = [name for name in keys()[base].classes if parts[0] in classes().get(name, {})]
            there = ", ".join(f"{prefix}{name}" for name in sorted(arguments))
            listed = f"; there are {there}" if there else ""
            hint = nearest(parts[0], arguments).replace("mean ", f"mean {prefix}")
            short = SHORT.get(parts[0], "").removeprefix(f"{base}.")
            other = by_word(INSTEAD).get(parts[0])
            if not hint and short in arguments:
                hint = f"; did you mean {prefix}{short}?"
            if not hint and other in arguments:
                hint = f": leave it out, or give {prefix}{other}"
            if others and not hint:
                hint = f", which {', '.join(others)} would take"
            if (base, parts[0]) == ("data.source", "root"):
                hint = _of_root(cls, _shown(given.value)) or hint
            told = f"{prefix}{parts[0]} of {cls}{hint or listed}"
            raise UserError(f"unknown option {told}{given.place}")
        record = arguments[parts[0]]
        if len(parts) == 1 and not record.classes:
            _value(record, given, f"{base}.{parts[0]}")

    def _refuse_next_to_class(self, base: str, name: str, given: Given) -> None:
        """Refuse what stands where class_path and init_args belong in a recipe.

        Hydra's and other programs' words for the two are told; so are arguments that stand next to
        class_path, of which the parser would say that the class has none.
        """
        here = [each.key for each in self.everything if each.recipe == given.recipe]
        if name in BETWEEN or not name:
            return
        if keys()[base].needs.startswith("a mapping"):
            return
        is_name = isinstance(given.value, str) and name in CLASS_WORDS
        is_argument = name in classes().get(self.chosen[base], {})
        if is_name and not is_argument:
            right = f"{base}.class_path" if given.recipe else f"--{base}"
            raise UserError(
                f"unknown option {given.dashes}{given.key}; did you mean {right}?{given.place}"
            )
        parts = given.key.removeprefix(f"{base}.").split(".")
        if not given.recipe and name in ARGUMENT_WORDS and len(parts) > 1 and not is_argument:
            right = f"--{base}.{'.'.join(parts[1:])}"
            raise UserError(f"unknown option --{given.key}; did you mean {right}?")
        if not given.recipe:
            return
        if name in ARGUMENT_WORDS and len(parts) > 1 and not is_argument:
            raise UserError(
                f"unknown option {base}.{name}; did you mean {base}.init_args?{given.place}"
            )
        if f"{base}.class_path" in here:
            raise UserError(
                f"{base}: {name} stands next to class_path: write it below init_args, {base}."
                f"init_args.{name}{given.place}"
            )

    def required(self) -> None:
        """Refuse a recipe without a net or images, and a class without what the class must have.

        Raises:
            UserError: the message names the flag.
        """
        given = {each.key for each in self.everything}
        keys_given = [key for key in given if key.startswith(("model", "data"))]
        if not keys_given and self.verb != "fit":
            images = " IMAGE..." if self.verb == "predict" else ""
            raise UserError(
                f"{self.verb} which net? name a run, as resnet-cli runs lists them: "
                f"resnet-cli {self.verb} RUN{images}"
            )
        recipes = [str(each.recipe) for each in self.everything if each.recipe]
        if not keys_given and recipes:
            raise UserError(
                f"{recipes[-1]} names no net and no images: --config digits --config "
                f"{shlex.quote(recipes[-1])}"
            )
        if not keys_given:
            raise UserError("train which net on what? give a recipe, such as --config digits")
        does = "train" if self.verb == "fit" else self.verb
        root = self.last("data.source.root")
        if self._is_missing("data.source"):
            example = "give --data CIFAR10, --data FOLDER, or a recipe such as --config digits"
            if root:
                example = f"--config photos --data {_shown(root)} takes one folder per class"
            if self.verb != "fit":
                example = f"name a run instead of the net: resnet-cli {self.verb} RUN"
            if self.verb == "predict":
                example = "name a run or weights, then images: resnet-cli predict "
                example += "torchvision:resnet18.IMAGENET1K_V1 IMAGE..."
            raise UserError(f"{does} on which images? {example}")
        if self._is_missing("model.net"):
            example = "--arch resnet20, or a recipe such as --config digits"
            if root:
                example = f"--arch resnet18, or a recipe: --config photos --data {_shown(root)}"
            raise UserError(f"{does} which net? give {example}")
        callbacks = [each.value for each in self.everything if each.key == "trainer.callbacks"]
        names = {true_name("trainer.callbacks", str(value)) for value in callbacks}
        has_monitor = any(each.key.endswith(".monitor") for each in self.everything)
        if "EarlyStopping" in names and not has_monitor:
            raise UserError(
                "--trainer.callbacks EarlyStopping needs --trainer.callbacks.monitor, such as "
                "val/loss"
            )
        for base in ("model.net", "data.source"):
            cls = self.chosen[base]
            for name, record in classes().get(cls, {}).items():
                if record.is_required:
                    self._require(base, cls, name, record)

    def _is_missing(self, base: str) -> bool:
        """Tell whether no key names the class of an object, nor a file of options that may."""
        section = base.partition(".")[0]
        named = (section, base, f"{base}.class_path")
        return not any(each.key in named for each in self.everything)

    def last(self, key: str) -> Any:
        """Return the value that a key has at last; None where nothing gives the key."""
        found = None
        for each in self.everything:
            if re.sub(r"\.(init_args|dict_kwargs)\b", "", each.key) == key:
                found = each.parsed
        return found

    def together(self) -> None:
        """Refuse values that only together are impossible.

        Raises:
            UserError: a depth that the net cannot have, or a batch of more images than there are.
        """
        self._depth()
        self._holdout()
        self._crop()
        batch = self.last("data.batch_size")
        n = TRAIN_IMAGES.get(self.chosen["data.source"])
        held = self.last("data.source.holdout") or 0
        if n and isinstance(held, int) and held >= n:
            raise UserError(
                f"--data.source.holdout must be below the {n:,} training images; got {held}"
            )
        if n and isinstance(batch, int) and isinstance(held, int):
            _told_by(check_batch, batch, n - held)
        epochs = self.last("trainer.max_epochs")
        steps = self.last("trainer.max_steps")
        is_unlimited = epochs in (None, -1) and isinstance(steps, int) and steps > 0
        if self.verb == "fit" and isinstance(epochs, int) and epochs < 1 and not is_unlimited:
            raise UserError(
                f"--trainer.max_epochs must be 1 or more; got {epochs} (-1 is for "
                "--trainer.max_steps N, which then limits the training)"
            )
        if self.verb == "fit" and self._is_missing("trainer.max_epochs") and not is_unlimited:
            raise UserError("train for how many epochs? give --epochs N, such as --epochs 10")
        if self.verb == "fit":
            given = [each.key for each in self.everything if each.key.startswith("trainer.")]
            check_trainer({key.removeprefix("trainer."): self.last(key) for key in given})
        if self.verb == "fit" and steps == 0:
            raise UserError("--trainer.max_steps must be 1 or more, or -1 for no limit; got 0")

    def parts(self) -> None:
        """Refuse a batch that cannot be divided among ranks that are given as plain numbers.

        Raises:
            UserError: the message names world sizes and a batch that can be divided.
        """
        asked = [self.last(f"trainer.{key}") or 1 for key in ("devices", "num_nodes")]
        ranks = [n if isinstance(n, int) and n > 0 else 1 for n in asked]
        accumulated = self.last("trainer.accumulate_grad_batches") or 1
        batch = self.last("data.batch_size") or keys()["data.batch_size"].default
        norm = self.last("model.bn_batch")
        mixes = [each for each in self.everything if each.key.startswith("model.mix")]
        is_mixed = bool(mixes) and mixes[-1].parsed is not None
        unit = lcm(norm if isinstance(norm, int) else 1, 2 if is_mixed else 1)
        if isinstance(batch, int) and isinstance(accumulated, int):
            _told_by(check_parts, batch, ranks[0] * ranks[1], accumulated, unit)

    def _crop(self) -> None:
        """Refuse a crop and a size of images that contradict each other."""
        crop = self.last("data.crop") or keys()["data.crop"].default
        size = self.last("data.size")
        growing = [each for each in self.everything if each.key.startswith("data.progressive")]
        is_growing = bool(growing) and growing[-1].parsed is not None
        pad_fill = self.last("data.pad_fill")
        _told_by(check_crop, crop, size, is_growing, pad_fill, self.last("data.resize"))
        if self.verb == "fit":
            _told_by(check_pad, crop, size)

    def _holdout(self) -> None:
        """Refuse a holdout of 0, which would make a second id of a run without one.

        Runs of versions whose default was 0 go on with the recipe in their folder.
        """
        for given in self.everything:
            is_own = given.recipe is not None and given.recipe.stem == "config"
            is_holdout = given.key.startswith("data.source.") and given.key.endswith(".holdout")
            if is_holdout and given.parsed == 0 and not is_own and self.verb == "fit":
                raise UserError(
                    "--data.source.holdout must be 1 or more; got 0: leave it out to hold out no "
                    f"images{given.place}"
                )

    def _depth(self) -> None:
        depth = self.last("model.net.depth")
        if not isinstance(depth, int):
            return
        if self.chosen["model.net"] == "ImageNetResNet":
            _told_by(check_imagenet_depth, depth)
        if self.chosen["model.net"] == "CifarResNet":
            _told_by(cifar_blocks, depth, str(self.last("model.net.block") or "basic"))

    def _require(self, base: str, cls: str, name: str, record: Key) -> None:
        """Refuse a class without one argument, unless it is given in some form."""
        given = {re.sub(r"\.(init_args|dict_kwargs)\b", "", each.key) for each in self.everything}
        mappings = [each for each in self.everything if each.key == base and "{" in str(each.value)]
        if any(key == f"{base}.{name}" or key.startswith(f"{base}.{name}.") for key in given):
            return
        if not mappings:
            raise UserError(f"--{base} {cls} needs --{base}.{name}: {record.help}")


def _of_root(cls: str, root: str) -> str:
    """Return what to give for a folder of images in place of a source that reads none."""
    if cls == "BetonFiles":
        return (
            f", which reads .beton files: resnet-cli data write imagenet --root {root} --out "
            "imagenet_train.beton writes them (docs/recipes.md); --data.source ImageNet "
            f"--data.source.root {root} reads the folder"
        )
    if cls in ("Digits", "Synthetic"):
        return (
            f", whose images are in no folder: --data {root} takes a folder of images, with one "
            "folder per class"
        )
    return ""


def check_trainer(trainer: Mapping[str, Any]) -> None:
    """Refuse options of Lightning's trainer that our loop has another way for.

    Args:
        trainer: the options that are given, by name.

    Raises:
        UserError: the option, and what to use instead.
    """
    if isinstance(trainer.get("val_check_interval"), int) or trainer.get("num_sanity_val_steps"):
        raise UserError(
            "--trainer.val_check_interval N and num_sanity_val_steps do not work here: validation "
            "is by epoch"
        )
    for key, cure in OTHER_WAYS.items():
        value = trainer.get(key)
        if value not in (None, 0) and (key, value) != ("val_check_interval", 1.0):
            raise UserError(f"--trainer.{key} {value} does not work here: {cure}")
    strategy = trainer.get("strategy") or "auto"
    if strategy not in STRATEGIES:
        name = strategy if isinstance(strategy, str) else strategy.get("class_path")
        raise UserError(
            f"--trainer.strategy {name} does not work here: leave it out; several ranks exchange "
            "gradients by ddp, and ddp_find_unused_parameters_true is for a net that leaves "
            "parameters out of some steps"
        )


def _of_mapping(base: str, given: Given) -> str:
    """Return the flags for a key that takes a mapping, with a single value where one is meant."""
    example = re.findall(r"(\w+): ([\w.]+)", keys()[base].needs)
    name, value = example[0]
    arguments = classes()[keys()[base].classes[0]]
    if len(example) == 1 and _is_number(given.parsed) and _fits(arguments[name], given.parsed):
        value = given.value
    written = [f"--{base}.{name} {value}"]
    written += [f"--{base}.{other} {its_value}" for other, its_value in example[1:]]
    return f"; did you mean {' '.join(written)}?"


def _is_number(value: Any) -> bool:
    """Tell whether a value is a number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def kind_of(content: Any) -> str:
    """Return what the content of a YAML file is, in words."""
    words = {"NoneType": "empty", "list": "a list", "str": "a text"}
    name = type(content).__name__
    return words.get(name, f"a single value ({name})")


def is_hub_like(name: str) -> bool:
    """Tell whether a name is one of weights on a hub."""
    return re.match(r"(torchvision|timm|hf|hf-hub|huggingface):|https?://", name) is not None


def _told_by(check: Callable[..., Any], *values: Any) -> None:
    """Call a check of `bounds`; its error is one of the user."""
    try:
        check(*values)
    except ValueError as e:
        raise UserError(str(e)) from e


def _is_ours(record: Key) -> bool:
    return record.is_ours and record.name != "model.optimizer"


def _names_module(value: Any) -> bool:
    """Tell whether a value names a class of a user or of another package by its path."""
    if isinstance(value, dict):
        return any(_names_module(item) for item in value.values())
    if isinstance(value, list):
        return any(_names_module(item) for item in value)
    if not isinstance(value, str) or value.startswith(("lightning_resnet.", "torch.optim.")):
        return False
    return re.search(r"(?<![\w./])[A-Za-z_]\w*(\.[A-Za-z_]\w*)+(?![\w/])", value) is not None


def _value(record: Key, given: Given, key: str) -> None:
    """Refuse a value that a key or argument cannot have, where its plain types tell.

    Raises:
        UserError: the key, what it may be, and the value.
    """
    value = given.parsed
    needs = LIMITS.get(key, record.needs)
    if key == TRAINED:
        needs = needs.replace("from 0 to 1", "above 0, up to 1")
    text = _shown(given.value)
    if isinstance(value, str):
        needs = re.sub(r" from -1 to [\d,]+", "", needs)  # -1 stands for no limit
    if key == "trainer.devices":
        needs = needs.replace("a number of devices", f"a number of devices up to {MOST_RANKS}")
    wrong = f"--{key} must be {needs}{record.cure}; got {text}"
    if key == "trainer.devices" and isinstance(value, str):
        if some := re.fullmatch(r"(\d)-(\d)", value):
            listed = ",".join(map(str, range(int(some[1]), int(some[2]) + 1)))
            raise UserError(f"{wrong}; did you mean [{listed}]?{given.place}")
        if not re.fullmatch(r"auto|[-\d, \[\]]+", value):
            raise UserError(f"{wrong}{_suggested(record, key, value)}{given.place}")
    if key == "trainer.devices" and isinstance(value, int | float):
        if value > MOST_RANKS:
            raise UserError(f"{wrong}{given.place}")
        if value == 0 or value < -1 or isinstance(value, float):
            raise UserError(f"{wrong}{_suggested(record, key, text)}{given.place}")
    if key == "trainer.devices":
        _told_by(check_devices, value)
    if needs.startswith("a list"):
        found = meant.numbers([value]) if isinstance(value, str) else ""
        outside = []
        if isinstance(value, list) and record.range:
            outside = [n for n in value if isinstance(n, int | float) and n not in record.range]
        if found or outside or ("null" not in record.kinds and isinstance(value, int | float)):
            hint = f"; did you mean {found}?" if found else ""
            raise UserError(f"{wrong}{hint}{given.place}")
    if "other" in record.kinds or "str" in record.kinds:
        return
    if isinstance(value, list) and ("list" in needs or value == []):
        return
    if isinstance(value, str) and EXPONENT.fullmatch(value):  # a text for PyYAML alone
        value = float(value)
    if not _fits(record, value):
        raise UserError(f"{wrong}{_suggested(record, key, text)}{given.place}")


def _offered(meaning: str) -> str:
    """Return what stands for a value in `words.VALUES`, as the end of a message."""
    if re.fullmatch(r"\S+( --\S+ \S+)?|--\S+ \S+", meaning):
        return f"; did you mean {meaning}?"
    return f": {meaning}"


def _fits(record: Key, value: Any) -> bool:
    """Tell whether a key or argument can have a value, as far as its plain types tell."""
    kind = {type(None): "null"}.get(type(value), type(value).__name__)
    is_kind = kind in record.kinds or (kind == "int" and "float" in record.kinds)
    if record.name in LIMITS and kind == "float" and value > 1:
        return False
    if record.name == TRAINED and value == 0:
        return False  # nothing would be trained
    if is_kind and kind in ("int", "float") and record.range:
        return value in record.range
    return is_kind or str(value) in record.choices


def _suggested(record: Key, key: str, text: str) -> str:
    """Return what is meant by a value that a key cannot have, as the end of a message."""
    if key in LIMITS and not text.endswith("%"):
        return ""
    if " --" in text:
        return ": leave the quotes out"
    if key.endswith(".holdout") and text.endswith("%"):
        return ": images are counted"
    if key == "trainer.max_epochs" and re.fullmatch(r"\d+\s?([hdms]|min|hours?)", text.lower()):
        return ": epochs are counted, and no flag limits the time"
    bare = text.strip("[]'\" ")
    if bare != text and bare in record.choices:
        return f"; did you mean {bare}?"
    if "bool" in record.kinds and text.lower() in SWITCHED:
        return f"; did you mean {SWITCHED[text.lower()]}?"
    if found := SYNONYMS.get(key, {}).get(text.lower().replace("-", "_")):
        return _offered(found)
    if hint := nearest(text, record.choices):
        return hint
    number = meant.number(text, partial(_fits, record), UNITS.get(key, ""))
    if number and number != text:
        return f"; did you mean {number}?"
    return f"; {SEVERAL}" if "," in text else ""


def _shown(value: Any) -> str:
    """Return a value as YAML writes it, cut to `SHOWN` characters."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return printable(value, SHOWN)
