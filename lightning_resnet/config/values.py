"""Say in words what an option may be, and in one line why a value is refused.

jsonargparse tells what its types refused, for each part of a union: hundreds of characters, in
which the option's own name and the right values are hard to find. Here both are looked up in the
signature that has the option.
"""

import inspect
import re
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pkgutil import resolve_name
from typing import Any, Literal

import torch
from jsonargparse import Namespace
from jsonargparse._parameter_resolvers import get_signature_parameters
from jsonargparse._typehints import get_all_subclass_paths
from pytorch_lightning.cli import LightningArgumentParser

from lightning_resnet.aliases import PATHS
from lightning_resnet.bounds import check_devices
from lightning_resnet.engine.launch import pairs
from lightning_resnet.errors import UserError, nearest, printable
from lightning_resnet.keys import Range
from lightning_resnet.runs.identity import resolve_class

MOST = 10**9  # largest count, if an option has no limit of its own
SHOWN = 60  # characters of a value in a message

SHARE = Range(0, 1)
COUNT = Range(1, MOST)
# option, or class and argument -> its numbers; any other takes any finite number
NUMBERS = {
    "seed_everything": Range(0, 2**32 - 1),  # numpy's generators take no more
    "trainer.num_nodes": Range(1, 10_000),
    "trainer.max_epochs": Range(-1, 1_000_000),
    "trainer.min_epochs": Range(0, 1_000_000),
    "trainer.max_steps": Range(-1, 10**12),
    "trainer.min_steps": Range(0, 10**12),
    "trainer.check_val_every_n_epoch": Range(1, 1_000_000),
    "trainer.log_every_n_steps": COUNT,
    "trainer.gradient_clip_val": Range(0),
    "trainer.accumulate_grad_batches": Range(1, 1_000_000),
    "trainer.fast_dev_run": Range(0, MOST),
    "trainer.overfit_batches": Range(0, MOST),
    "trainer.limit_train_batches": Range(0, MOST),
    "trainer.limit_val_batches": Range(0, MOST),
    "trainer.limit_test_batches": Range(0, MOST),
    "trainer.limit_predict_batches": Range(0, MOST),
    "model.label_smoothing": SHARE,
    "model.bn_batch": Range(2, MOST),
    "model.bce_threshold": Range(0, 1, below=True),
    "model.precise_bn": Range(0, 1_000_000),
    "data.batch_size": COUNT,
    "data.size": Range(1, 16_384),
    "data.pad": Range(0, 16_384),
    "data.scale": Range(0, 1, above=True),
    "data.erase": SHARE,
    "data.eval_share": Range(0, 1, above=True),
    "data.train_eval_samples": COUNT,
    "data.repeats": Range(1, 1_000),
    "data.workers": Range(0, 1_024),
    "run.replicate": Range(1, 1_000_000),
    "run.threads": Range(1, 4_096),
    "run.save_minutes": Range(0, 10**6),
    "run.keep_epochs": Range(1, 1_000_000),
    "run.hang_s": Range(1, 10**7),
    "CifarResNet.depth": Range(3, 10_000),
    "CifarResNet.width": Range(1, 65_536),
    "CifarResNet.num_classes": Range(1, 10**6),
    "CifarResNet.init": Range(0, 1_000, above=True),
    "ImageNetResNet.depth": Range(3, 10_000),
    "ImageNetResNet.num_classes": Range(1, 10**6),
    "ImageNetResNet.init": Range(0, 1_000, above=True),
    "ImageNetResNet.groups": Range(1, 65_536),
    "ImageNetResNet.width_per_group": Range(1, 65_536),
    "ImageNetResNet.se_ratio": Range(0, 1, above=True),
    "Steps.at": SHARE,
    "Steps.gamma": Range(0, 10**6),
    "Steps.warmup": Range(0, 1, below=True),
    "Cosine.warmup": Range(0, 1, below=True),
    "Cosine.end": Range(0, 10**6),
    "Cosine.start": Range(0, 10**6),
    "Cosine.warmup_epochs": Range(0, 1_000_000),
    "Linear.warmup": Range(0, 1, below=True),
    "Linear.end": Range(0, 10**6),
    "Linear.start": Range(0, 10**6),
    "Linear.warmup_epochs": Range(0, 1_000_000),
    "Plateau.patience": Range(0, MOST),
    "Plateau.gamma": Range(0, 10**6),
    "ErrorWarmup.factor_before": Range(0, 10**6),
    "ErrorWarmup.until_error": SHARE,
    "Lighting.std": Range(0, 1_000),
    "RandAugment.ops": Range(1, 100),
    "RandAugment.magnitude": Range(0, 30),
    "IncreasingRandAugment.ops": Range(1, 100),
    "IncreasingRandAugment.magnitude": Range(0, 10),
    "IncreasingRandAugment.std": Range(0, 1_000),
    "Mix.mixup": Range(0, 10**6),
    "Mix.cutmix": Range(0, 10**6),
    "Mix.pairs": Range(0, 1, above=True),
    "Curvature.every": COUNT,
    "Curvature.images": COUNT,
    "Curvature.steps": Range(2, 1_000),
    "Averaging.decay": Range(0, 1, below=True),
    "Averaging.every": COUNT,
    "Averaging.start": SHARE,
    "Hyperband.brackets": COUNT,
    "Hyperband.eta": Range(1, 10**6, above=True),
    "Progressive.low": Range(1, 16_384),
    "Progressive.high": Range(1, 16_384),
    "Progressive.start": SHARE,
    "Progressive.end": SHARE,
    "Synthetic.n": Range(1, 10**7),
    "Synthetic.n_val": Range(1, 10**7),
    "Synthetic.size": Range(1, 4_096),
    "Synthetic.num_classes": Range(1, 10**6),
    **{
        f"{name}.holdout": Range(0, MOST)
        for name in (
            "BetonFiles",
            "CIFAR10",
            "CIFAR100",
            "Digits",
            "FashionMNIST",
            "ImageFolder",
            "ImageNet",
            "Parquet",
            "Subset",
            "Synthetic",
            "WebDataset",
        )
    },
    "ImageNetV2.num_classes": Range(1, 10**6),
    "Subset.num_classes": Range(2, 10**6),
    "Subset.per_class": COUNT,
    **{f"optimizer.{name}": Range(0, 10**6) for name in ("lr", "weight_decay", "eps")},
    "optimizer.momentum": Range(0, 1, below=True),
}
# arguments that are often given in another unit -> how to convert
CURES = {
    "warmup": "; divide epochs by --trainer.max_epochs",
    "at": "; divide epochs by --trainer.max_epochs",
}
# options that Lightning types as any text
CHOICES = {
    "trainer.gradient_clip_algorithm": ("norm", "value"),
    "trainer.accelerator": ("auto", "cpu", "gpu", "cuda", "mps", "tpu"),
}
HINTS = {"seed_everything": int}  # types of options that Lightning types too widely
# classes whose arguments are given as a mapping -> an example
FORMS = {
    "Mix": "{mixup: 0.2}",
    "Averaging": "{decay: 0.999}",
    "Progressive": "{low: 128, high: 192}",
}
WORDS = {
    bool: "true or false",
    str: "a text",
    type(None): "null",
    list: "a list",
    dict: "a mapping",
    tuple: "a list",
}


def check_values(config: Namespace, parser: LightningArgumentParser) -> None:
    """Refuse numbers out of the range of their option, and null for a number.

    Raises:
        UserError: the option, what the option may be, and the value.
    """
    for action in parser._actions:
        hint = getattr(action, "_typehint", None)
        if hint is None or action.dest.endswith(".help"):
            continue
        _check(action.dest, action.dest, HINTS.get(action.dest, hint), config.get(action.dest))
    try:
        check_devices(config.trainer.devices)
    except ValueError as e:
        raise UserError(str(e)) from e
    if config.trainer.max_steps == 0:
        raise UserError("--trainer.max_steps must be 1 or more, or -1 for no limit; got 0")


def _check(key: str, name: str, hint: Any, value: Any) -> None:
    """Check one value, or the values of a class's arguments.

    Args:
        key: key of the option, for the message.
        name: name of the option in `NUMBERS`.
        hint: type of the option.
        value: value as parsed.

    Raises:
        UserError: the value is refused.
    """
    if isinstance(value, list | tuple) and not _is_class(hint):
        for item in value:
            _check(key, name, hint, item)
    elif isinstance(value, list):
        for item in value:
            _check(key, name, Any, item)
    elif isinstance(value, Namespace | dict) and "class_path" in value:
        owner = value["class_path"].rpartition(".")[2]
        if key == "model.optimizer":
            owner = "optimizer"
        for argument, its_hint, its_value in _arguments(value):
            _check(f"{key}.{argument}", f"{owner}.{argument}", its_hint, its_value)
    elif isinstance(value, Namespace) and _is_class(hint):  # a data class, such as `mix`
        kinds = [part for part in parts_of(hint) if inspect.isclass(part)]
        kind = next(part for part in kinds if part is not type(None))
        for argument, its_hint in _hints(kind).items():
            if argument in value:
                name = f"{kind.__name__}.{argument}"
                _check(f"{key}.{argument}", name, its_hint, value[argument])
    elif choices := CHOICES.get(key):
        if isinstance(value, str) and value not in choices:
            raise UserError(f"--{key} must be one of {', '.join(choices)}; got {_shown(value)}")
    elif _is_number(hint) and not _is_fine(hint, NUMBERS.get(name, Range()), value):
        raise UserError(f"--{key} must be {_needed(hint, name)}; got {_shown(value)}")


def _is_fine(hint: Any, numbers: Range, value: Any) -> bool:
    """Return whether a value is in the range of its option, or no number."""
    if value is None:  # also within a list, as in Adafactor's eps
        inner = [arg for part in parts_of(hint) for arg in typing.get_args(part)]
        return any(type(None) in parts_of(each) for each in [hint, *inner])
    if isinstance(value, bool) or not isinstance(value, int | float):
        return True  # the value belongs to another part of the union
    return value in numbers


def _arguments(node: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, type and value of each argument that a class is given."""
    hints = _hints(resolve_class(node["class_path"]))
    given = node.get("init_args") or {}
    for name, value in (vars(given) if isinstance(given, Namespace) else given).items():
        yield name, hints.get(name, Any), value


def _hints(owner: Any) -> dict[str, Any]:
    """Return the types of the arguments of a class; empty if the class cannot tell them."""
    try:
        return {p.name: p.annotation for p in get_signature_parameters(owner, "__init__")}
    except Exception:  # noqa: BLE001 -- whatever a class of somebody's does
        return {}


def parts_of(hint: Any) -> list[Any]:
    """Return the types of a union, nested ones too; for another type the type alone."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [part for each in typing.get_args(hint) for part in parts_of(each)]
    return [hint]


def _is_number(hint: Any) -> bool:
    """Return whether a type, or a part of a union, is a number or a list of numbers."""
    parts = parts_of(hint)
    inner = [
        arg
        for part in parts
        if typing.get_origin(part) in (list, tuple)
        for arg in typing.get_args(part)
    ]
    return any(part in (int, float) for each in [*parts, *inner] for part in parts_of(each))


def _is_class(hint: Any) -> bool:
    """Return whether values of a type are objects of some class: not numbers, texts or lists."""
    plain = (int, float, bool, str, list, dict, tuple, type(None), Any)
    for part in parts_of(hint):
        is_class = inspect.isclass(part) and typing.get_origin(part) is None
        if (is_class and part not in plain) or _made(part):
            return True
    return False


def _needed(hint: Any, name: str) -> str:
    """Return what an option may be, and how to convert what is often meant."""
    return words(hint, NUMBERS.get(name)) + CURES.get(name.rpartition(".")[2], "")


def _made(part: Any) -> Any:
    """Return the class that a callable makes, or of a list's items; None without a class."""
    inner = typing.get_args(part)
    of_class = bool(inner) and inspect.isclass(inner[-1]) and inner[-1].__module__ != "builtins"
    return inner[-1] if of_class and typing.get_origin(part) is not tuple else None


def words(hint: Any, numbers: Range | None = None) -> str:
    """Return what an option may be: `a whole number from 1 to 16,384, or null`.

    Args:
        hint: type of the option.
        numbers: range of the option.
    """
    parts = parts_of(hint)
    choices: list[str] = []
    for part in parts:
        if typing.get_origin(part) is Literal:
            choices += map(str, typing.get_args(part))
    said = list(dict.fromkeys(filter(None, (_word(part, numbers) for part in parts))))
    if choices:
        listed = ", ".join(dict.fromkeys(choices))
        said.append(f"one of {listed}" if len(choices) > 1 else listed)
    if "a number" in (word[:8] for word in said):  # a whole number is one
        said = [word for word in said if not word.startswith("a whole number")]
    said.sort(key=lambda word: word == "null")
    return f"{', '.join(said[:-1])} or {said[-1]}" if len(said) > 1 else "".join(said)


def _word(part: Any, numbers: Range | None) -> str:
    """Return words for one type; empty for types that have none."""
    origin = typing.get_origin(part)
    if origin is Literal:
        return ""
    if part is int:
        return f"a whole number {numbers or ''}".strip()
    if part is float:
        return f"a number {numbers or ''}".strip() if numbers else "a finite number"
    if origin in (list, tuple):
        inner = [arg for arg in typing.get_args(part) if arg is not ...]
        many = f"{len(inner)} of them" if origin is tuple else "any number of them"
        return f"a list ({words(inner[0], numbers)}; {many})" if inner else "a list"
    if part in (torch.Tensor, Any):
        return ""
    if part in WORDS:
        return WORDS[part]
    if not inspect.isclass(part):
        return ""
    if part.__name__ in FORMS:
        return f"a mapping such as {FORMS[part.__name__]}"
    return f"{'an' if part.__name__[0] in 'AEIOU' else 'a'} {part.__name__}"


def _shown(value: Any) -> str:
    """Return a value as YAML writes it, cut to `SHOWN` characters."""
    names = {None: "null", True: "true", False: "false"}
    return names[value] if value is None or isinstance(value, bool) else printable(value, SHOWN)


# -- messages of jsonargparse ----------------------------------------------------------------------

STEP = (
    r"(?:Problem with given class_path '([^']+)'|Type typing\.Callable\S* ?[^:]*? callable class)"
)
STEP += r": (\w+): "
OF_THAT_KIND = "give a class of that kind (a function must be annotated to return one)"
UNION = r"(?:- )?(?:Expected a path but .*? either not accessible or invalid )?(?:- )?"
UNION += (
    r"(?:Does not validate against any of the Union subtypes Subtypes: \[.*?\] Errors: )?(?:- )?"
)


def explain(
    message: str, parser: LightningArgumentParser, args: Sequence[str] = ()
) -> tuple[str, str, str]:
    """Say in a line what an option needs.

    Args:
        message: message of the parser, on one line.
        parser: parser that refused the option.
        args: the command line.

    Returns:
        The option's key, empty if it is not known; what is wrong with the option; its value as
        text.
    """
    message = re.sub(r'Parser key "([^"]+)":', r"\1:", message)
    special = _special(message, parser, args)
    if special:
        return special
    root, _, rest = message.partition(": ")
    action = next((a for a in parser._actions if a.dest == root), None)
    if action is None or not getattr(action, "_typehint", None):
        return "", _meant(message), ""
    hint: Any = HINTS.get(root, action._typehint)
    key = name = root
    while found := re.match(f"{UNION}{STEP}", rest):
        class_path, argument = found.groups()
        rest = rest[found.end() :]
        owner = (class_path or "optimizer").rpartition(".")[2]
        key = f"{key}.{argument}"
        name = f"{owner}.{argument}"
        hint = _hint_of(class_path, argument) if class_path else None
    rest = re.sub(r"\.? Got value: Namespace\(.*$", "", rest)
    hint = _hint_in(rest) if hint is None else hint
    value = _value_in(rest)
    if _is_class(hint):
        return key, _no_such_class(key, hint, rest, value), value
    if not words(hint):  # a type without words
        return key, f"--{key} cannot be {printable(value, SHOWN)}", value
    yaml_words = {"None": "null", "True": "true", "False": "false"}
    shown = yaml_words.get(value, printable(value, SHOWN))
    return key, f"--{key} must be {_needed(hint, name)}; got {shown}", value


def _meant(message: str) -> str:
    """Return the error of the type that a value is meant to be, out of those of all its types."""
    errors = message.partition("Errors:")[2].partition("Given value type:")[0]
    others = ("Expected a", "Not a valid", "a class", "a dict")
    told = [part.strip() for part in re.split(r"(?:^|\s)- ", errors) if part.strip()]
    return next((part for part in told if not part.startswith(others)), message)


def _special(
    message: str, parser: LightningArgumentParser, args: Sequence[str]
) -> tuple[str, str, str] | None:
    """Explain a message that needs no look at types; None: the message is another.

    Returns:
        As `explain`.
    """
    key = message.partition(":")[0]
    flag = f"--{key}" if re.fullmatch(r"[\w.]+", key) else key
    if denied := re.search(
        r"Importing '([^']+)' is not allowed, denied by the '([^']+)' entry", message
    ):
        why = f"{denied[2]} can run commands, open files or load code; name a class of your own"
        return key, f"{flag}: a recipe may not name {denied[1]}: {why}", denied[1]
    if other := re.search(
        r"Import path (?:(\S+) )?does not correspond to a subclass of (\w+)", message
    ):
        given = re.search(r"a path but (\S+) either", message)
        name = other[1] or (given[1] if given else "what is given")
        return key, f"{flag}: {name} is no {other[2]}, and is not called: {OF_THAT_KIND}", name
    if other := re.search(
        r"Expected '(\S+)' to be a (?:function that returns|subclass of) <class '(\w+)'>", message
    ):
        return (
            key,
            f"{flag}: {other[1]} is no {other[2]}, and is not called: {OF_THAT_KIND}",
            other[1],
        )
    if missing := re.search(r"No module named '([^'.]+)[^']*'", message):
        cure = f"pip install {missing[1]}, or, if it is a file of yours, start where it lies"
        return key, f"{flag}: no module named {missing[1]}: {cure}", ""
    if absent := re.search(r"module '([^']+)' has no attribute '([^']+)'", message):
        hint = nearest(absent[2], vars(resolve_name(absent[1])))
        return key, f"{flag}: {absent[1]} has no {absent[2]}{hint}", ""
    if content := re.search(r"Invalid content in sub-config file (.+?): (.+?)(?= - |$)", message):
        return key, f"{flag}: {content[1]}: {content[2]}", ""
    if owner := re.search(r"Problem with given class_path '(?:[^']*\.)?(\w+)': (.+)", message):
        packages = re.findall(r"Requirement '([\w-]+)|pip install (?:-U )?'?([\w-]+)", owner[2])
        if packages:
            package = min((a or b for a, b in packages), key=len)
            return (
                key,
                f"{owner[1]} needs the package {package}, which is not installed: "
                f"pip install {package}",
                "",
            )
    if loaded := re.search(r"Unable to load config ['\"](.+?)['\"](?: - (.*))?", message):
        return key, _unloaded(key, loaded[1], loaded[2] or ""), loaded[1]
    if required := re.search(
        r"class_path '([^']+)': the following arguments are required: ([\w, ]+)", message
    ):
        first = required[2].split(",")[0].split()[0]
        return (
            key,
            f"{flag}: {required[1].rpartition('.')[2]} needs {first}: add --{key}.{first} VALUE",
            "",
        )
    if "are required" in message:
        return "", f"{message}: give a recipe, such as --config digits", ""
    if number := re.search(r"Key must be a string, got: (.+?)\.?$", message):
        return (
            "",
            f"a key of a recipe is {number[1]}, which is no word: write the option's name",
            "",
        )
    if digits := re.search(r"Exceeds the limit .* has (\d+) digits", message):
        where = flag
        for before, arg in pairwise(["", *args]):
            name, has_value, value = arg.partition("=")
            if re.fullmatch(r"[-+]?\d{4300,}", value if has_value else arg):
                where = name if has_value else before  # `flag` is the class's option alone
        return key, f"{where} must be a shorter number; got one of {int(digits[1]):,} digits", ""
    unknown = re.search(r"Option '([^']+)' is not accepted|unrecognized arguments: (\S+)", message)
    return ("", _unknown(message, unknown, parser, args), "") if unknown else None


def _unloaded(key: str, file: str, why: str) -> str:
    """Return the message for `--model X`, `--data X` or `--trainer X`, where X is a file."""
    if why and "Unable to load config" not in why:
        return f"--{key}: {file}: {why}"
    cure = PATHS.get(key, "give its options one by one")
    return f"--{key} {printable(file, SHOWN)} is no file of options; {cure}"


def _unknown(
    message: str, found: re.Match[str], parser: LightningArgumentParser, args: Sequence[str]
) -> str:
    """Return the message for an option that does not exist, with the nearest ones."""
    key = (found[1] or found[2]).partition("=")[0].removeprefix("--")
    if key.endswith((".yaml", ".yml")):
        return f"unknown option {key}: put --config before a recipe"
    section, _, rest = key.partition(".")
    if rest == "class_path" and section in PATHS:
        return f"unknown option {key}: {PATHS[section]}"
    if owner := re.findall(r"class_path '([^']+)'", message):
        cls = _chosen(message.partition(":")[0], resolve_class(owner[-1]), args)
        valid = list(inspect.signature(cls).parameters)
        return f"unknown option {key} of {cls.__name__}{_hint_or_list(key, valid)}"
    valid = [a.dest for a in parser._actions if a.dest != "help"]
    return f"unknown option {key}{nearest(key, valid)}"


def _chosen(root: str, base: type, args: Sequence[str]) -> type:
    """Return the subclass of `base` that the last `--ROOT CLASS` or `--ROOT+=CLASS` names.

    Without such a flag, or for a name of no subclass, return `base`.
    """
    given = [value for flag, value in pairs(list(args)) if flag in (f"--{root}", f"--{root}+")]
    if not given:
        return base
    paths = [path for path in get_all_subclass_paths(base) if path.endswith(f".{given[-1]}")]
    return resolve_class(paths[0]) if paths else base


def _hint_or_list(word: str, valid: Iterable[str]) -> str:
    """Return `; did you mean X?`, else a list of all valid words."""
    valid = sorted(valid)
    hint = nearest(word, valid)
    if hint or not valid:
        return hint
    return f"; there are {', '.join(valid)}"


def _hint_of(class_path: str, argument: str) -> Any:
    return _hints(resolve_class(class_path)).get(argument)


def _hint_in(message: str) -> Any:
    """Return the plain types that a message names, as a union; Any if none."""
    plain = {
        "int": int,
        "float": float,
        "bool": bool,
        "str": str,
        "NoneType": type(None),
        "list": list,
        "dict": dict,
    }
    subtypes = re.search(r"Subtypes: \[(.*?)\] Errors:", message)
    text = subtypes[1] if subtypes else message.partition("Given value")[0]
    named = re.findall(r"<class '(\w+)'>", text)
    found = [plain[name] for name in named if name in plain]
    return typing.Union[tuple(found)] if found else Any  # noqa: UP007


def _value_in(message: str) -> str:
    """Return the value that was refused, as text."""
    if nested := re.search(r"NestedArg\(key='[^']*', val='?(.*?)'?\)", message):
        got = re.search(r"Got value: (.*?)(?= - | Given value|$)", message)
        return got[1] if got else nested[1]
    for pattern in (
        r"Given value: (.*)$",
        r"Got value: (.*?)(?= - | Given value|$)",
        r"path string: (.*?)(?= - |$)",
    ):
        if found := re.search(pattern, message):
            return found[1]
    return ""


def _no_such_class(key: str, hint: Any, message: str, value: str) -> str:
    """Return the message for a class that does not exist or is of another kind."""
    names = [re.sub(r".*\.", "", path) for path in subclasses(hint)]
    shown = re.search(r"path string: (.*?)(?= - |$)", message)
    word = printable(shown[1] if shown else value, SHOWN)
    if problem := re.search(r"Problem with given class_path '([^']+)': (.+?)(?= - |$)", message):
        return f"--{key} {problem[1]}: {printable(problem[2], 300)}"
    if several := re.search(
        r"Multiple subclasses with name (\w+)\..*?: ([\w., ]+?)\.?(?= - |$)", message
    ):
        return f"--{key}: several classes are named {several[1]}: give one of {several[2]}"
    text = f"--{key}: there is no class {word}" if word else f"--{key} needs a class"
    if hint_of_name := nearest(word, names):
        return text + hint_of_name
    if names:
        return f"{text}; there are {', '.join(sorted(set(names)))}, or any other as module.Class"
    return f"{text}: write it as module.Class"


def subclasses(hint: Any) -> list[str]:
    """Return the paths of the classes that an option takes by a bare name; only our own nets."""
    if hint is None or hint is Any:
        return []
    found: list[str] = []
    for part in parts_of(hint):
        if made := _made(part):
            found += subclasses(made)
        elif part is torch.nn.Module:
            found += ["CifarResNet", "ImageNetResNet"]
        elif inspect.isclass(part) and part.__module__ != "builtins":
            found += get_all_subclass_paths(part)
    return [path for path in found if not path.rpartition(".")[2].startswith("_")]
