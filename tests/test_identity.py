"""Run ids never change: those of all recipes, of the reference runs, and of runs that an older
version made.
"""

import json
import shutil
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml
from helpers.command_line import REPOSITORY

import lightning_resnet
from lightning_resnet.analysis import load_runs
from lightning_resnet.config.recipe import parse
from lightning_resnet.errors import UserError
from lightning_resnet.flags import check
from lightning_resnet.runs.checkpoint import load_checkpoint
from lightning_resnet.runs.identity import FIRST_MODULES, public_path, run_id
from lightning_resnet.weights.trained import load

OLD_RUNS = (
    REPOSITORY / "tests/old_runs"
)  # made by commit e102483: finished, stopped at step 57, and the same run undisturbed
OLD = (
    f"fit --config {REPOSITORY}/configs/digits.yaml --model.net.depth 8 --model.net.width 4 "
    "--trainer.max_epochs 6 "
    "--trainer.log_every_n_steps 10 --trainer.callbacks+=GradientNorms --run.name old "
    "--run.threads 1"
).split()
# Recipe and flags -> the id that commit e102483 gave. Six recipes did not name `nesterov` then and
# took the task's default, true, against their sources: their ids are those of the flag. One did not
# name the weights that it begins with.
# imagenette.yaml and cifar10_stochastic_depth.yaml are newer.
GOLDEN = {
    "cifar10.yaml": "4350a9c484",
    "cifar10_fast.yaml": "18250e7978",
    "cifar10_preact.yaml": "20293b576a",
    "cifar10_stochastic_depth.yaml": "457e762896",
    "digits.yaml": "8feeaad7e9",
    "fashion_mnist.yaml": "f32f94fc1a",
    "finetune.yaml": "ada714600f",
    "finetune.yaml --run.init_from null": "b482ded489",
    "imagenet/a3.yaml": "8708a448a5",
    "imagenet/ffcv.yaml": "ed2dd66441",
    "imagenet/paper.yaml": "bf4e09fd87",
    "imagenet/resnet50.yaml": "975b226056",
    "imagenet/torchvision_v2.yaml": "696f714182",
    "imagenette.yaml": "87b0b224ab",
    "photos.yaml": "c8a5b5bdec",
    "digits.yaml --model.net.depth 56 --model.net.shortcut none": "f72a187735",
    "digits.yaml --model.net ImageNetResNet --model.net.depth 18": "9377d17cb0",
    "digits.yaml --model.net torchvision.models.resnet18": "1ee5a7b607",
    "digits.yaml --model.schedule Cosine": "293c1bcc08",
    "digits.yaml --model.schedule Linear": "203effcecc",
    "digits.yaml --model.schedule Plateau --model.schedule.patience 3": "df8405965b",
    "digits.yaml --model.schedule ErrorWarmup": "fcb2e3ff84",
    "digits.yaml --data.policy TrivialAugment": "ce16a5ac58",
    "digits.yaml --data.policy RandAugment": "716b4a6012",
    "digits.yaml --data.policy IncreasingRandAugment": "fc5feed84d",
    "digits.yaml --data.policy Lighting": "4e6648fa02",
    "digits.yaml --data.source Synthetic": "9cc86d1c30",
    "digits.yaml --data.source CIFAR10": "3251778b5b",
    "digits.yaml --data.source CIFAR100": "5bd7b4b66f",
    "digits.yaml --data.source FashionMNIST": "bee88ee635",
    "digits.yaml --data.source ImageFolder --data.source.root /x/y": "f8b0f7381d",
    "digits.yaml --data.source ImageNet --data.source.root /x/y": "6899e7a73d",
    "digits.yaml --data.source ImageNetV2 --data.source.root /x/y": "67ad4431ab",
    "digits.yaml --data.source BetonFiles --data.source.train /a/t.beton --data.source.val "
    "/a/v.beton": "d5be7d4bb4",
    "digits.yaml --model.ema.decay 0.99": "a161547ea2",
    "digits.yaml --trainer.callbacks+=GradientNorms": "8feeaad7e9",
    "digits.yaml --trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor "
    "val/loss": "1b354b02bb",
    "digits.yaml --seed_everything 7 --trainer.max_epochs 3": "cb59969633",
    "cifar10.yaml --model.optimizer.nesterov true": "5717f96c9d",
    "cifar10_preact.yaml --model.optimizer.nesterov true": "2923614620",
    "imagenet/ffcv.yaml --model.optimizer.nesterov true": "e5d87b4814",
    "imagenet/paper.yaml --model.optimizer.nesterov true": "bf45888b3f",
    "imagenet/resnet50.yaml --model.optimizer.nesterov true": "cf2ca1db85",
    "imagenet/torchvision_v2.yaml --model.optimizer.nesterov true": "d4888be190",
}


def id_of(command):
    recipe, *flags = command.split()
    config = parse("fit", ["--config", str(REPOSITORY / "configs" / recipe), *flags])
    return run_id(yaml.safe_load(config.resolved))


@pytest.mark.parametrize("command", GOLDEN)
def test_ids_of_recipes(command):
    assert id_of(command) == GOLDEN[command]


@pytest.mark.parametrize("graph", ["true", "false"])
def test_a_graph_is_no_part_of_an_id(graph):
    recipe = "cifar10.yaml"
    assert id_of(f"{recipe} --model.graph {graph}") == id_of(recipe)


def test_every_recipe_has_a_golden_id():
    recipes = {
        str(path.relative_to(REPOSITORY / "configs"))
        for path in (REPOSITORY / "configs").rglob("*.yaml")
    }
    assert {path for path in recipes if not path.startswith("sweeps/")} <= GOLDEN.keys()


def test_ids_of_the_reference_runs():
    configs = sorted((REPOSITORY / "reference").glob("*/*/config.yaml"))
    assert len(configs) == 34
    for config in configs:
        assert run_id(yaml.safe_load(config.read_text())) == config.parent.name


def test_a_holdout_of_0_is_none_in_the_recipe_of_an_older_run_only(tmp_path):
    recipe = str(REPOSITORY / "configs/digits.yaml")
    for words in (
        ["--data.source.holdout", "0"],
        ["--data.source", "Subset", "--data.source.source.init_args.holdout=0"],
    ):
        with pytest.raises(UserError, match="holdout must be 1 or more; got 0: leave it out"):
            check(["--config", recipe, *words], "fit")
        check(["--config", recipe, *words], "validate")
    text = (REPOSITORY / "configs/digits.yaml").read_text()
    own = text.replace("source: Digits", "source: {class_path: Digits, init_args: {holdout: 0}}")
    assert own != text
    for name, is_refused in (("config.yaml", False), ("mine.yaml", True)):
        (tmp_path / name).write_text(own)
        with pytest.raises(UserError) if is_refused else nullcontext():
            check(["--config", str(tmp_path / name)], "fit")


def test_the_path_of_a_class_is_no_part_of_an_id():
    paths = [
        "lightning_resnet.training.schedules.Cosine",
        "lightning_resnet.Cosine",
        "Cosine",
        "lightning_resnet.elsewhere.Cosine",
    ]
    assert {id_of(f"digits.yaml --model.schedule {path}") for path in paths} == {
        GOLDEN["digits.yaml --model.schedule Cosine"]
    }


def test_public_names():
    """Each is there under its own name, and an old path leads to it."""
    for name, module in lightning_resnet.PUBLIC.items():
        found = getattr(lightning_resnet, name)
        assert (
            found is getattr(import_module(f"lightning_resnet.{module}"), name)
            and found.__name__ == name
        )
        assert public_path(f"lightning_resnet.older.place.{name}") == f"lightning_resnet.{name}"
    assert FIRST_MODULES.keys() <= lightning_resnet.PUBLIC.keys()
    assert lightning_resnet.__version__
    assert public_path("lightning_resnet.optim.Unknown") == "lightning_resnet.optim.Unknown"
    with pytest.raises(AttributeError, match="no attribute 'Unknown'"):
        lightning_resnet.Unknown  # noqa: B018 -- the look-up is what is tested


@pytest.fixture
def old(cli, tmp_path):
    """The command line in a folder with the old runs."""
    for run in ("3eeb037299", "0f98be93ff"):
        shutil.copytree(OLD_RUNS / run, tmp_path / "runs/old" / run)
    return cli


def test_a_finished_old_run_is_found(old):
    code, out, err = old(*OLD, "--seed_everything", 1)
    assert code == 0 and "3eeb037299 is finished; nothing to do" in out + err


def test_an_old_checkpoint_loads(old):
    path = "runs/old/3eeb037299/checkpoints/last.ckpt"
    trained = load(path)
    for name, tensor in load_checkpoint(path)["state_dict"].items():
        assert torch.equal(trained.task.state_dict()[name], tensor)
    code, out, err = old(
        "validate", "--config", "runs/old/3eeb037299/config.yaml", "--run.name", "old"
    )
    assert code == 0, out + err
    assert '"val/acc1": 0.89' in out


def test_an_unfinished_old_run_continues(old):
    """The run goes to its end, and to what the undisturbed run measured, which another
    processor may round in another way.
    """
    code, out, err = old(*OLD, "--seed_everything", 2)
    assert code == 0, out + err
    assert "continued from last.ckpt at step 57" in out
    found = evaluated("runs/old/0f98be93ff")
    expected = evaluated(OLD_RUNS / "complete")
    assert found.keys() == expected.keys()
    for step, accuracy in expected.items():
        assert found[step] == pytest.approx(accuracy, abs=0.02)
    weights = load_checkpoint("runs/old/0f98be93ff/checkpoints/last.ckpt")["state_dict"]
    for name, tensor in load_checkpoint(OLD_RUNS / "complete/last.ckpt")["state_dict"].items():
        assert torch.allclose(weights[name].float(), tensor.float(), rtol=0.05, atol=0.05), name


def evaluated(run):
    """Step -> validation accuracy."""
    rows = [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["val/acc1"] for row in rows if "val/acc1" in row}


def test_old_and_new_runs_compare(old):
    """A new run next to the old ones differs in the seed alone, though its config.yaml names
    classes otherwise.
    """
    code, out, err = old(*OLD, "--seed_everything", 3)
    assert code == 0, out + err
    runs = load_runs("runs/old").runs
    assert len(runs) == 3
    assert set(runs["model.schedule.class_path"]) == {"lightning_resnet.Steps"}
    new = runs.loc[runs["seed"] == 3, "run_id"].item()
    code, out, err = old("compare", "--diff", "runs/old/3eeb037299", f"runs/old/{new}")
    assert code == 0 and "class_path" not in out and "seed_everything: 1 -> 3" in out
