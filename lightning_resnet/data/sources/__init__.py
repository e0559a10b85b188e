"""Data sets: a class each, which yields the images of its splits."""

from lightning_resnet.data.sources.base import Source
from lightning_resnet.data.sources.beton_files import BetonFiles
from lightning_resnet.data.sources.cifar import CIFAR10, CIFAR100
from lightning_resnet.data.sources.digits import Digits
from lightning_resnet.data.sources.fashion_mnist import FashionMNIST
from lightning_resnet.data.sources.folder import ImageFolder
from lightning_resnet.data.sources.imagenet import ImageNet, ImageNetV2
from lightning_resnet.data.sources.shards import Parquet, WebDataset
from lightning_resnet.data.sources.subset import Subset
from lightning_resnet.data.sources.synthetic import Synthetic

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "BetonFiles",
    "Digits",
    "FashionMNIST",
    "ImageFolder",
    "ImageNet",
    "ImageNetV2",
    "Parquet",
    "Source",
    "Subset",
    "Synthetic",
    "WebDataset",
]
