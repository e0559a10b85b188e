"""Copy finished runs into a set that others compare theirs with: recipes and metrics, no weights.

Secrets, hosts, job ids and the folders of files are left out.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from lightning_resnet.errors import UserError
from lightning_resnet.files import write_file
from lightning_resnet.masking import mask
from lightning_resnet.reading import open_plain, parse_json, parse_yaml
from lightning_resnet.runs.reader import Run
from lightning_resnet.runs.status import word_of

HIDDEN = "-"  # in place of the name of a user or host
PRIVATE = {  # of an attempt
    "host": HIDDEN,
    "job_id": None,
    "array_task": None,
    "error": None,
    "process": {},
}
# A path from the root, of a home, or that leads out of the working directory.
PATH = re.compile(r"(^|=)((?:file:)?/.+|~[\w.-]*(?:/.*)?|(?:[^=/]+/)*\.\./.+)$", re.S)
HOME = re.compile(r"/(?:(?:home|Users)/[^/]+|root)/?|~[^/]*/?")
# In an address, or in front of a path as scp takes one.
USER_AND_HOST = re.compile(r"(?<=://)[^/\s@]*@[^/\s]*|[\w.-]+@[\w.-]+:\S*")
STRUCTURE = re.compile(r"(-[^={[]*=)?([{[].*)", re.S)  # value of a flag, as YAML or JSON


def write_reference(runs: Sequence[Run], folder: Path, about: str = "") -> list[Path]:
    """Copy runs into a folder, and return their new paths.

    Args:
        runs: readers of finished runs.
        folder: folder of the set; what it has already, stays.
        about: what others must know of the images, such as `JPEG copy of the images`; kept in
            meta.json.

    Raises:
        UserError: a run has not finished, or its recipe or meta.json is damaged; then nothing is
            written.
    """
    for run in runs:
        if run.status() != "finished":
            state = word_of(run.status())
            raise UserError(
                f"{run.path} has not finished ({state}): run its command again, or name the "
                "finished runs one by one"
            )
    texts: dict[Path, str] = {}
    sources: dict[Path, Path] = {}
    for run in runs:
        copy = folder / run.path.name
        path = run.path.resolve()
        if sources.setdefault(copy, path) != path:
            raise UserError(
                f"{sources[copy]} and {path} have one id, and would be one run of the set: name "
                "one of them"
            )
        if copy.resolve() == path:
            raise UserError(f"{folder} holds {run.path} itself: give --reference another folder")
        for file, text in _texts(run, about).items():
            texts[copy / file.relative_to(run.path)] = text
    for file, text in texts.items():
        write_file(file, text.encode(), "--reference DIR")
    for copy in sources:
        for file in Run(copy).attempt_files().values():
            if file not in texts:  # of an earlier copy
                file.unlink()
    return [*sources]


def _texts(run: Run, about: str) -> dict[Path, str]:
    """Return what is copied of each file of a run; an attempt that is damaged is left out.

    Raises:
        UserError: recipe or meta.json cannot be read.
    """
    run.config()
    run.meta(strict=True)
    texts = {}
    for file in run.files():
        with open_plain(file) as plain:
            text = plain.read().decode(errors="replace")
        if file == run.config_file:
            text = _without_folders(text)
        text = mask(text)
        if file.suffix == ".json":
            try:
                content = _public(parse_json(text))
            except ValueError:
                continue
            if file == run.meta_file and about:
                content["about"] = about
            text = json.dumps(content, indent=1) + "\n"
        texts[file] = text
    return texts


def _without_folders(text: str) -> str:
    """Return a recipe with the names of files in place of their paths; comments and keys stay."""
    values = {node.start_mark.index: node for node in _values(yaml.compose(text, yaml.SafeLoader))}
    for start in sorted(values, reverse=True):
        node = values[start]
        name = _without_folder(node.value)
        if name == node.value:
            continue
        is_plain = node.style is None and parse_yaml(name) == name
        end = "\n" if node.style in ("|", ">") else ""  # of a block, which ends with its line
        shown = name if is_plain else json.dumps(name, ensure_ascii=False)
        text = f"{text[:start]}{shown}{end}{text[node.end_mark.index :]}"
    return text


def _values(node: yaml.Node) -> Iterator[yaml.ScalarNode]:
    """Yield the values of a YAML document that are texts."""
    if isinstance(node, yaml.MappingNode):
        for _, value in node.value:
            yield from _values(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _values(value)
    elif isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:str":
        yield node


def _public(value: Any) -> Any:
    """Return content of a JSON file without folders, host, job and error."""
    if isinstance(value, dict):
        return {key: PRIVATE.get(key, _public(part)) for key, part in value.items()}
    if isinstance(value, list):
        return [_public(part) for part in value]
    return _without_folder(value) if isinstance(value, str) else value


def _without_folder(text: str) -> str:
    """Return a text with the name of a file in place of its path, without a user or host.

    The text may be the value of a flag, with or without the flag, and a structure in YAML or JSON.
    """
    if structure := STRUCTURE.fullmatch(text):
        flag, value = structure.groups(default="")
        with suppress(UserError):  # it only looks like one
            content = parse_yaml(value)
            shown = _public(content)
            return text if shown == content else flag + json.dumps(shown, ensure_ascii=False)
    return USER_AND_HOST.sub(HIDDEN, PATH.sub(_name, text))


def _name(found: re.Match[str]) -> str:
    """Return the name of the file that a path leads to; of a home no name."""
    before, path = found.groups()
    path = path.removeprefix("file:")
    is_home = HOME.fullmatch(f"/{path.lstrip('/')}" if path.startswith("/") else path)
    name = PurePosixPath(path).name
    if is_home or name == "..":
        return before + HIDDEN
    return before + (name or path)
