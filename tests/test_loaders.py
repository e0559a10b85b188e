"""What both loaders promise: a pass that was stopped goes on bit by bit."""

from types import SimpleNamespace

import pytest
import torch

from lightning_resnet.data import kernel
from lightning_resnet.data.module import ImageData
from lightning_resnet.data.sources import Synthetic

KINDS = ["torch", pytest.param("ffcv", marks=pytest.mark.skipif(kernel.library() is None, reason="no kernel"))]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """One folder of cached files for all of these tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def loader_of(kind, epoch=3, rank=0, world=1, **options):
    torch.manual_seed(0)
    options = {"batch_size": 8, "size": 16, "crop": "resized", "flip": True} | options
    data = ImageData(Synthetic(96, 8, 24), loader=kind, **options)
    data.trainer = SimpleNamespace(
        global_rank=rank, world_size=world, num_devices=world, accumulate_grad_batches=1, current_epoch=epoch
    )
    data.setup()
    return data.train_dataloader()


def everything(loader):
    return [(x.clone(), y.clone()) for x, y in loader]


def same(a, b):
    return len(a) == len(b) and all(
        torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("world", [1, 2])
def test_stopped_at_any_batch_and_resumed_it_is_the_same_pass(kind, workers, world):
    for rank in range(world):
        options = {"kind": kind, "workers": workers, "rank": rank, "world": world}
        loader, resumed = loader_of(**options), loader_of(**options)
        whole = everything(loader)
        for stop in range(len(whole) + 1):
            part, batches = [], iter(loader)
            for _ in range(stop):
                x, y = next(batches)
                part.append((x.clone(), y.clone()))
            batches.close()
            if stop:
                assert loader.state_dict() == {"epoch": 3, "batch": stop}
            resumed.load_state_dict({"epoch": 3, "batch": stop})
            assert resumed.state_dict() == {"epoch": 3, "batch": stop} and len(resumed) == len(whole)
            assert same(part + everything(resumed), whole)
            assert resumed.state_dict() == {"epoch": 3, "batch": len(whole)}
        assert same(everything(resumed), whole)  # only one pass began in the middle


@pytest.mark.parametrize("kind", KINDS)
def test_skipped_pictures_are_not_read_and_other_epochs_begin_at_their_start(kind):
    loader, seen = loader_of(kind), []
    augment = loader.augment
    loader.augment = lambda epoch: (seen.append(epoch), augment(epoch))[1]
    if kind == "torch":
        loader._reader.augment = loader.augment
    loader.load_state_dict({"epoch": 3, "batch": 10})
    assert len(everything(loader)) == 2 and len(seen) == 2
    whole = everything(loader_of(kind))
    loader.load_state_dict({"epoch": 2, "batch": 10})
    assert same(everything(loader), whole)
