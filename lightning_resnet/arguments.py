"""Command-line arguments: parsers of the verbs, and the recipe's keys among a verb's own flags."""

import argparse
import math
from collections.abc import Sequence
from typing import Any, Literal, NoReturn

from lightning_resnet.errors import UserError

# Help text of --trust.
TRUST = "the recipe in a checkpoint or run may name any code, which is imported and run"


class Parser(argparse.ArgumentParser):
    """Parser of a verb's command line, which raises a UserError of one line for a mistake.

    Args:
        recipe: which part of a recipe the verb takes: nothing; the keys as flags next to its own;
            or all, that is, LightningCLI parses the command line when the verb runs.
        options: the arguments of `argparse.ArgumentParser`.
    """

    def __init__(
        self, *, recipe: Literal["nothing", "keys", "all"] = "nothing", **options: Any
    ) -> None:
        super().__init__(**options)
        self.recipe = recipe

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse the words that follow the verb.

        Args:
            words: the command line after the verb.

        Returns:
            The verb's own flags, with three lists of words: `recipe_keys`, the keys of a recipe
            with their values; `rest`, the words after `--`; and `words`, all words. Also
            `document`, a dict to fill with what `--json` prints.

        Raises:
            UserError: the verb does not take these words.
        """
        if self.recipe == "all":
            return argparse.Namespace(
                recipe_keys=list(words), rest=[], words=list(words), document={}
            )
        end = list(words).index("--") if "--" in words else len(words)
        own = list(words[:end])
        recipe: list[str] = []
        if self.recipe == "keys":
            own, recipe = split(own)
        args = self.parse_args(own)
        args.recipe_keys = recipe
        args.rest = list(words[end + 1 :])
        args.words = list(words)
        args.document = {}
        return args

    def error(self, message: str) -> NoReturn:
        """Raise a UserError instead of printing the usage; name the choices of a missing word."""
        missing = message.partition("arguments are required: ")[2].split(", ")
        for action in self._actions:
            if action.dest in missing and action.choices:
                message += f"; {action.dest} is one of {', '.join(action.choices)}"
        raise UserError(f"{message}; {self.prog} --help tells the options")


def positive(text: str) -> int:
    """Read the value of a flag, a whole number of at least 1.

    Raises:
        argparse.ArgumentTypeError: the text is no such number.
    """
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text}: a whole number, 1 or more")
    return int(text)


def not_negative(text: str) -> int:
    """Read the value of a flag, a whole number of at least 0.

    Raises:
        argparse.ArgumentTypeError: the text is no such number.
    """
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text}: a whole number, 0 or more")
    return int(text)


def finite(text: str) -> float:
    """Read the value of a flag, a number that is neither infinite nor NaN.

    Raises:
        argparse.ArgumentTypeError: the text is no such number.
    """
    number = float(text)
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text}: a finite number")
    return number


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line into a verb's own flags, and the keys of a recipe with their values."""
    own: list[str] = []
    recipe: list[str] = []
    rest = list(argv)
    while rest:
        key, has_value, _ = rest[0].partition("=")
        if key in ("-c", "--config", "--seed_everything") or (key.startswith("--") and "." in key):
            n = 1 if has_value else 2
            recipe += rest[:n]
            rest = rest[n:]
        else:
            own.append(rest.pop(0))
    return own, recipe
