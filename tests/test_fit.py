"""Training by the command line writes the run directory, measures the saved net and repeats itself
bit by bit.
"""

import json
import shutil
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers.command_line import REPOSITORY, TINY
from helpers.run_dir import only_run, rows, same_weights, unlabelled, weights

from lightning_resnet.models import CifarResNet
from lightning_resnet.runs.identity import run_id
from lightning_resnet.training.task import ClassificationTask
from lightning_resnet.weights import init_from as starting
from lightning_resnet.weights.init_from import init_from

SHORT = [*TINY, "--trainer.max_epochs", "2"]


def test_fit_writes_the_run_directory(cli):
    code, out, _ = cli("fit", *SHORT)
    assert code == 0
    path = only_run()
    assert path.parent == Path("runs/digits")
    assert {p.name for p in (path / "checkpoints").iterdir()} == {
        "last.ckpt",
        "prev.ckpt",
        "best.ckpt",
    }
    attempt = json.loads((path / "attempts/1.json").read_text())
    assert (attempt["reason"], attempt["last_step"], attempt["error"]) == ("finished", 44, None)
    meta = json.loads((path / "meta.json").read_text())
    assert (meta["run_id"], meta["steps_per_epoch"], meta["val_samples"], meta["threads"]) == (
        path.name,
        22,
        360,
        1,
    )
    train = [r for r in rows(path) if "train/loss" in r]
    val = [r for r in rows(path) if "val/loss" in r]
    assert [r["step"] for r in train] == [11, 22, 33, 44]
    assert [(r["step"], r["epoch"]) for r in val] == [(22, 0), (44, 1)]
    assert set(val[0]) >= {
        f"{s}/{m}" for s in ("val", "train_eval") for m in ("loss", "acc1", "acc5")
    }
    assert set(train[0]) >= {"train/acc1", "lr", "perf/images_per_s", "perf/data_wait_frac"}
    assert [r["lr"] for r in train] == pytest.approx(
        [0.02, 0.02, 2e-3, 2e-4]
    )  # steps 10, 21, 32, 43 of 44
    assert f"{meta['params']:,} parameters" in out
    assert "weight decay 0.0001: 8 tensors" in out and "weight decay 0: 15 tensors" in out


def test_metrics_are_those_of_the_saved_net(cli):
    """train_eval and val, recomputed by hand from the checkpoint: eval mode, all images, no
    augmentation.
    """
    cli("fit", *SHORT, "--data.crop", "pad", "--data.train_eval_samples", 1437)
    path = only_run()
    from lightning_resnet.data.sources.digits import Digits
    from lightning_resnet.models import CifarResNet

    state = weights(path)
    net = CifarResNet(8, width=4)
    net.load_state_dict(
        {k.removeprefix("net."): v for k, v in state.items() if k.startswith("net.")}
    )
    last = rows(path)[-1]
    for name, split in (("val", "val"), ("train_eval", "train")):
        images = Digits().splits()[split]
        x = torch.from_numpy(images.pixels).permute(0, 3, 1, 2).expand(-1, 3, -1, -1) / 255
        x = (x - torch.tensor(Digits.mean).view(3, 1, 1)) / torch.tensor(Digits.std).view(3, 1, 1)
        with torch.no_grad():
            logits, y = net.eval()(x), torch.from_numpy(images.labels)
        assert last[f"{name}/acc1"] == pytest.approx(
            (logits.argmax(1) == y).double().mean().item(), abs=1e-9
        )
        assert last[f"{name}/loss"] == pytest.approx(
            torch.nn.functional.cross_entropy(logits, y).item(), rel=1e-4
        )


def test_config_yaml_alone_reproduces_the_run(cli):
    cli(
        "fit",
        *SHORT,
        "--model.schedule",
        "Cosine",
        "--model.schedule.warmup",
        "0.2",
        "--model.optimizer.lr",
        "0.05",
    )
    path = only_run()
    assert yaml.safe_load((path / "config.yaml").read_text())["run"]["threads"] == 1
    assert "is finished" in cli("fit", "--config", path / "config.yaml")[1]
    shutil.copy(path / "config.yaml", "other.yaml")
    assert cli("fit", "--config", "other.yaml", "--run.root", "again")[0] == 0
    assert same_weights(weights(path), weights(only_run(Path("again"))))


def test_decay_all_smoothing_and_small_batches_reach_the_task(cli):
    code, out, _ = cli(
        "fit",
        *SHORT,
        "--model.decay",
        "all",
        "--data.batch_size",
        8,
        "--model.label_smoothing",
        0.5,
    )
    assert code == 0 and "weight decay 0.0001: 23 tensors" in out and "weight decay 0:" not in out
    assert "warning: batch norm sees 8 images at a time" in out
    smooth = min(r["train/loss"] for r in rows(only_run()) if "train/loss" in r)
    # of ten classes, the target with half of its mass spread: its entropy is the least loss there
    # can be
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
    assert table[0] == ["sample", "label", "predicted", "probability", "picture"]
    assert len(table) == 361
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
    recipe["model"]["net"] = {
        "class_path": "torchvision.models.resnet18",
        "init_args": {"num_classes": 10},
    }
    recipe["model"]["optimizer"] = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3}}
    Path("foreign.yaml").write_text(yaml.safe_dump(recipe))
    assert (
        cli("fit", "--config", "foreign.yaml", *args, "--trainer.limit_train_batches", "2")[0] == 0
    )


def test_holdout_is_tested_once_at_the_end(cli):
    raw = Path("data/FashionMNIST/raw")
    raw.mkdir(parents=True)
    for split, n in (("train", 160), ("t10k", 30)):
        (raw / f"{split}-images-idx3-ubyte").write_bytes(
            bytes(16) + bytes(i % 256 for i in range(n * 784))
        )
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(bytes(8) + bytes(i % 10 for i in range(n)))
    assert (
        cli("fit", *SHORT, "--data.source", "FashionMNIST", "--data.source.holdout", "20")[0] == 0
    )
    tests = [r for r in rows(only_run()) if "test/acc1" in r]
    assert len(tests) == 1 and tests[0]["step"] == 4
    assert json.loads((only_run() / "meta.json").read_text())["val_samples"] == 20


def test_init_from_takes_weights_and_remakes_the_head(cli):
    cli("fit", *SHORT)
    checkpoint = only_run() / "checkpoints/last.ckpt"
    code, out, _ = cli(
        "fit",
        *SHORT,
        "--run.name",
        "fine",
        "--run.init_from",
        checkpoint,
        "--trainer.max_epochs",
        "1",
    )
    assert code == 0 and "is new" not in out and "net.fc.weight is kept\n" in out
    before, after = (
        max(r.get("val/acc1", 0) for r in rows(p))
        for p in (checkpoint.parents[1], *unlabelled(Path("runs/fine").iterdir()))
    )
    assert after > before
    code, out, _ = cli(
        "fit",
        *SHORT,
        "--run.name",
        "head",
        "--run.init_from",
        checkpoint,
        "--model.net.num_classes",
        12,
    )
    assert code == 0 and "net.fc.weight is new: (12, 16), (10, 16) in" in out
    assert "; the head starts from its initial weights" in out


@pytest.mark.parametrize(
    ("known", "ours", "new"),
    [
        ("ant bee", "ant bee", False),
        ("ant bee", "bee ant", True),
        ("ant bee", "cat dog", True),
        (
            "ant bee",
            "n01440764 n01443537",
            False,
        ),  # ImageNet's folders, which are words to torchvision
        ("0 1", "ant bee", False),
        ("", "ant bee", False),
    ],
)
def test_as_many_other_classes_get_a_new_head(capsys, monkeypatch, known, ours, new):
    task, state = ClassificationTask(CifarResNet(8, width=4, num_classes=2)), {}
    state |= {k: t + 1 for k, t in task.state_dict().items()}
    fresh = task.net.fc.weight.detach().clone()
    checkpoint = {"state_dict": state, "run": {"classes": known.split()}}
    monkeypatch.setattr(starting, "read_weights", lambda path: (Path(path), checkpoint))
    init_from(task, "its.ckpt", ours.split())
    assert torch.equal(task.net.fc.weight, fresh + (not new)) and not torch.equal(
        task.net.bn1.weight, torch.ones(4)
    )
    out = capsys.readouterr().out
    assert (
        "net.fc.weight is new: its.ckpt is of other classes" if new else "net.fc.weight is kept"
    ) in out
    assert ("does not name its classes so" in out) == (not new and known != ours)


@pytest.mark.parametrize(
    "origin", ["x", 5, ["a"], {"url": 3}, {"url": "u", "sha256": 5}, {"sha256": "0123"}]
)
def test_an_origin_of_another_form_is_not_recorded(capsys, monkeypatch, origin):
    task = ClassificationTask(CifarResNet(8, width=4, num_classes=2))
    checkpoint = {"state_dict": task.state_dict(), "run": {"origin": origin}}
    monkeypatch.setattr(starting, "read_weights", lambda path: (Path(path), checkpoint))
    assert init_from(task, "its.ckpt", ["ant", "bee"]) == {}
    assert "SHA-256" not in capsys.readouterr().out


def test_run_id_depends_on_what_decides_the_result_only():
    config = yaml.safe_load((REPOSITORY / "configs/digits.yaml").read_text())
    config["data"] |= {
        "source": {"class_path": "ImageFolder", "init_args": {"root": "/a/pets"}},
        "workers": 1,
    }
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
        (
            ("trainer", "callbacks"),
            [{"class_path": "pytorch_lightning.callbacks.EarlyStopping", "init_args": {}}],
        ),
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
        (
            ("trainer", "callbacks"),
            [{"class_path": "lightning_resnet.training.callbacks.GradientNorms"}],
        ),
        (("model", "net", "init_args", "option_of_a_later_release"), None),
    ]:
        assert not changed(path, value), path
    config["data"]["source"] = {
        "class_path": "BetonFiles",
        "init_args": {"train": "/a/t.beton", "val": "/a/v.beton"},
    }
    base = run_id(config)
    assert not changed(("data", "source", "init_args", "train"), "/local/t.beton")
    assert changed(("data", "source", "init_args", "train"), "/a/u.beton")


def test_the_loaders_processes_end_with_the_training(cli):
    before = {*active_children()}
    code, _, err = cli("fit", *SHORT, "--data.loader", "torch", "--data.workers", 2)
    assert code == 0 and not {*active_children()} - before, err
