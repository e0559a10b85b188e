"""Images per second of an evaluation, from files to accuracy: ours and torchvision's.

resnet-cli bench evaluation --out benchmarks/evaluation.md
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch
import yaml

from lightning_resnet.bench.child import child, output
from lightning_resnet.bench.evaluation_peer import BATCH
from lightning_resnet.bench.inputs import make_photos
from lightning_resnet.bench.text import ratios, spread, table
from lightning_resnet.models import ImageNetResNet
from lightning_resnet.progress import metered
from lightning_resnet.training.task import ClassificationTask

CLOCK = "lightning_resnet.bench.stock.ValidationClock"
NAMES = {
    "ours": "`resnet-cli validate`, .beton",
    "torchvision": "torchvision's reference way, the source JPEGs",
}


def report(args: argparse.Namespace) -> list[str]:
    """Measure; return the lines of the Markdown report."""
    rates: dict[str, list[float]] = {"ours": [], "torchvision": []}
    with tempfile.TemporaryDirectory() as folder:
        make_photos(Path(folder), args.images)
        commands = {"ours": _ours(Path(folder), args), "torchvision": _peer(folder, args)}
        for _ in metered(range(args.repeat), args.repeat, "turns"):
            for arm, command in commands.items():
                rates[arm].append(args.images / _seconds(command))
    rows = [[NAMES[arm], spread(r, ",.0f"), ratios(rates["ours"], r)] for arm, r in rates.items()]
    return [
        "# Evaluation",
        "",
        f"ResNet-{args.depth}, {args.images} JPEGs of 500 px, central crop at {args.size} px, "
        f"batch {BATCH}, on the {args.accelerator.upper()}, {args.threads} threads (peer: and as "
        f"many processes that read); medians of {args.repeat} evaluations in turn, lowest and "
        "highest in brackets.",
        "",
        *table(["evaluation", "images/s", "ours / this"], rows),
        "",
        "From its beginning to its metrics, as after each epoch of a training: imports and the "
        "making of the net excluded, the start of reading threads and processes included. Ours "
        "decodes a JPEG at half, a quarter or an eighth of its size where that is enough for the "
        "crop; the peer decodes the full image, then resizes.",
    ]


def _ours(folder: Path, args: argparse.Namespace) -> list[str]:
    """Write recipe and checkpoint into the folder; return the command that evaluates them."""
    beton = str(folder / "photos.beton")
    init_args = {"depth": args.depth, "num_classes": 2}
    task = ClassificationTask(ImageNetResNet(**init_args))
    torch.save({"state_dict": task.state_dict()}, folder / "net.ckpt")
    recipe = {
        "trainer": {
            "max_epochs": 1,
            "accelerator": args.accelerator,
            "devices": 1,
            "callbacks": [{"class_path": CLOCK}],
        },
        "model": {"net": {"class_path": "ImageNetResNet", "init_args": init_args}},
        "data": {
            "source": {"class_path": "BetonFiles", "init_args": {"train": beton, "val": beton}},
            "batch_size": BATCH // 2,  # an evaluation takes twice as many at once
            "size": args.size,
            "workers": args.threads,
            "train_eval_samples": 1,
        },
        "run": {"threads": args.threads, "root": str(folder)},
        "wandb": {"mode": "disabled"},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    flags = ["--config", f"{folder}/recipe.yaml", "--ckpt_path", f"{folder}/net.ckpt"]
    return [sys.executable, "-m", "lightning_resnet", "validate", *flags]


def _peer(folder: str, args: argparse.Namespace) -> list[str]:
    device = "cuda" if args.accelerator == "gpu" else "cpu"
    words = [folder, args.depth, args.size, args.threads, device]
    module = "lightning_resnet.bench.evaluation_peer"
    return [sys.executable, "-m", module, *map(str, words)]


def _seconds(command: list[str]) -> float:
    with child(command) as process:
        found = (line for line in output(process) if line.startswith('{"seconds"'))
        return next(json.loads(line)["seconds"] for line in found)
