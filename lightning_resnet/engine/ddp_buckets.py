"""Fix the layout of DDP's gradient buckets, so that all attempts of a run use the same one."""

import pytorch_lightning as pl

from lightning_resnet.data.loaders.base import Loader


def settle_buckets(trainer: pl.Trainer, loader: Loader, epoch: int) -> None:
    """Run one backward pass, after which DDP lays out its buckets in the order of that pass.

    With three or more ranks, the rounding of a gradient's sum depends on the gradient's place in a
    bucket. DDP rebuilds its buckets after the first backward pass. Without this call, the first
    step of a continued run would use the initial layout, and its result would differ from that of
    the uninterrupted run. Parameters and buffers are unchanged afterwards.

    Args:
        trainer: trainer whose strategy is set up; with one rank nothing is done.
        loader: training loader; the first batch of the epoch is used.
        epoch: epoch that the training continues in, which determines the image size.
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
