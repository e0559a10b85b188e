"""Command-line arguments: parsers of the verbs, and the recipe's keys among a verb's own flags."""

import argparse
import math
import os
import re
from collections.abc import Sequence
from typing import Any, Literal, NoReturn

from lightning_resnet.aliases import SHORT, by_word, is_flag, said, understood
from lightning_resnet.errors import UserError, nearest
from lightning_resnet.flags import check
from lightning_resnet.words import CHECKPOINTS, FLAGS

# Flags that stand without a value.
SWITCHES = (
    "--trust",
    "--json",
    "--run.new",
    "--run.must_resume",
    "--run.dry",
    "--deterministic",
    "--line",
)
# Help text of --trust.
TRUST = "the recipe in a checkpoint or run may name any code, which is imported and run"


class Parser(argparse.ArgumentParser):
    """Parser of a verb's command line, which raises a UserError of one line for a mistake.

    Args:
        recipe: which part of a recipe the verb takes: nothing; the keys as flags next to its own;
            or all, that is, LightningCLI parses the command line when the verb runs.
        takes_run: whether the first word is a run, which `--ckpt_path` may give as well.
        options: the arguments of `argparse.ArgumentParser`.
    """

    def __init__(
        self,
        *,
        recipe: Literal["nothing", "keys", "all"] = "nothing",
        takes_run: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.recipe = recipe
        self.takes_run = takes_run
        self.words: list[str] = []

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
            own, recipe = split(understood(own, self.verb, self._option_string_actions))
            is_complete = self.verb == "doctor" and bool({"-c", "--config"} & {*recipe})
            check(recipe, self.verb, is_complete)
        if self.takes_run:
            own = _run_first(own)
        self.words = own
        positional = [action for action in self._actions if not action.option_strings]
        is_strict = any(a.nargs in (argparse.PARSER, argparse.REMAINDER) for a in positional)
        if is_strict or {"-h", "--help"} & {*own}:
            args = self.parse_args(own)
        else:
            args = self.parse_intermixed_args(own)  # options may stand between the others
        args.recipe_keys = recipe
        args.rest = list(words[end + 1 :])
        args.words = list(words)
        args.document = {}
        return args

    @property
    def verb(self) -> str:
        """The verb that this is a parser of; empty for a parser of no verb."""
        return [*self.prog.split(), "", ""][1]

    def error(self, message: str) -> NoReturn:
        """Raise a UserError instead of printing the usage, with the word that is meant.

        What a missing word is, and its choices, are named.
        """
        below = [a for a in self._actions if isinstance(a, argparse._SubParsersAction)]
        if below and self.words[:1] and self.words[0] in below[0].choices:
            parser = below[0].choices[self.words[0]]
            parser.words = self.words[1:]
            parser.error(message)
        for word in self.words:  # said rather than what is missing next to it
            flag = word.partition("=")[0]
            options = self._option_string_actions
            if is_flag(flag) and not any(option.startswith(flag[:2]) for option in options):
                message = f"unrecognized arguments: {flag}"
            if flag[:2] == "--" and not any(option.startswith(flag) for option in options):
                message = f"unrecognized arguments: {flag}"
        hint = ""
        missing = message.partition("arguments are required: ")[2].split(", ")
        needed = [self._needed(action) for action in self._actions if _name(action) in missing]
        if needed:
            message = f"{self.prog} needs {' and '.join(needed)}"
        if unknown := re.fullmatch(r"unrecognized arguments: (.*)", message):
            word = unknown[1].split(" ")[0]
            hint = self._meant(word)
            message = f"unknown option {word.partition('=')[0]}{hint}"
        if choice := re.fullmatch(r"argument (\S+): invalid choice: '(.*)' \(.*\)", message):
            name, word = choice.groups()
            valid = self._choices_of(name)
            hint = self._choice(word, valid)
            message = f"{name} {word}: choose among {', '.join(valid)}{hint}"
        if value := re.fullmatch(r"argument (\S+): invalid (\w+) value: '(.*)'", message):
            kind = {"int": "a whole number"}.get(value[2], "a number")
            message = f"argument {value[1]}: {value[3]}: {kind}"
        if few := re.fullmatch(r"argument (\S+): expected (.*?) arguments?", message):
            action = self._option_string_actions.get(few[1].partition("/")[0])
            value = "" if action is None else f": {self._metavar(action)}"
            number = few[2].replace("one", "a").replace("at least a", "a")
            message = f"{few[1]} needs {number} value{'' if number == 'a' else 's'}{value}"
        if two := re.fullmatch(r"argument (\S+): not allowed with argument (\S+)", message):
            message = f"{two[1]} and {two[2]} exclude each other: leave one of them out"
        message = message.removeprefix("argument ")
        cures = ("did you mean", "choose among", ": write ", " needs ", " exclude ", "usage: ")
        if not hint and not any(cure in message for cure in cures):
            message += f"; {self.prog} --help tells the options"
        raise UserError(message)

    def _needed(self, action: argparse.Action) -> str:
        """Return what a missing word is, in words."""
        name = _name(action)
        if action.option_strings:
            name = f"{name} {self._metavar(action)}"
        if action.choices:
            return f"{name}: {name} is one of {', '.join(map(str, action.choices))}"
        told = f" ({action.help})" if action.help else ""
        return f"{name}{told}"

    def _metavar(self, action: argparse.Action) -> str:
        """Return what stands for the value of a flag in its help."""
        if action.choices:
            return " | ".join(map(str, action.choices))
        metavar = action.metavar or action.dest.upper()
        return metavar if isinstance(metavar, str) else " ".join(metavar)

    def _meant(self, word: str) -> str:
        """Return a suggestion for a word that is no option."""
        flag = word.partition("=")[0]
        if hydra := re.fullmatch(r"[+~]*([\w.]+)=(.*)", word):
            return f": write --{hydra[1]} {hydra[2]}"
        if not word.startswith("-"):
            if "--root" in self._option_string_actions and os.path.isdir(word):
                return f"; did you mean --root {word}?"
            if "--out" in self._option_string_actions and re.search(r"\.[a-z]+$", word):
                return f"; did you mean --out {word}?"
            usage = " ".join(_name(a) for a in self._actions if not a.option_strings)
            return f", a word too many; usage: {self.prog} {usage} [options]"
        if flag.startswith("--") and flag.strip("-").replace("-", "_") in CHECKPOINTS:
            runs = [action for action in self._actions if action.metavar == "RUN"]
            if runs:
                return f": give the run or checkpoint as a word: {self.prog} RUN"
        meaning = said(self.prog.partition(" ")[2], flag)
        meant = meaning.removeprefix("; did you mean ").partition(" ")[0].rstrip("?")
        if meaning and (meant[:1] != "-" or meant in self._option_string_actions):
            return meaning
        shorts = [f"--{name}" for name in SHORT if self.recipe == "keys"]
        return nearest(flag, [*self._option_string_actions, *shorts])

    def _choice(self, word: str, valid: list[str]) -> str:
        """Return a suggestion for a word that is none of an argument's choices."""
        plain = word.lower().replace("-", "_")
        for verb in (self.prog.partition(" ")[2], self.verb):
            meaning = by_word(FLAGS.get(verb, {})).get(plain, "")
            if meaning in valid:
                return f"; did you mean {meaning}?"
            if meaning and not meaning.startswith("-"):
                return f": {meaning}"
        return nearest(word, valid)

    def _choices_of(self, name: str) -> list[str]:
        """Return the choices of an argument by the name that argparse's messages give it."""
        for action in self._actions:
            names = [*action.option_strings, action.dest, str(action.metavar)]
            if action.choices and (name in names or name == "/".join(action.option_strings)):
                return [str(choice) for choice in action.choices]
        return []


def _name(action: argparse.Action) -> str:
    """Return the name of an argument in argparse's message about what is missing."""
    return "/".join(action.option_strings) or str(action.metavar or action.dest)


def _run_first(words: Sequence[str]) -> list[str]:
    """Return a command line with the value of `--ckpt_path` as its first word, without the flag."""
    run = value_of("--ckpt_path", words)
    if run is None:
        return list(words)
    rest = [word for word in words if not word.startswith("--ckpt_path=")]
    if "--ckpt_path" in rest:
        at = rest.index("--ckpt_path")
        rest[at : at + 2] = []
    return [run, *rest]


def free_words(words: Sequence[str]) -> list[int]:
    """Return the positions of the words that are neither a flag nor the value of one."""
    found = []
    follows_flag = follows_switch = False
    for i, word in enumerate(words):
        if word.startswith("-"):
            is_switch = word in SWITCHES or (len(word) == 2 and word != "-c")
            follows_switch = is_switch
            follows_flag = "=" not in word and not is_switch
            continue
        if not follows_flag and not (follows_switch and word in ("true", "false")):
            found.append(i)
        follows_flag = follows_switch = False
    return found


def with_run(words: Sequence[str]) -> list[str]:
    """Return a command line with its first free word, a run, as the value of `--ckpt_path`.

    Words that name a run by `--ckpt_path` already, or have no free word, are returned as they are.
    """
    free = free_words(words)
    if not free or value_of("--ckpt_path", words) is not None:
        return list(words)
    return ["--ckpt_path", words[free[0]], *words[: free[0]], *words[free[0] + 1 :]]


def value_of(flag: str, words: Sequence[str]) -> str | None:
    """Return the last value of a flag on a command line; None where the flag is not there."""
    found = None
    for word, following in zip(words, [*words, ""][1:], strict=True):
        name, has_value, value = word.partition("=")
        if name == flag:
            found = value if has_value else following
    return found


def device(text: str) -> str:
    """Read the value of `--device`: cpu, cuda, or one of several GPUs as cuda:N.

    Raises:
        argparse.ArgumentTypeError: the text is none of them.
    """
    if text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text}: did you mean cuda:{text}?")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", text):
        hint = "; did you mean cuda?" if text.lower() in ("gpu", "cuda:", "nvidia") else ""
        raise argparse.ArgumentTypeError(f"{text}: say cpu or cuda{hint}")
    return text


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


def above_zero(text: str) -> float:
    """Read the value of a flag, a finite number above 0.

    Raises:
        argparse.ArgumentTypeError: the text is no such number.
    """
    number = finite(text)
    if number <= 0:
        raise argparse.ArgumentTypeError(f"{text}: a number above 0")
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
