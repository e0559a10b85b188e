"""`resnet-cli predict`: the likeliest classes of pictures, or (without pictures) of a recipe's validation images.

`resnet-cli predict photos/ cat.jpg --ckpt_path runs/fine/RUN/checkpoints/best.ckpt --format csv`

Pictures are read, cut and scaled as the recipe in the checkpoint evaluates: `--data.size 256` asks for another size.
"""

import csv
import json
import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_resnet.analysis.compare.tables import csv_cell, markdown
from lightning_resnet.data.beton.encode import explain
from lightning_resnet.data.images import Images
from lightning_resnet.data.loaders.torch_loader import Reader
from lightning_resnet.data.sources.folder import SUFFIXES, find_images
from lightning_resnet.errors import UserError, tell
from lightning_resnet.progress import Meter
from lightning_resnet.weights.trained import Trained, device_for

if TYPE_CHECKING:
    from torch import Tensor


BATCH = 32
Prediction = tuple[str, list[tuple[str, float]]]  # picture, its likeliest (class, probability)


def find(paths: Sequence[str]) -> list[str]:
    """The pictures among files and folders, each folder's sorted by name."""
    files: list[str] = []
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"picture {path} does not exist")
        inside = sorted(map(Path, find_images(path))) if path.is_dir() else [path]
        if not inside:
            raise UserError(f"no pictures in {path}: files that end in {' '.join(sorted(SUFFIXES))} are looked for")
        files += map(str, inside)
    return files


def predict(trained: "Trained", files: list[str], args: Namespace) -> Iterator[Prediction]:
    """Those that can be read; the others are named on stderr."""
    shown = args.format != "csv" or not sys.stdout.isatty()  # rows on a terminal are progress enough
    with closing(Meter(len(files), "pictures", show=shown)) as meter:
        for part in (files[i : i + BATCH] for i in range(0, len(files), BATCH)):
            yield from _batch(trained, part, args)
            meter.update(len(part))


def _batch(trained: "Trained", files: list[str], args: Namespace) -> list[Prediction]:
    import torch

    device = device_for(args.device)
    read = [(file, image) for file in files if (image := _image(trained, file)) is not None]
    if not read:
        return []
    with torch.inference_mode():
        images = torch.cat([image for _, image in read]).to(device)
        chances = trained.task.to(device)(images).softmax(1).cpu()
    names = trained.class_names() or [str(label) for label in range(chances.shape[1])]
    best = chances[:, : len(names)].topk(min(args.top, len(names)))
    tops = zip(best.values.tolist(), best.indices.tolist(), strict=True)
    likeliest = [[(names[label], value) for value, label in zip(*top, strict=True)] for top in tops]
    return [(file, top) for (file, _), top in zip(read, likeliest, strict=True)]


def _image(trained: "Trained", file: str) -> "Tensor | None":
    """As evaluation sees it, uint8 [1, 3, S, S]."""
    import numpy as np

    data, one = trained.experiment.data, np.zeros(1, np.int64)
    if data.eval_augment.size is None:
        raise UserError(
            "the recipe takes pictures as they are: say the pixels per side it was trained on, such as --data.size 32 "
            "of CIFAR's; each picture's whole central square is then taken"
        )
    try:
        reader = Reader(Images(one, one, paths=[file]), lambda epoch: data.eval_augment, 0, "raise")
        return reader[0, one][0]
    except Exception as e:  # noqa: BLE001 -- whatever is wrong with one image, the others are predicted
        why = e.__cause__ if isinstance(e.__cause__, Exception) else e
        tell(f"cannot read {file}: {explain(why)}; leave it out", file=sys.stderr)
        return None


def _table(found: Iterable[Prediction]) -> int:
    """Write all at the end, as columns have to fit; like the others, returns how many."""
    done = list(found)
    places = max((len(best) for _, best in done), default=0)
    rows = [[picture, *(f"{name} {value:.1%}" for name, value in best)] for picture, best in done]
    tell(markdown([["picture", *map(str, range(1, places + 1))], *rows]))
    return len(done)


def _csv(found: Iterable[Prediction]) -> int:
    """Write each at once: an interruption loses nothing."""
    writer, n = csv.writer(sys.stdout, lineterminator="\n"), 0
    writer.writerow(["picture", "rank", "class", "probability"])
    for n, (picture, best) in enumerate(found, 1):  # noqa: B007 -- the last is how many
        shown = [(csv_cell(name), value) for name, value in best]
        writer.writerows([csv_cell(picture), rank, name, f"{value:.6f}"] for rank, (name, value) in enumerate(shown, 1))
        sys.stdout.flush()
    return n


def _json(found: Iterable[Prediction]) -> int:
    named = [
        {"picture": p, "top": [{"class": name, "probability": round(v, 6)} for name, v in best]} for p, best in found
    ]
    text = json.dumps(named, indent=1, ensure_ascii=False)
    print("".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text))
    return len(named)


FORMATS = {"table": _table, "csv": _csv, "json": _json}
