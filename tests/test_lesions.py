"""Lesions, paths, probes, shortcuts and responses, each against a calculation by hand."""

import json
import math
from itertools import product
from pathlib import Path

import pandas as pd
import pytest
import torch
import torchvision
from helpers.command_line import DIGITS
from helpers.nets import NETS, Own, digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F

from lightning_resnet.analysis.inspection import probes as of_probes
from lightning_resnet.analysis.inspection.lesions import lesions, summarise
from lightning_resnet.analysis.inspection.paths import _steps, effective, paths
from lightning_resnet.analysis.inspection.probes import probes, recovered, survivals
from lightning_resnet.analysis.inspection.responses import remarks as remarks_of_responses
from lightning_resnet.analysis.inspection.responses import responses
from lightning_resnet.analysis.inspection.responses import summarise as summarise_responses
from lightning_resnet.analysis.inspection.shortcuts import shortcuts
from lightning_resnet.errors import UserError
from lightning_resnet.models import CifarResNet, ImageNetResNet
from lightning_resnet.models.activations import error, record_blocks, train_mode
from lightning_resnet.models.surgery import alike, drop, droppable, permute


@pytest.mark.parametrize("name", NETS)
def test_dropped_blocks_pass_their_shortcut_and_come_back(name):
    torch.manual_seed(0)
    net, images = NETS[name]().eval(), digits(2, 32)[0]
    with torch.no_grad():
        complete = net(images)
        _, seen = record_blocks(net, images)
        block = droppable(seen)[-1]
        with drop([block]):
            _, without = record_blocks(net, images)
        expected = block.shortcut(block.x) if block.shortcut else block.x
        expected = expected if "preact" in name else expected.relu()
        torch.testing.assert_close(without[seen.index(block)].y, expected)
        assert torch.equal(net(images), complete)
    assert name.startswith("none") == (
        len(droppable(seen)) < len(seen)
    )  # plain nets cannot lose a change of shape


def test_exchanged_blocks_compute_with_each_others_weights():
    net, images = CifarResNet(20).eval(), digits(4)[0]
    _, seen = record_blocks(net, images)
    assert [[block.name for block in group] for group in alike(seen)] == [
        ["layer1.0", "layer1.1", "layer1.2"],
        ["layer2.1", "layer2.2"],
        ["layer3.1", "layer3.2"],
    ]
    swapped = CifarResNet(20).eval()
    swapped.load_state_dict(net.state_dict())
    swapped.layer2[1], swapped.layer2[2] = swapped.layer2[2], swapped.layer2[1]
    group = alike(seen)[1]
    with torch.no_grad(), permute(group, group[::-1]):
        assert torch.equal(net(images), swapped(images)) and not torch.equal(
            net(images), CifarResNet(20)(images)
        )


def test_lesions_of_blocks_that_do_nothing_cost_nothing():
    net = CifarResNet(20, zero_last=True).eval()
    table = lesions(net, [digits(64)], draws=2)
    changes_shape = table["block"].isin(["layer2.0", "layer3.0"])
    assert table["error"].nunique() == 1 and changes_shape.sum() == 2
    assert table["lesion"].value_counts().to_dict() == {
        "delete": 16,
        "one": 9,
        "permute": 12,
        "none": 1,
    }
    assert table["changed"][table["lesion"] == "delete"].max() == 9
    assert summarise(table)["one_worst"] == error(net, [digits(64)])


def test_paths_add_up_to_the_gradient():
    """All 2^n of them, summed as vectors."""
    net, (images, labels) = CifarResNet(8, "B"), digits()
    with train_mode(net):
        logits, seen = record_blocks(net, images)
        complete, start = torch.autograd.grad(
            F.cross_entropy(logits, labels), [seen[0].x, seen[-1].y]
        )
        steps = [_steps(block) for block in reversed(seen)]
        total = torch.zeros_like(complete)
        for way in product((0, 1), repeat=3):
            at = start
            for step, side in zip(steps, way, strict=True):
                at = step[side](at)
            total += at
    assert (total - complete).norm() < 1e-5 * complete.norm()


def test_path_shares():
    table = paths(CifarResNet(20, zero_last=True), digits())
    assert table["share"].tolist() == pytest.approx([1] + [0] * 9) and effective(table) == (0, 0)
    plain = paths(CifarResNet(20, "none"), digits())
    assert plain["length"].tolist() == [9] and plain["share"].tolist() == [1]
    usual = paths(CifarResNet(20), digits())
    weighted = usual["norm"] * [
        math.comb(9, k) for k in range(10)
    ]  # Veit et al. 2016: single path x number of paths
    assert usual["share"].tolist() == pytest.approx((weighted / weighted.sum()).tolist())
    shares = pd.DataFrame({"length": range(5), "share": [0.01, 0.5, 0.3, 0.16, 0.03]})
    assert effective(shares) == (1, 3)


def test_probes_are_fitted_on_pooled_outputs():
    net, train, val = CifarResNet(20).eval(), digits(200), digits(400)
    table = probes(net, [train], [val]).set_index("block")
    assert list(table.index)[:2] == ["input", "layer1.0"] and len(table) == 10
    with torch.no_grad():
        x, x_val = (
            record_blocks(net, images)[1][4].y.mean((2, 3)).numpy() for images, _ in (train, val)
        )
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(x, train[1])
    assert table.loc["layer2.1", "val"] == pytest.approx(100 * (1 - probe.score(x_val, val[1])))
    assert (
        table.loc["layer2.1", "channels"] == 32
        and table.loc["layer2.1", "train"] < table.loc["layer2.1", "val"]
    )


def test_what_is_recovered_of_the_input_is_the_share_of_variance():
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(200, 6, generator=generator)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator))[0]
    found = recovered(5 * y[:100] @ rotation + 3, y[:100], 5 * y[100:] @ rotation + 3, y[100:])
    assert found == pytest.approx(1, abs=1e-6)
    half = recovered(y[:100, :3], y[:100], y[100:, :3], y[100:])
    share = (y[100:, :3] - y[:100, :3].mean(0)).square().sum() / (
        y[100:] - y[:100].mean(0)
    ).square().sum()
    assert half == pytest.approx(share.item(), abs=0.05)
    noisy = y + torch.randn(200, 6, generator=generator)
    many = torch.cat([noisy, torch.randn(200, 94, generator=generator)], 1)  # as many as images
    found = recovered(many[:100], y[:100], many[100:], y[100:])
    print(f"recovered from noise and as many numbers as images: {found:.2f}")
    assert 0 < found < 0.5
    constant = torch.ones(100, 3)
    assert recovered(constant, y[:100], constant, y[100:]) == 0


def test_plain_nets_make_images_alike_and_lose_the_input_as_theory_says():
    images, labels = digits(80)
    torch.manual_seed(0)
    wide = CifarResNet(20, "none", width=64, norm="none").eval()
    table = survivals(wide, [(images[:40], labels[:40])], [(images[40:], labels[40:])])
    print(table[["cosine", "theory_cosine"]].iloc[[1, -1]])
    assert table["recovered"].iloc[0] == pytest.approx(100, abs=20)
    assert table["recovered"].iloc[-1] < table["recovered"].iloc[1]
    assert table["cosine"].iloc[-1] == pytest.approx(table["theory_cosine"].iloc[-1], abs=0.05)
    apart = [(images[:2], labels[:2]), (images[2:40], labels[2:40])]
    together = survivals(wide, apart[:1], [(images[:40], labels[:40])])
    parts = survivals(wide, apart[:1], apart)  # theory begins with all images, not with a batch
    assert parts["theory_cosine"].tolist() == pytest.approx(
        together["theory_cosine"].tolist(), nan_ok=True
    )
    own = survivals(Own().eval(), [(images[:40], labels[:40])], [(images[40:], labels[40:])])
    assert own["theory_cosine"].isna().all() and own["cosine"].notna().all()


def test_images_to_decode_are_spread_over_all(monkeypatch):
    monkeypatch.setattr(of_probes, "DECODED", 5)
    images, labels = digits(41)
    batches = [(images[:15], labels[:15]), (images[15:], labels[15:])]
    with torch.no_grad():
        outputs, _ = of_probes._outputs(CifarResNet(8, width=4).eval(), batches)
    expected = of_probes._small(images[[0, 10, 20, 30, 40]]).flatten(1)
    assert torch.equal(outputs["input"], expected)


def test_probes_need_two_classes():
    batch = (digits(4)[0], torch.zeros(4, dtype=torch.long))
    with pytest.raises(UserError, match="two classes or more"):
        probes(CifarResNet(8, width=4).eval(), [batch], [batch])


def test_shortcuts_are_seen_as_matrices():
    net = CifarResNet(20, "C").eval()
    with torch.no_grad():
        net.layer1[0].downsample[0].weight.zero_()[range(16), range(16)] = torch.linspace(1, 2, 16)[
            :, None, None
        ]
    table = shortcuts(net, [digits()])
    first = table[table["block"] == "layer1.0"]
    assert first["singular"].tolist() == pytest.approx(torch.linspace(2, 1, 16).tolist(), rel=1e-4)
    assert first["spread"].iloc[0] == pytest.approx(2, rel=1e-4) and first["positions"].iloc[0] == 1
    assert first["kept"].iloc[0] == pytest.approx(1) and first["from_identity"].iloc[
        0
    ] == pytest.approx(0.59, abs=0.01)
    second = table[table["block"] == "layer2.0"].iloc[0]
    assert second["positions"] == 0.25 and 0 < second["kept"] < second["visible"] + 1e-9 < 0.5
    padded = shortcuts(CifarResNet(20).eval(), [digits()])
    assert padded["block"].unique().tolist() == ["layer2.0", "layer3.0"]
    assert padded["singular"].tolist() == pytest.approx([1] * 48) and padded[
        "kept"
    ].tolist() == pytest.approx(padded["visible"].tolist())
    images = digits(4, 64)
    averaged = ImageNetResNet(26, downsample="average", num_classes=10).eval()
    table = shortcuts(averaged, [images]).drop_duplicates("block").set_index("block")
    with torch.no_grad():
        x = record_blocks(averaged, images[0])[1][2].x
    share = 4 * F.avg_pool2d(x, 2).square().sum() / x.square().sum()
    assert (table["positions"] == 1).all() and table["visible"].iloc[0] == pytest.approx(1)
    assert table.loc["layer2.0", "visible"] == pytest.approx(share.item(), rel=1e-4)
    for net in (
        CifarResNet(20, "none"),
        CifarResNet(20, "B", block="preact_bottleneck"),
    ):  # these follow a ReLU
        with pytest.raises(UserError, match="--model.net.shortcut B or C"):
            shortcuts(net.eval(), [digits()])
    found = (
        shortcuts(CifarResNet(29, "C", block="preact_bottleneck").eval(), [digits()])["block"]
        .unique()
        .tolist()
    )
    assert found == [f"layer{i}.{k}" for i in (1, 2, 3) for k in (1, 2)]


@pytest.mark.parametrize("block", ["basic", "preact"])
def test_responses_are_taken_after_the_norm_and_before_the_activation(block):
    net, (images, labels) = CifarResNet(20, block=block), digits()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    table = responses(net.eval(), [(images, labels)]).set_index("layer")
    assert len(table) == 19 and all(
        torch.equal(t, before[name]) for name, t in net.state_dict().items()
    )
    with train_mode(net), torch.no_grad():
        seen = record_blocks(net, images)[1][4]
        module, x = seen.module, seen.x
        h = module.conv1(x if block == "basic" else module.bn1(x).relu())
        first = module.bn1(h) if block == "basic" else module.bn2(h)
        last = module.conv2((module.bn1(h) if block == "basic" else module.bn2(h)).relu())
        last = module.bn2(last) if block == "basic" else last
    assert table.loc["layer2.1.conv1", "std"] == pytest.approx(first.std().item(), rel=1e-5)
    assert table.loc["layer2.1.conv2", "std"] == pytest.approx(last.std().item(), rel=1e-5)
    assert table.loc["layer2.1.conv1", "ratio"] == pytest.approx(
        (last.norm() / x.norm()).item(), rel=1e-5
    )
    assert (
        sorted(table["rank"]) == list(range(19)) and table["std"].idxmax() == table["rank"].idxmin()
    )
    norm = sum(module.get_submodule(f"conv{i}").weight.square().sum() for i in (1, 2)).sqrt()
    assert table.loc["layer2.1.conv2", "weight_norm"] == pytest.approx(norm.item())


def test_descent_is_the_cosine_of_what_a_block_adds_and_the_slope():
    net, (images, labels) = CifarResNet(20).eval(), digits()
    table = responses(net, [(images, labels)]).set_index("layer")
    assert table["descent"].isna().sum() == 5  # stem, and two blocks that change the shape
    with train_mode(net):
        logits, blocks = record_blocks(net, images.requires_grad_())
        (slope,) = torch.autograd.grad(F.cross_entropy(logits, labels), [blocks[4].x])
        added = blocks[4].branch(blocks[4].x)
    cosine = F.cosine_similarity(added.flatten(1), -slope.flatten(1)).mean().item()
    assert table.loc["layer2.1.conv2", "descent"] == pytest.approx(cosine, abs=1e-5)
    plain = responses(CifarResNet(8, "none", width=4), [(images, labels)])
    assert plain["descent"].isna().all() and "descent" not in summarise_responses(plain)
    text = "\n".join(remarks_of_responses(plain.assign(net="plain", seed=0)))
    assert "plain: no block adds F(x) to x in the same shape" in text
    down = table.reset_index().assign(net="net", seed=0, descent=0.5)
    assert "net: in 100 % of the blocks" in "\n".join(remarks_of_responses(down))


def test_only_3x3_layers_respond():
    assert len(responses(torchvision.models.resnet50(num_classes=10), [digits(2, 64)])) == 16
    zero = responses(CifarResNet(20, zero_last=True), [digits()]).dropna(subset="ratio")
    assert (zero["ratio"] == 0).all() and zero["descent"].isna().all()


@pytest.mark.parametrize("what", ["responses", "lesions", "paths", "probes", "shortcuts"])
def test_command_line(cli, what):
    tiny = [
        "--run.threads",
        1,
        "--model.net.depth",
        8,
        "--model.net.width",
        4,
        "--data.train_eval_samples",
        50,
    ]
    code, out, err = cli(
        "inspect", what, DIGITS, *tiny, "--batches", 1, "--draws", 1, "--out", "here"
    )
    assert code == 0, err
    frame = pd.read_csv(f"here/{what}.csv")
    assert frame["net"].unique().tolist() == ["depth 8, residual (A)"] and len(frame) > 2
    assert f"here/{what}.html" in out and "depth 8" in out
    text = Path(f"here/{what}.md").read_text()
    assert "| depth 8, residual (A) |" in text and f"{what}, before training, n = 1" in text.lower()


def test_nets_with_nothing_of_the_kind_are_passed_over(cli):
    tiny = ["--run.threads", 1, "--model.net.depth", 8, "--model.net.width", 4, "--batches", 1]
    sweep = {"method": "grid", "parameters": {"model.net.shortcut": {"values": ["none", "B"]}}}
    sweep["command"] = ["resnet-cli", "fit", "--config", DIGITS, "--config", "${args_json_file}"]
    Path("s.yaml").write_text(json.dumps(sweep))
    code, out, _ = cli("inspect", "shortcuts", "s.yaml", *tiny)
    assert code == 0 and "skipped s.yaml: no shortcut" in out and "residual (B)" in out
    code, _, err = cli("inspect", "shortcuts", DIGITS, *tiny, "--model.net.shortcut", "none")
    assert code == 2 and "no shortcut of this net changes x" in err and err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_block_less_hurts_plain_nets_only(cli):
    """S11 on digits: Veit et al. 2016, fig. 3, in small."""
    for depth, shortcut in ((20, "none"), (56, "A")):
        cli(
            "fit",
            "--config",
            DIGITS,
            "--run.threads",
            1,
            "--model.net.depth",
            depth,
            "--model.net.shortcut",
            shortcut,
        )
    assert cli("inspect", "lesions", "runs", "--run.threads", 1, "--draws", 1)[0] == 0
    result = {
        net: summarise(part) for net, part in pd.read_csv("runs/report/lesions.csv").groupby("net")
    }
    plain, residual = result["depth 20, plain"], result["depth 56, residual (A)"]
    assert plain["unharmed"] < 5 and residual["unharmed"] < 5
    assert plain["one_middle"] > 60 and residual["one_middle"] < residual["unharmed"] + 5
