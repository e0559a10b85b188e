"""A net, labels or a machine that a training cannot use: one line before the run directory exists,
no traceback.
"""

import json
import os
import re
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from helpers.command_line import REPOSITORY, TINY
from helpers.typed import ANSWER_ALL, TYPED, UNDERSTOOD, write_files
from helpers.typed import DIGITS as DIGITS_LINE

from lightning_resnet import machine
from lightning_resnet.aliases import understood
from lightning_resnet.cli.compare import make_parser as make_compare_parser
from lightning_resnet.cli.data import make_parser as make_data_parser
from lightning_resnet.config.options import check_gpus
from lightning_resnet.config.recipe import parse
from lightning_resnet.engine import launch
from lightning_resnet.errors import UserError, nearest
from lightning_resnet.meant import missing_class

DIGITS = f"--config {REPOSITORY}/configs/digits.yaml --run.threads 1 --trainer.max_epochs 1".split()
MINE = """
import numpy as np
from dataclasses import replace
from torch import nn

from lightning_resnet.data.sources.digits import Digits


class Net(nn.Module):
    def __init__(self, num_classes: int = 10):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, num_classes)

    def forward(self, images):
        return self.fc(self.conv(images).mean((2, 3)))


class Auxiliary(Net):
    def forward(self, images):
        scores = super().forward(images)
        return (scores, scores) if self.training else scores


class Named(Net):
    def forward(self, images):
        return {"out": super().forward(images)}


class Dense(Net):
    def forward(self, images):
        return self.conv(images)


class Flat(Net):
    def forward(self, images):
        return super().forward(images)[:, 0]


class Viewed(Net):
    def forward(self, images):
        return self.conv(images).view(len(images), -1)


class Broken(Net):
    def forward(self, images):
        return self.nothing


class Empty(nn.Module):
    def forward(self, images):
        return images.mean((2, 3))


class Normed(Net):
    def __init__(self, num_classes: int = 10):
        super().__init__(num_classes)
        self.pool, self.norm = nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4)

    def forward(self, images):
        return self.fc(self.norm(self.pool(self.conv(images))).flatten(1))


def changed(how):
    class Changed(Digits):
        def splits(self):
            splits = super().splits()
            return {k: replace(v, labels=how(v.labels)) for k, v in splits.items()}

    return Changed


class Regression(changed(lambda labels: labels / 10)):
    pass


class MultiLabel(changed(lambda labels: np.eye(10, dtype=int)[labels])):
    pass


class Words(changed(lambda labels: labels.astype(str))):
    pass


class Short(changed(lambda labels: labels[:-1])):
    pass
"""
NETS = {
    "Auxiliary": "Auxiliary gives a tuple in training, not one tensor of class scores",
    "Named": "Named gives a dict in training, not one tensor",
    "Dense": "Dense gives outputs of shape (1, 4, 8, 8) for 1 image",
    "Flat": "Flat gives outputs of shape (1,) for 1 image",
    "Viewed": "use flatten(1)",
    "Broken": "Broken fails on images of (3, 8, 8) (AttributeError:",
    "Empty": "empty parameter list",
    "Normed --data.batch_size 1": "batch norm sees 1 image at a time, of 1x1 in Normed",
    "Normed --data.batch_size 2 --trainer.accumulate_grad_batches 2": "larger --data.batch_size",
}
LABELS = {
    "Regression": "must be whole numbers, one per sample (the loss is over classes); found "
    "float64 of shape (1437,)",
    "MultiLabel": "found int64 of shape (1437, 10) for 1437 samples",
    "Words": "found <U",
    "Short": "found int64 of shape (1436,) for 1437 samples",
}


@pytest.fixture
def fit(cli):
    """`fit` in a folder with mine.py, which must be refused."""
    Path("mine.py").write_text(MINE)

    def refused(*flags):
        code, _, err = cli("fit", *DIGITS, *flags)
        assert code == 2 and err.startswith("error: ") and err.count("\n") == 1, err
        assert not Path("runs").exists()
        return err

    return refused


@pytest.mark.parametrize(("flags", "line"), NETS.items(), ids=NETS)
def test_a_net_that_cannot_be_trained(fit, flags, line):
    assert line in fit("--model.net", *f"mine.{flags}".split())


@pytest.mark.parametrize(("source", "line"), LABELS.items(), ids=LABELS)
def test_labels_that_are_no_classes(fit, source, line):
    assert line in fit("--model.net.depth", 8, "--data.source", f"mine.{source}")


def test_auxiliary_heads_of_torchvision_have_a_switch(fit):
    net = (
        "torchvision.models.googlenet --model.net.num_classes 10 --model.net.init_weights "
        "false --data.size 32"
    )
    assert "GoogLeNet gives a GoogLeNetOutputs in training" in (
        err := fit("--model.net", *net.split())
    )
    assert "use --model.net.aux_logits false\n" in err


def test_a_name_that_two_packages_have_is_told_with_both(fit):
    import timm.optim  # noqa: F401 -- whose Adafactor it finds besides torch's

    err = fit("--model.optimizer", "Adafactor")
    assert "several classes are named Adafactor: give one of torch.optim.Adafactor, timm" in err


def test_a_net_that_normalises_several_values_trains(cli):
    Path("mine.py").write_text(MINE)
    code, _, err = cli(
        "fit", *DIGITS, "--model.net", "mine.Normed", "--trainer.limit_train_batches", 2
    )
    assert code == 0, err


@pytest.fixture
def no_compiler():
    """Hide the compiler: CXX names nothing."""
    from torch._inductor import config, cpp_builder

    forget = getattr(cpp_builder.cpp_compiler_search, "cache_clear", int)
    forget()
    with config.patch({"cpp.cxx": ("/nonexistent/g++",)}):
        yield
    forget()


def test_compiling_without_a_compiler(fit, no_compiler):
    assert "--model.compile needs a C++ compiler" in fit(
        "--model.net.depth", 8, "--model.compile", "true"
    )


def test_doctor_names_the_compiler_that_is_missing(cli, no_compiler):
    code, out, _ = cli("doctor", *DIGITS, "--model.net.depth", 8, "--model.compile", "true")
    assert code == 1 and "FAILS" in out and "--model.compile needs a C++ compiler" in out


def test_a_tilde_that_no_shell_has_expanded_makes_no_folder(fit):
    assert "after =: write --run.root ~/x" in fit("--run.root=~/x")
    Path("home.yaml").write_text("run: {root: ~/x}")
    assert "only a shell makes a home folder of ~" in fit("--config", "home.yaml")
    assert not Path("~").exists()
    assert "only a shell fills in a variable" in fit("--run.root", "$SCRATCH/runs")
    assert not Path("$SCRATCH").exists()


@pytest.mark.parametrize("flag", ["--run.init_from", "--data.stage"])
def test_a_variable_of_the_shell_that_is_not_set_is_no_wish(fit, flag):
    assert f"{flag} is empty" in fit("--model.net.depth", 8, flag, "")


def test_a_negative_limit_of_gradients_is_refused(fit):
    assert "--trainer.gradient_clip_val must be a number from 0 or null; got -1" in fit(
        "--trainer.gradient_clip_val=-1"
    )


SEEDS = [
    "true",
    "false",
    "yes",
    "'true'",
    "1.5",
    "3.0",
    "1e3",
    "'x'",
    "[1]",
    "{a: 1}",
    "-1",
    "4294967296",
    ".nan",
]


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_no_seed(fit, monkeypatch, seed):
    """None of it stands for 0, or for PL_GLOBAL_SEED."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    Path("seed.yaml").write_text(f"seed_everything: {seed}\n")
    assert "--seed_everything" in fit("--model.net.depth", 8, "--config", "seed.yaml")


@pytest.mark.parametrize(
    ("accelerator", "devices", "files", "build", "told"),
    [
        ("gpu", 4, (), "2.13.0", "this machine has no GPU"),
        ("cuda", 1, (), "2.13.0", "this machine has no GPU"),
        ("gpu", 4, (os.devnull,), "2.13.0+cpu", "is PyTorch's CPU build"),
        ("gpu", 1, (os.devnull,), "2.13.0", "sees no GPU"),
        ("tpu", 8, (), "2.13.0", "torch_xla is not installed"),
        ("mps", 1, (), "2.13.0", "MPS is on Macs only"),
    ],
)
def test_an_accelerator_that_is_not_here(
    cli, monkeypatch, accelerator, devices, files, build, told
):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(machine, "GPU_FILES", files)
    monkeypatch.setattr(machine, "version", lambda name: build)
    monkeypatch.setattr(launch, "supervise", lambda *args: pytest.fail("started ranks"))
    flags = ["--trainer.accelerator", accelerator, "--trainer.devices", devices]
    code, _, err = cli("fit", *TINY, *flags)
    assert code == 2 and len(err.splitlines()) == 1 and not Path("runs").exists()
    assert err.startswith(f"error: --trainer.accelerator {accelerator}: ") and told in err
    assert "--trainer.accelerator cpu" in err


def test_more_gpus_than_are_here(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    asked = Namespace(accelerator="gpu", devices=8)
    with pytest.raises(UserError, match="has 2: --trainer.devices 2, with .*batches 4 for"):
        check_gpus(asked, are_all_here=True)
    check_gpus(asked, are_all_here=False)  # a task of srun may see its own GPU alone


@pytest.mark.parametrize("accelerator", ["auto", "cpu"])
@pytest.mark.parametrize("devices", ["[0]", "[1]", "[0,2]", "0,", "0,2", "-1"])
def test_which_gpus_to_use_where_there_are_none(fit, devices, accelerator):
    flags = ["--model.net.depth", 8, "--trainer.accelerator", accelerator]
    err = fit(*flags, f"--trainer.devices={devices}")
    assert f"--trainer.devices {devices} tells which GPUs to use, and this training runs on" in err


@pytest.mark.parametrize("devices", ["[0,0]", "0,0", "[1, 2, 1]", "0,1,00"])
def test_a_gpu_that_is_named_twice(fit, devices):
    assert "names a GPU twice" in fit("--model.net.depth", 8, f"--trainer.devices={devices}")


LEAST = {  # flags of the other verbs that take a number, and the least
    "data write digits --out d.beton FLAG": {
        "--workers": 1,
        "--short-side": 1,
        "--max-side": 1,
        "--quality": 1,
    },
    "sweep s.yaml FLAG": {"-j": 1, "--throttle": 1, "--pack": 1, "--chain": 1},
    "predict x.png --ckpt_path x.ckpt FLAG": {"--top": 1},
    "inspect gradients x.ckpt FLAG": {"--batches": 1, "--draws": 1},
    "deepen x.ckpt --depth 20 --out d.ckpt FLAG": {"--depth": 1, "--batches": 1},
    "convert x.ckpt --out x.onnx FLAG": {"--size": 1},
    "requeue --status 1 FLAG fit": {"--status": 0, "--limit": 0},
    "sync runs FLAG": {"--every": 1},
    "evaluate x.ckpt FLAG": {"--sizes": 1},
}


@pytest.mark.parametrize("words", LEAST)
def test_numbers_that_count_nothing(cli, words):
    for flag, least in LEAST[words].items():
        for value in ("-1", "nan", "inf", "1e400", "\u00b2", str(least - 1)):
            code, _, err = cli(*words.replace("FLAG", f"{flag} {value}").split())
            assert (
                code == 2 and err.startswith("error: ") and err.count("\n") == 1 and flag in err
            ), (flag, value, err)
    assert not [*Path().iterdir()]


def test_constants_that_are_no_numbers(cli):
    for flag in ("--mean", "--std"):
        for value in ("nan", "inf"):
            code, _, err = cli("convert", "x.pth", "--out", "x.ckpt", flag, value, "0.5", "0.5")
            assert code == 2 and f"{flag} must be a finite number; got {value}" in err


def test_an_option_that_is_there_nested_and_dotted(fit):
    Path("twice.yaml").write_text("data.batch_size: 32\ndata: {batch_size: 64}\n")
    assert "twice.yaml gives data.batch_size twice" in fit("--config", "twice.yaml")


def test_typed_mistakes_are_answered_in_one_line_before_slow_imports(here):
    """Also before anything is written, but for the index of runs in the user's cache."""
    command = [sys.executable, "-c", ANSWER_ALL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    answers = json.loads(done.stdout)
    assert answers.keys() == TYPED.keys() and len(answers) > 200
    wrong = {}
    for line, needle in TYPED.items():
        status, told, slow = answers[line]
        last = told.splitlines()[-1]
        lines = [text for text in told.splitlines() if not text.startswith("  ")]  # no listing
        is_one_line = told.count("error: ") == 1 and len(lines) <= 2
        is_repeated = re.search(r"got (\S+); did you mean \1\?", last)  # the value that is refused
        if status != 2 or needle not in last or slow or not is_one_line or is_repeated:
            wrong[line] = answers[line]
    assert not wrong
    Path("fresh").mkdir()
    write_files(Path("fresh"))
    assert {*os.listdir()} - {"cache"} == {*os.listdir("fresh"), "fresh"}
    assert {*os.listdir("runs/digits")} == {*os.listdir("fresh/runs/digits")}


def test_only_what_a_module_cannot_have_is_missing(here):
    Path("own.py").write_text(
        "from torch import nn\n\ndef make(): ...\n\nclass Net(nn.Module): ...\n\nAlias = Net\n"
    )
    Path("open.py").write_text("from own import *\n")
    Path("pairs.py").write_text("import own\n\nA, B = own.Net, own.Net\n")
    there = "own.make own.Net own.Alias own.nn open.Any pairs.B os.path.Any __main__.Any "
    there += (
        "torchvision.models.resnet18 torchvision.models.ResNet torch.optim.SGD timm.models.ResNet"
    )
    assert [name for name in there.split() if missing_class(name)] == []
    assert missing_class("own.Nett") == "own has no Nett; did you mean Net?"
    assert missing_class("own.xyz") == "own has no xyz; there are Net, Alias"
    assert missing_class("own.py") == "a class in own.py is given as own.Net or own.Alias"
    assert missing_class("./own.py:Net") == "a class in own.py is given as own.Net"


@pytest.mark.parametrize("line", UNDERSTOOD)
def test_short_names_are_flags(tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path)
    config = parse("fit", [*DIGITS_LINE.split()[1:], *line.split()])
    for key, value in UNDERSTOOD[line].items():
        assert config.values.get(key) == value, key


def test_a_short_name_is_told_once_with_its_key(cli):
    code, _, err = cli(*DIGITS_LINE.split(), "--lr", "0.1", "--depth", "21", "--lr", "0.2")
    assert code == 2
    assert err.startswith(
        "--lr is --model.optimizer.lr; --depth is --model.net.depth\n"
        "note: --model.optimizer.lr is given twice; 0.2 counts\nerror: "
    ), err


TWICE = {  # flags -> what is told of those with two values
    "--epochs 3 --trainer.max_epochs 5": "--trainer.max_epochs is given twice; 5 counts",
    "--lr 1 --seed 1 --seed 2 --lr 3": "--seed_everything is given twice; 2 counts; "
    "--model.optimizer.lr is given twice; 3 counts",
    "--depth 56 --arch resnet20": "--model.net.depth is given twice; 20 counts",
    "--arch resnet20 --arch resnet56": "--arch is given twice; resnet56 counts",
    "--arch resnet20 --depth 56 --epochs 3 --epochs 3 --config digits": "",
    "--trainer.callbacks+=Curvature --trainer.callbacks.every 2 --trainer.callbacks+=Curvature "
    "--trainer.callbacks.every 3": "",
}


@pytest.mark.parametrize("flags", TWICE)
def test_a_key_that_is_given_twice_is_told_with_the_value_that_counts(capsys, monkeypatch, flags):
    understood(flags.split())
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert notes == ([f"note: {TWICE[flags]}"] if TWICE[flags] else [])
    monkeypatch.setenv("LOCAL_RANK", "1")
    understood(flags.split())
    assert capsys.readouterr().err == ""


def test_flags_of_the_other_verbs_that_are_given_twice(capsys):
    write = make_data_parser().read("write digits --out a.beton --workers 1 --out b.beton".split())
    assert write.out == "b.beton"
    assert capsys.readouterr().err == "note: --out is given twice; b.beton counts\n"

    lists = make_compare_parser().read("x --rows depth --rows lr --metric a b --metric c".split())
    assert (lists.rows, lists.metric, lists.over) == (["depth", "lr"], ["a", "b", "c"], ["seed"])
    assert capsys.readouterr().err == ""


def test_a_flag_that_is_given_again_for_more_is_not_told(cli):
    words = "convert none.ckpt --drop-block layer2.1 --drop-block layer3.1 --out a.ckpt"
    code, out, err = cli(*words.split())
    assert code == 2 and "given twice" not in out + err and "none.ckpt" in err


def test_a_baseline_is_no_second_condition(cli):
    words = ["compare", "runs", "--where", "depth == 56", "--baseline", "shortcut == none"]
    code, _, err = cli(*words)
    assert code == 2 and "all conditions are one text" not in err, err


def test_unknown_keys_of_a_recipe_are_told_all_at_once(cli):
    Path("short.yaml").write_text("epochs: 3\nlr: 0.2\nmodel: {net: {depth: 8}}\n")
    code, _, err = cli(*DIGITS_LINE.split(), "--config", "short.yaml")
    assert code == 2 and err == (
        "error: unknown option epochs; did you mean trainer.max_epochs? (short.yaml, line 1); "
        "unknown option lr; did you mean model.optimizer.lr? (short.yaml, line 2)\n"
    )


CUT_SHORT = {  # command line -> what stderr begins with
    "evaluate x --size 32": "--size is --data.size\n",
    "evaluate x --crop centre": "error: unknown option --crop; did you mean --crops?",
    "evaluate x --per": "error: unknown option --per; did you mean --per-class?",
    "compare x --metri=val": "error: unknown option --metri; did you mean --metric?",
    "runs --js": "error: unknown option --js; did you mean --json?",
    "data write image_folder --short 3": "error: unknown option --short; did you mean --short-",
}


@pytest.mark.parametrize("line", CUT_SHORT)
def test_no_flag_may_be_cut_short(cli, line):
    code, _, err = cli(*line.split())
    assert code == 2 and err.startswith(CUT_SHORT[line]), err


def test_short_names_and_cases_give_the_same_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("low.yaml").write_text("model: {schedule: cosine, net: {class_path: cifarresnet}}")
    Path("true.yaml").write_text("model: {schedule: Cosine, net: {class_path: CifarResNet}}")
    short = ["--epochs", "3", "--optimizer", "adam", "--depth", "8"]
    full = ["--trainer.max_epochs", "3", "--model.optimizer", "Adam", "--model.net.depth", "8"]
    name = ["--run.name", "x"]
    digits = DIGITS_LINE.split()[1:]
    given = parse("fit", [*digits, "--config", "low.yaml", *short, *name]).resolved
    assert given == parse("fit", [*digits, "--config", "true.yaml", *full, *name]).resolved


def test_suggestions_are_neither_help_nor_opposites_nor_weak():
    keys = ["trainer.min_epochs", "model.optimizer.help", "model.net", "launcher"]
    for word in ("max_epochs", "trainer.max_epochs", "optimizer.lr", "arch", "momentum"):
        assert nearest(word, keys) == ""
    assert nearest("net", keys) == "; did you mean model.net?"
    assert nearest("min_epoch", keys) == "; did you mean trainer.min_epochs?"


def test_a_folder_that_has_been_removed_is_told(cli, monkeypatch):
    Path("gone").mkdir()
    monkeypatch.chdir("gone")
    Path.cwd().rmdir()
    for words in (["runs"], ["fit", "--config", "digits"], ["doctor", "--quick"]):
        code, _, err = cli(*words)
        assert code == 2
        assert err == "error: the folder that you are in has been removed: cd to another\n"
