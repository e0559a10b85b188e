"""The training loss of logits and labels, and the sums that metrics are made of."""

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
    """Return the mean loss of the images that are not damaged.

    If all images are damaged, the loss is 0 or NaN and the gradients are 0.

    Args:
        logits: [B, C].
        targets: class indices [B], -100 for damaged images, or probabilities [B, C], all 0 for
            damaged images.
        loss: "cross_entropy", or "bce": binary cross entropy of each class, mean over the classes
            (Wightman et al. 2021).
        smoothing: share of the target that is spread evenly over all classes, 0 to 1.
        threshold: targets above it count as 1 and others as 0, for "bce"; None: as they are.

    Returns:
        A scalar of at least single precision.
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
        targets: class indices [B], or probabilities [B, C]. An index below 0 makes a row of zeros.
        logits: [B, C].
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    if targets.ndim == 2:
        return targets.to(dtype)
    rows = F.one_hot(targets.clamp(min=0), logits.shape[1]).to(dtype)
    return rows * (targets >= 0)[:, None]


class TrainingSums:
    """Sums [5] over micro-batches, kept on the device.

    The sums are those of loss x images, of correct predictions, of micro-batches whose loss is
    finite, of images, and of damaged images (label below 0), which the other sums leave out.

    `add` only keeps its tensors; they are added up `KEPT` micro-batches at once, without waiting
    for the device: a dozen small operations in each step would take a tenth of a small net's time.

    Args:
        total: sums [5] to begin with; None: zeros.
    """

    KEPT = 64

    def __init__(self, total: Tensor | None = None) -> None:
        self._total = total
        self._steps: list[tuple[Tensor, ...]] = []

    @torch.no_grad()
    def add(self, loss: Tensor, labels: Tensor, correct: Tensor) -> None:
        """Add a micro-batch; all must have the same size.

        Args:
            loss: mean loss of the images that are not damaged, a scalar.
            labels: class indices [B], below 0 for damaged images.
            correct: which images are predicted correctly, bool [B].
        """
        self._steps.append((loss.detach(), labels, correct))
        if len(self._steps) == self.KEPT:
            self.total()

    @torch.no_grad()
    def total(self) -> Tensor | None:
        """Return the sums [5] of all micro-batches so far; None if there were none.

        The result does not depend on earlier calls: micro-batches are added in their order.
        """
        if self._steps:
            losses, labels, correct = (
                torch.stack(column) for column in zip(*self._steps, strict=True)
            )
            self._steps.clear()
            valid = labels >= 0
            n = valid.sum(1)
            # A micro-batch of damaged images alone has a loss of NaN, which is no divergence.
            losses = torch.where(n > 0, losses, 0).to(sum_dtype(n.device))
            parts = (losses * n, correct.sum(1), torch.isfinite(losses), n, (~valid).sum(1))
            rows = torch.stack([part.to(losses.dtype) for part in parts], 1)
            # In order: `sum` would add in pairs, and torch's list of operations without a
            # deterministic kernel for CUDA has `cumsum`.
            for row in rows:
                self._total = row if self._total is None else self._total.to(row) + row
        return self._total


def evaluation_sums(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the sums of a batch from which the metrics of an evaluation are made.

    Args:
        logits: [B, C]; with fewer than 5 classes, every image counts as correct among the top 5.
        labels: class indices [B]; -100 for a damaged image, which counts as seen only.

    Returns:
        Sums [5] of `sum_dtype`: loss, correct, correct among the top 5, images that are not
        damaged, images seen.
    """
    loss = F.cross_entropy(logits, labels, reduction="sum")
    hits = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
    seen = torch.full((), len(labels), device=logits.device)  # filled there, not copied
    parts = (loss, hits[:, 0].sum(), hits.sum(), (labels >= 0).sum(), seen)
    return torch.stack([t.to(sum_dtype(t.device)) for t in parts])
