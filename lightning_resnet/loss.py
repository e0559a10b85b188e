"""From logits and labels to the loss that is trained, and to the sums that metrics are made of."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Loss = Literal["cross_entropy", "bce"]


def training_loss(
    logits: Tensor,
    labels: Tensor,
    partners: Tensor | None = None,
    share: Tensor | None = None,
    loss: Loss = "cross_entropy",
    smoothing: float = 0.0,
    threshold: float | None = None,
) -> Tensor:
    """Mean over the images whose label is not below 0, which are damaged ones; 0 where all are.

    Args:
        logits: [B, C].
        labels: [B].
        partners: labels of the images mixed in [B].
        share: of the image's own label in the target [B]; the rest is the partner's.
        loss: cross entropy, or "bce": each class its own binary decision, mean over classes (Wightman et al. 2021).
        smoothing: share of the target that is spread evenly over all classes.
        threshold: "bce" takes targets above it as 1 and others as 0; None: as they are.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    valid = labels >= 0
    n = valid.sum().clamp(min=1)
    if loss == "cross_entropy" and partners is None:
        return F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="sum") / n
    targets = one_hot(labels, logits)
    if partners is not None:
        share = share[:, None].to(logits.dtype)
        targets = share * targets + (1 - share) * one_hot(partners, logits)
    targets = targets * (1 - smoothing) + smoothing / logits.shape[1]
    if loss == "cross_entropy":
        rows = -(targets * logits.log_softmax(1)).sum(1)
    else:
        hard = targets if threshold is None else (targets > threshold).to(targets.dtype)
        rows = F.binary_cross_entropy_with_logits(logits, hard, reduction="none").mean(1)
    return (rows * valid).sum() / n


def one_hot(labels: Tensor, like: Tensor) -> Tensor:
    """[B, C] of the type of `like`; zeros where the label is below 0."""
    return F.one_hot(labels.clamp(min=0), like.shape[1]).to(like.dtype) * (labels >= 0)[:, None]


@torch.no_grad()
def training_sums(loss: Tensor, logits: Tensor, labels: Tensor, dtype: torch.dtype) -> Tensor:
    """[5]: loss x images, correct, finite losses, images, damaged ones (label below 0)."""
    n, loss = (labels >= 0).sum(), loss.to(torch.promote_types(loss.dtype, torch.float32))
    parts = (loss * n, (logits.argmax(1) == labels).sum(), torch.isfinite(loss), n, len(labels) - n)
    return torch.stack(parts).to(dtype)  # counts of a batch are exact in float32


def evaluation_sums(logits: Tensor, labels: Tensor, dtype: torch.dtype) -> Tensor:
    """[5]: loss, correct, within the best five, images, those seen with the damaged ones."""
    loss = F.cross_entropy(logits, labels, reduction="sum")
    hits = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
    seen = torch.tensor(len(labels), device=logits.device)
    parts = (loss, hits[:, 0].sum(), hits.sum(), (labels >= 0).sum(), seen)
    return torch.stack([t.to(dtype) for t in parts])
