"""`resnet-cli data check FOLDER`: what a folder of images holds, and what is wrong with it."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from lightning_resnet.data.beton.encode import explain, open_rgb, read_bytes
from lightning_resnet.data.sources.folder import (
    SPLIT_NAMES,
    class_folders,
)
from lightning_resnet.errors import UserError
from lightning_resnet.files import IMAGES, find_images, is_hidden
from lightning_resnet.machine import cores
from lightning_resnet.meant import flat_folder
from lightning_resnet.progress import metered


class Checked(NamedTuple):
    """What a folder holds.

    Attributes:
        counts: images of each class folder, by its path below the root.
        unreadable: path of each image that cannot be read -> why.
        duplicates: paths of the images that have the same bytes, for each such group.
        across: those of these groups that lie in several classes or splits.
        ignored: ending of files in class folders that are no images -> how many.
        outside: how many images lie in no folder of a class.
        sizes: (width, height) in pixels -> how many images.
    """

    counts: dict[str, int]
    unreadable: dict[str, str]
    duplicates: list[list[str]]
    across: list[list[str]]
    ignored: dict[str, int]
    outside: int
    sizes: Counter[tuple[int, int]]


def check_folder(root: Path) -> Checked:
    """Read each image of a folder with a folder per class, or with splits of such folders.

    Raises:
        UserError: there is no folder of a class in it.
    """
    splits = [root / name for name in class_folders(root) if name.lower() in SPLIT_NAMES]
    folders = [base / name for base in splits or [root] for name in class_folders(base)]
    if not folders:
        cure = "it must hold one folder of images per class"
        raise UserError(flat_folder(root) or f"no images in {root}: {cure}")
    outside = 0
    for place in {root, *splits}:
        outside += sum(1 for _ in find_images(place, deep=False))
    counts: dict[str, int] = {}
    ignored: Counter[str] = Counter()
    class_of: dict[str, Path] = {}
    for folder in folders:
        found = sorted(find_images(folder))
        counts[folder.relative_to(root).as_posix()] = len(found)
        ignored.update(_other_endings(folder))
        class_of |= dict.fromkeys(found, folder)
    unreadable: dict[str, str] = {}
    sizes: Counter[tuple[int, int]] = Counter()
    by_content: dict[bytes, list[str]] = {}
    with ThreadPoolExecutor(cores()) as pool:
        looks = metered(pool.map(_look, class_of), len(class_of), "images")
        for path, (why, size, digest) in zip(class_of, looks, strict=True):
            if why:
                unreadable[path] = why
            else:
                sizes[size] += 1
                by_content.setdefault(digest, []).append(path)
    duplicates = [group for group in by_content.values() if len(group) > 1]
    across = [group for group in duplicates if len({class_of[path] for path in group}) > 1]
    return Checked(counts, unreadable, duplicates, across, dict(ignored), outside, sizes)


def _look(path: str) -> tuple[str, tuple[int, int], bytes]:
    """Return why an image cannot be read (or ""), its width and height, and a digest."""
    try:
        digest = hashlib.blake2b(read_bytes(path), digest_size=16).digest()
        return "", open_rgb(path).size, digest
    except Exception as e:  # decoders meet damage in many ways
        return explain(e), (0, 0), b""


def _other_endings(folder: Path) -> Iterator[str]:
    """Yield the ending of each file that is no image; hidden files are left out."""
    for _, inside, names in os.walk(folder):
        inside[:] = [name for name in inside if not is_hidden(name)]
        for name in names:
            ending = os.path.splitext(name)[1].lower()
            if not is_hidden(name) and ending not in IMAGES:
                yield ending or "none"
