"""Plain and residual nets, without Lightning and without files."""

from lightning_resnet.models.blocks import blocks
from lightning_resnet.models.initialization import init_parameters
from lightning_resnet.models.resnet import CifarResNet, ImageNetResNet

__all__ = ["CifarResNet", "ImageNetResNet", "blocks", "init_parameters"]
