"""`resnet-cli doctor [--config R.yaml]`: whether training runs here, and how fast.

With a recipe the checks end with a dry run of its training, `fit --run.dry`, which forecasts time
and memory.
"""

from argparse import Namespace
from collections.abc import Iterator
from functools import partial

from lightning_resnet.arguments import Parser
from lightning_resnet.doctor.checks import (
    data,
    decoder,
    memory,
    packages,
    processor,
    slurm,
    space,
    weights_and_biases,
)
from lightning_resnet.doctor.driver import driver
from lightning_resnet.doctor.finding import Finding
from lightning_resnet.errors import UserError, tell
from lightning_resnet.printing import add_json


def make_parser() -> Parser:
    """Return the parser of `resnet-cli doctor`."""
    parser = Parser(
        recipe="keys",
        prog="resnet-cli doctor",
        description="Whether training runs on this machine; exit 1 if it would fail.",
        epilog="Any key of a recipe is a flag too, such as --data.batch_size 64.",
    )
    parser.add_argument(
        "--quick", action="store_true", help="only what takes no time: no torch, no GPU is asked"
    )
    add_json(parser)
    return parser


def run(args: Namespace) -> int:
    """Print what was found; return 1 if something would make training fail."""
    if args.recipe_keys and args.quick:
        raise UserError("--quick looks at no recipe: drop one of the two")
    failed = False
    findings = args.document["findings"] = []
    for finding in _all(args.quick, args.recipe_keys):
        tell(finding)
        findings.append(finding._asdict())
        failed |= finding.level == "fails"
    return int(failed) if failed or not args.recipe_keys else _dry_run(args.recipe_keys)


def _dry_run(recipe: list[str]) -> int:
    """Train a few steps of a recipe in processes of their own; return the doctor's exit status.

    Args:
        recipe: arguments of `fit`.
    """
    from lightning_resnet.config.options import local_devices
    from lightning_resnet.config.recipe import parse
    from lightning_resnet.engine.launch import supervise
    from lightning_resnet.engine.signals import STATUSES

    trainer = parse("fit", recipe).trainer
    if trainer.num_nodes > 1:
        text = f"needs the {trainer.num_nodes} nodes of this recipe"
        cure = "there, start `resnet-cli fit` as for the training, with --run.dry"
        tell(Finding("warning", "forecast", text, cure))
        return 0
    status = supervise(["fit", *recipe, "--run.dry=true"], local_devices(trainer))
    if status and status not in STATUSES.values():
        tell(
            Finding("fails", "dry run", f"the training ended with exit status {status}, see above")
        )
        return 1
    return status


def _all(quick: bool, recipe: list[str]) -> Iterator[Finding]:
    """Yield the findings of all checks.

    Args:
        quick: whether to leave out the checks that import torch or take time.
        recipe: arguments of `fit` to check too; empty: no recipe.
    """
    spaces = partial(space, None) if recipe else space
    for check in (packages, processor, memory, spaces, decoder, weights_and_biases, slurm, data):
        yield from check()
    if not quick:
        from lightning_resnet.doctor.imports import gpu, imports, numba_layer

        fine = list(imports())
        yield from fine
        if any(finding.level == "fails" for finding in fine):
            return
        yield from gpu()
        yield from numba_layer()
    else:
        yield driver()
    if recipe:
        from lightning_resnet.doctor.recipe import plan

        yield from plan(recipe)
