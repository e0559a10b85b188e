"""Nets that inspections must know, and images for them."""

import timm
import torch
import torchvision
from sklearn.datasets import load_digits
from torch import nn

from lightning_resnet.models import CifarResNet


def digits(n=32, size=8):
    """Normalised digits and labels."""
    images, labels = load_digits(return_X_y=True)
    x = (torch.tensor(images[:n], dtype=torch.float32).view(n, 1, 8, 8) / 16 - 0.3) / 0.38
    return nn.functional.interpolate(x.expand(-1, 3, -1, -1), size=(size, size)), torch.tensor(
        labels[:n]
    )


class Half(nn.Module):
    """A user's block: half of x goes around."""

    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def branch(self, x):
        return self.conv(x)

    def shortcut(self, x):
        return x / 2

    def forward(self, x):
        return torch.relu(self.branch(x) + self.shortcut(x))


class Around(Half):
    """A user's block whose shortcut is a module, which is false as a container without modules."""

    shortcut = nn.Sequential()


class Preact(Half):
    """A user's block whose branch ends with a ReLU, while nothing follows the sum."""

    def branch(self, x):
        return self.conv(x).relu()

    def forward(self, x):
        return self.branch(x) + self.shortcut(x)


class Own(nn.Module):
    """A user's net, outside the package."""

    def __init__(self, lists=False, block=Half):
        super().__init__()
        self.stem, self.body, self.head = (
            nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()),
            nn.Sequential(block(8), block(8)),
            nn.Linear(8, 10),
        )
        if lists:
            self.blocks = lambda: (
                (f"body.{i}", b.branch, b.shortcut) for i, b in enumerate(self.body)
            )

    def forward(self, x):
        return self.head(self.body(self.stem(x)).mean((2, 3)))


NETS = {
    f"{s} {b}": lambda s=s, b=b: CifarResNet(20, s, block=b)
    for s in ("none", "A", "B", "C")
    for b in ("basic", "preact", "preact_bottleneck")
}
NETS |= {
    "no norm": lambda: CifarResNet(20, norm="none"),
    "preact no norm": lambda: CifarResNet(20, block="preact", norm="none"),
    "bottleneck": lambda: CifarResNet(29, block="bottleneck"),
    "torchvision": lambda: torchvision.models.resnet50(num_classes=10),
    "timm": lambda: timm.create_model("resnet50", num_classes=10),
    "own": Own,
    "own, listed": lambda: Own(lists=True),
    "own, around": lambda: Own(block=Around),
    "own preact": lambda: Own(block=Preact),
    "preact with a ReLU before the sum": lambda: CifarResNet(20, block="relu_before_add"),
}
