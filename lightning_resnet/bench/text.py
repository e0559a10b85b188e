"""How measurements are written down."""

import statistics
from collections.abc import Sequence


def spread(values: Sequence[float], form: str = ",.2f") -> str:
    """`median (lowest to highest)`."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def ratios(a: Sequence[float], b: Sequence[float], form: str = ".3f") -> str:
    """The same of a / b, turn by turn: what slows the machine slows both."""
    return spread([x / y for x, y in zip(a, b, strict=True)], form)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Markdown, the first column to the left."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return ["| " + " | ".join(row) + " |" for row in lines]
