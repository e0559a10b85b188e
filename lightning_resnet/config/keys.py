"""Write `keys.json`, the table of all keys of a recipe that is read before torch is imported.

python -m lightning_resnet.config.keys
"""

import inspect
import json
import re
import typing
from typing import Any, Literal

from jsonargparse import Namespace
from jsonargparse._parameter_resolvers import get_signature_parameters
from torch import Tensor
from torchvision.models import get_model_builder, get_model_weights, list_models

from lightning_resnet import PUBLIC
from lightning_resnet.config.recipe import RecipeParser
from lightning_resnet.config.values import (
    CHOICES,
    CURES,
    HINTS,
    NUMBERS,
    parts_of,
    subclasses,
    words,
)
from lightning_resnet.keys import FILE, installed_versions
from lightning_resnet.runs.identity import resolve_class

PLAIN = {int: "int", float: "float", bool: "bool", str: "str", type(None): "null"}
# keys whose types say too little
NEEDS = {
    "trainer.devices": "a number of devices, auto, -1 (all) or a list of GPUs such as 0,2",
    "model.optimizer": "the name of a class",
}
OPTIMIZERS = "model.optimizer"
ABSTRACT = ("Source", "Policy", "Schedule", "Annealed", "TrainingHooks", "Optimizer", "Callback")
OTHERS = ("torch.optim.", "pytorch_lightning.", "lightning_fabric.")
LONGEST_HELP = 240  # characters


def table() -> dict[str, Any]:
    """Return the content of `keys.json`, read off the parser of recipes.

    Returns:
        `versions` of the packages that have a part in the table; `keys` and `classes`, each with
        what `lightning_resnet.keys.Key` says; `nets` of torchvision with their weights.
    """
    keys: dict[str, Any] = {}
    classes: dict[str, Any] = {}
    for action in RecipeParser("validate").parser._actions:
        hint = HINTS.get(action.dest, getattr(action, "_typehint", None))
        if hint is None or action.dest.endswith(".help"):
            continue
        keys[action.dest] = _record(action.dest, hint, action.default, action.help)
        for name, path in _listed(hint).items():
            is_ours = path.startswith("lightning_resnet.")
            if is_ours or action.dest == OPTIMIZERS:
                owner = "optimizer" if action.dest == OPTIMIZERS else name
                classes[name] = _arguments(resolve_class(path), owner)
    return {
        "versions": installed_versions(),
        "keys": keys,
        "classes": dict(sorted(classes.items())),
        "nets": {
            name: [weights.name for weights in get_model_weights(name)]
            for name in list_models()
            if _is_classifier(name)
        },
    }


def _listed(hint: Any) -> dict[str, str]:
    """Return the path of each class that an option takes by its bare name, by that name.

    Classes of other packages than ours, torch.optim and Lightning are left out: which ones there
    are depends on what has been imported.
    """
    found = {}
    for path in subclasses(hint):
        name = path.rpartition(".")[2]
        if name in ABSTRACT or path.startswith("pytorch_lightning.core."):
            continue
        if name in PUBLIC and path in (name, f"lightning_resnet.{name}"):
            found[name] = f"lightning_resnet.{name}"
        elif path == "lightning_resnet.data.augment.crops.Progressive" or path.startswith(OTHERS):
            found[name] = path
    return found


def _is_classifier(name: str) -> bool:
    """Tell whether a net of torchvision classifies images."""
    return get_model_builder(name).__module__.count(".") == 2


def _record(name: str, hint: Any, default: Any, help: str | None) -> dict[str, Any]:
    """Return what the table says of one key or argument.

    Args:
        name: name of the option in `NUMBERS`.
        hint: type of the option.
        default: value without a flag.
        help: text of the docstring.
    """
    numbers = NUMBERS.get(name)
    if name in CHOICES:
        is_optional = type(None) in parts_of(hint)
        hint = Literal[CHOICES[name]]
        hint = hint | None if is_optional else hint
    kinds: list[str] = []
    choices: list[str] = []
    for part in parts_of(hint):
        if typing.get_origin(part) is Literal:
            choices += [str(choice) for choice in typing.get_args(part)]
        elif part is not Tensor:
            kinds.append(PLAIN.get(part, "other"))
    record: dict[str, Any] = {"needs": NEEDS.get(name) or words(hint, numbers)}
    if kinds:
        record["kinds"] = list(dict.fromkeys(kinds))
    if choices:
        record["choices"] = list(dict.fromkeys(choices))
    if cure := CURES.get(name.rpartition(".")[2]):
        record["cure"] = cure
    if numbers:
        record["range"] = [None if abs(x) == float("inf") else x for x in numbers]
    if names := list(_listed(hint)):
        record["classes"] = names
    record["default"] = _plain(default)
    if default is inspect.Parameter.empty:
        record["default"] = None
        record["is_required"] = True
    record["help"] = _first_sentence(help or "")
    return record


def _plain(default: Any) -> Any:
    """Return a default as JSON has it; of a class its name."""
    if isinstance(default, Namespace | dict):
        return str(default.get("class_path", "")).rpartition(".")[2]
    if isinstance(default, tuple):
        return list(default)
    return default if isinstance(default, str | int | float | bool | list) else None


def _arguments(owner: Any, name: str) -> dict[str, Any]:
    """Return a record for each argument of a class; `name` is the class's in `NUMBERS`."""
    found = {}
    for argument in get_signature_parameters(owner, "__init__"):
        if argument.name != "params":
            found[argument.name] = _record(
                f"{name}.{argument.name}", argument.annotation, argument.default, argument.doc
            )
    return found


def _first_sentence(text: str) -> str:
    """Return the first sentence of a help text on one line, cut where it is long."""
    paragraph = " ".join(text.split("\n\n")[0].split("Default:")[0].split())
    sentence = re.split(r"(?<!\bal)(?<!e\.g)(?<!i\.e)\. ", paragraph)[0].rstrip(".")
    if len(sentence) > LONGEST_HELP:
        return sentence[:LONGEST_HELP].rpartition(" ")[0] + " ..."
    return sentence


def text() -> str:
    """Return the content of `keys.json` as text, one key a line."""
    parts = []
    for name, value in table().items():
        if name in ("keys", "classes"):
            lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value[key])}" for key in value)
            parts.append(f" {json.dumps(name)}: {{\n{lines}\n }}")
        else:
            parts.append(f" {json.dumps(name)}: {json.dumps(value)}")
    content = ",\n".join(parts)
    return f"{{\n{content}\n}}\n"


if __name__ == "__main__":
    FILE.write_text(text())
    print(f"written: {FILE}")
