"""The images of a split, wherever they are kept, and the fixed split of a hold-out."""

from dataclasses import dataclass

import numpy as np

from lightning_resnet.data.beton.format import Beton
from lightning_resnet.data.order import permutation
from lightning_resnet.errors import UserError

SPLIT_SEED = 0  # of every split we make: independent of the run's seed, so that runs share their validation set


@dataclass
class Images:
    """One split, in order of sample id.

    Attributes:
        ids: index of each sample in the source, int64 [n], rising; the name by which order and draws know it.
        labels: int64 [n].
        pixels: uint8 [n, H, W, C] with C 1 or 3 where the images are in memory.
        paths: [n] where they are files.
        file: where they are in a .beton,
        positions: and where in it, int64 [n].
    """

    ids: np.ndarray
    labels: np.ndarray
    pixels: np.ndarray | None = None
    paths: list[str] | None = None
    file: Beton | None = None
    positions: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, positions: np.ndarray) -> "Images":
        """The samples at `positions`, in order of id."""
        positions = np.sort(positions)
        return Images(
            self.ids[positions],
            self.labels[positions],
            None if self.pixels is None else self.pixels[positions],
            None if self.paths is None else [self.paths[i] for i in positions],
            self.file,
            None if self.positions is None else self.positions[positions],
        )


def hold_out(images: Images, n: int) -> tuple[Images, Images]:
    """Split at random, always the same way: (all but n, n)."""
    if not 0 < n < len(images):
        raise UserError(f"cannot hold out {n} of {len(images)} images: choose 1 to {len(images) - 1}")
    order = permutation(SPLIT_SEED, 0, len(images))
    return images.take(order[n:]), images.take(order[:n])
