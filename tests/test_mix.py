"""Mixup, CutMix and the losses are those of their definitions, the same on any number of ranks."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.command_line import TINY
from helpers.ranks import Ranks
from helpers.run_dir import history, rank_logs
from timm.loss import BinaryCrossEntropy
from torch.nn import functional as F

from lightning_resnet.models import CifarResNet
from lightning_resnet.training.loss import TrainingSums, probabilities, training_loss
from lightning_resnet.training.mixup import Mix, mixed, mixed_targets, own_parts, pair_numbers
from lightning_resnet.training.task import ClassificationTask

N, SIDE = 10_000, 64
PAIRS = np.arange(N)


def trainer(rank=0, world=1, parts=1):
    return SimpleNamespace(global_rank=rank, world_size=world, accumulate_grad_batches=parts)


@pytest.mark.parametrize("alpha", [0.1, 0.2, 1.0, 2.5])
def test_shares_are_beta(alpha):
    share, boxes = Mix(mixup=alpha).draw(0, 1, PAIRS, SIDE, SIDE)
    assert 0 <= share.min() and share.max() <= 1 and (boxes[:, :2] == boxes[:, 2:]).all()
    variance = 1 / (4 * (2 * alpha + 1))
    assert share.mean() == pytest.approx(0.5, abs=5 * np.sqrt(variance / N))
    fourth = np.random.default_rng(0).beta(alpha, alpha, 1_000_000)
    for q in (0.1, 0.25, 0.75, 0.9):
        assert (share < np.quantile(fourth, q)).mean() == pytest.approx(q, abs=0.02)
    assert share.var() == pytest.approx(variance, rel=0.06)


def test_boxes_of_cutmix_have_the_area_of_their_share_and_any_place():
    """Yun et al. 2019, eq. 2: sides sqrt(1 - share) of the image's, middle uniform, cut off at the
    edges.
    """
    share, boxes = Mix(cutmix=1.0).draw(0, 1, PAIRS, SIDE, 2 * SIDE)
    top, left, bottom, right = boxes.T
    h, w = bottom - top, right - left
    assert top.min() >= 0 and left.min() >= 0 and bottom.max() == SIDE and right.max() == 2 * SIDE
    assert share == pytest.approx(1 - h * w / (SIDE * 2 * SIDE), abs=1e-12)
    inner = (top > 0) & (bottom < SIDE) & (left > 0) & (right < 2 * SIDE)
    assert np.abs(w[inner] - 2 * h[inner]).max() <= 3  # of the image's aspect
    r = np.random.default_rng(0)
    lam, y, x = r.uniform(size=(3, 1_000_000))
    side = np.sqrt(1 - lam)
    area = np.prod(
        [np.minimum(c + side / 2, 1) - np.maximum(c - side / 2, 0) for c in (y, x)], axis=0
    )
    assert (1 - share).mean() == pytest.approx(area.mean(), abs=0.02)
    for q in (0.25, 0.5, 0.75):
        assert ((1 - share) < np.quantile(area, q)).mean() == pytest.approx(q, abs=0.03)


def test_either_way_for_half_of_the_pairs_that_are_mixed():
    share, boxes = Mix(mixup=1.0, cutmix=1.0, pairs=0.8).draw(0, 1, PAIRS, SIDE, SIDE)
    cut = (boxes[:, 2:] > boxes[:, :2]).all(1)
    assert (share == 1).mean() == pytest.approx(0.2, abs=0.02)
    assert cut.mean() == pytest.approx(0.4, abs=0.02)
    later = Mix(mixup=1.0, cutmix=1.0, pairs=0.8).draw(0, 2, PAIRS, SIDE, SIDE)[0]
    assert not np.array_equal(share, later)


def test_draws_are_fixed():
    """Runs are defined by these numbers."""
    share, boxes = Mix(mixup=0.2, cutmix=1.0).draw(1, 2, np.arange(4), 32, 32)
    assert share == pytest.approx([0.8125, 0.609375, 0.6845703125, 0.999997388421], abs=1e-9)
    assert boxes.tolist() == [[20, 16, 32, 32], [3, 4, 23, 24], [0, 15, 19, 32], [5, 24, 5, 24]]


def test_pixels_and_shares_of_a_pair():
    torch.manual_seed(0)
    x, labels = torch.randn(6, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 4, -100])
    shares, boxes = np.array([0.3, 0.75, 0.5]), np.array([[4, 4, 4, 4], [0, 2, 4, 6], [0] * 4])
    draws = torch.from_numpy(shares), torch.from_numpy(boxes)
    own, partners, share = own_parts(labels, *draws, 8, 8, x.dtype)
    result = mixed(x, own)
    assert partners.tolist() == [1, 0, 3, 2, -100, 4] and share.tolist() == [
        0.3,
        0.3,
        0.75,
        0.75,
        1,
        1,
    ]
    torch.testing.assert_close(result[0], 0.3 * x[0] + 0.7 * x[1])
    torch.testing.assert_close(result[1], 0.3 * x[1] + 0.7 * x[0])
    expected = x[2].clone()
    expected[:, 0:4, 2:6] = x[3, :, 0:4, 2:6]
    assert torch.equal(result[2], expected) and torch.equal(
        result[4:], x[4:]
    )  # a damaged one, and its partner


@pytest.mark.parametrize(("world", "parts"), [(2, 1), (1, 4), (2, 2), (4, 1)])
def test_a_pair_has_one_number_on_any_number_of_ranks(world, parts):
    batch = 16
    n = batch // world // parts
    for step in (0, 5):
        alone = pair_numbers(step, batch, trainer())
        ranks = [
            pair_numbers(step * parts + p, n, trainer(r, world, parts))
            for r in range(world)
            for p in range(parts)
        ]
        assert np.array_equal(alone, np.concatenate(ranks)) and alone[0] == step * 8


def test_losses_are_torchs_and_timms():
    torch.manual_seed(0)
    logits, labels = torch.randn(8, 10), torch.randint(10, (8,))
    share, partners = torch.rand(8), labels.view(4, 2).flip(1).flatten()
    soft = share[:, None] * F.one_hot(labels, 10) + (1 - share[:, None]) * F.one_hot(partners, 10)
    torch.testing.assert_close(mixed_targets(probabilities(labels, logits), share), soft)
    for smoothing in (0.0, 0.1):
        mixed = training_loss(logits, soft, smoothing=smoothing)
        torch.testing.assert_close(mixed, F.cross_entropy(logits, soft, label_smoothing=smoothing))
        plain = training_loss(logits, labels, loss="bce", smoothing=smoothing)
        torch.testing.assert_close(plain, BinaryCrossEntropy(smoothing)(logits, labels))
        hard = training_loss(logits, soft, "bce", smoothing, threshold=0.2)
        smooth = soft * (1 - smoothing) + smoothing / 10
        torch.testing.assert_close(
            hard, BinaryCrossEntropy(smoothing, target_threshold=0.2)(logits, smooth)
        )
    damaged = labels.clone()
    damaged[3] = -100
    for kind in ("cross_entropy", "bce"):
        without = training_loss(logits[labels == damaged], labels[labels == damaged], loss=kind)
        torch.testing.assert_close(training_loss(logits, damaged, loss=kind), without)
        torch.testing.assert_close(
            training_loss(logits, probabilities(damaged, logits), loss=kind), without
        )
        for smoothing in (0.0, 0.1):
            none = training_loss(
                logits.requires_grad_(), torch.full((8,), -100), loss=kind, smoothing=smoothing
            )
            assert not torch.autograd.grad(none, logits)[0].any()


def test_training_sums_are_those_of_each_step_whenever_they_are_asked_for():
    torch.manual_seed(0)
    often, once = TrainingSums(), TrainingSums()
    expected = torch.zeros(5, dtype=torch.float64)
    assert once.total() is None
    for step in range(2 * TrainingSums.KEPT + 5):
        logits, labels = torch.randn(6, 10) * 10.0 ** (3 * (step % 7)), torch.randint(10, (6,))
        labels[: step % 7] = -100
        loss = F.cross_entropy(logits, labels)  # in every seventh step of no image
        for sums in (often, once):
            sums.add(loss, labels, logits.argmax(1) == labels)
        n = int((labels >= 0).sum())
        hits = int((logits.argmax(1) == labels).sum())
        expected += torch.tensor(
            [loss.double() * n if n else 0, hits, 1, n, 6 - n], dtype=torch.float64
        )
        if step % 3 == 0:
            often = TrainingSums(often.total().clone())  # as after a continuation
    assert torch.equal(once.total(), often.total()) and torch.equal(once.total(), expected)
    once.add(torch.tensor(math.nan), labels.clamp(min=0), logits.argmax(1) == labels)
    assert once.total()[0].isnan() and once.total()[2] == expected[2]


@pytest.mark.parametrize("per", ["batch", "image"])
def test_ranks_and_accumulation_keep_the_same_branches(per):
    net = CifarResNet(20, width=4, stochastic_depth=0.2, stochastic_depth_per=per)
    task = ClassificationTask(net)
    task.seed = 3

    def kept(batch_idx, n, *layout):
        task._trainer = SimpleNamespace(**vars(trainer(*layout)), current_epoch=2)
        return task._draw_kept(batch_idx, n)

    alone = kept(5, 16)
    assert alone.shape == (9, 16 if per == "image" else 1)
    ranks = [kept(5 * 2 + part, 4, rank, 2, 2) for rank in range(2) for part in range(2)]
    if per == "image":
        assert np.array_equal(alone, np.concatenate(ranks, axis=1))
    else:
        assert all(np.array_equal(alone, rank) for rank in ranks)
    many = np.concatenate([kept(step, 1000) for step in range(50)], axis=1)
    survivals = 1 - np.arange(1, 10) / 9 * 0.8
    assert many.mean(1) == pytest.approx(survivals, abs=0.3 if per == "batch" else 0.02)
    assert not np.array_equal(kept(6, 16), alone) or per == "batch"


@pytest.mark.slow
def test_ranks_and_accumulation_mix_as_one(here):
    """Every loss of every step is the same, without a norm and in float64; branches are dropped
    for the same images.
    """
    args = [
        "fit",
        *TINY,
        "--trainer.max_epochs",
        "1",
        "--trainer.max_steps",
        "8",
        "--trainer.log_every_n_steps",
        "1",
    ]
    args += [
        "--model.net.norm",
        "none",
        "--model.optimizer.lr",
        "0.01",
        "--trainer.precision",
        "64-true",
    ]
    args += [
        "--model.mix",
        "{mixup: 0.4, cutmix: 1.0}",
        "--model.loss",
        "bce",
        "--data.train_eval_samples",
        "8",
    ]
    args += ["--model.net.stochastic_depth", "0.5", "--model.net.stochastic_depth_per", "image"]
    for world, parts in ((1, 1), (2, 1), (2, 2)):
        here = [
            *args,
            "--trainer.accumulate_grad_batches",
            str(parts),
            "--run.root",
            f"{world}x{parts}",
        ]
        assert Ranks(here, world).wait(100) == [0] * world, rank_logs()
    one = history("1x1", "train/loss")
    assert len(one) == 8 and one == pytest.approx(history("2x1", "train/loss"), abs=1e-9)
    assert one == pytest.approx(history("2x2", "train/loss"), abs=1e-9)
    assert history("1x1", "train/acc1") == pytest.approx(history("2x2", "train/acc1"), abs=1e-12)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model.mix", "{pairs: 0.5}"], "--model.mix needs mixup or cutmix above 0"),
        (
            ["--model.mix", "{mixup: 0.2}", "--data.batch_size", "63"],
            "a rank's batch of 63 images would part a pair",
        ),
    ],
)
def test_what_cannot_be_mixed_is_refused(cli, args, message):
    code, _, err = cli("fit", *TINY, *args)
    assert code == 2 and message in err and err.count("\n") == 1
