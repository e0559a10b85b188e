"""Check, list (grid) or draw (random) the values of one parameter of a sweep in W&B's format.

`check({"values": [20, 56]})`
`check({"min": 1e-4, "max": 1e-1, "distribution": "log_uniform_values"})`
"""

import json
import math
from collections.abc import Callable
from itertools import accumulate
from statistics import NormalDist
from typing import Any

from lightning_resnet.errors import UserError, nearest


def _uniform(u: float, low: float, high: float) -> float:
    return low + u * (high - low)


def _log_uniform(u: float, low: float, high: float) -> float:
    return low * (high / low) ** u


def _normal(u: float, mu: float, sigma: float) -> float:
    return mu + sigma * NormalDist().inv_cdf(u)


def _log_normal(u: float, mu: float, sigma: float) -> float:
    return math.exp(_normal(u, mu, sigma))


# Name of a distribution -> its keys, and its quantile function of u, 0 < u < 1, and these keys.
QUANTILES: dict[str, tuple[tuple[str, ...], Callable[..., float]]] = {
    "uniform": (("min", "max"), _uniform),
    "log_uniform_values": (("min", "max"), _log_uniform),
    "normal": (("mu", "sigma"), _normal),
    "log_normal": (("mu", "sigma"), _log_normal),
}
# Names in other programs -> ours.
OTHER_NAMES = {
    "loguniform": "log_uniform_values",
    "log_uniform": "log_uniform_values",
    "reciprocal": "log_uniform_values",
    "choice": "categorical",
    "grid": "categorical",
    "randint": "int_uniform",
    "gaussian": "normal",
    "fixed": "constant",
}
# Keys of each distribution; the values of a q_ distribution are multiples of q.
KEYS = {
    "constant": ("value",),
    "categorical": ("values", "probabilities"),
    "int_uniform": ("min", "max"),
    **{name: keys for name, (keys, _) in QUANTILES.items()},
    **{f"q_{name}": (*keys, "q") for name, (keys, _) in QUANTILES.items()},
}
LARGEST = 10**15  # largest number; floats distinguish whole numbers up to about there
DEFAULTS = {"probabilities": None, "q": 1, "mu": 0, "sigma": 1}  # the defaults of W&B

Spec = dict[str, Any]  # a checked parameter: its distribution with all keys


def check(spec: Spec) -> Spec:
    """Check a parameter, and fill in its distribution and default values.

    Args:
        spec: the parameter as the sweep's YAML has it.

    Returns:
        The parameter with its distribution and all keys of the distribution.

    Raises:
        UserError: the parameter is not in W&B's format.
    """
    try:
        json.dumps(spec, allow_nan=False)
    except TypeError as e:
        raise UserError(f"{e}; quote it") from e
    except ValueError as e:
        raise UserError(f"{e}; write a finite number") from e
    _check_keys(spec, {"distribution"}.union(*KEYS.values()))
    name = str(spec.get("distribution") or _implied(spec))
    if name not in KEYS:
        found = OTHER_NAMES.get(name.lower().replace("-", "_"), "")
        hint = f"; did you mean {found}?" if found else nearest(name, KEYS)
        raise UserError(f"unknown distribution {name}{hint}; there are {', '.join(KEYS)}")
    _check_keys(spec, {"distribution", *KEYS[name]})
    defaults = {key: DEFAULTS[key] for key in KEYS[name] if key in DEFAULTS}
    spec = {**defaults, **spec, "distribution": name}
    if missing := [key for key in KEYS[name] if key not in spec]:
        raise UserError(f"{name} needs {' and '.join(missing)}")
    if name == "categorical":
        _check_categories(**spec)
    elif name != "constant":
        _check_numbers(spec)
    return spec


def axis(spec: Spec) -> tuple[int, Callable[[int], Any]]:
    """Return the number of values that a grid has for a parameter, and a function of i for them.

    Raises:
        UserError: a grid cannot list the values of this distribution.
    """
    match spec["distribution"]:
        case "constant":
            return 1, lambda i: spec["value"]
        case "categorical":
            return len(spec["values"]), lambda i: spec["values"][i]
        case "int_uniform":
            return spec["max"] - spec["min"] + 1, lambda i: spec["min"] + i
        case "q_uniform":  # ends before max, as in W&B
            steps = (spec["max"] - spec["min"]) / spec["q"]
            if steps > LARGEST:
                raise UserError(f"q {spec['q']} makes more than {LARGEST:.0e} values")
            size = math.ceil(steps - 1e-9)
            return max(1, size), lambda i: _short(spec["min"] + i * spec["q"])
    raise UserError(f"a grid cannot list {spec['distribution']}: give values, or method: random")


def draw(spec: Spec, u: float) -> Any:
    """Return the u-quantile of a parameter, 0 < u < 1.

    Raises:
        UserError: the value is too large.
    """
    name = spec["distribution"]
    if name.removeprefix("q_") in QUANTILES:
        keys, quantile = QUANTILES[name.removeprefix("q_")]
        try:
            x = quantile(u, *(spec[key] for key in keys))
            if "q" in spec:
                x = round(x / spec["q"]) * spec["q"]
            return _short(x)
        except (OverflowError, ValueError) as e:
            raise UserError(f"{name} draws a number that is too large ({e})") from e
    size, nth = axis(spec)
    if spec.get("probabilities"):
        ends = accumulate(spec["probabilities"][:-1])
        return nth(sum(end <= u for end in ends))
    return nth(int(u * size))


def _short(x: float) -> float:
    """Round to six digits: readable, and equal on machines whose last digits differ."""
    return x if isinstance(x, int) else float(f"{x:.6g}")


def _check_keys(spec: Spec, valid: set[str]) -> None:
    """Refuse keys that are not valid."""
    for key in spec:
        if key not in valid:
            hint = nearest(str(key), valid) or f"; valid: {', '.join(sorted(valid))}"
            raise UserError(f"unknown key {key}{hint}")


def _implied(spec: Spec) -> str:
    """Return the distribution of a parameter that names none."""
    if "value" in spec or "values" in spec:
        return "constant" if "value" in spec else "categorical"
    if not {"min", "max"} <= spec.keys():
        raise UserError("give value, values, min and max, a distribution, or nested parameters")
    types = {type(spec["min"]), type(spec["max"])}
    if types == {int, float}:
        raise UserError(
            f"min {spec['min']} and max {spec['max']} are an integer and a float: write both alike"
        )
    return "int_uniform" if types == {int} else "uniform"


def _check_categories(values: Any, probabilities: Any, **_: Any) -> None:
    """Check the keys of a categorical distribution."""
    if not isinstance(values, list) or not values:
        raise UserError("values is not a list of at least one")
    if probabilities is None:
        return
    is_valid = (
        isinstance(probabilities, list)
        and all(type(p) in (int, float) and p >= 0 for p in probabilities)
        and len(probabilities) == len(values)
        and abs(sum(probabilities) - 1) <= 1e-6
    )
    if not is_valid:
        raise UserError("probabilities is not a list of one number per value that sum to 1")


def _check_numbers(spec: Spec) -> None:
    """Check the keys of a distribution of numbers."""
    name = spec["distribution"]
    integers_only = name == "int_uniform"
    for key in KEYS[name]:
        value = spec[key]
        if integers_only and type(value) is not int:
            raise UserError(f"{key} is {value!r}, not an integer")
        if type(value) not in (int, float):
            raise UserError(f"{key} is {value!r}, not a number")
        if abs(value) > LARGEST:
            raise UserError(f"{key} must be between -{LARGEST:.0e} and {LARGEST:.0e}")
    if "min" in spec and spec["min"] > spec["max"]:
        raise UserError(f"min {spec['min']} is above max {spec['max']}")
    must_be_positive = {"q", "sigma"}
    if "log" in name:
        must_be_positive.add("min")
    for key in spec:
        if key in must_be_positive and spec[key] <= 0:
            raise UserError(f"{key} of {name} must be above 0, got {spec[key]}")
