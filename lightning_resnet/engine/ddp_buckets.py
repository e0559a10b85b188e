"""DDP's buckets, in the layout that a run keeps over all its attempts."""

import pytorch_lightning as pl

from lightning_resnet.data.loaders.base import Loader


def settle_buckets(trainer: pl.Trainer, loader: Loader, epoch: int) -> None:
    """Let DDP see one backward pass, by whose order it then lays out its buckets for good.

    From three ranks on, a gradient's sum is rounded by its place in a bucket: without this, the first step after a
    continuation, summed in the first layout, would differ from that of the uninterrupted run.

    Args:
        trainer: of several ranks; with one there is nothing to do.
        loader: of the training images, whose first batch is used.
        epoch: whose image size counts.
    """
    if trainer.world_size == 1:
        return
    task = trainer.lightning_module
    before = [buffer.clone() for buffer in task.buffers()]
    batches = loader.batches(epoch)
    images, _ = trainer.strategy.batch_to_device(next(batches), dataloader_idx=0)
    batches.close()
    with trainer.precision_plugin.forward_context():
        loss = trainer.strategy.model(images).float().sum()
    loss.backward()
    task.zero_grad()
    for buffer, value in zip(task.buffers(), before, strict=True):
        buffer.copy_(value)
