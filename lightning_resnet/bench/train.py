"""`resnet-cli fit` with all that it does in a step: its bottleneck, and its speed beside a bare PyTorch DDP loop.

resnet-cli bench train --processes 2 --out benchmarks/train.md
resnet-cli bench train --recipe configs/digits.yaml --processes 1 --json benchmarks/train.jsonl
resnet-cli bench train --nets fashion fashion-pooled --loaders device ffcv --processes 1 --threads 2
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from lightning_resnet.bench.text import ratios, spread, table
from lightning_resnet.errors import UserError
from lightning_resnet.runtime.launch import free_port
from lightning_resnet.runtime.progress import metered

FASHION = {"source": "FashionMNIST", "crop": "pad", "pad": 2, "flip": True, "train_eval_samples": 10}
NETS = {  # name -> net, its arguments, pixels, images per optimizer step, data (else random pictures in memory)
    "digits": ("CifarResNet", {"depth": 20}, 8, 64, None),
    "resnet18-64": ("ImageNetResNet", {"depth": 18, "num_classes": 10}, 64, 32, None),
    "fashion": ("CifarResNet", {"depth": 8, "width": 4}, 28, 512, FASHION),
    "fashion-pooled": ("lightning_resnet.bench.stock.Pooled", {}, 28, 512, FASHION),
}
PARTS = {"data": "decode and copy", "step": "step", "loop": "logging and loop"}
HANG_S = 900  # seconds after which a measurement is given up
TIMELINE = "lightning_resnet.bench.stock.Timeline"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `resnet-cli bench train`."""
    parser.add_argument("--nets", nargs="+", choices=NETS, default=["digits"])
    parser.add_argument("--recipe", help="instead of --nets: what it trains, one epoch of it, by its own loader")
    parser.add_argument("--loaders", nargs="+", help="values of data.loader, one beside the other (default: auto)")
    parser.add_argument("--processes", type=int, default=2, help="ranks (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of each rank (default: %(default)s)")
    parser.add_argument("--accelerator", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--steps", type=int, default=200, help="of each training (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=5, help="trainings of each kind, in turn (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="also append a row for each net")


def report(args: argparse.Namespace) -> list[str]:
    """Measure; the lines of the Markdown report."""
    lines = ["# Training step", "", f"Ranks: {args.processes}, {args.threads} threads each; medians of {args.repeat} "]
    lines[-1] += f"trainings of each kind in turn, at most {args.steps} steps each, lowest and highest in brackets."
    rows = [row for name in args.nets if not args.recipe for row in _measured(name, args)]
    rows += _measured(args.recipe, args) if args.recipe else []
    head = ["net", "fit, images/s", "fit, steps/s", "first loader / this" if args.loaders else "", "bare loop, steps/s"]
    return [
        *lines,
        "",
        *table([*head, "fit / bare", "bottleneck", *PARTS.values()], rows),
        "",
        "Shares of a step's time: waiting for data (decoding and copying that the step does not hide; a GPU's copies "
        "run on a stream of their own), the step from its first hook to its last, and what is left.",
    ]


def _measured(name: str, args: argparse.Namespace) -> list[list[str]]:
    """A row for each loader."""
    recipe = yaml.safe_load(Path(name).read_text()) if args.recipe else make_recipe(name, args.steps)
    loaders = args.loaders or [recipe["data"].get("loader", "auto")]
    ours: dict[str, list[dict[str, float]]] = {loader: [] for loader in loaders}
    bare = []
    for _ in metered(range(args.repeat), args.repeat, "turns"):
        for loader, found in ours.items():
            one = recipe | {"data": recipe["data"] | {"loader": loader}}
            found.append(measure(one, args.processes, args.steps, args.accelerator, args.threads))
        bare += [_bare(name, args)] if name in NETS and not NETS[name][-1] else []
    rows = []
    for loader, found in ours.items():
        shown = f"{name}, {loader}" if args.loaders else name
        beside = ratios([o["steps_per_s"] for o in ours[loaders[0]]], [o["steps_per_s"] for o in found])
        rows.append(_row(shown, found, bare, beside if args.loaders else ""))
        _append(args, shown, found, bare)
    return rows


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
    from lightning_resnet.runtime.provenance import code, hardware, versions

    if args.json:
        facts = {"hardware": hardware(), "versions": versions(), **code(), "processes": args.processes}
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
    recipe: dict[str, Any], processes: int, steps: int, accelerator: str = "cpu", threads: int = 1
) -> dict[str, float]:
    """Steps and images per second of one epoch, and the shares of a step's time (`PARTS`)."""
    every = max(1, steps // 5)
    trainer = {"max_epochs": 1, "accelerator": accelerator, "log_every_n_steps": every, "devices": processes}
    trainer["limit_train_batches"] = steps
    trainer["callbacks"] = [{"class_path": TIMELINE}]
    recipe = recipe | {"trainer": recipe.get("trainer", {}) | trainer, "run": {"threads": threads}}
    recipe["wandb"] = {"mode": "disabled"}  # the loop is measured, not a service
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "r.yaml").write_text(yaml.safe_dump(recipe))
        command = ["-m", "lightning_resnet.cli", "fit", "--config", f"{folder}/r.yaml", "--run.root", folder]
        (output,) = _wait([subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)])
        rows = [json.loads(line) for line in next(Path(folder).rglob("metrics.jsonl")).read_text().splitlines()]
    first, *rest = [row for row in rows if "perf/images_per_s" in row]
    seconds = rest[-1]["time"] - first["time"]
    rate = (rest[-1]["step"] - first["step"]) / seconds
    timeline = next(json.loads(line)["timeline"] for line in output.splitlines() if line.startswith('{"timeline"'))
    data = sum(row["perf/data_wait_frac"] for row in rest) / len(rest)
    step = min(1 - data, timeline["busy"] / timeline["all"])
    images = rate * recipe["data"]["batch_size"]
    return {"steps_per_s": rate, "images_per_s": images, "data": data, "step": step, "loop": 1 - data - step}


def _bare(name: str, args: argparse.Namespace) -> float:
    net, init_args, size, batch, _ = NETS[name]
    options = {"net": net, "init_args": init_args, "size": size, "batch": batch // args.processes, "steps": args.steps}
    options["threads"], options["gpu"] = args.threads, args.accelerator == "gpu"
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
