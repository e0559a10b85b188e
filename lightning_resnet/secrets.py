"""Keys and tokens belong to the environment or ~/.netrc: whatever would write one to a file or a log is refused."""

import netrc
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning_resnet.errors import UserError

NAME = re.compile(r"(^|[._-])(api_?key|token|secret|password|passwd)$", re.I)
SHELL = re.compile(r"^[^#]*?\b(\w*(?:API_?KEY|TOKEN|SECRET|PASSWORD|PASSWD))=", re.I | re.M)
LONG = 12  # characters; what is shorter may be anything
CURE = "keep it in the environment (WANDB_API_KEY) or in ~/.netrc (`wandb login`)"


def refuse_secrets(config: dict[str, Any], where: str = "the configuration") -> None:
    """Refuse a configuration that sets a secret, under any name.

    Args:
        config: a recipe or a resolved configuration, nested or with dotted keys.
        where: it comes from, for the message.

    Raises:
        UserError: which key; never the value.
    """
    for key, value in _leaves(config):
        named = NAME.search(key) and isinstance(value, str) and value
        if named or (isinstance(value, str) and _is_live(value)):
            raise UserError(f"{where} sets {key}, a secret that would end in files: remove it and {CURE}")


def refuse_secret_flags(args: list[str]) -> None:
    """Refuse a command line with a secret: every user of the machine can read it, and logs keep it."""
    for flag, following in zip(args, [*args[1:], ""], strict=False):
        name, _, value = flag.partition("=")
        if name.startswith("--") and NAME.search(name) and (value or following):
            raise UserError(f"{name} on the command line ends in files and logs: remove it and {CURE}")
        if _is_live(flag) or SHELL.search(
            value if name.startswith("--") else flag
        ):  # such as --export=ALL,WANDB_API_KEY=...
            raise UserError(f"the command line holds a key: remove it and {CURE}")


def refuse_secret_exports(file: Path) -> None:
    """Refuse a shell file, such as slurm/site.env, that sets a secret: jobs' environments are public to Slurm."""
    if found := SHELL.search(file.read_text()):
        raise UserError(f"{file} sets {found[1]}, which Slurm would show to others: remove it and {CURE}")


def live() -> list[str]:
    """The secrets of this process's user: from the environment and ~/.netrc."""
    values = [value for name, value in os.environ.items() if NAME.search(name)]
    try:
        values += [password for _, _, password in netrc.netrc(os.environ.get("NETRC")).hosts.values() if password]
    except (OSError, netrc.NetrcParseError):
        pass
    return [value for value in values if len(value) >= LONG]


def _is_live(text: str) -> bool:
    return any(secret in text for secret in live())


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted key and value; of a list each item."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(tree, list):
        for value in tree:
            yield from _leaves(value, prefix)
    else:
        yield prefix, tree
