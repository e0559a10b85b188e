"""Check the points of a sweep before they are submitted: a wrong key must not cost a place in SLURM's queue."""

import json

from lightning_resnet.config.recipe import parse
from lightning_resnet.errors import UserError
from lightning_resnet.sweeps.points import Point, Sweep


def arguments(sweep: Sweep, point: Point) -> list[str]:
    """Return the arguments of `fit` that describe a point, its parameters as flags."""
    recipes = [arg for recipe in sweep.recipes for arg in ("--config", recipe)]
    flags = []
    for key, value in point.parameters.items():
        text = value if isinstance(value, str) else json.dumps(value)
        flags.append(f"--{key}={text}")
    return [*recipes, *flags, *sweep.flags]


def check_points(sweep: Sweep, points: list[Point]) -> None:
    """Parse each value of each parameter once, as the run will.

    Raises:
        UserError: the point, and what is wrong.
    """
    seen: set[str] = set()
    for point in points:
        values = {f"{key}={json.dumps(value)}" for key, value in point.parameters.items()}
        if values <= seen:
            continue
        seen |= values
        try:
            parse("fit", arguments(sweep, point))
        except UserError as e:
            raise UserError(f"sweep {sweep.name}, point {sweep.text(point)}: {e}") from e
