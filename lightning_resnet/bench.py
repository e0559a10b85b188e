"""Benchmarks: our parts beside their peers on the same input, in turn, medians.

resnet-cli bench loader --images 2000 --out benchmarks/loader.md; resnet-cli bench train --out benchmarks/train.md
"""

import os
import platform
from pathlib import Path

from lightning_resnet import bench_loader, bench_train
from lightning_resnet.errors import Parser

KINDS = {"loader": (bench_loader, "pictures per second"), "train": (bench_train, "steps per second beside a bare loop")}


def make_parser() -> Parser:
    """The flags of `resnet-cli bench`."""
    parser = Parser(prog="resnet-cli bench", description="Measure beside peers.")
    what = parser.add_subparsers(dest="what", required=True)
    for kind, (module, text) in KINDS.items():
        module.add_arguments(what.add_parser(kind, help=text))
    return parser


def main(argv: list[str]) -> int:
    """Run `resnet-cli bench`."""
    args = make_parser().parse_args(argv)
    text = "\n".join([*KINDS[args.what][0].report(args), "", _provenance(argv), ""])
    print(text)
    if args.out:
        Path(args.out).write_text(text)
    return 0


def _provenance(argv: list[str]) -> str:
    """The command, and where and with what it ran."""
    from lightning_resnet.runtime.provenance import code, hardware, versions

    return (
        f"`resnet-cli bench {' '.join(argv)}` on {hardware()['cpu']}, {os.cpu_count()} cores, {platform.platform()}; "
        + ", ".join(f"{k} {v}" for k, v in versions().items())
        + f"; code {(code()['git_sha'] or '?')[:10]}."
    )
