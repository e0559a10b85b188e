"""Fashion-MNIST (Xiao et al. 2017)."""

import gzip
import zlib
from pathlib import Path

import numpy as np

from lightning_resnet.data.images import ArrayImages, Images
from lightning_resnet.data.sources.base import Source, with_holdout
from lightning_resnet.errors import UserError, one_line
from lightning_resnet.meant import DEBIAN_FASHION

MAX_IDX_BYTES = 1 << 27  # size of an unpacked file of MNIST's format; 47 million are usual


class FashionMNIST(Source):
    """60,000 training and 10,000 test images of clothes, 28x28, grey (Xiao et al. 2017).

    The 10,000 validate.

    Args:
        root: folder in which `resnet-cli data get fashion_mnist` put the images; Debian's
            package is found as well.
        holdout: number of training images to validate on instead; the 10,000 are then the test set.
    """

    classes = [
        "T-shirt",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    ]
    mean = (0.2860,) * 3
    std = (0.3530,) * 3

    def __init__(self, root: str = "data", holdout: int = 0) -> None:
        self.root = root
        self.holdout = holdout

    def splits(self) -> dict[str, Images]:
        """Read train and val, and test with `holdout`."""
        folders = [Path(self.root, "FashionMNIST", "raw"), DEBIAN_FASHION]
        found = [f for f in folders if any(f.glob("train-images-idx3-ubyte*"))]
        if not found:
            raise UserError(
                f"Fashion-MNIST not found in {' nor '.join(map(str, folders))}: run `resnet-cli "
                "data get fashion_mnist` or `apt-get install dataset-fashion-mnist`, or set "
                "--data.source.root"
            )
        train = _read_idx(found[0], "train")
        test = _read_idx(found[0], "t10k")
        return with_holdout({"train": train, "val": test}, self.holdout)


def _read_idx(folder: Path, split: str) -> Images:
    """Read the format of MNIST.

    A magic number, a big-endian header of 4 bytes per dimension, then the bytes.
    """
    pixels = _idx_bytes(folder, f"{split}-images-idx3-ubyte", 16)
    labels = _idx_bytes(folder, f"{split}-labels-idx1-ubyte", 8).astype(np.int64)
    if len(pixels) != len(labels) * 28 * 28:
        raise UserError(
            f"{folder} holds {len(pixels):,} bytes of {split} images for {len(labels):,} labels, "
            "of 28 x 28 each: get the data set again"
        )
    return ArrayImages(np.arange(len(labels)), labels, pixels.reshape(-1, 28, 28, 1))


def _idx_bytes(folder: Path, name: str, header: int) -> np.ndarray:
    path = folder / name
    try:
        with path.open("rb") if path.exists() else gzip.open(folder / f"{name}.gz") as file:
            raw = file.read(MAX_IDX_BYTES + 1)
        if not header <= len(raw) <= MAX_IDX_BYTES:
            raise ValueError(f"it has less than {header} or more than {MAX_IDX_BYTES:,} bytes")
    except (OSError, EOFError, ValueError, zlib.error) as e:
        raise UserError(
            f"cannot read {name} in {folder}: {one_line(e)}; get the data set again"
        ) from e
    return np.frombuffer(raw, np.uint8, offset=header)
