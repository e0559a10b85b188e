"""The package from Python: the page's tasks, run as a notebook; images of any form, or an error."""

import ast
import contextlib
import linecache
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from helpers.command_line import DIGITS, REPOSITORY
from helpers.notebook import DOCS, cells, notebook
from PIL import Image

import lightning_resnet
from lightning_resnet import UserError, compare, evaluate, fit, gradients, load, load_runs
from lightning_resnet.data.sources.digits import Digits

PAGE = (DOCS / "python.md").read_text()
TINY = {"model.net.depth": 8, "model.net.width": 4, "run.threads": 1, "trainer.max_epochs": 1}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train a tiny net on the digits."""
    folder = tmp_path_factory.mktemp("trained")
    with contextlib.chdir(folder):
        run = fit(DIGITS, **TINY, **{"run.root": str(folder / "runs")})
    return run


def run_cell(source, names):
    """Run a cell as a notebook does; return the text of its last expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    if last is None:
        return None
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names)


def test_the_notebook_is_the_page():
    assert (DOCS / "python.ipynb").read_text() == notebook(PAGE), (
        "python tests/helpers/notebook.py writes it"
    )
    assert len(re.findall(r"^## \d+\. ", PAGE, re.M)) == 10


@pytest.mark.slow
def test_every_cell_of_the_notebook_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    shown = [run_cell(text, names) for kind, text in cells(PAGE) if kind == "code"]
    assert shown[1] is True and shown[2] == 269_722
    assert "finished" in repr(shown[3]) and set(shown[4]["kind"]) == {"train", "val"}
    assert shown[5].shape == (6, 5) and "may be of any range" in capsys.readouterr().out
    assert list(shown[7]["crops"]) == ["centre", "flip"] and shown[7]["n"].tolist() == [360, 360]
    assert "finished" in set(shown[8]["status"]) and len(shown[9]) == 1
    assert "<svg" in names["comparison"]._repr_html_()
    assert len(shown[10]) == 9 and len(shown[11]) == 2 and shown[12] < 3
    assert "All keys matched" in str(shown[13])


def test_the_import_is_immediate_and_loads_no_torch():
    code = (
        "import time; t = time.perf_counter(); import lightning_resnet, sys; "
        "print(time.perf_counter() - t, 'torch' in sys.modules, 'fit' in dir(lightning_resnet))"
    )
    command = [sys.executable, "-c", code]
    seconds, *rest = subprocess.run(command, capture_output=True, text=True).stdout.split()
    assert rest == ["False", "True"] and float(seconds) < 1  # 0.01 on an idle machine


NET = """
import torch

class Tiny(torch.nn.Module):
    def __init__(self, width: int = 4):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 10))

    def forward(self, x):
        return self.layers({x})
"""


@pytest.fixture
def cell(monkeypatch, tmp_path):
    """Run the cell of a notebook that defines Tiny; returns the class."""
    module = ModuleType("a_notebook")
    monkeypatch.setitem(sys.modules, "a_notebook", module)
    monkeypatch.chdir(tmp_path)

    def run(x):
        source = NET.replace("{x}", x)
        name = f"<cell {x}>"
        linecache.cache[name] = (len(source), None, source.splitlines(True), name)
        exec(compile(source, name, "exec"), vars(module))
        return module.Tiny

    return run


def test_a_class_of_the_notebook_trains_loads_and_may_change(cell, capsys):
    few = {"epochs": 1, "threads": 1, **{"trainer.limit_train_batches": 1}}
    run = fit(DIGITS, net=cell("x"), **few)
    assert type(run.load().net).__name__ == "Tiny" and len(evaluate(run, sizes=8)) == 1
    fit(DIGITS, net=cell("x"), **few)
    assert "has changed" not in capsys.readouterr().out
    fit(DIGITS, net=cell("2 * x"), **few)
    assert "the code of a_notebook.Tiny has changed" in capsys.readouterr().out
    assert fit(DIGITS, net=cell("2 * x"), new=True, **few).dir != run.dir
    with pytest.raises(UserError, match="trust=True"):
        load(str(run.dir))


def test_a_comparison_prints_its_table(trained):
    comparison = compare(trained)
    assert "<svg" in comparison._repr_html_() and "<svg" not in f"{comparison!r} {comparison}"
    assert "val_err_final_mean" in str(comparison)


def test_a_class_inside_a_function_is_no_value_of_a_recipe():
    class Tiny(torch.nn.Module):
        pass

    with pytest.raises(UserError, match="class Tiny is defined inside a function"):
        fit(DIGITS, net=Tiny)


def test_editors_know_the_names():
    stub = ast.parse((REPOSITORY / "lightning_resnet/__init__.pyi").read_text())
    told = {
        alias.name: node.module.removeprefix("lightning_resnet.")
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert told == lightning_resnet.PUBLIC
    assert {*lightning_resnet.PUBLIC, "__version__"} <= {*dir(lightning_resnet)}


def test_images_of_every_form_are_the_same_images(trained, tmp_path):
    split = Digits().splits()["val"]
    pixels = split.pixels[:5]  # uint8 [5, 8, 8, 1]
    colour = np.repeat(pixels, 3, -1)
    net = load(trained)
    wanted = net.probabilities(pixels)
    files = []
    for i, image in enumerate(pixels[..., 0]):
        files.append(tmp_path / f"{i}.png")
        Image.fromarray(image).save(files[-1])
    for images in (
        colour,
        pixels[..., 0],
        colour / 255,
        colour.astype(np.float32),
        colour.astype(np.int64),
        np.moveaxis(colour, -1, 1),
        torch.tensor(pixels).permute(0, 3, 1, 2),
        torch.tensor(colour).permute(0, 3, 1, 2) / 255,
        [torch.tensor(image).permute(2, 0, 1) for image in colour],
        [image / 255 for image in colour],
        [Image.fromarray(image) for image in colour],
        files,
        tmp_path,
        iter(map(str, files)),
    ):
        assert torch.allclose(net.probabilities(images), wanted, atol=1e-5)
    table = net.predict(files, top=2)
    assert list(table["image"][::2]) == list(map(str, files))
    assert list(table["label"][::2]) == wanted.argmax(1).tolist()


BAD = {
    "look normalised": np.linspace(-2, 2, 192).reshape(1, 8, 8, 3),
    "up to 16 may be of any range": 16 * np.linspace(0, 1, 192).reshape(1, 8, 8, 3),
    "up to 16 may": np.arange(17).repeat(64).reshape(17, 8, 8),
    "up to 300 may": np.linspace(0, 300, 192).reshape(1, 8, 8, 3),
    "no finite numbers": np.full((1, 8, 8, 3), np.nan),
    "bool values are no pixels": np.ones((1, 8, 8, 3), bool),
    "complex128 values are no pixels": np.ones((1, 8, 8, 3), complex),
    "has 4 channels": np.ones((1, 8, 8, 4)),
    "has 2 channels": torch.ones(1, 2, 8, 8),
    "has 5 channels": torch.ones(5, 8, 8),
    "three grey ones": np.ones((3, 8, 8)),
    "channels first or last": np.ones((1, 3, 8, 3)),
    "holds no images": np.ones(8),
    "no images in an array": np.ones((0, 8, 8, 3)),
    "no images to predict": [],
    "a list of numbers is no image": [1, 2],
    "a dict is no image": {},
    "nothere.png does not exist": "nothere.png",
    "has 28 x 28 pixels, and the net was trained at 8 x 8": np.ones((1, 28, 28)),
}


def test_what_may_mean_two_things_is_refused_in_one_line(trained):
    net = load(trained)
    for said, images in BAD.items():
        with pytest.raises(UserError, match=re.escape(said)) as error:
            net.predict(images)
        assert "\n" not in str(error.value)
    with pytest.warns(UserWarning, match="is 16 of 255"):
        net.predict(np.full((1, 8, 8, 3), 16, np.uint8))


def test_other_sizes_are_cut_and_scaled_as_the_recipe_says(trained, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    net = load(trained, **{"data.size": 8})
    wanted = net.probabilities(tmp_path / "a.png")
    assert torch.equal(net.probabilities(pixels), wanted)


def test_fit_raises_user_errors_and_leaves_the_process_as_it_was(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    state = torch.get_rng_state()
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    run = fit(DIGITS, **TINY, **{"seed_everything": 3, "trainer.limit_train_batches": 2})
    assert torch.equal(torch.get_rng_state(), state)
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert Path(run).is_dir() and run.metrics()["val/acc1"].notna().any()
    for keys, said in (
        ({"model.net.depht": 3}, "depth"),
        ({"trainer.max_epochs": "ten"}, "max_epochs"),
        ({"model.net": object()}, "is no value of a recipe"),
        ({"data.batch_size": 5000}, "exceeds the 1437 training images"),
    ):
        with pytest.raises(UserError, match=said):
            fit(DIGITS, **TINY | keys)
    with pytest.raises(UserError, match="compare has no colour"):
        compare(run, colour=1)
    with pytest.raises(UserError, match="choose among centre, ten, flip"):
        evaluate(run, crops="middle")


def test_a_ctrl_c_saves_and_the_same_call_continues(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    keys = TINY | {"trainer.max_epochs": 20, "model.optimizer.lr": 0.01}

    def interrupt():
        while not list(Path("runs").glob("*/*/metrics.jsonl")):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        fit(DIGITS, **keys)
    thread.join()
    assert "saved; the same command continues" in capsys.readouterr().err
    run = fit(DIGITS, **keys)
    assert "continued from last.ckpt at step" in capsys.readouterr().out
    runs, history = load_runs(run)
    assert runs["attempts"].item() == 2 and history["epoch"].max() == 19


def test_a_net_without_known_blocks_is_told_what_to_do():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 10))
    with pytest.raises(UserError, match=r"methods branch\(x\) and shortcut\(x\).*docs/python.md"):
        gradients(net, [(torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.long))])
