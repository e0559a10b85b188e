"""Microseconds that a training loop adds to a step: `fit`, Lightning's loops and a bare loop.

resnet-cli bench overhead --out benchmarks/overhead.md

All run in one process, on one thread, in turn: the same tiny net, batches from the same loader, the
same loss (with normalisation) and optimizer (with parameter groups).
"""

import argparse
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from torch.nn import functional as F

from lightning_resnet.bench.stock import Marks, Stock, Tiny
from lightning_resnet.bench.text import spread, table
from lightning_resnet.cli.main import main
from lightning_resnet.data.module import ImageData
from lightning_resnet.data.sources.synthetic import Synthetic
from lightning_resnet.errors import UserError
from lightning_resnet.progress import metered
from lightning_resnet.training.optimizer import parameter_groups

WARMUP_SHARE = 0.25  # share of the steps before the clock starts
SIZE = 8  # pixels per side
ARMS = {
    "bare": "bare PyTorch loop",
    "ours": "`resnet-cli fit`, its defaults",
    "lightning": "Lightning's Trainer, its defaults",
    "barebones": "Lightning's Trainer, barebones: no logging, progress or checkpoints",
}


def report(args: argparse.Namespace) -> list[str]:
    """Measure; return the lines of the Markdown report."""
    if args.steps < 8:
        raise UserError("--steps must be 8 or more")
    times = measure(args.steps, args.batch, args.repeat)
    rows = []
    for arm, values in times.items():
        beyond = [a - b for a, b in zip(values, times["bare"], strict=True)]
        rows.append([ARMS[arm], spread(values, ",.0f"), spread(beyond, ",.0f")])
    return [
        "# Overhead of a step",
        "",
        f"A net of one convolution, {args.batch} images of {SIZE}x{SIZE}, one thread, SGD; "
        f"{args.steps} steps a training, the first quarter not counted; medians of {args.repeat} "
        "trainings in turn, lowest and highest in brackets. "
        "`fit` with metrics, progress, rows every 50 steps and checks for signals; W&B off.",
        "",
        *table(["loop", "microseconds per step", "beyond the bare loop"], rows),
    ]


def measure(steps: int, batch: int, repeat: int) -> dict[str, list[float]]:
    """Return the microseconds per step of each arm, turn by turn.

    Args:
        steps: optimizer steps of each training.
        batch: images per step.
        repeat: turns that count; one more goes before them.
    """
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    arms: dict[str, Callable[[int, int], float]] = {
        "bare": _bare,
        "ours": _ours,
        "lightning": _lightning,
        "barebones": partial(_lightning, barebones=True),
    }
    times: dict[str, list[float]] = {arm: [] for arm in arms}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for turn in metered(range(repeat + 1), repeat + 1, "turns"):
            for arm, run in arms.items():
                with (
                    tempfile.TemporaryDirectory() as folder,
                    chdir(folder),
                    warnings.catch_warnings(),
                ):
                    warnings.simplefilter("ignore")
                    value = run(steps, batch)
                if turn:
                    times[arm].append(value)
    finally:
        torch.set_num_threads(threads)
    return times


def _loader(steps: int, batch: int) -> Any:
    """Return the training loader of random images in memory, one epoch of `steps` batches."""
    data = ImageData(Synthetic(batch * steps, 10, SIZE), batch)
    data.setup()
    return data.train_dataloader()


def _bare(steps: int, batch: int) -> float:
    """Train in a bare PyTorch loop; return microseconds per step."""
    net = Tiny().to(memory_format=torch.channels_last)
    loader = _loader(steps, batch)
    mean = torch.full((3, 1, 1), 127.5)
    std = torch.full((3, 1, 1), 63.75)
    groups = parameter_groups(net)
    optimizer = torch.optim.SGD(groups, 0.1, 0.9, nesterov=True, weight_decay=1e-4)
    warm = int(WARMUP_SHARE * steps)
    start = 0.0
    for step, (images, labels) in enumerate(loader):
        loss = F.cross_entropy(net((images.float() - mean) / std), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == warm:
            start = time.monotonic()
    return 1e6 * (time.monotonic() - start) / (steps - 1 - warm)


def _ours(steps: int, batch: int) -> float:
    """Train with `resnet-cli fit`; return microseconds per step."""
    source = {
        "class_path": "Synthetic",
        "init_args": {"n": batch * steps, "n_val": 10, "size": SIZE},
    }
    marks = {
        "class_path": "lightning_resnet.bench.stock.Marks",
        "init_args": {"at": _marks(steps)},
    }
    recipe = {
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "callbacks": [marks]},
        "model": {"net": {"class_path": "lightning_resnet.bench.stock.Tiny"}},
        "data": {"source": source, "batch_size": batch, "train_eval_samples": 10},
        "run": {"threads": 1},
        "wandb": {"mode": "disabled"},
    }
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        code = main(["fit", "--config", "recipe.yaml"])
    if code == 130:
        raise KeyboardInterrupt
    if code:
        last = err.getvalue().strip()[-200:]
        raise UserError(f"the measured training ended with {code}: {last}")
    return _per_step(out.getvalue(), steps)


def _lightning(steps: int, batch: int, barebones: bool = False) -> float:
    """Train with Lightning's Trainer and its defaults; return microseconds per step."""
    options = {"barebones": True} if barebones else {"default_root_dir": os.getcwd()}
    marks = Marks(_marks(steps))
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()):
        trainer = pl.Trainer(max_epochs=1, accelerator="cpu", callbacks=[marks], **options)
        try:
            trainer.fit(Stock(Tiny()), _loader(steps, batch))
        except SystemExit:  # how Lightning ends on Ctrl-C
            raise KeyboardInterrupt from None
    return _per_step(out.getvalue(), steps)


def _marks(steps: int) -> list[int]:
    """Return the numbers of the batches between which the clock runs."""
    return [int(WARMUP_SHARE * steps), steps - 1]


def _per_step(output: str, steps: int) -> float:
    """Return the microseconds per step, from what `Marks` printed."""
    first, last = (float(part.split()[0]) for part in output.split("mark ")[1:])
    return 1e6 * (last - first) / (steps - 1 - int(WARMUP_SHARE * steps))
