"""Read YAML and JSON that somebody wrote: a recipe, a sweep, a run of others; nothing in it takes memory or time.

PyYAML takes the last of two equal keys without a word, reads `on` as true, ends the process on lists 10,000 deep, and
expands 500 characters of aliases to gigabytes: all of that is found in the parser's events, before anything is built.
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

from lightning_resnet.errors import UserError, one_line

LARGEST = 10_000_000  # characters of a file
LONGEST_LINE = 1_000_000  # characters of a line of metrics.jsonl
DEEPEST = 50  # mappings and lists within one another
REPEATED = 1_000_000  # characters that aliases (`*name`) may add in all
DIGITS = 100  # of a number
EVENTS = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # C: ten times faster
OTHER_BASE = re.compile(r"[-+]?(0[0-7_]*[1-7][0-7_]*|[1-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")  # octal, minutes
READ_AS = {"bool": "true or false", "null": "null", "float": "a number", "timestamp": "a date"}  # of keys


class Refused(UserError, yaml.YAMLError):
    """YAML that PyYAML would take wrongly or out of proportion; for jsonargparse, text that is no YAML."""


class _Open:
    """A mapping or list that the events are within.

    Args:
        start: the event that began it.
    """

    def __init__(self, start: CollectionStartEvent) -> None:
        self.start = start
        self.weight = 1
        self.lines: dict[str, int] = {}  # key -> line
        self.awaits_key = isinstance(start, MappingStartEvent)


def parse_yaml(text: str, loader: type = EVENTS) -> Any:
    """Build what a YAML text says.

    Args:
        text: one document.
        loader: a safe loader of PyYAML, which decides what is a number.

    Raises:
        UserError: it is no YAML, a key is there twice or is no word, or it would grow out of proportion.
    """
    try:
        check_yaml(text)
        return yaml.load(text, loader)
    except Refused:
        raise
    except (ValueError, RecursionError, yaml.YAMLError) as e:
        raise UserError(f"this is not YAML: {one_line(e)}") from e


def read_yaml(file: Path, loader: type = EVENTS) -> Any:
    """Build what a YAML file says; see `parse_yaml`.

    Raises:
        UserError: it cannot be read, or is refused; the message names the file.
    """
    return parse_file(file, lambda text: parse_yaml(text, loader))


def open_plain(file: Path | str) -> BinaryIO:
    """Open a file to read it; a named pipe or a device of that name would be waited for without end.

    Raises:
        OSError: the system's own, or that it is no plain file.
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
        UserError: it cannot be read, and why.
    """
    return parse_file(file, str)


def parse_file(file: Path, parse: Any) -> Any:
    """Apply `parse` to a file's text, which is UTF-8 of at most `LARGEST` bytes; errors name the file."""
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
    """Refuse what PyYAML would take wrongly or out of proportion.

    Raises:
        Refused: the line, what is wrong and how to write it.
        yaml.YAMLError: it is no YAML.
    """
    resolver = EVENTS("")
    stack: list[_Open] = []
    weights: dict[str, int] = {}  # anchor -> characters below it
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
                raise _refusal(event, f"aliases such as *{anchor} repeat more than {REPEATED:,} characters: use fewer")
        elif isinstance(event, ScalarEvent):
            weight = 1 + len(event.value)
            if anchor:
                weights[anchor] = weight
            _check_scalar(event, resolver)
        if stack and stack[-1].awaits_key and isinstance(event, AliasEvent | ScalarEvent | CollectionStartEvent):
            _check_key(event, stack[-1], resolver)
            stack[-1].awaits_key = False
            stack[-1].weight += weight
            continue
        if isinstance(event, CollectionStartEvent):
            stack.append(_Open(event))
            if len(stack) > DEEPEST:
                raise _refusal(event, f"more than {DEEPEST} lists and mappings within one another")
        elif stack and weight:
            stack[-1].weight += weight
            stack[-1].awaits_key = isinstance(stack[-1].start, MappingStartEvent)


def _check_scalar(event: ScalarEvent, resolver: Any) -> None:
    if event.implicit[0] and len(event.value) > DIGITS and _kind(event, resolver) in ("int", "float"):
        raise _refusal(event, f"a number of {len(event.value):,} digits: write a shorter one, or quote it")
    if event.implicit[0] and OTHER_BASE.fullmatch(event.value):
        number = yaml.safe_load(event.value)
        raise _refusal(event, f"{event.value} is read as the number {number}: write {number}, or quote it")


def _check_key(event: Event, mapping: _Open, resolver: Any) -> None:
    """Refuse a key that is no word or whole number, or was there before."""
    if not isinstance(event, ScalarEvent):
        raise _refusal(event, "a key is a list, a mapping or an alias: write a word")
    kind = _kind(event, resolver)
    if kind in READ_AS:
        raise _refusal(event, f"the key {event.value} is read as {READ_AS[kind]}: write it in quotes")
    line = event.start_mark.line + 1
    if event.value in mapping.lines:
        first = mapping.lines[event.value]
        raise _refusal(event, f"{event.value} is there twice, first in line {first}: remove or join one of them")
    mapping.lines[event.value] = line


def _kind(event: ScalarEvent, resolver: Any) -> str:
    """What a scalar is read as: str, bool, int, ..."""
    if not event.implicit[0]:
        return "str"
    return resolver.resolve(yaml.ScalarNode, event.value, event.implicit).rpartition(":")[2]


def _refusal(event: Event, why: str) -> Refused:
    return Refused(f"line {event.start_mark.line + 1}: {why}")


def line_of(text: str, key: str) -> int | None:
    """Line (from 1) at which a YAML text gives a dotted key, whether nested, dotted or mixed; None: it does not.

    `init_args` may be missing in the key or in the text.
    """
    node = yaml.compose(text, EVENTS)
    return _line_below(node, [part for part in key.split(".") if part not in ("init_args", "dict_kwargs")])


def _line_below(node: yaml.Node | None, parts: list[str]) -> int | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    for name, value in node.value:
        words = [word for word in str(name.value).split(".") if word not in ("init_args", "dict_kwargs")]
        if words and words == parts:
            return name.start_mark.line + 1
        if words == parts[: len(words)] and (line := _line_below(value, parts[len(words) :])):
            return line
    return None


def lines_of(file: Path) -> Iterator[str]:
    """Yield the lines of a text that another program may still write; none where there is no such file.

    Of a line that is longer than `LONGEST_LINE` the beginning is yielded, which is then no JSON.
    """
    try:
        stream = open_plain(file)
    except FileNotFoundError:
        return
    with io.TextIOWrapper(stream, encoding="utf-8", errors="replace") as stream:
        whole = True
        while part := stream.readline(LONGEST_LINE):
            if whole:
                yield part.rstrip("\r\n")
            whole = part.endswith("\n")


def parse_json(text: str) -> Any:
    """Build what a JSON text says.

    Raises:
        ValueError: it is no JSON, lists stand too deep within one another, or a text holds half of a surrogate pair,
            which no file can.
    """
    try:
        content = json.loads(text)
    except RecursionError as e:
        raise ValueError("lists or mappings too deep within one another") from e
    if "\\ud" in text.lower():
        json.dumps(content, ensure_ascii=False).encode()
    return content


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON file's mapping, None where there is none or it is torn."""
    try:
        content = parse_file(path, parse_json)
    except UserError:
        return None
    return content if isinstance(content, dict) else None
