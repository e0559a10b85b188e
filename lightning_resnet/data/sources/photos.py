"""`resnet-cli data get photos`: a folder of real photos in ten classes, made without a network.

The images are crops of the two photos that scikit-learn ships; a class is one of five upright
strips of a photo. Training and validation crops overlap: the folder shows that the way from JPEG
files to a trained net works, not that a net generalises.
"""

from pathlib import Path

import numpy as np
from PIL import Image

COUNTS = {"train": 2000, "val": 500}
STRIPS = 5
TOP = 110  # in pixels; above it one of the photos has nothing but sky
SIDES = (90, 128)  # range of the side of a crop, in pixels


def make_photos(root: Path, counts: dict[str, int] = COUNTS) -> None:
    """Write root/{train,val}/<class>/*.jpg, always the same; squares of 90 to 128 pixels, RGB.

    Args:
        root: folder, made if missing; files in it are written over.
        counts: split -> number of images, the ten classes in turn.
    """
    from sklearn.datasets import load_sample_images

    sample = load_sample_images()
    rng = np.random.default_rng(0)
    names = [Path(name).stem for name in sample.filenames]
    for split, n in counts.items():
        for i in range(n):
            photo, strip = divmod(i % (2 * STRIPS), STRIPS)
            pixels = sample.images[photo]
            width = pixels.shape[1] // STRIPS
            side = int(rng.integers(SIDES[0], SIDES[1] + 1))
            x = strip * width + int(rng.integers(width - side + 1))
            y = int(rng.integers(TOP, pixels.shape[0] - side + 1))
            file = root / split / f"{names[photo]}{strip + 1}" / f"{i:05}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[y : y + side, x : x + side]).save(file, quality=92)
