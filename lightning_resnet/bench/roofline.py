"""What bounds a step from below: its arithmetic and its memory traffic, at rates measured here.

The roofline model (Williams et al. 2009): a program that does F operations and moves Q bytes takes
at least the larger of F / peak rate and Q / bandwidth.
"""

import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Traffic(TorchDispatchMode):
    """Adds up the bytes that operations read and write, each tensor once per operation.

    Attributes:
        bytes: bytes so far; floating-point numbers count as they are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Compute the operation, and count its tensors unless the result is a view."""
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        aliases = [r.alias_info for r in function._schema.returns]
        is_view = any(alias is not None and not alias.is_write for alias in aliases)
        if not is_view:
            for tensor in tree_leaves((args, kwargs, result)):
                if isinstance(tensor, torch.Tensor):
                    self.bytes += tensor.numel() * tensor.element_size()
        return result


def traffic(function: Callable[[], Any]) -> int:
    """Return the bytes that a function's operations read and write, without fusion or cache."""
    with _Traffic() as counter:
        function()
    return counter.bytes


def step_traffic(net: nn.Module, size: int, batch: int, precision: str) -> int:
    """Return the bytes that both passes of a step move, if no operation is fused with another.

    The update of the weights is left out. Nothing is computed: the net is copied to `meta`.

    Args:
        net: images [B, 3, S, S] -> logits [B, classes].
        size: pixels per side, S.
        batch: images, B.
        precision: 32 | bf16, in which images, weights and gradients then are.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    net = copy.deepcopy(net).to("meta", dtype).train()
    images = torch.empty(batch, 3, size, size, device="meta", dtype=dtype)
    labels = torch.empty(batch, device="meta", dtype=torch.int64)
    return traffic(lambda: F.cross_entropy(net(images), labels).backward())


def copy_rate(device: torch.device) -> float:
    """Return the bytes per second of the best of a few large copies, read and written."""
    n = 1 << (28 if device.type == "cuda" else 25)
    source = torch.zeros(n, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = 0.0
    for _ in range(8):
        start = time.perf_counter()
        target.copy_(source)
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * n / (time.perf_counter() - start))
    return best
