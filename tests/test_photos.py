"""The packaged photos, the recipe that learns them, and fine-tuning on others' weights."""

import json
import os
from pathlib import Path

import pytest
import timm
import torch
from helpers.command_line import REPOSITORY
from helpers.run_dir import only_run
from safetensors.torch import save_file

from lightning_resnet.data.sources.folder import ImageFolder
from lightning_resnet.data.sources.photos import make_photos
from lightning_resnet.weights.trained import load

SMALL = (
    "--trainer.max_epochs 1 --trainer.limit_train_batches 2 --data.batch_size 10 --run.threads 1"
).split()


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    make_photos(tmp_path / "photos", {"train": 20, "val": 10})
    return tmp_path / "photos"


def test_ten_classes_of_photos_always_the_same(photos, tmp_path):
    splits = (source := ImageFolder(str(photos))).splits()
    assert len(source.classes) == 10 and {name: len(images) for name, images in splits.items()} == {
        "train": 20,
        "val": 10,
    }
    make_photos(tmp_path / "again", {"train": 20})
    for path in map(Path, splits["train"].paths):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(photos)).read_bytes()


def test_fine_tuning_from_other_peoples_weights_says_that_the_head_is_new(cli, photos):
    theirs = timm.create_model("resnet18")
    save_file(theirs.state_dict(), "resnet18.safetensors")
    assert cli("convert", "resnet18.safetensors", "--out", "resnet18.ckpt")[0] == 0
    recipe = [
        "--config",
        REPOSITORY / "configs/finetune.yaml",
        "--data.source.root",
        photos,
        "--model.net.depth",
        18,
    ]
    flags = [
        *recipe,
        *SMALL,
        "--data.size",
        32,
        "--run.init_from",
        "resnet18.ckpt",
        "--model.optimizer.lr",
        0,
    ]
    code, out, err = cli("fit", *flags, "--model.net.num_classes", 3)
    assert code == 2 and "--model.net.num_classes 10" in err
    code, out, err = cli("fit", *flags)
    assert code == 0 and "net.fc.weight is new: (10, 512), (1000, 512) in resnet18.ckpt" in out, err
    tuned = load(only_run())
    for name, parameter in theirs.named_parameters():
        same = tuned.task.net.get_parameter(name)
        assert name.startswith("fc.") or torch.equal(parameter, same), (
            name
        )  # the learning rate was 0
    code, out, err = cli(
        "predict", photos / "val" / "china1", "--ckpt_path", only_run(), "--format", "json"
    )
    (image,) = json.loads(out)
    assert (
        code == 0
        and {best["class"] for best in image["top"]} < set(tuned.classes)
        and len(tuned.classes) == 10
    )


@pytest.mark.all
@pytest.mark.timeout(1500)  # about 2 minutes of one core, however busy that is
def test_a_net_learns_the_photos_through_the_loader_with_growing_images(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cli("data", "get", "photos")[0] == 0
    code, out, err = cli("fit", "--config", REPOSITORY / "configs/photos.yaml", "--run.threads", 1)
    assert code == 0, err
    rows = [json.loads(line) for line in (only_run() / "metrics.jsonl").read_text().splitlines()]
    (attempt,) = (json.loads(path.read_text()) for path in only_run().glob("attempts/*.json"))
    accuracy = [row["val/acc1"] for row in rows if "val/acc1" in row][-1]
    print(
        f"val/acc1 {accuracy:.3f} after {attempt['seconds']:.0f} s with {os.cpu_count()} cores"
    )  # no bar: cores may be busy
    assert accuracy > 0.9
