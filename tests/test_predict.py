"""`predict` on images: what validation sees of the same images, with the classes' names."""

import csv
import io
import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from pytorch_lightning.accelerators import CUDAAccelerator

from lightning_resnet.cli import predict
from lightning_resnet.data.sources.synthetic import Synthetic
from lightning_resnet.runs import find
from lightning_resnet.weights.classes import in_words
from lightning_resnet.weights.trained import load

RECIPE = """
trainer: {max_epochs: 1, accelerator: cpu}
model: {net: {class_path: CifarResNet, init_args: {depth: 8, width: 4, num_classes: 7}}}
data:
  source: {class_path: ImageFolder, init_args: {root: photos}}
  size: 24
  crop: resized
  batch_size: 8
wandb: {mode: disabled}
"""
CLASSES = [f"kind{i}" for i in range(7)]

BAD = {
    "00.png": b"no image",
    "eps.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    "bomb.ppm.png": b"P6 65535 65535 255\n",
    "cut.png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "empty.tif": b"",
}


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(28):
        h, w = rng.integers(30, 60, 2)
        file = tmp_path / "photos" / CLASSES[i % 7] / f"{i:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (h, w, 3), np.uint8)).save(file)
    (tmp_path / "R.yaml").write_text(RECIPE)
    return tmp_path / "photos"


def test_images_get_the_classes_that_validation_gives_them(cli, photos):
    code, _, err = cli("fit", "--config", "R.yaml", "--run.threads", 1)
    assert code == 0, err
    checkpoint = next(photos.parent.glob("runs/*/*/checkpoints/last.ckpt"))
    code, out, err = cli(
        "predict", "photos", "--ckpt_path", checkpoint, "--format", "csv", "--top", 7
    )
    assert code == 0, err
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) == 28 * 7 and {row["class"] for row in rows} == set(CLASSES)
    code, out, _ = cli(
        "predict", "--config", "R.yaml", "--run.threads", 1, "--ckpt_path", checkpoint
    )
    validated = list(csv.DictReader(io.StringIO(out)))
    first = {row["picture"]: row for row in rows if row["rank"] == "1"}
    files = sorted(first)
    assert len(validated) == 5
    for row in validated:
        ours = first[files[int(row["sample"])]]
        assert ours["class"] == row["predicted"]
        assert float(ours["probability"]) == pytest.approx(float(row["probability"]), abs=1e-4)
        shared = ("label", "predicted", "picture")
        assert [row[key] for key in shared] == [ours[key] for key in shared]
    assert {row["picture"].split("/")[-2] == row["label"] for row in rows} == {True}
    assert {row["words"] == row["class"] for row in rows} == {True}
    run = checkpoint.parents[1]
    (photos / "kind0" / "00.png").write_bytes(b"no image")
    code, out, err = cli(
        "predict",
        photos / "kind0",
        photos / "kind1" / "01.png",
        "--ckpt_path",
        run,
        "--format",
        "json",
    )
    done = json.loads(out)
    assert (
        code == 1
        and "00.png: it is no image (JPEG, PNG, WEBP, BMP, TIFF, GIF, PPM); leave it out" in err
        and " object at " not in err
        and len(done) == 4
    )
    code, out, err = cli("predict", photos / "kind0" / "00.png", "--ckpt_path", run)
    assert (code, out) == (1, "") and "it is no image" in err  # a table of nothing is left out
    for name, data in BAD.items():  # one bad image leaves the others their classes
        (photos / "kind0" / name).write_bytes(data)
    code, out, err = cli(
        "predict", photos / "kind0", "--ckpt_path", run, "--format", "csv", "--top", 1
    )
    assert (
        code == 1
        and err.count("; leave it out\n") == err.count("\n") == len(BAD)
        and out.count("\n") == 4
    )
    assert [len(each["top"]) for each in done] == [5] * 4
    assert [each["label"] for each in done] == ["kind0"] * 3 + ["kind1"]
    values = [best["probability"] for best in done[0]["top"]]
    assert values == sorted(values, reverse=True)
    code, out, _ = cli("predict", photos / "kind1", "--ckpt_path", run)
    assert (
        code == 0 and out.startswith("|") and f"{done[3]['top'][0]['class']} " in out and "%" in out
    )
    assert load(run).class_names() == CLASSES == load(run.parent).class_names()
    (run.parent / "other" / "attempts").mkdir(parents=True)
    code, _, err = cli("predict", "photos", "--ckpt_path", run.parent)
    assert code == 2 and "holds 2 runs: give one of them" in err and str(run.parent) in err


def test_a_recipe_without_a_size_takes_the_full_image(cli, tmp_path):
    """Such as CIFAR's: what is validated as stored is not predicted from the middle of it."""
    recipe = """
trainer: {max_epochs: 1, accelerator: cpu}
model: {net: {class_path: CifarResNet, init_args: {depth: 8, width: 4, num_classes: 5}}}
data:
  source: {class_path: Synthetic, init_args: {n: 32, n_val: 10, num_classes: 5}}
  crop: pad
  batch_size: 16
"""
    (tmp_path / "S.yaml").write_text(recipe)
    assert cli("fit", "--config", "S.yaml", "--run.threads", 1)[0] == 0
    checkpoint = next(tmp_path.glob("runs/*/*/checkpoints/last.ckpt"))
    validated = list(
        csv.DictReader(
            io.StringIO(cli("predict", "--config", "S.yaml", "--ckpt_path", checkpoint)[1])
        )
    )
    (tmp_path / "stored").mkdir()
    for i, pixels in enumerate(Synthetic(32, 10, num_classes=5).splits()["val"].pixels):
        Image.fromarray(pixels).save(tmp_path / "stored" / f"{i}.png")
    flags = ["stored", "--ckpt_path", checkpoint, "--format", "csv", "--top", 1]
    unsaid = cli("predict", *flags)[1]  # the checkpoint tells the size
    flags += ["--data.size", 32]
    assert cli("predict", *flags)[1] == unsaid
    rows = list(csv.DictReader(io.StringIO(unsaid)))
    assert [row["class"] for row in rows] == [row["predicted"] for row in validated]
    theirs = [float(row["probability"]) for row in validated]
    assert [float(row["probability"]) for row in rows] == pytest.approx(theirs, abs=1e-4)
    cut = list(
        csv.DictReader(io.StringIO(cli("predict", *flags, "--data.eval_share", 0.875)[1]))
    )  # flags still win
    assert [float(row["probability"]) for row in cut] != pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize("verb", ["predict", "convert", "evaluate"])
def test_no_word_of_a_gpu_that_is_not_used(cli, photos, finished, monkeypatch, verb):
    monkeypatch.setattr(CUDAAccelerator, "is_available", staticmethod(lambda: True))
    checkpoint = finished / "checkpoints/last.ckpt"
    words = {
        "predict": ["photos", "--ckpt_path", checkpoint, "--data.size", 8],
        "convert": [checkpoint, "--out", "net.safetensors"],
        "evaluate": [checkpoint],
    }
    code, out, err = cli(verb, *words[verb])
    assert code == 0 and "GPU available" not in out + err, err


def test_what_cannot_be_predicted(cli, photos):
    torch.save({"state_dict": {}}, "bare.ckpt")
    for args, word in (
        (["none.jpg", "--ckpt_path", "bare.ckpt"], "none.jpg does not exist"),
        (["photos", "--ckpt_path", "bare.ckpt"], "does not tell what net"),
        (["photos"], "resnet-cli predict RUN IMAGE"),
        (["photos", "--ckpt_path", "bare.ckpt", "--top", "0"], "--top"),
        ([".venv"], "resnet-cli predict RUN IMAGE"),
    ):
        code, _, err = cli("predict", *args)
        assert code == 2 and word in err and "Traceback" not in err, err


def test_images_in_more_folders_than_are_searched_for_runs_are_images(tmp_path, monkeypatch):
    monkeypatch.setattr(find, "MOST_FOLDERS", 3)
    monkeypatch.setattr(predict, "check_weights", lambda run, root: None)
    for k in range(5):
        (tmp_path / f"photos/{k}").mkdir(parents=True)
        (tmp_path / f"photos/{k}/a.png").touch()
    predict.check_words("a_run", [str(tmp_path / "photos")], "runs")


def test_wordnet_ids_are_words_where_timm_or_torchvision_know_them():
    assert in_words(["n03000684", "n02979186"]) == ["chain saw, chainsaw", "cassette player"]
    assert in_words(["n03000684", "cat"]) == ["n03000684", "cat"]
    names = timm.data.ImageNetInfo("imagenet-1k").label_names()
    assert in_words(names)[:2] == ["tench", "goldfish"]
