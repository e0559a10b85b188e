"""Gradients of images and batches are as alike as theory says, in wide nets and closed forms."""

import math

import pandas as pd
import pytest
import torch
import torchvision
from helpers.nets import Own, digits
from torch import nn

from lightning_resnet.analysis.inspection.gradients import figure, gradients, remarks, summarise
from lightning_resnet.analysis.inspection.shattering import lowest_cosine, mean_cosine, shattering
from lightning_resnet.models import CifarResNet
from lightning_resnet.models.resnet import correlation_after

WIDTH = 400


class Layer(nn.Module):
    """One dense layer: plain relu(norm(W x)), or residual x + W relu(norm(x))."""

    def __init__(self, residual, norm):
        super().__init__()
        self.residual = residual
        self.norm = nn.BatchNorm2d(WIDTH) if norm else nn.Identity()
        self.linear = nn.Conv2d(WIDTH, WIDTH, 1, bias=False)
        gain = 1 if residual and norm else 2  # the branch has the energy of one unit
        nn.init.normal_(self.linear.weight, std=(gain / WIDTH) ** 0.5)

    def branch(self, x):
        if self.residual:
            return self.linear(self.norm(x).relu()) * 2**0.5
        return self.norm(self.linear(x))

    def shortcut(self, x):
        return x

    def forward(self, x):
        return x + self.branch(x) if self.residual else self.branch(x).relu()


class Wide(nn.Module):
    """A wide dense net: each image is one position of many channels."""

    def __init__(self, depth, residual=False, norm=True):
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 12, bias=False)
        nn.init.normal_(self.stem.weight, std=(1 / 432) ** 0.5)
        self.body = nn.Sequential(*[Layer(residual, norm) for _ in range(depth)])
        self.head = nn.Linear(WIDTH, 10)

    def blocks(self):
        for i, layer in enumerate(self.body):
            yield f"body.{i}", layer.branch, layer.shortcut if layer.residual else None

    def forward(self, x):
        return self.head(self.body(self.stem(x)).flatten(1))


def noise(n=256):
    torch.manual_seed(0)
    return torch.randn(n, 3, 12, 12), torch.randint(0, 10, (n,))


def first_cosine(*options, **more):
    """Return the mean over 4 nets of the cosine at the first block."""
    images, _ = noise()
    return sum(shattering(Wide(*options, **more), images)[0] for _ in range(4)) / 4


def test_a_plain_layer_halves_the_cosine_of_two_images():
    found = {depth: first_cosine(depth) for depth in (2, 4, 8)}
    text = ", ".join(f"{depth}: {value:.4f}" for depth, value in found.items())
    print(f"plain, cosine by depth: {text} (theory 0.25, 0.0625, 0.0039)")
    assert found[2] == pytest.approx(0.25, abs=0.02)
    assert found[4] == pytest.approx(0.0625, abs=0.015)
    assert found[8] == pytest.approx(0.0039, abs=0.004)


def test_with_shortcuts_and_batch_norm_the_cosine_falls_like_the_root_of_depth():
    found = {depth: first_cosine(depth, True) for depth in (2, 4, 8, 16)}
    for depth, value in found.items():
        print(f"residual, {depth} blocks: {value:.3f} (1/sqrt(L) = {depth**-0.5:.3f})")
        assert 0.65 < value * depth**0.5 < 1.05
    without = first_cosine(4, True, norm=False)
    print(f"residual without norm, 4 blocks: {without:.3f} (theory {0.75**4:.3f})")
    assert without == pytest.approx(0.75**4, abs=0.08)


def test_batch_norm_multiplies_the_gradient_as_theory_says():
    batch = noise()
    table = gradients(Wide(24), [batch])
    norms = table["grad_x"].iloc[1:]  # the first block's input follows no ReLU
    ratio = (norms.iloc[0] / norms.iloc[-1]) ** (2 / 22)
    print(f"batch norm: growth per layer of the squared norm {ratio:.3f} (theory 1.467)")
    assert ratio == pytest.approx(math.pi / (math.pi - 1), rel=0.02)
    assert summarise(table)["first_last_theory"] == pytest.approx(1.467 ** (23 / 2), rel=0.01)
    without = gradients(Wide(12, norm=False), [batch]).iloc[1:]
    ratio = without["grad_x"].iloc[0] / without["grad_x"].iloc[-1]
    theory = without["theory_x"].iloc[0] / without["theory_x"].iloc[-1]
    print(f"He's initialization without norm, 10 layers: {ratio:.2f} (theory {theory:.2f})")
    assert ratio == pytest.approx(theory, rel=0.3) and theory == pytest.approx(1, abs=0.1)


def of_theory(depth=56, **options):
    """Return the measured and the predicted cosine at the first block of a net before training."""
    torch.manual_seed(0)
    net = CifarResNet(depth, width=4, **options)
    table = gradients(net, [digits(16)]).assign(net="net", seed=0)
    return table[["cosine", "theory_cosine"]].iloc[0], table


def test_theory_counts_the_factors_of_branch_and_shortcut():
    usual, _ = of_theory()
    blocks = torch.arange(1, 28)
    expected = ((1 + 1 / (4 * blocks)) / (1 + 1 / blocks)).prod().item()
    assert usual["theory_cosine"] == pytest.approx(expected)
    for options in ({"norm": "none", "branch_scale": "skip_init"}, {"zero_last": True}):
        found, _ = of_theory(**options)
        assert found["theory_cosine"] == 1 and found["cosine"] > 0.3
    without, _ = of_theory(norm="none")
    assert without["theory_cosine"] == pytest.approx(0.625**27)
    halved, _ = of_theory(norm="none", branch_scale=0.5)
    assert halved["theory_cosine"] == pytest.approx(((1 + 0.25 / 4) / 1.25) ** 27)
    both, _ = of_theory(norm="none", branch_scale=0.5, shortcut="scaled")
    assert both["theory_cosine"] == pytest.approx(0.625**27)
    dropped, _ = of_theory(8, norm="none", stochastic_depth=1.0)
    assert dropped["theory_cosine"] == pytest.approx(0.625**3)
    gated, table = of_theory(8, shortcut="gate")
    assert math.isnan(gated["theory_cosine"])
    assert "theory knows no gates" in "\n".join(remarks(table))


def test_theory_takes_the_kernels_that_are_applied():
    """Standardized kernels have the gain of batch norm, pi / (pi - 1), whatever is stored."""
    net = CifarResNet(20, "none", norm="scaled_weights")
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim == 4:
                parameter.mul_(5)
    table = gradients(net, [digits(8)])
    found = summarise(table)["first_last_theory"] ** (2 / 16)
    assert found == pytest.approx(math.pi / (math.pi - 1), rel=1e-3)


def test_cosines_by_hand():
    rows = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [0.0, 0.0]])
    assert mean_cosine(rows) == pytest.approx((0 - 1 + 0) / 3)
    assert lowest_cosine(list(rows)) == pytest.approx(-1)
    assert math.isnan(mean_cosine(rows[:1])) and math.isnan(lowest_cosine([rows[0]]))


def test_the_c_map_makes_images_alike_with_depth():
    """Values of Martens et al. 2021 for ReLU, which start from unrelated images."""
    found = []
    for n in (19, 55, 109):
        c = 0.0
        for _ in range(n):
            c = correlation_after(0.0, c)
        found.append(c)
    assert found == pytest.approx([0.944, 0.990, 0.997], abs=1e-3)
    assert correlation_after(0.0, 1.0) == 1


def test_confusion_is_the_lowest_cosine_of_the_batches_gradients():
    net = CifarResNet(8, width=4)
    images, labels = digits(24)
    batches = [(images[i : i + 8], labels[i : i + 8]) for i in (0, 8, 16)]
    table = gradients(net, batches)
    vectors = []
    for x, y in batches:
        net.train().zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        vectors.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    assert summarise(table)["confusion"] == pytest.approx(lowest_cosine(vectors), abs=1e-4)
    assert (table["pairs_of_batches"] == 3).all() and table["confusion"].between(-1, 1).all()


def test_what_cannot_be_measured_is_left_out_and_said():
    net = CifarResNet(8, width=4)
    before = {name: t.clone() for name, t in net.state_dict().items()}
    images, labels = digits(8)
    table = gradients(net, [(images, labels)]).assign(net="one", seed=0)
    row = summarise(table)
    assert "confusion" not in row and "first_last_theory" not in row and 0 < row["cosine"] <= 1
    assert "one: the cosine of batches needs --batches 2 or more." in remarks(table)
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())


@pytest.mark.parametrize(
    "make", [Own, lambda: torchvision.models.resnet18(num_classes=10)], ids=["own", "torchvision"]
)
def test_any_net_is_measured(make):
    images, labels = digits(8, 32)
    table = gradients(make(), [(images[:4], labels[:4]), (images[4:], labels[4:])])
    assert table["cosine"].between(-1, 1).all() and table["confusion"].between(-1, 1).all()


def test_lines_of_theory_are_drawn_for_each_net():
    plain = gradients(CifarResNet(8, "none", width=4), [digits(8)]).assign(net="plain", seed=0)
    own = gradients(Own(), [digits(8)]).assign(net="own", seed=0)
    axes = figure(pd.concat([plain, own])).axes
    lines = [sum(len(line.get_xdata()) > 0 for line in ax.get_lines()) for ax in axes]
    assert lines == [3, 2, 4]  # no line of theory for the norm in a residual net
