"""`resnet-cli predict`: the most probable classes of images.

`resnet-cli predict runs/fine/RUN/checkpoints/best.ckpt photos/ cat.jpg --format csv`

Images are read, cut and scaled as the recipe in the checkpoint evaluates: `--data.size 256` asks
for another size.
"""

import csv
import json
import os
import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lightning_resnet.data.beton.encode import explain
from lightning_resnet.data.images import FileImages
from lightning_resnet.data.loaders.read_batch import read_files
from lightning_resnet.data.sources.folder import find_images
from lightning_resnet.errors import UserError, csv_cell, tell
from lightning_resnet.files import IMAGES
from lightning_resnet.printing import markdown
from lightning_resnet.progress import Meter
from lightning_resnet.weights.classes import in_words
from lightning_resnet.weights.trained import Trained, device_for

BATCH = 32
OF_ONE_SIZE = {"Digits": 8, "FashionMNIST": 28, "CIFAR10": 32, "CIFAR100": 32}  # pixels per side


class Prediction(NamedTuple):
    """What a net says of an image.

    Attributes:
        file: path of the image.
        top: the most probable classes, each with its probability.
        label: name of the folder that the image lies in, where a class has this name; else empty.
    """

    file: str
    top: list[tuple[str, float]]
    label: str


def find(paths: Sequence[str]) -> list[str]:
    """Return the image files among files and folders, those of a folder sorted by name.

    Raises:
        UserError: a path does not exist, or a folder has no images.
    """
    files: list[str] = []
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"image {path} does not exist")
        inside = sorted(map(Path, find_images(path))) if path.is_dir() else [path]
        if not inside:
            suffixes = " ".join(sorted(IMAGES))
            raise UserError(f"no images in {path}: files that end in {suffixes} are looked for")
        files += map(str, inside)
    return files


def other_data(trained: Trained, file: str) -> str:
    """Return a line for a photograph that a net of small, fixed images gets; else empty."""
    source = type(trained.experiment.data.source).__name__
    try:
        with Image.open(file) as image:
            size = image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""  # said when it is read
    pixels = OF_ONE_SIZE.get(source, max(size))
    if max(size) <= 2 * pixels:
        return ""
    return (
        f"the net was trained on the {pixels}x{pixels} images of {source}, and {file} has "
        f"{size[0]}x{size[1]} pixels: its classes may mean nothing here"
    )


def predict(trained: Trained, files: list[str], args: Namespace) -> Iterator[Prediction]:
    """Yield the predictions for the images that can be read; name the others on stderr.

    Args:
        trained: net with weights and data.
        files: from `find`.
        args: flags of `resnet-cli predict`.

    Raises:
        UserError: the recipe says no size of the images.
    """
    shown = args.format != "csv" or not sys.stdout.isatty()  # rows on a terminal are enough
    with closing(Meter(len(files), "images", show=shown)) as meter:
        for start in range(0, len(files), BATCH):
            part = files[start : start + BATCH]
            yield from _batch(trained, part, args)
            meter.update(len(part))


def _batch(trained: Trained, files: list[str], args: Namespace) -> list[Prediction]:
    device = device_for(args.device)
    read = []
    images = []
    for file in files:
        image = _image(trained, file)
        if image is not None:
            read.append(file)
            images.append(image)
    if not read:
        return []
    with torch.inference_mode():
        logits = trained.task.to(device)(torch.cat(images).to(device))
        probabilities = logits.softmax(1).cpu()
    names = _names(trained, probabilities.shape[1])
    best = probabilities[:, : len(names)].topk(min(args.top, len(names)))
    found = []
    for file, values, labels in zip(read, best.values.tolist(), best.indices.tolist(), strict=True):
        top = [(names[label], value) for value, label in zip(values, labels, strict=True)]
        folder = Path(file).absolute().parent.name
        found.append(Prediction(file, top, folder if folder in names else ""))
    return found


def _names(trained: Trained, outputs: int = 0) -> list[str]:
    """Return the names of the classes, else their numbers."""
    return trained.class_names() or [str(label) for label in range(outputs)]


def words_of(trained: Trained) -> dict[str, str]:
    """Return what to call each class; see `in_words`."""
    names = _names(trained)
    return dict(zip(names, in_words(names), strict=True))


def _image(trained: Trained, file: str) -> Tensor | None:
    """Return an image as evaluation sees it, uint8 [1, 3, S, S]; None if it cannot be read."""
    augment = trained.experiment.data.eval_augment
    one = np.zeros(1, np.int64)
    if augment.size is None:
        height, width = trained.side() or (0, 1)
        if height != width:
            raise UserError(
                "the recipe takes images as they are: say the pixels per side it was trained on, "
                "such as --data.size 32 of CIFAR's; the entire central square of each image is "
                "then taken"
            )
        augment = replace(augment, size=height)
    try:
        images = FileImages(one, one, [file])
        pixels, _ = read_files(images, augment, seed=0, epoch=0, at=one)
        return pixels
    except Exception as e:  # whatever is wrong with one image, the others are predicted
        why = e.__cause__ if isinstance(e.__cause__, Exception) else e
        tell(f"cannot read {file}: {explain(why)}; leave it out", file=sys.stderr)
        return None


def _table(found: Iterable[Prediction], words: dict[str, str]) -> int:
    """Write all at the end, because columns have to fit; return how many."""
    done = list(found)
    if not done:
        return 0
    places = max((len(one.top) for one in done), default=0)
    rows = [["picture", *map(str, range(1, places + 1))]]
    folders = [os.path.dirname(os.path.abspath(one.file)) for one in done]
    for file, best, _ in done:
        shown = os.path.relpath(file, os.path.commonpath(folders))
        rows.append([shown, *(f"{words.get(name, name)} {value:.1%}" for name, value in best)])
    tell(markdown(rows))
    return len(done)


def _csv(found: Iterable[Prediction], words: dict[str, str]) -> int:
    """Write each prediction at once, so that an interruption loses nothing; return how many."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    heads = ["picture", "rank", "class", "probability", "words", "label", "predicted"]
    writer.writerow(heads)
    n = 0
    for file, best, label in found:
        n += 1
        for rank, (name, value) in enumerate(best, 1):
            texts = map(csv_cell, (words.get(name, name), label, best[0][0]))
            writer.writerow([csv_cell(file), rank, csv_cell(name), f"{value:.6f}", *texts])
        sys.stdout.flush()
    return n


def _json(found: Iterable[Prediction], words: dict[str, str]) -> int:
    """Write all as one JSON list; return how many."""
    rows = []
    for file, best, label in found:
        top = []
        for name, value in best:
            meant = {"words": words[name]} if words.get(name, name) != name else {}
            top.append({"class": name, **meant, "probability": round(value, 6)})
        rows.append({"picture": file, "top": top, "label": label or None})
    text = json.dumps(rows, indent=1, ensure_ascii=False)
    # a terminal shows no control characters of others
    print("".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text))
    return len(rows)


FORMATS = {"table": _table, "csv": _csv, "json": _json}
