"""The command line trains, records, resumes, repeats itself bit by bit, and tells users what is wrong."""

import json
import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers.command_line import REPOSITORY, TINY
from helpers.run_dir import only_run, rows, same_weights, weights

from lightning_resnet.engine.signals import Stopped
from lightning_resnet.models import CifarResNet
from lightning_resnet.runs.checkpoint import load_checkpoint
from lightning_resnet.runs.identity import run_id
from lightning_resnet.runs.status import status
from lightning_resnet.training.task import ClassificationTask
from lightning_resnet.weights.init_from import init_from

SHORT = [*TINY, "--trainer.max_epochs", "2"]


def test_fit_writes_the_run_directory(cli):
    code, out, _ = cli("fit", *SHORT)
    assert code == 0
    path = only_run()
    assert path.parent == Path("runs/digits")
    assert {p.name for p in (path / "checkpoints").iterdir()} == {"last.ckpt", "prev.ckpt", "best.ckpt"}
    attempt = json.loads((path / "attempts/1.json").read_text())
    assert (attempt["reason"], attempt["last_step"], attempt["error"]) == ("finished", 44, None)
    meta = json.loads((path / "meta.json").read_text())
    assert (meta["run_id"], meta["steps_per_epoch"], meta["val_samples"], meta["threads"]) == (path.name, 22, 360, 1)
    train = [r for r in rows(path) if "train/loss" in r]
    val = [r for r in rows(path) if "val/loss" in r]
    assert [r["step"] for r in train] == [11, 22, 33, 44]
    assert [(r["step"], r["epoch"]) for r in val] == [(22, 0), (44, 1)]
    assert set(val[0]) >= {f"{s}/{m}" for s in ("val", "train_eval") for m in ("loss", "acc1", "acc5")}
    assert set(train[0]) >= {"train/acc1", "lr", "perf/images_per_s", "perf/data_wait_frac"}
    assert [r["lr"] for r in train] == pytest.approx([0.02, 0.02, 2e-3, 2e-4])  # steps 10, 21, 32, 43 of 44
    assert f"{meta['params']:,} parameters" in out
    assert "weight decay 0.0001: 8 tensors" in out and "weight decay 0: 15 tensors" in out


def test_metrics_are_those_of_the_saved_net(cli):
    """train_eval and val, recomputed by hand from the checkpoint: eval mode, all images, no augmentation."""
    cli("fit", *SHORT, "--data.crop", "pad", "--data.train_eval_samples", 1437)
    path = only_run()
    from lightning_resnet.data.sources.digits import Digits
    from lightning_resnet.models import CifarResNet

    state = weights(path)
    net = CifarResNet(8, width=4)
    net.load_state_dict({k.removeprefix("net."): v for k, v in state.items() if k.startswith("net.")})
    last = rows(path)[-1]
    for name, split in (("val", "val"), ("train_eval", "train")):
        images = Digits().splits()[split]
        x = torch.from_numpy(images.pixels).permute(0, 3, 1, 2).expand(-1, 3, -1, -1) / 255
        x = (x - torch.tensor(Digits.mean).view(3, 1, 1)) / torch.tensor(Digits.std).view(3, 1, 1)
        with torch.no_grad():
            logits, y = net.eval()(x), torch.from_numpy(images.labels)
        assert last[f"{name}/acc1"] == pytest.approx((logits.argmax(1) == y).double().mean().item(), abs=1e-9)
        assert last[f"{name}/loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, y).item(), rel=1e-4)


def test_same_command_again_returns_and_replicates_are_bitwise_equal(cli):
    cli("fit", *SHORT)
    path = only_run()
    code, out, _ = cli("fit", *SHORT)
    assert code == 0 and "is finished" in out
    assert len(list(path.glob("attempts/*"))) == 1
    assert cli("fit", "--run.new", *SHORT)[0] == 0
    assert cli("fit", *SHORT, "--seed_everything", "1")[0] == 0
    replicate = path.with_name(path.name + "-2")
    assert same_weights(weights(path), weights(replicate))
    (other,) = set(path.parent.iterdir()) - {path, replicate}
    assert not same_weights(weights(path), weights(other))


def test_a_finished_run_belongs_to_all_points_that_it_was(cli):
    for point in ("0123456789", "12345e6789"):  # an edit of the sweep or the recipe that does not touch the result
        assert cli("fit", *SHORT, "--run.point", point)[0] == 0
    assert json.loads((only_run() / "meta.json").read_text())["point"] == ["0123456789", "12345e6789"]


def test_config_yaml_alone_reproduces_the_run(cli):
    cli("fit", *SHORT, "--model.schedule", "Cosine", "--model.schedule.warmup", "0.2", "--model.optimizer.lr", "0.05")
    path = only_run()
    assert yaml.safe_load((path / "config.yaml").read_text())["run"]["threads"] == 1
    assert "is finished" in cli("fit", "--config", path / "config.yaml")[1]
    shutil.copy(path / "config.yaml", "other.yaml")
    assert cli("fit", "--config", "other.yaml", "--run.root", "again")[0] == 0
    assert same_weights(weights(path), weights(only_run(Path("again"))))


class Stop(Exception):
    pass


@pytest.mark.parametrize("schedule", ["Steps", "Plateau", "ErrorWarmup"])
def test_a_run_that_died_continues_bitwise(cli, monkeypatch, schedule):
    """Killed in the third epoch, its last checkpoint is the second's; what comes after is as if nothing had been."""
    from lightning_resnet.training.task import ClassificationTask

    args = [*TINY, "--trainer.max_epochs", "4", "--data.crop", "pad", "--data.pad", "1", "--model.schedule", schedule]
    if schedule == "Plateau":
        args += ["--model.schedule.patience", "0"]
    cli("fit", *args)
    path = only_run()
    whole = weights(path)
    expected = {(r["step"], k): r[k] for r in rows(path) for k in r if k.split("/")[0] in ("train", "val", "lr")}
    shutil.rmtree("runs")

    original = ClassificationTask.training_step

    def dying(self, batch, batch_idx):
        if self.global_step == 50:
            raise Stop
        return original(self, batch, batch_idx)

    monkeypatch.setattr(ClassificationTask, "training_step", dying)
    with pytest.raises(Stop):
        cli("fit", *args)
    assert json.loads((only_run() / "attempts/1.json").read_text())["reason"] == "failed"
    monkeypatch.setattr(ClassificationTask, "training_step", original)
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5')  # as a kill leaves it
    code, out, _ = cli("fit", *args)
    assert code == 0 and "continued from last.ckpt at step 44" in out
    assert same_weights(whole, weights(path))
    second = [r for r in rows(path) if r["attempt"] == 2]
    assert second[0]["step"] == 55 and second[-1]["step"] == 88
    merged = [r for r in rows(path) if r["attempt"] == 1 and r["step"] < second[0]["step"]] + second
    assert {(r["step"], k): r[k] for r in merged for k in r if k.split("/")[0] in ("train", "val", "lr")} == expected


def test_a_net_that_draws_continues_bitwise(cli, monkeypatch):
    """Dropout draws by seed, epoch and rank."""
    from lightning_resnet.training.task import ClassificationTask

    Path("drop.py").write_text(
        "from torch import nn\n\nclass Drop(nn.Sequential):\n    def __init__(self, p: float = 0.3):\n"
        "        super().__init__(nn.Conv2d(3, 4, 3), nn.Dropout(p), nn.Flatten(), nn.Linear(144, 10))\n"
    )
    recipe = yaml.safe_load((REPOSITORY / "configs/digits.yaml").read_text())
    recipe["model"]["net"] = {"class_path": "drop.Drop"}
    Path("drop.yaml").write_text(yaml.safe_dump(recipe))
    args = ["--config", "drop.yaml", "--run.threads", "1", "--trainer.max_epochs", "3"]
    assert cli("fit", *args)[0] == 0
    whole = weights(only_run())
    shutil.rmtree("runs")
    original = ClassificationTask.training_step

    def dying(self, batch, batch_idx):
        if self.global_step == 50:
            raise Stop
        return original(self, batch, batch_idx)

    monkeypatch.setattr(ClassificationTask, "training_step", dying)
    with pytest.raises(Stop):
        cli("fit", *args)
    monkeypatch.setattr(ClassificationTask, "training_step", original)
    assert cli("fit", *args)[0] == 0
    assert same_weights(whole, weights(only_run()))


def test_decay_all_smoothing_and_small_batches_reach_the_task(cli):
    code, out, _ = cli("fit", *SHORT, "--model.decay", "all", "--data.batch_size", 8, "--model.label_smoothing", 0.5)
    assert code == 0 and "weight decay 0.0001: 23 tensors" in out and "weight decay 0:" not in out
    assert "careful: batch norm sees 8 images at a time" in out
    smooth = min(r["train/loss"] for r in rows(only_run()) if "train/loss" in r)
    # of ten classes, the target with half of its mass spread: its entropy is the least loss there can be
    assert smooth > -(0.55 * np.log(0.55) + 9 * 0.05 * np.log(0.05)) > 1.6


def test_learning_rate_at_every_step(cli, monkeypatch):
    from lightning_resnet.training.task import ClassificationTask

    seen, original = [], ClassificationTask.training_step

    def step(self, batch, batch_idx):
        seen.append(self.optimizers().param_groups[0]["lr"])
        return original(self, batch, batch_idx)

    monkeypatch.setattr(ClassificationTask, "training_step", step)
    cli("fit", *SHORT)
    assert seen == pytest.approx([0.02] * 22 + [2e-3] * 11 + [2e-4] * 11)


def test_a_damaged_last_checkpoint_is_told_and_the_one_before_taken(cli):
    cli("fit", *SHORT)
    path = only_run()
    attempt = json.loads((path / "attempts/1.json").read_text()) | {"reason": "failed"}
    (path / "attempts/1.json").write_text(json.dumps(attempt))
    expected, last = weights(path), path / "checkpoints/last.ckpt"
    damaged = bytearray(last.read_bytes())
    damaged[len(damaged) // 2] ^= 1  # torch.load would not notice
    last.write_bytes(damaged)
    code, out, _ = cli("fit", *SHORT)
    assert code == 0 and "last.ckpt cannot be read" in out and "continued from prev.ckpt" in out
    assert same_weights(expected, weights(path))


def test_best_is_the_highest_val_acc1_even_after_a_kill_right_after_it_was_written(cli, monkeypatch):
    from lightning_resnet.engine import checkpoints

    original = checkpoints.link

    def dying(source, target):
        original(source, target)
        if torch.load(source)["global_step"] == 44:
            raise Stop("cannot give it its name")

    monkeypatch.setattr(checkpoints, "link", dying)
    args = [*TINY, "--trainer.max_epochs", "2"]
    code, out, err = cli("fit", *args)
    assert code == 2 and "careful: cannot save" in out and "the same command continues" in err
    best = only_run() / "checkpoints/best.ckpt"
    assert load_checkpoint(best)["global_step"] == 44
    assert load_checkpoint(only_run() / "checkpoints/last.ckpt")["global_step"] == 22
    monkeypatch.setattr(checkpoints, "link", original)
    assert cli("fit", *args)[0] == 0
    accuracy = {r["step"]: r["val/acc1"] for r in rows(only_run()) if "val/acc1" in r}
    assert load_checkpoint(best)["global_step"] == min(accuracy, key=lambda s: (-accuracy[s], s))


def test_validate_and_predict_use_the_runs_checkpoint(cli):
    cli("fit", *SHORT)
    path = only_run()
    code, out, _ = cli("validate", *SHORT)
    assert code == 0
    printed, last = json.loads(out), rows(path)[-1]
    assert printed["val/acc1"] == last["val/acc1"] and printed["train_eval/loss"] == pytest.approx(
        last["train_eval/loss"]
    )
    code, out, _ = cli("predict", *SHORT)
    table = [line.split(",") for line in out.splitlines()]
    assert table[0] == ["sample", "label", "predicted", "probability"] and len(table) == 361
    assert np.mean([r[1] == r[2] for r in table[1:]]) == pytest.approx(last["val/acc1"])
    assert cli("test", *SHORT, "--ckpt_path", path / "checkpoints/best.ckpt")[0] == 0


def test_users_net_and_foreign_nets_train(cli):
    shutil.copy(REPOSITORY / "tests/helpers/gated.py", "gated.py")
    args = ["--trainer.max_epochs", "1", "--run.threads", "1"]
    recipe = yaml.safe_load((REPOSITORY / "configs/digits.yaml").read_text())
    recipe["model"]["net"] = {"class_path": "gated.GatedNet", "init_args": {"depth": 3}}
    Path("gated.yaml").write_text(yaml.safe_dump(recipe))
    assert cli("fit", "--config", "gated.yaml", *args, "--model.net.depth", "2")[0] == 0
    assert json.loads((only_run() / "meta.json").read_text())["net"] == "GatedNet"
    recipe["model"]["net"] = {"class_path": "torchvision.models.resnet18", "init_args": {"num_classes": 10}}
    recipe["model"]["optimizer"] = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3}}
    Path("foreign.yaml").write_text(yaml.safe_dump(recipe))
    assert cli("fit", "--config", "foreign.yaml", *args, "--trainer.limit_train_batches", "2")[0] == 0


def test_holdout_is_tested_once_at_the_end(cli):
    raw = Path("data/FashionMNIST/raw")
    raw.mkdir(parents=True)
    for split, n in (("train", 160), ("t10k", 30)):
        (raw / f"{split}-images-idx3-ubyte").write_bytes(bytes(16) + bytes(i % 256 for i in range(n * 784)))
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(bytes(8) + bytes(i % 10 for i in range(n)))
    assert cli("fit", *SHORT, "--data.source", "FashionMNIST", "--data.source.holdout", "20")[0] == 0
    tests = [r for r in rows(only_run()) if "test/acc1" in r]
    assert len(tests) == 1 and tests[0]["step"] == 4
    assert json.loads((only_run() / "meta.json").read_text())["val_samples"] == 20


def test_init_from_takes_weights_and_remakes_the_head(cli):
    cli("fit", *SHORT)
    checkpoint = only_run() / "checkpoints/last.ckpt"
    code, out, _ = cli("fit", *SHORT, "--run.name", "fine", "--run.init_from", checkpoint, "--trainer.max_epochs", "1")
    assert code == 0 and "is new" not in out and "net.fc.weight is kept\n" in out
    before, after = (
        max(r.get("val/acc1", 0) for r in rows(p)) for p in (checkpoint.parents[1], *Path("runs/fine").iterdir())
    )
    assert after > before
    code, out, _ = cli(
        "fit", *SHORT, "--run.name", "head", "--run.init_from", checkpoint, "--model.net.num_classes", 12
    )
    assert code == 0 and "net.fc.weight is new: (12, 16), (10, 16) in" in out


@pytest.mark.parametrize(
    ("known", "ours", "new"),
    [
        ("ant bee", "ant bee", False),
        ("ant bee", "bee ant", True),
        ("ant bee", "cat dog", True),
        ("ant bee", "n01440764 n01443537", False),  # ImageNet's folders, which are words to torchvision
        ("0 1", "ant bee", False),
        ("", "ant bee", False),
    ],
)
def test_as_many_other_classes_get_a_new_head(capsys, monkeypatch, known, ours, new):
    task, state = ClassificationTask(CifarResNet(8, width=4, num_classes=2)), {}
    state |= {k: t + 1 for k, t in task.state_dict().items()}
    fresh = task.net.fc.weight.detach().clone()
    checkpoint = {"state_dict": state, "run": {"classes": known.split()}}
    monkeypatch.setattr("lightning_resnet.weights.init_from.load_checkpoint", lambda path: checkpoint)
    init_from(task, "its.ckpt", ours.split())
    assert torch.equal(task.net.fc.weight, fresh + (not new)) and not torch.equal(task.net.bn1.weight, torch.ones(4))
    out = capsys.readouterr().out
    assert ("net.fc.weight is new: its.ckpt is of other classes" if new else "net.fc.weight is kept") in out
    assert ("does not name its classes so" in out) == (not new and known != ours)


def test_run_id_depends_on_what_decides_the_result_only():
    config = yaml.safe_load((REPOSITORY / "configs/digits.yaml").read_text())
    config["data"] |= {"source": {"class_path": "ImageFolder", "init_args": {"root": "/a/pets"}}, "workers": 1}
    base = run_id(config)

    def changed(path, value):
        copy = json.loads(json.dumps(config))
        node = copy
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = value
        return run_id(copy) != base

    for path, value in [
        (("seed_everything",), 1),
        (("model", "net", "init_args", "depth"), 56),
        (("model", "optimizer", "init_args", "lr"), 0.1),
        (("data", "batch_size"), 32),
        (("data", "order"), "pages"),
        (("data", "source", "init_args", "root"), "/a/cars"),
        (("trainer", "max_epochs"), 1),
        (("trainer", "precision"), "bf16-mixed"),
        (("trainer", "callbacks"), [{"class_path": "pytorch_lightning.callbacks.EarlyStopping", "init_args": {}}]),
    ]:
        assert changed(path, value), path
    for path, value in [
        (("data", "workers"), 9),
        (("data", "cache"), "process"),
        (("data", "stage"), "/local"),
        (("data", "source", "init_args", "root"), "/b/pets"),
        (("trainer", "devices"), 8),
        (("trainer", "num_nodes"), 4),
        (("trainer", "accelerator"), "gpu"),
        (("run", "root"), "/scratch"),
        (("run", "threads"), 7),
        (("trainer", "callbacks"), [{"class_path": "lightning_resnet.training.callbacks.GradientNorms"}]),
        (("model", "net", "init_args", "option_of_a_later_release"), None),
    ]:
        assert not changed(path, value), path
    config["data"]["source"] = {"class_path": "BetonFiles", "init_args": {"train": "/a/t.beton", "val": "/a/v.beton"}}
    base = run_id(config)
    assert not changed(("data", "source", "init_args", "train"), "/local/t.beton")
    assert changed(("data", "source", "init_args", "train"), "/a/u.beton")


DIGITS = ["--config", REPOSITORY / "configs/digits.yaml"]
LAZY = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes: int = 10):
        super().__init__()
        self.head = nn.LazyLinear(num_classes)

class Wrong(nn.Module):
    def __init__(self, num_classes: int = 10):
        super().__init__()
        self.head = nn.Linear("3", num_classes)
"""


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([*DIGITS, "--model.net.depth", "21"], "must be 6n+2, got 21; try 20"),
        ([*DIGITS, "--model.net.shortcut", "D"], "--model.net.shortcut must be one of none, A, B, C; got D"),
        ([*DIGITS, "--run.keep", "some"], "--run.keep must be one of all, weights, none; got some"),
        (["recipe.yaml"], "unknown option recipe.yaml: put --config before a recipe"),
        (["--config", "tipo.yml"], "cannot read recipe tipo.yml: No such file or directory; did you mean typo.yaml?"),
        ([*DIGITS, "--model.net", "lazy.Net"], "Net.head.weight is of a lazy layer: give that layer its number of"),
        ([*DIGITS, "--model.net", "lazy.Nope"], "model.net: lazy has no Nope"),
        ([*DIGITS, "--data.batch_size", "5000"], "exceeds the 1437 training images: lower --data.batch_size to 1437"),
        ([*DIGITS, "--model.net", "lazy.Wrong"], "lazy.Wrong, or what it is trained with: empty()"),
        ([*DIGITS, "--model.net.dpth", "56"], "unknown option dpth of CifarResNet; did you mean depth?"),
        (
            [*DIGITS, "--model.optimizer", "absent.optim.Lamb"],
            "model.optimizer: no module named absent: pip install absent",
        ),
        ([*DIGITS, "--model.net", "absent.Net"], "model.net: no module named absent: pip install absent"),
        ([*DIGITS, "--model.bce_threshold", "0.2"], "--model.bce_threshold null"),
        ([*DIGITS, "--model.label_smoothing", "1.5"], "--model.label_smoothing must be a number from 0 to 1; got 1.5"),
        ([*DIGITS, "--model.precise_bn", "-1"], "--model.precise_bn must be a whole number from 0"),
        ([*DIGITS, "--model.schedule.at", "[30, 60]"], "divide epochs by --trainer.max_epochs"),
        ([*DIGITS, "--model.optimzer.lr", "1"], "unknown option model.optimzer.lr; did you mean model.optimizer"),
        ([*DIGITS, "--data.btch_size", "8"], "unknown option data.btch_size; did you mean data.batch_size?"),
        ([*DIGITS, "--trainer.max_epoch", "8"], "did you mean trainer.max_epochs?"),
        (
            [*DIGITS, "--trainer.accumulate_grad_batches", "3"],
            "batch_size 64 (images per optimizer step) is not divisible",
        ),
        ([*DIGITS, "--model.net.num_classes", "9"], "add --model.net.num_classes 10"),
        (
            [*DIGITS, "--model.net", "torchvision.models.vgg11", "--data.size", "16"],
            "VGG cannot take images of (3, 16, 16)",
        ),
        ([*DIGITS, "--data.source", "ImageFolder", "--data.source.root", "nowhere"], "nowhere does not exist"),
        ([*DIGITS, "--data.source", "ImageFolder", "--data.source.root", "."], "no pictures in"),
        ([*DIGITS, "--data.source", "CIFAR10"], "`resnet-cli data get cifar10"),
        ([*DIGITS, "--run.init_from", "no.ckpt"], "cannot read --run.init_from no.ckpt"),
        ([*DIGITS, "--run.root", "/proc/1/nowhere"], "set --run.root to a folder you can write"),
        (["--config", "list.yaml"], "recipe list.yaml is not a mapping (lines `key: value`) but a list"),
        (["--config", "torn.yaml"], "torn.yaml: this is not YAML"),
        (["--config", "typo.yaml"], "unknown option modle.net; did you mean model"),
        ([*DIGITS, "--config", "flat.json"], "write model.net.class_path and model.net.init_args.depth"),
        (["--config", "absent.yaml"], "cannot read recipe absent.yaml"),
        (
            [*DIGITS, "--data.batch_size", "0"],
            "--data.batch_size must be a whole number from 1 to 1,000,000,000; got 0",
        ),
        ([*DIGITS, "--model.net.width", "-1"], "error:"),
        (
            [*DIGITS, "--model.precise_bn", "-1"],
            "--model.precise_bn must be a whole number from 0 to 1,000,000; got -1",
        ),
        ([*DIGITS, "--model.optimizer.lr", "-1"], "--model.optimizer.lr must be a number from 0"),
        ([*DIGITS, "--trainer.accelerator", "gpu"], "error:"),
        ([*DIGITS, "--run.threads", "-1"], "--run.threads must be a whole number from 1 to 4,096 or null; got -1"),
        ([*DIGITS, "--seed_everything", "-1"], "--seed_everything must be a whole number from 0"),
        ([], "give a recipe, such as --config configs/digits.yaml"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(cli, args, message):
    Path("list.yaml").write_text("- a\n")
    Path("flat.json").write_text('{"model.net": "gated.GatedNet", "model.net.depth": 8}')
    Path("torn.yaml").write_text("a: [1\nb: }")
    Path("typo.yaml").write_text("modle: {net: 3}")
    Path("lazy.py").write_text(LAZY)
    code, _, err = cli("fit", *args)
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1, err
    assert message in err
    assert not Path("runs").exists() or not list(Path("runs").rglob("attempts/*"))


def test_unknown_verb_names_the_nearest(cli):
    assert "unknown verb fti; did you mean fit?" in cli("fti")[2]


def test_a_checkpoint_of_another_net_names_the_first_tensor(cli):
    cli("fit", *SHORT)
    checkpoint = only_run() / "checkpoints/last.ckpt"
    code, _, err = cli("validate", *SHORT, "--model.net.width", 8, "--ckpt_path", checkpoint)
    assert (
        code == 2 and "net.conv1.weight is (4, 3, 3, 3) there and (8, 3, 3, 3) here; give --model.net.width 4\n" in err
    )
    code, _, err = cli("fit", *SHORT, "--model.net.depth", 14, "--run.init_from", checkpoint)
    assert code == 2 and "net.layer1.1.conv1.weight is absent there" in err and "give --model.net.depth 8\n" in err
    code, _, err = cli("validate", *SHORT, "--model.net.depth", 14)
    assert code == 2 and "there is no run runs/" in err and "give the flags of the fit that you mean" in err


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_damaged_checkpoints_are_refused(cli, content, tmp_path):
    if content is None:
        torch.save({"state_dict": {}, "code": Path("x")}, "bad.ckpt")  # a pickle of more than tensors
    else:
        Path("bad.ckpt").write_bytes(content)
    code, _, err = cli("validate", *SHORT, "--ckpt_path", "bad.ckpt")
    assert code == 2 and "bad.ckpt cannot be read" in err and err.count("\n") == 1


def test_divergence_stops_with_step_and_rate_and_keeps_the_last_good_checkpoint(cli, monkeypatch):
    from lightning_resnet.models import CifarResNet

    original, calls = CifarResNet.forward, []

    def forward(self, x):
        calls.append(self.training)
        return original(self, x) * (float("nan") if sum(calls) == 31 else 1)  # the first is before the training

    monkeypatch.setattr(CifarResNet, "forward", forward)
    code, _, err = cli("fit", *SHORT)
    assert code == 2 and "loss is not finite from step 30 on (learning rate 0.002)" in err and err.count("\n") == 1
    path = only_run()
    assert json.loads((path / "attempts/1.json").read_text())["reason"] == "diverged"
    assert load_checkpoint(path / "checkpoints/last.ckpt")["global_step"] == 22
    assert all(torch.isfinite(t).all() for t in weights(path).values())


def test_a_run_directory_whose_config_differs_shows_the_keys(cli):
    cli("fit", *SHORT)
    path = only_run()
    attempt = json.loads((path / "attempts/1.json").read_text()) | {"reason": "failed"}
    (path / "attempts/1.json").write_text(json.dumps(attempt))
    text = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(text.replace("lr: 0.02", "lr: 0.5"))
    code, _, err = cli("fit", *SHORT)
    assert code == 2 and "model.optimizer.init_args.lr: 0.5 -> 0.02" in err and err.count("\n") == 1


def test_a_live_run_is_refused_naming_its_owner(cli):
    cli("fit", *SHORT)
    path = only_run()
    attempt = json.loads((path / "attempts/1.json").read_text()) | {"reason": "running", "host": "node7"}
    (path / "attempts/1.json").write_text(json.dumps(attempt))
    code, _, err = cli("fit", *SHORT)
    assert code == 2 and "attempt 1 on node7" in err
    (path / "attempts/2.json").touch()  # another start, an instant ago
    code, _, err = cli("fit", *SHORT)
    assert code == 2 and "attempt 2 on ?" in err
    (path / "attempts/2.json").unlink()
    assert status(path) == "running"
    (path / "attempts/1.json").write_text(json.dumps(attempt | {"process": attempt["process"] | {"start": "1"}}))
    assert status(path) == "dead"  # its pid is another process by now
    attempt["heartbeat"] -= 1000  # on another machine, killed long ago
    attempt["process"]["where"] = "elsewhere"
    (path / "attempts/1.json").write_text(json.dumps(attempt))
    assert cli("fit", *SHORT)[0] == 0


def test_the_loaders_processes_end_with_the_training(cli):
    before = {*active_children()}
    code, _, err = cli("fit", *SHORT, "--data.loader", "torch", "--data.workers", 2)
    assert code == 0 and not {*active_children()} - before, err


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB, where we may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"cannot mount a small file system: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_told_and_the_last_good_checkpoint_is_kept(cli, small_disk, monkeypatch):
    from lightning_resnet.engine.recorder import Recorder

    args = [*TINY, "--trainer.max_epochs", "4", "--run.root", small_disk]
    ballast, original = small_disk / "ballast", Recorder.on_train_epoch_end

    def fill(self, trainer, *rest):
        """In the second epoch the disk fills up; the next attempt finds room before its last save."""
        original(self, trainer, *rest)
        if trainer.current_epoch == 1:
            checkpoints._wait()
            with suppress(OSError), ballast.open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
        elif trainer.current_epoch == 3 and mended:
            ballast.unlink()

    def init(self, *rest):
        nonlocal checkpoints
        checkpoints = self
        begin(self, *rest)

    from lightning_resnet.engine.checkpoints import Checkpoints

    checkpoints, begin = None, Checkpoints.__init__
    monkeypatch.setattr(Checkpoints, "__init__", init)
    monkeypatch.setattr(Recorder, "on_train_epoch_end", fill)
    mended = False
    code, out, err = cli("fit", *args)
    assert code == 2 and "No space left on device; training goes on" in out
    assert "enforce fail" not in out + err
    assert "last good checkpoint: the same command continues" in err and err.count("\n") == 1
    (path,) = small_disk.glob("digits/*")
    assert load_checkpoint(path / "checkpoints/last.ckpt")["global_step"] == 22
    assert not list((path / "checkpoints").glob("*.tmp"))
    ballast.unlink()
    ended = json.loads((path / "attempts/1.json").read_text())  # written over what was there: it took no more room
    assert ended["reason"] == "failed" and "No space left on device" in ended["error"]
    mended = True
    code, out, err = cli("fit", *args)
    assert code == 0 and "continued from last.ckpt" in out, err
    assert load_checkpoint(path / "checkpoints/last.ckpt")["global_step"] == 88
    monkeypatch.setattr(Recorder, "on_train_epoch_end", original)
    assert cli("fit", *args[:-1], "undisturbed")[0] == 0
    assert same_weights(weights(path), weights(only_run(Path("undisturbed"))))


def test_a_torn_config_does_not_end_a_run(cli):
    """As a kill, or a full disk, at start-up could have left it in a version that did not rename."""
    cli("fit", *SHORT)
    path = only_run()
    attempt = json.loads((path / "attempts/1.json").read_text()) | {"reason": "failed"}
    (path / "attempts/1.json").write_text(json.dumps(attempt))
    (path / "config.yaml").write_text("")
    assert cli("fit", *SHORT)[0] == 0
    assert yaml.safe_load((path / "config.yaml").read_text())["trainer"]["max_epochs"] == 2


def test_the_last_evaluation_is_made_up_for(cli, monkeypatch):
    """A run of --max_steps that was stopped after its last step still owes its evaluation."""
    from lightning_resnet.engine.signals import request
    from lightning_resnet.training.task import ClassificationTask

    args = [*TINY, "--trainer.max_epochs", "-1", "--trainer.max_steps", "3"]
    original = ClassificationTask.validation_step

    def stopped(self, *rest):
        request.signum = 15
        return original(self, *rest)

    monkeypatch.setattr(ClassificationTask, "validation_step", stopped)
    assert cli("fit", *args)[0] == 143
    assert not [r for r in rows(only_run()) if "val/acc1" in r]
    monkeypatch.setattr(ClassificationTask, "validation_step", original)
    assert cli("fit", *args)[0] == 0
    assert [r["step"] for r in rows(only_run()) if "val/acc1" in r] == [3]
    assert (only_run() / "checkpoints/best.ckpt").exists()


def test_a_signal_whose_exception_is_swallowed_stops_the_training_all_the_same(cli, monkeypatch):
    """Before the loop a signal is an exception, which C code may drop."""
    from lightning_resnet.training.task import ClassificationTask

    original = ClassificationTask.setup

    def dropped(self, stage):
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        original(self, stage)

    monkeypatch.setattr(ClassificationTask, "setup", dropped)
    assert cli("fit", *SHORT)[0] == 143
    assert json.loads((only_run() / "attempts/1.json").read_text())["reason"] == "preempted"
    assert not (only_run() / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("--trainer.num_sanity_val_steps 2", "validation is by epoch"),
        ("--trainer.limit_train_batches 0", "no optimizer step is left"),
        ("--trainer.max_epochs 0 --trainer.max_steps 3", "max_epochs must be 1 or more"),
        ("--trainer.max_time 00:01:00:00", "let SIGUSR1 end the job in time"),
        ("--trainer.strategy fsdp", "ranks exchange gradients by ddp"),
        ("--run.must_resume", "no checkpoint to continue from"),
    ],
)
def test_what_the_loop_does_not_do_is_refused(cli, args, message):
    code, _, err = cli("fit", *TINY, *args.split())
    assert code == 2 and message in err and err.count("\n") == 1
