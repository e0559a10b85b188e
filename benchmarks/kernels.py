"""CPU seconds of several builds of the decoder on the same images, in turn: a Markdown table.

python benchmarks/kernels.py FILE.beton --kernel NAME=_decode.so[@LEVEL] ... [--size 224]

The first build is the one that the others are compared with. LEVEL bounds the instructions, see
`choose_paths` in decode.c. All builds must make the same pixels.
"""

import argparse
import ctypes
import hashlib
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from lightning_resnet.bench.text import table
from lightning_resnet.data.augment.crops import Augment, draw
from lightning_resnet.data.beton import decode as kernel
from lightning_resnet.data.beton.format import JPEG, Beton

BATCH = 256


def epoch(library: ctypes.CDLL, beton: Beton, items: np.ndarray, size: int, threads: int) -> str:
    """Make all images; return a digest of the last batch's pixels."""
    out = np.empty((BATCH, size, size, 3), np.uint8)
    status = np.empty(BATCH, np.uint8)
    for start in range(0, len(items), BATCH):
        batch = items[start : start + BATCH]
        library.make_batch(
            beton.fd,
            batch.ctypes.data,
            None,
            None,
            len(batch),
            size,
            threads,
            0,
            bytes(3),
            out.ctypes.data,
            status.ctypes.data,
        )
        assert not status[: len(batch)].any()
    return hashlib.sha256(out).hexdigest()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", help="a .beton")
    parser.add_argument("--kernel", nargs="+", required=True, metavar="NAME=FILE[@LEVEL]")
    parser.add_argument("--size", type=int, default=224, help="pixels per side, of JPEGs")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=7)
    args = parser.parse_args()
    beton = Beton(args.file)
    positions = np.arange(len(beton))
    stored = beton.images
    augment = Augment("pad", flip=True)
    if stored["mode"][0] == JPEG:
        augment = Augment("resized", args.size, flip=True)
    sides = (stored["height"], stored["width"])
    boxes, flips, size = draw(augment, 0, 0, positions, *sides, np.zeros_like(positions))
    items = kernel.make_items(beton, positions, boxes, flips)
    folder = Path(tempfile.mkdtemp())
    libraries = {}
    for i, word in enumerate(args.kernel):
        name, _, file = word.partition("=")
        file, _, level = file.partition("@")
        # a library is loaded once for each path, and has one level
        copy = shutil.copy(file, folder / f"{i}.so")
        library = ctypes.CDLL(copy)
        library.make_batch.argtypes = kernel.library().make_batch.argtypes
        library.make_batch.restype = None
        if level:
            library.choose_paths(int(level))
        libraries[name] = library
    shutil.rmtree(folder)
    made = {epoch(library, beton, items, size, args.threads) for library in libraries.values()}
    assert len(made) == 1, "the builds make different pixels"
    seconds = {name: [] for name in libraries}
    for _ in range(args.repeat):
        for name, library in libraries.items():
            start = time.process_time()
            epoch(library, beton, items, size, args.threads)
            seconds[name].append(1000 * (time.process_time() - start) / len(items))
    lines = []
    first = next(iter(seconds.values()))
    for name, values in seconds.items():
        pairs = [before / after for before, after in zip(first, values, strict=True)]
        lines.append(
            [
                name,
                f"{statistics.median(values):.4f} ({min(values):.4f} to {max(values):.4f})",
                f"{statistics.median(pairs):.2f} ({min(pairs):.2f} to {max(pairs):.2f})",
            ]
        )
    print("\n".join(table(["build", "CPU s per 1,000", "x times"], lines)))


if __name__ == "__main__":
    main()
