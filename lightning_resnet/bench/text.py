"""Measurements as text."""

import statistics
from collections.abc import Sequence

from lightning_resnet.printing import markdown


def spread(values: Sequence[float], form: str = ",.2f") -> str:
    """Return `median (lowest to highest)`."""
    median = statistics.median(values)
    return f"{median:{form}} ({min(values):{form}} to {max(values):{form}})"


def ratios(a: Sequence[float], b: Sequence[float], form: str = ".3f") -> str:
    """Return the spread of a / b, turn by turn: what slows the machine slows both."""
    return spread([x / y for x, y in zip(a, b, strict=True)], form)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table, the first column to the left."""
    return markdown([head, *rows], left=1).splitlines()
