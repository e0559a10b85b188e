"""A loader that `resnet-cli bench loader` measures, in a process of its own: answers each line on stdin by an epoch.

python -m lightning_resnet.peers ours|ours-noverify|ffcv|torchvision FOLDER SIZE THREADS
"""

import json
import resource
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import psutil

BATCH = 256


def ours(folder: str, size: int, threads: int, check: bool = True) -> Callable[[], Iterable[Any]]:
    """Ours."""
    from lightning_resnet.data.augment import Augment
    from lightning_resnet.data.beton import Beton
    from lightning_resnet.data.betonfiles import images_of
    from lightning_resnet.data.ffcv import FFCVLoader
    from lightning_resnet.data.order import permutation, train_batches

    def make() -> FFCVLoader:
        beton = Beton(f"{folder}/f.beton")
        beton.crcs = beton.crcs if check else None
        images, augment = images_of(beton), Augment("resized", size, flip=True)
        batches = lambda epoch: train_batches(permutation(0, epoch, len(images)), BATCH)  # noqa: E731
        return FFCVLoader(images, lambda epoch: augment, 0, batches, len(images) // BATCH, workers=threads)

    return make


def ffcv(folder: str, size: int, threads: int) -> Callable[[], Iterable[Any]]:
    """FFCV's own."""
    from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip, Squeeze, ToTensor, ToTorchImage

    def make() -> Loader:
        image = [RandomResizedCropRGBImageDecoder((size, size)), RandomHorizontalFlip(), ToTensor(), ToTorchImage()]
        pipelines = {"image": image, "label": [IntDecoder(), ToTensor(), Squeeze()], "id": None}
        file = f"{folder}/f.beton"
        return Loader(file, BATCH, threads, order=OrderOption.RANDOM, seed=0, pipelines=pipelines)

    return make


def torchvision(folder: str, size: int, threads: int) -> Callable[[], Iterable[Any]]:
    """Torchvision's, with its fastest decoder."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms.v2 import Compose, RandomHorizontalFlip, RandomResizedCrop

    transform = Compose([RandomResizedCrop(size, antialias=True), RandomHorizontalFlip()])
    images = ImageFolder(f"{folder}/jpeg", transform, loader=partial(decode_image, mode=ImageReadMode.RGB))
    options = {"shuffle": True, "num_workers": threads, "persistent_workers": True, "drop_last": True}
    return lambda: DataLoader(images, BATCH, **options)


def main(name: str, folder: str, size: str, threads: str) -> None:
    """Make the loader, tell of the first batch, then run an epoch per line."""
    peers = {"ours": ours, "ours-noverify": partial(ours, check=False), "ffcv": ffcv, "torchvision": torchvision}
    make = peers[name](folder, int(size), int(threads))
    process, start = psutil.Process(), time.perf_counter()
    before = process.memory_info().rss
    loader = make()
    batches = iter(loader)
    next(batches)
    first = time.perf_counter() - start
    print(json.dumps({"first": first, "rss": process.memory_info().rss - before}), flush=True)
    for _ in batches:  # to its end: FFCV's thread would go on
        pass
    for _ in sys.stdin:
        start, cpu = time.perf_counter(), _cpu(process)
        n = sum(len(batch[0]) for batch in loader)
        seconds = time.perf_counter() - start
        print(json.dumps({"rate": n / seconds, "cpu": (_cpu(process) - cpu) / n}), flush=True)


def _cpu(process: psutil.Process) -> float:
    """Seconds of this process and its workers."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = [p.cpu_times() for p in process.children(recursive=True)]
    return own.ru_utime + own.ru_stime + sum(c.user + c.system for c in children)


if __name__ == "__main__":
    main(*sys.argv[1:])
