"""Errors that a user can cure: the command line prints one line and exits 2 (no traceback)."""

import os
import re
import sys
import unicodedata
from collections.abc import Iterable
from difflib import SequenceMatcher
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


OPPOSITES = ({"min", "max"}, {"train", "val"}, {"first", "last"}, {"low", "high"})
SIMILAR = 0.7  # weaker likenesses are mere chance


def nearest(word: str, valid: Iterable[str], least: float = SIMILAR) -> str:
    """Return `; did you mean X?` for the word of `most_similar`; empty without one."""
    found = most_similar(word, valid, least)
    return f"; did you mean {found}?" if found else ""


def most_similar(word: str, valid: Iterable[str], least: float = SIMILAR) -> str:
    """Return the most similar valid word; empty if none is similar.

    Of dotted keys the last parts are compared too. Neither a key's help nor an opposite, such as
    min for max, is suggested.

    Args:
        word: the word that is not valid.
        valid: the valid words.
        least: ratio of difflib, from 0 to 1, from which a word is similar.
    """
    found = []
    for each in dict.fromkeys(valid):
        if _may_be(word, each):
            same = len(os.path.commonprefix([word, each]))  # decides between equal likenesses
            found.append((_likeness(word, each, least), same, each))
    best = max(found, key=lambda likely: likely[:2], default=(0.0, 0, ""))
    return best[2] if best[0] >= least else ""


def _may_be(word: str, candidate: str) -> bool:
    """Tell whether a valid word is neither a key's help nor an opposite of a word."""
    if candidate.endswith(".help"):
        return False
    differing = set(re.split(r"\W|_", word)) ^ set(re.split(r"\W|_", candidate))
    if "no" in differing:
        return False
    return not any(pair <= differing for pair in OPPOSITES)


def _likeness(word: str, candidate: str, least: float) -> float:
    """Return how similar a valid word is to a word, from 0 to 1; 0 if below `least`."""
    given = word.lower().replace("-", "_")
    known = candidate.lower().replace("-", "_")
    likeness = _ratio(given, known, least)
    if sorted(given) == sorted(known):  # two letters in each other's place
        likeness = max(likeness, 0.9)
    if "." not in known:
        return likeness
    ends = _ratio(given.rpartition(".")[2], known.rpartition(".")[2], least)
    is_near = "." not in given or given.partition(".")[0] == known.partition(".")[0]
    return max(likeness, ends * (0.98 if is_near else 0.85))


def _ratio(given: str, known: str, least: float) -> float:
    """Return difflib's ratio of two texts; 0 if a quick bound of the ratio is below `least`."""
    matcher = SequenceMatcher(None, given, known)
    if matcher.real_quick_ratio() < least or matcher.quick_ratio() < least:
        return 0.0
    return matcher.ratio()
