r"""Bare PyTorch DDP loop, as short as it can be: the peer of ours in `resnet-cli bench train`.

python -m lightning_resnet.bench.bare \
  '{"net": "CifarResNet", "init_args": {"depth": 20}, "size": 8, "batch": 8, "steps": 9}'
"""

import json
import os
import sys
import time
from typing import Any

import torch
from torch import distributed as dist
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from lightning_resnet import models


def main(
    net: str,
    init_args: dict[str, Any],
    size: int,
    batch: int,
    steps: int,
    threads: int = 1,
    gpu: bool = False,
) -> None:
    """Train on random images; rank 0 prints the steps per second.

    Args:
        net: name of a class in `lightning_resnet.models`.
        init_args: arguments of the class.
        size: pixels per side of an image.
        batch: images per rank and step.
        steps: optimizer steps; the first fifth is not measured.
        threads: torch threads of each rank.
        gpu: train on the GPU of the local rank.
    """
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    rank = int(os.environ.get("LOCAL_RANK", 0))
    torch.set_num_threads(threads)
    device = torch.device("cuda", rank) if gpu else torch.device("cpu")
    model = getattr(models, net)(**init_args).to(device, memory_format=torch.channels_last)
    if world_size > 1:
        dist.init_process_group("nccl" if gpu else "gloo", rank=rank, world_size=world_size)
        model = DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = torch.optim.SGD(
        model.parameters(),
        0.01,
        0.9,
        nesterov=True,
        weight_decay=1e-4,
        fused=True if gpu else None,
    )
    images = torch.randint(0, 256, (8, batch, 3, size, size), dtype=torch.uint8).to(device)
    labels = torch.randint(0, 10, (8, batch)).to(device)
    warm = steps // 5
    for step in range(steps):
        if step == warm:
            _synchronize(gpu)
            start = time.perf_counter()
        x = images[step % 8].contiguous(memory_format=torch.channels_last)
        loss = F.cross_entropy(model((x.float() - 128) / 64), labels[step % 8])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    _synchronize(gpu)
    seconds = time.perf_counter() - start
    if rank == 0:
        print(json.dumps({"steps_per_s": (steps - warm) / seconds}))
    if world_size > 1:
        dist.destroy_process_group()


def _synchronize(gpu: bool) -> None:
    if gpu:
        torch.cuda.synchronize()


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
