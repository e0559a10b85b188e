"""What a name may be that becomes a folder, a line of a table and a word of a command."""

import unicodedata
from collections.abc import Iterator
from typing import Any

from lightning_resnet.errors import UserError, printable

LONGEST = 255  # bytes of one folder's name, on all usual file systems
BREAKS = ("Cc", "Cs", "Zl", "Zp")  # Unicode's categories of what is no letter, sign or space: line breaks, NUL, ...


def fault(name: str, single: bool = False) -> str:
    """Tell why a name cannot be that of a folder in the folder of all runs; empty: it can.

    Args:
        name: of a run or a sweep.
        single: one folder and no more, whose name no program takes for a flag.
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
        name: of a run or a sweep.
        cure: how another one is given, such as `--run.name`.
        single: one folder and no more.

    Raises:
        UserError: why not.
    """
    if why := fault(name, single):
        raise UserError(f"the name {printable(name, 60)} {why}: give another one with {cure}")


def check_texts(tree: Any, key: str = "") -> None:
    """Refuse a configuration with a NUL byte, which no path, command or table can hold.

    Raises:
        UserError: which key has one.
    """
    for name, value in _items(tree):
        where = f"{key}.{name}" if key and name else key or str(name)
        if "\0" in str(name) or (isinstance(value, str) and "\0" in value):
            raise UserError(f"{printable(where)} holds a NUL byte: write it anew, without")
        if isinstance(value, dict | list | tuple):
            check_texts(value, where)


def _items(tree: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(tree, dict):
        yield from tree.items()
    else:
        yield from (("", item) for item in tree)
