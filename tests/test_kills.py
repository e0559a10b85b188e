"""Killed at any instant and started again with the same command, a run ends with the weights it would have had."""

import json
import random
import signal
import time
from pathlib import Path

import numbered
import pytest
import torch
import yaml
from conftest import REPOSITORY
from ranks import Ranks, the_run, wait_for, weights

from lightning_resnet.analysis import load_runs
from lightning_resnet.data.order import permutation
from lightning_resnet.runtime.status import status

EPOCHS, KILLS = 200, 20
STEPS = EPOCHS * numbered.N // numbered.BATCH


def recipe(path, loader):
    """Everything that has a state: momentum, a schedule that watches, augmentation, intervals across epochs."""
    config = yaml.safe_load((REPOSITORY / "configs/digits.yaml").read_text())
    config["trainer"] |= {"max_epochs": EPOCHS, "log_every_n_steps": 7}
    config["trainer"]["callbacks"] = [{"class_path": "numbered.LogIds", "init_args": {"folder": "ids"}}]
    net = {"depth": 8, "width": 4, "num_classes": numbered.N}
    config["model"] |= {"net": {"class_path": "CifarResNet", "init_args": net}, "schedule": "ErrorWarmup"}
    config["data"] = {"source": "numbered.Numbered", "batch_size": numbered.BATCH, "crop": "pad", "pad": 1}
    config["data"] |= {"flip": True, "loader": loader, "train_eval_samples": 100}
    path.write_text(yaml.safe_dump(config))
    return ["fit", "--config", str(path), "--run.threads", "1"]


def kill_at_random(rng, ranks, i):
    """The first in a checkpoint's write, the next two in a validation, the others anywhere, start-up included."""
    how = signal.SIGTERM if i % 2 else signal.SIGKILL
    if i == 0:
        wait_for(lambda: list(Path("runs").rglob("last.ckpt.*.tmp")), ranks)
    elif i in (1, 2):
        wait_for(lambda: Path("ids/validating").exists(), ranks)
    else:
        time.sleep(rng.uniform(0.05, 2.0))
    ranks.send(how)
    codes = ranks.wait(30)
    assert all(code in (143, -how) for code in codes), (codes, Path("log0.txt").read_text()[-2000:])


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("loader", ["torch", "ffcv"])
def test_weights_after_twenty_kills_are_those_of_the_uninterrupted_run(here, loader, world):
    arguments, rng = recipe(here / "r.yaml", loader), random.Random(0)
    assert Ranks([*arguments, "--run.root", "whole"], world).wait(200) == [0] * world
    Path("ids").rename("whole_ids")
    for i in range(KILLS):
        Path("ids/validating").unlink(missing_ok=True)
        kill_at_random(rng, Ranks(arguments, world), i)
    assert status(the_run("runs")) != "finished"  # all kills hit it alive
    assert Ranks(arguments, world).wait(200) == [0] * world, Path("log0.txt").read_text()[-2000:]
    ours, theirs = weights("runs"), weights("whole")
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    expected = [permutation(0, e, numbered.N)[: numbered.N].tolist() for e in range(EPOCHS)]
    for folder in ("whole_ids", "ids"):
        steps = numbered.read(folder, world)
        assert sum((steps[s] for s in range(1, STEPS + 1)), []) == sum(expected, [])
    runs, history = load_runs(["runs", "whole"])
    assert set(runs["status"]) == {"finished"}
    a, b = (history[history["path"].str.startswith(root)] for root in ("runs", "whole"))
    for kind in ("train", "val"):
        x, y = (t[t["kind"] == kind].set_index("step") for t in (a, b))
        assert x.index.tolist() == y.index.tolist()
        for key in [k for k in x if k.split("/")[0] in ("train", "val", "train_eval", "lr")]:
            assert x[key].tolist() == pytest.approx(y[key].tolist(), rel=1e-12, nan_ok=True), key


def test_the_harness_trains(here):
    """So that the slow tests above cannot rot unseen."""
    arguments = [*recipe(here / "r.yaml", "torch"), "--trainer.max_epochs", "1"]
    assert Ranks(arguments, 1).wait(100) == [0], Path("log0.txt").read_text()
    assert json.loads((the_run("runs") / "attempts/1.json").read_text())["last_step"] == 10
