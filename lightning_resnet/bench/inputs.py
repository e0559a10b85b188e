"""Inputs of the benchmarks: photo-like JPEGs, raw images of 32x32, a file of ImageNet's size."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from lightning_resnet.data.beton.format import ALLOCATION, FIELD, HEADER
from lightning_resnet.data.beton.journal import FIELDS, PAGE, ROW
from lightning_resnet.data.beton.write import write_beton
from lightning_resnet.data.images import Images
from lightning_resnet.data.sources.folder import ImageFolder
from lightning_resnet.progress import metered

RAW = 50_000  # raw images, as many as CIFAR has
IMAGENET = 1_281_167  # samples


def make_photos(folder: Path, n: int, pixels: int = 500) -> None:
    """Write n photo-like JPEGs below `folder`/jpeg and the same in `folder`/photos.beton.

    They are random crops of photos that packages ship, of quality 92, in two classes.

    Args:
        folder: where to write.
        n: number of photos.
        pixels: longer side of each; the shorter one is three quarters of it.
    """
    short = pixels * 3 // 4
    photos = list(_photos())
    rng = np.random.default_rng(0)
    for i in metered(range(n), n, "photos made"):
        photo = photos[i % len(photos)]
        w, h = (pixels, short) if rng.random() < 0.7 else (short, pixels)
        width = int(min(photo.width, photo.height * w / h) * rng.uniform(0.6, 1))
        height = int(width * h / w)
        x = rng.integers(photo.width - width + 1)
        y = rng.integers(photo.height - height + 1)
        file = folder / "jpeg" / "ab"[i // len(photos) % 2] / f"{i:06}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        crop = photo.crop((x, y, x + width, y + height))
        crop.resize((w, h), Image.Resampling.BICUBIC).save(file, quality=92)
    source = ImageFolder(str(folder / "jpeg"))
    images = source.read(folder / "jpeg")
    write_beton(images, folder / "photos.beton", classes=source.classes)


def _photos() -> Iterator[Image.Image]:
    """Yield two photos of scikit-learn, and four of scikit-image where it is installed."""
    from sklearn.datasets import load_sample_images

    yield from map(Image.fromarray, load_sample_images().images)
    try:
        from skimage import data
    except ImportError:
        return
    for make in (data.astronaut, data.chelsea, data.coffee, data.rocket):
        yield Image.fromarray(make())


def make_raw(folder: Path) -> None:
    """Write noise images of 32x32 in ten classes to raw.npy and raw.beton."""
    pixels = np.random.default_rng(0).integers(0, 256, (RAW, 32, 32, 3), np.uint8)
    np.save(folder / "raw.npy", pixels)
    images = Images(np.arange(RAW), np.arange(RAW) % 10, pixels)
    write_beton(images, folder / "raw.beton", classes=[str(i) for i in range(10)])


def make_tables(path: Path, n: int = IMAGENET) -> None:
    """Write a .beton with the tables of n samples, shuffled, of one byte each."""
    fields = np.zeros(len(FIELDS), FIELD)
    for i, (name, kind) in enumerate(FIELDS):
        fields[i]["type_id"] = kind
        fields[i]["name"][: len(name)] = list(name.encode())
    rows = np.zeros(n, ROW)
    start = _pages(HEADER.itemsize + fields.nbytes + rows.nbytes)
    columns = {name: rows[f"f{i}"] for i, (name, _) in enumerate(FIELDS)}
    columns["id"][:] = np.random.default_rng(0).permutation(n)
    columns["label"][:] = np.arange(n) % 1000
    columns["image"]["width"] = 500
    columns["image"]["height"] = 375
    columns["image"]["data_ptr"] = start + np.arange(n)
    table = np.zeros(n, ALLOCATION)
    table["ptr"] = start + np.arange(n)
    table["size"] = 1
    table["sample_id"] = np.arange(n)
    header = np.array([(2, len(FIELDS), PAGE, n, _pages(start + n))], HEADER)
    with path.open("wb") as file:
        file.write(header.tobytes() + fields.tobytes() + rows.tobytes())
        file.seek(int(header["alloc_table_ptr"][0]))
        file.write(table.tobytes())


def _pages(size: int) -> int:
    """Round a number of bytes up to full pages."""
    return -(-size // PAGE) * PAGE
