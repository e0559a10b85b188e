"""Command-line arguments: parsers of the verbs, and the recipe's keys among a verb's own flags."""

import argparse
import math
import os
import re
import shlex
from collections.abc import Sequence
from typing import Any, Literal, NoReturn

from lightning_resnet.aliases import (
    MARKS,
    NO,
    SHORT,
    YES,
    is_flag,
    key_of,
    of_verb,
    said,
    tell_repeated,
    understood,
)
from lightning_resnet.errors import SIMILAR, UserError, nearest, printable
from lightning_resnet.files import IMAGES
from lightning_resnet.flags import check
from lightning_resnet.meant import number, numbers
from lightning_resnet.words import CHECKPOINTS, FLAGS, NUMBER_OF, PLACES, SUBWORDS, VALUES, by_word

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
TYPOGRAPHIC = "\u201c\u201d\u201e\u2018\u2019\u201a\u00ab\u00bb"  # quotes that no shell knows
FILE_ENDINGS = "pdf png svg html htm csv md tex eps jpg jpeg json xlsx".split()
SHOWN = 60  # characters of a word in a message
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
        super().__init__(allow_abbrev=False, **options)
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
            is_complete = self.verb == "inspect" and bool({"-c", "--config"} & {*recipe})
            check(recipe, self.verb, is_complete)
        if self.takes_run:
            own = _run_first(own)
        positional = [action for action in self._actions if not action.option_strings]
        has_command = any(action.nargs == argparse.REMAINDER for action in positional)
        self.words = before_command(own) if has_command else own
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                for below in action.choices.values():
                    below.words = own[1:]
        self._refuse_pairs(self.words)
        self._refuse_values_of_switches(self.words)
        self._refuse_subword(self.words)
        is_strict = any(a.nargs in (argparse.PARSER, argparse.REMAINDER) for a in positional)
        if is_strict or {"-h", "--help"} & {*own}:
            args = self.parse_args(own)
        else:
            args = self.parse_intermixed_args(own)  # options may stand between the others
        tell_repeated(self._single_values(self.words))
        args.recipe_keys = recipe
        args.rest = list(words[end + 1 :])
        args.words = list(words)
        args.document = {}
        return args

    def _single_values(self, words: Sequence[str]) -> list[tuple[str, str]]:
        """Return the flags that take one value each, with their values."""
        return [
            (action.option_strings[-1], value)
            for action, value, _ in self._given(words)
            if action.nargs is None and not isinstance(action, argparse._AppendAction)
        ]

    def _given(self, words: Sequence[str]) -> list[tuple[argparse.Action, str, bool]]:
        """Return each flag with what follows the flag, and whether after a =."""
        actions = dict(self._option_string_actions)
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction) and words[:1]:
                below = action.choices.get(words[0])
                actions |= below._option_string_actions if below else {}
        found = []
        for word, following in zip(words, [*words, ""][1:], strict=True):
            flag, has_value, value = word.partition("=")
            if flag in actions:
                found.append((actions[flag], value if has_value else following, bool(has_value)))
        return found

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
        words = [] if "invalid choice" in message else self.words
        for word in words:  # said rather than what is missing next to it
            flag = word.partition("=")[0]
            options = self._option_string_actions
            if is_flag(flag) and not any(option.startswith(flag[:2]) for option in options):
                message = f"unrecognized arguments: {flag}"
            if flag[:2] == "--" and flag not in options:
                message = f"unrecognized arguments: {flag}"
        hint = ""
        missing = message.partition("arguments are required: ")[2].split(", ")
        needed = [self._needed(action) for action in self._actions if _name(action) in missing]
        if needed:
            message = f"{self.prog} needs {' and '.join(needed)}"
            files = [word for word in self.words[1:] if re.search(r"\w\.[a-z]+$", word)]
            if "--out" in missing and files and not os.path.exists(files[-1]):
                message += f"; did you mean --out {files[-1]}?"
        if unknown := re.fullmatch(r"unrecognized arguments: (.*)", message):
            word = unknown[1].split(" ")[0]
            hint = self._meant(word)
            message = f"unknown option {word.partition('=')[0]}{hint}"
        if choice := re.fullmatch(r"argument (\S+): invalid choice: '(.*)' \(.*\)", message):
            name, word = choice.groups()
            valid = self._choices_of(name)
            hint = self._choice(name, word, valid)
            place = name if name[:1] == "-" else self.prog.partition(" ")[2]
            message = f"{place} {word}: choose among {', '.join(valid)}{hint}"
        if value := re.fullmatch(r"argument (\S+): invalid (\w+) value: '(.*)'", message):
            kind = {"int": "a whole number"}.get(value[2], "a number")
            message = f"argument {value[1]}: {value[3]}: {kind}"
        if value := re.fullmatch(r"argument (\S+): (.*): (a .*number.*)", message):
            number = self._number(value[1], value[2])
            hint = f"; did you mean {number}?" if number else ""
            message = f"{value[1]} must be {value[3]}; got {value[2]}{hint}"
        elif value := re.fullmatch(r"argument (\S+): (\S+): (.*)", message):
            message = f"{value[1]} {value[2]}: {value[3]}"
        if few := re.fullmatch(r"argument (\S+): expected (.*?) arguments?", message):
            message = self._few(few[1], few[2])
        if two := re.fullmatch(r"argument (\S+): not allowed with argument (\S+)", message):
            message = f"{two[1]} and {two[2]} exclude each other: leave one of them out"
        message = message.removeprefix("argument ")
        cures = ("did you mean", "choose among", ": write ", " needs ", " exclude ", " must be ")
        cures += (": say ", ": one of ")
        if not hint and not any(cure in message for cure in cures):
            message += f"; {self.prog} --help tells the options"
        raise UserError(message)

    def _needed(self, action: argparse.Action) -> str:
        """Return what a missing word is, in words."""
        name = _name(action)
        if action.option_strings:
            name = f"{name} {self._metavar(action)}"
        elif action.choices:
            return f"one of {', '.join(map(str, action.choices))}"
        return f"{name}{self._told(action)}"

    def _told(self, action: argparse.Action) -> str:
        """Return the help of an argument in brackets; empty without one."""
        return f" ({self._get_formatter()._expand_help(action)})" if action.help else ""

    def _metavar(self, action: argparse.Action) -> str:
        """Return what stands for the values of a flag in its help."""
        if action.choices:
            return " | ".join(map(str, action.choices))
        metavar = action.metavar or action.dest.upper()
        if not isinstance(metavar, str):
            return " ".join(metavar)
        return " ".join([metavar] * (action.nargs if isinstance(action.nargs, int) else 1))

    def _few(self, name: str, number: str) -> str:
        """Return the message for a flag with fewer values than it takes."""
        flag = name.partition("/")[0]
        action = self._option_string_actions.get(flag)
        number = number.replace("one", "a").replace("at least a", "a")
        noun = "value" if number == "a" else "values"
        told = f"{name} needs {number} {noun}"
        if action is None:
            return told
        given = value_of(flag, self.words) or ""
        parts = numbers([given]).strip("[]").split(",")
        if len(parts) == action.nargs:
            return f"{told}: write {flag} {' '.join(parts)}"
        return f"{told}: {self._metavar(action)}{self._told(action)}"

    def _number(self, name: str, text: str) -> str:
        """Return the number that the value of a flag is meant for; empty: none."""
        action = self._option_string_actions.get(name.partition("/")[0])

        def fits(value: int | float | str) -> bool:
            try:
                action.type(str(value))
            except (ValueError, argparse.ArgumentTypeError):
                return False
            return True

        parts = text.strip("[]").split(",")
        if action and action.nargs == "+" and len(parts) > 1 and all(map(fits, parts)):
            return " ".join(parts)
        unit = "s" if action and action.metavar == "S" else ""
        return number(text, fits, unit) if action and action.type else ""

    def _meant(self, word: str) -> str:
        """Return a suggestion for a word that is no option."""
        flag = word.partition("=")[0]
        options = self._option_string_actions
        if not word.startswith("-"):
            if "--root" in options and os.path.isdir(word):
                return f"; did you mean --root {word}?"
            if "--out" in options and re.search(r"\.[a-z]+$", word):
                return f"; did you mean --out {word}?"
            at = len(self.words) - 1 - self.words[::-1].index(word) if word in self.words else 0
            if at > 1 and word == self.words[at - 1] and is_flag(self.words[at - 2]):
                return f"; did you mean {self.words[at - 2]} {word}?"
            if listed := self._listed(self.words[at - 2 : at + 1]):
                return f"; did you mean {listed}?"
            if numbers(self.words[at - 1 : at + 1]) and at > 1:
                values = ",".join(self.words[at - 1 : at + 1])
                return f"; did you mean {self.words[at - 2]} {values}?"
            if self.verb == "evaluate" and os.path.splitext(word)[1].lower() in IMAGES:
                return f": single images are predict's: resnet-cli predict RUN {word}"
            places = [a for a in self._actions if not a.option_strings]
            usage = " ".join(str(a.metavar or a.dest.upper()) for a in places)
            told = f", a word too many; usage: {self.prog} {usage} [options]"
            if self.recipe == "keys" and os.path.isdir(word):
                return f"{told}; images in a folder are --data {word}"
            return told
        at = self.words.index(word) if word in self.words else 0
        before = options.get(self.words[at - 1]) if at else None
        if before and before.choices and word.lstrip("-") in before.choices:
            return f"; did you mean {self.words[at - 1]} {word.lstrip('-')}?"
        verb = self.prog.partition(" ")[2]
        own = by_word(FLAGS.get(verb, {})) | by_word(FLAGS.get(self.verb, {}))
        plain = flag.strip("-").replace("-", "_").lower()
        if flag.startswith("--") and plain in CHECKPOINTS and plain not in own:
            runs = [action for action in self._actions if action.metavar == "RUN"]
            if runs:
                return f": give the run or checkpoint as a word: {self.prog} RUN"
        meaning = said(verb, flag, options)
        meant = meaning.removeprefix("; did you mean ").partition(" ")[0].rstrip("?")
        if meaning and (meant[:1] != "-" or meant in options):
            return meaning
        key = key_of(flag) if self.recipe == "nothing" else None
        if key and f"--{key.rpartition('.')[2]}" in options:
            return f"; did you mean --{key.rpartition('.')[2]}?"
        places = [action for action in self._actions if not action.option_strings]
        if (
            flag.startswith("--")
            and plain in PLACES.split()
            and len(places) == 1
            and plain not in own
        ):
            return f": give it as a word: {self.prog} {places[0].metavar or places[0].dest.upper()}"
        begun = [option for option in options if option.startswith(flag)]
        if len(begun) == 1:
            return f"; did you mean {begun[0]}?"
        shorts = [f"--{name}" for name in SHORT if self.recipe == "keys"]
        least = 0.85 if key_of(flag) else SIMILAR  # a name that is known is no slip
        if near := nearest(flag, [*options, *shorts], least):
            return near
        if meaning := of_verb(flag):
            return meaning
        there = [option for option in options if option not in ("-h", "--help")]
        keys = " and the keys of a recipe" if self.recipe == "keys" else ""
        why = ""
        if self.recipe == "nothing" and key_of(flag):
            why = f", which is of recipes, and {verb} takes none"
        return f"{why}; there are {', '.join(there)}{keys}" if there else f"; {self.prog} has none"

    def _listed(self, words: Sequence[str]) -> str:
        """Return a flag with its values as one list; empty: these words are none of a flag's.

        Args:
            words: a flag, its value, and the word that follows.
        """
        action = self._option_string_actions.get(words[0]) if len(words) == 3 else None
        listed = re.match(r"of (\w+(?:,\w+)+)", (action.help or "") if action else "")
        if listed is None:
            return ""
        known = by_word(VALUES.get(f"{self.verb} {words[0]}", {}))
        values = [known.get(word, word) for word in words[1:]]
        is_known = {*values} <= {*listed[1].split(",")}
        return f"{words[0]} {','.join(values)}" if is_known else ""

    def _choice(self, name: str, word: str, valid: list[str]) -> str:
        """Return a suggestion for a word that is none of an argument's choices."""
        plain = word.lower().replace("-", "_")
        verb = self.prog.partition(" ")[2]
        meanings = [by_word(VALUES.get(f"{verb} {name}", {}))]
        if name[:1] != "-":
            meanings += [by_word(FLAGS.get(each, {})) for each in (verb, self.verb)]
        for meaning in (known.get(plain, "") for known in meanings):
            if meaning in valid:
                return f"; did you mean {meaning}?"
            if meaning and not meaning.startswith("-"):
                return f": {meaning}"
        several = [each for each in word.split(",") if each in valid]
        action = self._option_string_actions.get(name)
        if len(several) > 1 and action is not None and action.nargs == "+":
            return f": write {name} {' '.join(several)}"
        if len(several) > 1:
            rest = shlex.join(other for other in self.words if other != word)
            return f": one at a time: {self.prog} {several[0]} {rest}".rstrip()
        others = [other for other in self.words if other in valid]
        if others and name[:1] != "-":
            return f": that word comes first: {self.prog} {others[0]} {word}"
        is_there = os.path.exists(word) or os.path.exists(os.path.join("runs", word))
        if name[:1] != "-" and self.verb == "inspect" and is_there:
            return f": what to do comes first: {self.prog} {valid[0]} {word}"
        for action in self._actions:  # a word of a verb below, without the verb
            if isinstance(action, argparse._SubParsersAction):
                for below, parser in action.choices.items():
                    places = [a for a in parser._actions if not a.option_strings]
                    if word in [c for a in places for c in a.choices or []]:
                        return f"; did you mean {self.prog} {below} {word}?"
        if self.verb == "data" and os.path.isdir(word):
            return f": write it to a file: resnet-cli data write image_folder --root {word}"
        if self.verb == "data" and word.endswith(".beton"):
            return f"; did you mean resnet-cli data info {word}?"
        return nearest(word, valid)

    def _choices_of(self, name: str) -> list[str]:
        """Return the choices of an argument by the name that argparse's messages give it."""
        for action in self._actions:
            names = [*action.option_strings, action.dest, str(action.metavar)]
            if action.choices and (name in names or name == "/".join(action.option_strings)):
                return [str(choice) for choice in action.choices]
        return []

    def _refuse_pairs(self, words: Sequence[str]) -> None:
        """Refuse words such as source=a.png, and tell the line that is meant.

        Raises:
            UserError: a word is KEY=VALUE, and no file.
        """
        conditions = [
            word
            for before, word in zip(["", *words], words, strict=False)
            if before not in ("--baseline", "--cols") and re.match(r"[\w.]+ ?([=!<>]=|[<>])", word)
        ]
        if "--where" in self._option_string_actions and len(conditions) > 1:
            raise UserError(
                f"{conditions[1]}: all conditions are one text: write --where "
                f"{shlex.quote(' and '.join(conditions))}"
            )
        written = []
        first = ""
        before = None  # the flag that a word is the value of
        for word in _run_first(words):
            action = self._option_string_actions.get(word)
            pair = re.fullmatch(r"[+~]*([A-Za-z][\w.-]*)=(.+)", word)
            if before or not pair or os.path.exists(word):
                written.append(word)
                is_switch = action is not None and action.nargs == 0
                before = word if is_flag(word) and "=" not in word and not is_switch else None
                continue
            before = None
            first = first or word
            flag = f"--{pair[1]}"
            key = key_of(flag) if self.recipe == "keys" else None
            if flag.replace("_", "-") in self._option_string_actions:
                written += [flag.replace("_", "-"), pair[2]]
            elif pair[1].lower() in PLACES.split():
                written.append(pair[2])
            elif key:
                written += [f"--{key}", pair[2]]
            elif self.verb == "sweep" and key_of(flag):
                raise UserError(f"unknown option {word}{said('sweep', '--lr')}")
            else:
                raise UserError(f"unknown option {word}: there is no {flag}{self._meant(flag)}")
        if first:
            raise UserError(
                f"{first}: {self.prog} takes no KEY=VALUE: write {self.prog} {shlex.join(written)}"
            )

    def _refuse_values_of_switches(self, words: Sequence[str]) -> None:
        """Refuse a value of a flag that takes none.

        Raises:
            UserError: the message tells the flag that takes such a value, or what to leave out.
        """
        for action, value, is_attached in self._given(words):
            flag = action.option_strings[-1]
            is_word = value.lower() in (*YES, *NO) and not value.isdecimal()
            is_file = flag == "--json" and value.endswith(".json")
            taker = NUMBER_OF.get(f"{self.verb} {flag}")
            is_number = taker is not None and re.fullmatch(r"[1-9]\d{0,4}", value) is not None
            is_value = (is_word or is_file or is_number) and not os.path.exists(value)
            if action.nargs != 0 or not (is_attached or is_value):
                continue
            cure = f"leave {value} out"
            if is_number and taker:
                cure = f"write {flag} {taker} {value}"
            elif value.lower() in NO:
                cure = f"leave {flag} out"
            elif is_file:
                cure = f"write --json > {value}"
            raise UserError(f"{flag} takes no value, and got {printable(value, SHOWN)}: {cure}")

    def _refuse_subword(self, words: Sequence[str]) -> None:
        """Refuse a word such as `ls` after `runs`, which stands for a flag or another verb.

        Raises:
            UserError: the message tells the flag or verb.
        """
        known = by_word(SUBWORDS.get(self.verb, {}))
        before = ""
        for word in words:
            meaning = known.get(word.lower().replace("-", "_"))
            is_value = before.startswith("-") and "=" not in before
            is_there = any(os.path.exists(os.path.join(root, word)) for root in ("", "runs"))
            before = word
            if meaning and not is_value and not is_there:
                others = [f" {other}" for other in words if other != word]
                if meaning.endswith(">"):
                    files = [other for other in others if other.endswith((".yaml", ".yml"))]
                    others = files[:1] or [" my.yaml"]
                raise UserError(
                    f"{self.prog} {word}; did you mean resnet-cli {meaning}{''.join(others)}?"
                )


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


def check_shell_words(words: Sequence[str]) -> None:
    """Refuse words that a shell has emptied or has not filled in, up to a `--`.

    Args:
        words: the command line after the verb.

    Raises:
        UserError: a word is empty, or begins with a ~ or $NAME that no shell has replaced.
    """
    flag = ""
    for at, word in enumerate(words):
        if word == "--":
            return
        name, has_value, value = word.partition("=")
        if not is_flag(word):
            value = word
        elif not has_value:
            flag = word
            continue
        else:
            flag = name
        place = f"{flag} " if flag else ""
        shown = f"{place}{printable(value, SHOWN)}"
        if value[:1] and value[0] in TYPOGRAPHIC and not os.path.exists(value):
            end = at
            while end < len(words) - 1 and words[end][-1:] not in TYPOGRAPHIC:
                end += 1
            meant = " ".join([value, *words[at + 1 : end + 1]]).strip(TYPOGRAPHIC)
            raise UserError(
                f"{shown}: the quotes are those of a text program, and no shell takes them: write "
                f"{place}{shlex.quote(meant)}"
            )
        following = "".join(words[at + 1 : at + 2])
        if not value and flag and following and not is_flag(following):
            raise UserError(
                f"{flag}= is empty: give it a value, without a space after the =, such as {flag} "
                f"{printable(following, SHOWN)}; or a variable of the shell is not set"
            )
        if not value and flag:
            raise UserError(
                f"{flag} is empty, as a variable of the shell is that is not set: give {flag} a "
                "value, or leave it out"
            )
        if not value:
            raise UserError(
                "a word is empty, as a variable of the shell is that is not set: leave it out"
            )
        if re.match(r"~(/|$)", value) and not os.path.exists(value):
            how = f"after =: write {flag} {value}" if has_value else "in quotes: leave them out"
            raise UserError(f"{shown}: the shell makes no home folder of ~ {how}")
        if re.fullmatch(r"\$(\w+|\{\w+\})(/.*)?", value) and not os.path.exists(value):
            raise UserError(
                f"{shown}: only a shell fills in a variable, and not in single quotes: write "
                f'{place}"{value}"'
            )
        flag = ""


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


def before_command(words: Sequence[str]) -> list[str]:
    """Return the words before the first free word, where the command of another verb begins."""
    free = free_words(words)
    return list(words[: free[0]] if free else words)


def with_run(words: Sequence[str]) -> list[str]:
    """Return a command line with its first free word, a run, as the value of `--ckpt_path`.

    Words that name a run by `--ckpt_path` already, or have no free word, are returned as they are.
    """
    free = free_words(words)
    if not free or value_of("--ckpt_path", words) is not None:
        return list(words)
    return ["--ckpt_path", words[free[0]], *words[: free[0]], *words[free[0] + 1 :]]


def with_ckpt_path(words: Sequence[str]) -> list[str]:
    """Return a command line of `predict` with `--ckpt_path` for other names of this flag.

    A choice among the weights of a run, such as `--weights ema`, stays.
    """
    found = []
    for word, following in zip(words, [*words, ""][1:], strict=True):
        flag, has_value, value = word.partition("=")
        given = value if has_value else following
        is_name = flag.startswith("--") and flag[2:].replace("-", "_") in CHECKPOINTS
        if is_name and given not in MARKS:
            word = word.replace(flag, "--ckpt_path", 1)
        found.append(word)
    return found


def value_of(flag: str, words: Sequence[str]) -> str | None:
    """Return the last value of a flag on a command line; None where the flag is not there."""
    found = None
    for word, following in zip(words, [*words, ""][1:], strict=True):
        name, has_value, value = word.partition("=")
        if name == flag:
            found = value if has_value else following
    return found


def folder(text: str) -> str:
    """Read the value of a flag that names the folder of a report.

    Raises:
        argparse.ArgumentTypeError: the text has the ending of a file.
    """
    stem, _, ending = text.rpartition(".")
    if stem and ending in FILE_ENDINGS and not os.path.isdir(text):
        raise argparse.ArgumentTypeError(
            f"{text}: a folder is written, with a page, figures as PNG and SVG, and tables as CSV; "
            f"did you mean {stem}?"
        )
    return text


def device(text: str) -> str:
    """Read the value of `--device`: cpu, cuda, or one of several GPUs as cuda:N.

    Raises:
        argparse.ArgumentTypeError: the text is none of them.
    """
    if text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text}: did you mean cuda:{text}?")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", text):
        if gpu := re.fullmatch(r"gpu:(\d+)", text.lower()):
            raise argparse.ArgumentTypeError(f"{text}: did you mean cuda:{gpu[1]}?")
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
