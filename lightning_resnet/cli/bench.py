"""`resnet-cli bench`: our parts beside their peers on the same input, in turn, medians; one Markdown table per command.

resnet-cli bench startup --out benchmarks/startup.md; resnet-cli bench loader --images 2000 --out benchmarks/loader.md
"""

import os
import platform
from argparse import Namespace
from importlib import import_module
from pathlib import Path

from lightning_resnet.arguments import Parser
from lightning_resnet.files import check_writable, write_whole

KINDS = {
    "startup": "seconds from the keystroke to an answer, and to the first optimizer step",
    "overhead": "microseconds that a training loop adds to a step",
    "loader": "pictures per second",
    "step": "a training step of our nets beside those of torchvision, timm and a plain script",
    "train": "a whole training: its bottleneck, and its speed beside a bare loop",
    "evaluation": "pictures per second of an evaluation, from files to accuracy",
    "scaling": "images per second on 1 to N ranks",
    "compare": "seconds and memory of comparing many runs",
}


def make_parser() -> Parser:
    """The flags of `resnet-cli bench`."""
    parser = Parser(prog="resnet-cli bench", description="Measure beside peers.")
    what = parser.add_subparsers(dest="what", required=True)
    for kind, text in KINDS.items():
        one = what.add_parser(kind, help=text, description=text)
        import_module(f"lightning_resnet.bench.{kind}").add_arguments(one)
        one.add_argument("--out", help="Markdown file to write the tables to")
    return parser


def run(args: Namespace) -> int:
    """Run `resnet-cli bench`."""
    if args.out:
        check_writable(Path(args.out))
    module = import_module(f"lightning_resnet.bench.{args.what}")
    text = "\n".join([*module.report(args), "", _provenance(args.words), ""])
    print(text)
    if args.out:
        write_whole(Path(args.out), text)
    return 0


def _provenance(words: list[str]) -> str:
    """The command, and where and with what it ran."""
    from lightning_resnet.provenance import code, hardware, versions

    where, now = hardware(), code()
    gpu = f", {where['gpu']}" if where["gpu"] else ""
    return (
        f"`resnet-cli bench {' '.join(words)}` on {where['cpu']}, {os.cpu_count()} cores{gpu}, "
        f"{platform.platform()}; "
        + ", ".join(f"{k} {v}" for k, v in versions().items())
        + f"; code {(now['git_sha'] or '?')[:10]}{' with changes' if now['git_dirty'] else ''}."
    )
