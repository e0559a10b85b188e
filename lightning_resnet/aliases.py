"""Understand the words that users of other libraries type where a recipe's keys are taken.

`--lr 0.1` stands for `--model.optimizer.lr 0.1`. A short name is a flag where exactly one key ends
so, or where `words.KEYS` names the key. Names of classes are understood in any case. What has no
key of ours is answered with a sentence. Nothing here imports torch.
"""

import os
import re
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from lightning_resnet import words as tables
from lightning_resnet.bounds import NAMED_DEPTHS
from lightning_resnet.console import RANKED, SUPERVISED
from lightning_resnet.errors import UserError, printable
from lightning_resnet.keys import class_of, keys, record_of, weights_of_torchvision
from lightning_resnet.meant import hub_name, no_folder
from lightning_resnet.words import by_word

SHORT = by_word(tables.KEYS)
SWITCHES = by_word(tables.SWITCHES)
SYNONYMS = {key: by_word(table) for key, table in tables.VALUES.items()}
RECIPE_VERBS = ("fit", "validate", "test")  # whose flags are all keys of a recipe
KEY_VERBS = ("predict", "evaluate", "inspect", "doctor")  # which have flags of their own as well
PATHS = {  # section of a recipe -> what to give in place of a class or a word
    "model": "the task is always ours: choose --model.net CLASS, --model.optimizer CLASS, "
    "--model.hooks CLASS",
    "data": "for images in one folder per class give --data FOLDER; else --data.source CLASS, your "
    "own Source too, because the data module is always ours",
    "trainer": "the trainer is always Lightning's: give its options, such as "
    "--trainer.max_epochs 5",
}
YES = ("true", "1", "yes", "on")  # values of a flag that needs none
NO = ("false", "0", "no", "off")
MARKS = ("best", "last", "ema", "net", "raw")  # of a run's weights, which other flags choose
NAMES_WEIGHTS = (  # flags of other programs whose value names weights to start from
    "weights pretrained load load_from finetune initial_checkpoint model_name_or_path"
).split()
AS_IT_IS = ("config", "print_config", "print_shtab", "trainer", "run")

DEVICES = r"\d+(,\d+)*"  # numbers of GPUs

Pairs = list[tuple[str, str | None]]  # flags without dashes, each with its value


def understood(
    words: Sequence[str],
    verb: str = "fit",
    own: Collection[str] | None = None,
    tells: bool = True,
) -> list[str]:
    """Return the words of a command line with the true key for each short name.

    Args:
        words: the command line after the verb.
        verb: the verb.
        own: flags of the verb itself, which are left as they are; None: it takes a recipe's keys
            alone, and then flags of one letter are short names too.
        tells: whether to print once, to stderr, which key each short name is, and which keys are
            given twice.

    Raises:
        UserError: a flag has no key; the message says what to do.
    """
    found: list[str] = []
    told: dict[str, None] = {}
    values: Pairs = []  # of all flags, in order
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*found, word, *rest]
        flag, has_equals, value = word.partition("=")
        is_key = is_flag(flag)
        if own is not None:
            is_key = flag[:2] == "--" and flag not in own
            is_key = is_key and not said(verb, flag, own)
        if not is_key:
            found.append(word)
            continue
        given: str | None = value if has_equals else None
        if not has_equals and rest and not is_flag(rest[0]):
            given = rest[0]
        if verb != "fit" and own is None and _plain(flag) in tables.CHECKPOINTS:
            if given in MARKS and not Path(given).exists():
                raise UserError(f"{flag} {given}{_of_weights(verb, given)}")
            meant: Pairs | None = [("ckpt_path", given)]
        else:
            meant = _meant(verb, flag, given)
        if meant is None:  # the value may be a word of its own
            found.append(word)
            continue
        if given is not None and not has_equals and _takes_value(flag, given):
            rest.pop(0)
        for key, its_value in meant:
            found += [f"--{key}"] if its_value is None else _as_words(key, its_value)
        told |= dict.fromkeys(_told(flag, given, meant))
        values += _given_by(flag, given, meant, values)
    if told and tells and _is_first():
        print(printable("; ".join(told)), file=sys.stderr)
    if tells:
        tell_repeated(values)
    return found


def tell_repeated(values: Iterable[tuple[str, str | None]]) -> None:
    """Print to stderr, in one line, which flags have two values, of which the last one counts.

    Args:
        values: flags, each with its value; a flag that ends in + adds to a list.
    """
    last: dict[str, str | None] = {}
    repeated: dict[str, str | None] = {}
    for name, value in values:
        if name.endswith("+"):  # what follows is of another item of the list
            last = {key: old for key, old in last.items() if not key.startswith(f"{name[:-1]}.")}
        elif value is not None and last.get(name, value) != value:
            repeated[name] = value
        last[name] = value
    lines = [f"{name} is given twice; {value} counts" for name, value in repeated.items()]
    if lines and _is_first():
        print(printable(f"note: {'; '.join(lines)}"), file=sys.stderr)


def _given_by(flag: str, value: str | None, meant: Pairs, earlier: Pairs) -> Pairs:
    """Return the flags, with dashes, that a flag gives, to be told if their values were others.

    A name such as resnet20 stands for several keys, which later flags may change without a word.
    """
    if len(meant) == 1:
        return [(f"--{key}", its_value) for key, its_value in meant]
    given = {name for name, _ in earlier}
    changed = [(f"--{key}", its_value) for key, its_value in meant if f"--{key}" in given]
    return [(flag, value), *changed]


def said(verb: str, flag: str, own: Collection[str] = ()) -> str:
    """Return what the end of a message says of a flag that a verb does not have; empty: nothing.

    It is `; did you mean --FLAG?`, or a sentence after a colon.

    Args:
        verb: the verb, with a second word for the verbs of `data` and `bench`.
        flag: the flag, or a word that stands where another one is meant.
        own: flags that the verb has.
    """
    first = verb.partition(" ")[0]
    likely = by_word(tables.SAID) if first in (*RECIPE_VERBS, *KEY_VERBS) else {}
    if first not in RECIPE_VERBS:
        likely |= by_word(tables.FLAGS[""])
    likely |= by_word({words: name for name, words in tables.SAME.items() if name in own})
    for name in (first, verb):
        likely |= by_word(tables.FLAGS.get(name, {}))
    meaning = likely.get(_plain(flag), "")
    if meaning.startswith("-") and len(meaning.split()) <= 4:
        return f"; did you mean {meaning}?"
    if re.fullmatch(r"\w+", meaning):  # a word below the verb
        return f"; did you mean resnet-cli {first} {meaning}?"
    return f": {meaning}" if meaning else ""


def of_verb(word: str) -> str:
    """Return what the end of a message says of a flag that is a verb's word; empty: it is none."""
    plain = _plain(word)
    meaning = plain if plain in tables.FLAGS else by_word(tables.VERBS).get(plain, "")
    if meaning and len(meaning.split()) <= 3:
        return f": that is a verb: resnet-cli {meaning}"
    return f": {meaning}" if meaning else ""


def is_flag(word: str) -> bool:
    """Tell whether a word of a command line is a flag; a negative number is none."""
    is_number = re.fullmatch(r"-(inf|infinity|nan)", word.lower()) is not None
    return re.match(r"--?[A-Za-z]", word) is not None and not is_number


def _as_words(key: str, value: str) -> list[str]:
    """Return a flag and its value as words of a command line."""
    return [f"--{key}={value}"] if value.startswith("-") or not value else [f"--{key}", value]


def _is_first() -> bool:
    """Tell whether no other process with the same command line prints the same."""
    is_first = all(os.environ.get(name, "0") == "0" for name in RANKED)
    return is_first and SUPERVISED not in os.environ


def _of_weights(verb: str, mark: str) -> str:
    """Return what the end of a message says of a choice among the weights of a run."""
    if mark in ("best", "last"):
        return (
            f": the file of a run is given as the run is: resnet-cli {verb} "
            f"RUN/checkpoints/{mark}.ckpt"
        )
    if verb == "predict":
        return f": resnet-cli predict RUN IMAGE... --weights {mark} predicts images of yours"
    return f": resnet-cli evaluate RUN --weights {mark} chooses among the weights of a run"


def _takes_value(flag: str, value: str) -> bool:
    """Tell whether the word after a flag is the flag's value."""
    is_device = _plain(flag) in ("gpu", "cuda") and re.fullmatch(DEVICES, value) is not None
    return _plain(flag) not in SWITCHES or value.lower() in (*YES, *NO) or is_device


def _plain(flag: str) -> str:
    """Return the name of a flag, with underscores."""
    return flag.lstrip("-").rstrip("+").replace("-", "_").lower()


def _told(flag: str, value: str | None, meant: Pairs) -> list[str]:
    """Return what to tell of a short name; nothing of a key that is given in full."""
    name = flag.removeprefix("--").rstrip("+")
    keys_meant = [key.rstrip("+") for key, _ in meant]
    if keys_meant == [name]:
        return []
    if len(meant) == 1 and (_plain(flag) not in SWITCHES) and name not in ("data", "model"):
        return [f"{flag} is --{keys_meant[0]}"]
    shown = " ".join(f"--{key} {its_value}" for key, its_value in meant)
    typed = flag
    if value is not None and _plain(flag) not in SWITCHES:
        typed = f"{flag} {value}"
    return [f"{typed} is {shown}"]


def _meant(verb: str, flag: str, value: str | None) -> Pairs | None:
    """Return the keys that a flag stands for, with their values; None: the flag stays as it is.

    Raises:
        UserError: the flag has no key; the message says what to do.
    """
    name = flag.lstrip("-")
    plus = "+" if name.endswith("+") else ""
    name = name.rstrip("+")
    is_run = name == "run" and verb != "fit" and value is not None
    if is_run and not value.endswith((".yaml", ".yml", ".json")):
        raise UserError(f"there is no {flag}: the run is the first word: resnet-cli {verb} {value}")
    if name in AS_IT_IS and flag.startswith("--") or name.endswith(".help"):
        return None
    if name in ("model", "data", "wandb") and flag.startswith("--"):
        return _of_section(verb, name, value)
    plain = _plain(flag)
    if plain in by_word(tables.FLAGS.get(verb, {})) and plain not in keys():
        raise UserError(f"there is no {flag}{said(verb, flag)}")
    key = key_of(flag)
    if key:
        return _with_value(key, plus, value)
    if plain == "gpus":
        return _gpus(value)
    if plain in SWITCHES:
        return _switch(flag, value)
    if verb == "fit" and value and plain in NAMES_WEIGHTS:
        weights = value if Path(value).exists() else hub_name(value)
        if weights:
            raise UserError(f"there is no {flag}; did you mean --run.init_from {weights}?")
    if meaning := said(verb, flag):
        raise UserError(f"there is no {flag}{meaning}")
    return None


def key_of(flag: str) -> str | None:
    """Return the key of a recipe that a flag stands for; None without one, or with several."""
    name = flag.lstrip("-").rstrip("+")
    if not flag.startswith("--") and len(name) == 1:
        return tables.LETTERS.get(name)
    if name in keys() and name != "ckpt_path":
        return name
    if class_of(name):
        return name
    plain = _plain(flag)
    if plain in SHORT:
        return SHORT[plain]
    if plain in tables.NO_SHORT or plain in by_word(tables.SAID):
        return None
    ends = [key for key in keys() if key.endswith(f".{plain}")]
    if not ends and "." in plain:
        ends = [key for key in sorted(set(SHORT.values())) if key.endswith(f".{plain}")]
    return ends[0] if len(ends) == 1 else None


def _with_value(key: str, plus: str, value: str | None) -> Pairs:
    """Return a key with the value as the parser takes it: true for a switch, the class's name."""
    record = record_of(key)
    if value is None:
        is_switch = record is not None and "bool" in record.kinds and "other" not in record.kinds
        return [(key + plus, "true" if is_switch else None)]
    base = key.removesuffix(".class_path")
    if base in keys() and keys()[base].classes:
        if base == "model.net" and (net := _net(value)):
            return net
        return [(key + plus, true_name(base, value))]
    if key == "trainer.accelerator" and re.fullmatch(r"((cuda|gpu):)?\d+(,\d+)*", value):
        return [(key, "gpu"), ("trainer.devices", f"[{value.rpartition(':')[2]}]")]
    return [(key + plus, value)]


def _net(name: str) -> Pairs | None:
    """Return class and depth of a net by a name such as resnet50 or plain20; None: another name.

    Raises:
        UserError: neither kind of net has this depth.
    """
    found = re.fullmatch(
        r"(res_?net|plain(?:_?net)?|pre_?(?:act_?)?res_?net)[-_]?(\d+)", name.lower()
    )
    if not found or name in weights_of_torchvision() and int(found[2]) not in NAMED_DEPTHS:
        return None
    depth = int(found[2])
    is_preact = found[1].startswith("pre")
    if (depth - 2) % 6 and (depth not in NAMED_DEPTHS or is_preact):
        raise UserError(
            f"--model.net {name}: no net has {depth} layers: CifarResNet has 20, 32, 44, 56, 110 "
            "or other 6n+2, ImageNetResNet 18, 34, 50, 101 or 152"
        )
    # The names are of nets with projections (ImageNet) or with zero padding (CIFAR).
    cls = "ImageNetResNet"
    shortcut = "B"
    if depth not in NAMED_DEPTHS or is_preact:
        cls = "CifarResNet"
        shortcut = "A"
    if found[1].startswith("plain"):
        shortcut = "none"
    meant: Pairs = [("model.net", cls), ("model.net.depth", str(depth))]
    meant.append(("model.net.shortcut", shortcut))
    if is_preact:
        meant.append(("model.net.block", "preact"))
    return meant


def true_name(key: str, name: str) -> str:
    """Return the name of a class as the class is written; another text as it is.

    Args:
        key: key of a recipe that takes classes, such as `data.source`.
        name: name in any case, perhaps with dashes or underscores.
    """
    listed = keys()[key].classes
    if name in listed:
        return name
    found = [cls for cls in listed if _letters(cls) == _letters(name)]
    return found[0] if len(found) == 1 else name


def true_classes(tree: Any, prefix: str = "") -> Any:
    """Return a recipe with the name of each class as the class is written.

    Args:
        tree: content of a recipe; anything else is returned as it is.
        prefix: dotted key of `tree`, with a dot at the end.
    """
    if not isinstance(tree, dict):
        return tree
    found = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        base = key.removesuffix(".class_path")
        if base in keys() and keys()[base].classes and isinstance(value, str):
            found[name] = true_name(base, value)
        else:
            found[name] = true_classes(value, f"{key}.") if isinstance(name, str) else value
    return found


def _letters(name: str) -> str:
    return re.sub("[-_ ]", "", name).lower()


def _gpus(value: str | None) -> Pairs:
    """Return the keys for --gpus N: their number, or which ones."""
    if value in (None, "0", "none", "no", "false", "null"):
        raise UserError("--gpus needs a number, such as --gpus 2, or all; for none: --cpu")
    devices = "-1" if value == "all" else value
    return [("trainer.devices", devices), ("trainer.accelerator", "gpu")]


def _switch(flag: str, value: str | None) -> Pairs:
    """Return the key for a flag that needs no value, and for --gpu N which one."""
    name = _plain(flag)
    is_device = name in ("gpu", "cuda") and re.fullmatch(DEVICES, value or "") is not None
    if value is not None and value.lower() in NO and not is_device:
        raise UserError(f"{flag} {value}: leave {flag} out")
    key, _, its_value = SWITCHES[name].partition("=")
    if is_device:
        return [(key, its_value), ("trainer.devices", f"[{value}]")]
    return [(key, its_value)]


def _of_section(verb: str, name: str, value: str | None) -> Pairs | None:
    """Return the keys for --data X, --model X, --wandb X; None: X is a file of options.

    Raises:
        UserError: X is neither a file nor a class; the message says what to give.
    """
    if name == "wandb":
        if value is None or not Path(value).is_file():
            raise UserError(f"there is no --wandb{said(verb, '--wandb')}")
        return None
    key = "model.net" if name == "model" else "data.source"
    if value is None or value[:1] in ("{", "[", ""):
        return None
    shown = printable(value, 60)
    path = Path(value)
    if path.is_file():
        if path.suffix in (".yaml", ".yml", ".json"):
            return None
        if name == "data":
            raise UserError(f"--data {no_folder(path)}")
        if verb == "fit":
            raise UserError(f"--{name} {shown} is a file; {PATHS[name]}")
    if name == "model" and verb != "fit" and path.exists():
        raise UserError(f"--model {shown}: a run is the first word: resnet-cli {verb} {shown}")
    if name == "data" and path.is_dir():
        return [("data.source", "ImageFolder"), ("data.source.root", value)]
    if re.fullmatch(r"[\w-]+", value):
        return _with_value(key, "", value)
    if name == "data" and "/" in value:
        where = "an address: fetch it, and give its folder"
        if "://" not in value:
            where = f"there is no such folder (seen from {Path.cwd()})"
        raise UserError(f"--data {shown}: {where}")
    if name == "data" and value.endswith((".yaml", ".yml", ".json")):
        raise UserError(
            f"--data {shown} does not exist (seen from {Path.cwd()}); --data FOLDER takes images, "
            "one folder per class"
        )
    pair = re.fullmatch(r"([\w.]+)=(\S+)", value)
    key_meant = key_of(f"--{name}.{pair[1]}") or key_of(f"--{pair[1]}") if pair else None
    if key_meant and record_of(key_meant):
        raise UserError(f"--{name} {shown}; did you mean --{key_meant} {pair[2]}?")
    if name == "model" and verb != "fit":
        raise UserError(
            f"--model {shown}: there is no such file, and a run is the first word: resnet-cli "
            f"{verb} RUN"
        )
    raise UserError(f"--{name} {shown} is no file of options; {PATHS[name]}")
