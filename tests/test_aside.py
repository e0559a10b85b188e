"""A mirror's work goes on in parallel with the training, in order, and never without an end."""

import time
from threading import Event
from types import SimpleNamespace

from lightning_resnet.tracking import background as aside


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
