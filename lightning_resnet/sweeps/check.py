"""Check the points of a sweep before they are submitted: a wrong key must not cost a place in SLURM's queue."""

import json

from lightning_resnet.config.recipe import ResNetCLI
from lightning_resnet.errors import UserError
from lightning_resnet.sweeps.points import Point, Sweep


def check_points(sweep: Sweep, points: list[Point]) -> None:
    """Parse each value of each parameter once, as the run will.

    Raises:
        UserError: the point, and what is wrong.
    """

    class Parsed(ResNetCLI):
        def instantiate_classes(self) -> None:
            pass

    recipes = [arg for recipe in sweep.recipes for arg in ("--config", recipe)]
    seen: set[str] = set()
    for point in points:
        values = {f"{key}={json.dumps(value)}" for key, value in point.parameters.items()}
        if values <= seen:
            continue
        seen |= values
        flags = [f"--{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in point.parameters.items()]
        try:
            Parsed("fit", [*recipes, *sweep.flags, *flags])
        except UserError as e:
            raise UserError(f"sweep {sweep.name}, point {sweep.text(point)}: {e}") from e
