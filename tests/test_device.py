"""The loader whose images stay on the device: bitwise the batches of the others, whatever epoch,
rank or stop.
"""

import numpy as np
import pytest
import torch
from helpers.loaders import copies, data_of, files_of, same

from lightning_resnet.data.augment.crops import Augment, Progressive
from lightning_resnet.data.images import Images
from lightning_resnet.data.loaders import device_loader as device
from lightning_resnet.data.loaders.device_loader import DeviceLoader
from lightning_resnet.data.loaders.torch_loader import TorchLoader
from lightning_resnet.data.sources.synthetic import Synthetic
from lightning_resnet.engine.transfer import on_device
from lightning_resnet.errors import UserError

OWN_SIZE = {"size": None, "crop": "pad", "pad": 3, "flip": True}


class Grey(Synthetic):
    """One channel, images that are not square, in memory that must not be written to."""

    def splits(self):
        splits = super().splits()
        for images in splits.values():
            images.pixels = images.pixels[:, :, :-4, :1]
            images.pixels.flags.writeable = False
        return splits


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return files_of(Synthetic(192, 40, 16), tmp_path_factory.mktemp("raw"), "raw")


@pytest.mark.parametrize("make", [lambda: Synthetic(192, 40, 16), lambda: Grey(192, 40, 16)])
@pytest.mark.parametrize(
    "changes", [{}, {"crop": "none"}, {"flip": False}, {"order": "repeat", "repeats": 3}]
)
def test_the_same_batches_as_the_torch_loader(make, changes):
    for epoch, rank in ((0, 0), (1, 0), (1, 1), (2, 1)):
        options = OWN_SIZE | changes | {"epoch": epoch, "rank": rank, "world": 2}
        theirs = data_of(make(), loader="torch", workers=0, **options)
        ours = data_of(make(), loader="device", **options)
        assert same(copies(ours.train_dataloader()), copies(theirs.train_dataloader()))
        for a, b in zip(ours.val_dataloader(), theirs.val_dataloader(), strict=True):
            assert same(copies(a), copies(b)) and len(a) == len(b)


def test_the_same_batches_as_the_ffcv_loader(raw):
    for epoch in (0, 1):
        a, b = (
            data_of(raw, epoch, loader=kind, **OWN_SIZE).train_dataloader()
            for kind in ("device", "ffcv")
        )
        assert isinstance(a, DeviceLoader) and same(copies(a), copies(b))


def test_tensors_are_gathered_as_arrays_are(monkeypatch):
    data = data_of(Grey(192, 40, 16), loader="device", **OWN_SIZE)
    complete = copies(data.train_dataloader())
    monkeypatch.setattr(
        device, "windows", lambda pixels, pad, of=device.windows: of(torch.tensor(pixels), pad)
    )
    other = data.train_dataloader()
    assert same(copies(other), complete) and isinstance(other._windows, torch.Tensor)  # as on a GPU


def test_stopped_at_any_batch_and_resumed():
    data = data_of(Synthetic(192, 40, 16), loader="device", **OWN_SIZE)
    first, other = data.train_dataloader(), data.train_dataloader()
    complete = copies(first)
    assert [x.is_contiguous(memory_format=torch.channels_last) for x, _ in complete] == [True] * 6
    for stop in range(7):
        begun = first.batches(1)
        head = copies(next(begun) for _ in range(stop))
        begun.close()
        assert same(head + copies(other.batches(1, stop)), complete)


def test_auto_takes_it_where_it_fits(raw, monkeypatch):
    def kind(source, **options):
        return type(data_of(source, **(OWN_SIZE | options)).train_dataloader())

    assert kind(Synthetic(192, 40, 16)) is DeviceLoader
    assert kind(Synthetic(192, 40, 16), loader="torch") is TorchLoader
    assert kind(Synthetic(192, 40, 16), crop="resized", size=8) is TorchLoader
    assert kind(Synthetic(192, 40, 16), crop="scaled") is TorchLoader
    assert kind(Synthetic(192, 40, 16), erase=0.5) is DeviceLoader
    assert kind(raw) is not DeviceLoader  # a file may be of any size: only by name
    size = 192 * 24 * 24 * 3 * 2  # padded by 4 on each side, and mirrored
    monkeypatch.setattr(device, "memory", lambda: 5 * size)
    images, augment = Synthetic(192, 40, 16).splits()["train"], Augment("pad", pad=4, flip=True)
    assert [device.fits(images, torch.device("cpu"), augment, ranks) for ranks in (1, 2)] == [
        True,
        False,
    ]
    monkeypatch.setattr(device, "memory", lambda: 4 * size)
    assert not device.fits(images, torch.device("cpu"), augment)
    monkeypatch.setattr(device, "memory", lambda: 4 * 192 * 22 * 22 * 3 * 2)
    assert kind(Synthetic(192, 40, 16)) is TorchLoader


def test_what_changes_its_size_is_refused():
    for options in (
        {"crop": "resized", "size": 8},
        {"size": 8},
        {"crop": "resized", "progressive": Progressive(8, 16)},
        {"crop": "scaled"},
    ):
        data = data_of(Synthetic(192, 40, 16), loader="device", **options)
        with pytest.raises(UserError, match="use --data.loader auto"):
            data.train_dataloader()
    paths = Images(np.arange(2), np.arange(2), paths=["a.png", "b.png"])
    assert not device.suits(paths, data.eval_augment)


def test_on_the_cpu_a_batch_stays_where_it_is():
    batches = iter([(torch.zeros(1),)])
    assert on_device(batches, torch.device("cpu")) is batches


def test_batches_move_to_another_device_and_end_with_their_iterator():
    ended = []

    def batches():
        try:
            yield from ((torch.full((1,), float(i)), torch.tensor([i])) for i in range(3))
        finally:
            ended.append(True)

    moved = on_device(batches(), torch.device("meta"))
    assert [t.device.type for t in next(moved)] == ["meta"] * 2
    moved.close()
    assert ended == [True]
