"""What `resnet-cli bench loader` reads: photo-like JPEGs, raw pictures of 32x32, a file of ImageNet's size."""

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

RAW = 50_000  # raw pictures, as many as CIFAR has
IMAGENET = 1_281_167  # samples


def make_photos(folder: Path, n: int) -> None:
    """Random crops of photos that packages ship, as JPEGs of quality 92, in two classes; and a .beton of them."""
    photos, rng = list(_photos()), np.random.default_rng(0)
    for i in metered(range(n), n, "photos made"):
        photo = photos[i % len(photos)]
        w, h = (500, 375) if rng.random() < 0.7 else (375, 500)
        width = int(min(photo.width, photo.height * w / h) * rng.uniform(0.6, 1))
        height = int(width * h / w)
        x, y = rng.integers(photo.width - width + 1), rng.integers(photo.height - height + 1)
        file = folder / "jpeg" / "ab"[i // len(photos) % 2] / f"{i:06}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        photo.crop((x, y, x + width, y + height)).resize((w, h), Image.Resampling.BICUBIC).save(file, quality=92)
    source = ImageFolder(str(folder / "jpeg"))
    write_beton(source.read(folder / "jpeg"), folder / "photos.beton", classes=source.classes)


def _photos() -> Iterator[Image.Image]:
    """Two of scikit-learn, and scikit-image's where it is installed."""
    from sklearn.datasets import load_sample_images

    yield from map(Image.fromarray, load_sample_images().images)
    try:
        from skimage import data
    except ImportError:
        return
    yield from (Image.fromarray(make()) for make in (data.astronaut, data.chelsea, data.coffee, data.rocket))


def make_raw(folder: Path) -> None:
    """Noise of 32x32 in ten classes, in raw.npy and raw.beton."""
    pixels = np.random.default_rng(0).integers(0, 256, (RAW, 32, 32, 3), np.uint8)
    np.save(folder / "raw.npy", pixels)
    images, classes = Images(np.arange(RAW), np.arange(RAW) % 10, pixels), [str(i) for i in range(10)]
    write_beton(images, folder / "raw.beton", classes=classes)


def make_tables(path: Path, n: int = IMAGENET) -> None:
    """A .beton with the tables of n samples, shuffled, of one byte each."""
    fields, rows, table = np.zeros(len(FIELDS), FIELD), np.zeros(n, ROW), np.zeros(n, ALLOCATION)
    for i, (name, kind) in enumerate(FIELDS):
        fields[i]["type_id"], fields[i]["name"][: len(name)] = kind, list(name.encode())
    start = -(-(HEADER.itemsize + fields.nbytes + rows.nbytes) // PAGE) * PAGE
    columns = {name: rows[f"f{i}"] for i, (name, _) in enumerate(FIELDS)}
    columns["id"][:], columns["label"][:] = np.random.default_rng(0).permutation(n), np.arange(n) % 1000
    columns["image"]["width"], columns["image"]["height"] = 500, 375
    columns["image"]["data_ptr"] = table["ptr"] = start + np.arange(n)
    table["size"], table["sample_id"] = 1, np.arange(n)
    header = np.array([(2, len(FIELDS), PAGE, n, -(-(start + n) // PAGE) * PAGE)], HEADER)
    with path.open("wb") as file:
        file.write(header.tobytes() + fields.tobytes() + rows.tobytes())
        file.seek(int(header["alloc_table_ptr"][0]))
        file.write(table.tobytes())
