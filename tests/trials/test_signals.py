"""Any signal to any rank, or to their parent, at any instant: all end within seconds, or save first
and continue.
"""

import json
import os
import signal
from multiprocessing import get_context
from pathlib import Path

import pytest
from helpers import ranks as processes
from helpers.ranks import Ranks, recipe, wait_for
from helpers.run_dir import only_run, rank_logs

EXPECTED = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGUSR1: 143, signal.SIGHUP: 129}
END_S = 100  # ranks that wait for one that has left wait for 660 s


def file(pattern):
    return lambda: list(Path().glob(pattern))


def of_rank(k):
    def stepped():
        path = Path(f"ids/rank{k}-of-2.jsonl")
        return path.exists() and path.read_text()

    return stepped


INSTANTS = {
    "ranks": lambda: list(Path().glob("log0.txt")) and list(Path().glob("log1.txt")),
    "run directory": file("runs/*/*"),
    "attempt": file("runs/*/*/attempts/1.json"),
    "first step": of_rank(0),
    "evaluation": file("ids/validating"),
    "checkpoint": file("runs/*/*/checkpoints/*.tmp"),
    "end": file("ids/ended"),
}


class Supervised(Ranks):
    """Two ranks under the parent that `--trainer.devices 2` makes; it comes first, and its exit
    status counts.
    """

    def __init__(self, arguments):
        context = get_context("forkserver")
        context.set_forkserver_preload(["lightning_resnet.cli.fit"])
        self.processes = [
            context.Process(
                target=processes.supervised, args=([*arguments, "--trainer.devices=2"], {})
            )
        ]
        self.processes[0].start()

    def ranks(self):
        pid = self.processes[0].pid
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def signal(self, whom, signum):
        """Send a signal to the parent, or to a rank."""
        targets = [self.processes[0].pid] if whom == "parent" else self.ranks()[whom : whom + 1]
        for pid in targets:
            os.kill(pid, signum)


def check(codes, signum, log):
    """What is saved is recorded, and the statuses are the signal's or, of a finished run, 0."""
    attempts = [json.loads(p.read_text() or "{}") for p in Path("runs").glob("*/*/attempts/*.json")]
    assert None not in codes, (codes, log)
    assert "Traceback" not in log
    assert set(codes) <= {EXPECTED[signum], 143, 0}, (codes, log)
    for attempt in filter(None, attempts):
        assert attempt["reason"] in ("preempted", "interrupted", "finished"), (attempt, log)
        assert attempt["last_step"] == 0 or (only_run("runs") / "checkpoints/last.ckpt").exists()


def trial(here, whom, instant, signum):
    """Send a signal to the parent, or to one rank, at an instant of a training of two ranks."""
    epochs = 1 if instant == "end" else 40
    ranks = Supervised([*recipe(here / "r.yaml", "torch"), "--trainer.max_epochs", str(epochs)])
    wait_for(INSTANTS[instant], ranks)
    ranks.signal(whom, signum)
    check(ranks.wait(END_S), signum, rank_logs())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("whom", "instant", "signum"),
    [
        ("parent", "run directory", signal.SIGHUP),
        (0, "run directory", signal.SIGINT),
        (1, "attempt", signal.SIGTERM),
        (0, "evaluation", signal.SIGUSR1),
        (1, "checkpoint", signal.SIGHUP),
        ("parent", "end", signal.SIGTERM),
    ],
)
def test_a_signal_to_one_process_ends_all(here, whom, instant, signum):
    trial(here, whom, instant, signum)


@pytest.mark.all
@pytest.mark.parametrize("signum", EXPECTED, ids=str)
@pytest.mark.parametrize("whom", ["parent", 0, 1])
@pytest.mark.parametrize("instant", INSTANTS)
def test_any_signal_to_any_process_at_any_instant(here, whom, instant, signum):
    trial(here, whom, instant, signum)
