"""Part of another source: fewer classes, fewer training images.

`resnet-cli fit --config R.yaml --data.source Subset --data.source.source Digits
--data.source.per_class 30`
"""

import numpy as np

from lightning_resnet.data.images import SPLIT_SEED, Images
from lightning_resnet.data.order import permutation
from lightning_resnet.data.sources.base import Source, with_holdout
from lightning_resnet.errors import UserError


class Subset(Source):
    """The first classes of a source, with fewer training images; validation keeps all images.

    Args:
        source: the source to take from.
        num_classes: number of classes, the first ones; null = all.
        per_class: training images of each class, the same for all seeds; null = all.
        holdout: number of training images (of these classes) to validate on; those that validate
            are then the test set.
    """

    def __init__(
        self,
        source: Source,
        num_classes: int | None = None,
        per_class: int | None = None,
        holdout: int | None = None,
    ) -> None:
        for name, value, low in (("num_classes", num_classes, 2), ("per_class", per_class, 1)):
            if value is not None and value < low:
                raise ValueError(f"--data.source.{name} must be {low} or more, got {value}")
        self.source = source
        self.num_classes = num_classes
        self.per_class = per_class
        self.holdout = holdout
        self.mean = source.mean
        self.std = source.std

    def splits(self) -> dict[str, Images]:
        """Read the splits of the source and take the part."""
        self.source.stage = self.stage
        splits = self.source.splits()
        n = self.num_classes or len(self.source.classes)
        if n > len(self.source.classes):
            raise UserError(
                f"--data.source.num_classes {n}: the source has {len(self.source.classes)}"
            )
        self.classes = self.source.classes[:n]
        parts = {
            name: images.take(np.flatnonzero(images.labels < n)) for name, images in splits.items()
        }
        if "train" not in parts and (self.per_class or self.holdout):
            raise UserError(
                f"the source has only {' and '.join(parts)}, and no training images to take a part "
                "of: leave out --data.source.per_class and --data.source.holdout"
            )
        parts = with_holdout(parts, self.holdout)
        if "train" not in parts:
            return parts
        return parts | {"train": self._few(parts["train"], n)}

    def _few(self, images: Images, n: int) -> Images:
        """Take `per_class` images of each class."""
        if self.per_class is None:
            return images
        order = permutation(SPLIT_SEED, 2, len(images))
        of_class = [order[images.labels[order] == label] for label in range(n)]
        fewest = min(map(len, of_class))
        if fewest < self.per_class:
            raise UserError(
                f"--data.source.per_class {self.per_class}: one class has only {fewest} training "
                "images"
            )
        return images.take(np.concatenate([at[: self.per_class] for at in of_class]))
