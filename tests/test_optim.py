"""Schedules give the published values at the steps that matter; weight decay acts on what it
should.
"""

import math
from copy import deepcopy

import pytest
import torch
import torchvision
from helpers.command_line import TINY
from helpers.run_dir import history
from torch import nn

from lightning_resnet.errors import UserError
from lightning_resnet.models import CifarResNet, ImageNetResNet
from lightning_resnet.training.optimizer import ConvMuon, parameter_groups
from lightning_resnet.training.schedules import (
    Cosine,
    ErrorWarmup,
    Linear,
    Plateau,
    Schedule,
    Steps,
)

TOTAL = 64_000  # the paper's CIFAR schedule


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        (Steps(), {0: 1, 31_999: 1, 32_000: 0.1, 47_999: 0.1, 48_000: 0.01, 63_999: 0.01}),
        (
            Steps([0.5], 0.2, warmup=0.1),
            {0: 0, 3_200: 0.5, 6_400: 1, 31_999: 1, 32_000: 0.2, 63_999: 0.2},
        ),
        (Cosine(), {0: 1, 16_000: (1 + math.sqrt(0.5)) / 2, 32_000: 0.5, 64_000: 0}),
        (Cosine(warmup=0.25, end=0.1), {0: 0, 8_000: 0.5, 16_000: 1, 40_000: 0.55, 64_000: 0.1}),
        (Linear(warmup=0.125), {0: 0, 4_000: 0.5, 8_000: 1, 36_000: 0.5, 64_000: 0}),
        (Linear(warmup=0.125, start=0.2), {0: 0.2, 4_000: 0.6, 8_000: 1, 64_000: 0}),
        (Cosine(warmup=0.25, start=0.1), {0: 0.1, 8_000: 0.55, 16_000: 1, 64_000: 0}),
        (Linear(end=0.5), {0: 1, 32_000: 0.75, 64_000: 0.5}),
        (Schedule(), {0: 1, 63_999: 1}),
    ],
)
def test_schedule_values(schedule, factors):
    for step, factor in factors.items():
        assert schedule.factor(step / TOTAL) == pytest.approx(factor, abs=1e-12), step


def test_cosine_at_its_last_step_is_torchs():
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
    for step in range(100):
        assert Cosine().factor(step / 100) == pytest.approx(
            optimizer.param_groups[0]["lr"], abs=1e-9
        )
        optimizer.step()
        reference.step()


def observe(schedule, **metrics):
    schedule.observe({k.replace("_", "/"): v for k, v in metrics.items()})
    return schedule.factor(0.5)


def test_plateau_waits_for_its_patience_and_keeps_its_state():
    schedule = Plateau(patience=2)
    assert [observe(schedule, val_acc1=a) for a in (0.1, 0.2, 0.2, 0.1)] == [1] * 4
    copy = Plateau(patience=2)
    copy.load_state_dict(schedule.state_dict())
    for s in (schedule, copy):
        assert observe(s, val_acc1=0.2) == pytest.approx(0.1)
        assert [observe(s, val_acc1=0.2) for _ in range(3)] == pytest.approx([0.1, 0.1, 0.01])
    falling = Plateau("val/loss", patience=0)
    assert [observe(falling, val_loss=x) for x in (2.0, 1.0, 1.5)] == pytest.approx([1, 1, 0.1])


@pytest.mark.parametrize(
    ("make", "cure"),
    [
        (lambda: Steps([30, 60]), "divide epochs by --trainer.max_epochs"),
        (lambda: Steps([-0.5]), "fractions of training"),
        (lambda: Steps(warmup=5), "divide epochs by --trainer.max_epochs"),
        (lambda: Cosine(warmup=1.0), "below 1, got 1.0"),
        (lambda: Linear(warmup_epochs=-1), "0 or more, got -1"),
        (lambda: Plateau("val/accuracy"), "take one of val/loss, val/acc1,"),
        (lambda: Plateau("train/loss"), "no metric of an evaluation"),
        (lambda: ErrorWarmup(until_error=80), "0 to 1, got 80"),
    ],
)
def test_what_would_be_no_schedule_is_refused(make, cure):
    with pytest.raises(ValueError, match="--model.schedule") as e:
        make()
    assert cure in str(e.value)


def test_a_metric_that_is_not_measured_is_told_at_the_first_evaluation():
    schedule = ErrorWarmup(Plateau("val_ema/acc1"))
    schedule.observe({"train/loss": 1.0, "train/acc1": 0.5})
    with pytest.raises(UserError, match="val_ema/acc1 was not measured: add --model.ema"):
        schedule.observe({"val/loss": 1.0, "val/acc1": 0.5})


def test_a_warmup_longer_than_the_training_is_doubted():
    long = Cosine(warmup_epochs=8)
    assert (
        "warm-up of 8 epochs in a training of 5 never"
        in long.warning(5)
        == ErrorWarmup(long).warning(5)
    )
    assert (
        long.warning(8)
        and not long.warning(9)
        and not Steps(warmup=0.5).warning(1)
        and not Linear().warning(0.5)
    )


def test_paper_warmup_ends_when_the_training_error_falls_below_80_percent():
    """He et al. 2015, sec. 4.2: 0.01 until then, afterwards 0.1 and the usual schedule."""
    schedule = ErrorWarmup()
    assert [observe(schedule, train_acc1=a) for a in (0.1, 0.15, 0.19)] == pytest.approx([0.1] * 3)
    assert observe(schedule, train_acc1=0.21) == pytest.approx(
        0.1
    )  # of 0.1: half of training is over
    assert schedule.factor(0.1) == 1
    copy = ErrorWarmup()
    copy.load_state_dict(schedule.state_dict())
    assert copy.factor(0.1) == observe(copy, train_acc1=0.1) * 10 == 1


@pytest.mark.parametrize(
    ("net", "exempt"),
    [
        (CifarResNet(20), 19 * 2 + 1),
        (CifarResNet(20, "B"), 21 * 2 + 1),
        (CifarResNet(20, norm="none"), 20),
        (ImageNetResNet(18), 20 * 2 + 1),
        (torchvision.models.resnet18(), 20 * 2 + 1),  # a filter on the name `bn` misses 6 of these
        (
            nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.GroupNorm(1, 3), nn.RMSNorm(3)),
            1 + 2 + 2 + 1,
        ),
        (
            torchvision.models.VisionTransformer(32, 16, 1, 2, 8, 16),
            6 + 3 * 2,
        ),  # one bias is named in_proj_bias
    ],
)
def test_decay_spares_norms_and_biases_by_type(net, exempt):
    groups = parameter_groups(net)
    optimizer = torch.optim.SGD(groups, lr=0.1, weight_decay=5e-4)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [5e-4, 0.0]
    assert len(groups[1]["params"]) == exempt
    assert all(p.ndim > 1 for p in groups[0]["params"]) and all(
        p.ndim == 1 for p in groups[1]["params"]
    )
    assert sum(len(g["params"]) for g in groups) == len(list(net.parameters()))
    (everything,) = parameter_groups(net, "all")
    assert len(everything["params"]) == len(list(net.parameters()))


def descended(optimizer, layer, steps=3):
    """The parameters after some steps on the same gradients."""
    for step in range(steps):
        for k, p in enumerate(layer.parameters()):
            generator = torch.Generator().manual_seed(100 * step + k)
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()
    return [p.detach().clone() for p in layer.parameters()]


@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_takes_kernels_as_matrices_and_the_rest_by_sgd(nesterov):
    options = {"lr": 0.1, "momentum": 0.9, "nesterov": nesterov}
    torch.manual_seed(0)
    kernel = nn.Conv2d(8, 4, 1)
    linear = nn.Linear(8, 4)
    linear.load_state_dict({"weight": kernel.weight[:, :, 0, 0], "bias": kernel.bias})
    ours = descended(ConvMuon(kernel.parameters(), weight_decay=0.01, **options), kernel)
    theirs = torch.optim.Muon([linear.weight], weight_decay=0.01, **options)
    expected = descended(theirs, linear)
    torch.testing.assert_close(ours[0][:, :, 0, 0], expected[0], rtol=0, atol=0)
    twin = nn.Linear(8, 4)
    twin.load_state_dict({"weight": kernel.weight[:, :, 0, 0], "bias": kernel.bias})
    copy = nn.Linear(8, 4)
    copy.load_state_dict(twin.state_dict())
    ours = descended(ConvMuon(twin.parameters(), **options), twin)
    expected = descended(torch.optim.SGD(copy.parameters(), **options), copy)
    for found, wanted in zip(ours, expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_muon_moves_a_kernel_of_any_layout_by_an_orthogonal_matrix():
    moved = {}
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        layer = nn.Conv2d(16, 8, 3, bias=False).to(memory_format=layout)
        before = layer.weight.detach().clone()
        after = descended(ConvMuon(layer.parameters(), lr=1.0), layer, steps=1)[0]
        moved[layout] = (before - after).flatten(1)
        values = torch.linalg.svdvals(moved[layout])
        assert 0.6 < values.min() and values.max() < 1.3  # Newton-Schulz ends near 1
    torch.testing.assert_close(*moved.values(), rtol=0.05, atol=0.02)  # in bfloat16


def test_muon_continues_from_its_state():
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 4, 3)
    optimizer = ConvMuon(layer.parameters())
    descended(optimizer, layer)
    other = nn.Conv2d(4, 4, 3)
    other.load_state_dict(layer.state_dict())
    resumed = ConvMuon(other.parameters(), lr=0.5)
    resumed.load_state_dict(deepcopy(optimizer.state_dict()))
    for found, wanted in zip(descended(resumed, other), descended(optimizer, layer), strict=True):
        assert torch.equal(found, wanted)


def test_a_recipe_names_muon(cli):
    args = [*TINY, "--model.optimizer", "ConvMuon", "--trainer.max_epochs", "3"]
    assert cli("fit", *args, "--model.optimizer.lr", "0.05")[0] == 0
    assert history("runs", "val/acc1")[-1] > 0.6
    code, _, err = cli("fit", *TINY, "--model.optimizer", "torch.optim.Muon")
    assert code == 2 and err.count("\n") == 1 and "ConvMuon" in err
