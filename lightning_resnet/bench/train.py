"""`resnet-cli fit` with all that it does in a step: bottleneck, and speed against a bare loop.

resnet-cli bench train --processes 2 --out benchmarks/train.md
resnet-cli bench train --recipe configs/digits.yaml --processes 1 --json benchmarks/train.jsonl
resnet-cli bench train --nets fashion fashion-pooled --loaders device ffcv --processes 1 --threads 2
resnet-cli bench train --recipe configs/photos.yaml --processes 1 --flags --data.batch_size 64
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from lightning_resnet.bench.child import child, output
from lightning_resnet.bench.text import ratios, spread, table
from lightning_resnet.engine.launch import free_port
from lightning_resnet.errors import UserError
from lightning_resnet.progress import metered
from lightning_resnet.provenance import code, hardware, versions
from lightning_resnet.reading import read_yaml
from lightning_resnet.shipped import recipe_file

FASHION = {
    "source": "FashionMNIST",
    "crop": "pad",
    "pad": 2,
    "flip": True,
    "train_eval_samples": 10,
}
# name -> net, its arguments, pixels, images per optimizer step, data (else random images in memory)
NETS = {
    "digits": ("CifarResNet", {"depth": 20}, 8, 64, None),
    "resnet18-64": ("ImageNetResNet", {"depth": 18, "num_classes": 10}, 64, 32, None),
    "fashion": ("CifarResNet", {"depth": 8, "width": 4}, 28, 512, FASHION),
    "fashion-pooled": ("lightning_resnet.bench.stock.Pooled", {}, 28, 512, FASHION),
}
PARTS = {"decode": "decode", "copy": "copy", "step": "step", "loop": "logging and loop"}
TIMELINE = "lightning_resnet.bench.stock.Timeline"


def report(args: argparse.Namespace) -> list[str]:
    """Measure; return the lines of the Markdown report."""
    if isinstance(args.as_json, str):
        Path(args.as_json).open("a").close()  # an error now, not after the measurements
    names = [args.recipe] if args.recipe else args.nets
    rows = []
    for name in names:
        rows += _measured(name, args)
    head = [
        "net",
        "fit, images/s",
        "fit, steps/s",
        "first loader / this",
        "bare loop, steps/s",
        "fit / bare",
        "bottleneck",
        *PARTS.values(),
    ]
    columns = zip(head, *rows, strict=True)
    filled = [column for column in columns if any(column[1:])]
    head, *rows = zip(*filled, strict=True)
    return [
        "# Training step",
        "",
        f"Ranks: {args.processes}, {args.threads} threads each; medians of {args.repeat} trainings "
        f"of each kind in turn, at most {args.steps} steps each, lowest and highest in brackets.",
        "",
        *table(head, rows),
        "",
        "Shares of the time: waiting for the loader, waiting for copies to the device (of which a "
        "GPU's stream of its own hides most; on the CPU there are none), the step from its first "
        "hook to its last, and what is left.",
    ]


def _measured(name: str, args: argparse.Namespace) -> list[list[str]]:
    """Return a row of the table for each loader."""
    recipe = _read(name) if args.recipe else make_recipe(name, args.steps)
    loaders = args.loaders or [recipe["data"].get("loader", "auto")]
    ours: dict[str, list[dict[str, float]]] = {loader: [] for loader in loaders}
    bare = []
    for _ in metered(range(args.repeat), args.repeat, "turns"):
        for loader, found in ours.items():
            one = recipe | {"data": recipe["data"] | {"loader": loader}}
            figures = measure(
                one, args.processes, args.steps, args.accelerator, args.threads, args.flags
            )
            found.append(figures)
        if name in NETS and not NETS[name][-1]:
            bare.append(_bare(name, args))
    rows = []
    first = [one["steps_per_s"] for one in ours[loaders[0]]]
    for loader, found in ours.items():
        shown = name
        ratio = ""
        if args.loaders:
            shown = f"{name}, {loader}"
            ratio = ratios(first, [one["steps_per_s"] for one in found])
        rows.append(_row(shown, found, bare, ratio))
        if isinstance(args.as_json, str):
            _append(args, shown, found, bare)
    return rows


def _read(recipe: str) -> dict[str, Any]:
    content = read_yaml(recipe_file(recipe))
    if not isinstance(content, dict) or not content.get("data"):
        cure = "give a recipe of `fit`, such as digits"
        raise UserError(f"--recipe {recipe} has no `data`: {cure}")
    return content


def _row(name: str, ours: list[dict[str, float]], bare: list[float], ratio: str = "") -> list[str]:
    """Return one row of the table.

    Args:
        name: of the net, and of the loader where there are several.
        ours: what `measure` returned, turn by turn.
        bare: steps per second of the bare loop, turn by turn; empty: not measured.
        ratio: speed of the first loader over this one's.
    """
    rate = [one["steps_per_s"] for one in ours]
    images = [one["images_per_s"] for one in ours]
    shares = {part: sorted(one[part] for one in ours)[len(ours) // 2] for part in PARTS}
    return [
        name,
        spread(images, ",.0f"),
        spread(rate, ".1f"),
        ratio,
        spread(bare, ".1f") if bare else "",
        ratios(rate, bare) if bare else "",
        PARTS[max(shares, key=shares.get)],
        *(f"{100 * s:.1f} %" for s in shares.values()),
    ]


def _append(
    args: argparse.Namespace, name: str, ours: list[dict[str, float]], bare: list[float]
) -> None:
    """Append a row to the file of `--json`."""
    row = {
        "net": name,
        "fit": ours,
        "bare_steps_per_s": bare,
        "hardware": hardware(),
        "versions": versions(),
        **code(),
    }
    for key in ("processes", "threads", "accelerator", "steps", "flags"):
        row[key] = getattr(args, key)
    with Path(args.as_json).open("a") as file:
        file.write(json.dumps(row) + "\n")


def make_recipe(name: str, steps: int, ranks: int = 1) -> dict[str, Any]:
    """Return a recipe that trains a net of `NETS` for `steps` steps, its batch times `ranks`."""
    net, init_args, size, batch, data = NETS[name]
    batch *= ranks
    source = {
        "class_path": "Synthetic",
        "init_args": {"n": batch * steps, "n_val": 10 * ranks, "size": size},
    }
    data = data or {"source": source, "train_eval_samples": 10 * ranks, "workers": 0}
    return {
        "model": {"net": {"class_path": net, "init_args": init_args}},
        "data": data | {"batch_size": batch},
    }


def measure(
    recipe: dict[str, Any],
    processes: int,
    steps: int,
    accelerator: str = "cpu",
    threads: int = 1,
    flags: Sequence[str] = (),
) -> dict[str, float]:
    """Return steps and images per second of one epoch, and the shares of the time (`PARTS`).

    Args:
        recipe: of `fit`.
        processes: ranks.
        steps: batches that are trained at most.
        accelerator: of the trainer.
        threads: of each rank.
        flags: more of `fit`.

    Raises:
        UserError: the training failed, or an epoch has fewer than three batches.
    """
    trainer = {
        **recipe.get("trainer", {}),
        "max_epochs": 1,
        "accelerator": accelerator,
        "devices": processes,
        "limit_train_batches": steps,
        "limit_val_batches": 0,
        "callbacks": [{"class_path": TIMELINE}],
    }
    recipe = {
        **recipe,
        "trainer": trainer,
        "run": {"threads": threads},
        "wandb": {"mode": "disabled"},  # the loop is measured, not a service
    }
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "r.yaml").write_text(yaml.safe_dump(recipe))
        fit = ["fit", "--config", f"{folder}/r.yaml", "--run.root", folder, *flags]
        with child([sys.executable, "-m", "lightning_resnet", *fit]) as process:
            lines = output(process)
    printed = [line for line in lines if line.startswith('{"steps_per_s"')]
    if not printed:
        cure = "a smaller --data.batch_size"
        raise UserError(f"an epoch has fewer than three batches, nothing was measured: {cure}")
    found = json.loads(printed[0])
    decode = found["read"]
    copy = found["data"] - found["read"]
    step = min(1 - found["data"], found["busy"])
    return {
        "steps_per_s": found["steps_per_s"],
        "images_per_s": found["steps_per_s"] * found["images"],
        "decode": decode,
        "copy": copy,
        "step": step,
        "loop": 1 - (decode + copy + step),
    }


def _bare(name: str, args: argparse.Namespace) -> float:
    """Return the steps per second of the bare loop."""
    net, init_args, size, batch, _ = NETS[name]
    options = {
        "net": net,
        "init_args": init_args,
        "size": size,
        "batch": batch // args.processes,
        "steps": args.steps,
        "threads": args.threads,
        "gpu": args.accelerator == "gpu",
    }
    command = [sys.executable, "-m", "lightning_resnet.bench.bare", json.dumps(options)]
    env = os.environ | {
        "WORLD_SIZE": str(args.processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    with ExitStack() as stack:
        ranks = []
        for rank in range(args.processes):
            process = child(command, env=env | {"LOCAL_RANK": str(rank)})
            ranks.append(stack.enter_context(process))
        return json.loads(output(ranks[0])[-1])["steps_per_s"]
