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
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_resnet.errors import TRUST, Parser, UserError, positive, tell
from lightning_resnet.runtime.progress import Meter

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_resnet.trained import Trained

BATCH = 32
Prediction = tuple[str, list[tuple[str, float]]]  # picture, its likeliest (class, probability)


def make_parser() -> Parser:
    """The flags of `resnet-cli predict PICTURES`."""
    parser = Parser(
        prog="resnet-cli predict",
        description="The likeliest classes of pictures. Without pictures: of a recipe's validation images, as CSV.",
        usage="resnet-cli predict PICTURE... --ckpt_path CKPT [options] | resnet-cli predict --config R.yaml [options]",
        epilog="Any key of a recipe is a flag too, such as --data.size 256.",
    )
    parser.add_argument("pictures", nargs="+", metavar="PICTURE", help="files, or folders of them; before all options")
    parser.add_argument("--ckpt_path", required=True, metavar="CKPT", help="checkpoint, or a run: its last")
    parser.add_argument("--top", type=positive, default=5, metavar="K", help="classes of each (default: %(default)s)")
    parser.add_argument("--format", choices=["table", "csv", "json"], default="table", help="default: %(default)s")
    parser.add_argument("--weights", choices=["net", "ema"], default="net", help="as trained, or their moving average")
    parser.add_argument("--device", help="cpu | cuda (default: cuda where there is one)")
    parser.add_argument("--trust", action="store_true", help=TRUST)
    return parser


def main(argv: Sequence[str]) -> int:
    """Run `argv` = [predict, pictures..., options...]; 0, 1 if a picture could not be read, or an error."""
    from lightning_resnet.analysis.inspect import split
    from lightning_resnet.runtime.preemption import importing

    pictures = list(takewhile(lambda word: not word.startswith("-"), argv[1:]))
    if not pictures and "--help" not in argv and "-h" not in argv:
        with importing():  # takes seconds
            from lightning_resnet.fit import main
        return main(list(argv))
    own, recipe = split(argv[1 + len(pictures) :])
    args = make_parser().parse_args([*pictures, *own])
    files = find(args.pictures)
    with importing():
        from lightning_resnet.trained import load

    trained = load(args.ckpt_path, recipe, args.weights, args.trust)
    return 0 if FORMATS[args.format](predict(trained, files, args)) == len(files) else 1


def find(paths: Sequence[str]) -> list[str]:
    """The pictures among files and folders, each folder's sorted by name."""
    from lightning_resnet.data.sources import SUFFIXES, find_images

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

    from lightning_resnet.trained import device_for

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

    from lightning_resnet.data.encode import explain
    from lightning_resnet.data.sources import Images
    from lightning_resnet.data.torch import Reader

    data, one = trained.cli.datamodule, np.zeros(1, np.int64)
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
    from lightning_resnet.analysis.tables import markdown

    done = list(found)
    places = max((len(best) for _, best in done), default=0)
    rows = [[picture, *(f"{name} {value:.1%}" for name, value in best)] for picture, best in done]
    tell(markdown([["picture", *map(str, range(1, places + 1))], *rows]))
    return len(done)


def _csv(found: Iterable[Prediction]) -> int:
    """Write each at once: an interruption loses nothing."""
    from lightning_resnet.analysis.tables import csv_cell

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
