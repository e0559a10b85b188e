"""Data sets in shards: WebDataset's .tar files and Parquet files, of any classes."""

import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from lightning_resnet.data.archives import Member, bytes_column, damaged, open_parquet, tar_members
from lightning_resnet.data.images import FileImages, Images
from lightning_resnet.data.sources.base import Source, with_holdout
from lightning_resnet.data.sources.folder import SPLIT_NAMES
from lightning_resnet.errors import UserError, one_line, tell
from lightning_resnet.files import IMAGES, is_hidden
from lightning_resnet.reading import LARGEST, parse_json, read_text

# Name of a shard whose number is one of those up to a total, or one of any.
OF_HOW_MANY = re.compile(r"(?P<stem>.*?)(?P<number>\d{1,9})-of-(?P<total>\d{1,9})\b.*")
NUMBERED = re.compile(r"(?P<stem>.*?)(?P<number>\d{1,9})(?P<total>)\D*")
NAME_FILES = ("classes.txt", "classnames.txt", "labels.txt")
LABEL_COLUMNS = ("label", "labels", "fine_label", "cls")
LONGEST_LABEL = 1000  # bytes of a .cls
LONGEST_NAME = 10_000  # characters of an image's path in a .parquet
ROWS = 256  # names and labels of a .parquet that are read at once


class Entry(NamedTuple):
    """An image of a shard, with its label and its name, which may have a folder."""

    address: str
    label: int
    name: str


class Shards(Source):
    """The base class of data sets in shards, whose names or folders say train, val or test.

    Without any such word all images train, but for a fifth, which validates.

    Args:
        root: folder with the shards, in it or in folders of it; or one shard.
        classes: file with the name of a class on each line, in order of label; null = the names in
            the data, else numbers.
        holdout: number of training images to validate on; those of val are then the test set.
    """

    suffix: str
    _named: tuple[Path, list[str]]  # the first shard that names the classes, and the names
    _unended: list[Path]  # shards that end without the zeros of a .tar's end

    def __init__(self, root: str, classes: str | None = None, holdout: int | None = None) -> None:
        self.root = root
        self.names_file = classes
        self.holdout = holdout

    def splits(self) -> dict[str, Images]:
        """List the images of each split."""
        return self._read(None)

    def splits_for(self, name: str) -> dict[str, Images]:
        """List train and the split of this name; another that cannot be read is left out."""
        return self._read(name)

    def _read(self, wanted: str | None) -> dict[str, Images]:
        root = self.here(self.root, (self.suffix, *NAME_FILES))
        found = find_shards(root if root.is_file() else _folders(root), self.suffix)
        if not found:
            raise UserError(f"no {self.suffix} files in {root}: set --data.source.root")
        if "train" not in found:
            raise UserError(
                f"{root} has shards of {', '.join(found)} and none of train: name the others "
                f"NAME-train-0000{self.suffix}"
            )
        splits: dict[str, Images] = {}
        self._named = (root, [])
        self._unended = []
        for split, paths in found.items():
            try:
                images = self._read_split(split, paths, root)
            except UserError:
                if split == "train" or wanted in (None, split):
                    raise
                continue
            if images is not None:
                splits[split] = images
        if self._unended:
            tell(
                f"warning: {len(self._unended):,} of the shards, such as {self._unended[0]}, end "
                "without a mark: no image is cut, and all are taken; if the shards were copied, "
                "compare their sizes"
            )
        if self.holdout and wanted is None and not self.all_validate:
            return with_holdout(splits, self.holdout)
        if "val" not in found:
            splits |= self.divided(splits.pop("train"), root)
        return splits

    def _read_split(self, split: str, paths: list[Path], root: Path) -> FileImages | None:
        """List the images of a split, train first; None for test images without labels."""
        entries: list[Entry] = []
        _warn_of_missing(paths)
        for path in paths:
            listed, names = self._list(path)
            if names and not self._named[1]:
                # The user's own names, where they are given, count in place of these.
                checked = names if self.names_file else _checked_names(names, path)
                self._named = (path, checked)
            elif names and names != self._named[1]:
                raise _other_names(path, names, *self._named)
            entries += listed
        if split == "test" and all(entry.label == -1 for entry in entries):
            tell("warning: the test images have no labels (all are -1): left out")
            return None
        if split == "train":
            self.classes = self._names(self._named[1], entries, root)
        return self._images(split, entries)

    def _list(self, path: Path) -> tuple[list[Entry], list[str]]:
        """List the images of a shard, and the names of the classes if the shard has them."""
        raise NotImplementedError

    def _names(self, found: list[str], train: list[Entry], root: Path) -> list[str]:
        """Return the names of the classes: of the file, of the data, or numbers."""
        files = [root / name for name in NAME_FILES if (root / name).is_file()]
        if self.names_file:
            files = [Path(self.names_file)]
        if files and not (found and not self.names_file):
            return _read_names(files[0])
        if found:
            return found
        labels = sorted({entry.label for entry in train})
        missing = next((i for i, label in enumerate(labels) if label != i), None)
        if missing is not None:
            few = ", ".join(map(str, labels[:3]))
            raise UserError(
                f"labels of {root} are {few}, ... {labels[-1]}, and none is {missing}: they must "
                "count from 0; say which classes there are with a file of their names, one on each "
                "line (--classes FILE, --data.source.classes)"
            )
        return [str(i) for i in range(len(labels))]

    def _images(self, split: str, entries: list[Entry]) -> FileImages:
        for address, label, _ in entries:
            if not 0 <= label < len(self.classes):
                raise UserError(
                    f"label {label} of {split} image {address} is outside 0 to "
                    f"{len(self.classes) - 1} ({len(self.classes)} classes): correct it, or the "
                    "names of the classes (--classes FILE, --data.source.classes)"
                )
        labels = np.array([entry.label for entry in entries], np.int64)
        return FileImages(np.arange(len(entries)), labels, [entry.address for entry in entries])


class WebDataset(Shards):
    """WebDataset shards, .tar files with KEY.jpg and KEY.cls (or KEY.json with `label`).

    Args:
        root: folder with the shards, in it or in folders of it, such as NAME-train-0000.tar; or one
            shard. Without a split in the names a fifth of the images validates.
        classes: file with the name of a class on each line, in order of label; null = that of
            classes.txt in the folder, else numbers.
        holdout: number of training images to validate on; those of val are then the test set.
    """

    suffix = ".tar"

    def _list(self, path: Path) -> tuple[list[Entry], list[str]]:
        return list_tar(path, unended=self._unended), []


class Parquet(Shards):
    """Parquet files with a column of images and one of labels, as Hugging Face's.

    They can only be read in order: `resnet-cli data write parquet` first makes a .beton of them.

    Args:
        root: folder with the files, in it or in folders of it, such as
            train-00000-of-00010.parquet; or one file. Without a split in the names a fifth of the
            images validates.
        classes: file with the name of a class on each line, in order of label; null = those of the
            files' metadata, else numbers.
        holdout: number of training images to validate on; those of val are then the test set.
    """

    suffix = ".parquet"

    def _list(self, path: Path) -> tuple[list[Entry], list[str]]:
        return list_parquet(path)


def find_shards(
    where: Path | Iterable[Path], suffix: str, default: str | None = "train"
) -> dict[str, list[Path]]:
    """Return the shards of each split, in order of name.

    Args:
        where: a shard, which is of train, or the folders to look in; the names of those in the
            first count too.
        suffix: .tar, .tar.gz or .parquet.
        default: split of shards where no name says one; None leaves out those that say none.

    Raises:
        UserError: names of some shards say a split, those of others none, and there is a default.
    """
    if isinstance(where, Path):
        return {"train": [where]} if where.name.endswith(suffix) else {}
    found: dict[str | None, list[Path]] = {}
    folders = list(where)
    for folder in folders:
        names = sorted(os.listdir(folder)) if folder.is_dir() else []
        for name in names:
            if name.endswith(suffix) and not is_hidden(name):
                inside = (folder / name).relative_to(folders[0])
                said = [split for part in inside.parts if (split := split_of(part))]
                found.setdefault(said[-1] if said else None, []).append(folder / name)
    without = found.pop(None, [])
    if without and found and default:
        _, named = next(iter(found.items()))
        raise UserError(
            f"neither the name of {without[0]} nor its folder says a split, as {named[0].name} "
            "does: say train, val or test in it, or move it away"
        )
    if without and default:
        found[default] = without
    return {split: found[split] for split in ("train", "val", "test") if split in found}


def split_of(name: str) -> str | None:
    """Return the split that a name says: train, val or test."""
    words = [word.removesuffix("set") for word in re.findall("[a-z]+", name.lower())]
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), None)


def list_tar(
    path: Path, needs_names: bool = False, unended: list[Path] | None = None
) -> list[Entry]:
    """List the images of a WebDataset shard.

    Args:
        path: the shard.
        needs_names: read the name of the image's original file out of KEY.json.
        unended: as for `tar_members`.

    Raises:
        UserError: the shard is damaged, or an image has no label, or a key two images.
    """
    samples: dict[str, dict[str, Member]] = {}
    for member in tar_members(path, unended=unended):
        folder, _, base = member.name.rpartition("/")
        stem, _, extension = base.partition(".")
        if is_hidden(base) or not extension:
            continue
        parts = samples.setdefault(f"{folder}/{stem}".lstrip("/"), {})
        if extension.lower() in parts:
            other = parts[extension.lower()].name
            raise UserError(
                f"{path}: {other} and {member.name} have one key: write the shard again, with a "
                "key for each image"
            )
        parts[extension.lower()] = member
    entries = []
    with open(path, "rb") as file:
        for key, parts in samples.items():
            images = [part for extension, part in parts.items() if f".{extension}" in IMAGES]
            if len(images) > 1:
                raise UserError(
                    f"{path}: key {key} has {len(images)} images ({images[0].name}, "
                    f"{images[1].name}): leave one, and write the shard again"
                )
            if not images:
                if "cls" in parts:
                    raise UserError(
                        f"{path}: key {key} has a label and no image: download the shard again"
                    )
                continue
            described = {}
            if "json" in parts and ("cls" not in parts or needs_names):
                described = _json(path, file, parts["json"])
            label = _label(path, file, key, parts.get("cls"), described)
            name = described.get("filename") if needs_names else None
            entries.append(Entry(images[0].address, label, str(name or key)))
    if not entries:
        raise UserError(f"{path} has no images: WebDataset has KEY.jpg and KEY.cls of each")
    return entries


def list_parquet(path: Path) -> tuple[list[Entry], list[str]]:
    """List the images of a Parquet file, and the names of the classes in its metadata.

    Raises:
        UserError: the file is damaged, or has no column of image bytes or of labels.
    """
    file = open_parquet(path)
    schema = file.schema_arrow
    column = bytes_column(path, schema)
    image = column.partition(".")[0]
    label = next((name for name in LABEL_COLUMNS if name in schema.names), None)
    if label is None:
        raise UserError(
            f"{path} has no labels: its columns are {', '.join(schema.names)}; one must be called "
            f"{LABEL_COLUMNS[0]}"
        )
    has_path = column != image and "path" in [f.name for f in schema.field(image).type]
    entries = []
    try:
        _check_bytes(path, file, column)
        columns = [label, f"{image}.path"] if has_path else [label]
        for batch in file.iter_batches(ROWS, columns=columns):
            labels = batch.column(label).to_pylist()
            names = [None] * len(labels)
            if has_path:
                names = batch.column(image).field("path").to_pylist()
            for name, number in zip(names, labels, strict=True):
                entries.append(_entry(path, len(entries), name, number))
    except (OSError, ValueError) as e:
        raise damaged(path, e) from e
    return entries, _metadata_names(schema.metadata or {}, label)


def _entry(path: Path, row: int, name: object, label: object) -> Entry:
    """Return the entry of a row of a Parquet file; without a name it has the row's number."""
    if not isinstance(label, int):
        raise UserError(
            f"{path}: label of row {row} is {one_line(ValueError(label))}: labels must be "
            "whole numbers from 0"
        )
    text = name if isinstance(name, str) else ""
    if len(text) > LONGEST_NAME:
        raise UserError(
            f"{path}: path of row {row} has {len(text):,} characters: write it with the path of a "
            "file, or with none"
        )
    base = PurePosixPath(text).name
    if not base:
        text = base = str(row)
    return Entry(Member(str(path), base, row, 1).address, label, text)


def _check_bytes(path: Path, file: object, column: str) -> None:
    """Refuse a file whose first image has no bytes; the statistics of a damaged file can end us."""
    first = next(file.iter_batches(1, columns=[column]), None)
    data = first and first.column(0)
    if data and "." in column:
        data = data.field("bytes")
    if data and data[0].as_py() is None:
        raise UserError(
            f"{path} has rows (the first, say) without image bytes, perhaps with a path only: "
            "write it with the images in it (`embed_external_files`)"
        )


def _metadata_names(metadata: dict[bytes, bytes], label: str) -> list[str]:
    """Return the names of the classes that Hugging Face's metadata have; none without them."""
    try:
        features = parse_json(metadata[b"huggingface"].decode())["info"]["features"]
        return [str(name) for name in features[label]["names"]]
    except (KeyError, TypeError, ValueError):
        return []


def _read_names(file: Path) -> list[str]:
    """Read the names of the classes; each must be there once."""
    names = [line.strip() for line in read_text(file).splitlines() if line.strip()]
    if len(names) < 2:
        raise UserError(f"{file} names {len(names)} classes: give one on each line, two at least")
    return _checked_names(names, file)


def _checked_names(names: list[str], where: Path) -> list[str]:
    """Return names of classes in `where`; each must be there once."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise UserError(
                f"{where} names class {name} twice: give each class a name of its own, one on each "
                "line of a file (--classes FILE, --data.source.classes), or in the data"
            )
        seen.add(name)
    return names


def _other_names(path: Path, names: list[str], first: Path, expected: list[str]) -> UserError:
    """Return the error of a shard whose labels are places among other names of classes."""
    i = next((i for i, (a, b) in enumerate(zip(names, expected, strict=False)) if a != b), None)
    what = f"{len(names):,} names of classes, and {first} {len(expected):,}"
    if i is not None:
        what = f"{names[i]} as name of class {i}, and {first} {expected[i]}"
    return UserError(
        f"{path} has {what}: write one again with the names of the other "
        "(`align_labels_with_mapping` of Hugging Face's datasets renumbers the labels)"
    )


def _json(path: Path, file: object, member: Member) -> dict:
    try:
        file.seek(member.start)
        found = parse_json(file.read(min(member.size, LARGEST)).decode())
    except ValueError as e:
        raise UserError(f"{path}: {member.name} is no JSON ({one_line(e)}): correct it") from e
    return found if isinstance(found, dict) else {}


def _label(path: Path, file: object, key: str, cls: Member | None, described: dict) -> int:
    """Return the label of KEY.cls, or of KEY.json."""
    if cls is None and "label" not in described:
        raise UserError(
            f"{path}: image {key} has no label (no {key}.cls, and no `label` in {key}.json): "
            "download the shard again, or write it with labels"
        )
    if cls is not None:
        file.seek(cls.start)
        text = file.read(min(cls.size, LONGEST_LABEL)).decode(errors="replace").strip()
    else:
        text = str(described["label"])
    if not re.fullmatch(r"-?\d{1,9}", text):
        raise UserError(
            f"{path}: label of {key} is {one_line(ValueError(text))}: it must be a number from 0, "
            "the place of the class among all"
        )
    return int(text)


def _folders(root: Path) -> list[Path]:
    """Return a folder and all folders in it, sorted."""
    if not root.is_dir():
        raise UserError(f"folder {root} does not exist: set --data.source.root")
    return [Path(folder) for folder, _, _ in sorted(os.walk(root, onerror=_unreadable))]


def _unreadable(error: OSError) -> None:
    raise UserError(
        f"cannot read folder {error.filename}: {error.strerror}; allow it, or move it away"
    ) from error


def _warn_of_missing(paths: list[Path]) -> None:
    """Warn if numbers in names such as train-00000-of-00010 say that there are more shards."""
    sets: dict[Path, dict[str, list[int]]] = {}
    for path in paths:
        if found := OF_HOW_MANY.fullmatch(path.name) or NUMBERED.fullmatch(path.name):
            numbers = sets.setdefault(path.parent / found["stem"], {})
            numbers.setdefault(found["total"], []).append(int(found["number"]))
    for stem, numbers in sets.items():
        if len(numbers) > 1:
            totals = " and ".join(str(int(total)) for total in numbers if total)
            tell(f"warning: shards {stem}* are of several sets, of {totals} shards")
        for total, found in numbers.items():
            expected = int(total) if total else max(found) - min(found) + 1
            if len(found) < expected:
                tell(f"warning: {len(found):,} of the {expected:,} shards {stem}* are there")
