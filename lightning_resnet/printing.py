"""Tables and documents as verbs print them: for a terminal, as Markdown, or as JSON."""

import json
import math
import os
import shutil
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from textwrap import wrap
from typing import Any

from lightning_resnet.errors import printable

LEFT_OUT = "Left out to fit"  # begins the line that names columns
NARROWEST = 12  # characters of a column whose texts are wrapped or cut
UNCUT = 10_000  # characters of a line in a file
JSON_HELP = "print one JSON document, and all else on stderr"


def prose(text: str) -> str:
    """Return text on one line of Markdown, in which HTML and links have no effect."""
    return printable(text, None).replace("<", "\\<").replace("](", "]\\(")


def markdown(rows: Sequence[Sequence[str]], left: int = 0) -> str:
    """Return a Markdown table.

    Args:
        rows: cells, header first.
        left: number of columns that are aligned to the left.
    """
    cells = [[prose(cell).replace("|", "\\|") for cell in row] for row in rows]
    width = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = [_line(row, width, left) for row in cells]
    rules = [f":{'-' * (w + 1)}" for w in width[:left]] + [
        f"{'-' * (w + 1)}:" for w in width[left:]
    ]
    lines.insert(1, f"|{'|'.join(rules)}|")
    return "\n".join(lines)


def tables_in(lines: Sequence[str]) -> list[list[dict[str, str]]]:
    """Return the rows of each Markdown table of a report, under its heads."""
    found = []
    head: list[str] = []
    for line in "\n".join(lines).splitlines():
        if not line.startswith("|"):
            head = []
            continue
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if not head:
            head = cells
            found.append([])
        elif not line.startswith(("|:-", "|--")):
            found[-1].append(dict(zip(head, cells, strict=True)))
    return found


def _line(row: Sequence[str], width: Sequence[int], left: int) -> str:
    """Return a row of a Markdown table."""
    return "| " + " | ".join(_padded(row, width, left)) + " |"


def _padded(row: Sequence[str], width: Sequence[int], left: int) -> list[str]:
    """Return cells, padded to the widths of their columns."""
    padded = [cell.ljust(w) for cell, w in zip(row[:left], width, strict=False)]
    return padded + [cell.rjust(w) for cell, w in zip(row[left:], width[left:], strict=True)]


def columns() -> int:
    """Return the width of the terminal in characters; 80 if it is not known."""
    return shutil.get_terminal_size().columns


def fitted(rows: Sequence[Sequence[str]], left: int = 0, less: Sequence[str] = ()) -> str:
    """Return a table that fits the terminal.

    Columns are left out first, which a line below the table tells; then long texts are wrapped.

    Args:
        rows: cells, header first.
        left: number of columns that are aligned to the left.
        less: heads of columns that may be left out, the first one first.
    """
    cells = [[printable(cell, None) for cell in row] for row in rows]
    room = columns()
    out = _leave_out(cells, less, room - 4, gap=3)
    width = _widths(cells)
    words = [max(map(len, head.split()), default=1) for head in cells[0]]
    body = [max([words[i], *(len(row[i]) for row in cells[1:])]) for i in range(len(width))]
    for least in (body, [NARROWEST] * len(width)):  # heads are wrapped before what is below them
        while sum(width) + 3 * len(width) + 1 > room:
            widest = max(range(len(width)), key=lambda i: width[i] if width[i] > least[i] else 0)
            if width[widest] <= least[widest]:
                break
            width[widest] -= 1
    lines = []
    for row in cells:
        parts = [wrap(cell, w) or [""] for cell, w in zip(row, width, strict=True)]
        for k in range(max(map(len, parts))):
            lines.append(_line([p[k] if k < len(p) else "" for p in parts], width, left))
        if row is cells[0]:
            lines.append(f"|{'|'.join('-' * (w + 2) for w in width)}|")
    if out:
        lines.append(paragraph(f"{LEFT_OUT} {room} columns: {', '.join(reversed(out))}."))
    return "\n".join(lines)


def aligned(
    rows: Sequence[Sequence[str]], left: int, less: Sequence[str] = (), cut: int = 0
) -> str:
    """Return a table of columns with two spaces between, which fits the terminal.

    Empty columns are left out, then those of `less` as far as needed; then texts are cut. In a file
    or pipe nothing is.

    Args:
        rows: cells, header first.
        left: number of columns that are aligned to the left.
        less: heads of columns that may be left out, the first one first.
        cut: number of columns, the first ones, whose texts may be cut.
    """
    filled = [any(row[i] for row in rows[1:]) for i in range(len(rows[0]))]
    cells = [
        [printable(cell, None) for cell, has in zip(row, filled, strict=True) if has]
        for row in rows
    ]
    left -= filled[:left].count(False)
    width = room()
    _leave_out(cells, less, width, gap=2)
    for i in range(min(cut, len(cells[0]))):
        own = _widths(cells)
        excess = max(0, sum(own) + 2 * (len(own) - 1) - width)
        most = max(NARROWEST, own[i] - excess)
        for row in cells:
            row[i] = row[i] if len(row[i]) <= most else f"{row[i][: most - 1]}…"
    own = _widths(cells)
    return "\n".join("  ".join(_padded(row, own, left)).rstrip() for row in cells)


def room() -> int:
    """Return the width of the terminal in characters; of a file or pipe, enough for any line."""
    is_terminal = sys.stdout.isatty() or os.environ.get("COLUMNS")
    return columns() if is_terminal else UNCUT


def _widths(cells: Sequence[Sequence[str]]) -> list[int]:
    return [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]


def _leave_out(cells: list[list[str]], less: Sequence[str], room: int, gap: int) -> list[str]:
    """Leave columns out, in place, until a table fits; return their heads.

    Args:
        cells: rows, header first.
        less: heads of columns that may be left out, the first one first.
        room: characters of a line.
        gap: characters between two columns.
    """
    out = []
    for head in less:
        width = _widths(cells)
        if sum(width) + gap * (len(width) - 1) <= room:
            break
        if head in cells[0]:
            i = cells[0].index(head)
            out.append(head)
            for row in cells:
                del row[i]
    return out


def paragraph(text: str) -> str:
    """Return a text in lines that fit the terminal; no word is broken."""
    options = {"break_long_words": False, "break_on_hyphens": False}
    return "\n".join(wrap(printable(text, None), columns(), **options))


def add_json(parser: ArgumentParser) -> None:
    """Add the flag --json, for verbs that fill `args.document`."""
    parser.add_argument("--json", dest="as_json", action="store_true", help=JSON_HELP)


def as_json(document: Any) -> str:
    """Return a document as JSON: numbers that are not finite become null, paths text."""
    return json.dumps(_plain(document), indent=1, allow_nan=False, default=str)


def _plain(value: Any) -> Any:
    """Return a value of JSON's types; numpy's numbers become Python's."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def only_json(wanted: bool, document: Any) -> Iterator[None]:
    """Print a document alone on stdout, at the end; all else goes to stderr, of children too.

    Args:
        wanted: False: nothing is changed.
        document: a dict or list, which is filled in between.
    """
    if not wanted:
        yield
        return
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
    print(as_json(document), flush=True)
