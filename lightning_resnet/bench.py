"""Benchmarks: our parts beside their peers on the same input, in turn, medians.

resnet-cli bench loader --images 2000 --out benchmarks/loader.md
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from lightning_resnet import bench_train
from lightning_resnet.errors import Parser, UserError
from lightning_resnet.runtime.status import cores

PEERS = {
    "ours": "lightning_resnet, .beton",
    "ours-noverify": "lightning_resnet, the same without CRC checks",
    "ffcv": "stock FFCV 1.0.2, the same .beton",
    "torchvision": "torchvision DataLoader, the source JPEGs",
}


def make_parser() -> Parser:
    """The flags of `resnet-cli bench`."""
    parser = Parser(prog="resnet-cli bench", description="Measure beside peers.")
    what = parser.add_subparsers(dest="what", required=True)
    bench_train.add_arguments(what.add_parser("train", help="steps per second beside a bare PyTorch loop"))
    loader = what.add_parser("loader", help="pictures per second")
    loader.add_argument("--images", type=int, default=2000, help="photo-like JPEGs of 500 px (default: %(default)s)")
    loader.add_argument("--size", type=int, default=224, help="of random-resized-crop + flip (default: %(default)s)")
    loader.add_argument("--threads", type=int, default=cores(), help="threads or processes (default: all cores)")
    loader.add_argument("--repeat", type=int, default=5, help="epochs each, in turn (default: %(default)s)")
    loader.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    loader.add_argument("--out", help="Markdown file to write the table to")
    return parser


def main(argv: list[str]) -> int:
    """Run `resnet-cli bench`."""
    args = make_parser().parse_args(argv)
    if args.what == "train":
        text = _train(args, argv)
    else:
        with tempfile.TemporaryDirectory() as folder:
            _make_input(Path(folder), args.images)
            rows = _measure(args, folder)
        text = _table(rows, args, argv)
    print(text)
    if args.out:
        Path(args.out).write_text(text)
    return 0


def _train(args: Any, argv: list[str]) -> str:
    intro = f"{args.processes} ranks (gloo), one thread each; medians of {args.repeat} trainings of each kind in turn, "
    intro += f"{args.steps} steps each, lowest and highest in brackets."
    return "\n".join(["# Training step", "", intro, "", *bench_train.table(args), "", _provenance(argv), ""])


def _provenance(argv: list[str]) -> str:
    """The command, and where and with what it ran."""
    from lightning_resnet.runtime.provenance import code, hardware, versions

    return (
        f"`resnet-cli bench {' '.join(argv)}` on {hardware()['cpu']}, {os.cpu_count()} cores, {platform.platform()}; "
        + ", ".join(f"{k} {v}" for k, v in versions().items())
        + f"; code {(code()['git_sha'] or '?')[:10]}."
    )


def _make_input(folder: Path, n: int) -> None:
    """Random crops of photos that packages ship, as JPEGs of quality 92, in two classes; and a .beton of them."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_images

    from lightning_resnet.data.sources import ImageFolder
    from lightning_resnet.data.write import write_beton

    photos = [Image.fromarray(x) for x in load_sample_images().images]
    rng = np.random.default_rng(0)
    for i in range(n):
        photo = photos[i % len(photos)]
        w, h = (500, 375) if rng.random() < 0.7 else (375, 500)
        width = int(min(photo.width, photo.height * w / h) * rng.uniform(0.6, 1))
        height = int(width * h / w)
        x, y = rng.integers(photo.width - width + 1), rng.integers(photo.height - height + 1)
        file = folder / "jpeg" / "ab"[i // 2 % 2] / f"{i:06}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        photo.crop((x, y, x + width, y + height)).resize((w, h), Image.Resampling.BICUBIC).save(file, quality=92)
    source = ImageFolder(str(folder / "jpeg"))
    splits = source.splits()
    images = splits["train"]
    write_beton(images, folder / "f.beton", classes=source.classes, progress=False)


def _measure(args: Any, folder: str) -> dict[str, dict[str, Any]]:
    """Each peer in a process of its own, which waits while the others have their turn."""
    peers = {name: _Peer(name, folder, args) for name in args.peers}
    try:
        for _ in range(args.repeat):
            for peer in peers.values():
                peer.epoch()
    finally:
        for peer in peers.values():
            peer.process.kill()
            peer.process.wait()
    return {name: peer.facts for name, peer in peers.items()}


class _Peer:
    def __init__(self, name: str, folder: str, args: Any) -> None:
        command = [sys.executable, "-m", "lightning_resnet.peers", name, folder, str(args.size), str(args.threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.name, self.facts = name, self._read() | {"rates": [], "cpu": []}

    def epoch(self) -> None:
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        answer = self._read()
        self.facts["rates"].append(answer["rate"])
        self.facts["cpu"].append(answer["cpu"])

    def _read(self) -> dict[str, Any]:
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise UserError(f"peer {self.name} ended ({self.process.wait()}): is its package installed?")


def _table(rows: dict[str, dict[str, Any]], args: Any, argv: list[str]) -> str:
    first = next(iter(rows.values()))
    lines = [
        "# Loader",
        "",
        f"{args.images} photo-like JPEGs of 500 px (q92), random-resized-crop {args.size} + flip, {args.threads} "
        f"threads or processes; medians of {args.repeat} epochs taken in turn, lowest and highest in brackets.",
        "",
        "| loader | images/s | ours is x times | first batch, s | CPU s per 1,000 | resident, MB |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, r in rows.items():
        rate = statistics.median(r["rates"])
        ratio = statistics.median(a / b for a, b in zip(first["rates"], r["rates"], strict=True))
        lines.append(
            f"| {PEERS[name]} | {rate:,.0f} ({min(r['rates']):,.0f} to {max(r['rates']):,.0f}) | {ratio:.2f} "
            f"| {r['first']:.2f} | {1000 * statistics.median(r['cpu']):.2f} | {r['rss'] / 1e6:,.0f} |"
        )
    lines += [
        "",
        _provenance(argv),
        "First batch: from making the loader to its first batch, imports excluded. Resident: of the process after the "
        "first batch, less its imports; torchvision's workers not counted.",
        "",
    ]
    return "\n".join(lines)
