"""A loader that `resnet-cli bench loader` measures, in a process of its own: answers each line on stdin by an epoch.

python -m lightning_resnet.bench.peers ours|ffcv|torchvision|dali|ours-raw|... FOLDER SIZE THREADS
"""

import json
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import psutil

BATCH = 256
Make = Callable[[], Iterable[Any]]


def ours(file: str, size: int, threads: int, check: bool = True, raw: bool = False) -> Make:
    """Ours; `raw` pictures are padded, cropped and flipped, photos cropped and resized."""
    from lightning_resnet.data.augment.crops import Augment
    from lightning_resnet.data.loaders.beton_loader import FFCVLoader
    from lightning_resnet.data.order import permutation, train_batches
    from lightning_resnet.data.sources.beton_files import images_of, open_beton

    augment = Augment("pad", flip=True) if raw else Augment("resized", size, flip=True)

    def make() -> FFCVLoader:
        beton = open_beton(file)
        beton.crcs = beton.crcs if check else None
        images = images_of(beton)
        batches = lambda epoch: train_batches(permutation(0, epoch, len(images)), BATCH)  # noqa: E731
        return FFCVLoader(images, lambda epoch: augment, 0, batches, len(images) // BATCH, workers=threads)

    return make


def device(file: str) -> Make:
    """Ours, with all pictures in memory."""
    import torch

    from lightning_resnet.data.augment.crops import Augment
    from lightning_resnet.data.loaders.device_loader import DeviceLoader
    from lightning_resnet.data.order import permutation, train_batches
    from lightning_resnet.data.sources.beton_files import images_of, open_beton

    augment = Augment("pad", flip=True)

    def make() -> DeviceLoader:
        images = images_of(open_beton(file))
        batches = lambda epoch: train_batches(permutation(0, epoch, len(images)), BATCH)  # noqa: E731
        where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return DeviceLoader(images, lambda epoch: augment, 0, batches, len(images) // BATCH, device=where)

    return make


def ffcv(file: str, size: int, threads: int, raw: bool = False) -> Make:
    """FFCV's own."""
    from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder, SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip, RandomTranslate, Squeeze, ToTensor, ToTorchImage

    def make() -> Loader:
        first = (
            [SimpleRGBImageDecoder(), RandomTranslate(4)] if raw else [RandomResizedCropRGBImageDecoder((size, size))]
        )
        image = [*first, RandomHorizontalFlip(), ToTensor(), ToTorchImage()]
        pipelines = {"image": image, "label": [IntDecoder(), ToTensor(), Squeeze()], "id": None}
        return Loader(file, BATCH, threads, order=OrderOption.RANDOM, seed=0, pipelines=pipelines)

    return make


def torchvision(folder: str, size: int, threads: int, raw: bool = False) -> Make:
    """Torchvision's, with its fastest decoder."""
    import numpy as np
    import torch
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms.v2 import Compose, RandomCrop, RandomHorizontalFlip, RandomResizedCrop

    if raw:
        transform = Compose([RandomCrop(32, padding=4), RandomHorizontalFlip()])
        pixels = torch.from_numpy(np.load(f"{folder}/raw.npy")).permute(0, 3, 1, 2)
        images = _Mapped(pixels, transform)
    else:
        transform = Compose([RandomResizedCrop(size, antialias=True), RandomHorizontalFlip()])
        images = ImageFolder(f"{folder}/jpeg", transform, loader=partial(decode_image, mode=ImageReadMode.RGB))
    options = {"shuffle": True, "num_workers": threads, "persistent_workers": True, "drop_last": True}
    return lambda: DataLoader(images, BATCH, **options)


class _Mapped:
    """Pixels in memory and a transform, as a data set."""

    def __init__(self, pixels: Any, transform: Callable) -> None:
        self.pixels, self.transform = pixels, transform

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        return self.transform(self.pixels[i]), i % 10


def dali(folder: str, size: int, threads: int) -> Make:
    """NVIDIA's, on the CPU."""
    import numpy as np
    from nvidia.dali import fn, pipeline_def

    @pipeline_def(batch_size=BATCH, num_threads=threads, device_id=None, seed=0)
    def pipeline() -> tuple[Any, Any]:
        files, labels = fn.readers.file(file_root=f"{folder}/jpeg", random_shuffle=True, name="files")
        images = fn.decoders.image_random_crop(files, random_area=(0.08, 1), random_aspect_ratio=(3 / 4, 4 / 3))
        images = fn.resize(images, size=(size, size), antialias=True)
        return fn.flip(images, horizontal=fn.random.coin_flip()), labels

    class Epochs:
        def __init__(self) -> None:
            self.pipe = pipeline()
            self.pipe.build()

        def __iter__(self) -> Iterator[Any]:
            for _ in range(self.pipe.epoch_size("files") // BATCH):
                yield tuple(np.asarray(part.as_tensor()) for part in self.pipe.run())

    return Epochs


def make_of(name: str, folder: str, size: int, threads: int) -> Make:
    """What makes the loader of this name."""
    photos, raw, tables = (f"{folder}/{file}.beton" for file in ("photos", "raw", "tables"))
    return {
        "ours": lambda: ours(photos, size, threads),
        "ours-noverify": lambda: ours(photos, size, threads, check=False),
        "ffcv": lambda: ffcv(photos, size, threads),
        "torchvision": lambda: torchvision(folder, size, threads),
        "dali": lambda: dali(folder, size, threads),
        "ours-raw": lambda: ours(raw, size, threads, raw=True),
        "device-raw": lambda: device(raw),
        "ffcv-raw": lambda: ffcv(raw, size, threads, raw=True),
        "torchvision-raw": lambda: torchvision(folder, size, threads, raw=True),
        "ours-tables": lambda: ours(tables, size, threads),
        "ffcv-tables": lambda: ffcv(tables, size, threads),
    }[name]()


def main(name: str, folder: str, size: str, threads: str) -> None:
    """Make the loader, tell of the first batch, then run an epoch per line; of tables, make it once per line."""
    make, process = make_of(name, folder, int(size), int(threads)), psutil.Process()
    before, start = process.memory_info().rss, time.perf_counter()
    loader = make()
    if name.endswith("-tables"):
        print(json.dumps({"rss": process.memory_info().rss - before}), flush=True)
        for _ in sys.stdin:
            del loader
            start = time.perf_counter()
            loader = make()
            print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)
        return
    batches = iter(loader)
    next(batches)
    first = time.perf_counter() - start
    print(json.dumps({"first": first, "rss": process.memory_info().rss - before}), flush=True)
    for _ in batches:  # to its end: FFCV's thread would go on
        pass
    for _ in sys.stdin:
        start, cpu = time.perf_counter(), _cpu(process)
        n = sum(len(batch[0]) for batch in loader)
        if name == "device-raw":
            _wait()
        seconds = time.perf_counter() - start
        print(json.dumps({"rate": n / seconds, "cpu": (_cpu(process) - cpu) / n}), flush=True)


def _wait() -> None:
    """For a GPU."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _cpu(process: psutil.Process) -> float:
    """Seconds of this process and its workers."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = [p.cpu_times() for p in process.children(recursive=True)]
    return own.ru_utime + own.ru_stime + sum(c.user + c.system for c in children)


if __name__ == "__main__":
    main(*sys.argv[1:])
