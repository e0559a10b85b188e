"""A sweep's YAML, in W&B's format -> its points: the same ones every time and on every machine, without a server.

Grid: the product over the parameters sorted by name, the last one fastest, as W&B's. Random: each value is a hash of
the sweep's name, the parameter and a number, so a higher run_cap only adds points. early_terminate is W&B's alone.
"""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lightning_resnet.credentials import refuse_secret_flags, refuse_secrets
from lightning_resnet.errors import UserError, nearest, printable
from lightning_resnet.reading import read_yaml
from lightning_resnet.runs.names import check_name
from lightning_resnet.sweeps.distributions import Spec, axis, check, draw

TOP = (  # W&B's; what is not read here is for `wandb sweep`
    "method parameters metric metrics name description project entity program command run_cap early_terminate "
    "controller scheduler job image_uri apiVersion kind"
).split()
PARAMETER_FILE = "${args_json_file}"
COMMAND = f'["${{env}}", resnet-cli, fit, --config, configs/digits.yaml, --config, "{PARAMETER_FILE}"]'
MOST = 1_000_000  # points: each is a run
MANY = 100_000  # points; more are surely a mistake
SEED = "seed_everything"


@dataclass
class Point:
    """One run of a sweep.

    Attributes:
        parameters: dotted key -> value.
        key: hash of recipes, literal flags and parameters; the run keeps it as `point`.
        run: directory of its run, once there is one.
        state: of that run; "new" without one.
    """

    parameters: dict[str, Any]
    key: str
    run: Path | None = None
    state: str = "new"


@dataclass
class Sweep:
    """What a sweep's YAML says.

    Attributes:
        name: of the sweep and of the folder of its runs.
        recipes: files of `command`, in order.
        flags: the other literal arguments of `command`.
        points: to run.
    """

    name: str
    recipes: list[str]
    flags: list[str]
    points: list[Point]

    def cells(self, point: Point) -> list[str]:
        """`depth=56`, `shortcut=none`, `seed=1`; the whole key where two end alike."""
        short = {key: "seed" if key == SEED else key.rpartition(".")[2] for key in point.parameters}
        count = Counter(short.values())
        text = {k: v if isinstance(v, str) else json.dumps(v) for k, v in point.parameters.items()}
        return [printable(f"{short[k] if count[short[k]] == 1 else k}={text[k]}") for k in text]

    def text(self, point: Point) -> str:
        """`depth=56 shortcut=none seed=1`."""
        return " ".join(self.cells(point))


def read(file: str | Path, many: bool = False) -> Sweep:
    """Read a sweep's YAML and expand its points.

    Args:
        file: the YAML.
        many: allow more than 100,000 points.

    Raises:
        UserError: what is wrong with it.
    """
    content = _load(Path(file))
    try:
        _check_keys(content, TOP)
        refuse_secrets(content, "it")
        name = str(content.get("name") or Path(file).stem)
        check_name(name, "`name:` in its YAML", single=True)
        recipes, flags = _read_command(content.get("command"))
        contents = [_load(Path(r)) for r in recipes]
        origin = json.dumps([contents, flags], sort_keys=True, default=str)
        specs = dict(sorted(_flatten(content.get("parameters")).items()))
        for recipe, found in zip(recipes, contents, strict=True):
            refuse_secrets(found, recipe)
        if both := [flag for flag in flags if flag.partition("=")[0].removeprefix("--") in specs]:
            raise UserError(f"{both[0]} is in command and in parameters, and a flag wins: remove one")
        count, candidates = _expand(content, specs, name)
        if count > MOST:
            raise UserError(f"has more than {MOST:,} points: add run_cap, or give fewer values")
        if count > MANY and not many:
            raise UserError(f"has {count:,} points; add --yes if that is meant")
    except UserError as e:
        raise UserError(f"sweep {file}: {e}") from e
    return Sweep(name, recipes, flags, _points(candidates, count, origin))


class _Loader(yaml.SafeLoader):
    """Reads 1e-3 as a number, as YAML 1.2 and recipes do; to PyYAML it is text."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+\.?\d*[eE][-+]?\d+$"), [*"-+0123456789"])


def _load(file: Path) -> dict[str, Any]:
    content = read_yaml(file, _Loader)
    if not isinstance(content, dict):
        raise UserError(f"{file} is not a mapping (lines `key: value`) but a {type(content).__name__}")
    return content


def _check_keys(content: dict[str, Any], valid: list[str]) -> None:
    for key in content:
        if key not in valid:
            raise UserError(f"there is no key {key}{nearest(str(key), valid)}")


def _read_command(command: Any) -> tuple[list[str], list[str]]:
    """Recipes and other literal arguments of `command: [..., fit, --config, RECIPE, ...]`; a macro is a whole item."""
    tokens = [str(token) for token in command] if isinstance(command, list) else []
    if "fit" not in tokens:
        raise UserError(f"needs a command, such as {COMMAND}")
    refuse_secret_flags(tokens)
    recipes, flags, passed = [], [], False
    rest = iter(tokens[tokens.index("fit") + 1 :])
    for token in rest:
        is_config = token in ("-c", "--config")
        token = next(rest, "") if is_config else token
        if token == (PARAMETER_FILE if is_config else "${args}"):
            passed = True
        elif "${" in token:
            raise UserError(f'{token} does not work here; pass the parameters by --config, "{PARAMETER_FILE}"')
        else:
            (recipes if is_config else flags).append(token)
    if not recipes or not passed:
        raise UserError(f"command lacks {'the parameters' if recipes else 'a recipe'}: write, as fits, {COMMAND}")
    return recipes, flags


def _flatten(parameters: Any, prefix: str = "") -> dict[str, Spec]:
    """Nested `parameters` blocks -> dotted keys."""
    if not isinstance(parameters, dict) or not parameters:
        raise UserError(f"{prefix}parameters has no points: give some, such as model.net.depth: {{values: [20, 56]}}")
    flat: dict[str, Spec] = {}
    for name, spec in parameters.items():
        key = f"{prefix}{name}"
        if not isinstance(spec, dict):
            raise UserError(f"parameter {key} is not a mapping: write {key}: {{value: {spec}}}")
        if "parameters" in spec and len(spec) > 1:
            raise UserError(f"parameter {key} has nested parameters, so no other key")
        nested = "parameters" in spec
        found = _flatten(spec["parameters"], f"{key}.") if nested else {key: _of(key, check, spec)}
        if twice := flat.keys() & found.keys():
            raise UserError(f"parameter {min(twice)} is given twice")
        flat |= found
    return flat


def _of(key: str, function: Any, spec: Spec) -> Any:
    """Call; errors name the parameter."""
    try:
        return function(spec)
    except UserError as e:
        raise UserError(f"parameter {key}: {e}") from e


def _expand(content: dict[str, Any], specs: dict[str, Spec], name: str) -> tuple[int, Iterator[dict[str, Any]]]:
    """How many points are wanted, and parameters, some perhaps equal, to take them from."""
    method, cap = content.get("method"), content.get("run_cap")
    if cap is not None and (type(cap) is not int or cap < 1):
        raise UserError(f"run_cap is {cap!r}, not a number of points")
    if method == "grid":
        axes = {key: _of(key, axis, spec) for key, spec in specs.items()}
        count = math.prod(size for size, _ in axes.values())
        tries = range(min(count, 10 * MOST))  # equal values make equal points
        return min(count, cap or count), (_grid_point(axes, i) for i in tries)
    if method == "random":
        if cap is None:
            raise UserError("method random needs run_cap: how many points to draw")
        tries = range(10 * cap)  # nearly all of a small space, where most draws are repetitions
        return cap, ({key: draw(spec, _uniform(name, key, i)) for key, spec in specs.items()} for i in tries)
    if method in ("bayes", "custom"):
        raise UserError(f"method {method} needs the W&B server: use `wandb sweep` and `wandb agent`, or grid or random")
    raise UserError(f"method must be grid or random, got {method}{nearest(str(method), ['grid', 'random'])}")


def _grid_point(axes: dict[str, tuple[int, Any]], i: int) -> dict[str, Any]:
    """The i-th: in W&B's order the last parameter is the fastest."""
    parameters = {}
    for key, (size, nth) in reversed(axes.items()):
        i, digit = divmod(i, size)
        parameters[key] = nth(digit)
    return dict(reversed(parameters.items()))


def _points(candidates: Iterator[dict[str, Any]], count: int, origin: str) -> list[Point]:
    """The first `count` that differ."""
    points: dict[str, Point] = {}
    for parameters in candidates:
        key = hashlib.blake2b((origin + json.dumps(parameters, sort_keys=True)).encode(), digest_size=5).hexdigest()
        points.setdefault(key, Point(parameters, key))
        if len(points) == count:
            break
    return list(points.values())


def _uniform(*parts: Any) -> float:
    """In (0, 1): the same for the same sweep, parameter and point, on every machine."""
    digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).digest()
    return ((int.from_bytes(digest, "big") >> 12) + 0.5) / 2**52
