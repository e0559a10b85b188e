"""`resnet-cli bench`: measure our parts and their peers on the same input, in turn.

resnet-cli bench startup --out benchmarks/startup.md
resnet-cli bench loader --images 2000 --out benchmarks/loader.md

Each kind prints medians as Markdown tables. The flags stand here: `--help` imports no torch.
"""

import argparse
import os
import platform
from importlib import import_module
from pathlib import Path

from lightning_resnet.arguments import Parser, positive
from lightning_resnet.files import check_writable, write_atomic
from lightning_resnet.machine import cores
from lightning_resnet.printing import JSON_HELP, add_json, tables_in

KINDS = {
    "startup": "seconds from the keystroke to an answer, and to the first optimizer step",
    "overhead": "microseconds that a training loop adds to a step",
    "loader": "images per second that a loader delivers",
    "step": "a training step of our nets against those of torchvision, timm and a plain script",
    "train": "a complete training: its bottleneck, and its speed against a bare loop",
    "evaluation": "images per second of an evaluation, from files to accuracy",
    "scaling": "images per second on 1 to N ranks",
    "compare": "seconds and memory of comparing many runs",
    "many": "seconds of listing and comparing 10,000 runs",
    "layouts": "images per second of `data write` from each layout of ImageNet, and of listing",
    "remote": "images per second from shards on a web server with a delay",
}
ACCELERATORS = ["cpu", "gpu"]
PEERS = [  # the loaders that bench/loader.py describes
    "ours",
    "ours-noverify",
    "ffcv",
    "torchvision",
    "torchvision-pil",
    "torchcodec",
    "webdataset",
    "spdl",
    "dali",
    "ours-raw",
    "device-raw",
    "ffcv-raw",
    "torchvision-raw",
    "ours-tables",
    "ffcv-tables",
]
POLICIES = ["Lighting", "TrivialAugment", "RandAugment", "IncreasingRandAugment"]
NETS = ["digits", "resnet18-64", "fashion", "fashion-pooled"]  # described in bench/train.py
SCALING_NETS = ["digits", "resnet18-64"]
COMPILE_MODES = [
    "default",
    "blocks",
    "reduce-overhead",
    "max-autotune",
    "max-autotune-no-cudagraphs",
]


def make_parser() -> Parser:
    """Return the parser of `resnet-cli bench`."""
    parser = Parser(prog="resnet-cli bench", description="Measure against peers.")
    what = parser.add_subparsers(dest="what", required=True)
    flags = {
        "startup": _startup_flags,
        "overhead": _overhead_flags,
        "loader": _loader_flags,
        "step": _step_flags,
        "train": _train_flags,
        "evaluation": _evaluation_flags,
        "scaling": _scaling_flags,
        "compare": _compare_flags,
        "many": _many_flags,
        "layouts": _layouts_flags,
        "remote": _remote_flags,
    }
    for kind, text in KINDS.items():
        one = what.add_parser(kind, help=text, description=text)
        flags[kind](one)
        if kind != "train":  # which has one of its own
            add_json(one)
        one.add_argument("--out", help="Markdown file to write the tables to")
    return parser


def run(args: argparse.Namespace) -> int:
    """Measure, print the tables and write them to `--out`; return 0."""
    if args.out:
        check_writable(Path(args.out))
    module = import_module(f"lightning_resnet.bench.{args.what}")
    lines = module.report(args)
    made = _provenance(args.words)
    args.document |= {"what": args.what, "tables": tables_in(lines), "made": made}
    text = "\n".join([*lines, "", made, ""])
    if args.as_json is not True:
        print(text)
    if args.out:
        write_atomic(Path(args.out), text)
    return 0


def _startup_flags(parser: argparse.ArgumentParser) -> None:
    _count(parser, "--repeat", 5, "of each command, in turn")


def _overhead_flags(parser: argparse.ArgumentParser) -> None:
    _count(parser, "--steps", 800, "of each training")
    _count(parser, "--batch", 8, "images of 8x8")
    _count(parser, "--repeat", 7, "trainings of each kind, in turn")


def _loader_flags(parser: argparse.ArgumentParser) -> None:
    _count(parser, "--images", 2000, "photo-like JPEGs")
    _count(parser, "--pixels", 500, "longer side of the JPEGs")
    _count(parser, "--size", 224, "of random-resized-crop + flip")
    parser.add_argument(
        "--cold",
        action="store_true",
        help="drop the files from this system's page cache before each turn",
    )
    parser.add_argument(
        "--threads",
        type=positive,
        default=cores(),
        help="threads or processes (default: all cores)",
    )
    _count(parser, "--repeat", 5, "epochs each, in turn")
    parser.add_argument(
        "--peers",
        nargs="+",
        choices=PEERS,
        help="loaders to measure (default: all whose package is installed)",
    )
    parser.add_argument(
        "--policy",
        nargs="+",
        choices=POLICIES,
        default=[],
        help="measure instead what these policies cost: our loader and torchvision's, with each "
        "and without",
    )


def _step_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--net",
        nargs="+",
        default=["imagenet-50", "cifar-20"],
        help="FAMILY-DEPTH (default: both)",
    )
    parser.add_argument(
        "--vs",
        default="torchvision,timm,script",
        help="of these where they apply: %(default)s",
    )
    parser.add_argument(
        "--size",
        type=positive,
        help="pixels per side (default: cifar 32, imagenet 64)",
    )
    parser.add_argument("--batch", type=positive, help="images (default: cifar 128, imagenet 16)")
    parser.add_argument("--precision", choices=["32", "bf16"], default="32", help="bf16: autocast")
    parser.add_argument(
        "--compile",
        choices=COMPILE_MODES,
        help="torch.compile's mode (default: not compiled)",
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument(
        "--threads",
        type=positive,
        default=cores(),
        help="on the CPU (default: all cores)",
    )
    _count(parser, "--steps", 5, "of a turn")
    _count(parser, "--repeat", 11, "turns")


def _train_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nets", nargs="+", choices=NETS, default=["digits"])
    parser.add_argument(
        "--recipe",
        help="instead of --nets: what it trains, one epoch of it, by its own loader",
    )
    parser.add_argument(
        "--loaders",
        nargs="+",
        help="values of data.loader, one against the other (default: auto)",
    )
    _count(parser, "--processes", 2, "ranks")
    _count(parser, "--threads", 1, "of each rank")
    parser.add_argument("--accelerator", choices=ACCELERATORS, default="cpu")
    _count(parser, "--steps", 200, "of each training")
    _count(parser, "--repeat", 5, "trainings of each kind, in turn")
    parser.add_argument(
        "--json",
        dest="as_json",
        nargs="?",
        const=True,
        default=False,
        metavar="FILE",
        help=f"also append a row for each net to FILE; without FILE: {JSON_HELP}",
    )
    parser.add_argument(
        "--flags",
        nargs=argparse.REMAINDER,
        default=[],
        help="last: more flags of `fit`, such as --data.batch_size 64",
    )


def _evaluation_flags(parser: argparse.ArgumentParser) -> None:
    _count(parser, "--images", 1500, "photo-like JPEGs of 500 px")
    _count(parser, "--depth", 18, "of the ResNet")
    _count(parser, "--size", 64, "pixels per side")
    parser.add_argument(
        "--threads",
        type=positive,
        default=cores(),
        help="of torch, and that read (default: all cores)",
    )
    parser.add_argument("--accelerator", choices=ACCELERATORS, default="cpu")
    _count(parser, "--repeat", 5, "evaluations each, in turn")


def _scaling_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--net", choices=SCALING_NETS, default="resnet18-64")
    parser.add_argument(
        "--ranks",
        type=positive,
        nargs="+",
        default=[1, 2],
        help="on this machine (default: 1 2)",
    )
    parser.add_argument("--accelerator", choices=ACCELERATORS, default="cpu")
    _count(parser, "--steps", 40, "of each training")
    _count(parser, "--repeat", 5, "trainings of each kind, in turn")


def _compare_flags(parser: argparse.ArgumentParser) -> None:
    _count(parser, "--runs", 1000, "copies of the reference runs")
    _count(parser, "--rows", 10_000, "of each run's metrics.jsonl")
    _count(parser, "--repeat", 3, "times it is asked again")


def _many_flags(parser: argparse.ArgumentParser) -> None:
    _count(parser, "--runs", 10_000, "finished runs of one sweep; 0.3 GB of temporary files")
    _count(parser, "--repeat", 2, "times each verb is asked again")


def _layouts_flags(parser: argparse.ArgumentParser) -> None:
    _count(parser, "--images", 1000, "photo-like JPEGs of 500 px")
    _count(parser, "--workers", cores(), "processes that encode")
    _count(parser, "--repeat", 5, "writes of each layout, in turn")
    _count(parser, "--entries", 1_281_167, "fabricated entries to list; 4 GB of temporary files")


def _remote_flags(parser: argparse.ArgumentParser) -> None:
    _count(parser, "--images", 1024, "photo-like JPEGs of 500 px")
    _count(parser, "--latency-ms", 30, "milliseconds before each answer")
    _count(parser, "--repeat", 3, "readings each way, in turn")


def _count(parser: argparse.ArgumentParser, flag: str, default: int, text: str) -> None:
    """Add a flag that takes a whole number of 1 or more."""
    parser.add_argument(flag, type=positive, default=default, help=f"{text} (default: %(default)s)")


def _provenance(words: list[str]) -> str:
    """Return the command, and where and with what it ran."""
    from lightning_resnet.provenance import code, hardware, versions

    where = hardware()
    now = code()
    gpu = f", {where['gpu']}" if where["gpu"] else ""
    packages = ", ".join(f"{name} {version}" for name, version in versions().items())
    changes = " with changes" if now["git_dirty"] else ""
    return (
        f"`resnet-cli bench {' '.join(words)}` on {where['cpu']}, {os.cpu_count()} cores{gpu}, "
        f"{platform.platform()}; {packages}; code {(now['git_sha'] or '?')[:10]}{changes}."
    )
