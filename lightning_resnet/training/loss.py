"""From logits and labels to the loss that is trained, and to the sums that metrics are made of."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_resnet.models.batch_norm import sum_dtype

Loss = Literal["cross_entropy", "bce"]


def training_loss(
    logits: Tensor,
    targets: Tensor,
    loss: Loss = "cross_entropy",
    smoothing: float = 0.0,
    threshold: float | None = None,
) -> Tensor:
    """Return the mean loss of the images that are not damaged; of none 0 or NaN, with gradients of 0.

    Args:
        logits: [B, C].
        targets: class indices [B], -100 of damaged images, or probabilities [B, C], all 0 of damaged images.
        loss: cross entropy, or "bce": each class its own binary decision, mean over classes (Wightman et al. 2021).
        smoothing: share of the target that is spread evenly over all classes.
        threshold: "bce" takes targets above it as 1 and others as 0; None: as they are.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if targets.ndim == 1 and loss == "cross_entropy":
        return F.cross_entropy(logits, targets, label_smoothing=smoothing)
    targets = probabilities(targets, logits)
    valid = targets.any(1)
    targets = targets * (1 - smoothing) + smoothing / logits.shape[1]
    if loss == "cross_entropy":
        losses = -(targets * logits.log_softmax(1)).sum(1)
    else:
        if threshold is not None:
            targets = (targets > threshold).to(targets.dtype)
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)
    return (losses * valid).sum() / valid.sum().clamp(min=1)


def probabilities(targets: Tensor, logits: Tensor) -> Tensor:
    """Return targets as probabilities [B, C] of at least single precision.

    Args:
        targets: class indices [B], whose rows are 0 where the index is below 0, or probabilities [B, C].
        logits: [B, C].
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    if targets.ndim == 2:
        return targets.to(dtype)
    rows = F.one_hot(targets.clamp(min=0), logits.shape[1]).to(dtype)
    return rows * (targets >= 0)[:, None]


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
            losses, labels, correct = (
                torch.stack(column) for column in zip(*self._steps, strict=True)
            )
            self._steps.clear()
            valid = labels >= 0
            n = valid.sum(1)
            losses = torch.where(n > 0, losses, 0).to(
                sum_dtype(n.device)
            )  # the mean of no image is no divergence
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
