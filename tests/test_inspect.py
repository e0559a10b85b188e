"""Inspections measure what they say, on any net with blocks, and leave the net as it was."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers.command_line import DIGITS, TINY
from helpers.nets import NETS, Own, digits
from helpers.run_dir import only_run
from torch import nn

from lightning_resnet.analysis.inspection.derivation import derivation, sentence
from lightning_resnet.analysis.inspection.gradients import gradients, summarise
from lightning_resnet.analysis.inspection.report import geometric_mean, module_of, summary, write
from lightning_resnet.analysis.inspection.responses import responses
from lightning_resnet.errors import UserError
from lightning_resnet.models import CifarResNet, ImageNetResNet
from lightning_resnet.models.activations import record_blocks


@pytest.mark.parametrize("residual", [False, True])
def test_derivation_holds_and_needs_the_one(residual):
    for depth in range(1, 51):  # 50 random stacks
        assert derivation(depth, residual, seed=depth) < 1e-12
        assert not residual or derivation(depth, residual, seed=depth, add_one=False) > 0.1


def test_derivation_is_told_in_one_line():
    assert "56 stacks each in float64" in sentence() and "\n" not in sentence()


def test_a_number_that_a_net_does_not_have_is_called_none():
    unharmed = {"lesion": "none", "changed": 0, "error": 26.4}
    one = {"lesion": "one", "changed": 1, "error": 30.0, "block": "layer1.0", "index": 0}
    frame = pd.DataFrame([unharmed, one]).assign(net="depth 8, plain", seed=0)
    head, cells = summary(module_of("lesions"), frame)
    assert cells[head.index("no lesion")] == "26.4" and "none" in cells and "nan" not in cells


@pytest.mark.parametrize("name", NETS)
def test_shortcut_and_branch_make_the_full_gradient(name):
    torch.manual_seed(0)
    net = NETS[name]()
    table = gradients(net, [digits(4, 32)])
    assert len(table) >= 2 and (table["sum_error"] < 1e-5).all()
    assert (table["shortcut"] > 0).all() != name.startswith("none")
    preact = "preact" in name
    assert (table["gate"] == 1).all() if preact else (table["gate"] < 1).any()


def test_gradients_are_autograds_and_the_net_is_left_alone():
    net, (images, labels) = CifarResNet(20).eval(), digits()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    table = gradients(net, [(images, labels)]).set_index("block")
    assert (
        not net.training
        and not net.layer2[1].bn1.training
        and all(p.grad is None for p in net.parameters())
    )
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    inputs = []
    net.layer2[1].register_forward_pre_hook(lambda _, x: inputs.append(x[0]) or x[0].retain_grad())
    nn.functional.cross_entropy(net.train()(images), labels).backward()
    row = table.loc["layer2.1"]
    assert row["grad_x"] == pytest.approx(inputs[0].grad.norm().item(), rel=1e-4)
    norms = [p.grad.norm() for p in net.layer2[1].parameters()]
    assert row["grad_w"] == pytest.approx(torch.stack(norms).norm().item(), rel=1e-4)


def test_a_block_of_zero_branches_passes_the_gradient_through_the_shortcut_alone():
    net = CifarResNet(20, zero_last=True)
    table = gradients(net, [digits()]).set_index("block")
    assert (table["branch"] == 0).all()
    row = table.loc[
        "layer1.1"
    ]  # its x >= 0 passes as it is: what the gate lets through is all there is
    assert row["shortcut"] == pytest.approx(row["grad_x"]) and row["gain"] == pytest.approx(
        row["gate"] ** 0.5
    )


def first_last(seed, **options):
    torch.manual_seed(seed)
    return summarise(gradients(CifarResNet(56, **options), [digits()]))["first_last"]


@pytest.mark.parametrize("seed", range(3))
def test_vanishing_and_exploding_gradients_at_initialisation(seed):
    """S3, the lines that are certain."""
    assert first_last(seed, shortcut="none", norm="none", init=0.5) < 1e-6
    assert first_last(seed, shortcut="none", norm="none", init=2.0) > 1e6
    assert first_last(seed, shortcut="none", norm="none", init="xavier") < 1e-6
    assert 1e-2 < first_last(seed, norm="none", init="xavier") < 1e2
    assert first_last(seed, shortcut="none") > 10 * first_last(seed)


def test_nets_without_blocks_say_what_to_do():
    class Wrong(Own):
        def blocks(self):
            yield "elsewhere", torch.sin, None

    class Silent(Own):
        def forward(self, x):
            return self.head(self.body[0](self.stem(x)).mean((2, 3)))

    class Shared(Own):
        def forward(self, x):
            body = self.body[0]
            return self.head(body(body(self.stem(x))).mean((2, 3)))

    for net, message in (
        (nn.Conv2d(3, 3, 1), "has no blocks"),
        (Wrong(), "is no submodule"),
        (Silent(), "body.1 was not"),
        (Shared(), "body.0 was called 2 times"),
    ):
        with pytest.raises(UserError, match=message):
            record_blocks(net, digits(2)[0])


def test_command_line_inspects_runs_recipes_and_sweeps(cli):
    cli("fit", *TINY, "--trainer.max_epochs", 1)
    code, out, _ = cli(
        "inspect", "gradients", "runs", DIGITS, "--batches", 1, *TINY[2:], "--data.batch_size", 16
    )
    assert code == 0 and "at last" in out and "at init" in out and "Derivation" in out
    frame = pd.read_csv("report/gradients.csv")
    assert frame["net"].nunique() == 2 and len(frame) == 6 and math.isfinite(frame["grad_w"].sum())
    assert {
        p.suffix for p in (only_run() / "..").resolve().parents[1].glob("report/gradients.*")
    } == {*(".csv", ".html", ".md", ".png", ".svg")}
    checkpoint = only_run() / "checkpoints/best.ckpt"
    code, out, _ = cli("inspect", "gradients", checkpoint, "--batches", 1)
    assert code == 0 and str(only_run() / "report/gradients.md") in out


def test_runs_of_one_seed_are_nets_of_their_own(cli):
    for flags in ([], ["--run.new"]):
        assert cli("fit", *TINY, "--trainer.max_epochs", 1, *flags)[0] == 0
    few = ["--batches", 1, "--images", 20, "--out", "o"]
    code, out, err = cli("inspect", "similarity", "runs", *few)
    assert code == 0 and "n = 1" in out, err
    assert pd.read_csv("o/similarity.csv")["net"].nunique() == 2


def test_a_geometric_mean_keeps_within_the_range_of_floats():
    assert geometric_mean([3e12] * 26) == pytest.approx(3e12)
    assert geometric_mean(pd.Series([7.2e-21] * 20)) == pytest.approx(7.2e-21)
    assert geometric_mean([0.0, 4.0]) == 0 and math.isnan(geometric_mean([math.nan, 1.0]))


def test_a_hash_that_looks_like_a_number_stays_one(cli):
    cli("fit", *TINY, "--trainer.max_epochs", 1, "--run.point", "3e69836295")
    assert "is finished" in cli("fit", "--config", only_run() / "config.yaml")[1]
    assert (
        json.loads((only_run() / "attempts/1.json").read_text())["gpus"] == 0
    )  # for `compare --x gpu_h`
    text = (only_run() / "config.yaml").read_text()
    (only_run() / "config.yaml").write_text(
        text.replace("'3e69836295'", "3e69836295")
    )  # as they were written before
    assert cli("inspect", "gradients", "runs", "--batches", 1)[0] == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["gradient"], "did you mean gradients?"),
        (["gradients"], "inspect what?"),
        (["gradients", "nowhere"], "does not exist"),
        (["gradients", "nowhere.yaml"], "cannot read"),
        (["gradients", "."], ". is no run and holds none"),
        (["gradients", DIGITS, "--batches", "0"], "--batches"),
        (["gradients", DIGITS, "--hessian"], "--hessian is of landscape, why, not of gradients"),
        (["why", DIGITS, DIGITS, "--trajectory"], "--trajectory is of landscape, not of why"),
        (["curvature", DIGITS, "--range", "1"], "--range is of landscape, why, not of curvature"),
        (["paths", DIGITS, "--images", "9"], "landscape, curvature, similarity, alignment, why"),
        ([], "needs one of gradients, "),
        (["gradients", DIGITS, "--model.net.dept", "20"], "did you mean --model.net.depth"),
        (["gradients", "number.yaml"], "number.yaml"),
    ],
)
def test_mistakes_are_one_line(cli, args, message):
    Path("number.yaml").write_text("42\n")
    code, _, err = cli("inspect", *args)
    assert code == 2 and message in err and err.count("\n") == 1


def test_names_have_no_effect_in_markdown(tmp_path):
    hostile = "lr <img src=x onerror=alert(1)>, [a](http://b)"
    found = gradients(CifarResNet(8, width=4), [digits(4), digits(8)])
    frame = found.assign(net=hostile, seed=0)
    write("gradients", frame, tmp_path, f"gradients, {hostile}", "resnet-cli inspect gradients")
    text = (tmp_path / "gradients.md").read_text()
    assert text.count("\\<img") == text.count("<img") > 3 and "](http" not in text


SMALL = ["--run.threads", 1, "--model.net.depth", 8, "--model.net.width", 4]
OVERFLOW = [*SMALL[:3], 38, "--model.net.norm", "none", "--model.net.init", 100]
FOREIGN = ["--model.net", "torchvision.models.resnet18", "--model.net.num_classes", 10]
BOTTLENECK = [*SMALL[:3], 11, "--model.net.block", "bottleneck", "--model.net.shortcut", "none"]


@pytest.mark.parametrize(
    ("what", "flags", "message"),
    [
        ("landscape", OVERFLOW, "not the logits of a batch"),
        ("responses", OVERFLOW, "not the logits of a batch"),
        ("probes", OVERFLOW, "not the logits of a batch"),
        ("gradients", ["--data.batch_size", 1, *FOREIGN], "batch norm sees 1 image at a time"),
        ("lesions", BOTTLENECK, "no block of this net can be deleted"),
    ],
)
def test_nets_that_cannot_be_measured_are_one_line(cli, what, flags, message):
    code, _, err = cli("inspect", what, DIGITS, *flags, "--batches", 1)
    assert code == 2 and message in err and err.count("\n") == 1


def test_nets_without_3x3_layers_have_no_responses():
    net = Own()
    for block in net.body:
        block.conv = nn.Conv2d(8, 8, 5, padding=2)
    net.stem = nn.Conv2d(3, 8, 5)
    with pytest.raises(UserError, match="has no 3x3 convolutions"):
        responses(net, [digits(4)])


def test_imagenet_nets_are_inspected_too():
    assert (
        gradients(ImageNetResNet(18, num_classes=10), [digits(4, 64)])["sum_error"] < 1e-5
    ).all()
