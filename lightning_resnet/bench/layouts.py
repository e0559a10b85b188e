"""Images per second of `data write` from each layout of ImageNet, and the cost of listing all.

resnet-cli bench layouts --out benchmarks/layouts.md

Layouts are made of a few images; 1,281,167 fabricated entries of one pixel are listed from
WebDataset shards and from Parquet files.
"""

import argparse
import io
import json
import re
import statistics
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from lightning_resnet.bench.child import child, output
from lightning_resnet.bench.inputs import make_photos
from lightning_resnet.bench.text import spread, table
from lightning_resnet.data.beton.write import write_beton
from lightning_resnet.data.sources.imagenet import (
    CLS_LOC,
    DEVKIT,
    KAGGLE_ZIP,
    SOLUTION,
    TRAIN,
    VAL,
    ImageNet,
)
from lightning_resnet.progress import metered

CLASSES = 1000
SHARDS = {"webdataset": 1024, "parquet": 294}  # of train, as people hold them
ROW_GROUP = 100  # rows, Hugging Face's for images
LISTING = r"""
import re, sys, time
from pathlib import Path
from lightning_resnet.data.sources import ImageNet
def peak():
    return re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]
before = peak()
cpu = time.process_time()
start = time.perf_counter()
train = ImageNet(sys.argv[1], expect=False).splits()["train"]
seconds = time.perf_counter() - start
cpu = time.process_time() - cpu
print(len(train), len(set(train.labels.tolist())), seconds, cpu, before, peak())
"""


class Contents(NamedTuple):
    """Images of both splits, name -> bytes of a JPEG, and the class of each.

    Attributes:
        train: names as n01440764_10026.
        val: names as ILSVRC2012_val_00000001.
        truth: name of a validation image -> WordNet id.
        wnids: WordNet ids by the devkit's numbers.
    """

    train: dict[str, bytes]
    val: dict[str, bytes]
    truth: dict[str, str]
    wnids: list[str]

    def wnid(self, name: str) -> str:
        """Return the WordNet id of an image."""
        return self.truth.get(name) or name.split("_")[0]

    def rows(self, split: str) -> list[tuple[str, bytes, int]]:
        """Return name, bytes and label of each image of a split, in an order of its own."""
        images = self.train if split == "train" else self.val
        rank = {wnid: i for i, wnid in enumerate(sorted(self.wnids))}
        rows = [(name, data, rank[self.wnid(name)]) for name, data in images.items()]
        return [rows[i] for i in np.random.default_rng(3).permutation(len(rows))]

    def packed_rows(self, split: str) -> list[tuple[str, bytes, int]]:
        """Return the rows with the class at the end of the name, as Hugging Face writes it."""
        return [(f"{n}_{self.wnid(n)}.JPEG", data, label) for n, data, label in self.rows(split)]


def report(args: argparse.Namespace) -> list[str]:
    """Measure; return the lines of the Markdown report."""
    with tempfile.TemporaryDirectory() as folder:
        written = _write_rows(Path(folder), args.images, args.repeat, args.workers)
    listed = []
    for layout in SHARDS:
        with tempfile.TemporaryDirectory() as folder:
            listed.append(_listing_row(Path(folder), layout, args.entries))
    return [
        "# Layouts of ImageNet",
        "",
        f"`data write imagenet` from each layout: {args.images:,} photo-like JPEGs of 500 px, "
        f"stored as they are, {args.workers} processes; medians of {args.repeat} turns, layouts in "
        "turn; lowest and highest in brackets; files in the page cache. Listing is part of it.",
        "",
        *table(["layout", "images/s", "of it listing, s", "the same .beton"], written),
        "",
        f"Listing of {args.entries:,} fabricated entries of one pixel in {CLASSES:,} classes, once "
        "(n = 1), to the end of `ImageNet.splits()`.",
        "",
        *table(
            ["layout", "shards", "s", "of them on the CPU", "peak memory, GB", "before it, GB"],
            listed,
        ),
    ]


def _write_rows(folder: Path, n: int, repeat: int, workers: int) -> list[list[str]]:
    contents = _photos(folder / "photos", n)
    rates: dict[str, list[float]] = {}
    listing: dict[str, list[float]] = {}
    first = b""
    same = {}
    for name, make in MAKERS.items():
        make(folder / name, contents)
    turns = [name for _ in range(repeat) for name in MAKERS]
    for name in metered(turns, len(turns), "writes"):
        out = folder / "out.beton"
        start = time.perf_counter()
        source = ImageNet(str(folder / name), expect=False)
        images = source.splits()["train"]
        listing.setdefault(name, []).append(time.perf_counter() - start)
        options = {"classes": source.classes, "workers": workers, "progress": False}
        write_beton(images, out, **options)
        rates.setdefault(name, []).append(len(images) / (time.perf_counter() - start))
        data = out.read_bytes()
        first = first or data
        same[name] = "yes" if data == first else "NO"
        out.unlink()
    return [
        [name, spread(rates[name], ",.0f"), f"{statistics.median(listing[name]):.2f}", same[name]]
        for name in MAKERS
    ]


def _photos(folder: Path, n: int) -> Contents:
    """Make photo-like JPEGs in 20 classes; a tenth as many validate."""
    make_photos(folder, n + n // 10)
    wnids = [f"n{(7919 * i) % 10_000 + 1_440_000:08}" for i in range(20)]
    files = sorted((folder / "jpeg").rglob("*.jpg"))
    train = {f"{wnids[i % 20]}_{i}": file.read_bytes() for i, file in enumerate(files[:n])}
    val = {f"ILSVRC2012_val_{i + 1:08}": file.read_bytes() for i, file in enumerate(files[n:])}
    truth = {name: wnids[(3 * i) % 20] for i, name in enumerate(val)}
    return Contents(train, val, truth, wnids)


def _listing_row(folder: Path, layout: str, n: int) -> list[str]:
    """List fabricated entries in a process of its own."""
    _fabricate(folder, layout, n)
    with child([sys.executable, "-c", LISTING, folder]) as process:
        numbers = [float(word) for word in output(process)[-1].split()]
    count, classes, seconds, cpu, before, after = numbers
    if (count, classes) != (n, min(n, CLASSES)):
        raise AssertionError(f"{layout}: {count:,.0f} images of {classes:,.0f} classes are listed")
    memory = [f"{kilobytes / 1e6:.2f}" for kilobytes in (after, before)]
    return [layout, f"{_shards(layout, n):,}", f"{seconds:.1f}", f"{cpu:.1f}", *memory]


def _fabricate(folder: Path, layout: str, n: int) -> None:
    """Write n training images of one pixel, and one of each class to validate, to shards."""
    file = io.BytesIO()
    Image.new("L", (1, 1)).save(file, "JPEG")
    pixel = file.getvalue()
    k = _shards(layout, n)
    per_shard = -(-n // k)
    template = shard(_fabricated(0, per_shard, pixel), str)
    for at in metered(range(k), k, f"shards of {layout}"):
        rows = _fabricated(at, min(per_shard, n - at * per_shard), pixel)
        if layout == "webdataset" and len(rows) == per_shard:
            save(folder / f"imagenet1k-train-{at:04}.tar", _renumbered(template, at))
        elif layout == "webdataset":
            save(folder / f"imagenet1k-train-{at:04}.tar", shard(rows, str))
        else:
            path = folder / f"train-{at:05}-of-{k:05}.parquet"
            write_parquet(path, [(f"{name}.JPEG", *rest) for name, *rest in rows], ROW_GROUP)
    val = [(f"ILSVRC2012_val_{i + 1:08}", pixel, i) for i in range(min(n, CLASSES))]
    if layout == "webdataset":
        save(folder / "imagenet1k-validation-00.tar", shard(val, str))
    else:
        write_parquet(folder / "validation-00000-of-00001.parquet", val, ROW_GROUP)


def _shards(layout: str, n: int) -> int:
    """Return the number of shards, each of which has images of all classes."""
    return min(SHARDS[layout], max(1, n // CLASSES))


def _fabricated(at: int, n: int, pixel: bytes) -> list[tuple[str, bytes, int]]:
    """Return the rows of shard number `at`: name, bytes and label of n images."""
    labels = [i % CLASSES for i in range(n)]
    return [
        (f"n{1_440_764 + 13 * label:08}_{at:04}{i:06}", pixel, label)
        for i, label in enumerate(labels)
    ]


def _renumbered(template: bytes, at: int) -> bytes:
    """Return shard 0 with the names of shard number `at`; tarfile would take minutes for all."""
    data = bytearray(re.sub(rb"_0000(?=\d{6}\.)", b"_%04d" % at, template))
    blocks = np.frombuffer(data, np.uint8).reshape(-1, 512)
    heads = np.flatnonzero((blocks[:, 257:262] == np.frombuffer(b"ustar", np.uint8)).all(1))
    for head, total in zip(heads, _sums(blocks[heads]), strict=True):
        blocks[head, 148:156] = np.frombuffer(b"%06o\0 " % total, np.uint8)
    return bytes(data)


def _sums(heads: np.ndarray) -> list[int]:
    """Return the check sums of headers of a tar, in which their own field counts as spaces."""
    others = heads.astype(np.int64).sum(1) - heads[:, 148:156].astype(np.int64).sum(1)
    return (others + 8 * ord(" ")).tolist()


def save(path: Path, data: bytes) -> None:
    """Write a file and the folders that it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def tar(members: Iterable[tuple[str, bytes]], mode: str = "w") -> bytes:
    """Return a tar of members, name and bytes of each."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def solution(contents: Contents) -> bytes:
    """Return Kaggle's CSV of the labels of val."""
    lines = [f"{name},{wnid} 1 2 3 4 {wnid} 5 6 7 8" for name, wnid in contents.truth.items()]
    return "\n".join(["ImageId,PredictionString", *reversed(lines), ""]).encode()


def devkit(contents: Contents) -> bytes:
    """Return the devkit, whose numbers of classes are not in the order of WordNet ids."""
    from scipy.io import savemat

    wnids = contents.wnids
    mat = io.BytesIO()
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O")]
    savemat(mat, {"synsets": np.array([(i + 1, w) for i, w in enumerate(wnids)], kinds)})
    truth = "".join(f"{wnids.index(contents.truth[name]) + 1}\n" for name in sorted(contents.val))
    files = {"meta.mat": mat.getvalue(), "ILSVRC2012_validation_ground_truth.txt": truth.encode()}
    folder = DEVKIT.removesuffix(".tar.gz")
    return tar([(f"{folder}/data/{name}", data) for name, data in files.items()], "w:gz")


def archives(root: Path, contents: Contents) -> None:
    """Write the three files of image-net.org."""
    inner: dict[str, list[tuple[str, bytes]]] = {}
    for name, data in contents.train.items():
        inner.setdefault(contents.wnid(name), []).append((f"{name}.JPEG", data))
    save(root / TRAIN, tar([(f"{wnid}.tar", tar(members)) for wnid, members in inner.items()]))
    save(root / VAL, tar([(f"{name}.JPEG", data) for name, data in contents.val.items()]))
    save(root / DEVKIT, devkit(contents))


def folders(root: Path, contents: Contents) -> None:
    """Write train/ and val/ of class folders."""
    for split, images in (("train", contents.train), ("val", contents.val)):
        for name, data in images.items():
            save(root / split / contents.wnid(name) / f"{name}.JPEG", data)


def flat_val(root: Path, contents: Contents) -> None:
    """Write train/ of class folders, a flat val/ and the devkit."""
    folders(root, contents._replace(val={}))
    for name, data in contents.val.items():
        save(root / "val" / f"{name}.JPEG", data)
    save(root / DEVKIT, devkit(contents))


def kaggle(root: Path, contents: Contents) -> None:
    """Write Kaggle's folders and CSV."""
    base = root / "ILSVRC" / "Data" / CLS_LOC
    flat_val(base, contents)
    (base / DEVKIT).unlink()
    save(base / "test" / "ILSVRC2012_test_00000001.JPEG", next(iter(contents.val.values())))
    save(root / SOLUTION, solution(contents))


def kaggle_zip(root: Path, contents: Contents) -> None:
    """Write Kaggle's zip; every second member is packed."""
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        kaggle(Path(folder), contents)
        with zipfile.ZipFile(root / KAGGLE_ZIP, "w") as archive:
            for i, path in enumerate(sorted(Path(folder).rglob("*.*"))):
                kind = zipfile.ZIP_DEFLATED if i % 2 else zipfile.ZIP_STORED
                archive.write(path, path.relative_to(folder), kind)


def parquet(root: Path, contents: Contents) -> None:
    """Write Hugging Face's Parquet files, two of each split."""
    for split, word in (("train", "train"), ("val", "validation")):
        rows = contents.packed_rows(split)
        for k in range(2):
            write_parquet(root / "data" / f"{word}-{k:05}-of-00002.parquet", rows[k::2], 5)


def write_parquet(
    path: Path,
    rows: list[tuple[str, bytes, int]],
    row_group: int,
    column: str = "image",
    names: list[str] | None = None,
) -> None:
    """Write rows of name, bytes and label; `names` are the classes' in the metadata."""
    import pyarrow
    import pyarrow.parquet

    images = [{"bytes": data, "path": name} for name, data, _ in rows]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    labels = [label for _, _, label in rows]
    content = pyarrow.table({column: pyarrow.array(images, kind), "label": labels})
    if names:
        features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        content = content.replace_schema_metadata({"huggingface": json.dumps(features)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(content, path, row_group_size=row_group)


def tar_gz(root: Path, contents: Contents) -> None:
    """Write Hugging Face's older files, two of train."""
    rows = [(name, data) for name, data, _ in contents.packed_rows("train")]
    for k in range(2):
        save(root / "data" / f"train_images_{k}.tar.gz", tar(rows[k::2], "w:gz"))
    rows = [(name, data) for name, data, _ in contents.packed_rows("val")]
    save(root / "data" / "val_images.tar.gz", tar(rows, "w:gz"))


def webdataset(root: Path, contents: Contents) -> None:
    """Write WebDataset shards, two of train."""
    rows = contents.rows("train")
    for k in range(2):
        save(root / f"imagenet1k-train-{k:04}.tar", shard(rows[k::2], contents.wnid))
    save(root / "imagenet1k-validation-00.tar", shard(contents.rows("val"), contents.wnid))


def shard(rows: list[tuple[str, bytes, int]], wnid: Callable[[str], str]) -> bytes:
    """Return a WebDataset shard of rows of name, bytes and label; `wnid` is of a name."""
    members = []
    for name, data, label in rows:
        described = {"filename": f"{wnid(name)}/{name}.JPEG", "label": label}
        members.append((f"{name}.cls", str(label).encode()))
        members.append((f"{name}.jpg", data))
        members.append((f"{name}.json", json.dumps(described).encode()))
    return tar(members)


MAKERS: dict[str, Callable[[Path, Contents], None]] = {
    "archives": archives,
    "folders": folders,
    "folders, flat val": flat_val,
    "kaggle": kaggle,
    "kaggle-zip": kaggle_zip,
    "parquet": parquet,
    "tar.gz": tar_gz,
    "webdataset": webdataset,
}
