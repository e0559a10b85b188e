"""Read a sweep's YAML, in W&B's format, and expand its points, without a server.

The points are the same every time and on every machine. Grid: the product over the parameters
sorted by name, the last one fastest, as in W&B. Random: each value is a hash of the sweep's name,
the parameter and a number, so a higher run_cap only adds points. Bayes: each point is found while
the sweep runs; see search.py.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise, product
from pathlib import Path
from typing import Any

import yaml

from lightning_resnet.aliases import key_of, understood
from lightning_resnet.credentials import refuse_secret_flags, refuse_secrets
from lightning_resnet.engine.halving import Hyperband
from lightning_resnet.errors import UserError, nearest, printable
from lightning_resnet.flags import check as check_flags
from lightning_resnet.flags import kind_of
from lightning_resnet.reading import read_yaml
from lightning_resnet.runs.find import find_runs, quote
from lightning_resnet.runs.identity import decides
from lightning_resnet.runs.index import Facts
from lightning_resnet.runs.labels import label_of, short_keys, varying
from lightning_resnet.runs.names import check_name
from lightning_resnet.runs.status import HALVED
from lightning_resnet.shipped import recipe_file, sweeps
from lightning_resnet.sweeps.distributions import Spec, axis, check, draw
from lightning_resnet.sweeps.goals import ACCURACY, Goal, read_goal, read_hyperband

# Keys of a sweep in W&B; the keys that are not read here are for `wandb sweep`.
TOP_KEYS = (
    "method parameters metric metrics name description project entity program command run_cap "
    "early_terminate controller scheduler job image_uri apiVersion kind"
).split()
PARAMETER_FILE = "${args_json_file}"
COMMAND = f'["${{env}}", resnet-cli, fit, --config, digits, --config, "{PARAMETER_FILE}"]'
OWN_KEYS = {  # that sweep sets, and what there is instead
    "run.root": "--root is the folder of all runs",
    "run.name": "`name:` of the file names the folder of its runs",
    "run.point": "it is made of the other parameters",
    "run.label": "it is made of the other parameters",
}
MAX_POINTS = 1_000_000
MOST_LISTED = 10_000  # points of a search's space that are listed, so that none is missed
MOST_CHECKED = 100  # points of a sweep that are checked before torch is imported
EDGE = 2.0**-40  # least distance of a quantile from 0 and 1, where some distributions end
MANY_POINTS = 100_000  # more points need --yes, because they are probably a mistake


@dataclass
class Point:
    """Point of a sweep, for which there is one run.

    Attributes:
        parameters: values by dotted key.
        key: hash of recipes, literal flags and parameters; the run has it in meta.json as `point`.
        run: directory of the run; None before its start.
        state: status of the run; "new" before its start.
        facts: what the run's files say; None before its start.
        slot: name of the place in a submission that has taken the point, if the point was found
            while the sweep runs.
    """

    parameters: dict[str, Any]
    key: str
    run: Path | None = None
    state: str = "new"
    facts: Facts | None = None
    slot: str = ""

    @property
    def place(self) -> str:
        """What a submission calls the point: its key, or the slot that has taken it."""
        return self.slot or self.key

    def texts(self) -> dict[str, str]:
        """Return the value of each parameter as a text for the command line."""
        texts = {}
        for key, value in self.parameters.items():
            texts[key] = value if isinstance(value, str) else json.dumps(value)
        return texts


@dataclass
class Search:
    """Space of a sweep whose points are found while it runs, method bayes.

    Attributes:
        name: name of the sweep, which seeds all draws.
        specs: parameters by dotted key, checked.
        goal: metric of the search.
        cap: number of points, if there are so many.
        origin: text of the recipes and flags, which is a part of the points' keys.
    """

    name: str
    specs: dict[str, Spec]
    goal: Goal
    cap: int
    origin: str

    @property
    def free(self) -> list[str]:
        """Keys of the parameters that have more than one value."""
        return [key for key, spec in self.specs.items() if choices(spec) != 1]

    def point(self, found: dict[str, float]) -> Point:
        """Return the point of quantiles, or numbers of categories, of the free parameters."""
        parameters = {}
        for key, spec in self.specs.items():
            if key not in found:
                parameters[key] = axis(spec)[1](0)
            elif choices(spec):
                parameters[key] = axis(spec)[1](int(found[key]))
            else:
                parameters[key] = draw(spec, min(max(found[key], EDGE), 1 - EDGE))
        return Point(parameters, _key(self.origin, parameters))

    @cached_property
    def listed(self) -> list[dict[str, float]]:
        """What `point` takes for each point of the space; empty if there is no list."""
        specs = [self.specs[key] for key in self.free]
        if not 0 < math.prod(map(count_of, specs)) <= MOST_LISTED:
            return []
        axes = map(numbers_of, specs)
        return [dict(zip(self.free, numbers, strict=True)) for numbers in product(*axes)]

    @property
    def size(self) -> int:
        """Number of points to find: `cap`, or all points of a smaller space."""
        return min(self.cap, len(self.listed) or self.cap)

    def probes(self) -> list[Point]:
        """Return points that have each category, and the least and the largest of all numbers."""
        most = max([2, *(choices(self.specs[key]) for key in self.free)])
        found = []
        for i in range(most):
            numbers = {}
            for key in self.free:
                count = choices(self.specs[key])
                numbers[key] = i % count if count else float(i % 2)
            found.append(self.point(numbers))
        return found


def as_json(content: Any) -> str:
    """Return content as JSON with sorted keys, of which some may be numbers and others texts."""
    try:
        return json.dumps(content, sort_keys=True, default=str)
    except TypeError:  # such keys cannot be sorted before they are all texts
        return json.dumps(json.loads(json.dumps(content, default=str)), sort_keys=True)


def choices(spec: Spec) -> int:
    """Return the number of values of a parameter that has categories without order; else 0.

    A parameter with one value has one category.
    """
    if spec["distribution"] == "constant":
        return 1
    if spec["distribution"] == "categorical":
        return 0 if spec["probabilities"] and len(spec["values"]) > 1 else len(spec["values"])
    return 1 if spec.get("min", 0) == spec.get("max", 1) else 0


def count_of(spec: Spec) -> int:
    """Return the number of values of a parameter, of which some may be equal.

    The number is 0 where the values cannot be listed.
    """
    name = spec["distribution"]
    if count := choices(spec):
        return count
    if name == "categorical":
        return len(spec["values"])
    if name in ("int_uniform", "q_uniform", "q_log_uniform_values"):
        return 1 + round((draw(spec, 1 - EDGE) - draw(spec, EDGE)) / spec.get("q", 1))
    return 0


def numbers_of(spec: Spec) -> list[float]:
    """Return a category's number, or a quantile, for each value that `count_of` counts."""
    if count := choices(spec):
        nth = axis(spec)[1]
        numbers = {as_json(nth(i)): i for i in range(count)}
        return list(numbers.values())
    if spec["distribution"] != "categorical":
        return _quantiles_of_steps(spec)
    ends = [0, *accumulate(spec["probabilities"][:-1]), 1]
    quantiles = {}
    for (low, high), probability in zip(pairwise(ends), spec["probabilities"], strict=True):
        if probability > 0:
            u = min(max((low + high) / 2, EDGE), 1 - EDGE)
            quantiles.setdefault(as_json(draw(spec, u)), u)
    return list(quantiles.values())


def _quantiles_of_steps(spec: Spec) -> list[float]:
    """Return a quantile for each value of a parameter whose values are multiples of a step.

    The quantiles between two are halved until the values there are neighbours, because a value may
    be far less probable than the others.
    """
    # Values are rounded to six digits; two that are nearer than 4/3 steps have none between them.
    nearest_two = 1.25 * spec.get("q", 1)
    quantiles = {draw(spec, u): u for u in (EDGE, 1 - EDGE)}
    gaps = [(EDGE, 1 - EDGE)]
    while gaps:
        low, high = gaps.pop()
        middle = (low + high) / 2
        is_wide = draw(spec, high) - draw(spec, low) > nearest_two
        if is_wide and low < middle < high:
            quantiles.setdefault(draw(spec, middle), middle)
            gaps += [(low, middle), (middle, high)]
    return sorted(quantiles.values())


@dataclass
class Sweep:
    """Content of a sweep's YAML.

    Attributes:
        file: path of the YAML.
        name: name of the sweep and of the folder of its runs.
        recipes: paths of the recipes in `command`, in order.
        flags: other literal arguments in `command`.
        points: points of the sweep; those that have been found so far, if it has a search.
        search: space of method bayes; None: all points are known.
        hyperband: options by which runs end early; None: they do not.
        metric: what the file says under `metric`, which only some uses of a sweep need.
    """

    file: Path
    name: str
    recipes: list[str]
    flags: list[str]
    points: list[Point]
    search: Search | None = None
    hyperband: Hyperband | None = None
    metric: Any = None

    @cached_property
    def goal(self) -> Goal:
        """Metric by which points are better or worse: the accuracy where the file names none.

        Raises:
            UserError: the file names none that a run of ours records.
        """
        if self.metric is None:
            return ACCURACY
        try:
            return read_goal({"metric": self.metric})
        except UserError as e:
            raise UserError(f"sweep {self.file}: {e}") from e

    @property
    def size(self) -> int:
        """Number of points, also of those that have yet to be found."""
        return self.search.size if self.search else len(self.points)

    @property
    def samples(self) -> list[Point]:
        """Points to check: all, or if they have yet to be found, some of the same space."""
        return self.search.probes() if self.search else self.points

    def is_done(self, point: Point) -> bool:
        """Tell whether nothing is left to do at a point."""
        is_halved = self.hyperband is not None and point.state == HALVED
        return point.state == "finished" or is_halved

    @cached_property
    def varying(self) -> list[str]:
        """Keys of the parameters that differ between points; of a single point, all keys."""
        if self.search:
            return self.search.free
        if len(self.points) == 1:
            return list(self.points[0].parameters)
        return varying([point.parameters for point in self.points])

    def cells(self, point: Point) -> list[str]:
        """Return what sets a point apart as texts, such as `depth=56`, `shortcut=none`, `seed=1`.

        Parameters that all points share are left out. A key is given in full where two keys have
        the same last part.
        """
        short = short_keys(point.parameters)
        texts = point.texts()
        return [printable(f"{short[key]}={texts[key]}") for key in self.varying]

    def label(self, point: Point) -> str:
        """Return the readable name of a point's run, such as `depth56-none-seed1`."""
        return label_of({key: point.parameters[key] for key in self.varying})

    def text(self, point: Point) -> str:
        """Return what sets a point apart, such as `depth=56 shortcut=none seed=1`."""
        return " ".join(self.cells(point))


def read(file: str | Path, many: bool = False) -> Sweep:
    """Read a sweep's YAML and expand its points.

    Args:
        file: the YAML.
        many: allow more than 100,000 points.

    Raises:
        UserError: the file cannot be read, or is no sweep that can run here.
    """
    path = recipe_file(file)
    if path.is_dir() or not path.exists():
        why = "it is a folder" if path.is_dir() else "No such file or directory"
        if (path / "points").is_dir():
            raise UserError(f"{file} holds the runs of a sweep: give the sweep's file")
        if path.is_dir() and any(True for _ in find_runs([path])):
            raise UserError(
                f"{file} holds runs, and sweep takes a file: resnet-cli runs {quote(path)} lists "
                "them; resnet-cli recipes lists our sweeps"
            )
        hint = nearest(str(file).removesuffix(".yaml"), sweeps())
        hint = hint or "; resnet-cli recipes lists our sweeps"
        raise UserError(f"cannot read {file}: {why}{hint}")
    content = _load(path)
    if content.keys() & {"model", "data", "trainer"} and "parameters" not in content:
        raise UserError(
            f"{file} is a recipe, no sweep: resnet-cli fit --config {quote(Path(file))}"
        )
    try:
        _check_keys(content, TOP_KEYS)
        refuse_secrets(content, "it")
        name = str(content.get("name") or path.stem)
        check_name(name, "`name:` in its YAML", single=True)
        recipes, flags = _read_command(content.get("command"))
        contents = [_load(recipe_file(r)) for r in recipes]
        origin = as_json([contents, flags])
        specs = dict(sorted(_flatten(content.get("parameters")).items()))
        for recipe, found in zip(recipes, contents, strict=True):
            refuse_secrets(found, recipe)
        for flag in flags:
            if flag.partition("=")[0].removeprefix("--") in specs:
                raise UserError(
                    f"{flag} is in command and in parameters, and a flag wins: remove one"
                )
        count, candidates = _expand(content, specs, name)
        if count > MAX_POINTS:
            raise UserError(
                f"has more than {MAX_POINTS:,} points: add run_cap, or give fewer values"
            )
        if count > MANY_POINTS and not many:
            raise UserError(f"has {count:,} points; add --yes if that is meant")
        hyperband = read_hyperband(content)
        search = None
        if content["method"] == "bayes":
            search = Search(name, specs, read_goal(content), count, origin)
    except UserError as e:
        raise UserError(f"sweep {file}: {e}") from e
    points = _points(candidates, count, origin)
    return Sweep(path, name, recipes, flags, points, search, hyperband, content.get("metric"))


def check_keys(sweep: Sweep) -> None:
    """Refuse keys that no recipe has and values that a key cannot have, without torch.

    Raises:
        UserError: the message names the sweep and a cure.
    """
    recipes = [word for recipe in sweep.recipes for word in ("--config", recipe)]
    short = {key: key_of(f"--{key}") for key in sweep.samples[0].parameters}
    written = [f"{full} for {key}" for key, full in short.items() if full and full != key]
    if written:
        raise UserError(
            f"sweep {sweep.name}: parameters are written as full keys: {', '.join(written)}"
        )
    if own := sorted(sweep.samples[0].parameters.keys() & OWN_KEYS.keys()):
        raise UserError(
            f"sweep {sweep.name}: {own[0]} is no parameter, because sweep gives each run its own: "
            f"remove it; {OWN_KEYS[own[0]]}"
        )
    seen: set[str] = set()
    for point in sweep.samples[:MOST_CHECKED]:
        # a class before its arguments, as in the point's file, where order does not matter
        parameters = [f"--{key}={text}" for key, text in sorted(point.texts().items())]
        if seen.issuperset(parameters):
            continue
        seen.update(parameters)
        try:
            flags = understood(sweep.flags, tells=False)
            check_flags([*recipes, *parameters, *flags], "fit", is_complete=False)
        except UserError as e:
            for key, value in point.parameters.items():
                if isinstance(value, list) and f"--{key} must be" in str(e):
                    raise UserError(
                        f"sweep {sweep.name}: parameter {key} has one value, a list: to train with "
                        f"each of them, write {key}: {{values: {json.dumps(value)}}}"
                    ) from e
            raise UserError(f"sweep {sweep.name}, point {sweep.text(point)}: {e}") from e


def idle_keys(sweep: Sweep) -> list[str]:
    """Return the keys by which points differ that have one run, because the keys decide nothing."""
    idle = [key for key in sweep.varying if _is_idle(key)]
    if not idle:
        return []
    rest = [[v for k, v in point.parameters.items() if k not in idle] for point in sweep.points]
    return idle if len({as_json(values) for values in rest}) < len(rest) else []


def _is_idle(key: str) -> bool:
    """Tell whether a key decides neither the result nor which data or replicate it is of."""
    if key.startswith("run."):
        return key not in ("run.init_from", "run.new", "run.replicate")
    is_ours = key.startswith(("trainer.", "model.", "data."))
    return is_ours and not decides(key) and not key.endswith(".root")


class _Loader(yaml.SafeLoader):
    """Loader that reads 1e-3 as a number, as YAML 1.2 and recipes do; for PyYAML it is text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?\d+\.?\d*[eE][-+]?\d+$"),
    [*"-+0123456789"],
)


def _load(file: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping."""
    content = read_yaml(file, _Loader)
    if not isinstance(content, dict):
        raise UserError(f"{file} is not a mapping (lines `key: value`) but {kind_of(content)}")
    return content


def _check_keys(content: dict[str, Any], valid: list[str]) -> None:
    """Refuse keys that are not valid."""
    for key in content:
        if key not in valid:
            begun = [word for word in valid if word.startswith(str(key))]
            hint = f"; did you mean {begun[0]}?" if begun else nearest(str(key), valid)
            if key_of(f"--{key}"):
                hint = hint or ": keys of a recipe stand below parameters"
            raise UserError(f"there is no key {key}{hint}")


def _read_command(command: Any) -> tuple[list[str], list[str]]:
    """Return the recipes and the other literal arguments of a sweep's command.

    Args:
        command: `[..., fit, --config, RECIPE, ...]`. A macro of W&B is one item of the list.

    Raises:
        UserError: the command is no such list, or does not pass the parameters to `fit`.
    """
    tokens = [str(token) for token in command] if isinstance(command, list) else []
    if "fit" not in tokens:
        lacks = (
            "command lacks the verb fit: write, as fits," if tokens else "needs a command, such as"
        )
        raise UserError(f"{lacks} {COMMAND}")
    refuse_secret_flags(tokens)
    recipes: list[str] = []
    flags: list[str] = []
    passes_parameters = False
    rest = iter(tokens[tokens.index("fit") + 1 :])
    for token in rest:
        is_config = token in ("-c", "--config")
        token = next(rest, "") if is_config else token
        if token == (PARAMETER_FILE if is_config else "${args}"):
            passes_parameters = True
        elif "${" in token:
            raise UserError(
                f'{token} does not work here; pass the parameters by --config, "{PARAMETER_FILE}"'
            )
        elif is_config:
            recipes.append(token)
        else:
            flags.append(token)
    if not recipes or not passes_parameters:
        lacking = "the parameters" if recipes else "a recipe"
        raise UserError(f"command lacks {lacking}: write, as fits, {COMMAND}")
    return recipes, flags


def _flatten(parameters: Any, prefix: str = "") -> dict[str, Spec]:
    """Flatten nested `parameters` blocks into dotted keys, and check each parameter."""
    if not isinstance(parameters, dict) or not parameters:
        raise UserError(
            f"{prefix}parameters has no points: give some, such as model.net.depth: "
            "{values: [20, 56]}"
        )
    flat: dict[str, Spec] = {}
    for name, spec in parameters.items():
        key = f"{prefix}{name}"
        if not isinstance(spec, dict):
            word = "values" if isinstance(spec, list) else "value"
            raise UserError(f"parameter {key} is not a mapping: write {key}: {{{word}: {spec}}}")
        if "parameters" in spec and len(spec) > 1:
            raise UserError(f"parameter {key} has nested parameters, so no other key")
        if "parameters" in spec:
            found = _flatten(spec["parameters"], f"{key}.")
        else:
            found = {key: _with_key(key, check, spec)}
        if twice := flat.keys() & found.keys():
            raise UserError(f"parameter {min(twice)} is given twice")
        flat |= found
    return flat


def _with_key(key: str, function: Any, spec: Spec) -> Any:
    """Call a function of a parameter; its errors name the parameter's key."""
    try:
        return function(spec)
    except UserError as e:
        raise UserError(f"parameter {key}: {e}") from e


def _expand(
    content: dict[str, Any], specs: dict[str, Spec], name: str
) -> tuple[int, Iterator[dict[str, Any]]]:
    """Expand the points of a sweep.

    Args:
        content: the sweep's YAML.
        specs: parameters by dotted key, checked.
        name: name of the sweep.

    Returns:
        The number of points that are wanted, and an iterator over more of them, because some may be
        equal; over none where the points are found while the sweep runs.
    """
    method = content.get("method")
    cap = content.get("run_cap")
    if cap is not None and (type(cap) is not int or cap < 1):
        raise UserError(f"run_cap is {cap!r}, not a number of points")
    if method == "grid":
        axes = {key: _with_key(key, axis, spec) for key, spec in specs.items()}
        count = math.prod(size for size, _ in axes.values())
        tries = range(min(count, 10 * MAX_POINTS))
        return min(count, cap or count), (_grid_point(axes, i) for i in tries)
    if method == "random":
        if cap is None:
            raise UserError("method random needs run_cap: how many points to draw")
        # So many draws find nearly all points of a small space, where most draws are repetitions.
        tries = range(10 * cap)
        return cap, (_random_point(specs, name, i) for i in tries)
    if method == "bayes":
        if cap is None:
            raise UserError("method bayes needs run_cap: how many points to try")
        if all(choices(spec) == 1 for spec in specs.values()):
            raise UserError("method bayes has nothing to search: give a parameter several values")
        return cap, iter(())
    if method == "custom":
        raise UserError(
            "method custom needs the W&B server: use `wandb sweep` and `wandb agent`, or grid, "
            "random or bayes"
        )
    if method is None:
        raise UserError("lacks its method: write method: grid, or method: random with run_cap: N")
    hint = nearest(str(method), ["grid", "random", "bayes"])
    raise UserError(f"method must be grid, random or bayes, got {method}{hint}")


def _random_point(specs: dict[str, Spec], name: str, i: int) -> dict[str, Any]:
    """Draw the i-th point of the sweep of this name."""
    return {key: draw(spec, _uniform(name, key, i)) for key, spec in specs.items()}


def _grid_point(axes: dict[str, tuple[int, Any]], i: int) -> dict[str, Any]:
    """Return the i-th point of a grid, in W&B's order: the last parameter is the fastest."""
    parameters = {}
    for key, (size, nth) in reversed(axes.items()):
        i, digit = divmod(i, size)
        parameters[key] = nth(digit)
    return dict(reversed(parameters.items()))


def _points(candidates: Iterator[dict[str, Any]], count: int, origin: str) -> list[Point]:
    """Return the first `count` candidates that differ.

    Args:
        candidates: parameters of points, of which some may be equal.
        count: number of points.
        origin: text of the recipes and flags, which is a part of the points' keys.
    """
    points: dict[str, Point] = {}
    for parameters in candidates:
        key = _key(origin, parameters)
        points.setdefault(key, Point(parameters, key))
        if len(points) == count:
            break
    return list(points.values())


def _key(origin: str, parameters: dict[str, Any]) -> str:
    """Return the key of a point."""
    text = origin + as_json(parameters)
    return hashlib.blake2b(text.encode(), digest_size=5).hexdigest()


def _uniform(*parts: Any) -> float:
    """Return a number in (0, 1) that is the same for the same parts on every machine."""
    digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).digest()
    return ((int.from_bytes(digest, "big") >> 12) + 0.5) / 2**52
