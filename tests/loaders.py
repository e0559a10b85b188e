"""What the tests of loaders share."""

from types import SimpleNamespace

import torch

from lightning_resnet.data.module import ImageData

LOADERS = ["torch", "ffcv"]


def data_of(source, epoch=1, rank=0, world=1, **options):
    torch.manual_seed(0)
    data = ImageData(source, **({"batch_size": 32, "crop": "resized", "size": 24, "flip": True} | options))
    data.trainer = SimpleNamespace(
        global_rank=rank,
        world_size=world,
        num_devices=1,
        accumulate_grad_batches=1,
        current_epoch=epoch,
        max_epochs=4,
    )
    data.setup()
    return data


def copies(batches):
    return [(x.clone(), y.clone()) for x, y in batches]


def same(a, b):
    return len(a) == len(b) and all(
        torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(a, b, strict=True)
    )
