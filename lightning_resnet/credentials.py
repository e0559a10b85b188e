"""Refuse secrets in recipes, flags and shell files, because they would be written to files or logs.

Secrets belong in the environment or ~/.netrc. A text counts as a secret by its name (`api_key`,
`hubToken`, `Authorization`), by its form (a password in an address, `Bearer ...`, `ghp_...`), or
because it is a live secret: one that this user's environment or files hold. masking.py hides
secrets in messages and records.
"""

import os
import re
import signal
import subprocess
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from lightning_resnet.errors import UserError
from lightning_resnet.masking import (
    LARGEST,
    SURE,
    encodings,
    found_run_together,
    is_named_secret,
    is_secret_name,
    live,
    mask,
    run_together,
    run_together_forms,
    secrets_by_form,
    text_of,
    words_of,
)
from lightning_resnet.reading import parse_yaml

CURE = "keep it in the environment (WANDB_API_KEY) or in ~/.netrc (`wandb login`)"
SOURCE_S = 60.0  # seconds that a site's shell file may take
# An assignment in a shell file.
SET = re.compile(
    r"""(?<![\w$])(?P<name>[A-Za-z_]\w*)(?::|\+)?="""
    r"""(?P<value>"[^"]*"|'[^']*'|[^\s;&|}]*)"""
)
DEEPEST = 5  # recipes within recipes


def refuse_secrets(config: Any, where: str = "the configuration", depth: int = 0) -> None:
    """Refuse a configuration that holds a secret, under any name, also in a recipe that it names.

    Args:
        config: a recipe or a resolved configuration, nested or with dotted keys.
        where: origin of the configuration, for the message: the path of a recipe.
        depth: number of recipes that this recipe is within.

    Raises:
        UserError: there is a secret; the message names its key, never its value.
    """
    known = live()
    leaves = list(_leaves(config))
    for key, value in leaves:
        if is_named_secret(key, value):
            told = f"{where} sets {key}, a secret that would end in files"
        elif found := _found_in(text_of(value), known) or _found_in(key, known):
            told = f"{where} sets {key} to a text with {found} in it, which would end in files"
        else:
            _refuse_nested(value, where, depth)
            continue
        raise UserError(f"{mask(told)}: remove it and {CURE}")
    if parts := _found_in_parts(leaves, known):
        told = f"{where} holds {parts[1]}, in parts from {parts[0]} on, which would end in files"
        raise UserError(f"{mask(told)}: remove it and {CURE}")


def refuse_secret_flags(args: list[str]) -> None:
    """Refuse a command line with a secret: every user of the machine can read it, and logs keep it.

    Args:
        args: the words of the command line.

    Raises:
        UserError: there is a secret; the message names its flag, never its value.
    """
    known = live()
    values = []
    for argument, following in zip(args, [*args[1:], ""], strict=False):
        flag, equals, value = argument.partition("=")
        if not flag.startswith("-"):
            flag = ""
            value = argument
        elif not equals and not following.startswith("--"):
            value = following
        name = flag.lstrip("-").rstrip("+")
        values.append(value)
        if any(is_named_secret(key, leaf) for key, leaf in _leaves(_as_yaml(value), name)):
            raise UserError(
                f"{mask(flag or 'an argument')} on the command line ends in files and logs: remove "
                f"it and {CURE}"
            )
        leaves = [text_of(leaf) for _, leaf in _leaves(_as_yaml(value))]
        for text in (argument, value, *leaves):
            _refuse_nested(text, "", 0)
            if found := _found_in(text, known):
                raise UserError(
                    f"the command line holds a key ({mask(found)}): remove it and {CURE}"
                )
    for words in (args, values):
        if found := found_run_together("".join(words), known):
            raise UserError(
                f"the command line holds a key in parts ({mask(found)}): remove it and {CURE}"
            )


def refuse_secret_exports(file: Path) -> None:
    """Refuse a shell file, such as slurm/site.env, that sets a secret.

    The environments of jobs are public to all users of Slurm.

    Args:
        file: path of the shell file.

    Raises:
        UserError: there is a secret; the message names its variable, never its value.
    """
    known = live()
    lines = []
    for line in file.read_text(errors="replace").splitlines():
        is_comment = line.lstrip().startswith("#")
        if not is_comment or line.lstrip().startswith("#SBATCH"):
            lines.append(line)
    for line in lines:
        what = _secret_set_in(line) or _found_in(line, known)
        if what:
            raise UserError(
                f"{file} sets {mask(what)}, which Slurm would show to others: remove it and {CURE}"
            )
    if what := found_run_together("".join(lines), known):
        raise UserError(
            f"{file} sets {what}, in parts, which Slurm would show to others: remove it and {CURE}"
        )


def _secret_set_in(line: str) -> str:
    """Return the first variable with a secret's name in a line of a shell file; may be empty."""
    for match in SET.finditer(line):
        if is_named_secret(match["name"], match["value"].strip("\"'")):
            return match["name"]
    return ""


def sourced(file: Path) -> dict[str, str]:
    """Return the environment of this process after reading a shell file, such as slurm/site.env.

    Args:
        file: path of the shell file.

    Raises:
        UserError: the file fails or does not end, or sets a secret in whatever way.
    """
    refuse_secret_exports(file)
    call = ["bash", "-c", 'set -a; . "$0" >&2; exec env -0', str(file.absolute())]
    # Files, not pipes: a job that the shell file leaves behind would hold a pipe open.
    with TemporaryFile() as out, TemporaryFile() as err:
        process = subprocess.Popen(
            call, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
        )
        try:
            code = process.wait(SOURCE_S)
        except subprocess.TimeoutExpired as e:
            raise UserError(
                f"{file} did not end within {SOURCE_S:g} s: `bash {file}` shows where it waits"
            ) from e
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        out.seek(0)
        err.seek(0)
        environment = out.read().decode(errors="surrogateescape")
        complaints = err.read().decode(errors="replace").strip().splitlines()
    if code:
        raise UserError(f"{file} fails in bash: {mask((complaints or ['no error message'])[-1])}")
    items = environment.split("\0")
    after = dict(item.split("=", 1) for item in items if "=" in item)
    known = live()
    for name, value in after.items():
        if value == os.environ.get(name):
            continue
        if is_named_secret(name, value) or _found_in(value, known):
            raise UserError(
                f"{file} sets {mask(name)}, which Slurm would show to others: remove it and {CURE}"
            )
    return after


def refuse_secret_variables() -> None:
    """Refuse a secret in a variable that W&B copies into its files, such as WANDB_NOTES.

    Raises:
        UserError: there is a secret; the message names its variable, never its value.
    """
    known = live()
    for name, value in os.environ.items():
        if not name.startswith("WANDB_") or is_secret_name(name):
            continue
        if name == "WANDB_BASE_URL":  # an address, which only W&B's own requests need
            continue
        if found := _found_in(value, known):
            raise UserError(
                f"{name} holds {mask(found)}, which W&B would write to its files: take it out"
            )


def _refuse_nested(value: Any, where: str, depth: int) -> None:
    """Refuse a secret in a recipe whose path is a value, because the parser would open it."""
    if not isinstance(value, str) or not value.endswith((".yaml", ".yml")) or depth > DEEPEST:
        return
    for path in {Path(value), Path(where).parent / value}:
        try:
            if not path.is_file() or path.stat().st_size > LARGEST:
                continue
            content = _as_yaml(path.read_text())
        except (OSError, ValueError):  # the parser reports a file that is no text
            continue
        if isinstance(content, dict | list):
            refuse_secrets(content, str(path), depth + 1)


def _found_in(text: str, known: dict[str, str]) -> str:
    """Describe the kind of secret that a text holds; empty if it holds none."""
    for secret, origin in known.items():
        if any(form in text for form in encodings(secret)):
            return f"the secret that {origin} holds"
    if found := found_run_together(text, known):
        return found
    for what, _ in secrets_by_form(text):
        return what
    return ""


def _found_in_parts(leaves: list[tuple[str, Any]], known: dict[str, str]) -> tuple[str, str] | None:
    """Look for a live secret that is cut in parts.

    The parts may be successive values, successive keys, or successive keys with their values.

    Args:
        leaves: dotted keys and values of a configuration.
        known: live secrets, with their origins.

    Returns:
        The key at which the secret begins and a description of the secret; None if there is none.
    """
    values = [text_of(value) for _, value in leaves]
    names = [key.rpartition(".")[2] for key, _ in leaves]
    both = []
    before = ""
    for name, value in zip(names, values, strict=True):
        both.append(value if name == before else f"{name}{value}")  # items of a list share a key
        before = name
    for texts in (values, names, both):
        parts = [run_together(text) for text in texts]
        together = "".join(parts)
        ends = list(accumulate(map(len, parts)))
        for secret, origin in known.items():
            for form in run_together_forms(secret):
                if (start := together.find(form)) >= 0:
                    key = leaves[bisect_right(ends, start)][0]
                    # A key that is a part of the secret is not shown.
                    place = key if texts is values else key.rpartition(".")[0] or "its first keys"
                    return place, f"the secret that {origin} holds"
    return None


def _as_yaml(text: str) -> Any:
    """Parse a text as YAML; return the text where it is none, or none that the parser accepts."""
    try:
        return parse_yaml(text)
    except UserError:
        return text


def _leaves(
    tree: Any, prefix: str = "", seen: set[tuple[int, str, bool]] | None = None
) -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of each leaf of a configuration.

    Each item of a list is a leaf. What YAML's aliases repeat is yielded once for each name.
    """
    if not isinstance(tree, dict | list | tuple | set):
        yield prefix, tree
        return
    seen = set() if seen is None else seen
    mark = (id(tree), prefix.rpartition(".")[2], bool(SURE.search(words_of(prefix))))
    if mark in seen:
        return
    seen.add(mark)
    for key, value in tree.items() if isinstance(tree, dict) else _items(list(tree)):
        name = ".".join(str(part) for part in (prefix, key) if part not in ("", None))
        yield from _leaves(value, name, seen)


def _items(items: list[Any]) -> Iterator[tuple[str | None, Any]]:
    """Yield each item of a list with its name: in a command line, a value has its flag's name."""
    before: Any = None
    for item in items:
        follows_flag = isinstance(before, str) and re.fullmatch(r"--[\w.-]+", before)
        is_value = follows_flag and not str(item).startswith("--")
        yield before.lstrip("-") if is_value else None, item
        before = item
