"""From logits and labels to the loss that is trained, and to the sums that metrics are made of."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_resnet.models.batch_norm import sum_dtype

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
    """Mean over the images whose label is not -100, which are damaged ones; of none 0 or NaN, with gradients of 0.

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
    if loss == "cross_entropy" and partners is None:
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)
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
    valid = labels >= 0
    return (rows * valid).sum() / valid.sum().clamp(min=1)


def one_hot(labels: Tensor, like: Tensor) -> Tensor:
    """[B, C] of the type of `like`; zeros where the label is below 0."""
    return F.one_hot(labels.clamp(min=0), like.shape[1]).to(like.dtype) * (labels >= 0)[:, None]


class TrainingSums:
    """Loss x images, correct, finite losses, images, damaged ones (label below 0): [5], one step after the other.

    A step only leaves its outcome here. It is added up `KEPT` steps at once, without waiting for the device: a dozen
    small operations in each step are a tenth of a small net's own.

    Args:
        total: [5], of earlier steps.
    """

    KEPT = 64

    def __init__(self, total: Tensor | None = None) -> None:
        self._total = total
        self._steps: list[tuple[Tensor, ...]] = []

    @torch.no_grad()
    def add(self, loss: Tensor, logits: Tensor, labels: Tensor, predicted: Tensor) -> None:
        """One micro-batch; all have the same size.

        Args:
            loss: scalar.
            logits: [B, C].
            labels: [B].
            predicted: the labels that count as correct [B].
        """
        self._steps.append((loss.detach(), labels, logits.argmax(1) == predicted))
        if len(self._steps) == self.KEPT:
            self.total()

    @torch.no_grad()
    def total(self) -> Tensor | None:
        """[5] of all steps so far, the same whenever it was asked for between them; None where there were none."""
        if self._steps:
            losses, labels, correct = (torch.stack(column) for column in zip(*self._steps, strict=True))
            self._steps.clear()
            valid = labels >= 0
            n = valid.sum(1)
            losses = torch.where(n > 0, losses, 0).to(sum_dtype(n.device))  # the mean of no image is no divergence
            parts = (losses * n, correct.sum(1), torch.isfinite(losses), n, (~valid).sum(1))
            rows = torch.stack([part.to(losses.dtype) for part in parts], 1)
            before = [] if self._total is None else [self._total.to(rows)[None]]
            self._total = torch.cat([*before, rows]).cumsum(0)[-1]  # in order; `sum` adds in pairs
        return self._total


def evaluation_sums(logits: Tensor, labels: Tensor) -> Tensor:
    """[5]: loss, correct, within the best five, images, those seen with the damaged ones; of `sum_dtype`.

    Args:
        logits: [B, C]; of C below 5, all are the best five.
        labels: [B]; -100 of a damaged picture, which counts as seen alone.
    """
    loss = F.cross_entropy(logits, labels, reduction="sum")
    hits = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
    seen = torch.tensor(len(labels), device=logits.device)
    parts = (loss, hits[:, 0].sum(), hits.sum(), (labels >= 0).sum(), seen)
    return torch.stack([t.to(sum_dtype(t.device)) for t in parts])
