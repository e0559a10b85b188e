"""Data as the loaders give it."""

from functools import partial

import torch

from lightning_resnet.data.beton.write import write_beton
from lightning_resnet.data.module import ImageData
from lightning_resnet.data.shard import Shard
from lightning_resnet.data.sources.beton_files import BetonFiles

LOADERS = ["torch", "ffcv"]


class Later(ImageData):
    """Data whose training loaders begin at `epoch`."""

    epoch = 0

    def train_dataloader(self, steps=None):
        loader = super().train_dataloader(steps)
        loader.set_epoch(self.epoch)
        return loader


def plain_data_of(source, epoch=0, rank=0, world=1, accumulate=1, **options):
    """Return an ImageData that is set up for one rank, from one epoch on."""
    torch.manual_seed(0)
    data = Later(source, **options)
    data.epoch = epoch
    data.shard = Shard(rank, world, accumulate=accumulate, epochs=4)
    data.setup()
    return data


def data_of(source, epoch=1, **options):
    """Return an ImageData with batches of 32 random crops of 24 pixels, mirrored, from
    epoch 1 on.
    """
    usual = {"batch_size": 32, "crop": "resized", "size": 24, "flip": True}
    return plain_data_of(source, epoch, **(usual | options))


def copies(batches):
    """Return copies of batches, whose memory a loader uses again."""
    return [(x.clone(), y.clone()) for x, y in batches]


def same(a, b):
    """Return whether two lists of batches are bitwise the same."""
    return len(a) == len(b) and all(
        torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(a, b, strict=True)
    )


def files_of(synthetic, folder, mode="auto"):
    """Write the splits of a source as .beton files; return these as a source."""
    write = partial(write_beton, classes=synthetic.classes, mode=mode, workers=1, progress=False)
    return BetonFiles(
        *(
            str(write(images, folder / f"{split}.beton"))
            for split, images in synthetic.splits().items()
        )
    )
