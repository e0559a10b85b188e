"""A training step of our nets beside those of torchvision, timm and a plain script, in turn in one process.

resnet-cli bench step --vs torchvision,timm,script --out benchmarks/step.md
resnet-cli bench step --net imagenet-50 --size 224 --batch 256 --precision bf16 --compile max-autotune-no-cudagraphs

A step is the same for all: uint8 batch, normalisation, forward, cross entropy, backward, SGD with momentum.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

from lightning_resnet.arguments import positive
from lightning_resnet.bench.text import ratios, spread, table
from lightning_resnet.errors import UserError
from lightning_resnet.files import private_compile_cache
from lightning_resnet.machine import cores
from lightning_resnet.progress import metered

PEERS = ("torchvision", "timm", "script")
FAMILIES = {"cifar": (32, 128), "imagenet": (64, 16)}  # pixels, images by default
WARM = 2  # steps of each net before the first turn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `resnet-cli bench step`."""
    parser.add_argument("--net", nargs="+", default=["imagenet-50", "cifar-20"], help="FAMILY-DEPTH (default: both)")
    parser.add_argument("--vs", default="torchvision,timm,script", help="of these where they apply: %(default)s")
    parser.add_argument("--size", type=positive, help="pixels per side (default: cifar 32, imagenet 64)")
    parser.add_argument("--batch", type=positive, help="images (default: cifar 128, imagenet 16)")
    parser.add_argument("--precision", choices=["32", "bf16"], default="32", help="bf16: autocast")
    modes = ["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]
    parser.add_argument("--compile", choices=modes, help="torch.compile's mode (default: not compiled)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--threads", type=positive, default=cores(), help="on the CPU (default: all cores)")
    parser.add_argument("--steps", type=positive, default=5, help="of a turn (default: %(default)s)")
    parser.add_argument("--repeat", type=positive, default=11, help="turns (default: %(default)s)")


def report(args: argparse.Namespace) -> list[str]:
    """Measure; the lines of the Markdown report."""
    import torch

    peers = [p for p in args.vs.split(",") if p]
    if unknown := set(peers) - set(PEERS):
        raise UserError(f"--vs {unknown.pop()}: one or more of {', '.join(PEERS)}, with commas")
    found = "cuda" if torch.cuda.is_available() else "cpu"
    if args.device == "cuda" != found:
        raise UserError("--device cuda: no NVIDIA GPU with a driver is here; drop it, or say cpu")
    device = torch.device(found if args.device == "auto" else args.device)
    torch.set_num_threads(args.threads)
    rate = matmul_rate(device, args.precision)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {args.threads} threads"
    lines = ["# Step", "", f"{where}; precision {args.precision}, compile {args.compile or 'off'}, channels_last."]
    lines += [f"Matrix product measured at {rate / 1e12:.3f} TFLOP/s. Medians of {args.repeat} turns of {args.steps} "]
    lines[-1] += "steps, nets in turn; lowest and highest in brackets."
    for name in args.net:
        lines += ["", *_measure(name, peers, args, device, rate)]
    return lines


def _measure(name: str, peers: list[str], args: argparse.Namespace, device: Any, rate: float) -> list[str]:
    import torch

    from lightning_resnet.models.complexity import measure

    family, _, depth = name.partition("-")
    if family not in FAMILIES or not depth.isdecimal():
        raise UserError(f"--net {name}: cifar-DEPTH or imagenet-DEPTH, such as imagenet-50")
    size, batch = args.size or FAMILIES[family][0], args.batch or FAMILIES[family][1]
    try:
        nets = make_nets(family, int(depth), peers)
    except ValueError as e:
        raise UserError(f"--net {name}: {e}") from e
    _, macs = measure(nets["ours"], (3, size, size))
    arms = {arm: Arm(net, size, batch, device, args.precision, args.compile) for arm, net in nets.items()}
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    for turn in metered(range(args.repeat), args.repeat, "turns"):
        for arm in (*arms,) if turn % 2 else reversed((*arms,)):
            seconds[arm].append(arms[arm].run(args.steps))
    rows = []
    for arm, values in seconds.items():
        flops = 6 * macs * batch / statistics.median(values)  # 2 per multiply-add, backward twice the forward pass
        images = spread([batch / s for s in values], ",.1f")
        memory = f"{arms[arm].peak / 1e9:.2f}" if device.type == "cuda" else "not measured"
        ms = spread([1e3 * s for s in values], ",.1f")
        beside = ratios(values, seconds["ours"])
        rows.append([arm, images, ms, beside, f"{flops / 1e12:.3f}", f"{100 * flops / rate:.0f} %", memory])
    torch.cuda.empty_cache()
    head = ["net", "images/s", "ms", "time / ours", "TFLOP/s", "of the matrix product", "peak memory, GB"]
    return [f"## {name}, {size} px, batch {batch}", "", *table(head, rows)]


def make_nets(family: str, depth: int, peers: list[str]) -> dict[str, Any]:
    """Ours first, and the peers that have such a net."""
    from lightning_resnet.bench.plain import PlainScriptResNet
    from lightning_resnet.models import CifarResNet, ImageNetResNet

    if family == "cifar":
        nets = {"ours": CifarResNet(depth)}
        return nets | ({"script": PlainScriptResNet(depth)} if "script" in peers else {})
    nets = {"ours": ImageNetResNet(depth)}
    if "torchvision" in peers:
        import torchvision

        nets["torchvision"] = getattr(torchvision.models, f"resnet{depth}")()
    if "timm" in peers:
        try:
            import timm
        except ImportError as e:
            raise UserError("timm is not installed: pip install timm, or leave it out of --vs") from e
        nets["timm"] = timm.create_model(f"resnet{depth}")
    return nets


class Arm:
    """One net with its optimizer and batch."""

    def __init__(self, net: Any, size: int, batch: int, device: Any, precision: str, compile: str | None) -> None:
        import torch

        self.device, self.own = device, 0
        before = torch.cuda.memory_allocated() if device.type == "cuda" else 0  # of the other arms
        self.net = net.to(device, memory_format=torch.channels_last).train()
        fused = {"fused": True} if device.type == "cuda" else {}
        self.optimizer = torch.optim.SGD(net.parameters(), 0.01, 0.9, nesterov=True, weight_decay=1e-4, **fused)
        images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)
        self.images = images.to(device, memory_format=torch.channels_last)
        self.labels = torch.randint(0, 10, (batch,), device=device)
        self.mean = torch.full((3, 1, 1), 120.0, device=device)
        self.context: Callable = nullcontext
        if precision == "bf16":
            self.context = partial(torch.autocast, device.type, torch.bfloat16)
        if compile:
            private_compile_cache()
        self.loss = torch.compile(self._loss, mode=compile, dynamic=False) if compile else self._loss
        self.run(WARM)
        self.peak = 0
        if device.type == "cuda":
            self.own = torch.cuda.memory_allocated() - before

    def _loss(self) -> Any:
        from torch.nn import functional as F

        with self.context():
            return F.cross_entropy(self.net((self.images.float() - self.mean) / 60), self.labels)

    def run(self, steps: int) -> float:
        """Seconds per step."""
        import torch

        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            others = torch.cuda.memory_allocated() - self.own
        start = time.perf_counter()
        for _ in range(steps):
            loss = self.loss()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        if cuda:
            torch.cuda.synchronize()
            self.peak = max(self.peak, torch.cuda.max_memory_allocated() - others)
        return (time.perf_counter() - start) / steps


def matmul_rate(device: Any, precision: str) -> float:
    """FLOP/s of the best of a few products of square matrices."""
    import torch

    n = 8192 if device.type == "cuda" else 1024
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, best = torch.randn(n, n, device=device, dtype=dtype), 0.0
    for _ in range(8):
        start = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * n**3 / (time.perf_counter() - start))
    return best
