"""The landscape is the loss at moved weights: closed forms, the net itself, what is left out."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from helpers.command_line import DIGITS, TINY
from helpers.nets import Own, digits
from helpers.run_dir import only_run
from torch import nn

from lightning_resnet.analysis.inspection import landscape as module
from lightning_resnet.analysis.inspection.landscape import (
    direction_of,
    figure,
    landscape,
    loss_and_error,
    remarks,
    summarise,
)
from lightning_resnet.models import CifarResNet

PLAIN = {"depth": 56, "shortcut": "none", "norm": "none"}
SMALL = ["--run.threads", 1, "--model.net.depth", 8, "--model.net.width", 4]


def plane(table):
    return table.pivot(index="y", columns="x", values="loss").to_numpy()


def test_squared_loss_of_a_linear_net_is_a_paraboloid(monkeypatch):
    torch.manual_seed(0)
    net = nn.Linear(6, 3).double()
    x, y = torch.randn(40, 6).double(), torch.randn(40, 3).double()

    def squared(net, batches):
        return (net(x) - y).square().mean().item(), 0.0

    monkeypatch.setattr(module, "loss_and_error", squared)
    table = landscape(net, [(x, y)], points=9, reach=2.0)
    monomials = [table["x"] ** i * table["y"] ** j for i in range(3) for j in range(3 - i)]
    terms = np.stack(monomials, axis=1)
    fit = terms @ np.linalg.lstsq(terms, table["loss"], rcond=None)[0]
    deviation = float((fit - table["loss"]).abs().max() / table["loss"].max())
    print(f"largest relative deviation from a paraboloid: {deviation:.1e}")
    assert deviation < 1e-12
    bent = summarise(table.assign(classes=3))["bent"]
    assert bent == 0


def test_scaled_filters_before_a_norm_leave_the_landscape_as_it_is():
    torch.manual_seed(0)
    net = CifarResNet(8, width=4).eval()
    for _ in range(3):
        net.train()(digits(64)[0])
    net.eval().double()
    images, labels = digits(64)
    batches = [(images.double(), labels)]
    before = plane(landscape(net, batches, points=5))
    with torch.no_grad():
        for conv, norm in ((net.layer1[0].conv1, net.layer1[0].bn1), (net.conv1, net.bn1)):
            conv.weight *= 10
            norm.running_mean *= 10
            norm.running_var *= 100
            norm.eps *= 100
    after = plane(landscape(net, batches, points=5))
    print(f"filters times 10: largest relative change {np.abs(after / before - 1).max():.1e}")
    assert np.allclose(before, after, rtol=1e-9)


def test_directions_have_the_norms_of_filters_and_leave_biases_and_norms():
    net = CifarResNet(8, width=4)
    for parameter, along in zip(net.parameters(), direction_of(net, 0), strict=True):
        if parameter.dim() < 2:
            assert not along.any()
        else:
            assert torch.allclose(along.flatten(1).norm(dim=1), parameter.flatten(1).norm(dim=1))


NETS = {
    "plain": lambda: CifarResNet(8, "none", width=4),
    "torchvision": lambda: torchvision.models.resnet18(num_classes=10),
    "own": Own,
    "without blocks": lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 10)),
}


@pytest.mark.parametrize("name", ["plain", "own", "without blocks"])
def test_hessian_of_the_plane_is_that_of_the_moved_net(name, tmp_path):
    torch.manual_seed(0)
    net, batches, known = NETS[name]().eval(), [digits(10)], tmp_path / "known.jsonl"
    table = landscape(net, batches, points=3, line=True, known=known, hessian=True)
    assert table["ratio"].dropna().between(0, 50).all()
    for parameter in net.parameters():
        parameter.requires_grad_(parameter.dim() > 1)
    # The loss of a linear net is convex: its smallest eigenvalue is 0, and the ratio is rounding.
    expected = pytest.approx(module.ratio(net, batches), rel=1e-3, abs=1e-6)
    assert table["ratio"].iloc[1] == expected
    assert landscape(net, batches, points=3, line=True, known=known, hessian=True).equals(table)
    text = "\n".join(remarks(table.assign(net="one", seed=0, classes=10, images=10)))
    assert "one: the smallest eigenvalue of the Hessian has" in text
    plane_table = landscape(net, batches, points=3, hessian=True).assign(net="one", seed=0)
    assert len(figure(plane_table).axes) == 7  # with two scales of colours


@pytest.mark.parametrize("name", NETS)
def test_any_net_has_a_landscape_whose_middle_is_the_net(name):
    torch.manual_seed(0)
    net = NETS[name]().eval()
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    batches = [digits(20)]
    table = landscape(net, batches, points=3, directions=2)
    torch.set_num_threads(threads)
    assert len(table) == 18 and np.isfinite(table["loss"]).all()
    middle = table[(table["x"] == 0) & (table["y"] == 0)]
    loss, error = loss_and_error(net, batches)
    assert middle["loss"].tolist() == pytest.approx([loss, loss], rel=1e-6)
    assert middle["error"].tolist() == [error, error]
    assert not np.allclose(*(plane(part) for _, part in table.groupby("direction")))
    assert all(torch.equal(t, before[key]) for key, t in net.state_dict().items())


def test_points_that_are_known_are_not_computed_again(tmp_path, monkeypatch):
    net, batches, known = Own().eval(), [digits(8)], tmp_path / "made/known.jsonl"
    full = landscape(net, batches, points=3, known=known)
    lines = known.read_text().splitlines()
    assert len(lines) == 9
    known.write_text("\n".join(lines[:5]) + "\n" + lines[5][:-4])  # a process died here
    calls = []
    real = module.loss_and_error
    monkeypatch.setattr(module, "loss_and_error", lambda *args: calls.append(1) or real(*args))
    assert landscape(net, batches, points=3, known=known).equals(full) and len(calls) == 4
    assert landscape(net, batches, points=3, known=known).equals(full) and len(calls) == 4
    landscape(net, batches, points=5, known=known)
    assert len(calls) == 4 + 25 - 9


def test_a_damaged_line_is_measured_again(tmp_path):
    net, batches, known = Own().eval(), [digits(8)], tmp_path / "known.jsonl"
    full = landscape(net, batches, points=3, known=known)
    lines = known.read_text().splitlines()
    known.write_text("\n".join(["[x]", "5", '[0, "y", 0, 1, 2]', *lines[3:]]) + "\n")
    assert landscape(net, batches, points=3, known=known).equals(full)


class Times(nn.Module):
    """A net of a user that does not tell its factor."""

    def __init__(self, factor):
        super().__init__()
        self.fc = nn.Linear(3, 10)
        self.factor = factor

    def forward(self, x):
        return self.factor * self.fc(x.mean((2, 3)))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"shortcut": "A"}, {"shortcut": "scaled"}),
        ({"shortcut": "scaled"}, {"shortcut": "scaled", "shortcut_value": 0.7}),
        ({"shortcut": "gate"}, {"shortcut": "exclusive_gate"}),
        ({}, {"branch_scale": 0.5}),
        ({"branch_scale": 0.5}, {"branch_scale": 0.25}),
        ({"block": "relu_before_add"}, {"block": "basic"}),
        ({"stochastic_depth": 0.5}, {"stochastic_depth": 0.9}),
        (PLAIN, PLAIN | {"activation": "tat"}),
    ],
)
def test_points_of_nets_with_the_same_weights_are_kept_apart(one, other):
    batches = [digits(8)]
    names = []
    texts = []
    for options in (one, other):
        torch.manual_seed(1)
        net = CifarResNet(**{"depth": 8, "width": 4} | options).eval()
        names.append(module._digest(net, batches, None))
        texts.append(repr(net))
    assert names[0] != names[1] and texts[0] != texts[1]
    assert names[1] == module._digest(net, batches, None)


def test_points_of_a_net_that_does_not_tell_what_it_computes_are_kept_apart():
    names = []
    for factor in (1.0, 2.0):
        torch.manual_seed(1)
        names.append(module._digest(Times(factor), [digits(8)], None))
    assert names[0] != names[1]


def test_a_net_that_fails_ends_the_measurement():
    class Fails(Own):
        def forward(self, x):
            raise RuntimeError("no")

    torch.set_num_threads(2)
    with pytest.raises(RuntimeError, match="no"):
        landscape(Fails(), [digits(8)], points=5)


def made(net, loss, **columns):
    """Return the rows of a line of 5 points with these losses."""
    xs = [-1.0, -0.5, 0.0, 0.5, 1.0]
    table = pd.DataFrame({"net": net, "seed": 0, "direction": 0, "x": xs, "y": 0.0, "loss": loss})
    return table.assign(error=10.0, classes=10, images=100, **columns)


def test_remarks_follow_the_values():
    learned = made("deep", [3.0, 1.0, 0.1, 1.0, 3.0])
    flat = made("stuck", [2.3, 2.4, 2.2, 2.3, 2.2])
    numbers = summarise(learned)
    assert numbers == {"loss": 0.1, "error": 10.0, "ends": 3.0, "better": 60.0, "bent": 0.0}
    assert summarise(flat)["bent"] == pytest.approx(200 / 3)
    text = "\n".join(remarks(pd.concat([learned, flat])))
    assert "deep: the loss is 0.1 at the net and 3 where" in text
    assert "stuck: the loss at the net is not clearly below chance" in text
    assert "deep: the loss at the net is within" not in text
    assert not any("clearly below chance" in line for line in remarks(learned))


def test_the_middle_is_what_evaluate_says_and_a_second_run_continues(cli):
    cli("fit", *TINY, "--trainer.max_epochs", 1)
    code, out, err = cli("inspect", "landscape", "runs", "--points", 3, "--images", 9999, "--json")
    assert code == 0, err
    row = json.loads(out)["rows"][0]
    last = [json.loads(line) for line in (only_run() / "metrics.jsonl").read_text().splitlines()]
    told = [line for line in last if "train_eval/loss" in line][-1]
    assert row["loss"] == pytest.approx(told["train_eval/loss"], rel=1e-4)
    assert row["error"] == pytest.approx(100 * (1 - told["train_eval/acc1"]), abs=1e-3)
    points = list(Path("runs/report/landscape.points").glob("*.jsonl"))
    assert len(points) == 1 and len(points[0].read_text().splitlines()) == 9
    cli("inspect", "landscape", "runs", "--points", 3, "--images", 9999)
    assert len(points[0].read_text().splitlines()) == 9


def test_command_line_draws_planes_or_a_line(cli):
    sweep = {"method": "grid", "parameters": {"model.net.shortcut": {"values": ["none", "A"]}}}
    sweep["command"] = ["resnet-cli", "fit", "--config", DIGITS, "--config", "${args_json_file}"]
    Path("s.yaml").write_text(json.dumps(sweep))
    flags = [*SMALL, "--images", 40, "--points", 3]
    code, out, err = cli("inspect", "landscape", "s.yaml", *flags, "--out", "o")
    assert code == 0, err
    frame = pd.read_csv("o/landscape.csv")
    assert len(frame) == 18 and frame["net"].nunique() == 2 and (frame["images"] == 40).all()
    assert "depth 8, plain: the loss is" in out and Path("o/landscape.html").exists()
    code, _, err = cli("inspect", "landscape", "s.yaml", *flags, "--line", "--out", "o")
    assert code == 0, err
    assert len(pd.read_csv("o/landscape.csv")) == 6


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--points", 24, "an odd number"),
        ("--points", 1, "an odd number"),
        ("--range", 0, "a number above 0"),
        ("--range", "nan", "a finite number"),
        ("--images", 0, "--images"),
    ],
)
def test_mistakes_are_one_line(cli, flag, value, message):
    code, _, err = cli("inspect", "landscape", DIGITS, flag, value)
    assert code == 2 and message in err and err.count("\n") == 1


def test_weights_of_nan_are_refused_in_one_line(cli):
    cli("fit", *TINY, "--trainer.max_epochs", 1)
    file = only_run() / "checkpoints/last.ckpt"
    checkpoint = torch.load(file, weights_only=False)
    name = next(key for key in checkpoint["state_dict"] if key.endswith("conv1.weight"))
    checkpoint["state_dict"][name][0] = math.nan
    torch.save(checkpoint, "nan.ckpt")
    for what in ("landscape", "gradients", "probes", "similarity"):
        code, _, err = cli("inspect", what, "nan.ckpt")
        assert code == 2 and "conv1.weight is not finite" in err and err.count("\n") == 1
