"""Check names that become a folder, a line of a table and a word of a command."""

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning_resnet.errors import UserError, printable

LONGEST = 255  # bytes in the name of one folder, on all usual file systems
BREAKS = ("Cc", "Cs", "Zl", "Zp")  # Unicode categories of line breaks and control characters
HUB = re.compile(r"(torchvision|timm|hf):|https?://")  # what names of weights on a hub begin with


def is_hub_name(word: str) -> bool:
    """Tell whether a word names weights on a hub or at an address, and no file here."""
    return bool(HUB.match(word)) and not Path(word).exists()


def fault(name: str, single: bool = False) -> str:
    """Return why a name cannot be that of a folder in the folder of all runs; empty if it can.

    Args:
        name: name of a run or a sweep.
        single: whether the name must be one folder that no program takes for a flag.
    """
    parts = name.split("/")
    longest = max(len(part.encode(errors="surrogateescape")) for part in parts)
    if any(unicodedata.category(character) in BREAKS for character in name):
        return "holds a line break or another control character"
    if name.startswith("/") or ".." in parts:
        return "leads out of the folder of all runs"
    if ".shared" in parts:
        return "is kept for the points that sweeps share"
    if longest > LONGEST:
        return f"has {longest} bytes, and a folder's name at most {LONGEST}"
    if single and (len(parts) > 1 or name[:1] in ("", ".", "-")):
        return "is empty, holds a /, or begins with . or -"
    return ""


def check_name(name: str, cure: str, single: bool = False) -> None:
    """Refuse a name that cannot be a folder's; see `fault`.

    Args:
        name: name of a run or a sweep.
        cure: how the user gives another name, such as `--run.name`.
        single: whether the name must be one folder that no program takes for a flag.

    Raises:
        UserError: the name cannot be a folder's.
    """
    if why := fault(name, single):
        raise UserError(f"the name {printable(name, 60)} {why}: give another one with {cure}")


def check_texts(tree: Any, key: str = "") -> None:
    """Refuse a configuration with a NUL byte, which no path, command or table can hold.

    Args:
        tree: a configuration: mappings, lists and plain values.
        key: dotted key of `tree` in the configuration that it is part of.

    Raises:
        UserError: a text has a NUL byte; the message names its key.
    """
    for name, value in _items(tree):
        where = f"{key}.{name}" if key and name else key or str(name)
        if "\0" in str(name) or (isinstance(value, str) and "\0" in value):
            raise UserError(f"{printable(where)} holds a NUL byte: write it without")
        if isinstance(value, dict | list | tuple):
            check_texts(value, where)


def _items(tree: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(tree, dict):
        yield from tree.items()
    else:
        yield from (("", item) for item in tree)
