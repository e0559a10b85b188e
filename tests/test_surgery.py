"""A deepened net computes what the shallow one did, in both modes, and its recipe goes on from
there (S5).
"""

import copy
import re
from pathlib import Path

import pytest
import torch
import yaml
from helpers.command_line import TINY
from helpers.nets import digits
from helpers.run_dir import only_run, unlabelled
from pytorch_lightning.callbacks import Callback

from lightning_resnet.config.recipe import parse
from lightning_resnet.errors import UserError
from lightning_resnet.models import CifarResNet, ImageNetResNet, blocks
from lightning_resnet.models.activations import error, train_mode
from lightning_resnet.models.surgery import deepen, take_over
from lightning_resnet.runs.checkpoint import load_checkpoint, write_checkpoint
from lightning_resnet.runs.identity import run_id
from lightning_resnet.training.callbacks import AddedBlocks


def trained(net, batches, steps=20):
    """A few steps, so that weights and statistics are no initial ones."""
    optimizer = torch.optim.SGD(net.train().parameters(), lr=0.02, momentum=0.9)
    for i in range(steps):
        images, labels = batches[i % len(batches)]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
    return net.eval()


CASES = [(CifarResNet, (20, 32, 56), s, {}) for s in ("none", "A", "B", "C")]
CASES += [(CifarResNet, (20, 32), s, {"norm": "none", "init": 0.7}) for s in ("none", "A", "C")]
CASES += [
    (CifarResNet, (20, 32), "C", {"block": "preact"}),
    (CifarResNet, (29, 38), "B", {"block": "bottleneck"}),
]
CASES += [(CifarResNet, (20, 29), s, {"block": "preact_bottleneck"}) for s in "ABC"]
CASES += [(CifarResNet, (20, 29), "C", {"block": "preact_bottleneck", "norm": "none", "init": 0.7})]
CASES += [(ImageNetResNet, (18, 34), s, {"num_classes": 10}) for s in ("none", "B")]


@pytest.mark.parametrize(("make", "depths", "shortcut", "options"), CASES)
def test_outputs_stay_equal_in_both_modes(make, depths, shortcut, options):
    torch.manual_seed(0)
    n, size, steps = (128, 32, 9) if make is ImageNetResNet else (256, 8, 30)
    images, labels = digits(n, size)
    batches = list(zip(images.split(n // 4), labels.split(n // 4), strict=True))
    first = trained(make(depths[0], shortcut, **options), batches, steps)
    before, shallow = copy.deepcopy(first.state_dict()), first
    for depth in depths[1:]:
        deep = make(depth, shortcut, **options)
        added = deepen(shallow, deep, batches)
        assert len(added) == len(list(blocks(deep))) - len(list(blocks(shallow))) > 0
        shallow = deep
    assert all(torch.equal(t, before[name]) for name, t in first.state_dict().items())
    for x, _ in batches:
        torch.testing.assert_close(
            logits(deep.eval(), x), logits(first.eval(), x), rtol=1e-5, atol=1e-5
        )
    with train_mode(first), train_mode(deep):
        assert abs(error(first, batches) - error(deep, batches)) < 1


@torch.no_grad()
def logits(net, images):
    return net(images)


def test_added_blocks_learn():
    """No layer of an identity block is stuck: the zeroed layer moves first, the others after it."""
    for shortcut in ("none", "A", "C"):
        batches = [digits(64)]
        net, deep = CifarResNet(8, shortcut).eval(), CifarResNet(14, shortcut)
        deepen(net, deep, batches)
        before = {name: t.clone() for name, t in deep.named_parameters()}
        trained(deep, batches, 5)
        assert all(
            not torch.equal(t, before[name]) for name, t in deep.named_parameters() if ".1." in name
        )


@pytest.mark.parametrize(
    "options",
    [
        {"norm": "none", "branch_scale": "skip_init"},
        {"norm": "none", "branch_scale": "fixup"},
        {"norm": "scaled_weights"},
        {"block": "preact"},
    ],
)
def test_no_added_block_is_dead(options):
    """One alone of two factors starts at 0: a few steps move each convolution of the blocks."""
    torch.manual_seed(0)
    batches = [digits(64)]
    net = trained(CifarResNet(8, width=4, **options), batches, 3)
    deep = CifarResNet(14, width=4, **options)
    added = deepen(net, deep, batches)
    before = {name: t.clone() for name, t in deep.named_parameters()}
    trained(deep, batches, 5)
    for name, t in deep.named_parameters():
        if any(name.startswith(f"{block}.conv") for block in added):
            assert not torch.equal(t, before[name]), name


def test_added_blocks_with_squeeze_and_excitation_are_identity():
    torch.manual_seed(0)
    nets = [ImageNetResNet(depth, num_classes=10, se_ratio=0.0625).eval() for depth in (18, 34)]
    images, labels = digits(8, 32)
    deepen(*nets, [(images, labels)])
    torch.testing.assert_close(logits(nets[1], images), logits(nets[0], images))


PLAIN = {"shortcut": "none"}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"block": "relu_before_add"}, "ReLU behind zeros.*--arm find"),
        ({"block": "bn_after_add"}, "a norm follows its sum"),
        ({"shortcut": "gate"}, "its shortcut has a gate"),
        ({"shortcut": "scaled"}, "multiplies x by 0.5"),
        ({"stochastic_depth": 0.5}, "its place among all blocks"),
        (PLAIN | {"norm": "scaled_weights"}, "standardizes kernels"),
        ({"shortcut": "C", "norm": "scaled_weights"}, "standardizes kernels"),
        (PLAIN | {"depth": 20, "norm": "none", "activation": "tat"}, "activation tat"),
        (PLAIN | {"block": "preact"}, "lose part of x"),
    ],
)
def test_the_reason_is_that_of_the_block(options, reason):
    torch.manual_seed(0)
    batches = [digits(32)]
    options = {"depth": 8, "width": 4} | options
    deeper = options | {"depth": options["depth"] + 18}
    shallow = trained(CifarResNet(**options), batches, 3)
    with pytest.raises(UserError, match=rf"layer1\.\d cannot .*{reason}|layer3\.\d .*{reason}"):
        deepen(shallow, CifarResNet(**deeper), batches)


@pytest.mark.parametrize(
    ("deep", "message"),
    [
        (lambda: CifarResNet(20, "none"), "no block would be added"),
        (lambda: CifarResNet(14, "none"), "no place for layer1.2"),
        (lambda: CifarResNet(32, "none", width=8), "no place for conv1.weight"),
    ],
)
def test_nets_that_are_not_deeper_are_refused(deep, message):
    with pytest.raises(UserError, match=message):
        take_over(CifarResNet(20, "none"), deep())


@pytest.mark.parametrize(
    ("block", "depths"),
    [("preact", (20, 32)), ("bottleneck", (20, 29)), ("preact_bottleneck", (20, 29))],
)
def test_plain_blocks_that_cannot_be_identity_are_refused(block, depths):
    shallow, deep = (CifarResNet(depth, "none", block=block) for depth in depths)
    with pytest.raises(UserError, match="cannot be identity"):
        deepen(trained(shallow, [digits(64)], 3), deep, [digits(64)])


class Keep(Callback):
    """Stands in for the recorder."""

    taken = []

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.taken.append(getattr(pl_module, "extra_metrics", {}))


@pytest.mark.parametrize("shortcut", ["none", "A"])
def test_keep_arm_from_the_command_line(cli, shortcut):
    cli("fit", *TINY, "--model.net.shortcut", shortcut, "--trainer.max_epochs", 3)
    code, out, err = cli("deepen", only_run(), "--depth", 14, "--out", "keep.ckpt")
    assert code == 0, err
    assert "3 blocks added as identity, 6 convolutions: layer1.1, layer2.1, layer3.1" in out
    shallow, deep = (
        re.findall(r"\d+\.\d\d", line)
        for line in out.splitlines()
        if re.match(r"\| +(shallow|deep)", line)
    )
    assert shallow[0] == deep[0] and abs(float(shallow[1]) - float(deep[1])) < 1
    assert cli("deepen", "keep.ckpt", "--depth", 20, "--out", "keep20.ckpt")[0] == 0  # and again
    more = ["--trainer.max_epochs", 1, "--trainer.callbacks+=test_surgery.Keep"]
    Keep.taken.clear()
    code, _, err = cli("fit", "--config", "keep.yaml", *more)
    assert code == 0, err
    distances = [row for row in Keep.taken if row]
    assert distances[0].keys() == {f"identity_distance/layer{i}.1" for i in (1, 2, 3)}
    assert 0 < max(distances[0].values()) < 0.5  # ten steps away from identity
    assert cli("inspect", "gradients", "keep.ckpt", "--batches", 1)[0] == 0


def test_find_arm_with_frozen_layers(cli):
    cli("fit", *TINY, "--trainer.max_epochs", 1)
    assert (
        cli("deepen", only_run(), "--depth", 14, "--out", "find.ckpt", "--arm", "find", "--freeze")[
            0
        ]
        == 0
    )
    assert cli("deepen", only_run(), "--depth", 14, "--out", "free.ckpt", "--arm", "find")[0] == 0
    start = load_checkpoint("find.ckpt")["state_dict"]
    assert torch.equal(
        start["net.layer1.1.conv1.weight"],
        load_checkpoint("free.ckpt")["state_dict"]["net.layer1.1.conv1.weight"],
    )
    ends = {}
    for name in ("find", "free"):
        assert cli("fit", "--config", f"{name}.yaml", "--trainer.max_epochs", 1)[0] == 0
        (last,) = unlabelled(Path("runs", name).glob("*/checkpoints/last.ckpt"))
        ends[name] = load_checkpoint(last)["state_dict"]
    learnt = [k for k, t in start.items() if t.dtype.is_floating_point and "running" not in k]
    moved = {k for k in learnt if not torch.equal(start[k], ends["find"][k])}
    assert moved == {k for k in learnt if re.search(r"layer\d\.1\.", k)}
    assert not torch.equal(start["net.conv1.weight"], ends["free"]["net.conv1.weight"])


def test_a_run_with_frozen_layers_has_an_id_of_its_own(cli):
    """Another net comes of it; only recipes of older versions leave that to the checkpoint."""
    cli("fit", *TINY, "--trainer.max_epochs", 1)
    cli("deepen", only_run(), "--depth", 14, "--out", "find.ckpt", "--arm", "find", "--freeze")

    def id_with(change):
        recipe = yaml.safe_load(Path("find.yaml").read_text())
        change(recipe["trainer"])
        Path("changed.yaml").write_text(yaml.safe_dump(recipe))
        return run_id(yaml.safe_load(parse("fit", ["--config", "changed.yaml"]).resolved))

    own = id_with(lambda trainer: None)
    plain = id_with(lambda trainer: trainer.pop("callbacks"))
    older = id_with(lambda trainer: trainer["callbacks"][0]["init_args"].pop("freeze"))
    free = id_with(lambda trainer: trainer["callbacks"][0]["init_args"].update(freeze=False))
    assert own != plain == older == free
    Path("find.ckpt").rename("moved.ckpt")
    Path("find.yaml").write_text(Path("find.yaml").read_text().replace("find.ckpt", "moved.ckpt"))
    assert id_with(lambda trainer: None) == own
    code, _, err = cli("fit", "--config", "find.yaml", "--run.init_from", "none.ckpt")
    assert code == 2 and "--run.init_from none.ckpt" in err


def test_mistakes_are_one_line(cli):
    cli("fit", *TINY, "--trainer.max_epochs", 1)
    for args, message in (
        ([only_run(), "--depth", 13, "--out", "a.ckpt"], "must be 6n+2"),
        ([only_run(), "--depth", 8, "--out", "a.ckpt"], "blocks are added: give more"),
        ([only_run(), "--depth", 14, "--out", "a.pt"], "must end in .ckpt"),
        (["nowhere.ckpt", "--depth", 14, "--out", "a.ckpt"], "does not exist"),
    ):
        code, _, err = cli("deepen", *args)
        assert code == 2 and message in err and err.count("\n") == 1
    recipe = yaml.safe_load((only_run() / "config.yaml").read_text())
    recipe["trainer"]["callbacks"] = [
        {
            "class_path": "AddedBlocks",
            "init_args": {"checkpoint": str(only_run() / "checkpoints/last.ckpt")},
        }
    ]
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    code, _, err = cli("fit", "--config", "recipe.yaml", "--run.new")
    assert code == 2 and "was not written by" in err
    checkpoint = load_checkpoint(only_run() / "checkpoints/last.ckpt")
    for told in (5, {}, {"added": 3}, {"added": [3]}):
        write_checkpoint(checkpoint | {"deepen": told}, Path("other.ckpt"))
        with pytest.raises(UserError, match="was not written by"):
            AddedBlocks("other.ckpt")
    config = yaml.safe_load(checkpoint["run"]["config"])
    for trainer in (None, {"callbacks": {"class_path": "GradientNorms"}}):
        config.pop("trainer", None)
        told = {"trainer": trainer} if trainer else {}
        checkpoint["run"]["config"] = yaml.safe_dump(config | told)
        write_checkpoint(checkpoint, Path("other.ckpt"))
        few = ["--depth", 14, "--out", "deep.ckpt", "--batches", 1, "--trust"]
        code, _, err = cli("deepen", "other.ckpt", *few)
        assert code == 0, err
        callbacks = yaml.safe_load(Path("deep.yaml").read_text())["trainer"]["callbacks"]
        names = [callback["class_path"] for callback in callbacks]
        assert names == (["GradientNorms", "AddedBlocks"] if trainer else ["AddedBlocks"])
