"""`resnet-cli evaluate`: one checkpoint, evaluated in every way that figures are published.

`resnet-cli evaluate runs/imagenet/RUN --crops centre,ten,flip --sizes 224,256 --bn moving,precise`

Figures of two papers compare only within a row: crops, resolution and statistics are worth up to 2 points.
"""

import copy
import csv
import io
import os
from argparse import Namespace
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lightning_resnet.analysis.compare.tables import csv_cell
from lightning_resnet.analysis.evaluation.crops import Score, top5, training_batches, wilson
from lightning_resnet.analysis.inspection.subjects import Subject
from lightning_resnet.engine.launch import place, resolve
from lightning_resnet.errors import UserError, nearest
from lightning_resnet.files import write_whole
from lightning_resnet.models.batch_norm import measure_norms
from lightning_resnet.training.state_dict import EMA
from lightning_resnet.weights.trained import take_weights

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn


BN, BN_SAMPLES = ("moving", "precise"), 8192  # so many training images, as mmpretrain's PreciseBNHook takes
WEIGHTS = ("net", "ema")
COLUMNS = ["weights", "bn", "crops", "size", "N", "top-1, %", "95 % interval", "top-5, %", "95 % interval"]


class Row(NamedTuple):
    """One way to evaluate: its settings, and for each sample the likeliest classes [n, 5] and the label [n]."""

    settings: tuple[str, str, str, str]
    best: "Tensor"
    labels: "Tensor"


def measure(subject: "Subject", args: Namespace) -> "Iterator[Row]":
    """Each way that was asked for."""
    task, data = subject.experiment.task.to(subject.device), subject.experiment.data
    normalise = lambda pixels: task.normalise(pixels.to(subject.device))  # noqa: E731
    own = data.eval_augment.size
    sizes = args.sizes or ([own, round(own * 8 / 7)] if own else [None])
    crops = [c for c in args.crops if c != "ten" or sizes != [None] or args.crops == ["ten"]]
    for weights, bn in product(args.weights or _held(subject), args.bn):
        net = _net(subject, weights, bn, normalise)
        for crop, size in product(crops, sizes):
            settings = ("raw" if weights == "net" else weights, bn, crop, str(size or "stored"))
            yield Row(settings, *top5(net, normalise, data, crop, size, args.split))


def _net(subject: "Subject", weights: str, bn: str, normalise: "Score") -> "nn.Module":
    """In eval mode; precise: a copy with statistics of training images as augmented in the last epoch."""
    if subject.state is not None:
        take_weights(subject.experiment.task, subject.state, weights)
    if bn == "moving":
        return subject.net
    net = copy.deepcopy(subject.net)
    measure_norms(net, training_batches(subject.experiment.data, normalise, BN_SAMPLES))
    return net


def _held(subject: "Subject") -> list[str]:
    """Raw weights, and averaged ones where there are any."""
    return [w for w in WEIGHTS if w == "net" or any(k.startswith(EMA) for k in subject.state or {})]


def shares(hits: "tuple[Tensor, Tensor]") -> list[str]:
    """N, top-1 and top-5 with their intervals, in percent."""
    n = len(hits[0])
    cells = [str(n)]
    for hit in hits:
        low, high = wilson(int(hit.sum()), n)
        cells += [f"{100 * float(hit.float().mean()):.2f}", f"{100 * low:.2f} to {100 * high:.2f}"]
    return cells


def per_class(row: Row, names: Sequence[str]) -> list[list[str]]:
    """Class, N, accuracy with interval, and the wrong class that is predicted most often; the worst class first.

    Args:
        row: of `measure`.
        names: of the net's outputs; classes without a picture are left out.

    Returns:
        Five cells of each, accuracies in percent.
    """
    lines = []
    for label, name in enumerate(names):
        predicted = row.best[row.labels == label, 0]
        if not len(predicted):
            continue
        wrong = predicted[predicted != label]
        low, high = wilson(len(predicted) - len(wrong), len(predicted))
        often = f"{names[int(wrong.mode().values)]}, {int((wrong == wrong.mode().values).sum())}" if len(wrong) else ""
        share = 1 - len(wrong) / len(predicted)
        cells = [name, str(len(predicted)), f"{100 * share:.2f}", f"{100 * low:.2f} to {100 * high:.2f}", often]
        lines.append((share, cells))
    return [cells for _, cells in sorted(lines, key=lambda line: line[0])]


def write_confusion(row: Row, names: Sequence[str], path: Path) -> None:
    """CSV: a line `label, name, ...`, then one for each label: its name, and how many were taken for each class.

    Args:
        row: of `measure`; damaged pictures (label below 0) do not count.
        names: of the net's outputs; those beyond are called by their number.
        path: of the file, in a folder that exists.
    """
    import torch

    known = row.labels >= 0
    n = max(len(names), int(row.best[:, 0].max()) + 1)
    counts = torch.bincount(row.labels[known] * n + row.best[known, 0], minlength=n * n).view(n, n).tolist()
    heads = [csv_cell(name) for name in (*names, *map(str, range(len(names), n)))]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["label", *heads])
    writer.writerows([head, *line] for head, line in zip(heads, counts, strict=True))
    write_whole(path, file.getvalue())


def check(args: Namespace) -> None:
    """Lists out of the flags' text; what is no word of theirs, and several ranks, are refused."""
    here = place(resolve("auto", os.environ), os.environ)
    if (here and here.local_size * here.nodes > 1) or any(
        a.startswith("--trainer.") and "devices" in a for a in args.recipe_keys
    ):
        raise UserError("evaluate runs on one device: start one process, and drop --trainer.devices")
    for name, words in (("crops", ("centre", "ten", "flip")), ("bn", BN), ("weights", WEIGHTS)):
        given = (getattr(args, name) or "").replace("center", "centre").split(",") if getattr(args, name) else None
        if bad := [word for word in given or [] if word not in words]:
            raise UserError(f"--{name} {bad[0]}: choose among {', '.join(words)}{nearest(bad[0], words)}")
        setattr(args, name, given)
    if args.sizes:
        if not all(part.isdecimal() and int(part) for part in args.sizes.split(",")):
            raise UserError(f"--sizes {args.sizes}: pixels per side, such as 224,256")
        args.sizes = [int(part) for part in args.sizes.split(",")]
    if args.labels and (args.per_class or args.confusion):
        raise UserError("--per-class and --confusion go by one label per picture: leave --labels out")
