"""Killed at any instant and started again with the same command, a run ends as if nothing had
happened.

A round is a run that is killed several times, at moments and by signals that its seed decides;
between two attempts a file of it may be torn. Then each leaf of its checkpoints is bitwise that of
an undisturbed run, and so are its metrics.

KILL_ROUNDS=200 pytest -m all tests/trials/test_kill_schedule.py -s   # 20 without
"""

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from helpers import numbered
from helpers.ranks import EPOCHS, Ranks, recipe, wait_for
from helpers.run_dir import only_run

from lightning_resnet.analysis import load_runs
from lightning_resnet.data.order import permutation
from lightning_resnet.engine.signals import SIGNALS
from lightning_resnet.errors import UserError
from lightning_resnet.runs.checkpoint import load_checkpoint
from lightning_resnet.runs.metrics import merge, read_rows
from lightning_resnet.runs.reader import Run

KILLS = 4  # in a round
ROUNDS = int(os.environ.get("KILL_ROUNDS") or 20)
STEPS = EPOCHS * numbered.N // numbered.BATCH
KINDS = [("torch", 1), ("ffcv", 2), ("device", 1), ("torch", 2), ("ffcv", 1)]  # loader, ranks
MOMENTS = ("start", "claim", "write", "rename", "evaluation", "step", "end", "stopped", "any")
OWN = ("time", "attempt", "again")  # of a row: not of what was trained


class Round:
    """One run in a folder of its own, which is the current one.

    Args:
        arguments: of `fit`.
        world: ranks.
        seed: decides when and how it is killed, and what is torn.
    """

    def __init__(self, arguments, world, seed):
        self.arguments, self.world, self.rng = arguments, world, random.Random(seed)
        self.told = []

    @property
    def run(self):
        return next((path.parent for path in Path("runs").glob("*/*/attempts")), Path("none"))

    def last_step(self):
        try:
            lines = Path(f"ids/rank0-of-{self.world}.jsonl").read_text().splitlines()
            return json.loads(lines[-1])["step"] if lines else 0
        except (OSError, ValueError):
            return 0

    def kill(self):
        """One attempt, to a moment of its life; returns whether it came to its end before."""
        moment = self.rng.choice(MOMENTS)
        how = self.rng.choice([signal.SIGKILL, signal.SIGKILL, *SIGNALS])
        Path("ids/validating").unlink(missing_ok=True)
        before = len(Run(self.run).attempt_files())
        previous = self._inode("prev.ckpt")
        ranks = Ranks(self.arguments, self.world)
        if moment != "start":
            wait_for(lambda: len(Run(self.run).attempt_files()) > before, ranks)
        if moment == "start":
            time.sleep(self.rng.uniform(0, 2))
        elif moment == "write":
            wait_for(lambda: [*self.run.glob("checkpoints/last.ckpt.*.tmp")], ranks)
        elif moment == "rename":
            wait_for(lambda: self._inode("prev.ckpt") != previous, ranks)
        elif moment == "evaluation":
            wait_for(lambda: Path("ids/validating").exists(), ranks)
        elif moment == "step":
            aim = self.last_step() + self.rng.randrange(1, 60)
            wait_for(lambda: self.last_step() >= min(aim, STEPS), ranks)
        elif moment == "end":
            wait_for(lambda: self.last_step() >= STEPS, ranks)
        elif moment == "stopped":
            ranks.send(signal.SIGSTOP)
            time.sleep(self.rng.uniform(0.1, 1))
            ranks.send(signal.SIGCONT)
            time.sleep(self.rng.uniform(0, 1))
        elif moment == "any":
            time.sleep(self.rng.uniform(0, 3))
        ranks.send(how)
        codes = ranks.wait(120)
        self.told.append(f"{moment} {how.name} {codes}")
        assert None not in codes, (self.told, self.log())
        return codes == [0] * self.world

    def _inode(self, name):
        try:
            return (self.run / "checkpoints" / name).stat().st_ino
        except OSError:
            return None

    def tear(self):
        """Damage one file as a power cut, a full disk or a bad one could have."""
        torn = self.rng.choice(
            ("nothing", "last", "last", "attempt", "config", "meta", "metrics", "metrics", "stray")
        )
        if not self.run.exists():
            return
        kept = [step for step in map(self._step, ("last", "prev")) if step is not None]
        if torn == "last" and len(kept) == 2:
            file = self.run / "checkpoints/last.ckpt"
            data = self._damaged(file.read_bytes())
            file.unlink()  # the best may be the same file
            file.write_bytes(data)
        elif torn == "attempt" and (files := Run(self.run).attempt_files()):
            file = files[max(files)]
            file.write_bytes(self._damaged(file.read_bytes() + b" "))
            os.utime(file, (time.time() - 300,) * 2)  # it was some minutes ago
        elif (
            torn in ("config", "meta")
            and (file := self.run / {"config": "config.yaml"}.get(torn, "meta.json")).exists()
        ):
            file.write_bytes(self._cut_or_zeroed(file.read_bytes() + b" "))
        elif torn == "metrics" and (file := self.run / "metrics.jsonl").exists():
            self._tear_rows(file, kept[0] if kept else 0)
        elif torn == "stray":
            (self.run / "attempts/._1.json").write_text("{")
            (self.run / "checkpoints/last.ckpt.0.tmp").write_text("half")
            (self.run / f"attempts/{1 + max(Run(self.run).attempt_files(), default=0)}.json").mkdir(
                exist_ok=True
            )
        self.told.append(f"torn: {torn}")

    def _step(self, name):
        try:
            return load_checkpoint(self.run / f"checkpoints/{name}.ckpt")["global_step"]
        except UserError:
            return None

    def _cut_or_zeroed(self, data):
        at = self.rng.randrange(len(data))
        return data[:at] if self.rng.random() < 0.5 else data[:at] + bytes(len(data) - at)

    def _damaged(self, data):
        if self.rng.random() < 0.5:
            return self._cut_or_zeroed(data)
        changed = bytearray(data)
        changed[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
        return bytes(changed)

    def _tear_rows(self, file, step):
        """Cut what was recorded after the checkpoint that is left, somewhere, or add
        half a line.
        """
        lines = file.read_bytes().splitlines(keepends=True)
        after = next((i for i, line in enumerate(lines) if self._is_after(line, step)), len(lines))
        rest = b"".join(lines[after:])
        rest = rest[: self.rng.randrange(len(rest) + 1)] + self.rng.choice(
            [b"", b'{"step": 3, "va', bytes(50)]
        )
        file.write_bytes(b"".join(lines[:after]) + rest)

    @staticmethod
    def _is_after(line, step):
        try:
            return json.loads(line)["step"] > step
        except (ValueError, LookupError, TypeError):
            return False

    def log(self):
        return Path("log0.txt").read_text()[-3000:] if Path("log0.txt").exists() else ""

    def play(self):
        """Kill and tear, then let it end."""
        for _ in range(KILLS):
            if self.kill():
                return
            self.tear()
        assert Ranks(self.arguments, self.world).wait(300) == [0] * self.world, (
            self.told,
            self.log(),
        )


def leaves(tree, name=""):
    """Every tensor and value of a checkpoint, but for how fast it was and where it lies."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if not str(key).startswith("perf/"):
                yield from leaves(value, f"{name}/{key}")
    elif isinstance(tree, list | tuple):
        for i, value in enumerate(tree):
            yield from leaves(value, f"{name}/{i}")
    else:
        yield name, tree


def same(a, b):
    if isinstance(a, torch.Tensor):
        return (
            a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
        )
    return a == b or (a != a and b != b)


def compare(run, complete, told):
    """Bitwise, and the number of leaves."""
    n = 0
    for name in ("last", "best"):
        ours, theirs = (
            dict(leaves(load_checkpoint(r / f"checkpoints/{name}.ckpt"))) for r in (run, complete)
        )
        assert ours.keys() == theirs.keys(), told
        assert not [key for key in ours if not same(ours[key], theirs[key])], (name, told)
        n += len(ours)
    rows = []
    for folder in (run, complete):
        merged = merge(read_rows(folder / "metrics.jsonl")[0])
        rows.append(
            [{k: v for k, v in row.items() if k not in OWN and "perf/" not in k} for row in merged]
        )
    ours, theirs = ([sorted(leaves(row)) for row in part] for part in rows)
    assert len(ours) == len(theirs), told
    for a, b in zip(ours, theirs, strict=True):
        assert len(a) == len(b) and all(
            x[0] == y[0] and same(x[1], y[1]) for x, y in zip(a, b, strict=True)
        ), (a, b)
    return n, len(ours)


@pytest.fixture
def undisturbed(here):
    """(loader, ranks) -> arguments, and the folder in which the run was left alone."""
    made = {}

    def make(loader, world):
        if (loader, world) not in made:
            arguments, folder = recipe(here / f"{loader}.yaml", loader), here / f"{loader}{world}"
            folder.mkdir()
            os.chdir(folder)
            assert Ranks(arguments, world).wait(300) == [0] * world, Path("log0.txt").read_text()[
                -2000:
            ]
            made[loader, world] = arguments, folder
        return made[loader, world]

    return make


def play(seeds, undisturbed, here):
    """The rounds of these seeds; prints what was done."""
    kills = torn = 0
    for seed in seeds:
        loader, world = KINDS[seed % len(KINDS)]
        arguments, complete = undisturbed(loader, world)
        folder = here / f"round{seed}"
        folder.mkdir()
        os.chdir(folder)
        game = Round(arguments, world, seed)
        game.play()
        n, rows = compare(only_run("runs"), only_run(complete / "runs"), game.told)
        expected = sum(
            (permutation(0, e, numbered.N)[: numbered.N].tolist() for e in range(EPOCHS)), []
        )
        steps = numbered.read("ids", world)
        assert sum((steps[s] for s in range(1, STEPS + 1)), []) == expected, game.told
        assert load_runs("runs").runs["status"].tolist() == ["finished"]
        assert not [*Path("runs").rglob("*.tmp")], game.told
        logs = "".join(file.read_text() for file in Path().glob("log*.txt"))
        assert "Traceback" not in logs, (game.told, logs[-4000:])
        kills += sum("torn" not in line for line in game.told)
        torn += sum("torn" in line and "nothing" not in line for line in game.told)
        print(
            f"round {seed} {loader} x {world}: {'; '.join(game.told)}: {n} leaves, {rows} rows "
            "equal",
            flush=True,
        )
        os.chdir(here)
        shutil.rmtree(folder)
    print(f"{len(seeds)} rounds, {kills} kills, {torn} files torn: all comparisons bitwise")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_four_rounds_of_kills(here, undisturbed):
    play([0, 1, 5, 6], undisturbed, here)


@pytest.mark.all
@pytest.mark.timeout(0)
def test_twenty_rounds_of_kills_or_more(here, undisturbed):
    play(range(ROUNDS), undisturbed, here)


def test_the_harness_trains(here):
    """So that the tests above cannot rot unseen."""
    arguments = [*recipe(here / "r.yaml", "torch"), "--trainer.max_epochs", "1"]
    assert Ranks(arguments, 1).wait(100) == [0], Path("log0.txt").read_text()
    assert json.loads((only_run("runs") / "attempts/1.json").read_text())["last_step"] == 10
    assert Run(only_run("runs")).status() == "finished"
    compare(only_run("runs"), only_run("runs"), [])
