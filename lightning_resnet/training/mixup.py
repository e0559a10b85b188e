"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019) of neighbours in the global batch.

    resnet-cli fit --config configs/digits.yaml --model.mix "{mixup: 0.2, cutmix: 1.0}"

Images 2i and 2i + 1 of the epoch's order are partners: each is mixed into the other. The method,
the share and the box are hashes of (seed, epoch, i). A sample's partner, share and box therefore
depend neither on the number of ranks nor on accumulation. Each micro-batch must be even, because no
pair may be divided between two; the task refuses odd ones. (timm and torchvision draw one share
for a batch, and another on each rank.)
"""

from dataclasses import dataclass

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_resnet.data.draws import MIX
from lightning_resnet.data.hashing import uniform


@dataclass(frozen=True)
class Mix:
    """Mixup and CutMix of pairs of images.

    If both are on, each pair takes one of them, with equal chance.

    Attributes:
        mixup: alpha of Mixup (Zhang et al. 2018), whose shares are Beta(alpha, alpha); 0: off.
        cutmix: alpha of CutMix (Yun et al. 2019), whose shares are Beta(alpha, alpha); 0: off.
        pairs: share of the pairs that are mixed, above 0 and at most 1.

    Raises:
        ValueError: an alpha is negative, both are 0, or pairs is not above 0 and at most 1.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    pairs: float = 1.0

    def __post_init__(self) -> None:
        if (
            min(self.mixup, self.cutmix) < 0
            or not self.mixup + self.cutmix
            or not 0 < self.pairs <= 1
        ):
            raise ValueError(
                "--model.mix needs mixup or cutmix above 0 and pairs above 0, at most 1, "
                f"got {self}"
            )

    def draw(
        self, seed: int, epoch: int, pair: np.ndarray, height: int, width: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw the share of its own pixels that each image of a pair keeps.

        Args:
            seed: seed of the run.
            epoch: 0-based.
            pair: numbers of the pairs in the epoch [P].
            height: height of the images, in pixels.
            width: width of the images, in pixels.

        Returns:
            (shares [P], boxes [P, 4]). A box (top, left, bottom, right) in pixels comes from the
            partner and is clipped to the image; the share is then the area outside of the box. The
            box of a pair that takes Mixup is empty, and the share of a pair that is not mixed is 1.
        """
        from scipy.special import betaincinv

        mixed, way, u, y, x = (uniform(seed, epoch, pair, 0, MIX + k) for k in range(5))
        cut = (way < 0.5) if self.mixup and self.cutmix else np.full(len(pair), bool(self.cutmix))
        alpha = np.where(cut, self.cutmix, self.mixup)
        share = np.where(mixed < self.pairs, betaincinv(alpha, alpha, u), 1.0)
        half = 0.5 * np.sqrt(1 - share)
        middle = np.stack([y * height, x * width], axis=1).astype(np.int64)
        reach = (np.stack([half * height, half * width], axis=1) * cut[:, None]).astype(np.int64)
        low = np.maximum(middle - reach, 0)
        high = np.minimum(middle + reach, (height, width))
        kept = 1 - (high - low).prod(1) / (height * width)
        return np.where(cut, kept, share), np.concatenate([low, high], axis=1)


def places(batch_idx: int, n: int, trainer: pl.Trainer) -> np.ndarray:
    """Return the places in the epoch's order of the images of a micro-batch [n].

    They depend on the global batch alone, not on how it is divided among ranks and accumulation.

    Args:
        batch_idx: number of the micro-batch in this rank's epoch, 0-based.
        n: number of images in a micro-batch.
        trainer: source of world size, rank and accumulation.
    """
    step, part = divmod(batch_idx, trainer.accumulate_grad_batches)
    before = (
        (step * trainer.world_size + trainer.global_rank) * trainer.accumulate_grad_batches + part
    ) * n
    return before + np.arange(n)


def pair_numbers(batch_idx: int, n: int, trainer: pl.Trainer) -> np.ndarray:
    """Return the numbers in the epoch of a micro-batch's pairs [n / 2]; n is even.

    For the arguments see `places`.
    """
    return places(batch_idx, n, trainer)[::2] // 2


def own_parts(
    labels: Tensor,
    shares: Tensor,
    boxes: Tensor,
    height: int,
    width: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weight of each pixel's own image in the mixture.

    A pair with a damaged image (label below 0) is not mixed.

    Args:
        labels: class indices [B].
        shares: shares of the pairs [B / 2], see `Mix.draw`; on the device of the labels.
        boxes: boxes of the pairs [B / 2, 4], see `Mix.draw`; on the device of the labels.
        height: height of the images, in pixels.
        width: width of the images, in pixels.
        dtype: type of the normalised images.

    Returns:
        (weight of each pixel's own image [B, 1, H, W], labels of the partners [B], share of each
        image in its mixture [B]).
    """
    device = labels.device
    partners = labels[partner(len(labels), device)]
    undamaged = torch.minimum(labels, partners) >= 0
    # `expand` and not `repeat_interleave`, which reads its counts from the device.
    pairs = len(shares)
    share = shares[:, None].expand(pairs, 2).flatten()
    share = share.to(torch.promote_types(dtype, torch.float32))
    top, left, bottom, right = boxes[:, None].expand(pairs, 2, 4).flatten(0, 1).T[..., None]
    rows = torch.arange(height, device=device)
    columns = torch.arange(width, device=device)
    inside = ((rows >= top) & (rows < bottom))[:, :, None] & (
        (columns >= left) & (columns < right)
    )[:, None, :]
    # Mixup, whose box is empty, mixes all pixels; CutMix keeps all pixels outside of its box.
    own = torch.where(inside.flatten(1).any(1), 1.0, share)[:, None, None] * ~inside
    own = torch.where(undamaged[:, None, None], own, 1.0)[:, None].to(dtype)
    return own, partners, torch.where(undamaged, share, 1.0)


def mixed(x: Tensor, own: Tensor) -> Tensor:
    """Return mixtures of normalised images and their partners, in channels_last layout.

    Args:
        x: normalised images [B, 3, H, W].
        own: weight of each pixel's own image [B, 1, H, W]; the partner's pixel has the rest.
    """
    mixture = own * x + (1 - own) * x[partner(len(x), x.device)]
    return mixture.contiguous(memory_format=torch.channels_last)


def mixed_targets(targets: Tensor, share: Tensor) -> Tensor:
    """Return the targets of mixed images [B, C].

    Args:
        targets: probabilities [B, C].
        share: weight of each image in its mixture [B]; the partner has the rest.
    """
    weight = share[:, None].to(targets.dtype)
    return weight * targets + (1 - weight) * targets[partner(len(targets), targets.device)]


def partner(n: int, device: torch.device) -> Tensor:
    """Return the index of each image's partner in a micro-batch of n images [n]."""
    return torch.arange(n, device=device) ^ 1


def heavier(labels: Tensor, partners: Tensor, share: Tensor) -> Tensor:
    """Return the label with the larger share of each mixture [B], which counts as correct."""
    return torch.where(share < 0.5, partners, labels)
