"""Train from a script or notebook: `run = fit("digits", depth=56, epochs=2)`."""

import json
import os
import signal
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pytorch_lightning.utilities.seed import isolate_rng

from lightning_resnet.analysis.compare.load import load_runs
from lightning_resnet.cli import fit as command
from lightning_resnet.engine.signals import STATUSES, Stopped, armed
from lightning_resnet.errors import UserError
from lightning_resnet.runs.names import check_texts
from lightning_resnet.runs.reader import Run
from lightning_resnet.runs.status import process_name
from lightning_resnet.weights.trained import Trained, Weights, load

SEED_VARIABLES = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")  # which Lightning sets for good


class FittedRun(os.PathLike):
    """A run that `fit` has trained; goes wherever a path of a run goes.

    Attributes:
        dir: the run directory.
    """

    def __init__(self, path: Path) -> None:
        self.dir = path

    def __fspath__(self) -> str:
        return str(self.dir)

    def __repr__(self) -> str:
        return f"FittedRun({str(self.dir)!r}, {Run(self.dir).status()})"

    def metrics(self) -> pd.DataFrame:
        """Return the rows of the run's metrics.jsonl that hold, see `load_runs`."""
        return load_runs(self.dir).history

    def load(self, weights: Weights = "net") -> Trained:
        """Return the net of the last checkpoint, see `load`."""
        return load(self.dir, weights=weights, trust=self.is_own)

    @property
    def is_own(self) -> bool:
        """Whether this process has trained the run, so that its recipe names no other's code."""
        attempt = Run(self.dir).last_attempt()
        return attempt is not None and attempt["process"] == process_name()


def fit(recipe: str | os.PathLike[str] | None = None, /, **keys: Any) -> FittedRun:
    """Train a net by a recipe, or continue an unfinished run, as `resnet-cli fit` does.

    A Ctrl-C saves at the next step and raises KeyboardInterrupt; the same call continues. Seeds and
    threads of this process are afterwards as they were before.

    Args:
        recipe: name of a recipe, such as `digits`, or path of one; None: the keys are all.
        keys: keys of a recipe, such as `depth=56, epochs=2, seed=1`; those with dots as
            `**{"model.optimizer.lr": 0.1}`.

    Raises:
        UserError: a key or the data are wrong, or the training failed.
        KeyboardInterrupt: a Ctrl-C has ended the training.
    """
    words = ["--config", os.fspath(recipe)] if recipe is not None else []
    words += words_of(keys)
    check_texts({"the call of fit": words})
    args = Namespace(verb="fit", words=words, run_path=None)
    try:
        with armed(hosted=True), _as_before():
            status = command.run(args)
    except Stopped as e:
        print(e, file=sys.stderr)
        status = e.exit_status
    if status == STATUSES[signal.SIGINT]:
        raise KeyboardInterrupt
    if status in STATUSES.values():
        raise SystemExit(status)  # the system ends this process
    if status:
        raise UserError(f"run {args.run_path} has failed on one of its ranks: see above")
    return FittedRun(args.run_path)


def words_of(keys: dict[str, Any]) -> list[str]:
    """Return the flags that stand for keys of a recipe and their values."""
    return [f"--{key}={_text(value)}" for key, value in keys.items()]


def _text(value: Any) -> str:
    """Return a value as a flag has it."""
    if isinstance(value, type) and "<locals>" in value.__qualname__:
        raise UserError(
            f"class {value.__name__} is defined inside a function, where no recipe finds it: "
            "define it at the top level of the notebook or of a module"
        )
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # a number or array of numpy or torch
        value = value.tolist()
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as e:
        raise UserError(
            f"{value!r} of type {type(value).__name__} is no value of a recipe: numbers, texts, "
            "lists and mappings are; a class goes by its name"
        ) from e


@contextmanager
def _as_before() -> Iterator[None]:
    """Restore what a training sets for this process: seeds, threads, determinism."""
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    precision = torch.get_float32_matmul_precision()
    variables = {name: os.environ.get(name) for name in SEED_VARIABLES}
    try:
        with isolate_rng():
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
        torch.set_float32_matmul_precision(precision)
        for name, value in variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
