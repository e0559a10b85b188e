"""Shipped recipes train by flags alone, and their curves are those that were published."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers.command_line import REPOSITORY, TINY, small
from helpers.run_dir import only_run, rows
from PIL import Image

from lightning_resnet.data.augment.crops import Progressive
from lightning_resnet.data.augment.policies import Lighting
from lightning_resnet.training import schedules

RECIPES = sorted(p for p in (REPOSITORY / "configs").rglob("*.yaml") if p.parent.name != "sweeps")
IMAGENET = [p for p in RECIPES if p.parent.name == "imagenet"]
STEPS = 5004  # of 256 images in 1,281,167


def recipe(name):
    return yaml.safe_load((REPOSITORY / f"configs/{name}.yaml").read_text())


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for split, n in (("train", 6), ("val", 2)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for i in range(n):
                Image.fromarray(rng.integers(0, 256, (40 + i, 50, 3), np.uint8)).save(
                    root / split / name / f"{i}.jpg"
                )
    return root


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_recipes_train_on_a_folder_by_flags_only(cli, photos, path, monkeypatch, tmp_path):
    """The command on the file's first line, at its depth, with the flags that make it small."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first, *rest = path.read_text().splitlines()
    program, verb, *args = shlex.split(first.rpartition(" && ")[2].removeprefix("# "))
    assert (program, verb, *args[:2]) == (
        "resnet-cli",
        "fit",
        "--config",
        str(path.relative_to(REPOSITORY / "configs").with_suffix("")),
    )
    header = "\n".join(line for line in rest if line.startswith("#"))
    if path in IMAGENET:
        assert all(
            word in header for word in ("Published", "Cost", "Tested: ", "Not run on ImageNet here")
        )
    fresh = ["--run.init_from", "null"] if path.stem == "finetune" else []  # test_photos.py
    code, out, err = cli("fit", "--config", path, *args[2:], *small(args, photos)[1], *fresh)
    assert code == 0, err
    assert max(row["step"] for row in rows(only_run())) == 2
    if path.stem == "resnet50":  # of two classes
        assert "weight decay 3.05176e-05: 54 tensors, 23,459,008 parameters" in out
        assert "weight decay 0: 107 tensors, 53,122 parameters" in out
    assert "val error" in out and ("val ema error" in out) == (
        path.stem in ("torchvision_v2", "cifar10_fast")
    )


def test_costs_follow_from_published_rates():
    """NVIDIA's README: 16,621 images/s, and about 3 h for 90 epochs, on 8 A100; G multiply-adds of
    50, 34 and 18.
    """
    text = {p.stem: " ".join(p.read_text().replace("\n#", "").split()) for p in IMAGENET}
    text["docs"] = (REPOSITORY / "docs/recipes.md").read_text()
    rate, hours = 90 * 1_281_167 / 16_621 * 8 / 3600, 3 * 8

    def both(factor, digits=1):
        return [f"{x * factor:.{digits}f}".removesuffix(".0") for x in (rate, hours)]

    assert both(1) == ["15.4", "24"]
    for name, form, costs in (
        ("resnet50", "{} A100-hours at its README's 16,621 images/s on 8 A100", both(1)[:1]),
        ("resnet50", "of 250 epochs {} and 67", both(250 / 90)[:1]),
        ("torchvision_v2", "{} to {} A100-hours", both(600 / 90 * (176 / 224) ** 2, 0)),
        ("paper", "50 {} A100-hours by NVIDIA's images/s, {} by its hours", both(1)),
        ("paper", "34 {} and {}", both(3.644 / 4.089)),
        ("paper", "18 {} and {}", both(1.795 / 4.089)),
        ("docs", "| {}, {} ‡ |", both(1)),
        ("docs", "| {}, {} (est.) § |", both(600 / 90 * (176 / 224) ** 2, 0)),
        ("docs", "| {}, {} (est.) § |", both(120 / 90 * 3.644 / 4.089, 0)),
    ):
        assert form.format(*costs) in " ".join(text[name].split()), (name, form.format(*costs))


DOCUMENTED = re.findall(
    r"^    resnet-cli fit (.+)$", (REPOSITORY / "docs/recipes.md").read_text(), re.M
)


@pytest.mark.slow
@pytest.mark.parametrize("command", DOCUMENTED)
def test_documented_commands_train(cli, photos, command):
    args = shlex.split(command)
    path, flags = small(args, photos)
    try:
        code, out, err = cli("fit", "--config", path, *args[2:], *flags)
    finally:
        torch.use_deterministic_algorithms(False)
    assert code == 0 and "val error" in out, err


def rates(name, epochs, **options):
    """The learning rate at the first step of each epoch."""
    model = recipe(name)["model"]
    schedule = model["schedule"]
    made = getattr(schedules, schedule["class_path"])(**schedule["init_args"] | options)
    made.begin(epochs)
    base = model["optimizer"]["init_args"]["lr"]
    return lambda epoch: base * made.factor(epoch / epochs)


def test_papers_rates():
    """He et al. 2015, sec. 3.4, in torchvision's 90 epochs: 0.1, divided by 10 after 30 and 60."""
    rate = rates("imagenet/paper", 90)
    for epoch, lr in {0: 0.1, 29: 0.1, 30: 0.01, 59: 0.01, 60: 0.001, 89: 0.001}.items():
        assert rate(epoch) == pytest.approx(lr) == rate(epoch + (STEPS - 1) / STEPS)


def test_papers_plateaus():
    """The variant of its header: 0.1 down by 10 where six evaluations bring nothing better; the
    errors are made up.
    """
    (name,) = re.findall(
        r"--model\.schedule (\w+)", (REPOSITORY / "configs/imagenet/paper.yaml").read_text()
    )
    schedule, lrs = getattr(schedules, name)(), []
    errors = [0.9, 0.6, 0.5] + [0.5] * 5 + [0.49] + [0.55] * 6 + [0.3] * 7 + [0.25, 0.26]
    for error in errors:
        lrs.append(0.1 * schedule.factor(0.5))  # of the epoch that ends with this error
        schedule.observe({"val/loss": 1.0, "val/acc1": 1 - error})
    assert lrs == pytest.approx([0.1] * 15 + [0.01] * 7 + [0.001] * 2)


def test_papers_images():
    """The same section: a crop of 224 at a random scale, mirrored or not, with Krizhevsky et al.'s
    colours.
    """
    data = recipe("imagenet/paper")["data"]
    assert [data[k] for k in ("size", "crop", "flip", "policy")] == [
        224,
        "scaled",
        True,
        "Lighting",
    ]
    assert Lighting().std == 0.1


# get_cyclic_lr of ffcv-imagenet at lr 1.7: epoch -> rate, for two of its numbers of epochs
CYCLIC = {
    16: {0: 0.00017, 0.5: 0.4251275, 1: 0.850085, 2: 1.7, 9: 0.85, 15: 0.1214286},
    88: {0: 0.00017, 1: 0.850085, 2: 1.7, 45: 0.85, 65: 0.4546512, 87: 0.0197674},
}


@pytest.mark.parametrize("epochs", CYCLIC)
def test_ffcvs_rates_and_sizes(epochs):
    rate = rates("imagenet/ffcv", epochs)
    assert {e: rate(e) for e in CYCLIC[epochs]} == pytest.approx(CYCLIC[epochs], abs=1e-6)
    data = recipe("imagenet/ffcv")["data"]
    sizes = [Progressive(**data["progressive"]).size(epoch, epochs) for epoch in range(epochs)]
    assert sizes == {16: [160] * 12 + [192] * 4, 88: [160] * 71 + [192] * 17}[epochs]
    assert (data["size"], data.get("eval_share", 0.875), data["batch_size"]) == (
        256,
        224 / 256,
        8 * 512,
    )


@pytest.mark.parametrize("epochs", [16, 24, 32, 40, 56, 88])
def test_ffcvs_lengths(epochs):
    """Each of its files: the rate between 0, 2 and the last epoch, sizes between 3/4 and 7/8, less
    one epoch.
    """
    rate, at = rates("imagenet/ffcv", epochs), np.arange(0, epochs, 0.25)
    assert [rate(e) for e in at] == pytest.approx(
        np.interp(at, [0, 2, epochs], [1.7e-4, 1.7, 0]), abs=1e-12
    )
    growing = Progressive(**recipe("imagenet/ffcv")["data"]["progressive"])
    ramp = np.interp(np.arange(epochs), [0.75 * epochs - 1, 0.875 * epochs - 1], [160, 192])
    assert [growing.size(e, epochs) for e in range(epochs)] == [
        int(x) for x in np.round(ramp / 32) * 32
    ]


def test_a3s_rates_and_sizes():
    """Wightman et al. 2021, table 2, in mmpretrain's form: 5 epochs up from 1e-4 of 0.008, a cosine
    to 1e-6.
    """
    rate = rates("imagenet/a3", 100)
    table = {0: 8e-7, 2.5: 0.0040004, 5: 0.008, 10: 0.007945452, 25: 0.0071566675, 50: 0.0043307761}
    table |= {75: 0.0012917124, 99: 3.1867e-06}
    assert {e: rate(e) for e in table} == pytest.approx(table, abs=1e-9)
    data = recipe("imagenet/a3")["data"]
    assert {Progressive(**data["progressive"]).size(epoch, 100) for epoch in range(100)} == {160}
    assert (data["size"], data["eval_share"], data["batch_size"]) == (224, 0.95, 2048)


def test_torchvisions_second_recipe():
    """Its LinearLR from 0.01 over 5 epochs, then a cosine of 595 to 0; the average's decay for each
    32 steps.
    """
    rate = rates("imagenet/torchvision_v2", 600)
    assert [rate(e) for e in (0, 5, 302.5)] == pytest.approx([0.005, 0.5, 0.25])
    ema = recipe("imagenet/torchvision_v2")["model"]["ema"]
    assert ema["decay"] == pytest.approx(1 - (1 - 0.99998) * 1024 * 32 / 600, abs=1e-8)
    assert (ema["every"], ema["start"] * 600) == (32, pytest.approx(5, abs=0.01))


def test_nvidias_rates():
    """8 epochs of warm-up to 0.256 for 256 images, cosine to 0, whatever the length."""
    for epochs in (90, 250):
        rate = rates("imagenet/resnet50", epochs)
        assert [rate(e) for e in (4, 8, (epochs + 8) / 2)] == pytest.approx([1.024, 2.048, 1.024])


def test_cifar_rates():
    """64k steps of 128 images, 0.1 divided by 10 at 32k and 48k; 110 layers begin with 0.01 (sec.
    4.2).
    """
    rate = rates("cifar10", 164)
    steps = 164 * 390
    assert [rate(s / 390) for s in (0, 31_979, 31_981, 47_969, 47_971)] == pytest.approx(
        [0.1, 0.1, 0.01, 0.01, 0.001]
    )
    assert abs(steps - 64_000) < 64 and 182 * (45_000 // 128) == 63_882
    warmup = schedules.ErrorWarmup(
        schedules.Steps(
            **recipe("cifar10_preact")["model"]["schedule"]["init_args"]["then"]["init_args"]
        )
    )
    assert 0.1 * warmup.factor(0) == pytest.approx(0.01)
    warmup.observe({"train/acc1": 0.21})
    assert 0.1 * warmup.factor(0) == pytest.approx(0.1)


def test_epochs_of_warmup_follow_the_length_of_training(cli):
    """The task tells the schedule: 11 steps of 22 of each epoch are half an epoch."""
    args = [
        "--model.schedule",
        "Linear",
        "--model.schedule.warmup_epochs",
        "0.5",
        "--trainer.log_every_n_steps",
        "1",
    ]
    code, _, err = cli("fit", *TINY, "--trainer.max_epochs", "1", *args)
    assert code == 0, err
    lrs = [r["lr"] for r in rows(only_run()) if "lr" in r]
    assert (
        lrs[:3] == pytest.approx([0, 0.02 / 11, 0.04 / 11])
        and max(lrs) == pytest.approx(0.02) == lrs[11]
    )


def test_no_file_names_a_folder_of_this_machine():
    assert not [p for p in Path(REPOSITORY / "configs").rglob("*.yaml") if "/tmp/" in p.read_text()]
