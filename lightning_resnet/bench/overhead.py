"""Microseconds that a training loop adds to a step: `fit` and Lightning's loops beside a bare PyTorch loop.

resnet-cli bench overhead --out benchmarks/overhead.md

All in one process, on one thread, in turn: the same tiny net, batches from the same loader, the same loss (with
normalisation) and optimizer (with parameter groups).
"""

import argparse
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import yaml

from lightning_resnet.arguments import positive
from lightning_resnet.bench.text import spread, table
from lightning_resnet.errors import UserError
from lightning_resnet.progress import metered

WARM = 0.25  # share of the steps before the clock starts
SIZE = 8  # pixels per side
ARMS = {
    "bare": "bare PyTorch loop",
    "ours": "`resnet-cli fit`, its defaults",
    "lightning": "Lightning's Trainer, its defaults",
    "barebones": "Lightning's Trainer, barebones: no logging, progress or checkpoints",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `resnet-cli bench overhead`."""
    parser.add_argument("--steps", type=positive, default=800, help="of each training (default: %(default)s)")
    parser.add_argument("--batch", type=positive, default=8, help="images of 8x8 (default: %(default)s)")
    parser.add_argument(
        "--repeat", type=positive, default=7, help="trainings of each kind, in turn (default: %(default)s)"
    )


def report(args: argparse.Namespace) -> list[str]:
    """Measure; the lines of the Markdown report."""
    if args.steps < 8:
        raise UserError("--steps must be 8 or more")
    times = measure(args.steps, args.batch, args.repeat)
    beyond = {arm: [a - b for a, b in zip(t, times["bare"], strict=True)] for arm, t in times.items()}
    rows = [[ARMS[arm], spread(t, ",.0f"), spread(beyond[arm], ",.0f")] for arm, t in times.items()]
    return [
        "# Overhead of a step",
        "",
        f"A net of one convolution, {args.batch} images of {SIZE}x{SIZE}, one thread, SGD; {args.steps} steps a "
        f"training, the first quarter not counted; medians of {args.repeat} trainings in turn, lowest and highest in "
        "brackets. "
        "`fit` with metrics, progress, rows every 50 steps and checks for signals; W&B off.",
        "",
        *table(["loop", "microseconds per step", "beyond the bare loop"], rows),
    ]


def measure(steps: int, batch: int, repeat: int) -> dict[str, list[float]]:
    """Microseconds per step of each arm, turn by turn."""
    import torch

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    arms: dict[str, Callable[..., float]] = {"bare": _bare, "ours": _ours, "lightning": _lightning}
    arms["barebones"] = lambda *args: _lightning(*args, barebones=True)
    times: dict[str, list[float]] = {arm: [] for arm in arms}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for turn in metered(range(repeat + 1), repeat + 1, "turns"):
            for arm, run in arms.items():
                with tempfile.TemporaryDirectory() as folder, chdir(folder), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    value = run(steps, batch)
                if turn:
                    times[arm].append(value)
    finally:
        torch.set_num_threads(threads)
    return times


def _loader(steps: int, batch: int) -> Any:
    from lightning_resnet.data.module import ImageData
    from lightning_resnet.data.sources.synthetic import Synthetic

    data = ImageData(Synthetic(batch * steps, 10, SIZE), batch)
    data.setup()
    return data.train_dataloader()


def _bare(steps: int, batch: int) -> float:
    """As short as it can be."""
    import torch
    from torch.nn import functional as F

    from lightning_resnet.bench.stock import Tiny
    from lightning_resnet.training.optimizer import parameter_groups

    net, loader = Tiny().to(memory_format=torch.channels_last), _loader(steps, batch)
    mean, std = torch.full((3, 1, 1), 127.5), torch.full((3, 1, 1), 63.75)
    optimizer = torch.optim.SGD(parameter_groups(net), 0.1, 0.9, nesterov=True, weight_decay=1e-4)
    warm, start = int(WARM * steps), 0.0
    for step, (images, labels) in enumerate(loader):
        loss = F.cross_entropy(net((images.float() - mean) / std), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == warm:
            start = time.monotonic()
    return 1e6 * (time.monotonic() - start) / (steps - 1 - warm)


def _ours(steps: int, batch: int) -> float:
    """The command itself."""
    from lightning_resnet.cli.main import main

    source = {"class_path": "Synthetic", "init_args": {"n": batch * steps, "n_val": 10, "size": SIZE}}
    marks = {"class_path": "lightning_resnet.bench.stock.Marks", "init_args": {"at": _marks(steps)}}
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
        raise UserError(f"the measured training ended with {code}: {err.getvalue().strip()[-200:]}")
    return _per_step(out.getvalue(), steps)


def _lightning(steps: int, batch: int, barebones: bool = False) -> float:
    """A Trainer with its defaults."""
    import pytorch_lightning as pl

    from lightning_resnet.bench.stock import Marks, Stock, Tiny

    options = {"barebones": True} if barebones else {"default_root_dir": os.getcwd()}
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()):
        trainer = pl.Trainer(max_epochs=1, accelerator="cpu", callbacks=[Marks(_marks(steps))], **options)
        try:
            trainer.fit(Stock(Tiny()), _loader(steps, batch))
        except SystemExit:  # how Lightning ends on Ctrl-C
            raise KeyboardInterrupt from None
    return _per_step(out.getvalue(), steps)


def _marks(steps: int) -> list[int]:
    return [int(WARM * steps), steps - 1]


def _per_step(output: str, steps: int) -> float:
    """Microseconds, from what `Marks` printed."""
    first, last = (float(part.split()[0]) for part in output.split("mark ")[1:])
    return 1e6 * (last - first) / (steps - 1 - int(WARM * steps))
