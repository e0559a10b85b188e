"""A user's net, outside the package: the sum is gated (Srivastava et al. 2015)."""

import torch
from torch import nn


class GatedNet(nn.Module):
    def __init__(self, depth: int, width: int = 8, num_classes: int = 10):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.branches = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))
        self.gates = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(depth))
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        for branch, gate in zip(self.branches, self.gates, strict=True):
            g = gate(x).sigmoid()
            x = g * branch(x).relu() + (1 - g) * x
        return self.head(x.mean((2, 3)))
