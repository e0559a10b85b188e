"""`resnet-cli evaluate`: one checkpoint, evaluated in every way that figures are published.

`resnet-cli evaluate runs/imagenet/RUN --crops centre,ten,flip --sizes 224,256 --bn moving,precise`

Figures of two papers compare only within a row: crops, resolution and statistics are worth up to
2 points.
"""

import copy
import csv
import io
from argparse import Namespace
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_resnet.analysis.evaluation.crops import Score, top5, training_batches, wilson
from lightning_resnet.analysis.inspection.subjects import Subject
from lightning_resnet.bounds import CROPS
from lightning_resnet.data.images import Images
from lightning_resnet.errors import csv_cell
from lightning_resnet.files import write_atomic
from lightning_resnet.models.batch_norm import measure_norms
from lightning_resnet.training.state_dict import EMA
from lightning_resnet.weights.classes import in_words
from lightning_resnet.weights.trained import take_weights

BN_SAMPLES = 8192  # training images, as many as mmpretrain's PreciseBNHook takes
COLUMNS = [
    *("weights", "bn", "crops", "size", "N"),
    *("top-1 error, %", "95 % interval", "top-5 error, %", "95 % interval"),
]
PER_CLASS_COLUMNS = ["class", "N", "error, %", "95 % interval", "most often taken for"]


class Row(NamedTuple):
    """Result of one way to evaluate.

    Attributes:
        settings: weights, norm statistics, crops and size.
        best: most probable classes of each sample [n, 5].
        labels: label of each sample [n].
    """

    settings: tuple[str, str, str, str]
    best: Tensor
    labels: Tensor


def measure(subject: Subject, args: Namespace) -> Iterator[Row]:
    """Evaluate in each way that was asked for.

    Args:
        subject: net, weights and data.
        args: flags of `resnet-cli evaluate`, after `check`.
    """
    task = subject.experiment.task.to(subject.device)
    data = subject.experiment.data

    def normalise(pixels: Tensor) -> Tensor:
        return task.normalise(pixels.to(subject.device))

    own = data.eval_augment.size
    sizes = args.sizes or ([own, round(own * 8 / 7)] if own else [None])
    # a mirrored digit is none: without flips in training, nothing is mirrored unless asked for
    flips = subject.experiment.config.values.data.flip
    crops = args.crops or (CROPS if flips else CROPS[:1])
    if sizes == [None] and list(crops) != ["ten"]:
        crops = [crop for crop in crops if crop != "ten"]
    for weights, bn in product(args.weights or _held(subject), args.bn):
        net = _net(subject, weights, bn, normalise)
        shown = "raw" if weights == "net" else weights
        for crop, size in product(crops, sizes):
            best, labels = top5(net, normalise, data, crop, size, args.split)
            yield Row((shown, bn, crop, str(size or "stored")), best, labels)


def _net(subject: Subject, weights: str, bn: str, normalise: Score) -> nn.Module:
    """Return the net in eval mode.

    `bn` precise: a copy with the statistics of training images as augmented in the last epoch.
    """
    if subject.state is not None:
        take_weights(subject.experiment.task, subject.state, weights)
    if bn == "moving":
        return subject.net
    net = copy.deepcopy(subject.net)
    measure_norms(net, training_batches(subject.experiment.data, normalise, BN_SAMPLES))
    return net


def _held(subject: Subject) -> list[str]:
    """Return the kinds of weights in the checkpoint: raw, and averaged ones if there are any."""
    averaged = any(key.startswith(EMA) for key in subject.state or {})
    return ["net", "ema"] if averaged else ["net"]


def shares(hits: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Return n, top1 and top5 with their intervals (top1_low, top1_high, ...), in percent.

    These are accuracies; `top1_error` and `top5_error` are what tables and lines call error.

    Args:
        hits: from `real_labels.hits_of`.
    """
    n = len(hits[0])
    found: dict[str, float] = {"n": n}
    for name, hit in zip(("top1", "top5"), hits, strict=True):
        low, high = wilson(int(hit.sum()), n)
        found[name] = 100 * float(hit.float().mean())
        found |= {f"{name}_low": 100 * low, f"{name}_high": 100 * high}
        found[f"{name}_error"] = 100 - found[name]
    return found


def cells_of(found: dict[str, float]) -> list[str]:
    """Return the cells of `shares` as N, top-1 error, interval, top-5 error, interval."""
    cells = [str(found["n"])]
    for name in ("top1", "top5"):
        low, high = (100 - found[f"{name}_{end}"] for end in ("high", "low"))
        cells += [f"{100 - found[name]:.2f}", f"{low:.2f} to {high:.2f}"]
    return cells


def per_class(row: Row, names: Sequence[str]) -> list[list[str]]:
    """Return a row of `PER_CLASS_COLUMNS` for each class, the worst class first.

    Args:
        row: of `measure`.
        names: of the net's outputs; classes without an image are left out.
    """
    lines = []
    for label, name in enumerate(names):
        predicted = row.best[row.labels == label, 0]
        n = len(predicted)
        if not n:
            continue
        wrong = predicted[predicted != label]
        low, high = wilson(len(wrong), n)
        often = ""
        if len(wrong):
            mode = int(wrong.mode().values)
            often = f"{names[mode]}, {int((wrong == mode).sum())}"
        share = len(wrong) / n
        interval = f"{100 * low:.2f} to {100 * high:.2f}"
        lines.append((share, [name, str(n), f"{100 * share:.2f}", interval, often]))
    return [cells for _, cells in sorted(lines, key=lambda line: -line[0])]


def write_predictions(row: Row, images: Images, names: Sequence[str], path: Path) -> None:
    """Write what each image was taken for as CSV.

    The columns are named as those of `predict`: sample, label, predicted, words (of the predicted
    class) and "picture", the path of an image that is in a file.

    Args:
        row: of `measure`; damaged images (label below 0) are left out.
        images: of the split.
        names: of the net's outputs.
        path: of the file, in a folder that exists.
    """
    words = in_words(names)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["sample", "label", "predicted", "words", "picture"])
    taken_for = row.best[:, 0].tolist()
    labels = row.labels.tolist()
    for sample, label, best, found in zip(
        images.ids, labels, taken_for, images.files(), strict=True
    ):
        if label >= 0:
            texts = (names[label], names[best], words[best], found)
            writer.writerow([sample, *map(csv_cell, texts)])
    write_atomic(path, file.getvalue())


def write_confusion(row: Row, names: Sequence[str], path: Path) -> None:
    """Write label against prediction as CSV.

    The first line is `label, name, ...`; then each label has a line with its name and how many of
    its images were taken for each class.

    Args:
        row: of `measure`; damaged images (label below 0) do not count.
        names: of the net's outputs; outputs beyond these are called by their number.
        path: of the file, in a folder that exists.
    """
    known = row.labels >= 0
    n = max(len(names), int(row.best[:, 0].max()) + 1)
    pairs = row.labels[known] * n + row.best[known, 0]
    counts = torch.bincount(pairs, minlength=n * n).view(n, n).tolist()
    heads = [csv_cell(name) for name in (*names, *map(str, range(len(names), n)))]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["label", *heads])
    writer.writerows([head, *line] for head, line in zip(heads, counts, strict=True))
    write_atomic(path, file.getvalue())
