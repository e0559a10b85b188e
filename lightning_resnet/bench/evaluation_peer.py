"""An evaluation as torchvision's references write it, which `resnet-cli bench evaluation` measures.

python -m lightning_resnet.bench.evaluation_peer FOLDER DEPTH SIZE THREADS DEVICE
"""

import json
import sys
import time
from functools import partial
from typing import Any

import torch
import torchvision
from torch.nn import functional as F
from torchvision.transforms.v2 import CenterCrop, Compose, Resize

BATCH = 64


def main(folder: str, depth: str, size: str, threads: str, device: str) -> None:
    """Evaluate with ImageFolder, Resize, CenterCrop, DataLoader and a loop; print the seconds."""
    torch.set_num_threads(int(threads))
    net = getattr(torchvision.models, f"resnet{depth}")(num_classes=2).to(device).eval()
    pixels = int(size)
    transform = Compose([Resize(round(pixels / 0.875), antialias=True), CenterCrop(pixels)])
    read = partial(torchvision.io.decode_image, mode=torchvision.io.ImageReadMode.RGB)
    images = torchvision.datasets.ImageFolder(f"{folder}/jpeg", transform, loader=read)
    loader = torch.utils.data.DataLoader(
        images, BATCH, num_workers=int(threads), pin_memory=device == "cuda"
    )
    start = time.perf_counter()
    loss: Any = 0
    correct: Any = 0
    with torch.inference_mode():
        for batch, labels in loader:
            labels = labels.to(device, non_blocking=True)
            logits = net((batch.to(device, non_blocking=True).float() - 120) / 60)
            loss += F.cross_entropy(logits, labels, reduction="sum")
            correct += (logits.argmax(1) == labels).sum()
    # reading the sums waits for the device
    float(loss)
    int(correct)
    print(json.dumps({"seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main(*sys.argv[1:])
