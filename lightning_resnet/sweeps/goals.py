"""Read what a sweep's YAML wants: its `metric`, and `early_terminate`, both in W&B's format."""

from typing import Any, NamedTuple

from lightning_resnet.engine.halving import Hyperband
from lightning_resnet.errors import UserError, nearest

# Metrics that every evaluation of ours has; `val_ema/` too where a moving average is kept.
METRICS = [f"{split}/{name}" for split in ("val", "train_eval") for name in ("acc1", "loss")]
SPLITS = ("val", "val_ema", "train_eval")
EXAMPLE = "metric: {name: val/acc1, goal: maximize}"
EARLY = "early_terminate: {type: hyperband, min_iter: 3}"
HYPERBAND = ("type", "min_iter", "max_iter", "s", "eta", "strict")
LARGEST = 10**6  # evaluations of a bracket
MOST = 100  # brackets, as in W&B


class Goal(NamedTuple):
    """Metric of a sweep, and whether more of it is better."""

    metric: str
    is_more: bool

    @property
    def word(self) -> str:
        """Word of W&B for the direction: maximize or minimize."""
        return "maximize" if self.is_more else "minimize"


ACCURACY = Goal("val/acc1", True)


def read_goal(content: dict[str, Any]) -> Goal:
    """Return the metric of a sweep, whose goal is `minimize` unless it is given, as in W&B.

    Raises:
        UserError: there is none, or none that a run of ours records.
    """
    metric = content.get("metric")
    if not isinstance(metric, dict) or "name" not in metric:
        raise UserError(f"needs the metric that decides: write {EXAMPLE}")
    for key in metric:
        if key not in ("name", "goal"):
            cure = nearest(str(key), ["name", "goal"]) or "; leave it out: run_cap limits a sweep"
            raise UserError(f"metric has a key {key} that is not known here{cure}")
    name = str(metric["name"])
    if name.partition("/")[0] not in SPLITS or "/" not in name:
        hint = nearest(name, METRICS) or f"; there are {', '.join(METRICS)}"
        raise UserError(f"metric {name} is of no evaluation of a run{hint}")
    goal = metric.get("goal", "minimize")
    if goal not in ("minimize", "maximize"):
        raise UserError(f"goal of metric must be minimize or maximize, got {goal}")
    if goal == "minimize" and "/acc" in name:
        raise UserError(f"metric {name} is an accuracy, of which less is worse: write {EXAMPLE}")
    return Goal(name, goal == "maximize")


def read_hyperband(content: dict[str, Any]) -> Hyperband | None:
    """Return the options of `early_terminate`; None where a sweep has none.

    Raises:
        UserError: the options are not those of W&B's hyperband.
    """
    early = content.get("early_terminate")
    if early is None:
        return None
    if not isinstance(early, dict):
        raise UserError(f"early_terminate is not a mapping: write {EARLY}")
    for key in early:
        if key not in HYPERBAND:
            raise UserError(
                f"early_terminate has no key {key}{nearest(str(key), HYPERBAND)}; there are "
                f"{', '.join(HYPERBAND)}"
            )
    if early.get("type") != "hyperband":
        raise UserError(f"early_terminate has no type but hyperband: write {EARLY}")
    goal = read_goal(content)
    eta = early.get("eta", 3)
    if type(eta) not in (int, float) or not 1 < eta <= LARGEST:
        raise UserError(
            f"eta of early_terminate is {eta!r}, not a number above 1, up to {LARGEST:,}"
        )
    strict = early.get("strict", False)
    if type(strict) is not bool:
        raise UserError(f"strict of early_terminate is {strict!r}, not true or false")
    return Hyperband(goal.metric, goal.word, _brackets(early, eta), float(eta), strict)


def _brackets(early: dict[str, Any], eta: float) -> list[int]:
    """Return the brackets: min_iter * eta**i, or the s largest below max_iter, max_iter / eta**i.

    Raises:
        UserError: neither min_iter nor max_iter with s is given, or no bracket is left.
    """
    for key in ("min_iter", "max_iter", "s"):
        value = early.get(key, 1)
        if type(value) is not int or not 1 <= value <= LARGEST:
            raise UserError(
                f"{key} of early_terminate is {value!r}, not an integer from 1 to {LARGEST:,}"
            )
    if ("min_iter" in early) == ("max_iter" in early):
        raise UserError(
            "early_terminate needs either min_iter, evaluations before the first bracket, or "
            "max_iter, those of a full run, with s, the number of brackets"
        )
    if "min_iter" in early:
        sizes = _multiples(early["min_iter"], eta, MOST)
        return sorted({int(size) for size in sizes})
    if "s" not in early:
        raise UserError("max_iter of early_terminate needs s, the number of brackets: add s: 2")
    sizes = _multiples(early["max_iter"], 1 / eta, early["s"] + 1)[1:]
    if brackets := sorted({int(size) for size in sizes}):
        return brackets
    raise UserError(
        f"max_iter {early['max_iter']} of early_terminate leaves no bracket at eta {eta:g}: raise "
        "it, or lower eta"
    )


def _multiples(size: float, factor: float, most: int) -> list[float]:
    """Return a number multiplied 0, 1, 2, ... times by a factor, as long as brackets can be so."""
    sizes = []
    while len(sizes) < most and 1 <= size <= LARGEST:
        sizes.append(size)
        size *= factor
    return sizes
