"""The Hessian of the loss by its products with vectors, two backward passes each.

The Hessian itself, a number for each pair of parameters, is never formed (Pearlmutter 1994).
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_resnet.models.activations import Batch

Product = Callable[[Tensor], Tensor]
BASIS_BYTES = 1e9  # memory for the vectors of the Lanczos method


def hessian_product(net: nn.Module, batches: Sequence[Batch]) -> tuple[Product, list[str]]:
    """Return the function v -> Hv of the mean loss, in the net's present mode.

    Args:
        net: on the device of the batches.
        batches: images and labels of which the loss is the mean cross-entropy.

    Returns:
        The function, on vectors [n] of all parameters that are trained, in the net's order; and the
        names of these parameters.
    """
    named = {name: p for name, p in net.named_parameters() if p.requires_grad}
    parameters = list(named.values())
    sizes = [p.numel() for p in parameters]
    n = sum(len(labels) for _, labels in batches)

    def product(v: Tensor) -> Tensor:
        parts = [part.view_as(p) for part, p in zip(v.split(sizes), parameters, strict=True)]
        total = torch.zeros_like(v)
        for images, labels in batches:
            with torch.enable_grad():
                loss = F.cross_entropy(net(images), labels, reduction="sum") / n
                if not loss.requires_grad:  # the weights have no part in it
                    continue
                gradients = torch.autograd.grad(
                    loss, parameters, create_graph=True, materialize_grads=True
                )
                slope = sum((g * part).sum() for g, part in zip(gradients, parts, strict=True))
                if not slope.requires_grad:  # a loss without any curvature
                    continue
                found = torch.autograd.grad(slope, parameters, materialize_grads=True)
            total += torch.cat([part.reshape(-1) for part in found])
        return total

    return product, list(named)


def random_signs(parameters: Sequence[Tensor], generator: torch.Generator) -> Tensor:
    """Return a vector of random signs, a number for each of all parameters."""
    n = sum(p.numel() for p in parameters)
    drawn = torch.randint(0, 2, (n,), generator=generator)
    return (2 * drawn - 1).to(parameters[0])


def lanczos(product: Product, start: Tensor, steps: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Run the Lanczos method with full reorthogonalisation.

    Args:
        product: v -> Hv.
        start: first vector [n].
        steps: products at most; fewer where vectors are so long that memory would not do.

    Returns:
        Ritz values in ascending order, or one NaN if a product is not finite; the weight of each in
        the density (they sum to 1); and the residual norm of the largest one, which bounds its
        distance from an eigenvalue.
    """
    most = int(BASIS_BYTES / (len(start) * start.element_size()))
    steps = min(steps, len(start), max(2, most))
    basis = torch.empty(steps, len(start), dtype=start.dtype, device=start.device)
    basis[0] = start / start.norm()
    diagonal: list[float] = []
    below: list[float] = []
    rest = 0.0
    for i in range(steps):
        w = product(basis[i])
        diagonal.append(float(w @ basis[i]))
        if not np.isfinite(diagonal[-1]):
            return np.array([np.nan]), np.ones(1), np.nan
        for _ in range(2):  # once is not enough in float32
            w = w - basis[: i + 1].T @ (basis[: i + 1] @ w)
        rest = float(w.norm())
        scale = max(map(abs, diagonal)) + max(below, default=0.0)
        if i + 1 == steps or rest <= 1e-6 * scale:
            break
        below.append(rest)
        basis[i + 1] = w / rest
    values, vectors = eigh_tridiagonal(np.array(diagonal), np.array(below[: len(diagonal) - 1]))
    return values, vectors[0] ** 2, rest * abs(vectors[-1, -1])
