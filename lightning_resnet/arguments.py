"""The command line's arguments: parsers of the verbs, and what is a recipe's key among them."""

import argparse
from collections.abc import Sequence
from typing import Any, Literal, NoReturn

from lightning_resnet.errors import UserError

TRUST = "the recipe in a checkpoint or run may name any code, which is imported and run"  # help of --trust


class Parser(argparse.ArgumentParser):
    """Parser of a verb's command line; a mistake is a UserError of one line.

    Args:
        recipe: what it takes of a recipe: nothing, its keys as flags beside its own, or the whole command line, which
            LightningCLI parses when the verb runs.
        options: the arguments of `argparse.ArgumentParser`.
    """

    def __init__(self, *, recipe: Literal["nothing", "keys", "all"] = "nothing", **options: Any) -> None:
        super().__init__(**options)
        self.recipe = recipe

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse the words that follow the verb.

        Returns:
            The verb's own flags, with three lists of words: `recipe_keys`, the keys of a recipe with their values;
            `rest`, what follows `--`; and `words`, all of them.

        Raises:
            UserError: the words are not what the verb takes.
        """
        if self.recipe == "all":
            return argparse.Namespace(recipe_keys=list(words), rest=[], words=list(words))
        end = list(words).index("--") if "--" in words else len(words)
        own = list(words[:end])
        recipe: list[str] = []
        if self.recipe == "keys":
            own, recipe = split(own)
        args = self.parse_args(own)
        args.recipe_keys = recipe
        args.rest = list(words[end + 1 :])
        args.words = list(words)
        return args

    def error(self, message: str) -> NoReturn:
        """Raise in place of printing the usage; name the choices of a word that is missing."""
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
    """Part a command line into a verb's own flags and the keys of a recipe with their values."""
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
