"""The orders of an epoch: what each promises, whatever the number of ranks."""

import numpy as np
import pytest
import torch
from helpers.loaders import LOADERS, copies, data_of, same

from lightning_resnet.data import draws
from lightning_resnet.data.order import page_order, permutation, repeat_order, train_batches
from lightning_resnet.data.sources.synthetic import Synthetic
from lightning_resnet.errors import UserError

PAGES = np.arange(1000) // 10  # 100 pages of 10 samples


def test_orders_are_fixed():
    """Runs are defined by these numbers."""
    assert page_order(0, 0, np.arange(9) // 3, 4, window=2).tolist() == [6, 3, 5, 4, 8, 7, 0, 1, 2]
    assert repeat_order(0, 0, 9, 6, 3).tolist() == [0, 1, 9, 10, 18, 19, 6, 15, 24]


def test_pages_has_every_sample_once_and_reads_few_pages_at_a_time():
    order = page_order(5, 1, PAGES, 40, window=8)
    assert sorted(order) == list(range(1000))
    for start in range(0, 1000, 80):  # a window: 8 complete pages
        assert len(set(PAGES[order[start : start + 80]])) == 8 or start == 960
    mixed = [len(set(PAGES[order[b : b + 40]])) for b in range(0, 960, 40)]
    assert min(mixed) >= 6  # of the window's 8
    again, later = page_order(5, 1, PAGES, 40, window=8), page_order(5, 2, PAGES, 40, window=8)
    assert np.array_equal(order, again)
    neighbours = [set(PAGES[o[:80]]) for o in (order, later)]
    assert len(neighbours[0] & neighbours[1]) < 6  # other pages share a window in another epoch


def test_ranks_read_from_different_pages():
    order = page_order(5, 1, PAGES, 80, window=8)
    for batches in zip(*(train_batches(order, 80, r, 4) for r in range(4)), strict=True):
        pages = [set(PAGES[b]) for b in batches]
        assert sum(map(len, pages)) <= 8 + 3  # a page is shared by at most two


def test_repeats_are_visits_of_few_samples_on_different_ranks():
    order = repeat_order(3, 0, 999, 96, 3)
    sample, repeat = order % 999, order // 999
    assert len(order) == 999 and set(repeat) == {0, 1, 2}
    assert np.array_equal(np.unique(sample), np.sort(permutation(3, 0, 999)[:333]))
    assert len(np.unique(order)) == 999
    for world in (3, 4, 8):
        for batches in zip(
            *(train_batches(order, 96, r, world) for r in range(world)), strict=True
        ):
            assert all(len(set(b % 999)) == len(b) for b in batches)
    partners = order[:960].reshape(-1, 2) % 999
    assert (partners[:, 0] != partners[:, 1]).all()


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("order", ["pages", "repeat"])
def test_batches_of_an_order_do_not_depend_on_workers_or_ranks_and_resume(paged, loader, order):
    options = {"size": 16, "loader": loader, "order": order}
    alone = copies(data_of(paged, workers=0, **options).train_dataloader())
    assert same(alone, copies(data_of(paged, workers=2, **options).train_dataloader()))
    ranks = [copies(data_of(paged, rank=r, world=2, **options).train_dataloader()) for r in (0, 1)]
    assert same(
        alone,
        [tuple(torch.cat(t) for t in zip(a, b, strict=True)) for a, b in zip(*ranks, strict=True)],
    )
    rest = copies(data_of(paged, **options).train_dataloader().batches(1, start=4))
    assert same(alone[4:], rest) and not same(
        alone, copies(data_of(paged, size=16).train_dataloader())
    )


@pytest.mark.parametrize("crop", ["none", "pad", "resized"])
def test_a_repeat_is_drawn_again_and_equally_by_all_loaders(paged, crop):
    options = {"order": "repeat", "crop": crop, "size": None if crop == "pad" else 16}
    in_memory, one, other = (
        copies(data_of(s, loader=kind, **options).train_dataloader())
        for s, kind in ((Synthetic(192, 40, 16), "torch"), (paged, "torch"), (paged, "auto"))
    )
    assert same(one, other)
    for (x, y), (u, v) in zip(one, in_memory, strict=True):
        assert torch.equal(y, v) and (x.int() - u.int()).abs().max() <= (
            crop != "pad"
        )  # Pillow rounds otherwise
    ids, repeat = np.array([7, 7, 7]), np.arange(3)
    assert len({tuple(c) for c in draws.pad_crops(0, 0, ids, 40, repeat)}) == 3
    assert (
        draws.flips(0, 0, np.arange(99), 0).tolist() != draws.flips(0, 0, np.arange(99), 1).tolist()
    )


def test_pages_are_those_of_a_file():
    with pytest.raises(
        UserError, match="--data.order pages is for .beton files: add --data.loader ffcv"
    ):
        data_of(Synthetic(192, 40), order="pages").train_dataloader()
