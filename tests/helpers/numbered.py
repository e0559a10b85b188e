"""Digits whose labels are their ids, and a callback that writes down which ids each step of each
rank was given.
"""

import json
import os
import signal
import time
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from pytorch_lightning.callbacks import Callback

from lightning_resnet.data.sources.digits import Digits
from lightning_resnet.engine import agreement
from lightning_resnet.engine.signals import request

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


class LogDraws(Callback):
    """Write what each micro-batch of each rank was given: for each image its id and a checksum of
    its pixels, the draws of its branches and of its pair, and the learning rate. Pause in each
    step, and ask to stop after one, as the environment says.
    """

    def on_train_start(self, *args):
        agreement.PERIOD_S = 0  # so that all stop at the step after

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        images, labels, _, *draws = pl_module.inputs(batch, batch_idx)
        pixels = [zlib.crc32(image.numpy().tobytes()) for image in images.contiguous()]
        pairs = [torch.cat([d.reshape(len(d), -1) for d in draws[-2:]], 1).tolist()]
        step, part = divmod(batch_idx, trainer.accumulate_grad_batches)
        row = {
            "at": [trainer.current_epoch, step, trainer.global_rank, part],
            "images": [*zip(labels.tolist(), pixels, *draws[0].tolist(), strict=True)],
            "pairs": pairs[0],
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
        }
        Path("draws").mkdir(exist_ok=True)
        with open(f"draws/rank{trainer.global_rank}-of-{trainer.world_size}.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")
        time.sleep(float(os.environ.get("PAUSE", 0)))
        if str(trainer.global_step) == os.environ.get("STOP_AT"):
            request.signum = signal.SIGTERM


def read_draws(folder):
    """{(epoch, step): [images, pairs, rates] of the global batch}; a step that was done again, on
    as many ranks or others, must have been given the same.
    """
    steps = {}
    for file in sorted(Path(folder).iterdir()):
        world = int(file.stem.rpartition("-")[2])
        for line in file.read_text().splitlines():
            if not line.endswith("}"):  # torn by a kill
                continue
            row = json.loads(line)
            epoch, step, rank, part = row["at"]
            given = steps.setdefault((epoch, step), {}).setdefault(world, {})
            found = [row["images"], row["pairs"], row["lr"]]
            assert given.setdefault((rank, part), found) == found, row["at"]
    batches = {}
    for at, made in steps.items():
        for world, parts in made.items():
            if len({rank for rank, _ in parts}) < world:  # killed before all ranks had written it
                continue
            given = [parts[place] for place in sorted(parts)]
            images, pairs = (sum((g[k] for g in given), []) for k in (0, 1))
            batch = [images, pairs, {g[2] for g in given}]
            assert batches.setdefault(at, batch) == batch, (at, world)
    return batches


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
