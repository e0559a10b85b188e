"""Images in archives, which are read where they lie; nothing is unpacked to disk.

An address, `archive!name@start+size`, names such an image. In a .tar and a .zip, start and size are
bytes, and images can be read in any order. In a .tar.gz they are bytes of the unpacked stream, in a
.parquet start is the row: such images can only be read in the order in which they lie.
"""

import gzip
import os
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from lightning_resnet.data.beton.limits import MAX_BYTES
from lightning_resnet.errors import UserError, one_line
from lightning_resnet.reading import open_plain

if TYPE_CHECKING:
    import pyarrow

ADDRESS = re.compile(r"(.+(?:\.tar|\.zip|\.tar\.gz|\.parquet))!(.+)@(\d+)\+(\d+)", re.DOTALL)
IN_ORDER = (".tar.gz", ".parquet")
LOCAL_HEADER = struct.Struct("<4s2xHH4xI8xHH")  # of a member of a zip
# Flags of a member of a zip.
ENCRYPTED = 1
SUM_FOLLOWS = 8  # the CRC-32 stands behind the data
# Members of a tar that are the name, or other properties, of the member that follows.
ABOUT_ANOTHER = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
LONGEST_NAME = 1 << 20  # bytes of such a member
BUFFER = 1 << 20  # bytes of a .parquet that are read at once
IMAGE_COLUMNS = ("image", "img", "jpg", "picture")


class Member(NamedTuple):
    """A file in an archive; see the module for `start` and `size`."""

    archive: str
    name: str
    start: int
    size: int

    @property
    def address(self) -> str:
        """Address of the file, as `member_of` takes it apart."""
        return f"{self.archive}!{self.name}@{self.start}+{self.size}"

    @property
    def in_order(self) -> bool:
        """Whether the archive can only be read in order."""
        return self.archive.endswith(IN_ORDER)


class _Header(tarfile.TarInfo):
    """Header of a member of a tar, which must be complete and small.

    TarFile takes a damaged header, or none, for the end of the archive.
    """

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> "_Header":
        """Read the next header; only a block of zeros ends the archive."""
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:
            raise
        except tarfile.HeaderError as e:
            raise tarfile.ReadError(
                f"no end of the archive, but {e}; if it came so, unpack it and pack it again"
            ) from e

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> "_Header":
        """Refuse what TarFile would read into memory at once."""
        header = super().frombuf(buf, encoding, errors)
        if header.type in ABOUT_ANOTHER and header.size > LONGEST_NAME:
            raise tarfile.ReadError(f"a name of {header.size:,} bytes")
        if header.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError(f"{header.name} is a sparse file")
        return header


class _OpenHeader(_Header):
    """Header of a member of a tar that may end after any complete member."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> "_OpenHeader":
        """Read the next header; the end of the file ends the archive too."""
        try:
            return super().fromtarfile(archive)
        except tarfile.ReadError as e:
            if isinstance(e.__cause__, tarfile.EmptyHeaderError) and archive.offset:
                raise e.__cause__ from None
            raise


def member_of(path: str) -> Member | None:
    """Take an address apart; None for the path of a file."""
    found = ADDRESS.fullmatch(path)
    return Member(found[1], found[2], int(found[3]), int(found[4])) if found else None


def tar_members(path: Path, start: int = 0, unended: list[Path] | None = None) -> list[Member]:
    """List the files in a .tar, or in a .tar.gz, which is unpacked in memory from end to end.

    Args:
        path: the archive, or a file that holds one.
        start: byte of the file at which the archive begins.
        unended: list to which an archive without the zeros at its end is added, as some programs
            write them; None: such an archive is refused.

    Raises:
        UserError: the archive is damaged or cut short, two members have one name, a name leads out
            of the archive, or a member that is unpacked in memory is larger than any image.
    """
    is_packed = path.name.endswith(".tar.gz")
    members: list[Member] = []
    last = -1
    try:
        with open_plain(path) as plain, gzip.open(plain) if is_packed else plain as file:
            if start:
                file.seek(start)
            mode = "r|" if is_packed else "r:"
            header = _Header if unended is None else _OpenHeader
            with tarfile.open(fileobj=file, mode=mode, tarinfo=header) as archive:
                while (m := archive.next()) is not None:
                    archive.members.clear()  # a kilobyte each
                    # A negative size would lead back to the same member, without end.
                    if m.offset_data <= last:
                        raise tarfile.TarError("its members do not follow one another")
                    last = m.offset_data
                    if is_packed and m.size > MAX_BYTES:
                        raise tarfile.TarError(f"{m.name} has {m.size:,} bytes, as no image")
                    if m.isfile():
                        members.append(Member(str(path), m.name, m.offset_data, m.size))
                end = archive.offset
            while is_packed and file.read(BUFFER):  # the sum of all stands at the end
                pass
            size = file.tell() if is_packed else file.seek(0, os.SEEK_END)
            if unended is not None and size == end:
                unended.append(path)
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as e:
        raise damaged(path, e) from e
    except (EOFError, zlib.error, OSError) as e:
        raise damaged(path, e) from e
    _check_names(path, members)
    return members


def zip_members(path: Path) -> list[Member]:
    """List the files in a .zip by its central directory.

    Raises:
        UserError: the archive is damaged or cut short, two members have one name, a name leads out
            of the archive, or a member is encrypted or packed in a way that is not known.
    """
    try:
        with open_plain(path) as file, zipfile.ZipFile(file) as archive:
            found = [info for info in archive.infolist() if not info.filename.endswith("/")]
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, OSError) as e:
        raise damaged(path, e) from e
    for info in found:
        is_known = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        if not is_known or info.flag_bits & ENCRYPTED:
            raise UserError(
                f"{path}: {info.filename} is encrypted, or packed in another way than by deflate: "
                "unpack the zip, or pack it again"
            )
    members = [Member(str(path), i.filename, i.header_offset, i.compress_size) for i in found]
    _check_names(path, members)
    return members


def read_zipped(file: BinaryIO, member: Member, limit: int) -> bytes:
    """Read a member of a zip.

    Args:
        file: the zip.
        member: its start is the byte of its local header, its size that of the packed bytes.
        limit: most bytes to unpack to.

    Raises:
        ValueError: the zip is damaged there, or the member unpacks to more.
    """
    file.seek(member.start)
    head = file.read(LOCAL_HEADER.size)
    if len(head) < LOCAL_HEADER.size or head[:4] != b"PK\3\4":
        raise ValueError("the zip is damaged there")
    _, flags, method, crc, name_size, extra_size = LOCAL_HEADER.unpack(head)
    file.seek(name_size + extra_size, 1)
    data = file.read(member.size)
    if len(data) < member.size:
        raise ValueError("it is cut off")
    if flags & SUM_FOLLOWS and not crc:  # some programs set the flag and write the sum all the same
        behind = file.read(8)
        crc = int.from_bytes(behind.removeprefix(b"PK\7\x08")[:4], "little")
    if method != zipfile.ZIP_STORED:
        data = _inflated(data, limit)
    if zlib.crc32(data) != crc:
        raise ValueError("the zip is damaged there (its CRC-32 is another)")
    return data


def _inflated(packed: bytes, limit: int) -> bytes:
    """Unpack a member of a zip; see `read_zipped`."""
    unpack = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = unpack.decompress(packed, limit + 1)
    except zlib.error as e:
        raise ValueError(f"the zip is damaged there ({e})") from e
    if len(data) > limit:
        raise ValueError(f"it unpacks to more than {limit:,} bytes")
    if not unpack.eof:
        raise ValueError("it is cut off")
    return data


def read_in_order(addresses: Iterable[str]) -> Iterator[bytes]:
    """Yield the bytes of images that can only be read in the order in which they lie.

    Args:
        addresses: addresses in `storage_order`.

    Raises:
        UserError: an archive is damaged or cut short.
    """
    members = (member_of(address) for address in addresses)
    for archive, wanted in groupby(members, key=lambda member: member.archive):
        read = _rows if archive.endswith(".parquet") else _stream
        try:
            yield from read(archive, wanted)
        except (EOFError, OSError, ValueError, zlib.error) as e:
            raise damaged(archive, e) from e


def storage_order(addresses: list[str]) -> list[int]:
    """Return the positions of addresses in the order in which the images lie."""
    members = [member_of(address) for address in addresses]
    return sorted(range(len(members)), key=lambda i: (members[i].archive, members[i].start))


def open_parquet(path: str | Path) -> Any:
    """Open a .parquet, from which rows can be read without all of a row group in memory.

    Raises:
        UserError: pyarrow is not installed, or the file is damaged or cut short.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as e:
        raise UserError(
            f"{path} needs pyarrow: pip install 'lightning_resnet[parquet]' (or pip install "
            "pyarrow)"
        ) from e
    try:
        open_plain(path).close()
        return pyarrow.parquet.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False)
    except (pyarrow.ArrowException, OSError) as e:
        raise damaged(path, e) from e


def bytes_column(path: str | Path, schema: "pyarrow.Schema") -> str:
    """Return the name of the column of the images' bytes, such as `image.bytes`.

    Raises:
        UserError: there is none, or several.
    """
    import pyarrow.types as kinds

    found = []
    for field in schema:
        if kinds.is_binary(field.type) or kinds.is_large_binary(field.type):
            found.append((field.name, field.name))
        elif kinds.is_struct(field.type):
            inner = [f for f in field.type if f.name == "bytes"]
            if inner and (kinds.is_binary(inner[0].type) or kinds.is_large_binary(inner[0].type)):
                found.append((field.name, f"{field.name}.bytes"))
    named = [column for name, column in found if name in IMAGE_COLUMNS]
    columns = [column for _, column in found]
    if len(named) == 1 or len(columns) == 1:
        return (named or columns)[0]
    what = f"several columns of bytes ({', '.join(columns)})" if columns else "no image bytes"
    raise UserError(
        f"{path} has {what}; its columns are {', '.join(schema.names)}: the images must be in one "
        "called image, as bytes or as a struct with bytes (Hugging Face's `Image` feature, written "
        "with the images in it)"
    )


def damaged(path: str | Path, error: Exception) -> UserError:
    """Return the error of an archive that is damaged or cut short, or cannot be read at all."""
    if isinstance(error, OSError) and error.strerror:
        return UserError(f"cannot read {path}: {error.strerror}; correct that, or give another")
    return UserError(f"{path} is damaged or cut short ({one_line(error)}): download it again")


def _check_names(path: Path, members: list[Member]) -> None:
    seen: set[str] = set()
    for _, name, _, _ in members:
        if name.startswith(("/", "\\")) or (".." in name and ".." in re.split(r"[/\\]", name)):
            raise UserError(
                f"{path} has a member {name}, whose path leads out of the archive: it is not the "
                "file it should be; download it from its own source"
            )
        if not name:
            raise UserError(f"{path} has a member without a name: download it again")
        if name in seen:
            raise UserError(
                f"{path} has two members called {name}: download it again, or write it with one "
                "image of each name"
            )
        seen.add(name)


def _stream(archive: str, wanted: Iterable[Member]) -> Iterator[bytes]:
    with gzip.open(archive) as file:
        for member in wanted:
            file.seek(member.start)  # forward: reads what lies between
            data = file.read(member.size)
            if len(data) < member.size:
                raise EOFError("unexpected end of data")
            yield data


def _rows(archive: str, wanted: Iterable[Member]) -> Iterator[bytes]:
    file = open_parquet(archive)
    column = bytes_column(archive, file.schema_arrow)
    rows = iter(wanted)
    member = next(rows, None)
    # One row at a time: a dictionary of a few bytes can stand for many large images.
    for row, batch in enumerate(file.iter_batches(1, columns=[column])):
        if member is None:
            return
        if row == member.start:
            data = batch.column(0)
            if "." in column:
                data = data.field("bytes")
            # A row without bytes is an image that is empty.
            yield data[0].as_py() or b""
            member = next(rows, None)
    if member is not None:
        raise EOFError(f"it has {file.metadata.num_rows:,} rows only")
