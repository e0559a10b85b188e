"""Policies of colour and shape, and erasing: the definitions of others, with each sample's own
draws.
"""

from collections import Counter

import numpy as np
import pytest
import torch
import yaml
from helpers.command_line import TINY
from helpers.loaders import copies, data_of, same
from helpers.run_dir import only_run
from timm.data import auto_augment as timms
from torchvision.transforms import RandomErasing, v2

from lightning_resnet.data import draws, module
from lightning_resnet.data.augment import image_ops as pixels
from lightning_resnet.data.augment.crops import Augment, operations
from lightning_resnet.data.augment.policies import (
    BINS,
    IncreasingRandAugment,
    Lighting,
    RandAugment,
    TrivialAugment,
    increasing_step,
    rand_space,
    wide_space,
)
from lightning_resnet.data.beton import decode as kernel
from lightning_resnet.data.hashing import uniform
from lightning_resnet.data.loaders.device_loader import DeviceLoader
from lightning_resnet.data.sources.synthetic import Synthetic
from lightning_resnet.runs.identity import run_id

N, SIZE = 10_000, 32
IDS = np.arange(N)


def steps_of(policy, epoch=0):
    return policy.choose(lambda k: uniform(0, epoch, IDS, 0, draws.POLICY + k), SIZE)


def make_image(size=SIZE):
    return torch.randint(
        0, 256, (3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


@pytest.mark.parametrize(
    ("ours", "theirs"), [(wide_space(), v2.TrivialAugmentWide), (rand_space(SIZE), v2.RandAugment)]
)
def test_every_operation_is_torchvisions_at_every_strength(ours, theirs):
    reference, image = theirs(interpolation=v2.InterpolationMode.BILINEAR), make_image()
    assert [*ours] == [*reference._AUGMENTATION_SPACE]
    for name, (make, signed) in reference._AUGMENTATION_SPACE.items():
        magnitudes = make(BINS, SIZE, SIZE)
        assert ours[name][1] == signed
        for b in range(0, BINS, 3):
            for sign in (1, -1) if signed else (1,):
                value = 0.0 if magnitudes is None else sign * float(magnitudes[b])
                expected = reference._apply_image_or_video_transform(
                    image, name, value, reference.interpolation, reference._fill
                )
                assert torch.equal(pixels.apply(image, name, sign * ours[name][0][b]), expected), (
                    name,
                    b,
                )


def test_trivial_augment_is_uniform_over_operations_strengths_and_signs():
    steps = [step for (step,) in steps_of(TrivialAugment())]
    counts = Counter(name for name, _ in steps)
    assert len(counts) == 14 and [*counts.values()] == pytest.approx(
        [N / 14] * 14, abs=130
    )  # 5 standard deviations
    rotations = np.array([m for name, m in steps if name == "Rotate"])
    assert np.histogram(np.abs(rotations) / 135 * 30, BINS, (-0.5, 30.5))[0] == pytest.approx(
        [len(rotations) / BINS] * BINS, abs=25
    )
    assert (rotations[rotations != 0] > 0).mean() == pytest.approx(0.5, abs=0.1)
    assert steps != [step for (step,) in steps_of(TrivialAugment(), epoch=1)]


def test_rand_augment_draws_each_operation_on_its_own():
    steps = steps_of(RandAugment(ops=2, magnitude=9))
    first, second = ([names[k][0] for names in steps] for k in (0, 1))
    assert [*Counter(first).values()] == pytest.approx([N / 14] * 14, abs=130)
    assert np.mean([a == b for a, b in zip(first, second, strict=True)]) == pytest.approx(
        1 / 14, abs=0.015
    )
    assert {abs(m) for names in steps for name, m in names if name == "Rotate"} == {9.0}


def test_increasing_rand_augment_is_timms():
    """rand-m6-mstd0.5-inc1: operations, magnitudes, left out half of the time."""
    steps = steps_of(IncreasingRandAugment())
    assert np.bincount([len(s) for s in steps]) / N == pytest.approx([0.25, 0.5, 0.25], abs=0.025)
    counts = Counter(name for s in steps for name, _ in s)
    assert [*counts.values()] == pytest.approx([N / 15] * 15, abs=130)
    level = np.array([abs(m) / 3 for s in steps for name, m in s if name == "Rotate"])
    assert (level.mean(), level.std()) == (pytest.approx(6, abs=0.1), pytest.approx(0.5, abs=0.07))
    names = {
        n.replace("Increasing", "").replace("Rel", "") for n in timms._RAND_INCREASING_TRANSFORMS
    }
    assert names == set(increasing_step(1, 1, SIZE))
    for level in np.linspace(0, 10, 41):
        ours = increasing_step(level, 1, SIZE)
        for name in timms._RAND_INCREASING_TRANSFORMS:
            make = timms.LEVEL_TO_ARG[name]
            if make is None:
                continue
            (value,) = make(level, {})
            mine = ours[name.replace("Increasing", "").replace("Rel", "")]
            if name.startswith(("Rotate", "Shear")) or name.endswith("Rel"):
                assert mine == pytest.approx(abs(value) * (SIZE if name.endswith("Rel") else 1))
            elif name.endswith(
                (
                    "ColorIncreasing",
                    "ContrastIncreasing",
                    "BrightnessIncreasing",
                    "SharpnessIncreasing",
                )
            ):
                assert abs(mine) == pytest.approx(abs(value - 1), abs=1e-9)
            else:
                assert mine == value, name


@pytest.mark.parametrize(
    ("name", "magnitude"),
    [("Solarize", 100), ("Solarize", 256), ("SolarizeAdd", 66), ("Invert", 0)],
)
def test_timms_own_operations_do_what_pillow_does(name, magnitude):
    from PIL import Image

    image = make_image()
    pil = Image.fromarray(image.permute(1, 2, 0).numpy())
    key = {"Solarize": "SolarizeIncreasing"}.get(name, name)
    expected = timms.NAME_TO_OP[key](pil, *([] if name == "Invert" else [magnitude]))
    assert torch.equal(
        pixels.apply(image, name, magnitude).permute(1, 2, 0), torch.from_numpy(np.array(expected))
    )


def test_lighting_is_krizhevskys():
    """Mean 0 and covariance P diag((0.1 l)^2) P^T over images, normal along each component, in
    levels of 255.
    """
    components = np.array(
        [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
    )
    scale = 255 * 0.1 * np.array([0.2175, 0.0188, 0.0045])
    steps = steps_of(Lighting())
    assert {name for ((name, _),) in steps} == {"Shift"}
    colours = np.array([colour for ((_, colour),) in steps])
    expected = components @ np.diag(scale**2) @ components.T
    assert colours.mean(0) == pytest.approx([0] * 3, abs=5 * (expected.diagonal().max() / N) ** 0.5)
    assert np.cov(colours.T) == pytest.approx(expected, rel=0.07)  # 5 standard deviations
    a = np.linalg.solve(components * scale, colours.T)  # back: one normal for each component
    assert np.corrcoef(a) == pytest.approx(np.eye(3), abs=0.05)
    for row in a:
        assert np.quantile(row, [0.023, 0.159, 0.5, 0.841, 0.977]) == pytest.approx(
            [-2, -1, 0, 1, 2], abs=0.15
        )
    assert np.array(steps_of(Lighting(0.2))[0][0][1]) == pytest.approx(2 * colours[0])
    assert steps != steps_of(Lighting(), epoch=1)
    with pytest.raises(ValueError, match="std of 0 or more, got -0.1"):
        Lighting(-0.1)


def test_lighting_adds_one_colour_to_all_pixels_and_stays_in_range():
    images = torch.randint(
        100, 150, (64, 3, 8, 8), dtype=torch.uint8
    )  # far from 0 and 255, where sums are cut
    dark, light = torch.zeros_like(images), torch.full_like(images, 255)
    before, ids = images.clone(), np.arange(64)
    chosen = operations(Augment(policy=Lighting(1.0)), 0, 0, ids, 8, 8)
    for batch in (images, dark, light):
        x = batch.permute(0, 2, 3, 1).contiguous()
        kernel.change(x.numpy(), chosen)
        batch[:] = x.permute(0, 3, 1, 2)
    added = images.int() - before.int()
    assert (added == added[:, :, :1, :1]).all()
    colours = np.array([colour for ((_, colour),) in chosen])
    assert added[:, :, 0, 0].tolist() == np.rint(colours).tolist() and np.abs(colours).max() > 20
    assert torch.equal(dark.int(), added.clamp(min=0)) and torch.equal(
        light.int(), 255 + added.clamp(max=0)
    )


@pytest.mark.parametrize("policy", [None, TrivialAugment(), RandAugment(), Lighting()])
def test_the_device_loader_changes_images_in_host_memory(policy):
    """Whatever the device: the same batches as the torch loader's, whose copies follow."""
    how = {"size": None, "crop": "pad", "policy": policy, "erase": 0.5}
    small = Synthetic(192, 40, 16)
    expected = copies(data_of(small, loader="torch", **how).train_dataloader())
    for loader in ("device", "auto"):
        for workers in ("auto", 2):
            made = data_of(small, loader=loader, workers=workers, **how).train_dataloader()
            assert type(made) is DeviceLoader and same(expected, copies(made))
    made.device, made._windows = torch.device("meta"), None
    made.set_epoch(1)
    assert same(expected, copies(made))


def test_erasing_follows_torchvisions_definition():
    boxes = draws.erasing_boxes(0, 0, IDS, 64, 64, 0.25)
    erased = boxes[:, 2] > 0
    assert erased.mean() == pytest.approx(0.25, abs=0.022)
    assert (boxes[:, :2] + boxes[:, 2:] <= 64).all()
    torch.manual_seed(0)
    image = torch.empty(3, 64, 64)
    theirs = [
        RandomErasing.get_params(image, (0.02, 0.33), (0.3, 3.3), [0.0])[:4] for _ in range(N)
    ]
    everywhere = draws.erasing_boxes(0, 0, IDS, 64, 64, 1.0)
    for ours, reference in zip(everywhere.T, np.array(theirs).T, strict=True):
        assert np.quantile(ours, [0.1, 0.5, 0.9]) == pytest.approx(
            np.quantile(reference, [0.1, 0.5, 0.9]), abs=2
        )
    area = everywhere[:, 2] * everywhere[:, 3] / 64**2
    assert area.mean() == pytest.approx(
        np.mean([h * w for _, _, h, w in theirs]) / 64**2, abs=0.005
    )


def test_scaled_crops_are_the_papers():
    """224 pixels of an image whose shorter side is 256 to 480 (He et al. 2015, sec. 3.4), anywhere
    in it.
    """
    boxes = draws.scaled_crops(0, 0, IDS, np.full(N, 375), np.full(N, 500))
    scale = 224 * 375 / boxes[:, 2]
    assert (boxes[:, 2] == boxes[:, 3]).all() and 255 < scale.min() and scale.max() < 482
    assert np.quantile(scale, [0.25, 0.5, 0.75]) == pytest.approx([312, 368, 424], abs=5)
    for corner, room in ((boxes[:, 0], 375 - boxes[:, 2]), (boxes[:, 1], 500 - boxes[:, 3])):
        assert corner.min() >= 0 and (corner <= room).all()
        assert np.mean(corner / room) == pytest.approx(0.5, abs=0.02)
    assert draws.scaled_crops(0, 0, IDS[:3], [1, 9, 9], [9, 1, 9])[:, 2:].min() == 1


def test_a_refused_strength_is_told_in_full():
    with pytest.raises(ValueError, match="got 0, 6.0, 0.5"):
        IncreasingRandAugment(ops=0)


@pytest.mark.parametrize(
    ("loader", "policy"),
    [
        ("torch", TrivialAugment()),
        ("ffcv", TrivialAugment()),
        ("ffcv", IncreasingRandAugment()),
        ("torch", Lighting()),
        ("ffcv", Lighting()),
    ],
)
def test_the_same_sample_seed_and_epoch_give_the_same_image(paged, loader, policy):
    """This holds on any number of ranks and workers, from files and from memory."""
    how = {"size": None, "crop": "pad", "policy": policy, "erase": 0.5, "loader": loader}
    alone = copies(data_of(paged, workers=0, **how).train_dataloader())
    assert same(alone, copies(data_of(paged, workers=2, **how).train_dataloader()))
    ranks = [copies(data_of(paged, rank=r, world=2, **how).train_dataloader()) for r in (0, 1)]
    assert same(
        alone,
        [tuple(torch.cat(t) for t in zip(a, b, strict=True)) for a, b in zip(*ranks, strict=True)],
    )
    source = Synthetic(192, 40, 16)
    source.mean = paged.mean  # what is erased takes the mean colour
    in_memory = data_of(source, **how | {"loader": "torch"})
    assert same(alone, copies(in_memory.train_dataloader()))
    plain = copies(data_of(paged, size=None, crop="pad", loader=loader).train_dataloader())
    assert not same(alone, plain)
    for a, b in zip(
        in_memory.val_dataloader()[0],
        data_of(paged, size=None, crop="pad").val_dataloader()[0],
        strict=True,
    ):
        assert torch.equal(a[0], b[0])  # of training images only


def test_more_than_all_cannot_be_erased():
    with pytest.raises(ValueError, match="--data.erase must be 0 to 1, got 1.5"):
        data_of(Synthetic(192, 40, 16), erase=1.5)


def test_what_is_erased_takes_the_mean_colour():
    data = data_of(Synthetic(192, 40, 16), size=None, crop="none", flip=False, erase=1.0)
    (x, _), *_ = data.train_dataloader()
    top, left, h, w = draws.erasing_boxes(0, 1, data.splits["train"].ids, 16, 16, 1.0)[
        data._order()(0, 1)[0]
    ]
    assert (x[0, :, top : top + h, left : left + w] == 128).all()


def test_policies_are_flags_and_part_of_the_run(cli):
    small = [
        "--trainer.max_epochs",
        "1",
        "--trainer.limit_train_batches",
        "2",
        "--data.train_eval_samples",
        "8",
    ]
    assert (
        cli("fit", *TINY, *small, "--data.policy", "TrivialAugment", "--data.erase", "0.1")[0] == 0
    )
    config = yaml.safe_load((only_run() / "config.yaml").read_text())
    without = config | {"data": config["data"] | {"policy": None, "erase": 0.0}}
    assert run_id(config) == only_run().name != run_id(without)
    code, _, err = cli(
        "fit", *TINY, "--data.policy", "RandAugment", "--data.policy.magnitude", "31"
    )
    assert (
        code == 2
        and "magnitude must be a whole number from 0 to 30" in err
        and err.count("\n") == 1
    )


def test_images_in_memory_need_no_workers(monkeypatch):
    """They are read, and changed by a policy, faster than any process hands them over."""
    monkeypatch.setattr(module, "workers", lambda processes: 2)
    small = Synthetic(96, 40, 8)
    how = {"crop": "resized", "size": 8, "policy": TrivialAugment(), "erase": 0.5}
    alone = data_of(small, **how).train_dataloader()
    many = data_of(small, workers=2, **how).train_dataloader()
    assert (alone.workers, many.workers) == (0, 2) and same(copies(alone), copies(many))
    assert [loader.workers for loader in data_of(small, **how).val_dataloader()] == [0, 0]
