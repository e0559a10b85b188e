"""Peers of our loader, each measured by `resnet-cli bench loader` in its own process.

python -m lightning_resnet.bench.peers ffcv|torchvision|dali|... FOLDER SIZE THREADS [POLICY]

The process answers each line on stdin with an epoch. Libraries are imported inside functions, so
that a process holds those of its own peer alone.
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
POLICIES = {  # ours: torchvision's class of the same operations and magnitudes
    "TrivialAugment": "TrivialAugmentWide",
    "RandAugment": "RandAugment",
}
Make = Callable[[], Iterable[Any]]


def ffcv(file: str, size: int, threads: int, raw: bool = False) -> Make:
    """Return a function that makes FFCV's own loader of a .beton."""
    from ffcv.fields.decoders import (
        IntDecoder,
        RandomResizedCropRGBImageDecoder,
        SimpleRGBImageDecoder,
    )
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import (
        RandomHorizontalFlip,
        RandomTranslate,
        Squeeze,
        ToTensor,
        ToTorchImage,
    )

    def make() -> Loader:
        if raw:
            first = [SimpleRGBImageDecoder(), RandomTranslate(4)]
        else:
            first = [RandomResizedCropRGBImageDecoder((size, size))]
        pipelines = {
            "image": [*first, RandomHorizontalFlip(), ToTensor(), ToTorchImage()],
            "label": [IntDecoder(), ToTensor(), Squeeze()],
            "id": None,
        }
        return Loader(file, BATCH, threads, order=OrderOption.RANDOM, seed=0, pipelines=pipelines)

    return make


def torchvision(
    folder: str,
    size: int,
    threads: int,
    raw: bool = False,
    decoder: str = "torchvision",
    policy: str | None = None,
) -> Make:
    """Return a function that makes torchvision's loader.

    Args:
        folder: where the inputs are.
        size: pixels per side.
        threads: number of processes.
        raw: take the images in memory instead of the photos.
        decoder: what decodes the photos: pillow, torchvision's default, and then Pillow changes
            them too; torchvision's faster decoder or torchcodec's, which make tensors.
        policy: name of our class of the policy; torchvision's counterpart changes the photos.
    """
    import numpy as np
    import torch
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms import v2
    from torchvision.transforms.v2 import (
        Compose,
        PILToTensor,
        RandomCrop,
        RandomHorizontalFlip,
        RandomResizedCrop,
    )

    bilinear = v2.InterpolationMode.BILINEAR
    policies = [getattr(v2, POLICIES[policy])(interpolation=bilinear)] if policy else []
    if raw:
        transform = Compose([RandomCrop(32, padding=4), RandomHorizontalFlip()])
        pixels = torch.from_numpy(np.load(f"{folder}/raw.npy")).permute(0, 3, 1, 2)
        images = _Mapped(pixels, transform)
    else:
        steps = [RandomResizedCrop(size, antialias=True), RandomHorizontalFlip(), *policies]
        if decoder == "pillow":
            images = ImageFolder(f"{folder}/jpeg", Compose([*steps, PILToTensor()]))
        else:
            read = partial(decode_image, mode=ImageReadMode.RGB)
            if decoder == "torchcodec":
                from torchcodec.decoders import decode_jpeg

                read = partial(decode_jpeg, mode="RGB")
            images = ImageFolder(f"{folder}/jpeg", Compose(steps), loader=read)
    return partial(
        DataLoader,
        images,
        BATCH,
        shuffle=True,
        num_workers=threads,
        persistent_workers=True,
        drop_last=True,
    )


class _Mapped:
    """Data set of pixels in memory, with a transform."""

    def __init__(self, pixels: Any, transform: Callable) -> None:
        self.pixels = pixels
        self.transform = transform

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        return self.transform(self.pixels[i]), i % 10


def dali(folder: str, size: int, threads: int) -> Make:
    """Return a function that makes NVIDIA DALI's loader, on the CPU."""
    import numpy as np
    from nvidia.dali import fn, pipeline_def

    @pipeline_def(batch_size=BATCH, num_threads=threads, device_id=None, seed=0)
    def pipeline() -> tuple[Any, Any]:
        files, labels = fn.readers.file(
            file_root=f"{folder}/jpeg", random_shuffle=True, name="files"
        )
        images = fn.decoders.image_random_crop(
            files, random_area=(0.08, 1), random_aspect_ratio=(3 / 4, 4 / 3)
        )
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


def webdataset(folder: str, size: int, threads: int) -> Make:
    """Return a function that makes WebDataset's loader of tar files, with torchvision's decoder."""
    import io
    import tarfile
    from pathlib import Path

    import numpy as np
    import torch
    import webdataset as wds
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms.v2 import Compose, RandomHorizontalFlip, RandomResizedCrop

    files = sorted(Path(folder, "jpeg").rglob("*.jpg"))
    shards = [f"{folder}/photos-{number}.tar" for number in range(4 * threads)]
    for number, shard in enumerate(shards):
        with tarfile.open(shard, "w") as tar:
            for file in files[number :: len(shards)]:
                tar.add(file, f"{file.stem}.jpg")
                label = b"%d" % (file.parent.name == "b")
                entry = tarfile.TarInfo(f"{file.stem}.cls")
                entry.size = len(label)
                tar.addfile(entry, io.BytesIO(label))
    change = Compose([RandomResizedCrop(size, antialias=True), RandomHorizontalFlip()])

    def decode(data: bytes) -> torch.Tensor:
        encoded = torch.from_numpy(np.frombuffer(data, np.uint8).copy())
        return change(decode_image(encoded, ImageReadMode.RGB))

    images = wds.WebDataset(shards, shardshuffle=len(shards), seed=0).shuffle(1000)
    images = images.to_tuple("jpg", "cls").map_tuple(decode, int).batched(BATCH)
    return partial(
        torch.utils.data.DataLoader,
        images,
        batch_size=None,
        num_workers=threads,
        persistent_workers=True,
    )


def spdl(folder: str, size: int, threads: int) -> Make:
    """Return a function that makes SPDL's pipeline of threads, whose FFmpeg decodes and resizes."""
    import random
    from pathlib import Path

    import torch
    from spdl import io
    from spdl.pipeline import PipelineBuilder
    from torchvision.transforms import RandomResizedCrop

    files = [str(file) for file in Path(folder, "jpeg").rglob("*.jpg")]

    def decode(file: str) -> Any:
        packets = io.demux_image(file)
        image = torch.empty((3, packets.height, packets.width), device="meta")  # only a shape
        y, x, height, width = RandomResizedCrop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3))
        steps = f"crop={width}:{height}:{x}:{y},scale={size}:{size},format=rgb24"
        if random.random() < 0.5:
            steps += ",hflip"
        return io.decode_packets(packets, filter_desc=steps)

    class Epochs:
        def __iter__(self) -> Iterator[Any]:
            random.shuffle(files)
            builder = PipelineBuilder().add_source(files).pipe(decode, concurrency=threads)
            builder = builder.aggregate(BATCH, drop_last=True).pipe(io.convert_frames)
            pipeline = builder.add_sink(2).build(num_threads=threads)
            with pipeline.auto_stop():
                for batch in pipeline:
                    yield (io.to_torch(batch),)

    return Epochs


OTHERS = {"dali": dali, "webdataset": webdataset, "spdl": spdl}
DECODERS = {  # peer that loads by torchvision -> what decodes
    "torchvision": "torchvision",
    "torchvision-pil": "pillow",
    "torchcodec": "torchcodec",
}


def make_of(name: str, folder: str, size: int, threads: int, policy: str | None = None) -> Make:
    """Return the function that makes the loader of this name; torchvision's take a policy."""
    if name == "ffcv":
        return ffcv(f"{folder}/photos.beton", size, threads)
    if name == "ffcv-raw":
        return ffcv(f"{folder}/raw.beton", size, threads, raw=True)
    if name == "ffcv-tables":
        return ffcv(f"{folder}/tables.beton", size, threads)
    if name in OTHERS:
        return OTHERS[name](folder, size, threads)
    if name == "torchvision-raw":
        return torchvision(folder, size, threads, raw=True)
    return torchvision(folder, size, threads, decoder=DECODERS[name], policy=policy)


def serve(name: str, make: Make, wait: Callable[[], None] | None = None) -> None:
    """Make a loader and print its first figures, then run an epoch for each line on stdin.

    Args:
        name: of the loader; one that ends in `-tables` is made once per line, without an epoch.
        make: makes the loader.
        wait: waits until the device has done the epoch's work.
    """
    process = psutil.Process()
    before = process.memory_info().rss
    start = time.perf_counter()
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
    resident = process.memory_info().rss - before
    print(json.dumps({"first": first, "rss": resident}), flush=True)
    for _ in batches:  # to its end: FFCV's thread would go on
        pass
    for _ in sys.stdin:
        start = time.perf_counter()
        cpu = _cpu(process)
        n = sum(len(batch[0]) for batch in loader)
        if wait:
            wait()
        seconds = time.perf_counter() - start
        print(json.dumps({"rate": n / seconds, "cpu": (_cpu(process) - cpu) / n}), flush=True)


def _cpu(process: psutil.Process) -> float:
    """Return the CPU seconds of this process and its workers."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    workers = [p.cpu_times() for p in process.children(recursive=True)]
    return own.ru_utime + own.ru_stime + sum(c.user + c.system for c in workers)


def main(name: str, folder: str, size: str, threads: str, policy: str | None = None) -> None:
    """Serve the loader of this name."""
    serve(name, make_of(name, folder, int(size), int(threads), policy))


if __name__ == "__main__":
    main(*sys.argv[1:])
