"""Read YAML and JSON from users, such as recipes and runs, with bounds on memory and time.

PyYAML silently takes the last of two equal keys, reads `on` as true, ends the process on lists
10,000 deep, and expands 500 characters of aliases to gigabytes. This module finds all of that in
the events of the parser, before any object is built.
"""

import errno
import io
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import yaml
from yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    Event,
    MappingStartEvent,
    ScalarEvent,
)

from lightning_resnet.errors import UserError, one_line, printable

LARGEST = 10_000_000  # characters of a file
LONGEST_LINE = 1_000_000  # characters of a line of metrics.jsonl
DEEPEST = 50  # mappings and lists within one another
REPEATED = 1_000_000  # characters that aliases (`*name`) may add in all
DIGITS = 100  # digits of a number
EVENTS = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # C: ten times faster
# A number that YAML 1.1 reads as octal or as minutes and seconds.
OTHER_BASE = re.compile(r"[-+]?(0[0-7_]*[1-7][0-7_]*|[1-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")
# Types that PyYAML may read a key as, in words.
READ_AS = {"bool": "true or false", "null": "null", "float": "a number", "timestamp": "a date"}


class Refused(UserError, yaml.YAMLError):
    """Error of YAML that PyYAML would misread or expand out of proportion.

    The class is a YAMLError too, so that jsonargparse takes the text for no YAML.
    """


class _OpenCollection:
    """Mapping or list that has begun and not ended yet.

    Args:
        start: the event that began the collection.

    Attributes:
        weight: number of characters in the collection so far.
        lines: line of each key so far.
        awaits_key: whether the next event is a key.
    """

    def __init__(self, start: CollectionStartEvent) -> None:
        self.start = start
        self.weight = 1
        self.lines: dict[str, int] = {}
        self.awaits_key = isinstance(start, MappingStartEvent)


def parse_yaml(text: str, loader: type = EVENTS) -> Any:
    """Parse a YAML text.

    Args:
        text: one document.
        loader: a safe loader of PyYAML, which decides what is a number.

    Raises:
        UserError: the text is no YAML, has a key twice or one that is no word, or would grow out of
            proportion.
    """
    try:
        check_yaml(text)
        return yaml.load(text, loader)
    except Refused:
        raise
    except yaml.MarkedYAMLError as e:
        where = ""
        if e.problem_mark:
            where = f"line {e.problem_mark.line + 1}, column {e.problem_mark.column + 1}: "
        began = ""
        if e.context and e.context_mark:
            began = f" {e.context}, from line {e.context_mark.line + 1}"
        why = _yaml_cure(text, e) or f"{where}{printable(e.problem)}{began}"
        raise UserError(f"this is not YAML: {why}") from e
    except (ValueError, RecursionError, yaml.YAMLError) as e:
        raise UserError(f"this is not YAML: {one_line(e)}") from e


def _yaml_cure(text: str, e: yaml.MarkedYAMLError) -> str:
    """Return what is wrong with a line that is no YAML, where it is a usual mistake; else empty."""
    if not e.problem_mark:
        return ""
    lines = text.splitlines()
    at = min(e.problem_mark.line, len(lines) - 1)
    line = lines[at]
    if "\t" in line[: _indent(line)]:
        return f"line {at + 1} begins with a tab: indent with spaces"
    if "mapping values are not allowed" not in str(e.problem):
        return ""
    for number in (at, at - 1):
        if number >= 0 and re.match(r"\s*[\w.-]+:[^\s/]", lines[number]):
            return f"line {number + 1}: a space belongs after the colon"
    before = [number for number in range(at) if lines[number].strip()][-1:]
    if before and _indent(line) > _indent(lines[before[0]]):
        return (
            f"line {at + 1} is indented further than line {before[0] + 1}, which has a value: "
            "indent both alike"
        )
    return ""


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def read_yaml(file: Path, loader: type = EVENTS) -> Any:
    """Parse a YAML file; see `parse_yaml`.

    Raises:
        UserError: the file cannot be read, or is refused; the message names the file.
    """
    return parse_file(file, lambda text: parse_yaml(text, loader))


def open_plain(file: Path | str) -> BinaryIO:
    """Open a plain file to read it; reading a named pipe or a device could wait without end.

    Raises:
        OSError: the system's error, or the path is that of no plain file.
    """
    fd = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        return open(fd, "rb")
    os.close(fd)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
    raise OSError(errno.EINVAL, "it is no plain file but a pipe or a device", str(file))


def read_text(file: Path) -> str:
    """Read a text in UTF-8 of at most `LARGEST` bytes.

    Raises:
        UserError: the file cannot be read; the message says why.
    """
    return parse_file(file, str)


def parse_file(file: Path, parse: Any) -> Any:
    """Apply `parse` to the text of a file.

    Args:
        file: a file in UTF-8 of at most `LARGEST` bytes.
        parse: function of the text; may raise UserError or ValueError.

    Raises:
        UserError: the file cannot be read or parsed; the message names the file.
    """
    try:
        with open_plain(file) as stream:
            content = stream.read(LARGEST + 1)
    except OSError as e:
        raise UserError(f"cannot read {file}: {e.strerror} (seen from {Path.cwd()})") from e
    if len(content) > LARGEST:
        raise UserError(f"{file} is larger than {LARGEST / 1e6:.0f} MB: give a smaller file")
    try:
        return parse(content.decode("utf-8-sig"))
    except UnicodeDecodeError as e:
        raise UserError(f"{file} is no text in UTF-8 (byte {e.start}): save it so") from e
    except (UserError, ValueError) as e:
        raise UserError(f"{file}: {one_line(e)}") from e


def check_yaml(text: str) -> None:
    """Refuse YAML that PyYAML would misread or expand out of proportion.

    Raises:
        Refused: the message tells the line, what is wrong and how to write it.
        yaml.YAMLError: the text is no YAML.
    """
    resolver = EVENTS("")
    stack: list[_OpenCollection] = []
    weights: dict[str, int] = {}  # anchor -> number of characters in what it names
    repeated = 0
    for event in yaml.parse(text, EVENTS):
        weight = 0
        anchor = getattr(event, "anchor", None)
        if isinstance(event, CollectionEndEvent):
            ended = stack.pop()
            weight = ended.weight
            if ended.start.anchor:
                weights[ended.start.anchor] = weight
        elif isinstance(event, AliasEvent):
            if any(outer.start.anchor == anchor for outer in stack):
                raise _refusal(event, f"*{anchor} stands within what it names: write it out")
            weight = weights.get(anchor, 1)
            repeated += weight
            if repeated > REPEATED:
                raise _refusal(
                    event,
                    f"aliases such as *{anchor} repeat more than {REPEATED:,} characters: use "
                    "fewer",
                )
        elif isinstance(event, ScalarEvent):
            weight = 1 + len(event.value)
            if anchor:
                weights[anchor] = weight
            _check_scalar(event, resolver)
        begins_node = isinstance(event, AliasEvent | ScalarEvent | CollectionStartEvent)
        if begins_node and stack and stack[-1].awaits_key:
            _check_key(event, stack[-1], resolver)
            stack[-1].awaits_key = False
            stack[-1].weight += weight
            continue
        if isinstance(event, CollectionStartEvent):
            stack.append(_OpenCollection(event))
            if len(stack) > DEEPEST:
                raise _refusal(event, f"more than {DEEPEST} lists and mappings within one another")
        elif stack and weight:
            stack[-1].weight += weight
            stack[-1].awaits_key = isinstance(stack[-1].start, MappingStartEvent)


def _check_scalar(event: ScalarEvent, resolver: Any) -> None:
    """Refuse a number that is too long, or that PyYAML reads in another base than 10."""
    is_quoted = not event.implicit[0]
    if is_quoted:
        return
    digits = len(event.value)
    if digits > DIGITS and _kind(event, resolver) in ("int", "float"):
        raise _refusal(event, f"a number of {digits:,} digits: write a shorter one, or quote it")
    if OTHER_BASE.fullmatch(event.value):
        number = yaml.safe_load(event.value)
        raise _refusal(
            event, f"{event.value} is read as the number {number}: write {number}, or quote it"
        )


def _check_key(event: Event, mapping: _OpenCollection, resolver: Any) -> None:
    """Refuse a key that is neither a word nor a whole number, or that the mapping has already."""
    if not isinstance(event, ScalarEvent):
        raise _refusal(event, "a key is a list, a mapping or an alias: write a word")
    kind = _kind(event, resolver)
    if kind in READ_AS:
        raise _refusal(
            event, f"the key {event.value} is read as {READ_AS[kind]}: write it in quotes"
        )
    if event.value in mapping.lines:
        first = mapping.lines[event.value]
        raise _refusal(
            event,
            f"{event.value} is there twice, first in line {first}: remove or join one of them",
        )
    mapping.lines[event.value] = event.start_mark.line + 1


def _kind(event: ScalarEvent, resolver: Any) -> str:
    """Return the type that a scalar is read as: str, bool, int, ..."""
    if not event.implicit[0]:
        return "str"
    return resolver.resolve(yaml.ScalarNode, event.value, event.implicit).rpartition(":")[2]


def _refusal(event: Event, why: str) -> Refused:
    return Refused(f"line {event.start_mark.line + 1}: {why}")


def line_of(text: str, key: str) -> int | None:
    """Return the line, from 1, at which a YAML text gives a dotted key; None if it does not.

    The text may nest the key, write it dotted, or mix both. `init_args` may be missing in the key
    or in the text.
    """
    node = yaml.compose(text, EVENTS)
    return _line_below(
        node, [part for part in key.split(".") if part not in ("init_args", "dict_kwargs")]
    )


def _line_below(node: yaml.Node | None, parts: list[str]) -> int | None:
    """Return the line at which a node gives the key with these parts; None if it does not."""
    if not isinstance(node, yaml.MappingNode):
        return None
    for name, value in node.value:
        words = str(name.value).split(".")
        words = [word for word in words if word not in ("init_args", "dict_kwargs")]
        if words and words == parts:
            return name.start_mark.line + 1
        if words == parts[: len(words)] and (line := _line_below(value, parts[len(words) :])):
            return line
    return None


def lines_of(file: Path) -> Iterator[str]:
    """Yield the lines of a text that another program may still write; none without such a file.

    A line that is longer than `LONGEST_LINE` is cut, and so is no JSON any more.
    """
    try:
        stream = open_plain(file)
    except FileNotFoundError:
        return
    with io.TextIOWrapper(stream, encoding="utf-8", errors="replace") as stream:
        begins_line = True
        while part := stream.readline(LONGEST_LINE):
            if begins_line:
                yield part.rstrip("\r\n")
            begins_line = part.endswith("\n")


def parse_json(text: str) -> Any:
    """Parse a JSON text.

    Raises:
        ValueError: the text is no JSON, nests lists too deep, or has half of a surrogate pair,
            which no file can hold.
    """
    try:
        content = json.loads(text)
    except RecursionError as e:
        raise ValueError("lists or mappings too deep within one another") from e
    if "\\ud" in text.lower():
        json.dumps(content, ensure_ascii=False).encode()
    return content


def read_json(path: Path) -> dict[str, Any] | None:
    """Read the mapping in a JSON file; None where the file is missing, torn or no mapping."""
    try:
        content = parse_file(path, parse_json)
    except UserError:
        return None
    return content if isinstance(content, dict) else None
