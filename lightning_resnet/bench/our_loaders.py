"""Our loaders, each measured by `resnet-cli bench loader` in its own process.

python -m lightning_resnet.bench.our_loaders ours|ours-noverify|... FOLDER SIZE THREADS [POLICY]
"""

import sys
from collections.abc import Callable, Iterator

import numpy as np
import torch

from lightning_resnet.bench.peers import BATCH, Make, serve
from lightning_resnet.data.augment import policies
from lightning_resnet.data.augment.crops import Augment
from lightning_resnet.data.loaders.beton_loader import FFCVLoader
from lightning_resnet.data.loaders.device_loader import DeviceLoader
from lightning_resnet.data.order import permutation, train_batches
from lightning_resnet.data.sources.beton_files import images_of, open_beton


def from_file(file: str, augment: Augment, threads: int, check: bool = True) -> Make:
    """Return a function that makes the loader of a .beton; `check`: with its CRCs."""

    def make() -> FFCVLoader:
        beton = open_beton(file)
        beton.crcs = beton.crcs if check else None
        images = images_of(beton)
        return FFCVLoader(
            images,
            lambda epoch: augment,
            0,
            _batches(len(images)),
            len(images) // BATCH,
            workers=threads,
        )

    return make


def in_memory(file: str, augment: Augment) -> Make:
    """Return a function that makes the loader that holds all images on the GPU, if there is one."""

    def make() -> DeviceLoader:
        images = images_of(open_beton(file))
        return DeviceLoader(
            images,
            lambda epoch: augment,
            0,
            _batches(len(images)),
            len(images) // BATCH,
            device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        )

    return make


def _batches(n: int) -> Callable[[int], Iterator[np.ndarray]]:
    """Return a function from an epoch to its batches of n images."""

    def batches(epoch: int) -> Iterator[np.ndarray]:
        return train_batches(permutation(0, epoch, n), BATCH)

    return batches


def make_of(name: str, folder: str, size: int, threads: int, policy: str | None = None) -> Make:
    """Return the function that makes the loader of this name.

    Args:
        name: one of those below.
        folder: where the inputs are.
        size: pixels per side.
        threads: number of threads.
        policy: class of the policy that changes the photos.
    """
    chosen = getattr(policies, policy)() if policy else None
    photos = Augment("resized", size, flip=True, policy=chosen)
    raw = Augment("pad", flip=True)
    return {
        "ours": from_file(f"{folder}/photos.beton", photos, threads),
        "ours-noverify": from_file(f"{folder}/photos.beton", photos, threads, check=False),
        "ours-raw": from_file(f"{folder}/raw.beton", raw, threads),
        "device-raw": in_memory(f"{folder}/raw.beton", raw),
        "ours-tables": from_file(f"{folder}/tables.beton", photos, threads),
    }[name]


def _wait_for_gpu() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main(name: str, folder: str, size: str, threads: str, policy: str | None = None) -> None:
    """Serve the loader of this name."""
    make = make_of(name, folder, int(size), int(threads), policy)
    if name == "device-raw":
        serve(name, make, _wait_for_gpu)
    else:
        serve(name, make)


if __name__ == "__main__":
    main(*sys.argv[1:])
