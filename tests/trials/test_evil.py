"""A foreign checkpoint and a foreign run directory through every verb that reads one: nothing of
others' is run.

Whatever is imported or called leaves a file `canary`. A verb ends well, because it does not need
what the recipe names, or with one line.
"""

import copy
import io
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import traceback
from pathlib import Path

import pytest
import torch
import yaml
from helpers.command_line import REPOSITORY, TINY
from helpers.run_dir import only_run
from PIL import Image
from torch import nn

from lightning_resnet.cli.main import main
from lightning_resnet.errors import UserError
from lightning_resnet.runs.checkpoint import load_checkpoint
from lightning_resnet.weights.convert import read_file
from lightning_resnet.weights.trained import load

CANARY = """
from pathlib import Path

Path("canary").write_text(__name__)

from torch import nn
from lightning_resnet.data.sources.digits import Digits


def call(*args, **kwargs) -> nn.Module:
    Path("canary").write_text("called")


class Net(nn.Linear):
    pass


class Source(Digits):
    pass
"""
SHELL = {"class_path": "os.system", "init_args": {"command": "touch canary"}}
POPEN = {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "canary"]}}
RUN = {"class_path": "canary_code.call", "init_args": {}}
LOAD = {
    "class_path": "torch.hub.load_state_dict_from_url",
    "init_args": {"url": "http://127.0.0.1:9/x.pth"},
}
TORCHVISION = "torchvision.models."


def net(class_path, **init_args):
    return {"model": {"net": {"class_path": class_path, "init_args": init_args}}}


IGNORED = {  # what no verb needs, so that all end well
    "optimizer, a function": {"model": {"optimizer": SHELL}},
    "optimizer, a class": {"model": {"optimizer": POPEN}},
    "optimizer, a name": {"model": {"optimizer": "canary_code.call"}},
    "schedule": {"model": {"schedule": RUN}},
    "mix": {"model": {"mix": RUN}},
    "ema": {"model": {"ema": SHELL}},
    "callbacks": {"trainer": {"callbacks": [RUN, SHELL, "canary_code.call"]}},
    "callbacks, a file": {"trainer": {"callbacks": "evil.yaml"}},
    "logger": {"trainer": {"logger": RUN}},
    "profiler": {"trainer": {"profiler": RUN}},
    "plugins": {"trainer": {"plugins": [RUN]}},
    "strategy": {"trainer": {"strategy": RUN}},
    "stage": {"data": {"stage": "/nowhere/that/exists"}},
    "lambda": {
        "trainer": {
            "callbacks": [
                {
                    "class_path": "pytorch_lightning.callbacks.LambdaCallback",
                    "init_args": {"on_fit_start": SHELL},
                }
            ]
        }
    },
    "another key": {"canary_code": RUN, "__path__": "evil.yaml"},
}
REFUSED = {  # what they would need
    "net, a function": {"model": {"net": SHELL}},
    "net, a program": {"model": {"net": POPEN}},
    "net, a name": {"model": {"net": "canary_code.Net"}},
    "net, a file": {"model": {"net": "evil.yaml"}},
    "net, an address": {"model": {"net": "http://127.0.0.1:9/evil.yaml"}},
    "net, a list": {"model": {"net": [RUN]}},
    "net, a class of the working directory": net("canary_code.Net", in_features=1, out_features=1),
    "net, torch's": net("torch.nn.Linear", in_features=192, out_features=10),
    "net, torch's, by a word": net("Bilinear", in1_features=1, in2_features=1, out_features=1),
    "net, a download": {"model": {"net": LOAD}},
    "net, a download through torchvision": {
        "model": {
            "net": LOAD | {"class_path": "torchvision.models.resnet.load_state_dict_from_url"}
        }
    },
    "net, torchvision's factory": net(
        TORCHVISION + "get_model", name="resnet18", weights="DEFAULT"
    ),
    "net, torchvision's factory of what downloads": net(
        TORCHVISION + "get_model", name="fcn_resnet50"
    ),
    "net, a download by default": net(TORCHVISION + "segmentation.fcn_resnet50", num_classes=3),
    "net, asked to download": net(TORCHVISION + "resnet18", weights="DEFAULT"),
    "net, a list of weights": net(TORCHVISION + "get_weight", name="ResNet18_Weights.DEFAULT"),
    "net, a function of ours": net("lightning_resnet.cli.main.main", argv=["data", "info", "x"]),
    "net, another class of ours": net("lightning_resnet.runs.directory.RunDir", path="canary"),
    "net, through a module of ours": {
        "model": {"net": SHELL | {"class_path": "lightning_resnet.cli.main.os.system"}}
    },
    "net, a function through ours": net(
        "lightning_resnet.cli.main.import_module", name="canary_code"
    ),
    "net, YAML through ours": net(
        "lightning_resnet.sweeps.points.yaml.unsafe_load", stream="!!python/name:os.system"
    ),
    "net, a module": net("lightning_resnet.models"),
    "net, inside torchvision's, a function": net(
        TORCHVISION + "resnet18", num_classes=10, norm_layer=SHELL
    ),
    "net, inside torchvision's, a name": net(
        TORCHVISION + "resnet18", num_classes=10, norm_layer="canary_code.Net"
    ),
    "net, inside torchvision's, a file": net(
        TORCHVISION + "resnet18", num_classes=10, norm_layer="evil.yaml"
    ),
    "net, besides its arguments": {
        "model": {
            "net": {
                "class_path": "CifarResNet",
                "init_args": {"depth": 8},
                "dict_kwargs": {"x": RUN},
            }
        }
    },
    "net, a task with an optimizer": net(
        "lightning_resnet.training.task.ClassificationTask",
        net={"class_path": "CifarResNet"},
        optimizer=SHELL,
    ),
    "net, a task with a schedule": net(
        "lightning_resnet.training.task.ClassificationTask",
        net={"class_path": "CifarResNet"},
        schedule=RUN,
    ),
    "net, dotted": {"model": {"net.class_path": "canary_code.Net"}},
    "source, a function": {"data": {"source": SHELL}},
    "source, of the working directory": {"data": {"source": {"class_path": "canary_code.Source"}}},
    "source, a file": {"data": {"source": "evil.yaml"}},
    "source, dotted": {"data": {"source.class_path": "canary_code.Source"}},
    "source, a net": {"data": {"source": {"class_path": "lightning_resnet.models.CifarResNet"}}},
    "source, inside a subset": {
        "data": {"source": {"class_path": "Subset", "init_args": {"source": RUN}}}
    },
    "source, a file inside a subset": {
        "data": {"source": {"class_path": "Subset", "init_args": {"source": "evil.yaml"}}}
    },
    "policy": {"data": {"policy": RUN}},
    "policy, a name": {"data": {"policy": "canary_code.call"}},
    "progressive": {"data": {"progressive": RUN}},
    "crop": {"data": {"crop": SHELL}},
    "no mapping": {"model": "evil.yaml"},
    "no net": {"model": {"net": None}},
    "numbers": {"data": 7},
}
TAGS = [
    "!!python/object/apply:os.system ['touch canary']",
    "!!python/object/new:subprocess.Popen [[touch, canary]]",
    "!!python/name:canary_code.call",
    "!!python/module:canary_code",
    "!!python/object:canary_code.Net {}",
    "!python/object/apply:os.system ['touch canary']",
    "!!python/object/apply:builtins.exec [\"open('canary', 'w')\"]",
    "!include evil.yaml",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run directory of ours, of one step."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path])
        patch.setenv("PYTHONSAFEPATH", "1")
        limits = (
            "--trainer.max_epochs 1 --trainer.limit_train_batches 1 --data.train_eval_samples 10"
        ).split()
        assert main(["fit", *map(str, TINY), *limits]) == 0
        run = only_run()
    return folder / run


def _touch(*args, **kwargs):
    """Leave the canary in place of what a download needs; it tells who asked.

    Threads that are older than the test may ask: wandb's, which send its metrics, outlive a run.
    """
    if threading.current_thread() in _touch.older:
        raise OSError("no network")
    stack = "".join(traceback.format_stack())
    Path("canary").write_text(f"network, by thread {threading.current_thread().name}\n{stack}")
    raise OSError("no network")


_touch.older = set()


@pytest.fixture
def no_network(monkeypatch):
    """Whatever asks for an address from now on leaves the canary."""
    monkeypatch.setattr(_touch, "older", {*threading.enumerate()} - {threading.current_thread()})
    monkeypatch.setattr(torch.hub, "download_url_to_file", _touch)
    monkeypatch.setattr(socket, "getaddrinfo", _touch)


@pytest.fixture
def evil(cli, trained, no_network):
    """A function that makes a run and its checkpoint evil; its canary is looked for at the end."""
    Path("canary_code.py").write_text(CANARY)
    Path("evil.yaml").write_text(yaml.safe_dump({"class_path": "canary_code.call"}))
    shutil.copytree(trained, "run")

    def make(change):
        text = change if isinstance(change, str) else yaml.safe_dump(merged(read(trained), change))
        Path("run/config.yaml").write_text(text)
        for name in ("last", "best"):
            file = f"run/checkpoints/{name}.ckpt"
            content = torch.load(trained / "checkpoints" / f"{name}.ckpt", weights_only=True)
            content["run"]["config"] = text
            Path(file).unlink()
            torch.save(content, file)

    sys.modules.pop("canary_code", None)
    yield make
    assert not Path("canary").exists(), Path("canary").read_text()
    assert "canary_code" not in sys.modules


def read(run):
    return yaml.safe_load((run / "config.yaml").read_text())


def merged(tree, change):
    """A copy in which a change takes the place of what was there, at the second level of keys."""
    tree = copy.deepcopy(tree)
    for name, part in change.items():
        tree[name] = (
            tree[name] | part
            if isinstance(part, dict) and isinstance(tree.get(name), dict)
            else part
        )
        if isinstance(tree[name], dict) and "net.class_path" in tree[name]:
            del tree[name]["net"]
        if isinstance(tree[name], dict) and "source.class_path" in tree[name]:
            del tree[name]["source"]
    return tree


def nothing_or_one_line(told):
    """What was told, when it ended well or with one line, and nothing was run."""
    code, _, err = told
    assert code in (0, 1, 2, 143), told
    assert code != 2 or err.splitlines()[-1].startswith("error: "), err
    assert "Traceback" not in err
    assert not Path("canary").exists(), Path("canary").read_text()
    assert "canary_code" not in sys.modules
    return told


@pytest.mark.parametrize("change", IGNORED.values(), ids=IGNORED)
def test_what_is_not_needed_is_not_taken(evil, change):
    evil(change)
    assert load("run").task.net


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED)
def test_what_is_needed_and_is_of_others_is_refused_before_it_is_imported(evil, cli, change):
    evil(change)
    code, _, err = cli("convert", "run", "--out", "out.pth")
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1, err
    assert not Path("out.pth").exists()


def everything(parts):
    """All changes of `IGNORED` that fit together, at once."""
    change = {}
    for part in parts:
        change = merged(change, IGNORED[part])
    return change


ALL_IGNORED = everything(
    ["optimizer, a function", "schedule", "mix", "ema", "callbacks", "logger", "profiler"]
)
VERBS = {
    "predict a checkpoint": "predict image.png --ckpt_path run/checkpoints/last.ckpt --data.size 8",
    "predict a run": "predict image.png --ckpt_path run --data.size 8",
    "convert to ours": "convert run --out out.ckpt",
    "convert to theirs": "convert run/checkpoints/best.ckpt --out out.safetensors",
    "evaluate": "evaluate run --crops centre",
    "evaluate a checkpoint": "evaluate run/checkpoints/last.ckpt --crops centre --bn precise",
    "gradients": "inspect gradients run --batches 1",
    "responses": "inspect responses run/checkpoints/last.ckpt --batches 1",
    "before training": "inspect shortcuts run --at init",
    "deepen": "deepen run --depth 14 --out deep.ckpt --batches 1",
}
READERS = {  # what makes nothing of a foreign recipe
    "compare": "compare run --out report",
    "differences": "compare --diff run run",
    "sync": "sync run",
    "requeue": "requeue --status 1 fit --config own.yaml --run.root . --run.name here",
    "sweep": "sweep sweep.yaml --list --root .",
    "validate": "validate --config own.yaml --ckpt_path run/checkpoints/last.ckpt",
    "test": "test --config own.yaml --ckpt_path run/checkpoints/last.ckpt",
    "predict a recipe": "predict --config own.yaml --ckpt_path run/checkpoints/last.ckpt",
    "init_from": "fit --config own.yaml --run.init_from run/checkpoints/last.ckpt "
    "--trainer.max_epochs 1",
    "doctor": "doctor --quick",
}
SWEEP = {
    "name": "here",
    "method": "grid",
    "command": ["resnet-cli", "fit", "--config", "own.yaml", "--config", "${args_json_file}"],
    "parameters": {"seed_everything": {"values": [0, 1]}},
}


@pytest.fixture
def own(evil, trained, monkeypatch):
    """Next to the evil run: an image, a recipe and a sweep of one's own, and the run in the sweep's
    folder.
    """
    Image.new("RGB", (8, 8)).save("image.png")
    recipe = yaml.safe_load((REPOSITORY / "configs/digits.yaml").read_text())
    recipe["model"]["net"]["init_args"] |= {"depth": 8, "width": 4}
    recipe["trainer"] |= {"limit_train_batches": 1}
    Path("own.yaml").write_text(yaml.safe_dump(recipe))
    Path("sweep.yaml").write_text(yaml.safe_dump(SWEEP))
    Path("here").mkdir()
    Path("here/run").symlink_to(Path("run").absolute())
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    return evil


@pytest.mark.parametrize("command", VERBS.values(), ids=VERBS)
def test_a_verb_takes_what_it_needs_and_refuses_the_rest(own, cli, command):
    own(ALL_IGNORED)
    code, _, err = nothing_or_one_line(cli(*command.split()))
    assert code == 0, err
    own(REFUSED["net, a class of the working directory"])
    code, _, err = nothing_or_one_line(cli(*command.split()))
    flag = (
        "--model.net canary_code.Net, or --trust"
        if command[:7] not in ("convert", "deepen ")
        else "add --trust"
    )
    assert code == 2 and flag in err, err


@pytest.mark.parametrize("command", READERS.values(), ids=READERS)
def test_a_verb_that_needs_no_recipe_makes_nothing_of_one(own, cli, command):
    own(ALL_IGNORED)
    nothing_or_one_line(cli(*command.split()))
    own(REFUSED["net, a class of the working directory"])
    nothing_or_one_line(cli(*command.split()))


@pytest.mark.all
@pytest.mark.parametrize("command", [*VERBS.values(), *READERS.values()])
def test_every_verb_and_every_recipe(own, cli, command):
    for change in [*REFUSED.values(), *IGNORED.values(), *map(tagged, TAGS)]:
        own(change)
        nothing_or_one_line(cli(*command.split()))


def tagged(tag):
    """A recipe with a tag at a place where a value of ours stands."""
    return f"model: {{net: {tag}}}\ndata: {{source: Digits}}\ntrainer: {{max_epochs: 1}}\n"


@pytest.mark.parametrize("tag", TAGS)
def test_no_tag_of_yaml_makes_an_object(own, cli, tag):
    own(tagged(tag))
    Path("tagged.yaml").write_text(tagged(tag))
    for command in (
        "convert run --out out.pth",
        "compare run",
        "inspect shortcuts run",
        "fit --config tagged.yaml",
    ):
        assert nothing_or_one_line(cli(*command.split()))[0] == 2


def test_what_deepen_writes_names_no_code_of_others(own, cli):
    own(ALL_IGNORED)
    code, out, _ = cli(*VERBS["deepen"].split())
    assert code == 0 and "warning: left out of deep.yaml" in out and "model.optimizer" in out
    recipe = Path("deep.yaml").read_text()
    assert "canary" not in recipe and "os.system" not in recipe
    code, _, err = cli("fit", "--config", "deep.yaml")
    assert code == 0, err


def test_a_recipe_of_ones_own_is_deepened_in_full(own, cli, trained):
    own({})
    code, out, _ = cli(*VERBS["deepen"].split())
    assert code == 0 and "left out" not in out
    before = read(trained)
    after = yaml.safe_load(Path("deep.yaml").read_text())
    assert after["model"]["optimizer"] == before["model"]["optimizer"]
    assert after["model"]["schedule"] == before["model"]["schedule"]
    assert after["data"]["source"] == before["data"]["source"]
    assert after["trainer"]["max_epochs"] == before["trainer"]["max_epochs"]


def test_what_the_command_line_names_is_imported(own, cli):
    Path("mynet.py").write_text(
        "from lightning_resnet.models import CifarResNet\n\n\nclass Own(CifarResNet):\n    pass\n"
    )
    options = read(Path("run"))["model"]["net"]["init_args"]
    own(net("mynet.Own", **options))
    refused = cli("predict", "image.png", "--ckpt_path", "run", "--data.size", "8")
    assert refused[0] == 2 and "mynet" not in sys.modules
    for more in (["--model.net", "mynet.Own"], ["--trust"]):
        code, _, err = cli("predict", "image.png", "--ckpt_path", "run", "--data.size", "8", *more)
        assert code == 0, err
    assert cli("convert", "run", "--out", "out.pth")[0] == 2
    assert cli("convert", "run", "--out", "out.pth", "--trust")[0] == 0
    other = "--model.net CifarResNet --model.net.depth 8 --model.net.width=4".split()
    code, _, err = cli("evaluate", "run", "--crops", "centre", *other)
    assert code == 0, err  # another class takes the place of the one that may not be named
    del sys.modules["mynet"]


def test_trust_lifts_names_not_types(own, cli):
    own(REFUSED["net, a function"])
    code, _, err = nothing_or_one_line(cli("convert", "run", "--out", "out.pth", "--trust"))
    assert code == 2 and "may not name os.system" in err
    own({"model": {"net": RUN | {"class_path": "canary_types.call"}}})
    Path("canary_types.py").write_text("def call():\n    open('canary', 'w')\n")
    code, _, err = nothing_or_one_line(cli("convert", "run", "--out", "out.pth", "--trust"))
    assert code == 2 and "canary_types.call is no Module, and is not called" in err


@pytest.mark.parametrize(
    "text",
    ["", "7", "[]", "model: {", "a: &a [*a]", "\x00", "x: " + "[" * 3000, None, 7, {"model": {}}],
)
def test_a_recipe_of_no_form_is_one_line(own, cli, text):
    own({})
    file = "run/checkpoints/last.ckpt"
    content = torch.load(file, weights_only=True)
    content["run"]["config"] = text
    torch.save(content, file)
    for command in (
        "convert run --out out.pth",
        "evaluate run/checkpoints/last.ckpt",
        VERBS["predict a run"],
    ):
        assert nothing_or_one_line(cli(*command.split()))[0] == 2


BOMB = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
BOMB += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]


@pytest.mark.parametrize(
    "lines",
    [
        [*BOMB, "data: {x: *a11}"],
        ["data: &x {x: *x}"],
        ["x: " + "[" * 300_000],
        ["x: " + "- " * 300_000],
    ],
)
def test_a_recipe_that_repeats_itself_or_is_deep_costs_nothing(own, cli, lines):
    own("\n".join(lines))
    for command in (
        "convert run --out out.pth",
        "inspect shortcuts run",
        "compare run",
        "compare --diff run run",
    ):
        assert nothing_or_one_line(cli(*command.split()))[0] == 2
    nothing_or_one_line(cli(*READERS["init_from"].split(), "--trainer.limit_val_batches", "1"))


@pytest.mark.parametrize(
    "change", [{"run": 7}, {"run": [1]}, {"run": {"id": "x"}}, {"state_dict": {}}, {"mean": 1}]
)
def test_a_checkpoint_of_another_form_is_one_line(own, cli, change):
    own({})
    file = "run/checkpoints/last.ckpt"
    content = torch.load(file, weights_only=True)
    if "mean" in change:
        content["state_dict"]["mean"] = torch.zeros(7)
    else:
        content |= change
    torch.save(content, file)
    for command in (
        VERBS["predict a run"],
        READERS["init_from"],
        READERS["validate"],
        VERBS["responses"],
    ):
        nothing_or_one_line(cli(*command.split()))


def call(name, **init_args):
    return json.dumps({"class_path": name, "init_args": init_args})


OWN = {  # flags of one's own command line, and what is said of them
    "optimizer": (["--model.optimizer", json.dumps(SHELL)], "may not name os.system"),
    "optimizer, a function": (
        ["--model.optimizer", call("untyped.call")],
        "untyped.call is no Optimizer",
    ),
    "optimizer, a function's name": (
        ["--model.optimizer", "untyped.call"],
        "untyped.call is no Optimizer",
    ),
    "optimizer, a class": (["--model.optimizer", call("untyped.Callable")], "untyped.Callable"),
    "optimizer, a function that tells": (
        ["--model.optimizer", call("untyped.tells")],
        "untyped.tells is no Optimizer",
    ),
    "net": (["--model.net", call("untyped.call")], "untyped.call is no Module, and is not called"),
    "schedule": (["--model.schedule", call("untyped.call")], "untyped.call is no Schedule"),
    "source": (["--data.source", call("untyped.call")], "untyped.call is no Source"),
    "policy": (["--data.policy", call("untyped.call")], "untyped.call is no Policy"),
    "callback": (
        ["--trainer.callbacks", f"[{call('untyped.call')}]"],
        "untyped.call is no Callback",
    ),
    "callback, added": (["--trainer.callbacks+=untyped.call"], "no Callback"),
    "logger": (["--trainer.logger", call("untyped.call")], "untyped.call is no Logger"),
    "profiler": (["--trainer.profiler", call("untyped.call")], ""),
    "plugin": (["--trainer.plugins", f"[{call('untyped.call')}]"], "untyped.call is no"),
    "strategy": (["--trainer.strategy", call("untyped.call")], ""),
    "inside a callback": (
        [
            "--trainer.callbacks=[{class_path: LambdaCallback, init_args: {on_fit_start: "
            f"{call('untyped.call')}}}}}]"
        ],
        "untyped.call is no class whose objects can be called",
    ),
    "inside a net": (
        [
            "--model.net",
            call("torchvision.models.resnet18", norm_layer={"class_path": "untyped.call"}),
        ],
        "untyped.call is no Module",
    ),
    "inside a schedule": (
        ["--model.schedule", call("ErrorWarmup", then={"class_path": "untyped.call"})],
        "untyped.call is no Schedule",
    ),
    "inside a source": (
        ["--data.source", call("Subset", source={"class_path": "untyped.call"})],
        "no Source",
    ),
    "where no type is said": (
        ["--model.net", call("untyped.Any", layer={"class_path": "untyped.Program"})],
        "a type",
    ),
    "through a file": (["--model.optimizer", "optimizer.yaml"], "untyped.call is no Optimizer"),
    "through a file in a file": (["--config", "nested.yaml"], "untyped.call is no Optimizer"),
    "an address": (["--model.net", "http://127.0.0.1:9/net.yaml"], ""),
}
UNTYPED = """
from collections.abc import Callable as Function

import torch
from torch import nn


def call(*args, **kwargs):
    open("canary", "w").close()


def tells(lr: float = 0.1) -> torch.optim.Optimizer:
    open("canary", "w").close()


def makes(lr: float = 0.02) -> Function:
    return lambda parameters: torch.optim.SGD(parameters, lr=lr)


def sgd(parameters, lr: float = 0.02) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=lr)


def watch(trainer, task):
    pass


class Callable:
    def __init__(self) -> None:
        open("canary", "w").close()

    def __call__(self, parameters):
        pass


class Program:
    def __init__(self) -> None:
        open("canary", "w").close()


class Any(nn.Linear):
    def __init__(self, layer) -> None:
        open("canary", "w").close()


class Typed(nn.Sequential):
    def __init__(self, layer: nn.Module, num_classes: int = 10) -> None:
        super().__init__(nn.Flatten(), layer, nn.ReLU(), nn.Linear(8, num_classes))


class Layer(nn.Linear):
    def __init__(self) -> None:
        super().__init__(192, 8)
"""


@pytest.fixture
def untyped(cli, no_network):
    Path("untyped.py").write_text(UNTYPED)
    Path("optimizer.yaml").write_text(call("untyped.call"))
    Path("nested.yaml").write_text("model: {optimizer: optimizer.yaml}\n")
    sys.modules.pop("untyped", None)
    yield cli
    sys.modules.pop("untyped", None)
    assert not Path("canary").exists(), Path("canary").read_text()


@pytest.mark.parametrize(("flags", "said"), OWN.values(), ids=OWN)
def test_what_is_not_of_the_type_it_stands_for_is_not_called(untyped, flags, said):
    for verb in ("fit", "validate"):
        code, _, err = nothing_or_one_line(untyped(verb, *TINY, *flags))
        assert code == 2 and said in err and err.count("\n") == 1, err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "flags",
    [
        ["--model.net", "untyped.Typed", "--model.net.layer", "untyped.Layer"],
        ["--model.optimizer", call("untyped.makes")],
        ["--model.optimizer", "untyped.sgd"],
        ["--model.optimizer", "torch.optim.AdamW"],
        [
            "--model.net",
            "torchvision.models.resnet18",
            "--model.net.norm_layer",
            "torch.nn.Identity",
        ],
        [
            "--trainer.callbacks+=LambdaCallback",
            "--trainer.callbacks.on_fit_start",
            "untyped.watch",
        ],
    ],
)
def test_code_of_ones_own_is_as_easy_as_ever(untyped, flags):
    recipe = [part for part in TINY if not str(part).startswith("--model.net")]
    given = dict(zip(TINY, TINY[1:], strict=False))
    net_flags = [] if "--model.net" in flags else ["--model.net.depth", given["--model.net.depth"]]
    recipe = ["--config", given["--config"], "--run.threads", "1", *net_flags]
    small = (
        "--trainer.limit_train_batches 1 --trainer.max_epochs 1 --data.train_eval_samples 10"
    ).split()
    code, _, err = untyped("fit", *recipe, *small, *flags)
    assert code in (0, 1) or "num_classes" in err, err


class Bomb:
    """Writes the canary where it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch canary",)


class Zipped(Bomb):
    """The same, by a function of Python's own."""

    def __reduce__(self):
        return exec, ("open('canary', 'w').close()",)


def _pickled(path, protocol):
    path.write_bytes(pickle.dumps({"state_dict": Bomb()}, protocol=protocol))


def _in_tar(path):
    text = pickle.dumps(Bomb())
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text))


def _script(path):
    with pytest.warns(DeprecationWarning):
        torch.jit.script(nn.Linear(1, 1)).save(str(path))


def _in_checkpoint(path, **where):
    torch.save(torch.load("run/checkpoints/best.ckpt", weights_only=True) | where, path)


BOMBS = {
    "a pickle, protocol 0": lambda path: _pickled(path, 0),
    "a pickle, protocol 2": lambda path: _pickled(path, 2),
    "a pickle, protocol 5": lambda path: _pickled(path, 5),
    "an archive": lambda path: torch.save(Bomb(), path),
    "an archive by exec": lambda path: torch.save({"state_dict": Zipped()}, path),
    "torch's old form": lambda path: torch.save(Bomb(), path, _use_new_zipfile_serialization=False),
    "torch's oldest form": _in_tar,
    "a pickled net": lambda path: torch.save(nn.Linear(1, 1), path),
    "TorchScript": _script,
    "in a good checkpoint": lambda path: _in_checkpoint(path, extra=Bomb()),
    "in its recipe": lambda path: _in_checkpoint(path, run={"config": Bomb()}),
    "in its callbacks": lambda path: _in_checkpoint(path, callbacks={"Checkpoints": Bomb()}),
    "in its optimizer": lambda path: _in_checkpoint(path, optimizer_states=[Zipped()]),
}
UNPICKLERS = [
    "convert FILE --out out.pth",
    "fit --config own.yaml --run.name other --run.init_from FILE",
    "evaluate FILE --crops centre",
    "predict image.png --ckpt_path FILE",
    "deepen FILE --depth 14 --out deep.ckpt",
    "inspect responses FILE",
    "validate --config own.yaml --ckpt_path FILE",
    "test --config own.yaml --ckpt_path FILE",
]


@pytest.mark.parametrize("make", BOMBS.values(), ids=BOMBS)
def test_no_pickle_is_run(own, make):
    """This is the function with which all verbs read checkpoints and weights."""
    own({})
    for name in ("evil.ckpt", "evil.pth", "evil.safetensors"):
        make(Path(name))
        for read_it in (load_checkpoint, read_file):
            with pytest.raises(UserError, match="cannot be read"):
                read_it(Path(name))


@pytest.mark.parametrize("command", UNPICKLERS)
def test_a_verb_says_so_in_one_line(own, cli, command):
    own({})
    BOMBS["in a good checkpoint"](Path("evil.ckpt"))
    code, _, err = nothing_or_one_line(cli(*command.replace("FILE", "evil.ckpt").split()))
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1, err


@pytest.mark.all
@pytest.mark.parametrize("make", BOMBS.values(), ids=BOMBS)
def test_no_pickle_is_run_by_any_verb(own, cli, make):
    own({})
    make(Path("evil.ckpt"))
    for command in UNPICKLERS:
        assert nothing_or_one_line(cli(*command.replace("FILE", "evil.ckpt").split()))[0] == 2


def test_no_pickle_is_run_by_a_run_that_goes_on(own, cli, trained):
    shutil.rmtree("run")
    name, run = trained.parts[-2:]
    for make in (BOMBS["an archive"], BOMBS["in a good checkpoint"]):
        shutil.copytree(trained, "run", dirs_exist_ok=True)
        shutil.copytree(trained, f"runs/{name}/{run}", dirs_exist_ok=True)
        for file in ("last.ckpt", "prev.ckpt", "best.ckpt"):
            Path(f"runs/{name}/{run}/checkpoints/{file}").unlink(missing_ok=True)
            make(Path(f"runs/{name}/{run}/checkpoints/{file}"))
        shutil.rmtree(f"runs/{name}/{run}/attempts")
        limits = (
            "--trainer.max_epochs 1 --trainer.limit_train_batches 1 --data.train_eval_samples 10"
        ).split()
        code, _, err = nothing_or_one_line(cli("fit", *TINY, *limits))
        assert code == 2, err


# -- modules of the working directory --------------------------------------------------------------

SHADOWS = [
    "numpy",
    "torch",
    "yaml",
    "pandas",
    "socket",
    "struct",
    "selectors",
    "secrets",
    "random",
    "tempfile",
]
CHILDREN = """
import sys
import tarfile
from lightning_resnet.cli.main import main

print(main(["--help"]), main(["sweep", "nothing.yaml"]))
from multiprocessing import get_context


def work():
    import mine
    import numpy
    import random
    import socket

    print("child", mine.__name__, numpy.__version__)


if __name__ == "__main__":
    for how in ("forkserver", "spawn"):
        context = get_context(how)
        context.set_forkserver_preload(["numpy", "random"])
        process = context.Process(target=work)
        process.start()
        process.join(60)
        assert process.exitcode == 0
"""


@pytest.fixture
def shadows(tmp_path, monkeypatch):
    """A folder with files of the names of libraries, which leave a canary, and one of the user's
    own.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    for name in SHADOWS:
        Path(f"{name}.py").write_text(
            f"open('canary', 'w').write({name!r})\nraise SystemExit('shadow')\n"
        )
    Path("lightning_resnet").mkdir()
    Path("lightning_resnet/__init__.py").write_text(
        "open('canary', 'w').write('ours')\nraise SystemExit('shadow')\n"
    )
    Path("mine.py").write_text("")
    yield
    assert not Path("canary").exists(), Path("canary").read_text()


def test_no_file_of_the_working_directory_takes_the_place_of_a_library(shadows, tmp_path):
    program = Path(sys.executable).with_name("resnet-cli")
    for command in (["--help"], ["compare", "nothing"], ["data", "info", "nothing.beton"]):
        done = subprocess.run(
            [program, *command], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode in (0, 2) and "shadow" not in done.stderr, done.stderr
        assert not Path("canary").exists()


def test_nor_in_the_processes_that_start_from_it(shadows, tmp_path, tmp_path_factory):
    script = tmp_path_factory.mktemp("elsewhere") / "children.py"
    script.write_text(CHILDREN)
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0 and done.stdout.count("child mine") == 2, done.stdout + done.stderr


@pytest.mark.slow
def test_nor_in_ranks_and_runs_of_a_sweep(shadows, tmp_path):
    program = Path(sys.executable).with_name("resnet-cli")
    recipe = [str(part) for part in TINY]
    limits = (
        "--trainer.max_epochs 1 --trainer.limit_train_batches 1 --data.train_eval_samples 10"
    ).split()
    command = [program, "fit", *recipe, *limits, "--trainer.devices", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    flags = {"name": "s", "method": "grid", "parameters": {"seed_everything": {"values": [0]}}}
    flags["command"] = ["resnet-cli", "fit", *recipe, *limits, "--config", "${args_json_file}"]
    Path("s.yaml").write_text(json.dumps(flags))
    done = subprocess.run(
        [program, "sweep", "s.yaml", "--local"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_python_m_looks_elsewhere_first_too(tmp_path, monkeypatch):
    """The package itself is found by Python; what it imports is not from the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    Path("yaml.py").write_text("open('canary', 'w')\n")
    command = [sys.executable, "-m", "lightning_resnet", "sweep", "nothing.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2 and "nothing.yaml" in done.stderr and not Path("canary").exists(), (
        done.stderr
    )
