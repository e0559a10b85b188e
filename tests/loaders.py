"""What the tests of loaders share."""

import torch

from lightning_resnet.data.module import ImageData
from lightning_resnet.data.shard import Shard

LOADERS = ["torch", "ffcv"]


class Later(ImageData):
    """Training loaders begin at `epoch`."""

    epoch = 0

    def train_dataloader(self, steps=None):
        loader = super().train_dataloader(steps)
        loader.set_epoch(self.epoch)
        return loader


def plain_data_of(source, epoch=0, rank=0, world=1, accumulate=1, **options):
    torch.manual_seed(0)
    data = Later(source, **options)
    data.epoch = epoch
    data.shard = Shard(rank, world, accumulate=accumulate, epochs=4)
    data.setup()
    return data


def data_of(source, epoch=1, **options):
    """Photos as they are trained on: resized crops of 24 pixels, mirrored, from epoch 1 on."""
    usual = {"batch_size": 32, "crop": "resized", "size": 24, "flip": True}
    return plain_data_of(source, epoch, **(usual | options))


def copies(batches):
    return [(x.clone(), y.clone()) for x, y in batches]


def same(a, b):
    return len(a) == len(b) and all(
        torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(a, b, strict=True)
    )
