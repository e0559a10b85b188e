"""Errors a user can cure: the command line prints their one line and exits 2 (no traceback)."""

import argparse
import math
import sys
import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches
from typing import TextIO

from lightning_resnet.masking import mask

LONGEST = 2_000  # characters of foreign text on one line: of more the beginning is shown


class UserError(Exception):
    """What is wrong and how to cure it, in one line."""


class Diverged(UserError):
    """The training loss is not a finite number any more.

    Args:
        step: optimizer step (the first is 1) whose loss was the first not to be finite.
        lr: learning rate then.
    """

    def __init__(self, step: int, lr: float) -> None:
        super().__init__(
            f"loss is not finite from step {step} on (learning rate {lr:g}): lower --model.optimizer.lr or add a "
            "warm-up; any checkpoints of earlier epochs are kept"
        )


class Superseded(UserError):
    """A newer attempt has taken over the run: this one must write no more.

    Args:
        path: of the run.
    """

    def __init__(self, path: object) -> None:
        super().__init__(f"run {path} was taken over by a newer attempt; this one stops")


def not_negative(text: str) -> int:
    """Read the value of a flag, at least 0.

    Raises:
        argparse.ArgumentTypeError: it is not.
    """
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text}: a whole number, 0 or more")
    return int(text)


def finite(text: str) -> float:
    """Read the value of a flag, neither infinite nor NaN.

    Raises:
        argparse.ArgumentTypeError: it is not.
    """
    number = float(text)
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text}: a finite number")
    return number


def one_line(error: BaseException) -> str:
    """The message on one line, secrets masked; of an error from a loader's worker process, the original's."""
    lines = [line.strip() for line in mask(str(error)).strip().splitlines() if line.strip()]
    if "Original Traceback" in str(error):
        return lines[-1].partition(": ")[2]
    return " ".join(lines) or type(error).__name__


def printable(text: object, longest: int | None = LONGEST) -> str:
    r"""Make text of others harmless to a terminal or a table: one line, in which nothing acts and all can be seen.

    Control characters (newlines, escape codes, NUL), marks that turn the direction of writing, invisible characters
    and halves of surrogate pairs become escapes such as `\x1b`.

    Args:
        text: any object's text.
        longest: characters that are kept; None: all.
    """
    whole = str(text)
    if longest is not None and len(whole) > longest:
        kept = printable(whole[:longest], None)
        return f"{kept}... ({len(whole):,} characters)"
    if whole.isprintable():
        return whole
    return "".join(map(_visible, whole))


def _visible(character: str) -> str:
    """Return the character, or its escape where it is none that can be seen."""
    if character.isprintable() or unicodedata.category(character) == "Zs":  # a space of any width
        return character
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


def tell(*texts: object, file: TextIO | None = None, end: str = "\n", flush: bool = True) -> None:
    """Print as `print` does, without secrets and what would act on the terminal; newlines and tabs stay.

    Args:
        texts: to print, with spaces between them.
        file: the stream; default: the standard output.
        end: what follows the text.
        flush: whether the text is handed on at once.
    """
    stream = file or sys.stdout
    lines = mask(" ".join(map(str, texts))).split("\n")
    shown = "\n".join("\t".join(printable(cell, None) for cell in line.split("\t")) for line in lines)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    known = shown.encode(encoding, "backslashreplace").decode(encoding)  # an ASCII terminal has no ±
    print(known, file=stream, end=end, flush=flush)


def nearest(word: str, valid: Iterable[str]) -> str:
    """`; did you mean X?` where a valid word is near, else nothing."""
    found = get_close_matches(word, list(valid), 1, 0.5)
    return f"; did you mean {found[0]}?" if found else ""
