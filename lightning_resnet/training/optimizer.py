"""Weight decay by module type and learning rates by the fraction of training.

A schedule maps the fraction of training done (0 at the first optimizer step, below 1 at the last) to a factor of the
optimizer's learning rate. It holds no state unless it must watch metrics.
"""

from typing import Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def parameter_groups(net: nn.Module, decay: Literal["weights", "all"] = "weights") -> list[dict]:
    """Two groups: what the optimizer's weight decay acts on, and what it does not.

    Args:
        net: the net.
        decay: "weights": all but biases and the parameters of norm modules, whatever their names; "all": everything,
            as the paper's own recipe.
    """
    exempt = {
        id(p)
        for module in net.modules()
        for name, p in module.named_parameters(recurse=False)
        if decay == "weights" and (name.endswith("bias") or isinstance(module, NORMS))
    }
    trained = [p for p in net.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if id(p) not in exempt]},
        {"params": [p for p in trained if id(p) in exempt], "weight_decay": 0.0},
    ]
    return [g for g in groups if g["params"]]


def fuse(optimizer: torch.optim.Optimizer, device: torch.device) -> torch.optim.Optimizer:
    """One kernel per step on a GPU, where the optimizer has it and the recipe does not choose; elsewhere as it is."""
    for group in optimizer.param_groups if device.type == "cuda" else ():
        if group.get("fused", False) is None and group.get("foreach") is None:
            group["fused"] = True
    return optimizer
