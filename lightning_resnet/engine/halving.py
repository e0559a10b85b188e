"""End a run of a sweep early, where hyperband finds others better after the same evaluations.

The rule is after that of W&B's sweeps (`early_terminate`): after as many evaluations as a bracket
says, a run goes on only if it is among the best 1/eta of the runs that came as far. W&B compares
the evaluation after that one, and compares a run again as others arrive; here a run is compared
once. A run decides for itself, from the rows of its sweep's runs, so no server and no lock is
needed. It decides between two epochs, after a checkpoint, so it can still be continued to its end.
"""

import math
from dataclasses import dataclass
from typing import Literal

from lightning_resnet.runs.directory import RunDir
from lightning_resnet.runs.find import begun_runs
from lightning_resnet.runs.metrics import merge
from lightning_resnet.runs.reader import Run
from lightning_resnet.runs.shared import points


@dataclass
class Hyperband:
    """Options of hyperband, as `metric` and `early_terminate` of a sweep give them.

    Args:
        metric: name of the metric that runs are compared by.
        goal: whether a better run has more or less of it.
        brackets: numbers of evaluations after which a run is compared with others.
        eta: one of so many runs goes on.
        strict: let the best 1/eta go on, rounded up; else one more where the number of runs
            divides by eta.
    """

    metric: str
    goal: Literal["maximize", "minimize"]
    brackets: list[int]
    eta: float = 3.0
    strict: bool = False


def evaluations(run: Run, metric: str) -> list[tuple[int, float]] | None:
    """Return step and value of each evaluation of a run that has a finite value of the metric.

    None stands for rows that cannot be read now: this must not end the training of another run.
    """
    try:
        rows = run.rows(train=False).rows
    except (OSError, ValueError):
        return None
    found = []
    for row in merge(rows):
        value = row.get(metric, math.nan)
        if math.isfinite(value):
            found.append((row["step"], value))
    return found


def threshold(values: list[float], options: Hyperband) -> float:
    """Return the worst value that goes on at a bracket.

    Args:
        values: values of all runs that came as far, not empty.
        options: goal, eta and strict.
    """
    ordered = sorted(values, reverse=options.goal == "maximize")
    if options.strict:
        return ordered[math.ceil(len(ordered) / options.eta) - 1]
    return ordered[int(len(ordered) / options.eta)]


def verdict(run: RunDir, options: Hyperband, step: int) -> str:
    """Say why a run ends here; empty if it goes on.

    A decision to go on is recorded: a run that is killed and continued at this step, when there may
    be more rivals, is not compared again.

    Args:
        run: the run, whose folder holds the runs of its sweep.
        options: options of hyperband.
        step: optimizer steps done.
    """
    own = evaluations(run, options.metric) or []
    bracket = len(own)
    if bracket not in options.brackets or own[-1][0] != step:
        return ""
    if any(attempt["compared_step"] == step for attempt in run.attempts()):
        return ""
    mine = own[-1][1]
    values = [mine]
    for other in begun_runs(run.path.parent):
        if other.path.name != run.path.name and points(other.meta()):
            reached = evaluations(other, options.metric) or []
            values += [value for _, value in reached[bracket - 1 : bracket]]
    worst = threshold(values, options)
    is_behind = mine < worst if options.goal == "maximize" else mine > worst
    if not is_behind:
        run.note_comparison(step)
        return ""
    return (
        f"{options.metric} is {mine:.4g} after {bracket} evaluations, and of {len(values)} runs "
        f"those go on that have {worst:.4g} or better"
    )
