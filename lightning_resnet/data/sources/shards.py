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
from lightning_resnet.errors import UserError, one_line, tell
from lightning_resnet.files import IMAGES, is_hidden
from lightning_resnet.reading import LARGEST, parse_json, read_text

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
OF_HOW_MANY = re.compile(r"-of-0*(\d+)\b")
NAME_FILES = ("classes.txt", "classnames.txt", "labels.txt")
LABEL_COLUMNS = ("label", "labels", "fine_label", "cls")
LONGEST_LABEL = 1000  # bytes of a .cls


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
        for split, paths in found.items():
            try:
                images = self._read_split(split, paths, root)
            except UserError:
                if split == "train" or wanted in (None, split):
                    raise
                continue
            if images is not None:
                splits[split] = images
        if self.holdout and wanted is None and not self.all_validate:
            return with_holdout(splits, self.holdout)
        if "val" not in found:
            splits |= self.divided(splits.pop("train"), root)
        return splits

    def _read_split(self, split: str, paths: list[Path], root: Path) -> FileImages | None:
        """List the images of a split, train first; None for test images without labels."""
        entries: list[Entry] = []
        names: list[str] = []
        _warn_of_missing(paths)
        for path in paths:
            listed, of_file = self._list(path)
            names = names or of_file
            entries += listed
        if split == "test" and all(entry.label == -1 for entry in entries):
            tell("warning: the test images have no labels (all are -1): left out")
            return None
        if split == "train":
            self.classes = self._names(names, entries, root)
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
        labels = {entry.label for entry in train}
        missing = sorted(set(range(max(labels, default=0) + 1)) - labels)
        if missing or min(labels, default=0) < 0:
            few = ", ".join(map(str, sorted(labels)[:3]))
            raise UserError(
                f"labels of {root} are {few}, ... {max(labels, default=0)}, and none is "
                f"{missing[0] if missing else 0}: they must count from 0; say which classes there "
                "are with a file of their names, one on each line (--classes FILE, "
                "--data.source.classes)"
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
        return list_tar(path), []


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
        where: a shard, which is of train, or the folders to look in, whose names count too, but for
            the first's.
        suffix: .tar, .tar.gz or .parquet.
        default: split of shards whose names say none; None leaves them out.
    """
    if isinstance(where, Path):
        return {"train": [where]} if where.name.endswith(suffix) else {}
    found: dict[str, list[Path]] = {}
    for i, folder in enumerate(where):
        of_folder = split_of(folder.name) if i else None
        names = sorted(os.listdir(folder)) if folder.is_dir() else []
        for name in names:
            if name.endswith(suffix) and not is_hidden(name):
                split = split_of(name) or of_folder or default
                found.setdefault(split, []).append(folder / name)
    return {split: found[split] for split in ("train", "val", "test") if split in found}


def split_of(name: str) -> str | None:
    """Return the split that a name says: train, val or test."""
    words = re.findall("[a-z]+", name.lower())
    return next((SPLITS[word] for word in words if word in SPLITS), None)


def list_tar(path: Path, needs_names: bool = False) -> list[Entry]:
    """List the images of a WebDataset shard.

    Args:
        path: the shard.
        needs_names: read the name of the image's original file out of KEY.json.

    Raises:
        UserError: the shard is damaged, or an image has no label, or a key two images.
    """
    samples: dict[str, dict[str, Member]] = {}
    for member in tar_members(path):
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
    names = [None] * file.metadata.num_rows
    _check_bytes(path, file, column)
    try:
        if has_path:
            table = file.read(columns=[f"{image}.path"])
            names = table.column(0).combine_chunks().field("path").to_pylist()
        labels = file.read(columns=[label]).column(0).to_pylist()
    except (OSError, ValueError) as e:
        raise damaged(path, e) from e
    entries = []
    for row, (name, number) in enumerate(zip(names, labels, strict=True)):
        if not isinstance(number, int):
            raise UserError(
                f"{path}: label of row {row} is {one_line(ValueError(number))}: labels must be "
                "whole numbers from 0"
            )
        name = name or str(row)
        address = Member(str(path), PurePosixPath(name).name, row, 1).address
        entries.append(Entry(address, number, name))
    return entries, _metadata_names(schema.metadata or {}, label)


def _check_bytes(path: Path, file: object, column: str) -> None:
    """Refuse a file with rows whose image has no bytes, as its statistics say."""
    for g in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(g)
        for c in range(group.num_columns):
            part = group.column(c)
            nulls = part.statistics.null_count if part.statistics else None
            if part.path_in_schema == column and nulls:
                raise UserError(
                    f"{path} has {nulls:,} rows (row group {g}) without image bytes, perhaps with "
                    "a path only: write it with the images in it (`embed_external_files`)"
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
    for i, name in enumerate(names):
        if name in names[:i]:
            raise UserError(f"{file} names class {name} twice: each line is the name of one class")
    if len(names) < 2:
        raise UserError(f"{file} names {len(names)} classes: give one on each line, two at least")
    return names


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
    return [Path(folder) for folder, _, _ in sorted(os.walk(root))]


def _warn_of_missing(paths: list[Path]) -> None:
    """Warn if names such as train-00000-of-00010 say that there are more shards."""
    totals = {found[1] for path in paths if (found := OF_HOW_MANY.search(path.name))}
    if len(totals) == 1 and int(*totals) != len(paths):
        tell(
            f"warning: {paths[0].parent} has {len(paths)} of the {int(*totals)} shards that the "
            f"name {paths[0].name} tells of"
        )
