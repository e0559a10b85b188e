"""Parameter groups by module type, for weight decay, and the choice of fused optimizer kernels."""

from typing import Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from lightning_resnet.models.blocks import Scale

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def parameter_groups(net: nn.Module, decay: Literal["weights", "all"] = "weights") -> list[dict]:
    """Return parameter groups with and without weight decay.

    Frozen parameters are in no group, and an empty group is left out.

    Args:
        net: the net.
        decay: parameters that weight decay acts on. "weights": all but biases and the parameters of
            norm modules and learned scales of branches; "all": all, as in He et al. 2015.
    """
    exempt = {
        id(p)
        for module in net.modules()
        for name, p in module.named_parameters(recurse=False)
        if decay == "weights" and (name.endswith("bias") or isinstance(module, (*NORMS, Scale)))
    }
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
