"""Ways to evaluate a net that published figures come from: crops, averages, norm statistics.

`centre`: one central crop. `ten`: four corners and the centre, and their mirror images, the softmax
outputs averaged (Krizhevsky et al. 2012, sec. 4.1; He et al. 2015, tables 2 and 3). The corners are
those of the entire image, as in torchvision's TenCrop; Krizhevsky et al. take those of the image's
central square. `flip`: the central crop and its mirror image, the logits added (ffcv-imagenet's
figures, at 256 pixels).
"""

import math
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from lightning_resnet.data.module import ImageData
from lightning_resnet.errors import UserError
from lightning_resnet.progress import metered

CENTRE = (0.5, 0.5)
Score = Callable[[Tensor], Tensor]


class CropScheme(NamedTuple):
    """One way to crop an image and to add up the outputs.

    Attributes:
        corners: places of the crops, (0, 0) for the first corner and (1, 1) for the last.
        mirror: whether the mirror images of the crops count too.
        score: logits [B, classes] -> what is added up over the crops.
    """

    corners: tuple[tuple[float, float], ...]
    mirror: bool
    score: Score


CROPS = {
    "centre": CropScheme((CENTRE,), False, lambda logits: logits),
    "ten": CropScheme(
        ((0, 0), (0, 1), (1, 0), (1, 1), CENTRE), True, lambda logits: logits.softmax(1)
    ),
    "flip": CropScheme((CENTRE,), True, lambda logits: logits),
}


@torch.inference_mode()
def top5(
    net: nn.Module,
    normalise: Score,
    data: ImageData,
    crops: str,
    size: int | None,
    split: str = "val",
) -> tuple[Tensor, Tensor]:
    """Return the most probable classes of each sample of a split, in order of the sample ids.

    Args:
        net: in eval mode.
        normalise: uint8 images -> what the net takes, on its device.
        data: the data, set up.
        crops: a key of `CROPS`.
        size: pixels per side of a crop; None: images as they are stored.
        split: name.

    Returns:
        Classes [n, 5 or as many as there are], the most probable first; and labels [n], negative
        for a damaged image.

    Raises:
        UserError: ten crops of images that are taken in full.
    """
    view = CROPS[crops]
    if size is None and len(view.corners) > 1:
        raise UserError(
            "--crops ten cuts squares out of larger images: give --sizes, such as --sizes 28 for "
            "32x32"
        )
    augments = [replace(data.eval_augment, size=size, corner=corner) for corner in view.corners]
    loaders = [data.eval_loader(split, augment) for augment in augments]
    found = []
    labels = []
    for batches in metered(zip(*loaders, strict=True), len(loaders[0]), "batches"):
        scores = 0
        for pixels, _ in batches:
            x = normalise(pixels)
            scores = scores + view.score(net(x))
            if view.mirror:
                scores = scores + view.score(net(x.flip(3)))
        found.append(scores.topk(min(5, scores.shape[1])).indices.cpu())
        labels.append(batches[0][1].clone())
    return torch.cat(found), torch.cat(labels)


def training_batches(data: ImageData, normalise: Score, n: int) -> Iterator[Tensor]:
    """Yield batches of n training images (or all) as augmented in the last epoch.

    Each is [B, 3, H, W], normalised.

    Args:
        data: the data, set up.
        normalise: uint8 images -> what the net takes, on its device.
        n: training images.

    Raises:
        UserError: there are none, fewer than a batch, or batch_size does not divide.
    """
    loader = data.train_dataloader()
    last = max(0, (data.shard.epochs or 1) - 1)
    enough = min(len(loader), math.ceil(n / data.micro_batch))
    with closing(loader.batches(last)) as batches:
        for pixels, _ in metered(islice(batches, enough), enough, "training batches"):
            yield normalise(pixels)


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927), which holds near 0 and 1 too."""
    interval = binomtest(hits, n).proportion_ci(0.95, "wilson")
    return float(interval.low), float(interval.high)
