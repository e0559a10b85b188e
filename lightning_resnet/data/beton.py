"""FFCV's file format (.beton, version 2), read without FFCV: header, fields, one row of metadata per sample, pages.

A file that `resnet-cli data write` made has a manifest beside it, `F.beton.json`: classes, count, how pictures were
resized, CRC-32 of each sample. Files by FFCV's own writer have none; then classes are counted and nothing is checked.
"""

import base64
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from lightning_resnet.errors import UserError

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
FIELD = np.dtype([("type_id", "<u1"), ("name", ("<u1", 16)), ("arguments", ("<u1", (1024,)))], align=True)
ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
IMAGE = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
INT_TYPE, IMAGE_TYPE = 1, 2
FIELD_TYPES = {
    0: np.dtype("<f8"),
    INT_TYPE: np.dtype("<i8"),
    IMAGE_TYPE: IMAGE,
}  # type_id -> its part of a metadata row
JPEG, RAW = 0, 1  # modes of an image


class Beton:
    """An open file. Arrays are in order of position in the file; the big ones are mapped, not read.

    Args:
        path: the file.

    Attributes:
        fd: file descriptor: stays on the same data where the file is replaced by another of its name.
        labels: int64 [n].
        ids: sample ids int64 [n]: the field `id`, or the position.
        images: metadata of the pictures [n]: mode, width, height, data_ptr.
        manifest: what the writer noted; empty without one.
        crcs: CRC-32 of each sample, uint32 [n]; None without a manifest.
        identity: size in bytes and time of the last change, in ns.

    Raises:
        UserError: not a .beton, or a damaged one.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.fd = os.open(self.path, os.O_RDONLY)
        except OSError as e:
            raise UserError(f"cannot read {self.path}: {e.strerror}; make it with `resnet-cli data write`") from e
        self.identity = self._stat()
        self.size = self.identity[0]
        self.header = self._table(HEADER, 1, 0, "header")[0]
        n, k = int(self.header["num_samples"]), int(self.header["num_fields"])
        if self.header["version"] != VERSION or not 0 < k < 256 or self.size < HEADER.itemsize + k * FIELD.itemsize:
            self._refuse("it does not begin like a .beton of version 2")
        self.fields = self._table(FIELD, k, HEADER.itemsize, "fields")
        self.rows = self._metadata(n, k)
        table = int(self.header["alloc_table_ptr"])
        if table > self.size or (self.size - table) % ALLOCATION.itemsize:
            self._refuse("its allocation table lies outside the file")
        self.allocations = self._table(
            ALLOCATION, (self.size - table) // ALLOCATION.itemsize, table, "allocation table"
        )
        self._sort_allocations()
        self.manifest = self._read_manifest(n)
        self.crcs = self.manifest.get("crc32")

    def __len__(self) -> int:
        return len(self.rows)

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)

    @property
    def labels(self) -> np.ndarray:
        """See the class."""
        return self._int_field("label")

    @property
    def ids(self) -> np.ndarray:
        """See the class."""
        return self._int_field("id") if "id" in self.names else np.arange(len(self))

    @property
    def classes(self) -> list[str]:
        """From the manifest, or as many numbers as the labels need."""
        return self.manifest.get("classes") or [str(i) for i in range(int(self.labels.max(initial=-1)) + 1)]

    @property
    def page_size(self) -> int:
        """Bytes."""
        return int(self.header["page_size"])

    def sizes(self, positions: np.ndarray) -> np.ndarray:
        """Bytes of the samples at these positions, uint64; 0 where the file has no such data."""
        pointers = self.images["data_ptr"][positions]
        at = np.searchsorted(self._pointers, pointers)
        at[at == len(self._pointers)] = 0
        return np.where(self._pointers[at] == pointers, self._sizes[at], 0).astype(np.uint64)

    def check_unchanged(self) -> None:
        """Raise UserError where the file was written to since it was opened."""
        if self._stat() != self.identity:
            raise UserError(f"{self.path} was changed while in use; start again with a file that stays as it is")

    def _stat(self) -> tuple[int, int]:
        status = os.fstat(self.fd)
        return status.st_size, status.st_mtime_ns

    def _table(self, dtype: np.dtype, count: int, offset: int, what: str) -> np.ndarray:
        """Map part of the file."""
        if count * dtype.itemsize + offset > self.size:
            self._refuse(f"its {what} does not fit into its {self.size:,} bytes: it is cut off, or no .beton")
        if count == 0:
            return np.empty(0, dtype)
        return (
            np.memmap(f"/proc/self/fd/{self.fd}", dtype, "r", offset, count)
            if os.path.exists("/proc/self/fd")
            else (np.memmap(self.path, dtype, "r", offset, count))
        )

    def _metadata(self, n: int, k: int) -> np.ndarray:
        types = self.fields["type_id"].tolist()
        self.names = [bytes(f["name"]).split(b"\0")[0].decode("ascii", "replace") for f in self.fields]
        if unknown := [name for name, t in zip(self.names, types, strict=True) if t not in FIELD_TYPES]:
            self._refuse(f"its field {unknown[0]} is of a kind that is not read here (images, integers, floats are)")
        if types.count(IMAGE_TYPE) != 1 or INT_TYPE not in types:
            self._refuse(f"it must hold one image and a label per sample, and has fields {', '.join(self.names)}")
        dtype = np.dtype([("", FIELD_TYPES[t]) for t in types], align=True)
        rows = self._table(dtype, n, HEADER.itemsize + k * FIELD.itemsize, "metadata")
        self.images = rows[f"f{types.index(IMAGE_TYPE)}"]
        self._label = "label" if "label" in self.names else self.names[types.index(INT_TYPE)]
        return rows

    def _int_field(self, name: str) -> np.ndarray:
        return self.rows[f"f{self.names.index(self._label if name == 'label' else name)}"]

    def _sort_allocations(self) -> None:
        """Pointers rise in our files; FFCV's workers write theirs in any order."""
        pointers, sizes = self.allocations["ptr"], self.allocations["size"]
        if len(pointers) and (pointers[1:] <= pointers[:-1]).any():
            order = np.argsort(pointers)
            pointers, sizes = pointers[order], sizes[order]
        self._pointers, self._sizes = pointers, sizes

    def _read_manifest(self, n: int) -> dict[str, Any]:
        path = manifest_path(self.path)
        if not path.exists():
            return {}
        try:
            manifest = dict(json.loads(path.read_text()))
            crcs = np.frombuffer(base64.b64decode(manifest.get("crc32") or ""), "<u4")
        except (OSError, ValueError, TypeError) as e:
            raise UserError(f"manifest {path} cannot be read ({e}); remove it to go without its checks") from e
        if manifest.get("count") != n or len(crcs) not in (0, n):
            raise UserError(f"manifest {path} is of another file: it counts {manifest.get('count')} samples, not {n}")
        manifest["crc32"] = crcs if len(crcs) else None
        return manifest

    def _refuse(self, why: str) -> None:
        raise UserError(
            f"{self.path} cannot be read: {why}; `resnet-cli data verify` tells more, `data write` makes it"
        )


def manifest_path(path: Path) -> Path:
    """Where the manifest of a file is."""
    return path.with_name(path.name + ".json")
