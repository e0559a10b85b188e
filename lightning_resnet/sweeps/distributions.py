"""One parameter of a sweep, as W&B writes it: checked, listed (grid) or drawn (random).

`check({"values": [20, 56]})`, `check({"min": 1e-4, "max": 1e-1, "distribution": "log_uniform_values"})`
"""

import json
import math
from collections.abc import Callable
from itertools import accumulate
from statistics import NormalDist
from typing import Any

from lightning_resnet.errors import UserError, nearest

QUANTILES: dict[str, tuple[tuple[str, ...], Callable[..., float]]] = {  # keys; value of the u-quantile, 0 < u < 1
    "uniform": (("min", "max"), lambda u, low, high: low + u * (high - low)),
    "log_uniform_values": (("min", "max"), lambda u, low, high: low * (high / low) ** u),
    "normal": (("mu", "sigma"), lambda u, mu, sigma: mu + sigma * NormalDist().inv_cdf(u)),
    "log_normal": (("mu", "sigma"), lambda u, mu, sigma: math.exp(mu + sigma * NormalDist().inv_cdf(u))),
}
KEYS = {  # of each distribution; q_ = in steps of q
    "constant": ("value",),
    "categorical": ("values", "probabilities"),
    "int_uniform": ("min", "max"),
    **{name: keys for name, (keys, _) in QUANTILES.items()},
    **{f"q_{name}": (*keys, "q") for name, (keys, _) in QUANTILES.items()},
}
LARGEST = 10**15  # of a number that makes points: floats tell whole numbers apart up to there
DEFAULTS = {"probabilities": None, "q": 1, "mu": 0, "sigma": 1}  # W&B's

Spec = dict[str, Any]  # a checked parameter: its distribution and all of that one's keys


def check(spec: Spec) -> Spec:
    """Fill in the distribution and its defaults.

    Raises:
        UserError: it is not a parameter of W&B's format.
    """
    try:
        json.dumps(spec, allow_nan=False)
    except TypeError as e:
        raise UserError(f"{e}; quote it") from e
    except ValueError as e:
        raise UserError(f"{e}; write a finite number") from e
    _known(spec, {"distribution", *(key for keys in KEYS.values() for key in keys)})
    name = str(spec.get("distribution") or _implied(spec))
    if name not in KEYS:
        raise UserError(f"unknown distribution {name}{nearest(name, KEYS)}; there are {', '.join(KEYS)}")
    _known(spec, {"distribution", *KEYS[name]})
    spec = {**{key: DEFAULTS[key] for key in KEYS[name] if key in DEFAULTS}, **spec, "distribution": name}
    if missing := [key for key in KEYS[name] if key not in spec]:
        raise UserError(f"{name} needs {' and '.join(missing)}")
    if name == "categorical":
        _check_categories(**spec)
    elif name != "constant":
        _check_numbers(spec)
    return spec


def axis(spec: Spec) -> tuple[int, Callable[[int], Any]]:
    """How many values a grid has along this parameter, and the i-th."""
    match spec["distribution"]:
        case "constant":
            return 1, lambda i: spec["value"]
        case "categorical":
            return len(spec["values"]), lambda i: spec["values"][i]
        case "int_uniform":
            return spec["max"] - spec["min"] + 1, lambda i: spec["min"] + i
        case "q_uniform":  # ends before max, as W&B's
            steps = (spec["max"] - spec["min"]) / spec["q"]
            if steps > LARGEST:
                raise UserError(f"q {spec['q']} makes more than {LARGEST:.0e} values")
            size = math.ceil(steps - 1e-9)
            return max(1, size), lambda i: _short(spec["min"] + i * spec["q"])
    raise UserError(f"a grid cannot list {spec['distribution']}: give values, or method: random")


def draw(spec: Spec, u: float) -> Any:
    """The u-quantile, 0 < u < 1."""
    name = spec["distribution"]
    if name.removeprefix("q_") in QUANTILES:
        keys, quantile = QUANTILES[name.removeprefix("q_")]
        try:
            x = quantile(u, *(spec[key] for key in keys))
            return _short(round(x / spec["q"]) * spec["q"] if "q" in spec else x)
        except (OverflowError, ValueError) as e:
            raise UserError(f"{name} draws a number that is too large ({e})") from e
    size, nth = axis(spec)
    if spec.get("probabilities"):
        return nth(sum(below <= u for below in accumulate(spec["probabilities"][:-1])))
    return nth(int(u * size))


def _short(x: float) -> float:
    """Six digits: readable, and the same on machines whose last digits differ."""
    return x if isinstance(x, int) else float(f"{x:.6g}")


def _known(spec: Spec, valid: set[str]) -> None:
    for key in spec:
        if key not in valid:
            raise UserError(f"unknown key {key}{nearest(str(key), valid) or '; valid: ' + ', '.join(sorted(valid))}")


def _implied(spec: Spec) -> str:
    """The distribution where none is named."""
    if "value" in spec or "values" in spec:
        return "constant" if "value" in spec else "categorical"
    if not {"min", "max"} <= spec.keys():
        raise UserError("give value, values, min and max, a distribution, or nested parameters")
    types = {type(spec["min"]), type(spec["max"])}
    if types == {int, float}:
        raise UserError(f"min {spec['min']} and max {spec['max']} are an integer and a float: write both alike")
    return "int_uniform" if types == {int} else "uniform"


def _check_categories(values: Any, probabilities: Any, **_: Any) -> None:
    if not isinstance(values, list) or not values:
        raise UserError("values is not a list of at least one")
    if probabilities is None:
        return
    numbers = isinstance(probabilities, list) and all(type(p) in (int, float) and p >= 0 for p in probabilities)
    if not numbers or len(probabilities) != len(values) or abs(sum(probabilities) - 1) > 1e-6:
        raise UserError("probabilities is not a list of one number per value that sum to 1")


def _check_numbers(spec: Spec) -> None:
    name = spec["distribution"]
    types = (int,) if name == "int_uniform" else (int, float)
    for key in KEYS[name]:
        if type(spec[key]) not in types:
            raise UserError(f"{key} is {spec[key]!r}, not {'an integer' if types == (int,) else 'a number'}")
        if abs(spec[key]) > LARGEST:
            raise UserError(f"{key} must be between -{LARGEST:.0e} and {LARGEST:.0e}")
    if "min" in spec and spec["min"] > spec["max"]:
        raise UserError(f"min {spec['min']} is above max {spec['max']}")
    positive = {"min": "log" in name, "q": True, "sigma": True}
    for key in spec:
        if positive.get(key) and spec[key] <= 0:
            raise UserError(f"{key} of {name} must be above 0, got {spec[key]}")
