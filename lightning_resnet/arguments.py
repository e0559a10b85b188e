"""The command line's arguments: parsers of the verbs, and what is a recipe's key among them."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from lightning_resnet.errors import UserError

TRUST = "the recipe in a checkpoint or run may name any code, which is imported and run"  # help of --trust


class Parser(argparse.ArgumentParser):
    """Of the verbs without a recipe: what is wrong is a UserError, in one line."""

    def error(self, message: str) -> NoReturn:
        """Instead of the usage and exit; of a word that is missing, what it can be."""
        missing = message.partition("arguments are required: ")[2].split(", ")
        for action in self._actions:
            if action.dest in missing and action.choices:
                message += f"; {action.dest} is one of {', '.join(action.choices)}"
        raise UserError(f"{message}; {self.prog} --help tells the options")


def positive(text: str) -> int:
    """The value of a flag, at least 1.

    Raises:
        argparse.ArgumentTypeError: it is not.
    """
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text}: a whole number, 1 or more")
    return int(text)


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """(arguments of the inspection, keys of a recipe with their values)."""
    ours, recipe, rest = [], [], list(argv)
    while rest:
        key, has_value, _ = rest[0].partition("=")
        if key in ("-c", "--config", "--seed_everything") or (key.startswith("--") and "." in key):
            n = 1 if has_value else 2
            recipe, rest = recipe + rest[:n], rest[n:]
        else:
            ours.append(rest.pop(0))
    return ours, recipe
