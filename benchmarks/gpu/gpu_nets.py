"""Nets of a user for the checks of run.py."""

from torch import Tensor, nn

from lightning_resnet import CifarResNet


class Noisy(nn.Module):
    """A net that draws in training, which a graph can repeat.

    Args:
        num_classes: number of classes.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.net = CifarResNet(8, num_classes=num_classes)
        self.net.fc = nn.Sequential(nn.Dropout(0.3), self.net.fc)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of x."""
        return self.net(x)


class Reading(Noisy):
    """A net that reads a number from the device, which no graph can."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of x."""
        return self.net(x) if x.mean().item() > -1e9 else self.net(-x)
