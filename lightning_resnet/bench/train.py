"""`resnet-cli fit` with all that it does in a step: its bottleneck, and its speed beside a bare PyTorch DDP loop.

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

from lightning_resnet.arguments import positive
from lightning_resnet.bench.child import child, output
from lightning_resnet.bench.text import ratios, spread, table
from lightning_resnet.engine.launch import free_port
from lightning_resnet.errors import UserError
from lightning_resnet.progress import metered
from lightning_resnet.reading import read_yaml

FASHION = {"source": "FashionMNIST", "crop": "pad", "pad": 2, "flip": True, "train_eval_samples": 10}
NETS = {  # name -> net, its arguments, pixels, images per optimizer step, data (else random pictures in memory)
    "digits": ("CifarResNet", {"depth": 20}, 8, 64, None),
    "resnet18-64": ("ImageNetResNet", {"depth": 18, "num_classes": 10}, 64, 32, None),
    "fashion": ("CifarResNet", {"depth": 8, "width": 4}, 28, 512, FASHION),
    "fashion-pooled": ("lightning_resnet.bench.stock.Pooled", {}, 28, 512, FASHION),
}
PARTS = {"decode": "decode", "copy": "copy", "step": "step", "loop": "logging and loop"}
TIMELINE = "lightning_resnet.bench.stock.Timeline"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `resnet-cli bench train`."""
    parser.add_argument("--nets", nargs="+", choices=NETS, default=["digits"])
    parser.add_argument("--recipe", help="instead of --nets: what it trains, one epoch of it, by its own loader")
    parser.add_argument("--loaders", nargs="+", help="values of data.loader, one beside the other (default: auto)")
    parser.add_argument("--processes", type=positive, default=2, help="ranks (default: %(default)s)")
    parser.add_argument("--threads", type=positive, default=1, help="of each rank (default: %(default)s)")
    parser.add_argument("--accelerator", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--steps", type=positive, default=200, help="of each training (default: %(default)s)")
    parser.add_argument(
        "--repeat", type=positive, default=5, help="trainings of each kind, in turn (default: %(default)s)"
    )
    parser.add_argument("--json", metavar="FILE", help="also append a row for each net")
    more = "last: more flags of `fit`, such as --data.batch_size 64"
    parser.add_argument("--flags", nargs=argparse.REMAINDER, default=[], help=more)


def report(args: argparse.Namespace) -> list[str]:
    """Measure; the lines of the Markdown report."""
    if args.json:
        Path(args.json).open("a").close()  # an error now, not after the measurements
    lines = ["# Training step", "", f"Ranks: {args.processes}, {args.threads} threads each; medians of {args.repeat} "]
    lines[-1] += f"trainings of each kind in turn, at most {args.steps} steps each, lowest and highest in brackets."
    rows = [row for name in args.nets if not args.recipe for row in _measured(name, args)]
    rows += _measured(args.recipe, args) if args.recipe else []
    head = ["net", "fit, images/s", "fit, steps/s", "first loader / this", "bare loop, steps/s", "fit / bare"]
    columns = zip([*head, "bottleneck", *PARTS.values()], *rows, strict=True)
    head, *rows = zip(*(column for column in columns if any(column[1:])), strict=True)
    return [
        *lines,
        "",
        *table(head, rows),
        "",
        "Shares of the time: waiting for the loader, waiting for copies to the device (of which a GPU's stream of its "
        "own hides most; on the CPU there are none), the step from its first hook to its last, and what is left.",
    ]


def _measured(name: str, args: argparse.Namespace) -> list[list[str]]:
    """A row for each loader."""
    recipe = _read(name) if args.recipe else make_recipe(name, args.steps)
    loaders = args.loaders or [recipe["data"].get("loader", "auto")]
    ours: dict[str, list[dict[str, float]]] = {loader: [] for loader in loaders}
    bare = []
    for _ in metered(range(args.repeat), args.repeat, "turns"):
        for loader, found in ours.items():
            one = recipe | {"data": recipe["data"] | {"loader": loader}}
            found.append(measure(one, args.processes, args.steps, args.accelerator, args.threads, args.flags))
        bare += [_bare(name, args)] if name in NETS and not NETS[name][-1] else []
    rows = []
    for loader, found in ours.items():
        shown = f"{name}, {loader}" if args.loaders else name
        beside = ratios([o["steps_per_s"] for o in ours[loaders[0]]], [o["steps_per_s"] for o in found])
        rows.append(_row(shown, found, bare, beside if args.loaders else ""))
        _append(args, shown, found, bare)
    return rows


def _read(recipe: str) -> dict[str, Any]:
    content = read_yaml(Path(recipe))
    if not isinstance(content, dict) or not content.get("data"):
        raise UserError(f"--recipe {recipe} has no `data`: give a recipe of `fit`, such as configs/digits.yaml")
    return content


def _row(name: str, ours: list[dict[str, float]], bare: list[float], beside: str = "") -> list[str]:
    rate, images = [o["steps_per_s"] for o in ours], [o["images_per_s"] for o in ours]
    shares = {part: sorted(o[part] for o in ours)[len(ours) // 2] for part in PARTS}
    return [
        name,
        spread(images, ",.0f"),
        spread(rate, ".1f"),
        beside,
        *([spread(bare, ".1f"), ratios(rate, bare)] if bare else ["", ""]),
        PARTS[max(shares, key=shares.get)],
        *(f"{100 * s:.1f} %" for s in shares.values()),
    ]


def _append(args: argparse.Namespace, name: str, ours: list[dict[str, float]], bare: list[float]) -> None:
    from lightning_resnet.provenance import code, hardware, versions

    if args.json:
        given = {k: getattr(args, k) for k in ("processes", "threads", "accelerator", "steps", "flags")}
        facts = {"hardware": hardware(), "versions": versions(), **code(), **given}
        with Path(args.json).open("a") as file:
            file.write(json.dumps({"net": name, "fit": ours, "bare_steps_per_s": bare, **facts}) + "\n")


def make_recipe(name: str, steps: int, ranks: int = 1) -> dict[str, Any]:
    """A recipe that trains a net of `NETS` for one epoch of `steps`, its batch times `ranks`."""
    net, init_args, size, batch, data = NETS[name]
    batch *= ranks
    source = {"class_path": "Synthetic", "init_args": {"n": batch * steps, "n_val": 10 * ranks, "size": size}}
    return {
        "model": {"net": {"class_path": net, "init_args": init_args}},
        "data": (data or {"source": source, "train_eval_samples": 10 * ranks, "workers": 0}) | {"batch_size": batch},
    }


def measure(
    recipe: dict[str, Any],
    processes: int,
    steps: int,
    accelerator: str = "cpu",
    threads: int = 1,
    flags: Sequence[str] = (),
) -> dict[str, float]:
    """Steps and images per second of one epoch, and the shares of its time (`PARTS`).

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
    trainer = {"max_epochs": 1, "accelerator": accelerator, "devices": processes, "limit_train_batches": steps}
    trainer |= {"limit_val_batches": 0, "callbacks": [{"class_path": TIMELINE}]}
    recipe = recipe | {"trainer": recipe.get("trainer", {}) | trainer, "run": {"threads": threads}}
    recipe["wandb"] = {"mode": "disabled"}  # the loop is measured, not a service
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "r.yaml").write_text(yaml.safe_dump(recipe))
        command = [
            "-m",
            "lightning_resnet",
            "fit",
            "--config",
            f"{folder}/r.yaml",
            "--run.root",
            folder,
            *flags,
        ]
        with child([sys.executable, *command]) as process:
            lines = output(process)
    found = next((json.loads(line) for line in lines if line.startswith('{"steps_per_s"')), None)
    if found is None:
        raise UserError("an epoch has fewer than three batches, nothing was measured: a smaller --data.batch_size")
    shares = {"decode": found["read"], "copy": found["data"] - found["read"]}
    shares["step"] = min(1 - found["data"], found["busy"])
    rate = found["steps_per_s"]
    return {"steps_per_s": rate, "images_per_s": rate * found["images"], **shares, "loop": 1 - sum(shares.values())}


def _bare(name: str, args: argparse.Namespace) -> float:
    net, init_args, size, batch, _ = NETS[name]
    options = {"net": net, "init_args": init_args, "size": size, "batch": batch // args.processes, "steps": args.steps}
    options["threads"], options["gpu"] = args.threads, args.accelerator == "gpu"
    env = os.environ | {"WORLD_SIZE": str(args.processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, "-m", "lightning_resnet.bench.bare", json.dumps(options)]
    with ExitStack() as stack:
        ranks = [stack.enter_context(child(command, env=env | {"LOCAL_RANK": str(r)})) for r in range(args.processes)]
        return json.loads(output(ranks[0])[-1])["steps_per_s"]
