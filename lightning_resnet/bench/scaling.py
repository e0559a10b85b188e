"""Training on 1 to N ranks, each with the same number of images: efficiency, and bytes that a rank moves per step.

resnet-cli bench scaling --ranks 1 2 --out benchmarks/scaling.md
"""

import argparse

from lightning_resnet.arguments import positive
from lightning_resnet.bench.text import spread, table
from lightning_resnet.bench.train import NETS, make_recipe, measure
from lightning_resnet.progress import metered


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `resnet-cli bench scaling`."""
    parser.add_argument("--net", choices=["digits", "resnet18-64"], default="resnet18-64")
    parser.add_argument("--ranks", type=positive, nargs="+", default=[1, 2], help="on this machine (default: 1 2)")
    parser.add_argument("--accelerator", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--steps", type=positive, default=40, help="of each training (default: %(default)s)")
    parser.add_argument(
        "--repeat", type=positive, default=5, help="trainings of each kind, in turn (default: %(default)s)"
    )


def report(args: argparse.Namespace) -> list[str]:
    """Measure; the lines of the Markdown report."""
    from lightning_resnet import models

    net, init_args, _, batch, _ = NETS[args.net]
    parameters = sum(p.numel() for p in getattr(models, net)(**init_args).parameters())
    rates: dict[int, list[float]] = {n: [] for n in args.ranks}
    for _ in metered(range(args.repeat), args.repeat, "turns"):
        for n in args.ranks:
            recipe = make_recipe(args.net, args.steps, n)
            rates[n].append(measure(recipe, n, args.steps, args.accelerator)["images_per_s"])
    least = args.ranks[0]
    rows = []
    for n in args.ranks:
        share = [least * a / (n * b) for a, b in zip(rates[n], rates[least], strict=True)]
        row = [str(n), spread(rates[n], ",.1f"), spread(share, ".2f"), f"{moved(parameters, n) / 1e6:,.1f}"]
        rows.append(row)
    return [
        "# Scaling",
        "",
        f"{args.net}, {batch} images a rank, one thread each; medians of {args.repeat} trainings in turn, {args.steps} "
        f"steps each, lowest and highest in brackets. {parameters:,} parameters.",
        "",
        *table(["ranks", "images/s", f"efficiency (of {least})", "MB sent per rank and step"], rows),
        "",
        "Sent: gradients in float32 by a ring, 2 (n - 1) / n of their bytes; calculated, not measured.",
    ]


def moved(parameters: int, ranks: int) -> float:
    """Bytes that a rank sends per step: a ring's reduce-scatter and all-gather of the gradients in float32."""
    return 2 * (ranks - 1) / ranks * 4 * parameters
