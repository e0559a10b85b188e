"""Secrets stay in the environment or ~/.netrc: what would write one is refused, what tells an error is masked.

A text is taken for a secret by its name (`api_key`, `hubToken`, `Authorization`), by its form (a password in an
address, `Bearer ...`, `ghp_...`), or because it is a live secret: one that this user's environment or files hold.
"""

import os
import re
import subprocess
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

from lightning_resnet.errors import UserError
from lightning_resnet.masking import (
    LARGEST,
    SURE,
    _by_form,
    _encoded,
    _found_run_together,
    _is_named,
    _run_together,
    _run_together_forms,
    _text,
    _words,
    is_secret_name,
    live,
    mask,
)
from lightning_resnet.reading import parse_yaml

CURE = "keep it in the environment (WANDB_API_KEY) or in ~/.netrc (`wandb login`)"
SOURCE_S = 60.0  # seconds that a site's shell file may take


SET = re.compile(r"""(?<![\w$])(?P<name>[A-Za-z_]\w*)(?::|\+)?=(?P<value>"[^"]*"|'[^']*'|[^\s;&|}]*)""")

DEEPEST = 5  # recipes within recipes


def refuse_secrets(config: Any, where: str = "the configuration", depth: int = 0) -> None:
    """Refuse a configuration that holds a secret, under any name, also in a recipe that it names.

    Args:
        config: a recipe or a resolved configuration, nested or with dotted keys.
        where: it comes from, for the message; of a recipe its path.
        depth: of this recipe within others.

    Raises:
        UserError: which key; never the value.
    """
    known = live()
    leaves = list(_leaves(config))
    for key, value in leaves:
        if _is_named(key, value):
            told = f"{where} sets {key}, a secret that would end in files"
        elif found := _found_in(_text(value), known) or _found_in(key, known):
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

    Raises:
        UserError: which flag; never the value.
    """
    known = live()
    values = []
    for argument, following in zip(args, [*args[1:], ""], strict=False):
        flag, equals, value = argument.partition("=")
        if not flag.startswith("-"):
            flag, value = "", argument
        elif not equals and not following.startswith("--"):
            value = following
        name = flag.lstrip("-").rstrip("+")
        values.append(value)
        if any(_is_named(key, leaf) for key, leaf in _leaves(_as_yaml(value), name)):
            raise UserError(
                f"{mask(flag or 'an argument')} on the command line ends in files and logs: remove it and {CURE}"
            )
        for text in (argument, value, *(_text(leaf) for _, leaf in _leaves(_as_yaml(value)))):
            _refuse_nested(text, "", 0)
            if found := _found_in(text, known):
                raise UserError(f"the command line holds a key ({mask(found)}): remove it and {CURE}")
    for words in (args, values):
        if found := _found_run_together("".join(words), known):
            raise UserError(f"the command line holds a key in parts ({mask(found)}): remove it and {CURE}")


def refuse_secret_exports(file: Path) -> None:
    """Refuse a shell file, such as slurm/site.env, that sets a secret: jobs' environments are public to Slurm.

    Raises:
        UserError: which variable; never the value.
    """
    known = live()
    lines = [
        line
        for line in file.read_text(errors="replace").splitlines()
        if not line.lstrip().startswith("#") or line.lstrip().startswith("#SBATCH")
    ]
    for line in lines:
        sets = [match["name"] for match in SET.finditer(line) if _is_named(match["name"], match["value"].strip("\"'"))]
        if what := sets[0] if sets else _found_in(line, known):
            raise UserError(f"{file} sets {mask(what)}, which Slurm would show to others: remove it and {CURE}")
    if what := _found_run_together("".join(lines), known):
        raise UserError(f"{file} sets {what}, in parts, which Slurm would show to others: remove it and {CURE}")


def sourced(file: Path) -> dict[str, str]:
    """This process's environment after a shell file, such as slurm/site.env, was read.

    Raises:
        UserError: it fails or does not end, or what it sets, however it is written, is a secret.
    """
    refuse_secret_exports(file)
    call = ["bash", "-c", 'set -a; . "$0" >&2; exec env -0', str(file.absolute())]
    try:
        done = subprocess.run(call, capture_output=True, stdin=subprocess.DEVNULL, timeout=SOURCE_S)
    except subprocess.TimeoutExpired as e:
        raise UserError(f"{file} did not end within {SOURCE_S:g} s: `bash {file}` shows where it waits") from e
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no word"]
        raise UserError(f"{file} fails in bash: {mask(lines[-1])}")
    pairs = [item.split("=", 1) for item in done.stdout.decode(errors="surrogateescape").split("\0") if "=" in item]
    after = dict(pairs)
    known = live()
    for name, value in after.items():
        if value != os.environ.get(name) and (_is_named(name, value) or _found_in(value, known)):
            raise UserError(f"{file} sets {mask(name)}, which Slurm would show to others: remove it and {CURE}")
    return after


def refuse_secret_variables() -> None:
    """Refuse a variable that W&B itself copies into its files, such as WANDB_NOTES, with a secret in it."""
    public = {k: v for k, v in os.environ.items() if k.startswith("WANDB_") and not is_secret_name(k)}
    public.pop("WANDB_BASE_URL", None)  # an address, which only W&B's own requests need
    known = live()
    for name, value in public.items():
        if found := _found_in(value, known):
            raise UserError(f"{name} holds {mask(found)}, which W&B would write to its files: take it out")


def _refuse_nested(value: Any, where: str, depth: int) -> None:
    """Refuse a secret in a recipe that a value names, which the parser would open by itself."""
    if not isinstance(value, str) or not value.endswith((".yaml", ".yml")) or depth > DEEPEST:
        return
    for path in {Path(value), Path(where).parent / value}:
        try:
            content = _as_yaml(path.read_text()) if path.is_file() and path.stat().st_size <= LARGEST else None
        except (OSError, ValueError):  # none, or no text: the parser tells
            continue
        if isinstance(content, dict | list):
            refuse_secrets(content, str(path), depth + 1)


def _found_in(text: str, known: dict[str, str]) -> str:
    """What kind of secret a text holds, in words; empty: none."""
    for secret, origin in known.items():
        if any(form in text for form in _encoded(secret)):
            return f"the secret that {origin} holds"
    return _found_run_together(text, known) or next((what for what, _ in _by_form(text)), "")


def _found_in_parts(leaves: list[tuple[str, Any]], known: dict[str, str]) -> tuple[str, str] | None:
    """Look for a live secret that is cut in parts: values, keys, or keys and values that follow one another.

    Returns:
        Where it begins, and which secret it is, in words; None: there is none.
    """
    values = [_text(value) for _, value in leaves]
    names = [key.rpartition(".")[2] for key, _ in leaves]
    fresh = [name if name != before else "" for name, before in zip(names, ["", *names], strict=False)]
    both = [f"{name}{value}" for name, value in zip(fresh, values, strict=True)]
    for texts in (values, names, both):
        parts = [_run_together(text) for text in texts]
        together = "".join(parts)
        for secret, origin in known.items():
            for form in _run_together_forms(secret):
                if (start := together.find(form)) >= 0:
                    key = leaves[bisect_right(list(accumulate(map(len, parts))), start)][0]
                    # A key that is a part itself is not shown.
                    place = key if texts is values else key.rpartition(".")[0] or "its first keys"
                    return place, f"the secret that {origin} holds"
    return None


def _as_yaml(text: str) -> Any:
    try:
        return parse_yaml(text)
    except UserError:  # none, or one that the parser refuses too
        return text


def _leaves(tree: Any, prefix: str = "", seen: set[tuple[int, str, bool]] | None = None) -> Iterator[tuple[str, Any]]:
    """Yield dotted key and value; of a list each item, of what YAML's aliases repeat nothing twice under one name."""
    if not isinstance(tree, dict | list | tuple | set):
        yield prefix, tree
        return
    seen = set() if seen is None else seen
    mark = (id(tree), prefix.rpartition(".")[2], bool(SURE.search(_words(prefix))))
    if mark in seen:
        return
    seen.add(mark)
    for key, value in tree.items() if isinstance(tree, dict) else _items(list(tree)):
        name = ".".join(str(part) for part in (prefix, key) if part not in ("", None))
        yield from _leaves(value, name, seen)


def _items(items: list[Any]) -> Iterator[tuple[str | None, Any]]:
    """Yield each item with its name: in a command line, what follows a flag has the flag's."""
    for before, item in zip([None, *items], items, strict=False):
        is_flag = isinstance(before, str) and re.fullmatch(r"--[\w.-]+", before) and not str(item).startswith("--")
        yield before.lstrip("-") if is_flag else None, item
