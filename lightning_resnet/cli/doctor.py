"""`resnet-cli doctor [RUN | --config R.yaml]`: whether training runs here, and how fast.

With a recipe the checks end with a dry run of its training, `fit --run.dry`, which forecasts time
and memory.
"""

import os
from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lightning_resnet.arguments import TRUST, Parser, value_of
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
from lightning_resnet.flags import check
from lightning_resnet.printing import add_json
from lightning_resnet.reading import read_json
from lightning_resnet.runs.find import find_run
from lightning_resnet.runs.reader import Run
from lightning_resnet.shipped import recipe_file


def make_parser() -> Parser:
    """Return the parser of `resnet-cli doctor`."""
    parser = Parser(
        recipe="keys",
        takes_run=True,
        prog="resnet-cli doctor",
        description="Whether training runs on this machine; exit 1 if it would fail.",
        epilog="Any key of a recipe is a flag too, such as --data.batch_size 64.",
    )
    parser.add_argument(
        "run", nargs="?", metavar="RUN", help="check the recipe of this run, or a recipe's file"
    )
    parser.add_argument(
        "--elastic",
        action="store_true",
        help="what would stay the same if RUN went on with --trainer.devices N, and what not",
    )
    parser.add_argument(
        "--quick", action="store_true", help="only what takes no time: no torch, no GPU is asked"
    )
    add_json(parser)
    parser.add_argument("--trust", action="store_true", help=TRUST)
    return parser


def run(args: Namespace) -> int:
    """Print what was found; return 1 if something would make training fail.

    Raises:
        UserError: a recipe or run cannot be read, or --elastic has no run.
    """
    if args.elastic:
        return _tell(_elastic(args), args.document)
    recipe = _recipe(args)
    failed = _tell(_all(args.quick, recipe), args.document)
    if failed or args.quick or not recipe:
        return failed
    return _dry_run(recipe, args.document)


def _tell(found: Iterator[Finding], document: dict[str, Any]) -> int:
    """Print findings, add them to what `--json` prints, and return 1 if training would fail."""
    findings = document["findings"] = []
    for finding in found:
        tell(finding)
        findings.append(finding._asdict())
    return int(any(finding["level"] == "fails" for finding in findings))


def _elastic(args: Namespace) -> Iterator[Finding]:
    """Return the findings about a run that goes on with another number of ranks.

    Raises:
        UserError: there is no run.
    """
    if not args.run or args.quick or recipe_file(args.run).suffix == ".yaml":
        raise UserError(
            "--elastic asks about a run that goes on: resnet-cli doctor --elastic RUN "
            "--trainer.devices N, without --quick"
        )
    from lightning_resnet.doctor.elastic import elastic

    return elastic(_recipe(args), Run(find_run(args.run, _root(args))))


def _root(args: Namespace) -> str:
    """Return the folder of all runs."""
    return value_of("--run.root", args.recipe_keys) or "runs"


def _recipe(args: Namespace) -> list[str]:
    """Return the arguments of `fit` for the recipe to check; empty: no recipe.

    Raises:
        UserError: the word names no run, its recipe names code of others, or `fit` would refuse a
            key or value.
    """
    if not args.run or recipe_file(args.run).suffix == ".yaml":
        recipe = [*(["--config", args.run] if args.run else []), *args.recipe_keys]
        if recipe:
            check(recipe, "fit")
        return recipe
    path = find_run(args.run, _root(args))
    if not path.is_dir():
        raise UserError(f"{path} is no run: give a run's folder, or --config R.yaml")
    source = Run(path)
    recipe = ["--config", str(source.config_file), *args.recipe_keys]
    check(recipe, "fit")
    if args.quick:
        return recipe
    from lightning_resnet.config.recipe import parse
    from lightning_resnet.config.trust import Foreign
    from lightning_resnet.runs.identity import read_recipe

    foreign = Foreign(read_recipe(source.config_text(), path), path, args.trust)
    parse("fit", [], foreign)  # refuses a net or data of others
    _, left = foreign.to_train()
    if left:
        raise UserError(
            f"the recipe of {path} may name code of others ({', '.join(left)}): add --trust if you "
            "trust it"
        )
    return recipe


def _dry_run(recipe: list[str], document: dict[str, Any]) -> int:
    """Train a few steps of a recipe in processes of their own; return the doctor's exit status.

    Args:
        recipe: arguments of `fit`.
        document: what `--json` prints, which gets the forecast.
    """
    from lightning_resnet.config.forecast import FORECAST
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
    with TemporaryDirectory() as folder:
        file = Path(folder, "forecast.json")
        os.environ[FORECAST] = str(file)
        try:
            status = supervise(["fit", *recipe, "--run.dry=true"], local_devices(trainer))
        finally:
            del os.environ[FORECAST]
        document["forecast"] = read_json(file)
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
    for found in (packages, processor, memory, spaces, decoder, weights_and_biases, slurm, data):
        yield from found()
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
    if recipe and quick:
        text = "its keys and values are right; data, net and batches are not tried"
        yield Finding("ok", "recipe", text, "without --quick they are, with a dry run")
    elif recipe:
        from lightning_resnet.doctor.recipe import plan

        yield from plan(recipe)
