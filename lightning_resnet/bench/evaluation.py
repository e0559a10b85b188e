"""Pictures per second of an evaluation, from files to accuracy: `resnet-cli validate` beside torchvision's way.

resnet-cli bench evaluation --out benchmarks/evaluation.md

The peer, in a process of its own: python -m lightning_resnet.bench.evaluation FOLDER DEPTH SIZE THREADS
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from lightning_resnet.arguments import positive
from lightning_resnet.bench.child import child, output
from lightning_resnet.bench.text import ratios, spread, table
from lightning_resnet.machine import cores
from lightning_resnet.progress import metered

BATCH = 64
CLOCK = "lightning_resnet.bench.stock.ValidationClock"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `resnet-cli bench evaluation`."""
    parser.add_argument(
        "--images", type=positive, default=1500, help="photo-like JPEGs of 500 px (default: %(default)s)"
    )
    parser.add_argument("--depth", type=positive, default=18, help="of the ResNet (default: %(default)s)")
    parser.add_argument("--size", type=positive, default=64, help="pixels per side (default: %(default)s)")
    parser.add_argument(
        "--threads", type=positive, default=cores(), help="of torch, and that read (default: all cores)"
    )
    parser.add_argument("--accelerator", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--repeat", type=positive, default=5, help="evaluations each, in turn (default: %(default)s)")


def report(args: argparse.Namespace) -> list[str]:
    """Measure; the lines of the Markdown report."""
    from lightning_resnet.bench.inputs import make_photos

    rates: dict[str, list[float]] = {"ours": [], "torchvision": []}
    with tempfile.TemporaryDirectory() as folder:
        make_photos(Path(folder), args.images)
        commands = {"ours": _ours(Path(folder), args), "torchvision": _peer(folder, args)}
        for _ in metered(range(args.repeat), args.repeat, "turns"):
            for arm, command in commands.items():
                rates[arm].append(args.images / _seconds(command))
    named = {"ours": "`resnet-cli validate`, .beton", "torchvision": "torchvision's reference way, the source JPEGs"}
    rows = [[named[arm], spread(r, ",.0f"), ratios(rates["ours"], r)] for arm, r in rates.items()]
    return [
        "# Evaluation",
        "",
        f"ResNet-{args.depth}, {args.images} JPEGs of 500 px, central crop at {args.size} px, batch {BATCH}, on the "
        f"{args.accelerator.upper()}, {args.threads} threads (peer: and as many processes that read); medians of "
        f"{args.repeat} evaluations in turn, lowest and highest in brackets.",
        "",
        *table(["evaluation", "images/s", "ours / this"], rows),
        "",
        "From its beginning to its metrics, as after each epoch of a training: imports and the making of "
        "the net excluded, the start of reading threads and processes included. Ours decodes a JPEG at half, a quarter "
        "or an eighth of its size where that is enough for the crop; the peer decodes it whole, then resizes.",
    ]


def _ours(folder: Path, args: argparse.Namespace) -> list[str]:
    """The command; what it evaluates lies in the folder."""
    import torch

    from lightning_resnet.models import ImageNetResNet
    from lightning_resnet.training.task import ClassificationTask

    beton, init_args = str(folder / "photos.beton"), {"depth": args.depth, "num_classes": 2}
    torch.save({"state_dict": ClassificationTask(ImageNetResNet(**init_args)).state_dict()}, folder / "net.ckpt")
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
    arguments = ["validate", "--config", f"{folder}/recipe.yaml", "--ckpt_path", f"{folder}/net.ckpt"]
    return [sys.executable, "-m", "lightning_resnet", *arguments]


def _peer(folder: str, args: argparse.Namespace) -> list[str]:
    what = [folder, args.depth, args.size, args.threads, "cuda" if args.accelerator == "gpu" else "cpu"]
    return [sys.executable, "-m", "lightning_resnet.bench.evaluation", *map(str, what)]


def _seconds(command: list[str]) -> float:
    with child(command) as process:
        return next(json.loads(line)["seconds"] for line in output(process) if line.startswith('{"seconds"'))


def main(folder: str, depth: str, size: str, threads: str, device: str) -> None:
    """As torchvision's references evaluate: ImageFolder, Resize and CenterCrop, DataLoader, a loop."""
    import torch
    import torchvision
    from torch.nn import functional as F
    from torchvision.transforms.v2 import CenterCrop, Compose, Resize

    torch.set_num_threads(int(threads))
    net = getattr(torchvision.models, f"resnet{depth}")(num_classes=2).to(device).eval()
    pixels = int(size)
    transform = Compose([Resize(round(pixels / 0.875), antialias=True), CenterCrop(pixels)])
    read = lambda path: torchvision.io.decode_image(path, torchvision.io.ImageReadMode.RGB)  # noqa: E731
    images = torchvision.datasets.ImageFolder(f"{folder}/jpeg", transform, loader=read)
    loader = torch.utils.data.DataLoader(images, BATCH, num_workers=int(threads), pin_memory=device == "cuda")
    start = time.perf_counter()
    loss: Any = 0
    correct: Any = 0
    with torch.inference_mode():
        for batch, labels in loader:
            labels = labels.to(device, non_blocking=True)
            logits = net((batch.to(device, non_blocking=True).float() - 120) / 60)
            loss += F.cross_entropy(logits, labels, reduction="sum")
            correct += (logits.argmax(1) == labels).sum()
    float(loss), int(correct)
    print(json.dumps({"seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main(*sys.argv[1:])
