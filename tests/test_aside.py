"""A mirror's work goes on in parallel with the training, in order, and never without an end."""

import os
import sys
import time
from threading import Event
from types import SimpleNamespace

from lightning_resnet.tracking import background as aside
from lightning_resnet.tracking.mirror import Mirror, WandbOptions


def mirror_of(done, gate=None, mode="disabled"):
    def start(*args):
        if gate:
            gate.wait(60)
        done.append("start")

    options = SimpleNamespace(mode=mode)
    return SimpleNamespace(options=options, start=start, record=done.append, finish=done.append)


def test_rows_wait_for_the_start_and_the_training_does_not():
    done, gate = [], Event()
    background = aside.BackgroundMirror(mirror_of(done, gate))
    background.start("run", {}, {})
    background.record(1)
    background.record(2)
    assert done == []  # and we are here
    gate.set()
    background.finish("finished")
    assert done == ["start", 1, 2, "finished"]


def test_a_start_that_hangs_does_not_keep_the_end(monkeypatch):
    monkeypatch.setattr(aside, "LIMIT_S", 0.1)
    done, gate = [], Event()
    background = aside.BackgroundMirror(mirror_of(done, gate))
    background.start()
    begin = time.monotonic()
    background.finish("preempted")
    assert done == [] and time.monotonic() - begin < 30
    gate.set()


def test_an_end_before_the_beginning_waits_for_nothing():
    """A signal may come between the making of the mirror and its start."""
    done = []
    aside.BackgroundMirror(mirror_of(done)).finish("preempted")
    assert done == []


def test_a_wandb_that_cannot_be_imported_costs_one_line(tmp_path, monkeypatch):
    """The mode `auto` does not even try where there is no key."""
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb/__init__.py").write_text("raise TypeError('of another protobuf')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [*os.environ]:
        if name.startswith(("WANDB_", "SLURM_")):
            monkeypatch.delenv(name)
    for name in [*sys.modules]:
        if name.partition(".")[0] == "wandb":
            monkeypatch.delitem(sys.modules, name)
    imported, said = [], []
    load = aside.import_module
    monkeypatch.setattr(aside, "import_module", lambda name: imported.append(name) or load(name))
    for mode in ("auto", "online", "offline"):
        background = aside.BackgroundMirror(Mirror(WandbOptions(mode), said.append))
        background.start(tmp_path, {}, {})
        background.finish("finished")
    assert said == ["W&B: disabled (of another protobuf)"] * 2 and imported == ["wandb"] * 2
