"""FFCV's file format (.beton, version 2), read without FFCV.

A file has a header, fields, a row of metadata per sample, and pages. A file that `resnet-cli data
write` made has a manifest next to it, `F.beton.json`: classes, count, how images were resized,
CRC-32 of each sample. Files by FFCV's own writer have none; then classes are counted and nothing is
checked.
"""

import base64
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lightning_resnet.data.beton.limits import MAX_LABEL
from lightning_resnet.data.remote import is_remote
from lightning_resnet.errors import UserError, one_line, printable
from lightning_resnet.reading import open_plain

VERSION = 2
HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),
    ],
    align=True,
)
FIELD = np.dtype(
    [("type_id", "<u1"), ("name", ("<u1", 16)), ("arguments", ("<u1", (1024,)))], align=True
)
ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
IMAGE = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
INT_TYPE = 1
IMAGE_TYPE = 2
# type_id -> the field's part of a metadata row.
FIELD_TYPES = {0: np.dtype("<f8"), INT_TYPE: np.dtype("<i8"), IMAGE_TYPE: IMAGE}
PIECE = 1 << 15  # rows read at once
# Modes of an image.
JPEG = 0
RAW = 1
# What is read of a manifest, and its type.
MANIFEST = {
    "classes": list,
    "count": int,
    "crc32": str,
    "file_hash": str,
    "header_hash": str,
    "max_side": int,
    "resize": str,
    "short_side": int,
    "skipped": list,
}


class Beton:
    """An open .beton file; arrays are in order of position in the file.

    Nothing is mapped into memory, so that a file which is cut short cannot kill the process.

    Args:
        path: the file.

    Attributes:
        fd: file descriptor; keeps the same data if another file takes over the name.
        images: metadata of the images [n]: mode, width, height, data_ptr.
        manifest: what the writer noted; empty without one.
        crcs: CRC-32 of each sample, uint32 [n]; None without a manifest.

    Raises:
        UserError: not a .beton, or a damaged one.
    """

    def __init__(self, path: str | Path) -> None:
        if is_remote(path):
            raise not_here(path)
        self.path = Path(path)
        try:
            # Without O_NONBLOCK, opening a pipe would wait without end.
            self.fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as e:
            raise UserError(
                f"cannot read {self.path}: {e.strerror}; make it with `resnet-cli data write`"
            ) from e
        if not stat.S_ISREG(os.fstat(self.fd).st_mode):
            self._refuse("it is no file")
        self._stat = self._identity()
        self.size = self._stat[0]
        self.header = self._table(HEADER, 1, 0, "header")[0]
        n = int(self.header["num_samples"])
        k = int(self.header["num_fields"])
        if (
            self.header["version"] != VERSION
            or not 0 < k < 256
            or self.size < HEADER.itemsize + k * FIELD.itemsize
        ):
            self._refuse("it does not begin like a .beton of version 2")
        self.fields = self._table(FIELD, k, HEADER.itemsize, "fields")
        self._row = self._row_type()
        self._count = n
        self._start = HEADER.itemsize + k * FIELD.itemsize
        self.images = self._column(self.fields["type_id"].tolist().index(IMAGE_TYPE))
        if self.page_size < 1:
            self._refuse("its pages have no bytes")
        self._check_counts()
        self._sizes = self._sample_sizes()
        self.manifest = self._read_manifest(n)
        self.crcs = self.manifest.get("crc32")
        self._check_labels()

    def __len__(self) -> int:
        return self._count

    def __reduce__(self) -> tuple[Callable, tuple[Any, ...]]:
        """Pickle the path: a process that is not a fork of this one has to open the file itself."""
        return _open_again, (self.path, self._stat)

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)

    @property
    def labels(self) -> np.ndarray:
        """Labels of the samples, read from the file, int64 [n]."""
        return self._column(self.names.index(self._label))

    @property
    def ids(self) -> np.ndarray:
        """Ids of the samples, read from the file, int64 [n]: the field `id`, or the position."""
        return self._column(self.names.index("id")) if "id" in self.names else np.arange(len(self))

    def name(self, position: int) -> str:
        """Return what a message calls a sample."""
        if "id" not in self.names:
            return f"sample {position} (position {position})"
        row = self._table(
            self._row, 1, self._start + int(position) * self._row.itemsize, "metadata"
        )[0]
        return f"sample {row[self.names.index('id')]} (position {position})"

    @property
    def allocations(self) -> np.ndarray:
        """Allocation table, read from the file."""
        return self._table(ALLOCATION, *self._allocation_table(), "allocation table")

    @property
    def classes(self) -> list[str]:
        """Names of the classes, from the manifest, or as many numbers as the labels need."""
        return self.manifest.get("classes") or [
            str(i) for i in range(int(self.labels.max(initial=-1)) + 1)
        ]

    @property
    def page_size(self) -> int:
        """Size of a page in bytes."""
        return int(self.header["page_size"])

    @property
    def header_bytes(self) -> int:
        """Size of header, fields and metadata in bytes."""
        return self._start + self._count * self._row.itemsize

    def sizes(self, positions: np.ndarray) -> np.ndarray:
        """Return the bytes of the samples at these positions, uint32; 0 if there are no data."""
        return self._sizes[positions]

    def check_unchanged(self) -> None:
        """Raise UserError if the file was written to since it was opened."""
        if self._identity() != self._stat:
            raise UserError(
                f"{self.path} was changed while in use; start again with a file that stays as it is"
            )

    def _check_labels(self) -> None:
        """Refuse labels that are no class numbers, such as bytes of images.

        Each number up to the highest would get a name.
        """
        labels = self.labels
        high = MAX_LABEL
        if self.manifest.get("classes"):
            high = min(len(self.manifest["classes"]), MAX_LABEL)
        wrong = np.flatnonzero((labels < 0) | (labels >= high))
        if len(wrong):
            at = int(wrong[0])
            self._refuse(
                f"{self.name(at)}: label {labels[at]} is not of 0 to {high - 1} ({len(wrong):,} "
                "such labels)"
            )

    def _check_counts(self) -> None:
        """Refuse a header whose counts are not those of the file.

        Other bytes would be taken for images and labels.
        """
        entries = self._allocation_table()[0]
        if entries != self._count:
            self._refuse(
                f"its header counts {self._count:,} samples, its allocation table {entries:,}"
            )
        first = int(self.images["data_ptr"].min(initial=self.size))
        if first < self.header_bytes:
            self._refuse(f"image data begin at byte {first:,}, before its header and metadata end")

    def _identity(self) -> tuple[int, int]:
        status = os.fstat(self.fd)
        return status.st_size, status.st_mtime_ns

    def _table(self, dtype: np.dtype, count: int, offset: int, what: str) -> np.ndarray:
        """Read part of the file."""
        self._check_fits(dtype, count, offset, what)
        data = os.pread(self.fd, count * dtype.itemsize, offset)
        if len(data) != count * dtype.itemsize:
            self._refuse(f"its {what} was cut off while it was read")
        return np.frombuffer(data, dtype)

    def _check_fits(self, dtype: np.dtype, count: int, offset: int, what: str) -> None:
        if count * dtype.itemsize + offset > self.size:
            self._refuse(
                f"its {what} does not fit into its {self.size:,} bytes: it is cut off, or no .beton"
            )

    def _column(self, field: int) -> np.ndarray:
        """Return one field of all samples."""
        return self._part(self._row, self._count, self._start, f"f{field}", "metadata")

    def _part(self, dtype: np.dtype, count: int, offset: int, field: str, what: str) -> np.ndarray:
        """Return one field of a table, read piece by piece.

        The system does not always get back large memory that is freed.
        """
        self._check_fits(dtype, count, offset, what)
        out = np.empty(count, dtype[field])
        for i in range(0, count, PIECE):
            rows = self._table(dtype, min(PIECE, count - i), offset + i * dtype.itemsize, what)
            out[i : i + PIECE] = rows[field]
        return out

    def _allocation_table(self) -> tuple[int, int]:
        """Return (number of entries, offset in bytes)."""
        table = int(self.header["alloc_table_ptr"])
        if table > self.size or (self.size - table) % ALLOCATION.itemsize:
            self._refuse("its allocation table lies outside the file")
        return (self.size - table) // ALLOCATION.itemsize, table

    def _row_type(self) -> np.dtype:
        types = self.fields["type_id"].tolist()
        self.names = [
            bytes(f["name"]).split(b"\0")[0].decode("ascii", "replace") for f in self.fields
        ]
        shown = ", ".join(map(printable, self.names))
        for name, kind in zip(self.names, types, strict=True):
            if kind not in FIELD_TYPES:
                self._refuse(
                    f"its field {printable(name)} is of a kind that is not read here (images, "
                    "integers, floats are)"
                )
        if types.count(IMAGE_TYPE) != 1 or INT_TYPE not in types:
            self._refuse(f"it must hold one image and a label per sample, and has fields {shown}")
        for name, kind in zip(self.names, types, strict=True):
            if name in ("label", "id") and kind != INT_TYPE:
                self._refuse(f"its field {name} holds no integers")
        if len(set(self.names)) < len(self.names):
            self._refuse(f"two of its fields have one name: {shown}")
        self._label = "label" if "label" in self.names else self.names[types.index(INT_TYPE)]
        return np.dtype([("", FIELD_TYPES[t]) for t in types], align=True)

    def _sample_sizes(self) -> np.ndarray:
        """Return the bytes of each sample, uint32 [n].

        Our writer's table is in order of position, FFCV's in any order.
        """
        pointers = self.images["data_ptr"]
        table = self._allocation_table()
        of = self._part(ALLOCATION, *table, "ptr", "allocation table")
        sizes = self._part(ALLOCATION, *table, "size", "allocation table")
        sizes = sizes.clip(max=2**32 - 1).astype(np.uint32)  # more are refused by the decoder
        if np.array_equal(of, pointers):
            return sizes
        if not len(of):
            return np.zeros(len(self), np.uint32)
        order = np.argsort(of)
        at = np.searchsorted(of[order], pointers).clip(max=len(of) - 1)
        return np.where(of[order[at]] == pointers, sizes[order[at]], 0)

    def _read_manifest(self, n: int) -> dict[str, Any]:
        path = manifest_path(self.path)
        if not path.exists():
            return {}
        try:
            with open_plain(path) as file:
                manifest = json.load(file)
            _check_manifest(manifest)
            crcs = np.frombuffer(base64.b64decode(manifest.get("crc32") or ""), "<u4")
        except (OSError, ValueError, RecursionError) as e:
            raise UserError(
                f"manifest {path} cannot be read ({one_line(e)}); remove it to go without its "
                "checks"
            ) from e
        if manifest["count"] != n or len(crcs) not in (0, n):
            raise UserError(
                f"manifest {path} is of another file: it counts {manifest['count']} samples, not "
                f"{n}"
            )
        manifest["crc32"] = crcs if len(crcs) else None
        return manifest

    def _refuse(self, why: str) -> None:
        raise UserError(
            f"{self.path} cannot be read: {why}; remove it, and make it again with `resnet-cli "
            "data write`"
        )


def not_here(path: str | Path) -> UserError:
    """Return the error of a file that an address names."""
    return UserError(
        f"{path} is on a network, from which no .beton is read: train with --data.stage DIR, which "
        "copies it to this machine once, or copy it yourself"
    )


def _check_manifest(manifest: Any) -> None:
    """Raise ValueError for a manifest that our writer did not make."""
    if not isinstance(manifest, dict):
        raise ValueError("it is no mapping")
    for name, kind in MANIFEST.items():
        found = manifest.get(name)
        if found is not None and (not isinstance(found, kind) or isinstance(found, bool)):
            raise ValueError(f"its {name} is {printable(found, 40)}")
    classes = manifest.get("classes") or []
    if not all(isinstance(name, str) for name in classes) or len(set(classes)) < len(classes):
        raise ValueError("its classes are not different names")
    if not all(isinstance(entry, dict) for entry in manifest.get("skipped") or []):
        raise ValueError("what it says was skipped is no list of samples")
    if manifest.get("count") is None:
        raise ValueError("it has no count")


def _open_again(path: Path, status: tuple[int, int]) -> "Beton":
    """Open a file in another process; see `Beton.check_unchanged`."""
    beton = Beton(path)
    if beton._identity() != status:
        raise UserError(
            f"{path} was changed while in use; start again with a file that stays as it is"
        )
    return beton


def manifest_path(path: Path) -> Path:
    """Return the path of a file's manifest."""
    return path.with_name(path.name + ".json")
