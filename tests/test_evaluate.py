"""The evaluation matrix against straightforward implementations, on 50 images."""

import csv
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.markdown import rows_of
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import nn
from torchvision.transforms import functional as T  # noqa: N812

from lightning_resnet.analysis.evaluation import evaluate as matrix
from lightning_resnet.analysis.evaluation.crops import top5, wilson
from lightning_resnet.analysis.inspection import subjects as loading
from lightning_resnet.analysis.inspection.subjects import subjects
from lightning_resnet.models.resnet import CifarResNet
from lightning_resnet.weights.classes import align
from lightning_resnet.weights.trained import load, take_weights

RECIPE = """
trainer: {max_epochs: 1, accelerator: cpu}
model: {net: {class_path: CifarResNet, init_args: {depth: 8, width: 8, num_classes: 7}}}
data:
  source: {class_path: ImageFolder, init_args: {root: photos}}
  size: 28
  crop: resized
  batch_size: 16
run: {threads: 1}
"""
N, CLASSES = 50, [f"kind{i}" for i in range(7)]


@pytest.fixture
def photos(tmp_path):
    """Crops of two photos, shorter side 32, in photos/val; some more to train on; and a checkpoint
    net.ckpt.
    """
    rng, sources = np.random.default_rng(0), load_sample_images().images
    for i in range(N + 28):
        h, w = rng.permutation([32, 32 + 2 * int(rng.integers(0, 16))])
        y, x = rng.integers(0, 427 - h), rng.integers(0, 640 - w)
        file = (
            tmp_path
            / "photos"
            / ("val" if i < N else "train")
            / CLASSES[i % 7]
            / f"ILSVRC2012_val_{i + 1:08}.png"
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sources[i % 2][y : y + h, x : x + w]).save(file)
    (tmp_path / "R.yaml").write_text(RECIPE)
    torch.manual_seed(0)
    images = torch.stack(
        [T.center_crop(T.pil_to_tensor(Image.open(f)), 28) for f in tmp_path.rglob("val/*/*.png")]
    )
    nets = [shaken(CifarResNet(8, width=8, num_classes=7), seed, images) for seed in (1, 2)]
    state, averaged = (net.state_dict() for net in nets)
    state = {f"net.{k}": v for k, v in state.items()} | {f"ema.{k}": v for k, v in averaged.items()}
    constants = {"mean": torch.full((3, 1, 1), 110.0), "std": torch.full((3, 1, 1), 60.0)}
    torch.save(
        {"state_dict": state | constants, "run": {"config": RECIPE, "classes": CLASSES}},
        tmp_path / "net.ckpt",
    )
    return sorted((tmp_path / "photos" / "val").rglob("*.png"))


def normalise(pixels):
    return (pixels - 110.0) / 60


def shaken(net, seed, images):
    """Norms as after a training, and logits that are all over the classes."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.copy_(
                torch.rand(module.running_var.shape, generator=generator) + 0.5
            )
            module.running_mean.copy_(
                torch.rand(module.running_mean.shape, generator=generator) - 0.5
            )
    net.eval().fc.weight.data.copy_(torch.randn(net.fc.weight.shape, generator=generator))
    with torch.no_grad():
        net.fc.bias -= net((images - 110) / 60).mean(0)
    return net


def by_hand(net, files, crops):
    """The five most probable classes, image by image: torchvision's own crops, one forward pass
    each.
    """
    best = []
    for file in files:
        with Image.open(file) as image:
            pieces = {
                "ten": lambda p: T.ten_crop(p, 28),
                "centre": lambda p: [T.center_crop(p, 28)],
            }
            pieces["flip"] = lambda p: [T.center_crop(p, 28), T.hflip(T.center_crop(p, 28))]
            x = torch.stack([T.pil_to_tensor(piece) for piece in pieces[crops](image)])
        with torch.no_grad():
            logits = net((x.float() - 110) / 60)
        scores = logits.softmax(1).mean(0) if crops == "ten" else logits.mean(0)
        best.append(scores.argsort(descending=True)[:5].tolist())
    return best


def errors(files, best):
    labels = [CLASSES.index(file.parent.name) for file in files]
    top1 = np.mean([row[0] == label for row, label in zip(best, labels, strict=True)])
    top5 = np.mean([label in row for row, label in zip(best, labels, strict=True)])
    return [f"{100 * (1 - top1):.2f}", f"{100 * (1 - top5):.2f}"]


def table(out):
    """Rows of the first table: cells by settings."""
    return {tuple(row[:4]): row[4:] for row in rows_of(out)[1:]}


def test_crops_and_weights_agree_with_one_image_at_a_time(cli, photos):
    every = ["evaluate", "net.ckpt", "--sizes", "28", "--crops", "centre,ten,flip"]
    code, out, err = cli(*every)
    assert code == 0, err
    assert {key[2] for key in table(cli(*every[:4])[1])} == {"centre"}, "trained without flips"
    rows = table(out)
    assert len(rows) == 6 and {row[0] for row in rows.values()} == {str(N)}
    (subject,), wanted = subjects(["net.ckpt"], []), []
    for name, weights in (("raw", "net"), ("ema", "ema")):
        take_weights(subject.experiment.task, subject.state, weights)
        for crops in ("centre", "ten", "flip"):
            cells = rows[name, "moving", crops, "28"]
            best = by_hand(subject.net, photos, crops)
            assert [cells[1], cells[3]] == errors(photos, best), (crops, name)
            assert best not in wanted, "all alike: the test could not fail"
            wanted.append(best)
            assert (
                top5(subject.net, normalise, subject.experiment.data, crops, 28)[0].tolist() == best
            )
    ffcv = table(cli(*every, "--weights", "net", "--data.loader", "ffcv")[1])
    assert {key for key in rows if key[0] == "raw"} == set(ffcv)
    for (
        key,
        cells,
    ) in ffcv.items():  # PNGs are JPEGs there: an image or two may be taken for another class
        assert cells[0] == str(N) and abs(float(cells[1]) - float(rows[key][1])) <= 4


@pytest.fixture
def odd(photos):
    """50 images with sides of 40 to 90 pixels in odd/val, and a checkpoint for 28 of them: most
    margins are odd.
    """
    rng, sources = np.random.default_rng(1), load_sample_images().images
    for i in range(N + 7):
        h, w = rng.integers(40, 91, 2)
        y, x = rng.integers(0, 427 - h), rng.integers(0, 640 - w)
        file = Path("odd", "val" if i < N else "train", CLASSES[i % 7], f"{i:02}.png").absolute()
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sources[i % 2][y : y + h, x : x + w]).save(file)
    return sorted(Path("odd", "val").rglob("*.png"))


def boxes(image, crops):
    """7/8 of the shorter side, the margins halved and rounded down as FFCV does, then
    scaled to 28.
    """
    h, w = image.height, image.width
    side = round(min(h, w) * 7 / 8)
    middle = (h - side) // 2, (w - side) // 2
    corners = (
        [(top, left) for top in (0, h - side) for left in (0, w - side)] if crops == "ten" else []
    )
    pieces = [T.resized_crop(image, *corner, side, side, [28, 28]) for corner in [*corners, middle]]
    return pieces if crops == "centre" else pieces + [T.hflip(piece) for piece in pieces]


def torchvisions(image, crops):
    """The full image scaled to 32, then cut, as 256 and 224 are elsewhere; margins rounded, in
    scaled pixels.
    """
    scaled = T.resize(image, 32)
    centre = T.center_crop(scaled, 28)
    return (
        T.ten_crop(scaled, 28)
        if crops == "ten"
        else [centre, T.hflip(centre)][: 1 + (crops == "flip")]
    )


# rms difference of the logits, next to their standard deviation; measured: 0.014, 0.011 and 0.004
@pytest.mark.parametrize(("crops", "off"), [("centre", 0.02), ("flip", 0.02), ("ten", 0.006)])
def test_images_that_are_scaled_and_have_odd_margins(cli, odd, crops, off):
    flags = "--data.source.root odd --data.workers 0 --data.batch_size 25".split()
    (subject,), seen = subjects(["net.ckpt"], flags), []
    net, data = subject.net, subject.experiment.data
    with net.register_forward_hook(lambda net, x, logits: seen.append(logits.clone())):
        best = top5(net, normalise, data, crops, 28)[0]
    validated = torch.cat([pixels.clone() for pixels, _ in data.eval_loader("val")])
    for pixels, file in zip(validated, odd, strict=True):
        assert torch.equal(pixels, T.pil_to_tensor(boxes(Image.open(file), "centre")[0]))
    ours = torch.stack(seen).mean(0)
    assert len(seen) == {"centre": 1, "flip": 2, "ten": 10}[crops] and ours.shape == (N, 7)
    logits = {}
    for way in (boxes, torchvisions):
        pieces = [way(Image.open(file), crops) for file in odd]
        pixels = [
            torch.stack([T.pil_to_tensor(piece) for piece in image]).float() for image in pieces
        ]
        with torch.no_grad():
            logits[way] = torch.stack([net((x - 110) / 60) for x in pixels])
    torch.testing.assert_close(ours, logits[boxes].mean(1), atol=1e-4, rtol=1e-4)
    scores = logits[boxes].softmax(2) if crops == "ten" else logits[boxes]
    assert torch.equal(best, scores.mean(1).topk(5).indices)
    theirs = logits[torchvisions].mean(1)
    difference = float((ours - theirs).square().mean().sqrt() / theirs.std())
    assert 0 < difference < off


def test_precise_statistics_classes_and_confusion(cli, photos):
    flags = ["--crops", "centre", "--weights", "net", "--per-class", "--confusion", "confusion.csv"]
    flags += ["--predictions", "new/each.csv"]
    code, out, err = cli("evaluate", "net.ckpt", "--bn", "moving,precise", *flags)
    assert code == 0, err
    each = list(csv.DictReader(Path("new/each.csv").read_text().splitlines()))
    assert [Path(row["picture"]).parent.name for row in each] == [row["label"] for row in each]
    rows = table(out.partition("\n\nraw")[0])
    (subject,) = subjects(["net.ckpt"], [])
    data = subject.experiment.data
    stem = [subject.net.conv1(normalise(pixels)) for pixels, _ in data.train_dataloader()]
    precise = matrix._net(subject, "net", "precise", normalise)
    torch.testing.assert_close(precise.bn1.running_mean, torch.cat(stem).mean((0, 2, 3)))
    assert not torch.allclose(precise.bn1.running_mean, subject.net.bn1.running_mean, atol=0.01)
    assert set(rows) == {
        ("raw", bn, "centre", size) for bn in ("moving", "precise") for size in ("28", "32")
    }
    counts = [
        [int(v) for v in line[1:]]
        for line in list(csv.reader(Path("confusion.csv").read_text().splitlines()))[1:]
    ]
    assert (
        np.sum(counts) == N
        and f"{100 * (N - np.trace(counts)) / N:.2f}" == rows["raw", "moving", "centre", "28"][1]
    )
    shares = {
        line.split("|")[1].strip(): line.split("|")[3].strip()
        for line in out.splitlines()
        if "kind" in line[:9]
    }
    assert len(shares) == 7
    pairs = [(row["label"], row["predicted"]) for row in each]
    assert [[pairs.count((a, b)) for b in CLASSES] for a in CLASSES] == counts
    assert "--predictions FILE.csv writes" in cli("evaluate", "net.ckpt", "--wrong")[2]
    for i, name in enumerate(CLASSES):
        assert shares[name] == f"{100 * (1 - counts[i][i] / sum(counts[i])):.2f}"


def test_a_batch_of_many_devices_is_not_evaluated_at_once(cli, photos, monkeypatch):
    """Nor does it matter that it exceeds the training images."""
    monkeypatch.setattr(loading, "EVAL_BATCH", 20)
    ways, seen = ["--crops", "centre", "--sizes", "28", "--weights", "net"], []
    plain = table(cli("evaluate", "net.ckpt", *ways)[1])
    original = matrix._net

    def counted(*args):
        net = original(*args)
        net.register_forward_pre_hook(lambda net, x: seen.append(len(x[0])))
        return net

    monkeypatch.setattr(matrix, "_net", counted)
    assert table(cli("evaluate", "net.ckpt", *ways, "--data.batch_size", 4096)[1]) == plain
    assert seen == [20, 20, 10]
    seen.clear()
    assert table(cli("evaluate", "net.ckpt", *ways, "--data.batch_size", 8)[1]) == plain
    assert seen == [16, 16, 16, 2]
    code, _, err = cli("fit", "--config", "R.yaml", "--data.batch_size", 4096)
    assert (
        code == 2
        and "batch_size 4096 exceeds the 28 training images" in err
        and not Path("runs").exists()
    )


def few(photos, classes):
    """A folder of these classes alone."""
    for file in photos[0].parents[2].rglob("*.png"):
        if file.parent.name in classes:
            copy = Path("few", *file.parts[-3:])
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    return [file for file in photos if file.parent.name in classes]


def test_a_source_of_some_of_the_classes_is_numbered_as_the_checkpoint(cli, photos):
    """The class after a missing one is not taken for it."""
    some, flags = (
        few(photos, ["kind1", "kind4", "kind5"]),
        ["--data.source.root", "few", "--data.workers", 0],
    )
    best = by_hand(load("net.ckpt").task.net, some, "centre")
    wanted = errors(some, best)
    assert any(row[0] in (1, 4, 5) for row in best) and 0 < float(wanted[0])
    ways = [
        "--crops",
        "centre",
        "--sizes",
        "28",
        "--weights",
        "net",
        "--per-class",
        "--confusion",
        "new/confusion.csv",
    ]
    code, out, err = cli("evaluate", "net.ckpt", *ways, *flags)
    cells = table(out.partition("\n\nraw")[0])["raw", "moving", "centre", "28"]
    assert (
        code == 0
        and [cells[1], cells[3]] == wanted
        and cells[0] == str(len(some))
        and "warning" not in err
    ), err
    assert (
        f"evaluated: raw moving centre 28: N {len(some)}, top-1 error {wanted[0]} %, "
        f"top-5 error {wanted[1]} %\n" in out
    )
    assert sorted(re.findall(r"^\| (\w+) +\| +\d", out, re.M)) == ["kind1", "kind4", "kind5"]
    assert Path("new/confusion.csv").read_text().splitlines()[0] == ",".join(["label", *CLASSES])
    assert cli("convert", "net.ckpt", "--out", "raw.ckpt")[0] == 0
    code, out, err = cli("validate", "--config", "R.yaml", *flags, "--ckpt_path", "raw.ckpt")
    assert (
        code == 0
        and [f"{100 - 100 * json.loads(out)[f'val/acc{k}']:.2f}" for k in (1, 5)] == wanted
    ), err
    code, out, _ = cli("predict", "--config", "R.yaml", *flags, "--ckpt_path", "raw.ckpt")
    rows = list(csv.DictReader(out.splitlines()))
    assert [(row["label"], row["predicted"]) for row in rows] == [
        (file.parent.name, CLASSES[row[0]]) for file, row in zip(some, best, strict=True)
    ]


def test_all_images_of_another_folder_are_evaluated(cli, photos):
    """The run's own folder has train/ and val/; a flat one has no splits, and is all new."""
    Path("photos/val").rename("flat")
    Path("flat/kind0").rename("lone")
    Path("flat/kind0").mkdir()
    Path("lone").rename("flat/kind0/deeper")
    flags = ["--data.source.root", "flat", "--data.workers", 0]
    code, out, err = cli("evaluate", "net.ckpt", "--crops", "centre", *flags)
    assert code == 0 and f"N {N}," in out, err
    assert f"all {N} images are evaluated" in err
    for verb in ("validate", "test"):
        code, out, err = cli(verb, "net.ckpt", *flags)
        assert code == 0 and json.loads(out)["n"] == N, err


@pytest.mark.parametrize(
    ("known", "wrong"),
    [
        (["ant", "bee", "cat", "dog", "eel", "fox", "gnu"], "does not know kind0, kind1, kind2"),
        (["kind9", *CLASSES[:6]], "does not know kind6 of the data, so labels do not match"),
    ],
)
def test_labels_that_cannot_match_are_refused(cli, photos, known, wrong):
    content = torch.load("net.ckpt")
    content["run"]["classes"] = known
    torch.save(content, "other.ckpt")
    for verb in ("evaluate", "validate"):
        code, out, err = cli(verb, "other.ckpt", "--data.workers", 0)
        assert code == 2 and wrong in err and "evaluated" not in out, err
        assert "name the folders (or classes) as the checkpoint does" in err


def test_other_classes_are_told_and_too_many_refused(cli, photos):
    content = torch.load("net.ckpt")
    content["state_dict"] = {
        k: t for k, t in content["state_dict"].items() if not k.startswith("ema.")
    }
    content["run"]["classes"] = ["ant", *CLASSES[1:]]
    torch.save(content, "other.ckpt")
    few(photos, CLASSES[:3])
    for verb in (
        ["evaluate", "other.ckpt", "--crops", "centre", "--sizes", "28", "--data.workers", 0],
        ["validate", "--config", "R.yaml", "--ckpt_path", "other.ckpt", "--data.workers", 0],
    ):
        code, _, err = cli(*verb)
        assert code == 0 and "warning: class 0 is ant to the checkpoint, kind0 to the data" in err
        code, _, err = cli(*verb, "--data.source.root", "few")
        assert code == 0 and "warning: class 0 is ant to the checkpoint, kind0 to the data" in err
        code, _, err = cli(*verb, "--data.source", "Synthetic", "--data.source.num_classes", 8)
        assert (
            code == 2
            and "8 classes, the checkpoint's net 7 outputs" in err
            and "Traceback" not in err
        ), err
    ways = [
        "--crops",
        "centre",
        "--sizes",
        "28",
        "--per-class",
        "--data.source.root",
        "few",
        "--data.workers",
        0,
    ]
    code, out, _ = cli("evaluate", "other.ckpt", *ways)
    assert code == 0 and re.search(
        r"^\| +ant +\|", out, re.M
    )  # with predictions beyond the folder's three classes
    flags = ["--ckpt_path", "other.ckpt", "--data.source.root", "few", "--data.workers", 0]
    rows = list(csv.DictReader(cli("predict", "--config", "R.yaml", *flags)[1].splitlines()))
    assert {row["label"] for row in rows} == set(CLASSES[:3]) and "kind5" in {
        row["predicted"] for row in rows
    }
    code, out, _ = cli(
        "evaluate", "R.yaml", *ways, "--model.net.num_classes", 9, "--confusion", "fresh.csv"
    )
    assert code == 0 and Path("fresh.csv").read_text().startswith(
        "label,kind0,kind1,kind2,3,4,5,6,7,8\n"
    )  # untrained
    assert (
        cli("evaluate", "other.ckpt", "--confusion", "few")[0] == 2
    )  # before anything is evaluated


@pytest.mark.parametrize(("hits", "n"), [(0, 50), (1, 50), (37, 50), (50, 50), (38_000, 50_000)])
def test_intervals(hits, n):
    """The closed form: Wilson 1927, with the normal distribution's 97.5 % point."""
    share, z = hits / n, 1.959963984540054
    middle, half = share + z**2 / (2 * n), z * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
    wanted = [(middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)]
    assert wilson(hits, n) == pytest.approx(wanted, abs=1e-9)


# Newcombe 1998, table I, method 3
@pytest.mark.parametrize(
    ("hits", "n", "wanted"),
    [
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_published_intervals(hits, n, wanted):
    assert wilson(hits, n) == pytest.approx(wanted, abs=5e-5)


def test_several_right_labels(cli, photos):
    pairs = zip(photos, by_hand(load("net.ckpt").task.net, photos, "centre"), strict=True)
    right = [CLASSES[best[0]] == file.parent.name for file, best in pairs]
    # ReaL's form: a list by the number in the file name; every right image also has another label,
    # some have none
    labels = [[] for _ in range(N)]
    for file, is_right in zip(photos, right, strict=True):
        label = CLASSES.index(file.parent.name)
        number = int(file.stem[-8:]) - 1
        if is_right:
            labels[number] = [(label + 1) % 7, label]
        elif number % 2:
            labels[number] = [label]
    Path("real.json").write_text(json.dumps(labels))
    flags = ["--crops", "centre", "--sizes", "28", "--weights", "net"]
    code, out, err = cli("evaluate", "net.ckpt", *flags, "--labels", "real.json")
    assert code == 0, err
    n = sum(map(bool, labels))
    assert (
        table(out)["raw", "moving", "centre", "28"][:2]
        == [str(n), f"{100 * (n - sum(right)) / n:.2f}"]
        and n < N
    )
    named = {file.name: [file.parent.name] for file in photos}
    Path("own.json").write_text(json.dumps(named))
    plain = cli("evaluate", "net.ckpt", *flags)[1]
    assert table(cli("evaluate", "net.ckpt", *flags, "--labels", "own.json")[1]) == table(plain)
    named.pop(photos[0].name)
    Path("own.json").write_text(json.dumps(named))
    for args, word in (
        (["--labels", "own.json"], "has nothing for"),
        (["--labels", "R.yaml"], "no label file"),
        (["--labels", "real.json", "--data.loader", "ffcv"], "images' names"),
        (["--labels", "real.json", "--per-class"], "leave --labels out"),
        (["--crops", "twelve"], "choose among centre, ten, flip"),
        (["--sizes", "big"], "pixels per side"),
        (["--trainer.devices", "2"], "one device"),
        (["--split", "test"], "the source has train, val"),
    ):
        code, _, err = cli("evaluate", "net.ckpt", *args)
        assert code == 2 and word in err and "Traceback" not in err, (args, err)


def test_imagenet_v2_folders(cli, photos):
    """Classes are numbered by folder, and 10 comes after 2; folders of some classes may
    be missing.
    """
    for file in photos:
        target = Path("v2", str(CLASSES.index(file.parent.name)), file.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    source = "--data.source ImageNetV2 --data.source.root v2 --data.source.num_classes 7".split()
    flags = ["--crops", "centre", "--sizes", "28", "--weights", "net"]
    plain = table(cli("evaluate", "net.ckpt", *flags)[1])
    code, out, err = cli(
        "evaluate", "net.ckpt", *flags, *source, "--per-class", "--confusion", "confusion.csv"
    )
    assert code == 0 and table(out.partition("\n\nraw")[0]) == plain
    assert sorted(re.findall(r"^\| (\w+) +\| +\d", out, re.M)) == CLASSES, err  # not 0 to 6
    assert Path("confusion.csv").read_text().splitlines()[0] == ",".join(["label", *CLASSES])
    for names in (CLASSES, "0123456"):  # the checkpoint's, or the source's
        Path("own.json").write_text(
            json.dumps({f.name: [names[CLASSES.index(f.parent.name)]] for f in photos})
        )
        assert (
            table(cli("evaluate", "net.ckpt", *flags, *source, "--labels", "own.json")[1]) == plain
        )
    code, out, err = cli("validate", "--config", "R.yaml", *source, "--ckpt_path", "raw.ckpt")
    assert code == 2 and "raw.ckpt does not exist" in err
    assert cli("convert", "net.ckpt", "--out", "raw.ckpt")[0] == 0
    code, out, err = cli("validate", "--config", "R.yaml", *source, "--ckpt_path", "raw.ckpt")
    top1 = plain["raw", "moving", "centre", "28"][1]
    assert code == 0 and f"{100 - 100 * json.loads(out)['val/acc1']:.2f}" == top1, err
    assert "has no training images" in cli("evaluate", "net.ckpt", "--bn", "precise", *source)[2]
    code, _, err = cli("fit", "--config", "R.yaml", *source)
    assert code == 2 and "no training images" in err


@pytest.mark.parametrize(
    "command",
    ["evaluate net.ckpt", "inspect responses net.ckpt", "predict photos --ckpt_path net.ckpt"],
)
def test_a_gpu_that_is_not_there(cli, photos, command):
    for device, cure in (
        ("cuda", "no NVIDIA GPU with a driver: drop --device, or say cpu"),
        ("gpu", "say cpu or cuda"),
    ):
        code, _, err = cli(*command.split(), "--device", device)
        assert code == 2 and cure in err and "Traceback" not in err, err


def test_a_class_of_a_checkpoint_sends_nothing_to_the_terminal(capsys):
    source = SimpleNamespace(classes=["cat", "dog"])
    align(
        SimpleNamespace(source=source, input_size=(3, 8, 8)),
        nn.Sequential(nn.Flatten(), nn.Linear(192, 2)),
        ["\x1b[2J\n=a", "dog"],
    )
    err = capsys.readouterr().err
    assert "class 0 is \\x1b[2J\\n=a to the checkpoint" in err and err.count("\n") == 1
