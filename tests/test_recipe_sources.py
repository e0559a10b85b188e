"""Each recipe has the rates, parameter groups, sizes, augmentations and loss of its source.

`SOURCES` holds the numbers of the sources, by hand from their code and papers; the recipes' numbers
are read off the objects that `fit` would train with. Nothing is trained.
"""

import re
import shlex
from typing import NamedTuple

import numpy as np
import pytest
import torch
from helpers.command_line import REPOSITORY
from torch import nn

from lightning_resnet.cli import evaluate
from lightning_resnet.config.recipe import build, parse
from lightning_resnet.data.augment.crops import operations
from lightning_resnet.models.blocks import StochasticDepth
from lightning_resnet.training.schedules import ErrorWarmup

IMAGENET = 1_281_167  # training images
CIFAR = 50_000


class Source(NamedTuple):
    """What a source says, and by which flags its recipe follows.

    Attributes:
        recipe: path in configs/.
        images: training images.
        batch: images per optimizer step.
        steps: optimizer steps per epoch.
        epochs: length.
        rates: optimizer step, from 0 -> learning rate.
        optimizer: what a parameter group says.
        decay: weight decay.
        decayed: tensors that decay, and their parameters.
        exempt: tensors that do not decay, and their parameters.
        sizes: pixels per side in training -> epochs of this size.
        evaluated: pixels per side, and the side of the square as a share of the shorter side.
        augmentations: what happens to a training image, in order.
        mix: alphas of Mixup and CutMix.
        loss: loss of logits [3, -1, 0, 2] for the class 1 of 4.
        norm_images: images over which batch norm takes statistics.
        spread: standard deviation of the first 3x3 convolution's weights.
        zeroed: norms whose weights start at 0.
        flags: flags that the recipe's header gives for this form.
    """

    recipe: str
    images: int
    batch: int
    steps: int
    epochs: int
    rates: dict[int, float]
    optimizer: dict[str, object]
    decay: float
    decayed: tuple[int, int]
    exempt: tuple[int, int]
    sizes: dict[int, int]
    evaluated: tuple[int | None, float]
    augmentations: list[str]
    mix: tuple[float, float] | None
    loss: float
    norm_images: int
    spread: float
    zeroed: int = 0
    flags: str = ""


def sgd(momentum=0.9, nesterov=False):
    return {"momentum": momentum, "nesterov": nesterov, "dampening": 0}


EXP = np.exp([3.0, -1, 0, 2])
PLAIN = -np.log(EXP[1] / EXP.sum())  # cross entropy
SMOOTH = 0.9 * PLAIN + 0.1 * np.mean(-np.log(EXP / EXP.sum()))  # with label smoothing 0.1
BINARY = np.mean(np.log1p(np.exp([3.0, 1, 0, 2])))  # binary cross entropy, mean over classes
FAN_OUT = (2 / (9 * 64)) ** 0.5
NARROW = (2 / (9 * 16)) ** 0.5  # 16 channels
# All but norms and biases of ResNet-50, the groups of timm; torchvision's norms alone do not decay.
DECAYED = (54, 25_502_912)
EXEMPT = (107, 54_120)
RESIZED = ["resized", "flip"]
FFCV = dict(
    recipe="imagenet/ffcv",
    images=IMAGENET,
    optimizer=sgd(),
    decayed=DECAYED,
    exempt=EXEMPT,
    evaluated=(256, 0.875),
    augmentations=RESIZED,
    mix=None,
    loss=SMOOTH,
    spread=FAN_OUT,
)
NVIDIA = dict(
    recipe="imagenet/resnet50",
    images=IMAGENET,
    batch=2048,
    steps=625,
    optimizer=sgd(momentum=0.875),
    decay=2**-15,
    decayed=DECAYED,
    exempt=EXEMPT,
    evaluated=(224, 0.875),
    augmentations=RESIZED,
    loss=SMOOTH,
    norm_images=256,
)
HE_2015 = dict(
    images=CIFAR,
    batch=128,
    steps=390,
    epochs=164,
    optimizer=sgd(),
    decay=1e-4,
    exempt=(0, 0),
    evaluated=(None, 0.875),
    augmentations=["pad 4", "flip"],
    mix=None,
    loss=PLAIN,
    norm_images=64,
    spread=NARROW,
)
SOURCES = {
    "ffcv-imagenet, 16 epochs": Source(  # rn50_configs/rn50_16_epochs.yaml, train_imagenet.py
        **FFCV,
        batch=4096,
        steps=312,
        epochs=16,
        rates={0: 1.7e-4, 1: 0.00289409, 312: 0.850085, 623: 1.69727591, 624: 1.7, 625: 1.69961}
        | {2496: 0.971429, 4680: 0.121429, 4991: 0.00038919},
        decay=1e-4,
        sizes={160: 12, 192: 4},
        norm_images=512,
    ),
    "ffcv-imagenet, ResNet-18, 88 epochs": Source(  # rn18_configs/rn18_88_epochs.yaml
        **FFCV
        | {"decayed": (21, 11_678_912), "exempt": (41, 10_600), "spread": (2 / (9 * 64)) ** 0.5},
        batch=1024,
        steps=1251,
        epochs=88,
        rates={0: 0.5e-4, 2 * 1251: 0.5, 45 * 1251: 0.25},
        decay=5e-5,
        sizes={160: 71, 192: 17},
        norm_images=1024,
        flags="--trainer.max_epochs 88 --model.net.depth 18 --data.batch_size 1024 "
        "--model.optimizer.lr 0.5 --model.optimizer.weight_decay 5.0e-05",
    ),
    "DeepLearningExamples": Source(  # optimizers.py; rates by epoch: those of an epoch's first step
        **NVIDIA,
        epochs=90,
        rates={8 * 625: 2.048, 9 * 625: 2.047249, 45 * 625: 1.180313, 88 * 625: 0.003005}
        | {89 * 625: 0.00075143},
        sizes={224: 90},
        mix=None,
        spread=FAN_OUT,
        zeroed=16,
    ),
    "DeepLearningExamples, 250 epochs, its initialization": Source(  # models/common.py
        **NVIDIA,
        epochs=250,
        rates={8 * 625: 2.048, 129 * 625: 1.024},
        sizes={224: 250},
        mix=(0.2, 0.0),
        spread=(2 / (9 * 64)) ** 0.5,
        flags='--trainer.max_epochs 250 --model.mix "{mixup: 0.2}" --model.net.init he_fan_in '
        "--model.net.zero_last false",
    ),
    "A3": Source(  # mmpretrain, resnet50_8xb256-rsb-a3-100e_in1k.py
        recipe="imagenet/a3",
        images=IMAGENET,
        batch=2048,
        steps=625,
        epochs=100,
        rates={0: 8e-7, 1: 3.36e-6, 1562: 0.003999, 3125: 0.008, 31250: 0.00433078, 62499: 1e-6},
        optimizer={"betas": (0.9, 0.999), "eps": 1e-6, "max_grad_norm": 1.0, "trust_clip": False},
        decay=0.02,
        decayed=DECAYED,
        exempt=EXEMPT,
        sizes={160: 100},
        evaluated=(224, 0.95),
        augmentations=[*RESIZED, "IncreasingRandAugment"],
        mix=(0.1, 1.0),
        loss=BINARY,
        norm_images=512,
        spread=FAN_OUT,
        zeroed=16,
    ),
    "torchvision": Source(  # references/classification, issue 3995; rates by epoch
        recipe="imagenet/torchvision_v2",
        images=IMAGENET,
        batch=1024,
        steps=1251,
        epochs=600,
        rates={e * 1251: lr for e, lr in enumerate([0.005, 0.104, 0.203, 0.302, 0.401, 0.5])}
        | {300 * 1251: 0.2533, 599 * 1251: 3.48478e-6},
        optimizer=sgd(),
        decay=2e-5,
        decayed=DECAYED,
        exempt=EXEMPT,
        sizes={176: 600},
        evaluated=(224, 0.9655),
        augmentations=[*RESIZED, "TrivialAugment", "Erase 0.1"],
        mix=(0.2, 1.0),
        loss=SMOOTH,
        norm_images=128,
        spread=FAN_OUT,
    ),
    "He et al. 2015, ImageNet": Source(  # sec. 3.4, lengths of torchvision's first weights
        recipe="imagenet/paper",
        images=IMAGENET,
        batch=256,
        steps=5004,
        epochs=90,
        rates={0: 0.1, 150_119: 0.1, 150_120: 0.01, 300_239: 0.01, 300_240: 0.001, 450_359: 0.001},
        optimizer=sgd(),
        decay=1e-4,
        decayed=(101, 21_623_848),
        exempt=(0, 0),
        sizes={224: 90},
        evaluated=(224, 0.875),
        augmentations=["scaled", "flip", "Lighting"],
        mix=None,
        loss=PLAIN,
        norm_images=32,
        spread=FAN_OUT,
    ),
    "He et al. 2015, CIFAR": Source(  # sec. 4.2
        **HE_2015,
        recipe="cifar10",
        rates={0: 0.1, 31_979: 0.1, 31_980: 0.01, 47_969: 0.01, 47_970: 0.001},
        decayed=(59, 269_722),
        sizes={32: 164},
    ),
    "He et al. 2016": Source(  # appendix; 0.01 at first, here until the error is below 80 %
        **HE_2015,
        recipe="cifar10_preact",
        rates={0: 0.1, 31_979: 0.1, 31_980: 0.01, 47_970: 0.001},  # after the warm-up
        decayed=(329, 1_727_962),
        sizes={32: 164},
        flags="--model.net.shared_activation first",
    ),
    "Huang et al. 2016": Source(  # main.lua at 286bb50; steps of full batches
        **HE_2015
        | {"images": 45_000, "steps": 351, "epochs": 500, "optimizer": sgd(nesterov=True)}
        | {"norm_images": 128},
        recipe="cifar10_stochastic_depth",
        rates={0: 0.1, 250 * 351 - 1: 0.1, 250 * 351: 0.01, 375 * 351 - 1: 0.01, 375 * 351: 0.001},
        decayed=(329, 1_727_962),
        sizes={32: 500},
    ),
    "resnet-1k-layers": Source(  # its README, on fb.resnet.torch's train.lua
        **HE_2015
        | {"batch": 64, "steps": 781, "epochs": 200, "optimizer": sgd(nesterov=True)}
        | {"norm_images": 32, "spread": (2 / (9 * 16)) ** 0.5},
        recipe="cifar10_preact",
        rates={0: 0.1, 80 * 781 - 1: 0.1, 80 * 781: 0.01, 121 * 781 - 1: 0.01, 121 * 781: 0.001},
        decayed=(494, 1_703_258),
        sizes={32: 200},
        flags="--model.net.block preact_bottleneck --model.net.shortcut B --model.net.depth 164 "
        "--data.batch_size 64 --model.optimizer.nesterov true --trainer.max_epochs 200 "
        '--model.schedule Steps --model.schedule.at "[0.4, 0.605]" --model.bn_batch 32 '
        "--data.pad_fill mean",
    ),
}


def path_of(recipe):
    return REPOSITORY / f"configs/{recipe}.yaml"


def header_of(recipe):
    """Return the comments at the top of a recipe, as one line."""
    lines = path_of(recipe).read_text().partition("seed_everything")[0].splitlines()
    return re.sub(r" \\ +", " ", " ".join(line.removeprefix("# ") for line in lines))


def augmentations(data, augment):
    """Return what happens to a training image, in the order of the draws and of the kernel."""
    crop = f"pad {augment.pad}" if augment.crop == "pad" else augment.crop
    found = [crop, "flip"] if augment.flip else [crop]
    if augment.policy is not None:
        found.append(type(augment.policy).__name__)
    if augment.erase:
        found.append(f"Erase {augment.erase}")
        drawn = operations(augment, 0, 0, np.arange(200), 64, 64)
        erased = [[name for name, _ in steps] for steps in drawn]
        assert all("Erase" not in names[:-1] for names in erased)  # after the policy
        assert any("Erase" in names for names in erased)
    return found


@pytest.mark.parametrize("name", SOURCES)
def test_a_recipe_follows_its_source(name):
    source = SOURCES[name]
    flags = shlex.split(source.flags)
    experiment = build(parse("fit", ["--config", str(path_of(source.recipe)), *flags]))
    task, data = experiment.task, experiment.data
    epochs = experiment.trainer.max_epochs
    assert (data.batch_size, source.images // data.batch_size) == (source.batch, source.steps)
    assert epochs == source.epochs

    optimizer = task.configure_optimizers()
    task.schedule.begin(epochs)
    base = optimizer.param_groups[0]["initial_lr"]
    steps = source.steps * epochs
    if isinstance(task.schedule, ErrorWarmup):
        assert base * task.schedule.factor(0) == pytest.approx(0.01)
        task.schedule.observe({"train/acc1": 0.21})
    rates = {step: base * task.schedule.factor(step / steps) for step in source.rates}
    assert rates == pytest.approx(source.rates, rel=2e-4)

    groups = {True: (0, 0), False: (0, 0)}
    for group in optimizer.param_groups:
        assert {key: group[key] for key in source.optimizer} == source.optimizer
        sizes = [p.numel() for p in group["params"]]
        groups[group["weight_decay"] > 0] = (len(sizes), sum(sizes))
    assert optimizer.param_groups[0]["weight_decay"] == pytest.approx(source.decay, rel=1e-12)
    assert groups == {True: source.decayed, False: source.exempt}

    augment = data.augment_by_epoch()
    sides = [augment(epoch).size or 32 for epoch in range(epochs)]  # CIFAR's are as stored
    assert {side: sides.count(side) for side in sides} == source.sizes
    assert (data.eval_augment.size, data.eval_augment.share) == source.evaluated
    assert augmentations(data, augment(0)) == source.augmentations
    mix = task.mix
    assert (mix and (mix.mixup, mix.cutmix)) == source.mix
    logits, target = torch.tensor([[3.0, -1, 0, 2]]), torch.tensor([1])
    assert float(task.loss(logits, target)) == pytest.approx(source.loss, rel=1e-6)

    norms = [m for m in task.net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(norm.momentum, norm.eps) for norm in norms} == {(0.1, 1e-5)}
    assert sum(not norm.weight.any() for norm in norms) == source.zeroed
    first = next(m for m in task.net.layer1.modules() if getattr(m, "kernel_size", 0) == (3, 3))
    assert float(first.weight.detach().std()) == pytest.approx(source.spread, rel=0.05)
    told = [int(n) for n in re.findall(r"--model\.bn_batch (\d+)", header_of(source.recipe))]
    assert source.norm_images in told or f" {source.norm_images} for " in header_of(source.recipe)


def test_the_survival_of_branches_falls_as_in_its_source():
    """Huang et al. 2016, eq. 4: 1 - l / L (1 - p_L), p_L = 0.5, one draw for a minibatch."""
    path = str(path_of("cifar10_stochastic_depth"))
    net = build(parse("fit", ["--config", path])).task.net
    drops = [module for module in net.modules() if isinstance(module, StochasticDepth)]
    wanted = [1 - place / 54 * 0.5 for place in range(1, 55)]
    assert [drop.survival for drop in drops] == pytest.approx(wanted)
    assert wanted[-1] == 0.5 and not any(drop.per_image for drop in drops)


def test_what_decays_differs_from_the_sources_as_the_headers_say():
    """Names with `bn` are exempt in ffcv-imagenet and DeepLearningExamples, norms in torchvision's,
    one-dimensional tensors in timm.
    """
    path = str(path_of("imagenet/resnet50"))
    net = build(parse("fit", ["--config", path])).task.net
    parameters = dict(net.named_parameters())
    sizes = {name: p.numel() for name, p in parameters.items()}
    modules = dict(net.named_modules())
    norms = {n for n in sizes if isinstance(modules[n.rpartition(".")[0]], nn.BatchNorm2d)}
    ours = norms | {name for name in sizes if name.endswith("bias")}
    by_name = {name for name in sizes if "bn" in name}
    flat = {name for name, p in parameters.items() if p.ndim == 1}
    assert (len(by_name), sum(sizes[n] for n in by_name)) == (98, 45_440)
    shortcuts = {n for n in norms if "downsample" in n}
    assert sum(sizes[n] for n in shortcuts) == 7_680
    assert ours - by_name == shortcuts | {"fc.bias"}
    assert ours - norms == {"fc.bias"}
    assert ours == flat
    for recipe in ("imagenet/ffcv", "imagenet/resnet50"):
        assert "7,680 parameters" in header_of(recipe)


def test_ffcvs_blurred_convolutions():
    path = str(path_of("imagenet/ffcv"))
    net = build(parse("fit", ["--config", path])).task.net
    assert sum(hasattr(m, "blur") for m in net.modules()) == 6


RECIPES = sorted(
    {
        str(p.relative_to(REPOSITORY / "configs").with_suffix(""))
        for p in path_of("x").parent.rglob("*.yaml")
    }
)
FLAG = r'--[a-z][\w.]+ (?:"[^"]*"|[^\s)`,;]*[^\s)`,;:.])'
TOGETHER = re.compile(rf"{FLAG}(?: {FLAG})*")


@pytest.mark.parametrize("recipe", [r for r in RECIPES if not r.startswith("sweeps/")])
def test_flags_in_a_header_are_understood(recipe):
    """Each form that a header names is one that can be trained, or measured."""
    header = header_of(recipe)
    for words in re.findall(rf"resnet-cli evaluate (RUN {TOGETHER.pattern})", header):
        evaluate.make_parser().read(shlex.split(words))
    header = re.sub(rf"resnet-cli (evaluate|data) \S+ (?:{TOGETHER.pattern})?", "", header)
    for words in {m[0] for m in TOGETHER.finditer(header)}:
        flags = shlex.split(words)
        if "--config" not in flags:
            flags = ["--config", str(path_of(recipe)), *flags]
        parse("fit", flags)
