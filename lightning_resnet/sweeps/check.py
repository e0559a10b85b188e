"""Check the points of a sweep before submission, so that a wrong key costs no place in a queue."""

import json
from collections.abc import Iterator

from lightning_resnet import flags
from lightning_resnet.config.recipe import parse
from lightning_resnet.data.remote import is_remote, look
from lightning_resnet.data.sources import Source
from lightning_resnet.errors import UserError
from lightning_resnet.sweeps.points import Point, Sweep
from lightning_resnet.weights.trained import build_alone


def arguments(sweep: Sweep, point: Point) -> list[str]:
    """Return the arguments of `fit` that describe a point, its parameters as flags."""
    recipes = [arg for recipe in sweep.recipes for arg in ("--config", recipe)]
    flags = [f"--{key}={text}" for key, text in point.texts().items()]
    return [*recipes, *flags, *sweep.flags]


def check_points(sweep: Sweep, points: list[Point]) -> None:
    """Parse each value of each parameter once, as the run will.

    Raises:
        UserError: a value is wrong; the message names the point.
    """
    seen: set[str] = set()
    for point in points:
        values = {f"{key}={json.dumps(value)}" for key, value in point.parameters.items()}
        if values <= seen:
            continue
        seen |= values
        words = arguments(sweep, point)
        try:
            flags.check(words, "fit")  # knows more of our own nets than the parser does
            parse("fit", words)
        except UserError as e:
            raise UserError(f"sweep {sweep.name}, point {sweep.text(point)}: {e}") from e


def check_data(sweep: Sweep, points: list[Point]) -> None:
    """List the images of each source of data once, as the first job with the source will.

    What an address names is not copied to this machine, which may be a login node; see `look`.

    Raises:
        UserError: data are missing or damaged; the message names the point.
    """
    seen: set[str] = set()
    for point in points:
        values = {}
        for key, value in point.parameters.items():
            if key == "data" or key.startswith("data.source"):
                values[key] = value
        told = json.dumps(values, sort_keys=True)
        if told in seen:
            continue
        seen.add(told)
        try:
            source = build_alone(arguments(sweep, point)).data.source
            if addresses := [*_addresses(source)]:
                for address in addresses:
                    look(address, source.stage)
            else:
                source.splits()
        except UserError as e:
            raise UserError(
                f"sweep {sweep.name}, point {sweep.text(point)}: {e}; --yes submits it all the "
                "same, for data that only the jobs' nodes have"
            ) from e


def _addresses(source: Source) -> Iterator[str]:
    """Yield the addresses in the arguments of one of our sources, or of the source within it."""
    if not type(source).__module__.startswith("lightning_resnet."):
        return
    for value in vars(source).values():
        if isinstance(value, Source):
            yield from _addresses(value)
        for text in value.values() if isinstance(value, dict) else [value]:
            if isinstance(text, str) and is_remote(text):
                yield text
