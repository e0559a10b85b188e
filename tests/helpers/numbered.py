"""Digits whose labels are their ids, and a callback that writes down which ids each step of each
rank was given.
"""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
from pytorch_lightning.callbacks import Callback

from lightning_resnet.data.sources.digits import Digits

N, N_VAL, BATCH = 320, 40, 32


class Numbered(Digits):
    classes = [str(i) for i in range(N)]

    def splits(self):
        splits = super().splits()
        return {
            name: number(splits[name].take(np.arange(n)))
            for name, n in (("train", N), ("val", N_VAL))
        }


def number(images):
    return replace(images, labels=np.arange(len(images)))


class Few(Digits):
    """Seven samples to validate."""

    def splits(self):
        splits = super().splits()
        return splits | {"val": splits["val"].take(np.arange(7))}


class LogIds(Callback):
    def __init__(self, folder: str):
        self.folder = Path(folder)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.folder.mkdir(exist_ok=True)
        line = json.dumps({"step": trainer.global_step, "ids": batch[1].tolist()}) + "\n"
        with open(
            self.folder / f"rank{trainer.global_rank}-of-{trainer.world_size}.jsonl", "a"
        ) as file:
            file.write(line)

    def on_validation_batch_start(self, trainer, *args):
        (self.folder / "validating").touch()

    def on_train_end(self, *args):
        (self.folder / "ended").touch()

    def on_validation_end(self, *args):
        (self.folder / "validating").unlink(missing_ok=True)


def read(folder, world):
    """{step: ids of the global batch}; a step that was done again must have been given the same."""
    steps = {}
    for rank in range(world):
        for line in (Path(folder) / f"rank{rank}-of-{world}.jsonl").read_text().splitlines():
            row = json.loads(line)
            assert steps.setdefault((row["step"], rank), row["ids"]) == row["ids"], row["step"]
    return {step: sum((steps[step, r] for r in range(world)), []) for step, _ in steps}


def main(arguments, env):
    """Train in a process of the fork server, which a sweep of an earlier test may have started
    with SIGHUP ignored.
    """
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    raise SystemExit(run(arguments, env))


def run(arguments, env):
    """The command line, as the rank that `env` says."""
    os.environ |= env
    os.setsid()
    log = os.open(f"log{env.get('LOCAL_RANK', 0)}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    from lightning_resnet.cli.main import main

    return main(arguments)
