"""Expressions of `compare --where`, such as `depth == 56 and lr < 0.1`, checked without pandas."""

import ast
import keyword
import re
import shlex
from collections.abc import Collection, Mapping

from lightning_resnet.errors import UserError, nearest

EXAMPLE = "write it as in --where 'depth == 56 and lr < 0.1'"
QUOTED = re.compile(r"('[^']*'|\"[^\"]*\"|`[^`]*`)")
NAME = re.compile(r"[A-Za-z_]\w*(?:\.\w+)*")
IN_PYTHON = (  # what other languages write -> the same in Python, in this order
    (r"^\s*([\w.]+) +([\w.]+)\s*$", r"\1 == \2"),
    (r" *!==+ *| *<> *", " != "),
    (r" *===+ *", " == "),
    (r" *=> *", " >= "),
    (r" *=< *", " <= "),
    (r" *&& *|\bAND\b", " and "),
    (r" *\|\| *|\bOR\b", " or "),
    (r"!(?!=) *|\bNOT\b", " not "),
    (r" *(?<![=<>!])=(?!=) *", " == "),
    (r"(?<=\w) *: *", " == "),
    (r"([=!]= )((?!True|False)[A-Za-z_][\w-]*)(?=$| and | or )", r"\1'\2'"),
    (r"  +", " "),
)


def check(where: str) -> None:
    """Refuse what is no expression of Python, before runs are read.

    Args:
        where: the expression; empty: there is none.

    Raises:
        UserError: the message tells the expression that is meant, or an example.
    """
    if not where or _is_expression(where):
        return
    parts = QUOTED.split(where)
    for before, after in IN_PYTHON:
        parts[::2] = [re.sub(before, after, part) for part in parts[::2]]
    plain = "".join(parts).strip()
    listed = _parsed(plain)
    if isinstance(listed, ast.Tuple):
        plain = " and ".join(map(ast.unparse, listed.elts))
    for rightly in (plain, f"{plain}'", f'{plain}"', f"{plain})", plain.rstrip(")")):
        if _is_expression(rightly):
            raise UserError(f"--where {where}: write it as in --where {_in_shell(rightly)}")
    raise UserError(f"--where {where}: this is no expression; {EXAMPLE}")


def in_columns(where: str, columns: Mapping[str, str]) -> str:
    """Return an expression with the column, in backticks, for each dotted name of a setting.

    Args:
        where: the expression.
        columns: name of a setting -> its column.
    """

    def column(found: re.Match[str]) -> str:
        name = found[0]
        return f"`{columns[name]}`" if "." in name and name in columns else name

    parts = QUOTED.split(where)
    parts[::2] = [NAME.sub(column, part) for part in parts[::2]]
    return "".join(parts)


def why_unknown(where: str, columns: Mapping[str, Collection[object]], shown: list[str]) -> str:
    """Return why an expression cannot be used in which a word is no column, and a cure.

    Args:
        where: the expression.
        columns: name of each setting or fact -> its values.
        shown: names that are told where none is similar.
    """
    unquoted = "".join(
        part.strip("`") if part[:1] == "`" else part
        for i, part in enumerate(QUOTED.split(where))
        if i % 2 == 0 or part[:1] == "`"
    )
    words = [name for name in NAME.findall(unquoted) if not keyword.iskeyword(name)]
    texts = {
        value.lower(): value
        for word in words
        for value in columns.get(word, ())
        if isinstance(value, str)
    }
    unknown = [word for word in words if word not in columns]
    rightly = where
    for word in unknown if texts else ():
        text = texts.get(word.lower(), word).replace("\\", r"\\")
        bare = rf"([=!]= ?|[\[(,] ?){re.escape(word)}\b(?! ?[=<>!])"
        rightly = re.sub(bare, rf"\g<1>'{text}'", rightly)
    if rightly != where:
        return f"a text is in quotes: write it as in --where {_in_shell(rightly)}"
    if not unknown:
        return f"it cannot be used as a condition; {EXAMPLE}"
    hint = nearest(unknown[0], columns) or f"; there are {', '.join(shown)}"
    return f"the runs have no such setting as {unknown[0]}{hint}"


def _parsed(where: str) -> ast.expr | None:
    """Return the expression that Python reads; None: Python reads none."""
    try:
        plain = re.sub(r"`[^`]*`", "name", where).replace("@", "")
        return ast.parse(plain.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _is_expression(where: str) -> bool:
    """Tell whether a text is an expression, and neither several nor a single value."""
    parsed = _parsed(where)
    return parsed is not None and not isinstance(parsed, ast.Tuple | ast.Constant)


def _in_shell(where: str) -> str:
    """Return an expression in quotes."""
    return shlex.quote(where) if '"' in where else f'"{where}"'
