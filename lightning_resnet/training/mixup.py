"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019) of neighbours in the global batch.

resnet-cli fit --config configs/digits.yaml --model.mix "{mixup: 0.2, cutmix: 1.0}"

Images 2i and 2i + 1 of the epoch's order are partners: each takes the other's part. Which way, how much and where are
hashes of (seed, epoch, i). So a sample's partner, share and box depend neither on ranks nor on accumulation, as long as
each rank's batch is even; else a pair would stand on two ranks, which is refused. (Peers draw one share for a whole
batch, and another on each rank.)
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
    """How pairs are mixed; where both ways are on, each pair takes either with equal chance.

    Attributes:
        mixup: alpha of Mixup's shares, which are Beta(alpha, alpha); 0 is off.
        cutmix: alpha of CutMix's; 0 is off.
        pairs: share of the pairs that are mixed at all.

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
                f"--model.mix needs mixup or cutmix above 0 and pairs above 0, at most 1, got {self}"
            )

    def draw(
        self, seed: int, epoch: int, pair: np.ndarray, height: int, width: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """What each image of a pair keeps of itself.

        Args:
            seed: of the run.
            epoch: 0-based.
            pair: numbers of the pairs in the epoch [P].
            height: of the images, in pixels.
            width: of the images, in pixels.

        Returns:
            (shares [P], boxes (top, left, bottom, right) that come from the partner [P, 4]); a box is empty in Mixup,
            and else cut off at the edges, after which the share is what is left of the area.
        """
        from scipy.special import betaincinv

        mixed, way, u, y, x = (uniform(seed, epoch, pair, 0, MIX + k) for k in range(5))
        cut = (way < 0.5) if self.mixup and self.cutmix else np.full(len(pair), bool(self.cutmix))
        alpha = np.where(cut, self.cutmix, self.mixup)
        share = np.where(mixed < self.pairs, betaincinv(alpha, alpha, u), 1.0)
        half = 0.5 * np.sqrt(1 - share)
        middle = np.stack([y * height, x * width], axis=1).astype(np.int64)
        reach = (np.stack([half * height, half * width], axis=1) * cut[:, None]).astype(np.int64)
        low, high = np.maximum(middle - reach, 0), np.minimum(middle + reach, (height, width))
        kept = 1 - (high - low).prod(1) / (height * width)
        return np.where(cut, kept, share), np.concatenate([low, high], axis=1)


def pair_numbers(batch_idx: int, n: int, trainer: pl.Trainer) -> np.ndarray:
    """Numbers in the epoch of the pairs of a micro-batch [n / 2].

    Args:
        batch_idx: of the micro-batch in this rank's epoch.
        n: images of a micro-batch, even.
        trainer: knows ranks and accumulation.
    """
    step, part = divmod(batch_idx, trainer.accumulate_grad_batches)
    before = (
        (step * trainer.world_size + trainer.global_rank) * trainer.accumulate_grad_batches + part
    ) * n
    return before // 2 + np.arange(n // 2)


def own_parts(
    labels: Tensor,
    shares: np.ndarray,
    boxes: np.ndarray,
    height: int,
    width: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """Of which image each pixel is; a damaged picture (label below 0) and its partner stay as they are.

    Args:
        labels: [B].
        shares: see `Mix.draw` [B / 2].
        boxes: [B / 2, 4].
        height: of the images, in pixels.
        width: of the images, in pixels.
        dtype: of the normalised images.

    Returns:
        (own part of each pixel [B, 1, H, W], labels of the partners [B], share of each image in its mixture [B]).
    """
    device = labels.device
    partners = labels[partner(len(labels), device)]
    whole = torch.minimum(labels, partners) >= 0
    share = torch.from_numpy(shares.repeat(2)).to(device, torch.promote_types(dtype, torch.float32))
    top, left, bottom, right = torch.from_numpy(boxes.repeat(2, 0)).to(device).T[..., None]
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    inside = ((rows >= top) & (rows < bottom))[:, :, None] & (
        (columns >= left) & (columns < right)
    )[:, None, :]
    # Mixup's pixels are shared; of CutMix, whose box is not empty, all others are the image's own
    own = torch.where(inside.flatten(1).any(1), 1.0, share)[:, None, None] * ~inside
    own = torch.where(whole[:, None, None], own, 1.0)[:, None].to(dtype)
    return own, partners, torch.where(whole, share, 1.0)


def mixed(x: Tensor, own: Tensor) -> Tensor:
    """Normalised images [B, 3, H, W], `own` of each pixel from itself and the rest from its partner's."""
    mixture = own * x + (1 - own) * x[partner(len(x), x.device)]
    return mixture.contiguous(memory_format=torch.channels_last)


def mixed_targets(targets: Tensor, share: Tensor) -> Tensor:
    """Return the targets of mixed images [B, C]: `share` of the image's own, the rest of its partner's.

    Args:
        targets: probabilities [B, C].
        share: weight of each image in its mixture [B].
    """
    weight = share[:, None].to(targets.dtype)
    return weight * targets + (1 - weight) * targets[partner(len(targets), targets.device)]


def partner(n: int, device: torch.device) -> Tensor:
    """Number of each image's partner in its batch [n]."""
    return torch.arange(n, device=device) ^ 1


def heavier(labels: Tensor, partners: Tensor, share: Tensor) -> Tensor:
    """The label with the larger part in each image [B]: what counts as correct."""
    return torch.where(share < 0.5, partners, labels)
