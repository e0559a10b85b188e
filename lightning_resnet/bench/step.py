r"""A training step of our nets and of those of torchvision, timm and a plain script, in turn.

resnet-cli bench step --vs torchvision,timm,script --out benchmarks/step.md
resnet-cli bench step --net imagenet-50 --size 224 --batch 256 --precision bf16 \
    --compile max-autotune-no-cudagraphs

A step is the same for all: uint8 batch, normalisation, forward, cross entropy, backward, SGD with
momentum. All nets are in one process.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_resnet.bench.plain import PlainScriptResNet
from lightning_resnet.bench.roofline import copy_rate, step_traffic
from lightning_resnet.bench.text import ratios, spread, table
from lightning_resnet.errors import UserError
from lightning_resnet.files import private_compile_cache
from lightning_resnet.models import CifarResNet, ImageNetResNet
from lightning_resnet.models.blocks import block_modules
from lightning_resnet.models.complexity import count_macs
from lightning_resnet.progress import metered

PEERS = ("torchvision", "timm", "script")
FAMILIES = {"cifar": (32, 128), "imagenet": (64, 16)}  # pixels, images by default
WARM = 2  # steps of each net before the first turn


def report(args: argparse.Namespace) -> list[str]:
    """Measure; return the lines of the Markdown report."""
    peers = [p for p in args.vs.split(",") if p]
    if unknown := set(peers) - set(PEERS):
        raise UserError(f"--vs {unknown.pop()}: one or more of {', '.join(PEERS)}, with commas")
    found = "cuda" if torch.cuda.is_available() else "cpu"
    if args.device == "cuda" != found:
        raise UserError("--device cuda: no NVIDIA GPU with a driver is here; drop it, or say cpu")
    device = torch.device(found if args.device == "auto" else args.device)
    torch.set_num_threads(args.threads)
    rate = matmul_rate(device, args.precision)
    bandwidth = copy_rate(device)
    where = f"CPU, {args.threads} threads"
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    compiled = args.compile or "off"
    lines = [
        "# Step",
        "",
        f"{where}; precision {args.precision}, compile {compiled}, channels_last.",
        f"Matrix product measured at {rate / 1e12:.3f} TFLOP/s, copy at {bandwidth / 1e9:,.0f} "
        f"GB/s. Medians of {args.repeat} turns of {args.steps} steps, nets in turn; lowest and "
        "highest in brackets.",
    ]
    for name in args.net:
        lines += ["", *_measure(name, peers, args, device, rate, bandwidth)]
    return lines


def _measure(
    name: str,
    peers: list[str],
    args: argparse.Namespace,
    device: torch.device,
    rate: float,
    bandwidth: float,
) -> list[str]:
    """Measure the nets of one family and depth; return the lines of their section."""
    family, _, depth = name.partition("-")
    if family not in FAMILIES or not depth.isdecimal():
        raise UserError(f"--net {name}: cifar-DEPTH or imagenet-DEPTH, such as imagenet-50")
    size = args.size or FAMILIES[family][0]
    batch = args.batch or FAMILIES[family][1]
    try:
        nets = make_nets(family, int(depth), peers)
    except ValueError as e:
        raise UserError(f"--net {name}: {e}") from e
    _, macs = count_macs(nets["ours"], (3, size, size))
    moved = step_traffic(nets["ours"], size, batch, args.precision)
    arms = {}
    for arm, net in nets.items():
        arms[arm] = Arm(net, size, batch, device, args.precision, args.compile)
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    for turn in metered(range(args.repeat), args.repeat, "turns"):
        order = list(arms) if turn % 2 else list(reversed(arms))
        for arm in order:
            seconds[arm].append(arms[arm].run(args.steps))
    rows = []
    # 2 per multiply-add, and backward twice the forward pass
    operations = 6 * macs * batch
    for arm, values in seconds.items():
        flops = operations / statistics.median(values)
        memory = f"{arms[arm].peak / 1e9:.2f}" if device.type == "cuda" else "not measured"
        cells = [
            arm,
            spread([batch / s for s in values], ",.1f"),
            spread([1e3 * s for s in values], ",.1f"),
            ratios(values, seconds["ours"]),
            f"{flops / 1e12:.3f}",
            f"{100 * flops / rate:.0f} %",
            memory,
        ]
        rows.append(cells)
    torch.cuda.empty_cache()
    head = [
        "net",
        "images/s",
        "ms",
        "time / ours",
        "TFLOP/s",
        "of the matrix product",
        "peak memory, GB",
    ]
    arithmetic = operations / rate
    memory = moved / bandwidth
    bound = "memory" if memory > arithmetic else "arithmetic"
    roofline = (
        f"Roofline of ours: {operations / 1e9:,.1f} GFLOP take {1e3 * arithmetic:,.2f} ms at the "
        f"matrix product's rate, {moved / 1e9:,.2f} GB (no operation fused, none cached) "
        f"{1e3 * memory:,.2f} ms at the copy's: bound by {bound}."
    )
    return [f"## {name}, {size} px, batch {batch}", "", *table(head, rows), "", roofline]


def make_nets(family: str, depth: int, peers: list[str]) -> dict[str, nn.Module]:
    """Return our net first, then those of the peers that have such a net.

    Args:
        family: cifar | imagenet.
        depth: layers with weights.
        peers: names, see `PEERS`.

    Raises:
        UserError: timm is asked for and not installed.
        ValueError: there is no net of this depth.
    """
    if family == "cifar":
        nets = {"ours": CifarResNet(depth)}
        if "script" in peers:
            nets["script"] = PlainScriptResNet(depth)
        return nets
    nets = {"ours": ImageNetResNet(depth)}
    if "torchvision" in peers:
        import torchvision

        nets["torchvision"] = getattr(torchvision.models, f"resnet{depth}")()
    if "timm" in peers:
        try:
            import timm
        except ImportError as e:
            cure = "pip install timm, or leave it out of --vs"
            raise UserError(f"timm is not installed: {cure}") from e
        nets["timm"] = timm.create_model(f"resnet{depth}")
    return nets


class Arm:
    """One net with its optimizer and batch.

    Args:
        net: images [B, 3, S, S] -> logits [B, classes].
        size: pixels per side, S.
        batch: images, B.
        device: where the net trains.
        precision: 32 | bf16.
        compile: mode of torch.compile, blocks, or None; see `ClassificationTask`.

    Attributes:
        peak: bytes of GPU memory that this net held at most, without the other nets.
    """

    def __init__(
        self,
        net: nn.Module,
        size: int,
        batch: int,
        device: torch.device,
        precision: str,
        compile: str | None,
    ) -> None:
        self.device = device
        self.own = 0
        self.peak = 0
        others = torch.cuda.memory_allocated() if device.type == "cuda" else 0
        self.net = net.to(device, memory_format=torch.channels_last).train()
        fused = {"fused": True} if device.type == "cuda" else {}
        self.optimizer = torch.optim.SGD(
            net.parameters(), 0.01, 0.9, nesterov=True, weight_decay=1e-4, **fused
        )
        images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)
        self.images = images.to(device, memory_format=torch.channels_last)
        self.labels = torch.randint(0, 10, (batch,), device=device)
        self.mean = torch.full((3, 1, 1), 120.0, device=device)
        self.context: Callable = nullcontext
        if precision == "bf16":
            self.context = partial(torch.autocast, device.type, torch.bfloat16)
        self.loss = self._loss
        if compile:
            private_compile_cache()
        if compile == "blocks":
            for module in block_modules(net):
                module.compile(dynamic=False)
        elif compile:
            self.loss = torch.compile(self._loss, mode=compile, dynamic=False)
        self.run(WARM)
        self.peak = 0  # the first steps may need more memory than the later ones
        if device.type == "cuda":
            self.own = torch.cuda.memory_allocated() - others

    def _loss(self) -> Tensor:
        with self.context():
            logits = self.net((self.images.float() - self.mean) / 60)
            return F.cross_entropy(logits, self.labels)

    def run(self, steps: int) -> float:
        """Train for some steps; return the seconds per step."""
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


def matmul_rate(device: torch.device, precision: str) -> float:
    """Return the FLOP/s of the best of a few products of square matrices.

    Single precision on a GPU is TF32, as in convolutions by torch's default.
    """
    n = 8192 if device.type == "cuda" else 1024
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    matrix = torch.randn(n, n, device=device, dtype=dtype)
    best = 0.0
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    for _ in range(8):
        start = time.perf_counter()
        matrix @ matrix
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * n**3 / (time.perf_counter() - start))
    torch.set_float32_matmul_precision(before)
    return best
