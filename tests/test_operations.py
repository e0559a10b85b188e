"""Operations of policies in the C kernel: torchvision's pixels on any number of threads.

Damaged images are not changed.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.loaders import copies, data_of, files_of, same
from PIL import Image

from lightning_resnet.data.augment import image_ops
from lightning_resnet.data.augment.policies import Policy, RandAugment, TrivialAugment
from lightning_resnet.data.beton import decode as kernel
from lightning_resnet.data.beton.format import Beton
from lightning_resnet.data.sources.folder import ImageFolder
from lightning_resnet.data.sources.synthetic import Synthetic
from lightning_resnet.errors import UserError

SIGNED = {  # name: largest magnitude of any policy
    "ShearX": 0.99,
    "ShearY": 0.99,
    "TranslateX": 100,
    "TranslateY": 100,
    "Rotate": 180,
    "Brightness": 0.99,
    "Color": 0.99,
    "Contrast": 0.99,
    "Sharpness": 0.99,
}
OTHERS = "Identity Posterize Solarize SolarizeAdd AutoContrast Equalize Invert Shift Erase".split()
OPERATIONS = [*SIGNED, *OTHERS]
# Levels, and the share of values that differ at all, on noise: see `decode.change`.
TOLERANCE = {name: (1, 0.005) for name in kernel.AFFINE}


def made_image(rng, i):
    """Return an image: of a square or any other shape; noise, a gradient, few levels, or grey."""
    h, w = rng.integers(1, 70, 2) if i % 2 else (int(rng.integers(1, 230)),) * 2
    x = rng.integers(0, 256, (h, w, 3), np.uint8)
    if i % 4 == 1:
        slope = np.add.outer(np.arange(h), np.arange(w))[:, :, None] // np.array([1, 2, 3])
        x = (slope + rng.integers(0, 50)).astype(np.uint8)
    elif i % 4 == 2:
        low = rng.integers(0, 200)
        x = rng.integers(low, low + 1 + rng.integers(0, 56), (h, w, 3)).astype(np.uint8)
    elif i % 4 == 3:
        x[:] = x[..., :1]
    return np.ascontiguousarray(x)


def made_magnitude(rng, name, h, w):
    """Return a magnitude; every third one a round number, where ties of the rounding are."""
    if name in SIGNED:
        top = SIGNED[name]
        value = rng.uniform(-top, top)
        if rng.random() < 1 / 3:
            value = float(rng.choice([-1, 1]) * rng.integers(0, 31) / 30 * top)
        if name.startswith("Translate") and rng.random() < 1 / 2:
            value = float(round(value))
        return float(value)
    if name == "Shift":
        return tuple((rng.normal(size=3) * 40).tolist())
    if name == "Erase":
        top, left = rng.integers(0, h), rng.integers(0, w)
        return (top, left, rng.integers(1, h - top + 1), rng.integers(1, w - left + 1), 7, 128, 255)
    return {
        "Posterize": int(rng.integers(0, 9)),
        "Solarize": float(rng.choice([rng.integers(0, 257), 8.5 * rng.integers(0, 31)])),
        "SolarizeAdd": int(rng.integers(0, 129)),
    }.get(name, 0.0)


def changed(image, *steps):
    out = image[None].copy()
    kernel.change(out, [steps])
    return out[0]


def by_torchvision(image, *steps):
    x = torch.from_numpy(image).permute(2, 0, 1)
    for step in steps:
        x = image_ops.apply(x, *step)
    return x.permute(1, 2, 0).numpy()


def compare(name, images):
    """Return the largest difference in levels and the share of values that differ; print both."""
    rng = np.random.default_rng(OPERATIONS.index(name))
    worst = differing = values = 0
    for i in range(images):
        image = made_image(rng, i)
        step = (name, made_magnitude(rng, name, *image.shape[:2]))
        apart = np.abs(changed(image, step).astype(int) - by_torchvision(image, step))
        worst = max(worst, int(apart.max()))
        differing += int((apart > 0).sum())
        values += apart.size
    print(
        f"{name}: {images} images, largest difference {worst} levels, "
        f"{100 * differing / values:.4f} % of the values differ"
    )
    return worst, differing / values


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_gives_torchvisions_pixels(name):
    levels, share = TOLERANCE.get(name, (0, 0))
    worst, differing = compare(name, 40)
    assert worst <= levels and differing <= share


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_gives_torchvisions_pixels_of_a_thousand_images(name):
    levels, share = TOLERANCE.get(name, (0, 0))
    worst, differing = compare(name, 1000)
    assert worst <= levels and differing <= share


@pytest.mark.parametrize("degrees", [0, 90, 180, 270, -90, 360])
def test_a_quarter_turn_moves_pixels_only(degrees):
    image = made_image(np.random.default_rng(0), 0)
    step = ("Rotate", float(degrees))
    assert (changed(image, step) == np.rot90(image, degrees // 90)).all()
    assert (changed(image, step) == by_torchvision(image, step)).all()


@pytest.mark.parametrize(
    "step",
    [
        ("TranslateX", 70_000.0),
        ("TranslateY", -1e300),
        ("ShearX", 1e9),
        ("ShearY", -1e9),
        ("TranslateX", float("inf")),
        ("TranslateX", float("nan")),
    ],
)
def test_what_is_moved_out_of_the_image_leaves_black(step):
    assert not changed(np.full((5, 7, 3), 200, np.uint8), step).any()


def test_numbers_beyond_all_policies_stay_in_the_image():
    image = made_image(np.random.default_rng(0), 0)
    for value in (1e300, -1e300, float("inf"), float("-inf"), float("nan")):
        for name in OPERATIONS:
            if name not in kernel.AFFINE:
                magnitude = (value,) * 3 if name == "Shift" else value
                changed(image, (name, (value,) * 7 if name == "Erase" else magnitude))
    lit = changed(image, ("Shift", (1e300, 0.0, -1e300)))
    assert (lit[..., 0] == 255).all() and (lit[..., 1] == image[..., 1]).all()
    assert not lit[..., 2].any()


def test_operations_act_one_after_the_other_and_alike_on_any_number_of_threads():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (37, 20, 31, 3), np.uint8)
    choices = []
    for i in range(37):
        names = rng.choice([*SIGNED, "Equalize", "AutoContrast", "Erase"], i % 4)
        choices.append([(name, made_magnitude(rng, name, 20, 31)) for name in names])
    results = []
    for threads in (1, 2, 5, 300):
        out = images.copy()
        kernel.change(out, choices, threads)
        results.append(out)
    for image, steps, result in zip(images, choices, results[0], strict=True):
        one_by_one = image
        for step in steps:
            one_by_one = changed(one_by_one, step)
        assert (one_by_one == result).all()
    assert all((result == results[0]).all() for result in results)


def test_a_policy_of_unknown_operations_is_refused():
    class Wrong(Policy):
        def choose(self, draw, size):
            return [[("Melt", 1.0)] for _ in draw(0)]

    data = data_of(Synthetic(64, 40, 16), crop="none", size=None, policy=Wrong(), loader="torch")
    with pytest.raises(UserError, match="no operation Melt: a policy chooses from Identity, Rotat"):
        next(iter(data.train_dataloader()))


@pytest.mark.parametrize("loader", ["torch", "ffcv"])
def test_an_image_that_cannot_be_read_is_left_grey(tmp_path, loader):
    """Whatever the policy would do to it."""
    rng = np.random.default_rng(0)
    for i in range(40):
        split = "train" if i < 32 else "val"
        path = tmp_path / "images" / split / "ab"[i % 2] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (30, 30, 3), np.uint8)).save(path)
    how = {"policy": RandAugment(magnitude=30), "erase": 1.0, "on_bad": "count", "loader": loader}
    if loader == "torch":
        data = data_of(ImageFolder(str(tmp_path / "images")), batch_size=16, **how)
        for path in data.splits["train"].paths[:8]:
            Path(path).write_bytes(b"no image")
    else:
        source = files_of(Synthetic(40, 40, 16), tmp_path, mode="jpeg")
        path = Path(source.files["train"])
        starts = Beton(path).images["data_ptr"][:8]
        with path.open("r+b") as file:
            for start in starts.tolist():
                file.seek(start)
                file.write(bytes(20))
        data = data_of(source, batch_size=16, **how)
    bad = 0
    for x, y in data.train_dataloader():
        for image, label in zip(x, y, strict=True):
            bad += int(label == -100)
            assert (label == -100) == bool((image == 127).all())
    assert bad > 0


def test_without_the_kernel_torchvision_makes_the_pixels(paged, monkeypatch):
    how = {"size": None, "crop": "pad", "erase": 0.5, "policy": TrivialAugment()}
    results = []
    for library in (kernel.library, lambda: None):
        monkeypatch.setattr(kernel, "library", library)
        for loader, workers in (("torch", 0), ("ffcv", 1), ("ffcv", 3)):
            data = data_of(paged, loader=loader, workers=workers, **how)
            results.append(copies(data.train_dataloader()))
    assert all(same(results[0], result) for result in results[:3])
    assert all(same(results[3], result) for result in results[3:])
    for (x, y), (u, v) in zip(results[0], results[3], strict=True):
        assert torch.equal(y, v) and (x.int() - u.int()).abs().max() <= 1
