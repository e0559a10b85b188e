"""Training on 1 to N ranks, each with the same number of images: efficiency and bytes per step.

resnet-cli bench scaling --ranks 1 2 --out benchmarks/scaling.md
"""

import argparse

from lightning_resnet import models
from lightning_resnet.bench.text import spread, table
from lightning_resnet.bench.train import NETS, make_recipe, measure
from lightning_resnet.progress import metered


def report(args: argparse.Namespace) -> list[str]:
    """Measure; return the lines of the Markdown report."""
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
        megabytes = moved(parameters, n) / 1e6
        rows.append([str(n), spread(rates[n], ",.1f"), spread(share, ".2f"), f"{megabytes:,.1f}"])
    head = ["ranks", "images/s", f"efficiency (of {least})", "MB sent per rank and step"]
    return [
        "# Scaling",
        "",
        f"{args.net}, {batch} images a rank, one thread each; medians of {args.repeat} trainings "
        f"in turn, {args.steps} steps each, lowest and highest in brackets. {parameters:,} "
        "parameters.",
        "",
        *table(head, rows),
        "",
        "Sent: gradients in float32 by a ring, 2 (n - 1) / n of their bytes; calculated, not "
        "measured.",
    ]


def moved(parameters: int, ranks: int) -> float:
    """Return the bytes that a rank sends per step.

    They are those of a ring's reduce-scatter and all-gather of the gradients in float32.
    """
    return 2 * (ranks - 1) / ranks * 4 * parameters
