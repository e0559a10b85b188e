"""Errors that a user can cure: the command line prints one line and exits 2 (no traceback)."""

import re
import sys
import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches
from typing import TextIO

from lightning_resnet.masking import mask

LONGEST = 2_000  # characters of foreign text that are shown on one line


# Words of torch on the CPU, of CUDA, of their libraries, of numpy and of the system.
NO_MEMORY = re.compile(
    r"(out of|not enough) memory|MemoryError|(can.t|cannot|unable to) allocate|ALLOC_FAILED"
    r"|bad_alloc",
    re.I,
)


class UserError(Exception):
    """Error whose message says, in one line, what is wrong and how to cure it."""


class Diverged(UserError):
    """Error of a training whose loss is no finite number any more.

    Args:
        step: first optimizer step (counted from 1) whose loss was not finite.
        lr: learning rate at that step.
    """

    def __init__(self, step: int, lr: float) -> None:
        super().__init__(
            f"loss is not finite from step {step} on (learning rate {lr:g}): lower "
            "--model.optimizer.lr or add a warm-up; any checkpoints of earlier epochs are kept"
        )


class Superseded(UserError):
    """Error of an attempt whose run a newer attempt has taken over; it must write no more.

    Args:
        path: path of the run.
    """

    def __init__(self, path: object) -> None:
        super().__init__(f"run {path} was taken over by a newer attempt; this one stops")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error of any library says that memory was not enough."""
    return bool(NO_MEMORY.search(f"{type(error).__name__} {error}"))


def one_line(error: BaseException) -> str:
    """Return the message of an error on one line, with secrets masked.

    For an error from a loader's worker process this is the message of the original error.
    """
    lines = [line.strip() for line in mask(str(error)).strip().splitlines() if line.strip()]
    if "Original Traceback" in str(error):
        return lines[-1].partition(": ")[2]
    return " ".join(lines) or type(error).__name__


def printable(text: object, longest: int | None = LONGEST) -> str:
    r"""Make foreign text harmless to a terminal or a table: one line of visible characters.

    Control characters (newlines, escape codes, NUL), marks that change the direction of writing,
    invisible characters and halves of surrogate pairs become escapes such as `\x1b`.

    Args:
        text: any object; its text is used.
        longest: number of characters that are kept; None keeps all.
    """
    full = str(text)
    if longest is not None and len(full) > longest:
        kept = printable(full[:longest], None)
        return f"{kept}... ({len(full):,} characters)"
    if full.isprintable():
        return full
    return "".join(map(_visible, full))


def csv_cell(text: str) -> str:
    """Return a cell on one line that spreadsheets do not take for a formula."""
    shown = printable(text, None)
    if not shown.startswith(("=", "+", "-", "@")):
        return shown
    try:
        float(shown)
    except ValueError:
        return f"'{shown}"
    return shown  # a number


def _visible(character: str) -> str:
    """Return a visible character or a space as it is, and the escape of any other."""
    if character.isprintable() or unicodedata.category(character) == "Zs":  # spaces of any width
        return character
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


def tell(*texts: object, file: TextIO | None = None, end: str = "\n", flush: bool = True) -> None:
    """Print as `print` does, with secrets masked and control characters escaped.

    Newlines and tabs stay.

    Args:
        texts: objects to print, with spaces between them.
        file: the stream; default: the standard output.
        end: text that is printed last.
        flush: whether to flush the stream.
    """
    stream = file or sys.stdout
    lines = mask(" ".join(map(str, texts))).split("\n")
    shown = "\n".join(
        "\t".join(printable(cell, None) for cell in line.split("\t")) for line in lines
    )
    encoding = getattr(stream, "encoding", None) or "utf-8"
    encodable = shown.encode(encoding, "backslashreplace").decode(encoding)  # ASCII has no ±
    print(encodable, file=stream, end=end, flush=flush)


def nearest(word: str, valid: Iterable[str]) -> str:
    """Return `; did you mean X?` for the most similar valid word; empty if none is similar."""
    found = get_close_matches(word, list(valid), 1, 0.5)
    return f"; did you mean {found[0]}?" if found else ""
