"""Parameter groups by module type, for weight decay, and the choice of fused optimizer kernels."""

from collections.abc import MutableMapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim.optimizer import ParamsT

from lightning_resnet.models.blocks import Scale, ScaledConv2d

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def parameter_groups(net: nn.Module, decay: Literal["weights", "all"] = "weights") -> list[dict]:
    """Return parameter groups with and without weight decay.

    Frozen parameters are in no group, and an empty group is left out.

    Args:
        net: the net.
        decay: parameters that weight decay acts on. "weights": all but biases and the parameters of
            norm modules, gains and learned scales of branches; "all": all, as in He et al. 2015.
    """
    exempt = set()
    for module in net.modules():
        is_norm = isinstance(module, (*NORMS, Scale))
        for name, p in module.named_parameters(recurse=False):
            is_gain = isinstance(module, ScaledConv2d) and name == "gain"
            if decay == "weights" and (name.endswith("bias") or is_norm or is_gain):
                exempt.add(id(p))
    trained = [p for p in net.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if id(p) not in exempt]},
        {"params": [p for p in trained if id(p) in exempt], "weight_decay": 0.0},
    ]
    return [g for g in groups if g["params"]]


def fuse(optimizer: torch.optim.Optimizer, device: torch.device) -> torch.optim.Optimizer:
    """Set `fused` in the groups of an optimizer on a GPU: one kernel per step.

    A group stays as it is if the optimizer has no fused kernel, or if the recipe sets `fused` or
    `foreach`.

    Args:
        optimizer: the optimizer, changed in place.
        device: device of the parameters.

    Returns:
        The same optimizer.
    """
    for group in optimizer.param_groups if device.type == "cuda" else ():
        if group.get("fused", False) is None and group.get("foreach") is None:
            group["fused"] = True
    return optimizer


class ConvMuon(torch.optim.Muon):
    """Muon for nets of convolutions: torch's own on kernels as matrices, SGD on the rest.

    A kernel [n_out, n_in, k, k] is taken as the matrix [n_out, n_in * k * k], as in its author's
    net for CIFAR-10 (Jordan et al. 2024): the momentum of its gradient is replaced by a nearly
    orthogonal matrix with the same singular vectors. All convolutions are updated so, the stem
    too. Biases, norms, scales and the linear head get SGD with the same momentum and learning rate.
    Weight decay multiplies by 1 - lr * weight_decay, in both.

    Args:
        params: parameters, or groups of them.
        lr: learning rate; torch's Muon multiplies it by sqrt(max(1, n_out / (n_in * k * k))).
        weight_decay: see above.
        momentum: of both.
        nesterov: whether the momentum looks ahead, in both.
        ns_steps: Newton-Schulz iterations of an update.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.02,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
    ) -> None:
        # The first group tells what torch's Muon has as defaults; its __init__ refuses kernels.
        one = torch.optim.Muon([torch.zeros(1, 1)], lr, weight_decay, momentum, nesterov)
        defaults = one.defaults | {"ns_steps": ns_steps}
        torch.optim.Optimizer.__init__(self, params, defaults)

    def _init_group(
        self,
        group: MutableMapping[str, Any],
        params_with_grad: list[Tensor],
        grads: list[Tensor],
        muon_momentum_bufs: list[Tensor],
    ) -> bool:
        """Collect kernels, their gradients and momenta as matrices, and update the rest."""
        for p in group["params"]:
            if p.grad is None:
                continue
            state = self.state[p]
            if p.ndim != 4:
                self._descend(p, group)
                continue
            # A view of the kernel in its own memory layout; the order of columns does not matter.
            order = (0, 2, 3, 1) if p.stride(1) == 1 else (0, 1, 2, 3)
            matrix = p.detach().permute(order).view(len(p), -1)
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(matrix)
            params_with_grad.append(matrix)
            grads.append(p.grad.permute(order).reshape(len(p), -1))
            muon_momentum_bufs.append(state["momentum_buffer"])
        return False  # no parameter is complex

    def _descend(self, p: Tensor, group: MutableMapping[str, Any]) -> None:
        """Update a parameter by SGD with momentum, as torch's SGD does."""
        state = self.state[p]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p)
        buffer = state["momentum_buffer"]
        buffer.mul_(group["momentum"]).add_(p.grad)
        update = p.grad + group["momentum"] * buffer if group["nesterov"] else buffer
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.add_(update, alpha=-group["lr"])
