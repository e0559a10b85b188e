"""Read the table of all keys of a recipe, without torch.

The table, `keys.json`, is written by `python -m lightning_resnet.config.keys` from the parser of
recipes, and a test compares the two.
"""

import json
import math
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

FILE = Path(__file__).with_name("keys.json")
PACKAGES = ("pytorch-lightning", "torch", "torchvision")  # their options are part of the table


class Range(NamedTuple):
    """The numbers from `low` to `high`.

    Attributes:
        low: smallest number.
        high: largest number.
        above: whether `low` itself is left out.
        below: whether `high` itself is left out.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        high_enough = value > self.low if self.above else value >= self.low
        low_enough = value < self.high if self.below else value <= self.high
        return math.isfinite(value) and high_enough and low_enough

    def __str__(self) -> str:
        said = []
        if self.low > -math.inf:
            said.append(f"{'above' if self.above else 'from'} {_short(self.low)}")
        if self.high < math.inf:
            said.append(f"{'below' if self.below else 'to'} {_short(self.high)}")
        return " ".join(said)


class Key(NamedTuple):
    """What the table says of a key of a recipe, or of an argument of a class.

    Attributes:
        name: the dotted key, or the argument's name.
        needs: what the value may be, in words.
        kinds: plain types among int, float, bool, str and null; "other" stands for any other type.
        choices: words that the value may be.
        range: numbers that the value may be; None: any, or no number.
        classes: names of classes that the value may be.
        default: value without a flag.
        is_required: whether there is no default.
        cure: how to convert what is often given instead, after a semicolon; empty without one.
        help: what the key does, in a sentence.
    """

    name: str
    needs: str
    kinds: list[str]
    choices: list[str]
    range: Range | None
    classes: list[str]
    default: Any
    is_required: bool
    cure: str
    help: str

    @property
    def is_ours(self) -> bool:
        """Whether the key is not one of Lightning's trainer."""
        return not self.name.startswith("trainer.") or self.name == "trainer.matmul_precision"


@cache
def _content() -> dict[str, Any]:
    return json.loads(FILE.read_text())


@cache
def keys() -> dict[str, Key]:
    """Return all keys of a recipe, by dotted name."""
    return {name: _key(name, record) for name, record in _content()["keys"].items()}


@cache
def classes() -> dict[str, dict[str, Key]]:
    """Return the arguments of our classes and of torch's optimizers, by the class's name."""
    found = {}
    for owner, arguments in _content()["classes"].items():
        found[owner] = {name: _key(name, record) for name, record in arguments.items()}
    return found


def class_of(key: str) -> str | None:
    """Return the class key that a dotted key is or is below; None without one."""
    for name, record in keys().items():
        if record.classes and (key == name or key.startswith(f"{name}.")):
            return name
    return None


def record_of(key: str) -> Key | None:
    """Return what the table says of a key, or of an argument of some class that a key takes."""
    if key in keys():
        return keys()[key]
    base = class_of(key)
    name = key.removeprefix(f"{base}.")
    names = [str(keys()[base].default), *keys()[base].classes] if base else []
    takers = [classes()[cls] for cls in names if cls in classes()]
    return next((arguments[name] for arguments in takers if name in arguments), None)


def weights_of_torchvision() -> dict[str, list[str]]:
    """Return the names of the weights of each of torchvision's classification nets."""
    return _content()["nets"]


def installed_versions() -> dict[str, str]:
    """Return the version of each package that has a part in the table; absent: not installed."""
    found = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package).partition("+")[0]
    return found


@cache
def is_current() -> bool:
    """Tell whether the installed packages are those that the table was written with."""
    return _content()["versions"] == installed_versions()


def _key(name: str, record: dict[str, Any]) -> Key:
    low, high, *ends = record.get("range", [None, None, False, False])
    numbers = Range(-math.inf if low is None else low, math.inf if high is None else high, *ends)
    return Key(
        name,
        record["needs"],
        record.get("kinds", []),
        record.get("choices", []),
        numbers if "range" in record else None,
        record.get("classes", []),
        record["default"],
        record.get("is_required", False),
        record.get("cure", ""),
        record["help"],
    )


def _short(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"
