"""Orders other than `global`, and training sizes: pure functions of the epoch, whatever the world size."""

import numpy as np
import pytest
import torch
from test_data import data_of

from lightning_resnet.data import draws, journal
from lightning_resnet.data.augment import Progressive
from lightning_resnet.data.order import by_pages, permutation, repeated
from lightning_resnet.data.sources import BetonFiles, Digits, Synthetic
from lightning_resnet.data.write import write_beton
from lightning_resnet.errors import UserError

PAGES = np.arange(1000) * 7 % 40  # 25 samples on each of 40 pages, in no order


def test_orders_are_fixed():
    """As test_hash_is_fixed: they define runs."""
    assert by_pages(0, 0, np.arange(12) // 2, 2).tolist() == [9, 3, 2, 8, 0, 11, 1, 10, 6, 5, 4, 7]
    assert repeated(0, 0, 10, 4, 2).tolist() == [0, 9, 10, 19, 1, 6, 11, 16, 3, 13]


def test_pages_are_read_in_one_stretch_and_every_sample_once():
    order = by_pages(5, 2, PAGES, window=8)
    assert sorted(order) == list(range(1000))
    groups = [set(PAGES[part]) for part in order.reshape(5, 200)]
    assert [len(g) for g in groups] == [8] * 5 and len(set.union(*groups)) == 40


def test_pages_are_shuffled_within_their_group_and_grouped_anew_each_epoch():
    first, later = by_pages(5, 0, PAGES, window=8), by_pages(5, 1, PAGES, window=8)
    for part in first.reshape(5, 200):
        halves = np.bincount(PAGES[part[:100]], minlength=40)
        assert halves[halves > 0].min() >= 5 and halves.max() <= 20  # of 25 on each page
        assert abs(np.corrcoef(part, np.arange(200))[0, 1]) < 0.25
    groups = [{frozenset(PAGES[part]) for part in order.reshape(5, 200)} for order in (first, later)]
    assert not groups[0] & groups[1]


@pytest.mark.parametrize("repeats", [2, 3])
def test_repeats_share_a_batch_and_differ_in_their_number(repeats):
    n, size = 100, 12
    order = repeated(3, 1, n, size, repeats)
    assert order[order < n].tolist() == [i for i in permutation(3, 1, n) if i in set(order[order < n])]
    for batch in order[:96].reshape(8, size):
        blocks = batch.reshape(repeats, size // repeats)
        assert all(np.array_equal(block, blocks[0] + k * n) for k, block in enumerate(blocks))
    assert len(set(order[:96] % n)) == 96 // repeats


@pytest.fixture(scope="module")
def paged(tmp_path_factory):
    """Five pictures of 32x32 to a page."""
    folder = tmp_path_factory.mktemp("paged")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "PAGE", 1 << 14)
        splits = Synthetic(160, 20).splits()
        files = [
            write_beton(images, folder / f"{name}.beton", classes=list("0123456789"), progress=False)
            for name, images in splits.items()
        ]
    return BetonFiles(*map(str, files))


def batches(source, rank=0, world=1, **options):
    loader = data_of(source, epoch=1, rank=rank, world=world, batch_size=16, **options).train_dataloader()
    return [(x.clone(), y.clone()) for x, y in loader]


@pytest.mark.parametrize("options", [{"order": "pages"}, {"order": "repeat", "repeats": 2}])
def test_loaders_and_ranks_agree_on_every_order(paged, options, monkeypatch):
    monkeypatch.setattr("lightning_resnet.data.order.WINDOW", 4)
    options |= {"crop": "pad", "flip": True}
    alone = batches(paged, loader="torch", workers=0, **options)
    others = [batches(paged, **options)]
    ranks = [batches(paged, rank=r, world=2, **options) for r in (0, 1)]
    others.append([tuple(torch.cat(parts) for parts in zip(a, b, strict=True)) for a, b in zip(*ranks, strict=True)])
    if options["order"] == "repeat":
        others.append(batches(Synthetic(160, 20), workers=0, **options))
    for other in others:
        for (x, y), (u, v) in zip(alone, other, strict=True):
            assert torch.equal(x, u) and torch.equal(y, v)


def test_a_repeat_is_drawn_anew(paged):
    data = data_of(paged, epoch=1, batch_size=16, order="repeat", repeats=2, crop="pad", pad=8)
    x, y = next(iter(data.train_dataloader()))
    assert torch.equal(y[:8], y[8:])
    positions = repeated(0, 1, 160, 16, 2)[:8]
    corners = [draws.pad_crops(0, 1, data.splits["train"].ids[positions], 8, k) for k in (0, 1)]
    for i in range(8):
        assert torch.equal(x[i], x[8 + i]) == np.array_equal(corners[0][i], corners[1][i])
    assert not torch.equal(x[:8], x[8:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "pages"}, "add --data.loader ffcv, or use --data.order global"),
        ({"progressive": Progressive(4)}, "needs --data.crop resized and a --data.size"),
        ({"progressive": Progressive(24), "size": 16, "crop": "resized"}, "of at least its start_size"),
        ({"cache": "process"}, "use --data.order pages and --data.loader ffcv"),
        ({"order": "repeat", "repeats": 0}, "repeats must be 1 or more"),
    ],
)
def test_what_does_not_go_together_is_refused(options, message):
    with pytest.raises((UserError, ValueError), match=message):
        data_of(Digits(), **options)


def test_progressive_sizes_are_those_of_ffcv_imagenet():
    """Its rn50_{16,88}_epochs.yaml: start_ramp 11 and 65, end_ramp 13 and 76, 160 to 192, nearest multiple of 32."""
    for epochs, start, end in ((16, 11, 13), (88, 65, 76)):
        ramp = np.interp(np.arange(epochs), [start, end], [160, 192])
        expected = (np.round(ramp / 32) * 32).astype(int).tolist()
        assert [Progressive(160).size(e, epochs, 192) for e in range(epochs)] == expected
    sizes = [Progressive(100, 0.25, 0.75, 4).size(e, 8, 120) for e in range(8)]
    assert sizes == [100, 100, 104, 112, 116, 120, 120, 120]
    assert [Progressive(8, 0.5, 0.5).size(e, 4, 16) for e in range(4)] == [8, 8, 16, 16]


@pytest.mark.parametrize("workers", [0, 1])
def test_the_size_changes_by_epoch_in_the_same_loader(paged, workers):
    options = {"crop": "resized", "size": 24, "eval_size": 28, "progressive": Progressive(8, 0.25, 0.75, 8)}
    for loader in ("torch", "ffcv"):
        data = data_of(paged, batch_size=16, workers=workers, loader=loader, **options)
        data.trainer.max_epochs = 4
        train, (val, _) = data.train_dataloader(), data.val_dataloader()
        sizes = []
        for data.trainer.current_epoch in range(4):
            sizes += {x.shape[-1] for x, _ in train}
        assert sizes == [8, 16, 24, 24] and {x.shape[-1] for x, _ in val} == {28}
        assert data.input_size == (3, 28, 28)
