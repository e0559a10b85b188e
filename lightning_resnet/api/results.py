"""Load, evaluate and compare from a script or notebook; the results are DataFrames."""

import os
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from lightning_resnet.analysis.compare.report import View, report
from lightning_resnet.analysis.evaluation import evaluate as ways
from lightning_resnet.analysis.evaluation.real_labels import hits_of
from lightning_resnet.analysis.inspection.subjects import subjects
from lightning_resnet.api.training import FittedRun, words_of
from lightning_resnet.cli.evaluate import check
from lightning_resnet.errors import UserError
from lightning_resnet.weights import trained
from lightning_resnet.weights.trained import Trained, Weights, device_for

Word = str | os.PathLike[str]


def load(run: Word, weights: Weights = "net", trust: bool = False, **keys: Any) -> Trained:
    """Return the net of a run, a checkpoint, or a name of weights on a hub.

    Args:
        run: run directory, its readable name or id, a checkpoint; or a name such as
            `timm:resnet18.a1_in1k`.
        weights: weights as trained, or their moving average.
        trust: whether the recipe in the checkpoint may name any code, which is run.
        keys: keys of a recipe that override the checkpoint's, such as `**{"data.size": 64}`.

    Raises:
        UserError: there is no such checkpoint, or it cannot be read.
    """
    return trained.load(os.fspath(run), words_of(keys), weights, trust or _is_own(run))


def evaluate(
    run: Word,
    crops: str | Sequence[str] = "centre",
    sizes: int | Sequence[int] = (),
    bn: str | Sequence[str] = "moving",
    weights: str | Sequence[str] = (),
    split: str = "val",
    at: str = "last",
    device: str | None = None,
    trust: bool = False,
    **keys: Any,
) -> pd.DataFrame:
    """Return accuracy and error of a net in each way asked for, as `resnet-cli evaluate` does.

    Args:
        run: see `load`.
        crops: of centre, ten, flip.
        sizes: pixels per side; default: the recipe's.
        bn: statistics of batch norm, of moving, precise.
        weights: of net, ema; default: what the checkpoint holds.
        split: val | test.
        at: checkpoint of a run: last | best.
        device: cpu | cuda; default: a GPU if there is one.
        trust: whether the recipe in the checkpoint may name any code, which is run.
        keys: keys of a recipe that override the checkpoint's, such as
            `**{"data.source.root": "photos"}`.

    Returns:
        A row for each way. `top1_error` and `top5_error` are what `resnet-cli evaluate` prints, in
        percent; `top1` and `top5` are the accuracies, `_low` and `_high` the ends of their 95 %
        intervals (Wilson); `n` is the number of images.

    Raises:
        UserError: the run, a word or the data are wrong.
    """
    args = Namespace(
        crops=_joined(crops),
        sizes=_joined(sizes),
        bn=_joined(bn),
        weights=_joined(weights),
        recipe_keys=words_of(keys),
        labels=None,
        per_class=False,
        confusion=None,
        split=split,
    )
    check(args)
    words = args.recipe_keys
    word = os.fspath(run)
    device = device_for(device)
    trust = trust or _is_own(run)
    (subject,) = subjects([word], words, at, device=device, trust=trust, one=True)
    splits = subject.experiment.data.splits
    if split not in splits:
        raise UserError(f"split {split}: the source has {', '.join(splits)}")
    if not args.sizes:
        args.sizes = [subject.experiment.data.eval_augment.size]
    rows = []
    for row in ways.measure(subject, args):
        settings = dict(zip(ways.COLUMNS, row.settings, strict=False))
        rows.append(settings | ways.shares(hits_of(row.best, row.labels, None)))
    return pd.DataFrame(rows)


def _is_own(run: Word) -> bool:
    """Tell whether `fit` has trained the run in this process."""
    return isinstance(run, FittedRun) and run.is_own


def _joined(words: str | int | Sequence[Any]) -> str:
    return str(words) if isinstance(words, str | int) else ",".join(map(str, words))


class Comparison(NamedTuple):
    """What `compare` returns; a notebook shows figure and table.

    Attributes:
        table: a row for each setting, with mean and spread over seeds.
        figures: SVG by name; `curves` are the error curves.
        files: the report's files; empty without `out`.
    """

    table: pd.DataFrame
    figures: dict[str, str]
    files: list[Path]

    def __repr__(self) -> str:
        return self.table.to_string(index=False)

    def _repr_html_(self) -> str:
        drawings = "".join(self.figures.values())
        return f"{drawings}{self.table.to_html(index=False)}"


def compare(*runs: Word, out: Word | None = None, **view: Any) -> Comparison:
    """Compare runs, as `resnet-cli compare` does.

    Args:
        runs: run directories, sweeps or roots; `reference:digits` is one of ours.
        out: folder for the report; default: nothing is kept.
        view: what is shown: `where`, `rows`, `over`, `cols`, `metrics`, `x`, `baseline`, `effects`,
            `importance`, `title`, `panels`.

    Raises:
        UserError: there are no such runs, or they do not have what is asked for.
    """
    if not runs:
        raise UserError('compare what? name runs, sweeps or roots: compare("runs/digits")')
    wrong = [name for name in view if name not in View.__dataclass_fields__]
    if wrong:
        raise UserError(
            f"compare has no {wrong[0]}: it takes {', '.join(View.__dataclass_fields__)} and out"
        )
    paths = [os.fspath(run) for run in runs]
    with tempfile.TemporaryDirectory(prefix="resnet-compare-") as folder:
        made = report(paths, out or folder, View(**view))
        figures = {file.stem: file.read_text() for file in made.files if file.suffix == ".svg"}
    return Comparison(made.table.frame, figures, made.files if out else [])
