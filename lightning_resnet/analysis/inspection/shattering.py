"""How alike the gradients of two images, or of two batches, are.

Gradients with respect to the input of two images become unrelated with depth ("shattered": Balduzzi
et al. 2017, arXiv 1702.08591); gradients of two batches with respect to the weights that point in
opposite directions ("confused": Sankararaman et al. 2020, arXiv 1904.06963) make small steps
necessary. `resnet-cli inspect gradients` shows both.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_resnet.models.activations import record_blocks, train_mode
from lightning_resnet.models.batch_norm import measure_norms


def shattering(net: nn.Module, images: Tensor) -> list[float]:
    """Return the mean cosine between two images' gradients at the input of each block.

    The gradient is that of one fixed random combination of the logits, the same for all images.
    Batch norm normalises by these images, and their mean and variance count as constants: their
    own gradient would take the common part away.

    Args:
        net: on the device of the images; it is afterwards as it was before.
        images: normalised images [B, 3, H, W].

    Returns:
        One number per block, in order of depth; NaN for fewer than 2 images.
    """
    with train_mode(net), torch.enable_grad():
        if len(images) > 1:
            measure_norms(net, [images])
        net.eval()
        logits, blocks = record_blocks(net, images.detach().requires_grad_())
        generator = torch.Generator().manual_seed(0)
        above = torch.randn(logits.shape[1], generator=generator).to(logits)
        found = torch.autograd.grad((logits @ above).sum(), [block.x for block in blocks])
        return [mean_cosine(gradient) for gradient in found]


def mean_cosine(vectors: Tensor) -> float:
    """Return the mean cosine over all pairs of different rows; NaN for fewer than 2 rows.

    Args:
        vectors: [n, ...]; rows of zeros are left out.
    """
    rows = _unit(vectors)
    n = len(rows)
    if n < 2:
        return float("nan")
    return ((rows.sum(0).square().sum() - n) / (n * (n - 1))).item()


def lowest_cosine(vectors: Sequence[Tensor]) -> float:
    """Return the lowest cosine between two of the vectors; NaN for fewer than 2.

    Args:
        vectors: [d] each; vectors of zeros are left out.
    """
    rows = _unit(torch.stack(list(vectors)))
    n = len(rows)
    if n < 2:
        return float("nan")
    cosines = rows @ rows.T
    return cosines[~torch.eye(n, dtype=torch.bool, device=rows.device)].min().item()


def _unit(vectors: Tensor) -> Tensor:
    """Return the rows that are not zero at length 1, in float64: [n, d]."""
    rows = vectors.detach().flatten(1).double()
    norms = rows.norm(dim=1, keepdim=True)
    kept = norms.squeeze(1) > 0
    return rows[kept] / norms[kept]
