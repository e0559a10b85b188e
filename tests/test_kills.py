"""Killed at any instant and started again with the same command, a run ends with the weights it would have had."""

import json
import os
import random
import signal
import socket
import time
from multiprocessing import connection, get_context
from pathlib import Path

import numbered
import pytest
import torch
import yaml
from conftest import REPOSITORY

from lightning_resnet.analysis import load_runs
from lightning_resnet.data.order import permutation
from lightning_resnet.runtime.checkpoint import load_checkpoint

EPOCHS, KILLS = 24, 20
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


class Ranks:
    """One attempt at a run: real processes, forked from one that has imported torch."""

    def __init__(self, arguments, world, **env):
        context = get_context("forkserver")
        context.set_forkserver_preload(["lightning_resnet.fit", "sklearn.datasets"])
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = str(s.getsockname()[1])
        ranks = [{"LOCAL_RANK": str(r), "LOCAL_WORLD_SIZE": str(world), "WORLD_SIZE": str(world)} for r in range(world)]
        ranks = [env | r | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} for r in ranks] if world > 1 else [env]
        self.processes = [context.Process(target=numbered.main, args=(arguments, r)) for r in ranks]
        for p in self.processes:
            p.start()

    @property
    def alive(self):
        return all(p.is_alive() for p in self.processes)

    def send(self, signum, ranks=None):
        for p in self.processes if ranks is None else [self.processes[r] for r in ranks]:
            if p.is_alive():
                os.kill(p.pid, signum)

    def wait(self, seconds):
        """Exit codes."""
        deadline = time.monotonic() + seconds
        while (alive := [p.sentinel for p in self.processes if p.is_alive()]) and time.monotonic() < deadline:
            connection.wait(alive, 0.2)
        codes = [p.exitcode for p in self.processes]
        self.send(signal.SIGKILL)
        for p in self.processes:
            p.join(5)
        return codes


def wait_for(happened, ranks, seconds=60):
    deadline = time.monotonic() + seconds
    while not happened() and ranks.alive and time.monotonic() < deadline:
        time.sleep(0.0005)


def the_run(root):
    (path,) = (p.parent for p in Path(root).glob("*/*/meta.json"))
    return path


def weights(root):
    return load_checkpoint(the_run(root) / "checkpoints/last.ckpt")["state_dict"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY / "tests"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def kill_at_random(rng, ranks, i):
    """The first in a checkpoint's write, the second in a validation, the others anywhere, imports included."""
    how = signal.SIGTERM if i % 2 else signal.SIGKILL
    if i == 0:
        wait_for(lambda: list(Path("runs").rglob("last.tmp")), ranks)
    elif i in (1, 2):
        wait_for(lambda: Path("ids/validating").exists(), ranks)
    else:
        time.sleep(rng.uniform(0.05, 2.5))
    ranks.send(how)
    codes = ranks.wait(30)
    assert all(code in (0, 143, -how) for code in codes), (codes, Path("log0.txt").read_text()[-2000:])


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("loader", ["torch", "ffcv"])
def test_weights_after_twenty_kills_are_those_of_the_uninterrupted_run(here, loader, world):
    arguments, rng = recipe(here / "r.yaml", loader), random.Random(0)
    assert Ranks([*arguments, "--run.root", "whole"], world).wait(120) == [0] * world
    Path("ids").rename("whole_ids")
    kills = 0
    while kills < KILLS:
        ranks = Ranks(arguments, world)
        kill_at_random(rng, ranks, kills)
        kills += 1
    assert Ranks(arguments, world).wait(120) == [0] * world, Path("log0.txt").read_text()[-2000:]
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
