"""Each feature that a recipe may name does what its definition says, and only that."""

import json
import math
from pathlib import Path

import pytest
import torch
import torchvision
from helpers.command_line import TINY
from helpers.run_dir import only_run, weights
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import nn
from torch.nn import functional as F

from lightning_resnet.engine.trainer import Trainer
from lightning_resnet.models import CifarResNet, ImageNetResNet, batch_norm
from lightning_resnet.models.batch_norm import measure_norms
from lightning_resnet.runs.checkpoint import load_checkpoint
from lightning_resnet.training.optimizer import parameter_groups

FEW = [
    *TINY,
    "--trainer.max_epochs",
    "1",
    "--trainer.limit_train_batches",
    "8",
    "--data.train_eval_samples",
    "8",
]


def losses(path):
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [r[k] for r in rows for k in ("train/loss", "val/loss", "val/acc1") if k in r]


def fit(cli, root, *args):
    code, out, err = cli("fit", *FEW, "--run.root", root, *args)
    assert code == 0, err
    return only_run(Path(root))


@pytest.mark.parametrize(
    ("depth", "decayed", "exempt", "missed_by_names"),
    [(18, (21, 11_678_912), (41, 10_600), 1_792), (50, (54, 25_502_912), (107, 54_120), 7_680)],
)
def test_weight_decay_audit(depth, decayed, exempt, missed_by_names):
    """No norm or bias decays; a filter on the name `bn` misses the shortcuts' norms."""
    for net in (ImageNetResNet(depth), getattr(torchvision.models, f"resnet{depth}")()):
        groups = parameter_groups(net)
        assert [(len(g["params"]), sum(p.numel() for p in g["params"])) for g in groups] == [
            decayed,
            exempt,
        ]
        norms = {
            id(p) for m in net.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()
        }
        biases = {id(p) for name, p in net.named_parameters() if name.endswith("bias")}
        assert {id(p) for p in groups[1]["params"]} == norms | biases
        by_name = [p for name, p in net.named_parameters() if "bn" not in name and id(p) in norms]
        assert sum(p.numel() for p in by_name) == missed_by_names


def test_blur_pool_is_ffcv_imagenets():
    """Every strided convolution but the stem sees the input convolved with [1 2 1] x [1 2 1] / 16;
    names stay.
    """
    blurred, plain = (
        ImageNetResNet(50, num_classes=10, blur_pool=True),
        ImageNetResNet(50, num_classes=10),
    )
    assert blurred.state_dict().keys() == plain.state_dict().keys()
    changed = [n for n, m in blurred.named_modules() if type(m).__name__ == "BlurConv2d"]
    assert set(changed) == {
        f"layer{k}.0.{name}" for k in (2, 3, 4) for name in ("conv2", "downsample.0")
    }
    assert all(
        torch.equal(a, b) for a, b in zip(blurred.parameters(), plain.parameters(), strict=True)
    )
    x, conv = torch.randn(2, 128, 9, 9), blurred.layer2[0].conv2
    kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]).div(16).repeat(128, 1, 1, 1)
    expected = F.conv2d(
        F.conv2d(x, kernel, padding=1, groups=128), conv.weight, stride=2, padding=1
    )
    torch.testing.assert_close(conv(x), expected)
    tone = (
        torch.arange(32).remainder(2).float().mul(2).sub(1).expand(1, 128, 32, 32)
    )  # the finest there is
    inside = slice(2, -2)  # padding is no part of the tone
    left, passed = (c(tone)[..., inside, inside].abs().max() for c in (conv, plain.layer2[0].conv2))
    assert left < 1e-4 < passed


def test_precise_statistics_are_those_of_all_images():
    torch.manual_seed(0)
    net = CifarResNet(8, width=4).double()
    net.bn1.momentum, batches = 0.5, [torch.randn(16, 3, 8, 8).double() for _ in range(5)]
    before = net.bn1.num_batches_tracked.clone()
    measure_norms(net, batches)
    with torch.no_grad():
        seen = net.conv1(torch.cat(batches)).transpose(0, 1).flatten(1)
    torch.testing.assert_close(net.bn1.running_mean, seen.mean(1))
    torch.testing.assert_close(net.bn1.running_var, seen.var(1))
    assert net.training and net.bn1.num_batches_tracked == before
    halves = []

    def keep(sums):
        halves.append(sums.clone())
        return sums

    for part in (batches[:2], batches[2:]):  # two ranks: each asks for the sum over both
        measure_norms(net, part, keep)
    n = len(halves) // 2
    both = iter([a + b for a, b in zip(halves[:n], halves[n:], strict=True)])
    measure_norms(net, batches, lambda sums: next(both, sums))
    torch.testing.assert_close(net.bn1.running_var, seen.var(1))


def test_precise_statistics_without_float64_and_of_a_norm_that_is_not_reached(monkeypatch):
    """Apple's GPUs have no float64, and evaluation leaves out the heads of some nets."""
    monkeypatch.setattr(batch_norm, "sum_dtype", lambda device: torch.float32)
    net, types = CifarResNet(8, width=4), set()

    def keep_type(sums):
        types.add(sums.dtype)
        return sums

    net.head = nn.BatchNorm2d(4)
    images = torch.randn(16, 3, 8, 8)
    measure_norms(net, [images], keep_type)
    torch.testing.assert_close(
        net.bn1.running_var, net.conv1(images).transpose(0, 1).flatten(1).var(1)
    )
    assert types == {torch.float32} and torch.equal(net.head.running_mean, torch.zeros(4))


def test_precise_statistics_are_measured_before_an_evaluation_and_change_no_weight(cli):
    one, other = (
        fit(cli, "a"),
        fit(cli, "b", "--model.precise_bn", "4", "--model.ema", "{decay: 0.5}"),
    )
    a, b = weights(one), weights(other)
    assert all(torch.equal(a[k], b[k]) for k in a if "running" not in k)
    assert not torch.equal(a["net.bn1.running_var"], b["net.bn1.running_var"])
    assert losses(one)[0] == losses(other)[0] and losses(one)[1] != losses(other)[1]


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_gradients_are_clipped(cli, monkeypatch, algorithm):
    """Lightning's own flags clip them, before the optimizer sees them, over accumulated batches."""
    seen, original = [], torch.optim.SGD.step

    def step(self, closure=None):
        grads = [p.grad for g in self.param_groups for p in g["params"]]
        seen.append(
            torch.stack([g.norm() if algorithm == "norm" else g.abs().max() for g in grads])
        )
        return original(self, closure)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    fit(cli, "free", "--trainer.accumulate_grad_batches", "2")
    free, seen[:] = list(seen), []
    fit(
        cli,
        "clipped",
        "--trainer.gradient_clip_val",
        "0.01",
        "--trainer.gradient_clip_algorithm",
        algorithm,
    )
    size = torch.linalg.norm if algorithm == "norm" else torch.max
    assert all(size(s) > 0.02 for s in free) and all(size(s) <= 0.01 * 1.0001 for s in seen)
    assert len(seen) == 8


def test_lamb_of_timm_trains(cli):
    path = fit(cli, "lamb", "--model.optimizer", "timm.optim.Lamb", "--model.optimizer.lr", "0.02")
    assert all(math.isfinite(x) for x in losses(path))
    assert (
        len(load_checkpoint(path / "checkpoints/last.ckpt")["optimizer_states"][0]["param_groups"])
        == 2
    )


def test_accumulation_is_one_batch(cli):
    """1 x 128 against 4 x 32, without a norm, in float64: losses and weights to rounding."""
    args = (
        "--model.net.norm none --model.optimizer.lr 0.01 --trainer.precision 64-true "
        "--data.batch_size 128"
    ).split()
    args += [
        "--model.mix",
        "{mixup: 0.2, cutmix: 1.0}",
        "--model.ema",
        "{decay: 0.9}",
        "--model.label_smoothing",
        "0.1",
    ]
    one = fit(cli, "one", *args)
    four = fit(
        cli,
        "four",
        *args,
        "--trainer.accumulate_grad_batches",
        "4",
        "--trainer.limit_train_batches",
        "32",
    )
    assert losses(one) == pytest.approx(losses(four), abs=1e-12)
    for name, tensor in weights(one).items():
        torch.testing.assert_close(tensor, weights(four)[name], rtol=0, atol=1e-13)


def test_channels_last_is_a_layout_only(cli, monkeypatch):
    """Two steps in float64 with momentum and decay: losses, accuracy and weights to rounding."""
    layouts, original, channels_last = [], nn.Conv2d.forward, torch.channels_last

    def forward(self, x):
        x = x.contiguous(memory_format=torch.channels_last)
        layouts.append({t.is_contiguous(memory_format=channels_last) for t in (x, self.weight)})
        return original(self, x)

    monkeypatch.setattr(nn.Conv2d, "forward", forward)
    args = "--trainer.precision 64-true --trainer.limit_train_batches 2".split()
    one, seen = fit(cli, "one", *args), list(layouts)
    monkeypatch.setattr(torch, "channels_last", torch.contiguous_format)  # of the weights and above
    layouts.clear()
    other = fit(cli, "other", *args)
    assert {*map(frozenset, seen)} == {frozenset([True])} and {*map(frozenset, layouts)} == {
        frozenset([False])
    }
    assert losses(one) == pytest.approx(losses(other), abs=1e-12)
    for name, tensor in weights(one).items():
        torch.testing.assert_close(tensor, weights(other)[name], rtol=0, atol=1e-12)


def test_bf16_computes_in_bf16_and_keeps_float32_weights(cli, monkeypatch):
    seen, original = set(), nn.Conv2d.forward

    def forward(self, x):
        y = original(self, x)
        seen.add(y.dtype)
        return y

    monkeypatch.setattr(nn.Conv2d, "forward", forward)
    args = [
        "--model.mix",
        "{mixup: 0.2}",
        "--model.loss",
        "bce",
        "--model.precise_bn",
        "2",
        "--model.ema",
        "{decay: 0.5}",
    ]
    path = fit(cli, "bf16", "--trainer.precision", "bf16-mixed", *args)
    assert torch.bfloat16 in seen and all(math.isfinite(x) for x in losses(path))
    assert all(
        t.dtype == torch.float32 for t in weights(path).values() if t.is_floating_point() and t.ndim
    )


def test_fp16_scales_its_loss_and_keeps_its_scaler(cli, monkeypatch):
    """Lightning gives bf16 on the CPU; so its fp16 plugin is put in by hand."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=4)
    prepare_run = Trainer.prepare_run

    def prepare(trainer, *args):
        trainer.strategy.precision_plugin = MixedPrecision("16-mixed", "cpu", scaler)
        prepare_run(trainer, *args)

    monkeypatch.setattr(Trainer, "prepare_run", prepare)
    path = fit(cli, "fp16", "--trainer.gradient_clip_val", "1.0")
    assert all(math.isfinite(x) for x in losses(path))
    assert scaler.get_scale() == 2.0**12  # grew twice in eight steps
    kept = load_checkpoint(path / "checkpoints/last.ckpt")["MixedPrecision"]
    assert kept["scale"] == 2.0**12
    full = fit(cli, "full", "--trainer.gradient_clip_val", "1.0", "--trainer.precision", "32")
    assert losses(path) == pytest.approx(losses(full), rel=0.05)


@pytest.mark.parametrize("words", [["--deterministic"], ["--deterministic", "true"]])
def test_deterministic_is_a_flag_and_part_of_the_run(cli, words):
    try:
        path = fit(cli, "d", *words)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    plain = fit(cli, "p")
    assert path.name != plain.name
    assert all(
        torch.equal(t, weights(plain)[k]) for k, t in weights(path).items()
    )  # a CPU is deterministic anyway


def test_compiled_nets_train_alike_under_the_same_names(cli, monkeypatch):
    """Traced and differentiated by torch.compile, without its code generator, which
    takes minutes.
    """
    compile = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda f, mode, **how: compile(f, backend="aot_eager", **how)
    )
    more = ["--model.mix", "{mixup: 0.2}", "--model.ema", "{decay: 0.9}"]
    plain, compiled = (
        fit(cli, name, *more, "--model.compile", name == "compiled")
        for name in ("plain", "compiled")
    )
    a, b = weights(plain), weights(compiled)
    assert a.keys() == b.keys() and plain.name != compiled.name
    assert losses(plain) == pytest.approx(losses(compiled), abs=1e-5)
    for name, tensor in a.items():
        torch.testing.assert_close(tensor, b[name], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, in its own compiler
def test_generated_code_computes_the_same():
    torch.manual_seed(0)
    net, x = CifarResNet(8, width=4), torch.randn(8, 3, 8, 8)
    expected = torch.autograd.grad(net(x).square().sum(), net.parameters())
    names = net.state_dict().keys()
    net.compile(dynamic=False)
    found = torch.autograd.grad(net(x).square().sum(), net.parameters())
    assert net.state_dict().keys() == names
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


def test_compilation_covers_the_way_from_pixels_to_logits(cli, monkeypatch):
    asked, calls = [], []

    def compile(f, **how):
        asked.append(how)

        def compiled(net, *args):
            calls.append((net, args[0].dtype))
            return f(net, *args)

        return compiled

    monkeypatch.setattr(torch, "compile", compile)
    fit(cli, "c", "--model.compile", "max-autotune", "--model.ema", "{decay: 0.9}")
    assert asked == [{"dynamic": False, "mode": "max-autotune"}]
    assert len({id(net) for net, _ in calls}) == 2 and {dtype for _, dtype in calls} == {
        torch.uint8
    }
