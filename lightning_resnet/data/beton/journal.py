"""The unfinished .beton: F.beton.tmp has the samples, F.beton.journal a record of each sample.

A sample is written before its record: what the journal names is there, unless the machine itself
crashed, which the CRCs tell. Layout: header, fields, metadata rows, samples from the next page on,
allocation table from the page after.
"""

import fcntl
import os
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np

from lightning_resnet.data.beton.encode import MAX_SAMPLE, Sample
from lightning_resnet.data.beton.format import (
    ALLOCATION,
    FIELD,
    FIELD_TYPES,
    HEADER,
    IMAGE_TYPE,
    INT_TYPE,
    VERSION,
)
from lightning_resnet.errors import UserError, tell
from lightning_resnet.files import open_own

PAGE = 1 << 23  # bytes, FFCV's default; no sample crosses a page
FIELDS = (("image", IMAGE_TYPE), ("label", INT_TYPE), ("id", INT_TYPE))
ROW = np.dtype([("", FIELD_TYPES[t]) for _, t in FIELDS], align=True)
RECORD = np.dtype(
    [
        *((name, "<u1") for name in ("kept", "mode")),
        *((name, "<u2") for name in ("width", "height")),
        ("crc", "<u4"),
        *((name, "<u8") for name in ("ptr", "size", "mark")),
        *((name, "<i8") for name in ("label", "id")),
        # CRC-32 of the record's other fields; a damaged record ends what is taken over.
        ("check", "<u4"),
    ]
)
MAGIC = b"beton journal 2\n"


class PartialFile:
    """A .beton file being written, new or continued.

    Args:
        out: final path of the file.
        request: digest of everything that determines the file's bytes; the remains of another
            request are written over.
        marks: mark of the content of each image, in order [n]; a sample of another content is
            written again.

    Attributes:
        records: records of the samples, in order [n].
        done: number of samples that are written or skipped.
        page_size: size of a page in bytes.

    Raises:
        UserError: another process is writing the file.
    """

    def __init__(self, out: Path, request: bytes, marks: np.ndarray) -> None:
        n = len(marks)
        self.temp, self.journal = _names(out)
        self._head = MAGIC + request
        self._notes = _open_locked(self.journal, out)
        self._data = open_own(self.temp, 0o666)
        self.page_size = PAGE
        self._end = _align(HEADER.itemsize + len(FIELDS) * FIELD.itemsize + n * ROW.itemsize, PAGE)
        self.records = np.zeros(n, RECORD)
        self.done = 0
        self._marks = marks
        self._resume()

    def append(self, samples: list[tuple[Sample | None, int, int]]) -> None:
        """Write samples as (sample, label, id); None stands for a skipped one."""
        records = self.records[self.done : self.done + len(samples)]
        records["mark"] = self._marks[self.done : self.done + len(samples)]
        for record, (sample, label, id) in zip(records, samples, strict=True):
            record["label"] = label
            record["id"] = id
            if sample is not None:
                at = self._place(len(sample.data))
                _write(self._data, sample.data, at)
                record["kept"] = 1
                record["mode"] = sample.mode
                record["ptr"] = at
                record["size"] = len(sample.data)
                record["width"] = sample.width
                record["height"] = sample.height
                record["crc"] = sample.crc
        records["check"] = [_checksum(record) for record in records]
        _write(self._notes, records.tobytes(), len(self._head) + self.done * RECORD.itemsize)
        self.done += len(samples)

    def sample(self, i: int) -> Sample | None:
        """Read sample i; None for a skipped one."""
        record = self.records[i]
        if not record["kept"]:
            return None
        data = os.pread(self._data, int(record["size"]), int(record["ptr"]))
        mode, width, height, crc = (int(record[k]) for k in ("mode", "width", "height", "crc"))
        return Sample(mode, width, height, data, crc)

    def finish(self) -> np.ndarray:
        """Write header, metadata and table, which make the temporary file a .beton.

        Returns:
            The records of the samples in the file.
        """
        kept = self.records[self.records["kept"] == 1]
        table_at = _align(self._end, self.page_size)
        header = np.zeros(1, HEADER)
        rows = np.zeros(len(kept), ROW)
        table = np.zeros(len(kept), ALLOCATION)
        header["version"] = VERSION
        header["num_fields"] = len(FIELDS)
        header["num_samples"] = len(kept)
        header["page_size"] = self.page_size
        header["alloc_table_ptr"] = table_at
        for name, source in (
            ("mode", "mode"),
            ("width", "width"),
            ("height", "height"),
            ("data_ptr", "ptr"),
        ):
            rows["f0"][name] = kept[source]
        rows["f1"] = kept["label"]
        rows["f2"] = kept["id"]
        table["sample_id"] = np.arange(len(kept))
        table["ptr"] = kept["ptr"]
        table["size"] = kept["size"]
        _write(self._data, header.tobytes() + _field_table().tobytes() + rows.tobytes(), 0)
        _write(self._data, table.tobytes(), table_at)
        os.fsync(self._data)
        return kept

    def close(self, remove: bool = False) -> None:
        """Close the files; `remove` deletes them."""
        if remove:
            self.temp.unlink(missing_ok=True)
            self.journal.unlink(missing_ok=True)
        os.close(self._data)
        os.close(self._notes)

    def _place(self, size: int) -> int:
        """Return the offset of the next sample, in bytes.

        Pages double until the sample fits: a sample that crosses no page crosses none of the
        doubled pages.
        """
        while self.page_size < size:
            self.page_size *= 2
        if self._end % self.page_size + size > self.page_size:
            self._end = _align(self._end, self.page_size)
        self._end += size
        return self._end - size

    def _resume(self) -> None:
        """Take over what an earlier attempt wrote.

        The first sample that differs from its record ends what is taken over.
        """
        found = os.pread(self._notes, len(self._head) + self.records.nbytes, 0)
        notes = found[len(self._head) :]
        if found[: len(self._head)] != self._head:
            if found:
                tell(f"{self.temp} is of another command or other images: starting over")
            notes = b""
            _write(self._notes, self._head, 0)
        records = np.frombuffer(notes, RECORD, len(notes) // RECORD.itemsize)
        for record, mark in zip(records, self._marks, strict=False):
            if record["check"] != _checksum(record) or record["mark"] != mark:
                break
            if record["kept"] and not self._is_there(record):
                break
            self.records[self.done] = record
            self.done += 1
        os.ftruncate(self._notes, len(self._head) + self.done * RECORD.itemsize)
        os.ftruncate(self._data, self._end)
        if self.done:
            tell(f"{self.temp}: {self.done:,} of {len(self.records):,} are there, continuing")

    def _is_there(self, record: np.void) -> bool:
        size = int(record["size"])
        before = (self.page_size, self._end)
        if size <= MAX_SAMPLE and self._place(size) == record["ptr"]:
            if zlib.crc32(os.pread(self._data, size, int(record["ptr"]))) == record["crc"]:
                return True
        self.page_size, self._end = before
        return False


def remove_remains(out: Path) -> None:
    """Remove what a killed write left of a file that is complete, if no process is writing it."""
    temp, journal = _names(out)
    if not temp.exists() and not journal.exists():
        return
    with suppress(OSError, UserError):
        notes = _open_locked(journal, out)
        try:
            temp.unlink(missing_ok=True)
            journal.unlink()
        finally:
            os.close(notes)


def _names(out: Path) -> tuple[Path, Path]:
    """Return the paths of the samples and of the journal of an unfinished file."""
    return out.with_name(f"{out.name}.tmp"), out.with_name(f"{out.name}.journal")


def _open_locked(journal: Path, out: Path) -> int:
    """Open a journal that no other process writes.

    Raises:
        UserError: another process is writing the file.
    """
    notes = open_own(journal)
    try:
        fcntl.flock(notes, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
        os.close(notes)
        raise UserError(
            f"another process is writing {out}: wait for it, or choose another --out"
        ) from e
    except OSError:  # a file system without locks
        pass
    return notes


def _checksum(record: np.void) -> int:
    return zlib.crc32(record.tobytes()[: RECORD.fields["check"][1]])


def _field_table() -> np.ndarray:
    fields = np.zeros(len(FIELDS), FIELD)
    for field, (name, kind) in zip(fields, FIELDS, strict=True):
        field["type_id"] = kind
        field["name"][: len(name)] = list(name.encode())
    return fields


def _align(at: int, size: int) -> int:
    return -(-at // size) * size


def _write(fd: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:  # a disk that fills up first takes a part
        done = os.pwrite(fd, view, at)
        view = view[done:]
        at = at + done
