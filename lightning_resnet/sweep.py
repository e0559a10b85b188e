"""A sweep: a YAML in W&B's sweep format = a list of runs, which can be read before any is run.

resnet-cli sweep configs/sweeps/digits_degradation.yaml --list
resnet-cli sweep configs/sweeps/digits_degradation.yaml --local -j 2
"""

import hashlib
import itertools
import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lightning_resnet.errors import Parser, UserError, nearest, one_line
from lightning_resnet.runtime.status import final_row, last_attempt, read_json, status

TOP = "method parameters metric name description project entity program command run_cap early_terminate".split()
SPEC = "value values probabilities min max q mu sigma distribution parameters".split()
MACROS = ("${env}", "${interpreter}", "${program}", "${args}", "${args_json_file}")
MANY = 100_000  # points; more are surely a mistake
SEED = "seed_everything"


@dataclass
class Point:
    """One run of a sweep.

    Attributes:
        parameters: dotted key -> value.
        key: hash of recipe, literal flags and parameters; the run keeps it as `point`.
        run: directory of its run, once there is one.
        state: of that run; "new" without one.
    """

    parameters: dict[str, Any]
    key: str
    run: Path | None = None
    state: str = "new"

    def text(self) -> str:
        """`depth=56 shortcut=none seed=1`."""
        return " ".join(f"{'seed' if k == SEED else k.rpartition('.')[2]}={v}" for k, v in self.parameters.items())


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


def read(file: str | Path, many: bool = False) -> Sweep:
    """Read a sweep's YAML and expand its points.

    Args:
        file: the YAML.
        many: allow more than 100,000 points.

    Raises:
        UserError: what is wrong with it.
    """
    content = _load(Path(file))
    _check_keys(content, TOP, "a sweep's YAML")
    name = content.get("name") or Path(file).stem
    recipes, flags = _read_command(content.get("command"), file)
    specs = _flatten(content.get("parameters") or {})
    combinations = _expand(content, specs, name)
    count = math.prod(len(_grid_values(k, s)) for k, s in specs.items()) if content["method"] == "grid" else 0
    if count > MANY and not many:
        raise UserError(f"{file} has {count:,} points; add --yes if that is meant")
    origin = "".join(Path(r).read_text() for r in recipes) + json.dumps(flags)
    points = {}
    for parameters in combinations:
        key = hashlib.blake2b((origin + json.dumps(parameters, sort_keys=True)).encode(), digest_size=5).hexdigest()
        points[key] = Point(parameters, key)  # a random draw may come twice
    if not points:
        raise UserError(f"{file} has no points: give `parameters` with values")
    return Sweep(name, recipes, flags, list(points.values()))


def find_runs(sweep: Sweep, root: str | Path) -> None:
    """Fill in the state of each point from the run directories."""
    points = {p.key: p for p in sweep.points}
    for meta in Path(root, sweep.name).glob("*/meta.json"):
        point = points.get((read_json(meta) or {}).get("point"))
        if point and point.state != "finished":
            point.run, point.state = meta.parent, status(meta.parent)


def forecast(sweep: Sweep) -> str:
    """How long the points that are not finished will take, from those that are."""
    seconds: dict[str, list[float]] = {}
    done = [p for p in sweep.points if p.state == "finished"]
    for point in done:
        seconds.setdefault(_without_seed(point), []).append(last_attempt(point.run)["seconds"])
    if not done:
        return "no finished run yet to forecast from"
    overall = statistics.mean(itertools.chain(*seconds.values()))
    left = [p for p in sweep.points if p.state != "finished"]
    total = sum(statistics.mean(seconds.get(_without_seed(p), [overall])) for p in left)
    return f"about {total / 60:.1f} minutes of run time left, by {len(done)} finished"


def main(argv: list[str]) -> int:
    """Run `resnet-cli sweep`."""
    parser = Parser(prog="resnet-cli sweep", description="List or run the points of a sweep.")
    parser.add_argument("file", help="YAML in W&B's sweep format, such as configs/sweeps/digits_degradation.yaml")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--list", action="store_true", help="print the points and do nothing (the default)")
    how.add_argument("--local", action="store_true", help="run here what is not finished")
    parser.add_argument("-j", type=int, default=1, metavar="N", help="runs at a time; each gets cores / N threads")
    parser.add_argument("--root", default="runs", help="folder of all runs (default: %(default)s)")
    parser.add_argument("--yes", action="store_true", help="more than 100,000 points are meant")
    args = parser.parse_args(argv)
    if args.j < 1:
        raise UserError(f"-j {args.j}: at least one run at a time")
    sweep = read(args.file, args.yes)
    find_runs(sweep, args.root)
    if args.local:
        from lightning_resnet.runtime.pool import run_points

        return run_points(sweep, Path(args.root), args.j)
    print(listing(sweep))
    if not args.list:
        print(f"run them here: resnet-cli sweep {args.file} --local -j 2")
    return 0


def listing(sweep: Sweep) -> str:
    """A line per point, then the totals."""
    width = len(str(len(sweep.points)))
    lines = [f"{i:>{width}}  {describe_state(p):<34}{p.text()}" for i, p in enumerate(sweep.points, 1)]
    finished = sum(p.state == "finished" for p in sweep.points)
    lines.append(f"{sweep.name}: {len(sweep.points)} points, {finished} finished; {forecast(sweep)}")
    return "\n".join(lines)


def describe_state(point: Point) -> str:
    """`finished, val error 1.94 %`, `failed at step 120`, `new`."""
    if point.state == "new":
        return "new"
    error = validation_error(point)
    text = f", val error {error:.2f} %" if error is not None else ""
    step = "" if point.state == "finished" else f" at step {last_attempt(point.run)['last_step']}"
    return f"{point.state}{step}{text}"


def validation_error(point: Point) -> float | None:
    """Percent, from the last evaluation."""
    row = final_row(point.run, "val/acc1") if point.run else None
    return 100 * (1 - row["val/acc1"]) if row and row["val/acc1"] is not None else None


def _without_seed(point: Point) -> str:
    return json.dumps({k: v for k, v in point.parameters.items() if k != SEED}, sort_keys=True)


def _load(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text())
    except OSError as e:
        raise UserError(f"cannot read sweep {file}: {e.strerror}") from e
    except yaml.YAMLError as e:
        raise UserError(f"sweep {file} is not YAML: {one_line(e)}") from e
    if not isinstance(content, dict):
        raise UserError(f"sweep {file} is not a mapping (lines `key: value`) but a {type(content).__name__}")
    return content


def _check_keys(mapping: dict[str, Any], valid: list[str], where: str) -> None:
    for key in mapping:
        if key not in valid:
            raise UserError(f"{where} has no key {key}{nearest(str(key), valid)}")


def _read_command(command: Any, file: str | Path) -> tuple[list[str], list[str]]:
    """Recipes and other literal arguments of `command: [..., fit, --config, RECIPE, ...]`."""
    if not isinstance(command, list) or "fit" not in command:
        raise UserError(
            f"{file} needs a command, such as "
            '["${env}", resnet-cli, fit, --config, configs/digits.yaml, --config, "${args_json_file}"]'
        )
    tokens = [str(t) for t in command[command.index("fit") + 1 :]]
    recipes, flags, rest = [], [], iter(tokens)
    for token in rest:
        if token == "--config":
            value = next(rest, "")
            recipes += [value] if value not in MACROS else []
        elif token not in MACROS:
            flags.append(token)
    if missing := [r for r in recipes if not Path(r).is_file()]:
        raise UserError(f"{file} names recipe {missing[0]}, which is not there (seen from {Path.cwd()})")
    return recipes, flags


def _flatten(parameters: dict[str, Any], prefix: str = "") -> dict[str, dict[str, Any]]:
    """Nested `parameters` blocks -> dotted keys, sorted by name (W&B's order)."""
    if not isinstance(parameters, dict):
        raise UserError(f"`parameters` of {prefix or 'a sweep'} must be a mapping")
    flat = {}
    for name, spec in parameters.items():
        key = f"{prefix}{name}"
        if not isinstance(spec, dict):
            raise UserError(f"parameter {key} must say value, values or min and max: {{value: {spec}}}?")
        _check_keys(spec, SPEC, f"parameter {key}")
        flat.update(_flatten(spec["parameters"], f"{key}.") if "parameters" in spec else {key: spec})
    return dict(sorted(flat.items()))


def _expand(content: dict[str, Any], specs: dict[str, dict], name: str) -> Any:
    method = content.get("method")
    if method == "grid":
        values = [_grid_values(key, spec) for key, spec in specs.items()]
        return (
            (dict(zip(specs, combination, strict=True)) for combination in itertools.product(*values)) if specs else []
        )
    if method == "random":
        cap = content.get("run_cap")
        if not isinstance(cap, int):
            raise UserError("method random needs run_cap: how many points to draw")
        return [{key: _draw(key, spec, _uniform(name, key, i)) for key, spec in specs.items()} for i in range(cap)]
    if method in ("bayes", "custom"):
        raise UserError(f"method {method} needs the W&B server: use `wandb sweep` and `wandb agent`, or grid or random")
    raise UserError(f"method must be grid or random, got {method}{nearest(str(method), ['grid', 'random'])}")


def _distribution(key: str, spec: dict[str, Any]) -> str:
    """The distribution that is named, or the one that W&B infers."""
    if "distribution" in spec:
        return spec["distribution"]
    if "value" in spec:
        return "constant"
    if "values" in spec:
        return "categorical"
    kinds = {type(spec.get(k)) for k in ("min", "max")}
    if kinds <= {int, float} and len(kinds) == 1:
        return "int_uniform" if kinds == {int} else "uniform"
    raise UserError(f"parameter {key} must say value, values, or min and max that are both int or both float")


def _grid_values(key: str, spec: dict[str, Any]) -> list[Any]:
    match _distribution(key, spec):
        case "constant":
            return [spec["value"]]
        case "categorical" if isinstance(spec.get("values"), list):
            return spec["values"]
        case "int_uniform":
            return list(range(spec["min"], spec["max"] + 1))
    raise UserError(f"parameter {key} has no finite list of values for a grid: give values, or use method random")


def _draw(key: str, spec: dict[str, Any], u: float) -> Any:
    """The value at quantile u of a parameter's distribution."""
    kind = _distribution(key, spec)
    try:
        match kind:
            case "constant":
                return spec["value"]
            case "categorical":
                values = spec["values"]
                shares = list(itertools.accumulate(spec.get("probabilities") or [1 / len(values)] * len(values)))
                return next((v for v, share in zip(values, shares, strict=True) if u < share), values[-1])
            case "int_uniform":
                return spec["min"] + int(u * (spec["max"] - spec["min"] + 1))
            case "uniform":
                return spec["min"] + u * (spec["max"] - spec["min"])
            case "q_uniform":
                q = spec.get("q", 1)
                return round((spec["min"] + u * (spec["max"] - spec["min"])) / q) * q
            case "log_uniform_values":
                return math.exp(math.log(spec["min"]) + u * math.log(spec["max"] / spec["min"]))
            case "normal":
                return statistics.NormalDist(spec.get("mu", 0), spec.get("sigma", 1)).inv_cdf(u or 2**-54)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as e:
        raise UserError(f"parameter {key}: distribution {kind} cannot be drawn from {spec} ({one_line(e)})") from e
    raise UserError(f"parameter {key}: distribution {kind} is not known here; W&B's server may know it")


def _uniform(*parts: Any) -> float:
    """In [0, 1): the same for the same sweep, parameter and point, on every machine."""
    digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) * 2.0**-53
