"""Seconds until a command answers, has used a trained net, or trained its first step.

resnet-cli bench startup --out benchmarks/startup.md
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from lightning_resnet.bench.child import child, ended
from lightning_resnet.bench.text import spread, table
from lightning_resnet.errors import UserError
from lightning_resnet.progress import metered
from lightning_resnet.runs.find import find_runs, weights_of

# prints the time after an import, so that the interpreter's end does not count
IMPORT = "import {0}, time; print('mark', time.monotonic(), flush=True)"
MARKS = ["--trainer.callbacks+=lightning_resnet.bench.stock.Marks", "--trainer.callbacks.at=[0]"]
ONE_EPOCH = ["--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
RECIPE = """\
data: {source: Digits, batch_size: 64}
model:
  net: {class_path: CifarResNet, init_args: {depth: 20}}
  optimizer:
    class_path: torch.optim.SGD
    init_args: {lr: 0.02, momentum: 0.9, nesterov: true, weight_decay: 1.0e-4}
"""
SWEEP = """\
method: grid
command: ["${env}", resnet-cli, fit, --config, recipe.yaml, --config, "${args_json_file}"]
parameters: {model.net.depth: {values: [20, 32, 44, 56]}, model.net.shortcut: {values: [none, A]}}
"""
ANSWERS = {  # arguments of `resnet-cli` that must answer at once
    "--help": ["--help"],
    "sweep --list": ["sweep", "sweep.yaml", "--list"],
    "sweep --status": ["sweep", "sweep.yaml", "--status"],
    "compare --help": ["compare", "--help"],
    "doctor --quick": ["doctor", "--quick"],
}
USES = {  # arguments of `resnet-cli` that use a trained net and end
    "validate": ["validate", "net.ckpt"],
    "evaluate": ["evaluate", "net.ckpt"],
    "predict, one image": ["predict", "net.ckpt", "image.png"],
    "convert to .ckpt": ["convert", "net.ckpt", "--out", "copy.ckpt"],
    "convert to ONNX": ["convert", "net.ckpt", "--out", "copy.onnx"],
}


def report(args: argparse.Namespace) -> list[str]:
    """Measure; return the lines of the Markdown report."""
    commands = _commands()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "recipe.yaml").write_text(RECIPE)
        Path(folder, "sweep.yaml").write_text(SWEEP)
        _train(Path(folder))
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for turn in metered(range(args.repeat + 1), args.repeat + 1, "turns"):
            for name, command in commands.items():
                mark = "mark " if MARKS[0] in command or "-c" in command else ""
                value = _seconds(command, Path(folder), mark)
                if turn:  # the first writes byte code and fills the page cache
                    seconds[name].append(value)
    return _lines(seconds, args.repeat)


def _train(folder: Path) -> None:
    """Train the net of the recipe; write its weights to net.ckpt and an image to image.png."""
    fit = [sys.executable, "-m", "lightning_resnet", "fit", "--config", "recipe.yaml", *ONE_EPOCH]
    _seconds(fit, folder, "")
    run = next(find_runs([folder]))
    shutil.copy(weights_of(str(run)), folder / "net.ckpt")
    Image.new("RGB", (32, 32), (200, 100, 50)).save(folder / "image.png")


def _commands() -> dict[str, list[str]]:
    """Return the commands that are measured, by the name that stands in the table."""
    ours = [sys.executable, "-m", "lightning_resnet"]
    stock = [sys.executable, "-m", "lightning_resnet.bench.stock"]
    fit = ["fit", "--config", "recipe.yaml", *ONE_EPOCH, "--run.threads=1", *MARKS]
    answers = {f"resnet-cli {name}": [*ours, *words] for name, words in ANSWERS.items()}
    uses = {f"resnet-cli {name}": [*ours, *words] for name, words in USES.items()}
    return {
        "import torch": [sys.executable, "-c", IMPORT.format("torch")],
        "import pytorch_lightning": [sys.executable, "-c", IMPORT.format("pytorch_lightning")],
        "Lightning's CLI, fit --help": [*stock, "fit", "--help"],
        "Lightning's CLI, fit to the first step": [*stock, "fit", *ONE_EPOCH, *MARKS],
        **answers,
        "resnet-cli fit --help": [*ours, "fit", "--help"],
        "resnet-cli fit to the first step": [*ours, *fit, "--wandb.mode=disabled"],
        "the same with W&B, offline": [*ours, *fit, "--wandb.mode=offline"],
        **uses,
    }


def _lines(seconds: dict[str, list[float]], repeat: int) -> list[str]:
    alone = seconds["import pytorch_lightning"]
    trained = [f"resnet-cli {name}" for name in USES]
    rows = []
    for name, values in seconds.items():
        beyond = ""
        if "first step" in name or "W&B" in name or name in trained:
            beyond = spread([a - b for a, b in zip(values, alone, strict=True)])
        rows.append([name, spread(values), beyond])
    return [
        "# Start-up",
        "",
        "Seconds from the keystroke until the command has ended, or the import or the first step "
        f"is done; byte code and page cache warm; medians of {repeat} turns, commands in turn; "
        "lowest and highest in brackets. ResNet-20 on digits, batch 64, one thread.",
        "",
        *table(["command", "s", "beyond `import pytorch_lightning`, s"], rows),
    ]


def _seconds(command: list[str], folder: Path, mark: str) -> float:
    """Return the seconds until the command has ended, or until the time that it prints.

    Args:
        command: the program and its arguments.
        folder: the working directory.
        mark: what the command prints before the time; it is then ended. Empty: wait for its end.

    Raises:
        UserError: the command failed, or ended without a mark.
    """
    env = os.environ | {
        "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    start = time.monotonic()
    runs = ["--run.root", tempfile.mkdtemp(dir=folder)] if "--config" in command else []
    lines = []
    with child([*command, *runs], cwd=folder, env=env, stderr=subprocess.STDOUT) as process:
        for line in process.stdout:
            lines.append(line.strip())
            if mark and mark in line:  # Lightning's bar may stand before it
                return float(line.rpartition(mark)[2].split()[0]) - start
        ended(process, lines)
    if mark:
        last = " ".join(lines[-3:])
        raise UserError(f"{' '.join(command)} did not come to its first step: {last}")
    return time.monotonic() - start
