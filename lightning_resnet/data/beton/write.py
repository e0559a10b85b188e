"""Write a .beton, in FFCV's format (stock FFCV reads it), and its manifest F.beton.json.

resnet-cli data write cifar10 --out cifar10_train.beton

Worker processes encode; this one writes, in order, so that the file does not depend on their
number. A write that was killed continues where it was when it is started again.

Images that can only be read in the order in which they lie (.tar.gz, .parquet) are encoded in that
order, to F.beton.unsorted.tmp, and then copied in the order of the file.
"""

import base64
import errno
import glob
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lightning_resnet.data.archives import read_in_order, storage_order
from lightning_resnet.data.augment.crops import Resize
from lightning_resnet.data.beton.encode import (
    EncodeFailure,
    EncodeJob,
    EncodeOptions,
    encode,
    marks,
)
from lightning_resnet.data.beton.encode_pool import Encoded, encode_chunks
from lightning_resnet.data.beton.format import Beton, manifest_path
from lightning_resnet.data.beton.journal import PartialFile, remove_remains
from lightning_resnet.data.beton.limits import MAX_LABEL
from lightning_resnet.data.beton.verify import file_hash, header_hash
from lightning_resnet.data.hashing import uniform
from lightning_resnet.data.images import SPLIT_SEED, BetonImages, FileImages, Images
from lightning_resnet.data.order import permutation
from lightning_resnet.errors import UserError, printable, tell
from lightning_resnet.files import TEMPORARY, check_replaceable, replacing, sync_folder
from lightning_resnet.machine import cores
from lightning_resnet.progress import Meter
from lightning_resnet.provenance import versions
from lightning_resnet.reading import read_json

FORMAT = 1  # version of the manifest
# Purposes of SPLIT_SEED here.
SHUFFLE = 2
JPEG_SHARE = 3
# What a worker takes at once.
CHUNK_BYTES = 1 << 21
CHUNK_FILES = 16
WORTH_PROCESSES = 512  # images; processes take seconds to start, in which one encodes some hundreds
Mode = Literal["auto", "jpeg", "raw"] | float


def write_beton(
    images: Images,
    out: str | Path,
    *,
    classes: list[str],
    source: str = "",
    split: str = "",
    quality: int = 90,
    mode: Mode = "auto",
    short_side: int | None = None,
    max_side: int | None = None,
    resize: Resize | None = None,
    workers: int | None = None,
    shuffle: bool = True,
    skip_bad: bool = False,
    progress: bool = True,
    cure: str = "leave bad images out with --skip-bad; the same command continues from there",
) -> Path:
    """Write the images; continue an unfinished file, do nothing if the file is there.

    A file that is there and is of another command is refused: to encode it took hours, or it is no
    .beton at all. Only where the images of the same command changed is it replaced.

    Args:
        images: one split of a source.
        out: the file; `out`.json becomes its manifest.
        classes: names in order of label.
        source: name, for the manifest.
        split: name, for the manifest.
        quality: quality of JPEGs, 1 to 100. JPEG files that need no change are stored byte for
            byte.
        mode: "jpeg", "raw", the share of the images that is JPEG (0 to 1), or "auto": files JPEG,
            images in memory raw.
        short_side: pixels; scales images down until their shorter side has so many.
        max_side: pixels; scales images down until their longer side has at most so many.
        resize: how images are scaled down; "area": by the area filter, as FFCV's writer does; None:
            bicubic, antialiased.
        workers: processes that encode; None is one per core, or this process alone for fewer than
            512 images.
        shuffle: store in random order, always the same; then reading page by page is random enough
            to train on.
        skip_bad: leave out images that cannot be read and list them in the manifest, instead of
            stopping.
        progress: show the progress.
        cure: what the user can do about a bad image, apart from repairing or removing it.

    Raises:
        UserError: an image cannot be stored, the disk is full, or the file is of another command;
            the message says which.
    """
    out = Path(out)
    options = EncodeOptions(quality, short_side, max_side, resize)
    check_replaceable(out)
    _check(images, classes, options, mode, workers)
    order = permutation(SPLIT_SEED, SHUFFLE, len(images)) if shuffle else np.arange(len(images))
    names = {"source": source, "split": split, "classes": classes, "mode": mode, **asdict(options)}
    if resize is None:
        del names["resize"]  # files that were written before there was a choice stay as they are
    request = _digest(images, order, names)
    content = np.zeros(len(images), np.uint64)
    if isinstance(images, FileImages):
        content = marks(images.paths)[order]
    files = hashlib.blake2b(content.astype("<u8"), digest_size=16).hexdigest()
    if out.exists() and out.stat().st_size:
        noted = read_json(manifest_path(out)) or {}
        _check_same(out, noted, request, names)
        is_current = noted.get("files", files) == files  # earlier versions did not note it
        if is_current and _is_as_written(out, noted):
            for path in (out, _unsorted(out)):
                remove_remains(path)
            _remove_unfinished_manifests(out)
            tell(f"{out} is written already; remove it to write it again")
            return out
        why = "has been cut off or changed since it was written"
        if not is_current:
            why = "was written before its images changed"
        tell(f"{out} {why}: writing it again")
    manifest = {"format": FORMAT, **names, "request": request, "files": files}
    if workers is None:
        workers = cores() if len(images) >= WORTH_PROCESSES else 1
    settings = (options, mode, skip_bad, cure, workers, progress)
    if isinstance(images, FileImages) and images.in_order:
        _write_in_two_steps(images, order, out, content, manifest, settings)
        return out
    with _unfinished(out, request, content) as unfinished:
        manifest["skipped"] = _Job(images, order, unfinished, *settings).run()
        _finish(out, unfinished, manifest, progress)
    return out


def _write_in_two_steps(
    images: FileImages,
    order: np.ndarray,
    out: Path,
    content: np.ndarray,
    manifest: dict[str, Any],
    settings: tuple,
) -> None:
    """Encode the images in the order in which they lie, then copy them in the order of the file.

    Args:
        images: images of archives that can only be read in order.
        order: position of each image of the file, in the file's order [n].
        out: the file.
        content: mark of the content of each, in the file's order [n].
        manifest: what the manifest says so far.
        settings: last arguments of `_Job`.
    """
    progress = settings[-1]
    stored = np.array(storage_order(images.paths))
    rank = np.empty_like(stored)
    rank[stored] = np.arange(len(stored))
    content_at = np.empty_like(content)
    content_at[order] = content
    with _unfinished(_unsorted(out), manifest["request"], content_at[stored]) as encoded:
        skipped = _Job(images, stored, encoded, *settings).run()
        at = {int(i): k for k, i in enumerate(images.ids[order])}
        manifest["skipped"] = sorted(skipped, key=lambda bad: at[bad["id"]])
        with (
            _unfinished(out, manifest["request"], content) as unfinished,
            closing(Meter(len(order), "images sorted", unfinished.done, progress)) as meter,
        ):
            for first in range(unfinished.done, len(order), CHUNK_FILES):
                span = order[first : first + CHUNK_FILES]
                samples = [encoded.sample(rank[i]) for i in span]
                entries = zip(samples, images.labels[span], images.ids[span], strict=True)
                unfinished.append(list(entries))
                meter.update(len(span))
            _finish(out, unfinished, manifest, progress)


def _unsorted(out: Path) -> Path:
    """Return the path of the images in the order in which they lie."""
    return out.with_name(f"{out.name}.unsorted")


class _GivenUp(UserError):
    """Error of a write that the same command cannot continue; nothing is left of the file."""


@contextmanager
def _unfinished(out: Path, request: str, content: np.ndarray) -> Iterator[PartialFile]:
    """Open what a killed write left, or a new file.

    The file stays unless the write is done or given up.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        unfinished = PartialFile(out, bytes.fromhex(request), content)
    except OSError as e:
        raise UserError(f"cannot write {out}: {e.strerror}; choose another --out") from e
    done = False
    try:
        yield unfinished
        done = True
    except _GivenUp:
        done = True
        raise
    except OSError as e:
        done = e.errno in (errno.ENOSPC, errno.EDQUOT)  # no half file stays on a full disk
        if done:
            raise _GivenUp(_disk_error(out, e, unfinished)) from e
        raise UserError(f"cannot write {out}: {e}") from e
    finally:
        unfinished.close(remove=done)


class _Job:
    """The work of encoding and appending what is not in the unfinished file yet."""

    def __init__(
        self,
        images: Images,
        order: np.ndarray,
        unfinished: PartialFile,
        options: EncodeOptions,
        mode: Mode,
        skip_bad: bool,
        cure: str,
        workers: int,
        progress: bool,
    ) -> None:
        self.images = images
        self.order = order
        self.unfinished = unfinished
        self.options = options
        self.cure = cure
        self.jpeg = _is_jpeg(images, mode)
        self.skip_bad = skip_bad
        self.workers = workers
        self.progress = progress
        self.skipped = []

    def run(self) -> list[dict[str, Any]]:
        """Encode and append the rest, and return what was skipped."""
        first = self.unfinished.done
        was_skipped = self.unfinished.records["kept"][:first] == 0
        bad = self.order[:first][was_skipped]
        for i, task in zip(bad, self._tasks(bad), strict=True):  # the journal does not say why
            again = encode(task, self.options)
            why = (
                again.why if isinstance(again, EncodeFailure) else "it was bad when the write began"
            )
            self._skip(i, why)
        chunk = self._chunk()
        spans = [self.order[i : i + chunk] for i in range(first, len(self.order), chunk)]
        tasks = self._tasks(self.order[first:])
        chunks = (list(islice(tasks, len(span))) for span in spans)
        meter = Meter(len(self.order), "images", first, self.progress)
        with (
            closing(encode_chunks(chunks, self.options, min(self.workers, len(spans)))) as encoded,
            closing(meter),
        ):
            for span, samples in zip(spans, encoded, strict=True):
                self._append(span, samples)
                meter.update(len(span))
        return self.skipped

    def _append(self, span: np.ndarray, encoded: Encoded) -> None:
        entries = []
        for i, sample in zip(span, encoded, strict=True):
            if isinstance(sample, EncodeFailure):
                if sample.fatal or not self.skip_bad:
                    self.unfinished.append(entries)  # the next attempt begins with the bad one
                    raise UserError(self._complaint(i, sample))
                self._skip(i, sample.why)
                sample = None
            entries.append((sample, self.images.labels[i], self.images.ids[i]))
        self.unfinished.append(entries)

    def _complaint(self, i: int, bad: EncodeFailure) -> str:
        cure = "repair it" if bad.fatal else f"repair it, or {self.cure}"
        return (
            f"cannot store image {self.images.name(i)} (sample {self.images.ids[i]}): {bad.why}; "
            f"{cure}"
        )

    def _skip(self, i: int, why: str) -> None:
        self.skipped.append(
            {"id": int(self.images.ids[i]), "picture": self.images.name(i), "why": why}
        )

    def _tasks(self, positions: np.ndarray) -> Iterator[EncodeJob]:
        if isinstance(self.images, FileImages) and self.images.in_order:
            originals = read_in_order(self.images.paths[i] for i in positions)
        else:
            originals = (self.images.original(i) for i in positions)
        for i, original in zip(positions, originals, strict=True):
            yield EncodeJob(original, bool(self.jpeg[i]))

    def _chunk(self) -> int:
        """Return how many images a worker takes at once: many small ones, for fewer messages."""
        if isinstance(self.images, FileImages):
            return CHUNK_FILES
        return max(1, CHUNK_BYTES // max(1, self.images.pixels[0].nbytes))


def _finish(out: Path, unfinished: PartialFile, manifest: dict[str, Any], progress: bool) -> None:
    """Give the manifest its name, and then the file.

    A file is never there without its manifest, or with that of another. What a kill between the
    steps leaves is an unfinished file, which the same command completes.
    """
    kept = unfinished.finish()
    if not len(kept):
        raise _GivenUp(
            f"no image is left to write to {out}: all {len(manifest['skipped'])} are bad"
        )
    beton = Beton(unfinished.temp)
    manifest |= {"writer": versions().get("lightning_resnet", "unknown"), "count": len(kept)}
    manifest |= {
        "page_size": unfinished.page_size,
        "crc32": base64.b64encode(kept["crc"].tobytes()).decode(),
    }
    manifest |= {"header_hash": header_hash(beton), "file_hash": file_hash(beton, progress)}
    path = manifest_path(out)
    with replacing(path) as file:
        file.write(json.dumps(manifest, indent=1).encode())
        file.flush()
        os.fsync(file.fileno())  # a full disk shows here, before the former file is removed
        out.unlink(missing_ok=True)
    os.replace(unfinished.temp, out)
    sync_folder(out.parent)
    _remove_unfinished_manifests(out)


def _remove_unfinished_manifests(out: Path) -> None:
    """Remove the unfinished manifests of killed writes of a file."""
    for path in out.parent.glob(f"{glob.escape(manifest_path(out).name)}.*{TEMPORARY}"):
        with suppress(OSError):
            path.unlink()


def _is_as_written(out: Path, noted: dict[str, Any]) -> bool:
    """Tell whether a file has its header and its last table, which stands at the file's end.

    Each byte of the images is checked by `data verify` alone.
    """
    try:
        return noted.get("header_hash") in (None, header_hash(Beton(out)))
    except UserError:
        return False


def _check_same(out: Path, noted: dict[str, Any], request: str, names: dict[str, Any]) -> None:
    """Refuse to replace a file that another command made, or another program.

    Args:
        out: the file, which exists.
        noted: its manifest, empty where it has none.
        request: digest of what is asked for.
        names: what is asked for, apart from the images.

    Raises:
        UserError: the message says what is different.
    """
    cure = "remove it, or give another --out"
    split = names["split"]
    if "request" not in noted:
        raise UserError(f"{out} is there, and has no manifest of `data write` ({out}.json): {cure}")
    if split and noted.get("split") and noted["split"] != split:
        raise UserError(
            f"{out} is there and holds the {printable(noted['split'])} images: give another --out "
            f"for {split}, or remove it"
        )
    if noted["request"] == request:
        return
    told = "holds other images (some were added or removed, say), or in another order"
    for name in ("source", "classes", "mode", "quality", "short_side", "max_side", "resize"):
        if noted.get(name) != names.get(name):
            told = f"was written with another {name.replace('_', ' ')}"
            break
    raise UserError(f"{out} is there and {told}: {cure}")


def _check(
    images: Images, classes: list[str], options: EncodeOptions, mode: Mode, workers: int | None
) -> None:
    if isinstance(images, BetonImages):
        raise UserError("these images are in a .beton already: write from where they came from")
    found = np.unique(images.labels)
    if not len(found) or found[0] < 0 or found[-1] >= len(classes):
        raise UserError(
            f"labels must be 0 to {len(classes) - 1} ({len(classes)} classes), found "
            f"{found.tolist()[:9]}"
        )
    if len(classes) > MAX_LABEL:
        raise UserError(f"{len(classes):,} classes: at most {MAX_LABEL:,} can be written")
    if len(set(classes)) < len(classes):
        name, _ = Counter(classes).most_common(1)[0]
        raise UserError(f"two classes are called {name}: give each a name of its own")
    if not 1 <= options.quality <= 100:
        raise UserError(f"--quality must be 1 to 100, is {options.quality}")
    for name, side in (("--short-side", options.short_side), ("--max-side", options.max_side)):
        if side is not None and side < 1:
            raise UserError(f"{name} must be at least 1 pixel, is {side}")
    if options.resize and not (options.short_side or options.max_side):
        raise UserError(
            "--resize says how images are scaled down: give --short-side or --max-side, or leave "
            "--resize out"
        )
    if workers is not None and workers < 1:
        raise UserError(f"--workers must be 1 or more, is {workers}")
    if mode not in ("auto", "jpeg", "raw") and not (
        isinstance(mode, int | float) and 0 <= mode <= 1
    ):
        raise UserError(
            f"--mode must be auto, jpeg, raw or the share of JPEGs from 0 to 1, is {mode}"
        )


def _is_jpeg(images: Images, mode: Mode) -> np.ndarray:
    if isinstance(mode, int | float):
        return uniform(SPLIT_SEED, JPEG_SHARE, images.ids) < mode
    from_files = isinstance(images, FileImages)
    return np.full(len(images), mode == "jpeg" or (mode == "auto" and from_files))


def _digest(images: Images, order: np.ndarray, names: dict[str, Any]) -> str:
    """Digest everything that determines the file's bytes.

    Image files count by name only: replacing a damaged one does not restart the write.
    """
    digest = hashlib.blake2b(json.dumps([FORMAT, names]).encode(), digest_size=32)
    for array in (order, images.ids, images.labels):
        digest.update(np.ascontiguousarray(array, "<i8"))
    digest.update(images.contents())
    return digest.hexdigest()


def _disk_error(out: Path, error: OSError, unfinished: PartialFile) -> str:
    sizes = unfinished.records["size"]
    gigabytes = float(sizes.sum()) / max(1, np.count_nonzero(sizes)) * len(sizes) / 1e9
    return (
        f"no space for {out} ({error.strerror}): it takes about {gigabytes:.2g} GB; nothing was "
        "left of it; free some, choose another --out, or make it smaller with --max-side or "
        "--quality"
    )
