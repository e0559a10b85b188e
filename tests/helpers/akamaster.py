"""A CIFAR net as akamaster/pytorch_resnet_cifar10 lays it out, written down plainly: the reference
of its converter.
"""

import torch
from torch import nn
from torch.nn import functional as F


class Pad(nn.Module):
    def forward(self, x):
        quarter = x.shape[1] // 2
        x = x[:, :, ::2, ::2]
        zeros = torch.zeros(x.shape[0], quarter, *x.shape[2:])
        return torch.cat([zeros, x, zeros], 1)


class Unit(nn.Module):
    def __init__(self, n_in, n_out, option):
        super().__init__()
        stride = n_out // n_in
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.shortcut = nn.Sequential()
        if stride != 1 and option == "A":
            self.shortcut = Pad()
        elif stride != 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out)
            )

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Akamaster(nn.Module):
    def __init__(self, n, option="A", num_classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        for i, (n_in, n_out) in enumerate([(16, 16), (16, 32), (32, 64)], 1):
            units = [Unit(n_in if k == 0 else n_out, n_out, option) for k in range(n)]
            self.add_module(f"layer{i}", nn.Sequential(*units))
        self.linear = nn.Linear(64, num_classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(F.avg_pool2d(x, x.shape[-1]).flatten(1))
