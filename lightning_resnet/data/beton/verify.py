"""Tell what is in a .beton, and whether the file is undamaged.

resnet-cli data info F.beton; resnet-cli data verify F.beton
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from lightning_resnet.data.beton.decode import PROBLEMS, decode, make_items
from lightning_resnet.data.beton.format import JPEG, RAW, Beton, not_here
from lightning_resnet.data.remote import is_remote
from lightning_resnet.errors import UserError, one_line, printable
from lightning_resnet.machine import cores
from lightning_resnet.progress import Meter, metered

# What `facts` tells of the manifest.
MANIFEST = ("source", "split", "skipped", "short_side", "max_side", "resize", "quality")
BATCH = 1024  # samples checked at once
BLOCK = 1 << 20  # bytes hashed at once


def facts(path: str | Path) -> dict[str, Any]:
    """Return what `info` tells, for programs; without a manifest, what it would tell is null."""
    beton = Beton(path)
    m = beton.manifest or {}
    counts = np.bincount(beton.labels.clip(0)) if len(beton) else np.zeros(1, int)
    jpegs = np.count_nonzero(beton.images["mode"] == JPEG)
    sides = {}
    for side in ("height", "width"):
        values = beton.images[side]
        sides[side] = [int(values.min()), int(values.max())] if len(beton) else None
    return {
        "file": path,
        "samples": len(beton),
        "bytes": beton.size,
        "classes": beton.classes,
        "samples_per_class": counts.tolist(),
        "jpeg": int(jpegs),
        "raw": len(beton) - int(jpegs),
        **sides,
        "fields": beton.names,
        "page_size": beton.page_size,
        **{key: m.get(key) for key in MANIFEST},
    }


def info(path: str | Path) -> str:
    """Describe a file in a few lines."""
    beton = Beton(path)
    images = beton.images
    m = beton.manifest
    jpegs = np.count_nonzero(images["mode"] == JPEG)
    counts = np.bincount(beton.labels.clip(0)) if len(beton) else np.zeros(1, int)
    made = "no manifest: unchecked"
    if m:
        skipped = len(m.get("skipped") or [])
        made = f"{printable(m.get('source'))} {printable(m.get('split'))}, {skipped} skipped"
    shown = ", ".join(map(printable, beton.classes[:5]))
    if len(beton.classes) > 5:
        shown += ", ..."
    lines = [
        f"{path}: {len(beton):,} samples, {len(beton.classes)} classes, {beton.size / 1e6:,.1f} MB",
        f"  made from   {made}",
        f"  classes     {shown}; {counts.min():,} to {counts.max():,} samples each",
        f"  images      {jpegs:,} JPEG, {len(beton) - jpegs:,} raw; {_range(beton)}",
        f"  fields      {', '.join(map(printable, beton.names))}",
        f"  pages       {beton.page_size / 2**20:g} MiB",
    ]
    if m:
        resize = [
            f"{k.replace('_', ' ')} {m[k]} px" for k in ("short_side", "max_side") if m.get(k)
        ]
        sides = " and ".join(resize) or "nothing: as in the source"
        if resize and m.get("resize") == "area":
            sides += " by area"
        lines.append(f"  resized to  {sides}; quality {printable(m.get('quality'))}")
    return "\n".join(lines)


def verify(path: str | Path) -> list[str]:
    """List everything that is wrong with a file, in a line each; empty if the file is undamaged.

    With a manifest every byte is covered. Without one, damage to a raw image cannot be found, and
    damage to a JPEG only if the decoder notices it.

    Raises:
        UserError: there is no such file.
    """
    if is_remote(path):
        raise not_here(path)
    if not Path(path).is_file():
        raise UserError(f"no file {path}: `resnet-cli data write` makes one")
    try:
        beton = Beton(path)
        return [*_layout(beton), *_samples(beton), *_hashes(beton)]
    except UserError as e:
        return [one_line(e)]


def header_hash(beton: Beton) -> str:
    """Hash everything that is no sample: what stands before them, and the allocation table."""
    digest = hashlib.blake2b(digest_size=32)
    table = int(beton.header["alloc_table_ptr"])
    first = min(int(beton.images["data_ptr"].min(initial=2**64 - 1)), table)
    for block in chain(_blocks(beton.fd, 0, first), _blocks(beton.fd, table, beton.size)):
        digest.update(block)
    return digest.hexdigest()


def file_hash(beton: Beton, progress: bool = True) -> str:
    """Hash every byte of the file."""
    digest = hashlib.blake2b(digest_size=32)
    with closing(Meter(beton.size, "B", show=progress)) as meter:
        for block in _blocks(beton.fd, 0, beton.size):
            digest.update(block)
            meter.update(len(block))
    return digest.hexdigest()


def _blocks(fd: int, start: int, end: int) -> Iterator[bytes]:
    while start < end and (block := os.pread(fd, min(BLOCK, end - start), start)):
        yield block
        start += len(block)


def _range(beton: Beton) -> str:
    if not len(beton):
        return "none"
    h = beton.images["height"]
    w = beton.images["width"]
    mean = beton.sizes(np.arange(len(beton))).mean()
    return (
        f"{w.min()}x{h.min()} to {w.max()}x{h.max()} pixels (width x height), {mean / 1e3:,.1f} kB "
        "on average"
    )


def _layout(beton: Beton) -> Iterator[str]:
    """Compare header, metadata and table with one another."""
    page = beton.page_size
    n = len(beton)
    table = int(beton.header["alloc_table_ptr"])
    if page < 1 or page & (page - 1):
        yield f"header: page size {page} is no power of two"
        page = 1 << 63
    if not n:
        yield "header: there are no samples"
    start = beton.header_bytes
    allocations = beton.allocations
    ptr, size = (allocations[k].astype(np.uint64) for k in ("ptr", "size"))
    inside = (ptr >= start) & (ptr <= table) & (size <= np.maximum(np.uint64(table), ptr) - ptr)
    yield from _rows("lies outside the data", beton, np.flatnonzero(~inside))
    crossing = (
        inside
        & (size > 0)
        & (ptr // np.uint64(page) != (ptr + size - np.uint64(1)) // np.uint64(page))
    )
    yield from _rows("crosses a page", beton, np.flatnonzero(crossing))
    order = np.argsort(ptr, kind="stable")
    overlap = ptr[order][1:] - ptr[order][:-1] < size[order][:-1]
    yield from _rows("overlaps another", beton, order[1:][overlap])
    yield from _metadata(beton)


def _rows(what: str, beton: Beton, entries: np.ndarray) -> Iterator[str]:
    of = beton.allocations["sample_id"]
    for i in entries:
        yield f"allocation table: entry {i} (of position {of[i]}) {what}"


def _metadata(beton: Beton) -> Iterator[str]:
    ids = beton.ids
    modes = beton.images["mode"]
    for i in np.flatnonzero((modes != JPEG) & (modes != RAW)):
        yield f"{beton.name(i)}: image mode {modes[i]} is neither JPEG (0) nor raw (1)"
    _, first = np.unique(ids, return_index=True)
    for i in np.setdiff1d(np.arange(len(beton)), first):
        yield f"{beton.name(i)}: another sample has the same id"


def _samples(beton: Beton) -> Iterator[str]:
    """Read every sample: range, CRC, and the entire image through the decoder."""
    starts = range(0, len(beton), BATCH)
    for start in metered(starts, len(starts), f"batches of {BATCH:,} images"):
        at = np.arange(start, min(start + BATCH, len(beton)))
        for i, status in zip(at, _check(beton, at), strict=True):
            if status:
                yield f"{beton.name(i)}: {PROBLEMS[status]}"


def _check(beton: Beton, at: np.ndarray) -> np.ndarray:
    """Decode images to one pixel each, and return their statuses.

    All data of an image are decoded, in little memory.
    """
    boxes = np.zeros((len(at), 4))
    boxes[:, 2] = beton.images["height"][at]
    boxes[:, 3] = beton.images["width"][at]
    items = make_items(beton, at, boxes, np.zeros(len(at), bool))
    return decode(beton, items, np.empty((len(at), 1, 1, 3), np.uint8), cores())


def _hashes(beton: Beton) -> Iterator[str]:
    for name, of, compute in (
        ("header_hash", "header, metadata or table", header_hash),
        ("file_hash", "file", file_hash),
    ):
        if (noted := beton.manifest.get(name)) and compute(beton) != noted:
            yield f"{of}: not the bytes that were written ({name} differs)"
