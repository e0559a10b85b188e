"""Both loaders: any epoch from any batch on, and what a plain loop or Lightning's Trainer sees of
them.
"""

import subprocess
import threading
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from helpers.loaders import LOADERS, copies, data_of, same
from helpers.spies import spy

from lightning_resnet.data.augment.crops import Progressive
from lightning_resnet.data.beton import decode as kernel
from lightning_resnet.data.loaders import beton_loader
from lightning_resnet.errors import UserError


def test_a_signal_to_the_process_group_leaves_workers_to_the_training(source):
    loader = data_of(source, loader="torch", workers=2).train_dataloader()
    batches = iter(loader)
    next(batches)
    workers = loader._pool._iterator._workers
    for worker in workers:  # another process sends the signal
        subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)
    assert len(list(batches)) == 5 and all(worker.is_alive() for worker in workers)
    for worker in workers:
        # torch raises in the main thread if it hears of the end before `join` does.
        with suppress(RuntimeError):
            worker.terminate()
            worker.join(20)
        worker.join(20)
        assert worker.exitcode is not None


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("rank", [None, 0, 1])
def test_stopped_at_any_batch_and_resumed(source, loader, workers, rank):
    where = {} if rank is None else {"rank": rank, "world": 2}
    first, other = (
        data_of(source, loader=loader, workers=workers, **where).train_dataloader()
        for _ in range(2)
    )
    complete = copies(first)
    assert first.state_dict() == {"epoch": 1, "batch": 6}
    for stop in range(7):
        first.set_epoch(1)
        begun = iter(first)
        head = copies(next(begun) for _ in range(stop))
        state = first.state_dict() if stop else {"epoch": 1, "batch": 0}
        begun.close()
        assert state == {"epoch": 1, "batch": stop}
        other.load_state_dict(state)
        other.set_epoch(1)  # as a Trainer does before it goes on
        assert other.state_dict() == state and len(other) == 6
        assert same(head + copies(other), complete)
        assert same(head + copies(other.batches(1, stop)), complete)
    later = copies(other)  # only the next pass is cut
    assert other.state_dict() == {"epoch": 2, "batch": 6} and not same(later, complete)


def test_storage_that_hangs_is_told_in_a_line_and_not_waited_for_again(source, monkeypatch):
    loader = data_of(source, loader="ffcv").train_dataloader()
    answers = threading.Event()
    monkeypatch.setattr(loader, "_make", lambda epoch, at: answers.wait(60))
    monkeypatch.setattr(beton_loader, "HANG_S", 0.1)
    waits = spy(monkeypatch, threading.Thread, "join")
    with pytest.raises(UserError, match="no batch from .* the storage does not answer"):
        next(loader.batches(0))
    answers.set()
    assert not waits


def test_a_plain_loop_sees_a_new_order_in_each_epoch(source):
    loader = data_of(source, epoch=0).train_dataloader()
    passes = [copies(loader) for _ in range(3)]
    assert [same(passes[epoch], copies(loader.batches(epoch))) for epoch in range(3)] == [True] * 3
    next(iter(loader))  # epoch 3, broken off
    assert same(copies(loader), copies(loader.batches(4)))
    loader.set_epoch(1)
    assert same(copies(loader), passes[1]) and same(copies(loader), passes[2])


# start_ramp and end_ramp of libffcv/ffcv-imagenet's rn50_configs and rn18_configs
RAMPS = {16: (11, 13), 24: (17, 20), 32: (23, 27), 40: (29, 34), 56: (41, 48), 88: (65, 76)}


@pytest.mark.parametrize("epochs", RAMPS)
def test_progressive_is_the_schedule_of_ffcv_imagenet(epochs):
    """Its get_resolution, of every published length, by the number of epochs alone."""
    start, end = RAMPS[epochs]
    for epoch in range(epochs):
        exact = np.interp(epoch, [start, end], [160, 192])
        assert Progressive().size(epoch, epochs) == int(np.round(exact / 32)) * 32


def test_progressive_sizes():
    assert [Progressive().size(epoch, 16) for epoch in range(16)] == [160] * 12 + [192] * 4
    twelve = [Progressive(128, 224, 0.25, 0.75).size(epoch, 12) for epoch in range(12)]
    assert twelve == [128] * 4 + [160, 192, 192, 192, 224, 224, 224, 224]
    assert [Progressive(8, 16, 0, 1).size(epoch, 10) for epoch in range(10)] == [8] * 9 + [16]


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("workers", [0, 1])
def test_the_size_grows_with_the_epochs_of_one_loader(source, loader, workers):
    options = {"loader": loader, "workers": workers, "progressive": Progressive(8, 32, 0.25, 0.5)}
    data = data_of(source, epoch=0, **options)
    train, sizes = data.train_dataloader(), []
    for epoch in range(4):
        sizes.append({x.shape[-1] for x, _ in train.batches(epoch)})
    assert sizes == [{8}, {32}, {32}, {32}] and data.input_size == (3, 24, 24)
    assert {x.shape[-1] for val in data.val_dataloader() for x, _ in val} == {24}
    assert same(
        copies(train.batches(2)),
        copies(data_of(source, epoch=2, size=32, loader=loader).train_dataloader()),
    )


def test_a_size_that_cannot_grow_is_refused(source):
    for progressive, crop in (
        (Progressive(start=0.9), "none"),
        (Progressive(low=0), "none"),
        (Progressive(), "pad"),
    ):
        with pytest.raises(ValueError, match="--data.progressive"):
            data_of(source, progressive=progressive, crop=crop)
    data = data_of(source, progressive=Progressive())
    data.shard = replace(data.shard, epochs=-1)
    with pytest.raises(UserError, match="set --trainer.max_epochs"):
        data.train_dataloader()


@pytest.mark.parametrize("loader", LOADERS)
def test_a_state_is_for_its_epoch_and_reads_nothing_before_it(source, loader, monkeypatch):
    ours = data_of(source, loader=loader, workers=0).train_dataloader()
    ours.load_state_dict({"epoch": 0, "batch": 4})
    ours.set_epoch(1)
    assert len(copies(ours)) == 6 == len(copies(ours))
    read = []

    def decode(beton, items, *rest):
        read.append(len(items))
        return np.zeros(len(items), "u1")

    monkeypatch.setattr(kernel, "decode", decode)
    ours.load_state_dict({"epoch": 1, "batch": 4})
    assert len(list(ours)) == len(read) == 2
