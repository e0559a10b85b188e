"""Jacobians of blocks are those of autograd, and alignment finds what was built in."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from helpers.command_line import DIGITS
from helpers.nets import Own, digits
from torch import nn

from lightning_resnet.analysis.inspection.alignment import (
    alignment,
    figure,
    remarks,
    shared,
    singular,
    summarise,
)
from lightning_resnet.models import CifarResNet
from lightning_resnet.models.activations import record_blocks


def test_singular_values_are_those_of_the_dense_jacobian():
    torch.manual_seed(0)
    net = CifarResNet(8, width=4).eval()
    block = record_blocks(net, digits(1)[0])[1][0]
    x = block.x.detach()
    dense = torch.autograd.functional.jacobian(block.branch, x).reshape(x.numel(), x.numel())
    left, values, right, energy = singular(block.branch, x, 10)
    true = torch.linalg.svdvals(dense)
    print(f"largest {values[0]:.5f} (dense {true[0]:.5f})")
    assert values[:3].tolist() == pytest.approx(true[:3].tolist(), rel=1e-3)
    assert energy == pytest.approx(dense.square().sum().item(), rel=0.1)
    assert torch.allclose(dense @ right[:, 0], values[0] * left[:, 0], atol=1e-2)


class Step(nn.Module):
    """Residual block that adds the same linear map of rank 2, a tenth of x."""

    def __init__(self, matrix):
        super().__init__()
        self.linear = nn.Conv2d(8, 8, 1, bias=False)
        self.linear.weight.data = matrix[:, :, None, None].clone()

    def branch(self, x):
        return self.linear(x)

    def shortcut(self, x):
        return x

    def forward(self, x):
        return x + self.branch(x)


class Steps(nn.Module):
    """Net of equal steps, or of unrelated ones."""

    def __init__(self, equal):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 8)
        side = torch.randn(2, 8) / 10
        each = [side.T @ side if equal else torch.randn(8, 2) @ torch.randn(2, 8) for _ in range(4)]
        self.body = nn.Sequential(*[Step(matrix) for matrix in each])

    def forward(self, x):
        return self.body(self.stem(x)).flatten(1)


def test_equal_steps_are_aligned_and_unrelated_ones_are_not():
    equal = summarise(alignment(Steps(True).eval(), [digits(8)], classes=2))
    other = summarise(alignment(Steps(False).eval(), [digits(8)], classes=2))
    assert equal["next"] == pytest.approx(1, abs=1e-4)
    assert other["next"] < 0.7
    assert equal["left_right"] == pytest.approx(1, abs=1e-4) and equal["unrelated"] == 0.25
    assert equal["top"] == pytest.approx(1, abs=1e-4)
    assert equal["straight"] > 0.99 > other["straight"] and equal["uneven"] < 0.2 < other["uneven"]
    assert equal["times_blocks"] == pytest.approx(4 * equal["largest"])


def test_spaces_share_what_lies_in_both():
    eye = torch.eye(5)
    assert shared(eye[:, :2], eye[:, 1:3]) == 0.5


@pytest.mark.parametrize(
    "make",
    [
        lambda: CifarResNet(14, "none", width=4),
        Own,
        lambda: CifarResNet(8, width=4, zero_last=True),
        lambda: torchvision.models.resnet18(num_classes=10),
    ],
    ids=["plain", "own", "zero branches", "torchvision"],
)
def test_any_net_is_measured_and_left_alone(make):
    net = make().eval()
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    table = alignment(net, [digits(2, 32)], classes=3)
    assert (table["largest"] >= 0).all() and np.isfinite(table["largest"]).all()
    assert table["top"].dropna().between(0, 1.001).all()
    assert all(torch.equal(t, before[key]) for key, t in net.state_dict().items())
    assert all(p.requires_grad for p in net.parameters())


def test_remarks_follow_the_values():
    values = {"straight": 1, "uneven": 0, "left_right": 0.5, "unrelated": 0.1, "top": 0.9}
    table = pd.DataFrame([values | {"next": 0.4, "largest": 2.0, "times_blocks": 8.0}])
    table = table.assign(net="deep", seed=0)
    text = "\n".join(remarks(table))
    assert "deep: successive blocks share 40% of their leading directions, 4.0 times" in text
    assert "no two successive blocks" in "\n".join(remarks(table.assign(next=np.nan)))


def test_what_has_no_value_has_no_panel():
    rows = {"index": [0, 1], "next": np.nan, "left_right": -0.2, "top": [0.2, 0.3]}
    frame = pd.DataFrame(rows | {"largest": [0.92, 0.97]}).assign(net="one", seed=0)
    axes = figure(frame).axes
    assert len(axes) == 3 and axes[0].get_ylim()[0] < -0.2  # below 0 too
    assert len(axes[2].get_yticks()) == 3  # a logarithmic axis between two powers
    assert len(figure(frame.assign(largest=-1.0)).axes) == 2


def test_command_line(cli):
    tiny = ["--run.threads", 1, "--model.net.depth", 14, "--model.net.width", 4, "--images", 9]
    code, out, err = cli("inspect", "alignment", DIGITS, *tiny, "--out", "o", "--json")
    assert code == 0, err
    assert 0 < json.loads(out)["rows"][0]["next"] <= 1
    assert len(pd.read_csv("o/alignment.csv")) == 6 and Path("o/alignment.html").exists()
