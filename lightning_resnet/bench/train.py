"""Steps per second of `resnet-cli fit`, with all that it does in a step, beside a bare PyTorch DDP loop, in turn.

resnet-cli bench train --processes 2 --out benchmarks/train.md
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from lightning_resnet.bench.text import ratios, spread
from lightning_resnet.errors import UserError
from lightning_resnet.runtime.launch import free_port

NETS = {  # name -> net, its arguments, pixels, images per optimizer step
    "digits": ("CifarResNet", {"depth": 20}, 8, 64),
    "resnet18-64": ("ImageNetResNet", {"depth": 18, "num_classes": 10}, 64, 32),
}
HANG_S = 900  # seconds after which a measurement is given up


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `resnet-cli bench train`."""
    parser.add_argument("--nets", nargs="+", choices=NETS, default=["digits"])
    parser.add_argument("--processes", type=int, default=2, help="ranks, one thread each (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=200, help="of each training (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=5, help="trainings of each kind, in turn (default: %(default)s)")


def report(args: argparse.Namespace) -> list[str]:
    """Measure; the lines of the Markdown report."""
    intro = f"{args.processes} ranks (gloo), one thread each; medians of {args.repeat} trainings of each kind in turn, "
    lines = ["# Training step", "", intro + f"{args.steps} steps each, lowest and highest in brackets.", ""]
    lines += ["| net | fit, steps/s | bare DDP loop, steps/s | fit / bare |", "|---|--:|--:|--:|"]
    for name in args.nets:
        pairs = [(_ours(name, args), _bare(name, args)) for _ in range(args.repeat)]
        ours, bare = zip(*pairs, strict=True)
        lines.append(f"| {name} | {spread(ours, '.1f')} | {spread(bare, '.1f')} | {ratios(ours, bare)} |")
    return lines


def _ours(name: str, args: argparse.Namespace) -> float:
    """From the rows of a run: one epoch, so that nothing but steps lies between the first row and the last."""
    net, init_args, size, batch = NETS[name]
    every = max(1, args.steps // 5)
    source = {"class_path": "Synthetic", "init_args": {"n": batch * args.steps, "n_val": 10, "size": size}}
    recipe = {
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "log_every_n_steps": every, "devices": args.processes},
        "model": {"net": {"class_path": net, "init_args": init_args}},
        "data": {"source": source, "batch_size": batch, "train_eval_samples": 10, "workers": 0},
        "run": {"threads": 1},
        "wandb": {"mode": "disabled"},  # the loop is measured, not a service's start
    }
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "r.yaml").write_text(yaml.safe_dump(recipe))
        command = ["-m", "lightning_resnet.cli", "fit", "--config", f"{folder}/r.yaml", "--run.root", folder]
        _wait([subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)])
        rows = [json.loads(line) for line in next(Path(folder).rglob("metrics.jsonl")).read_text().splitlines()]
    first, *_, last = [row for row in rows if "train/loss" in row]
    return (last["step"] - first["step"]) / (last["time"] - first["time"])


def _bare(name: str, args: argparse.Namespace) -> float:
    net, init_args, size, batch = NETS[name]
    options = {"net": net, "init_args": init_args, "size": size, "batch": batch // args.processes, "steps": args.steps}
    env = os.environ | {"WORLD_SIZE": str(args.processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, "-m", "lightning_resnet.bench.bare", json.dumps(options)]
    ranks = [
        subprocess.Popen(command, env=env | {"LOCAL_RANK": str(r)}, stdout=subprocess.PIPE, text=True)
        for r in range(args.processes)
    ]
    return json.loads(_wait(ranks)[0].splitlines()[-1])["steps_per_s"]


def _wait(processes: list[subprocess.Popen]) -> list[str]:
    try:
        outputs = [p.communicate(timeout=HANG_S)[0] for p in processes]
    finally:
        for p in processes:
            p.kill()
    if failed := [p for p in processes if p.returncode]:
        raise UserError(f"a measured training ended with {failed[0].returncode}: {' '.join(failed[0].args)}")
    return outputs
