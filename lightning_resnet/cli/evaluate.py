"""`resnet-cli evaluate RUN`: error by crops, resolution, norm statistics and weights."""

import os
import re
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning_resnet.arguments import TRUST, Parser, device
from lightning_resnet.bounds import CROPS
from lightning_resnet.engine.launch import place, resolve
from lightning_resnet.errors import UserError, nearest, tell
from lightning_resnet.files import IMAGES, check_writable
from lightning_resnet.flags import refuse_training
from lightning_resnet.meant import number, numbers
from lightning_resnet.printing import add_json
from lightning_resnet.runs.find import check_target
from lightning_resnet.shipped import recipe_file
from lightning_resnet.words import VALUES, by_word

SPLITS = ("val", "test", "train")
WORDS = {  # flag -> what its list may hold
    "crops": CROPS,
    "bn": ("moving", "precise"),
    "weights": ("net", "ema"),
}


def make_parser() -> Parser:
    """Return the parser of `resnet-cli evaluate`."""
    parser = Parser(
        recipe="keys",
        takes_run=True,
        prog="resnet-cli evaluate",
        description="Error of one checkpoint by crops, resolution, norm statistics and weights.",
        epilog="Any key of a recipe is a flag too, such as --data.source.root DIR.",
    )
    parser.add_argument("target", metavar="RUN", help="a run: its last checkpoint; or a checkpoint")
    parser.add_argument(
        "--at",
        choices=["last", "best"],
        default="last",
        help="of a run (default: %(default)s)",
    )
    parser.add_argument(
        "--crops",
        help="of centre,ten,flip (default: all that apply; without flips in training centre)",
    )
    parser.add_argument(
        "--sizes",
        metavar="N,...",
        help="pixels per side (default: the recipe's and 8/7 of it)",
    )
    parser.add_argument("--bn", default="moving", help="of moving,precise (default: %(default)s)")
    parser.add_argument("--weights", help="of net,ema (default: what the checkpoint holds)")
    parser.add_argument("--split", default="val", help="train | val | test (default: %(default)s)")
    parser.add_argument(
        "--labels",
        metavar="FILE.json",
        help="several right labels per image (ReaL), see README",
    )
    parser.add_argument(
        "--per-class",
        action="store_true",
        help="also each class's error, of the first row",
    )
    parser.add_argument(
        "--confusion",
        metavar="FILE.csv",
        help="write label against prediction, of the first row",
    )
    parser.add_argument(
        "--predictions",
        metavar="FILE.csv",
        help="write label, prediction and path of each image, of the first row",
    )
    parser.add_argument(
        "--device", type=device, help="cpu | cuda (default: cuda where there is one)"
    )
    parser.add_argument("--trust", action="store_true", help=TRUST)
    add_json(parser)
    return parser


def run(args: Namespace) -> int:
    """Evaluate and print the table; return 0.

    Raises:
        UserError: the target, a flag or the labels are wrong.
    """
    check(args)
    check_target(args.target, one=True)
    if recipe_file(args.target).suffix != ".yaml":
        refuse_training(args.recipe_keys, "evaluate")
    if args.labels and not Path(args.labels).is_file():
        raise UserError(f"--labels {args.labels} does not exist: give a .json of right labels")
    if args.labels and Path(args.labels).suffix.lower() in IMAGES:
        raise UserError(f"--labels {args.labels} is an image: give a .json of right labels")
    from lightning_resnet.engine.signals import importing

    with importing():  # takes seconds
        from lightning_resnet.analysis.evaluation import evaluate
        from lightning_resnet.analysis.evaluation.real_labels import hits_of, read_labels
        from lightning_resnet.analysis.inspection.subjects import subjects
        from lightning_resnet.printing import fitted
        from lightning_resnet.weights.classes import align, in_words
        from lightning_resnet.weights.trained import device_for

    on = device_for(args.device)
    found = list(
        subjects(
            [args.target],
            args.recipe_keys,
            args.at,
            device=on,
            trust=args.trust,
            one=True,
        )
    )
    if len(found) > 1:
        raise UserError(f"{args.target} has {len(found)} nets: give a run or recipe of one")
    subject = found[0]
    data = subject.experiment.data
    names = subject.classes or align(data, subject.net, [])
    if args.split not in data.splits:
        raise UserError(f"--split {args.split}: the source has {', '.join(data.splits)}")
    right = None
    if args.labels:
        right = read_labels(args.labels, data.splits[args.split], data.source.classes, names)
    for file in filter(None, (args.confusion, args.predictions)):
        # an error now, not after hours of work
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        check_writable(Path(file))
    rows = []
    document: list[dict[str, Any]] = []
    classes = [evaluate.PER_CLASS_COLUMNS]
    for row in evaluate.measure(subject, args):
        shares = evaluate.shares(hits_of(row.best, row.labels, right))
        cells = evaluate.cells_of(shares)
        settings = " ".join(row.settings)
        result = f"top-1 error {cells[1]} %, top-5 error {cells[3]} %"
        tell(f"evaluated: {settings}: N {cells[0]}, {result}")
        if not rows and args.per_class:
            classes += evaluate.per_class(row, names)
        if not rows and args.confusion:
            evaluate.write_confusion(row, names, Path(args.confusion))
        if not rows and args.predictions:
            images = data.splits[args.split]
            evaluate.write_predictions(row, images, names, Path(args.predictions))
        rows.append([*row.settings, *cells])
        document.append(dict(zip(evaluate.COLUMNS, row.settings, strict=False)) | shares)
    source = type(data.source).__name__
    args.document |= {"path": subject.path, "split": args.split, "source": source, "rows": document}
    if args.per_class:
        keys = ("class", "n", "error", "interval", "taken_for")
        words = dict(zip(names, in_words(names), strict=True))
        found = [dict(zip(keys, line, strict=True)) for line in classes[1:]]
        args.document["classes"] = [line | {"words": words[line["class"]]} for line in found]
        for line in classes[1:]:
            line[0] = words[line[0]]
    if args.as_json:
        return 0
    tell(f"\n{subject.path}, {args.split} images of {source}\n")
    tell(fitted([evaluate.COLUMNS, *rows], 4))
    if args.per_class:
        tell(f"\n{' '.join(rows[0][:4])}:\n\n{fitted(classes, 1)}")
    return 0


def check(args: Namespace) -> None:
    """Turn the texts of flags into lists, in place.

    Raises:
        UserError: a word is none of the flag's, or several ranks are asked for.
    """
    here = place(resolve("auto", os.environ), os.environ)
    several = here and here.local_size * here.nodes > 1
    flags = [a for a in args.recipe_keys if a.startswith("--trainer.") and "devices" in a]
    if several or flags:
        raise UserError(
            "evaluate runs on one device: start one process, and drop --trainer.devices"
        )
    if args.crops:
        args.crops = args.crops.replace("center", "centre")
    for name, words in WORDS.items():
        text = getattr(args, name)
        given = re.split(r"[, ]+", text.strip("[] ")) if text else None
        for word in given or []:
            if word not in words:
                hint = nearest(word, words)
                if meant := by_word(VALUES.get(f"evaluate --{name}", {})).get(word):
                    hint = f"; did you mean {meant}?"
                raise UserError(f"--{name} {word}: choose among {', '.join(words)}{hint}")
        setattr(args, name, given)
    if args.sizes:
        parts = args.sizes.split(",")
        if not all(part.isdecimal() and int(part) for part in parts):
            found = number(args.sizes, lambda side: isinstance(side, int) and side > 0)
            if re.fullmatch(r"\[\d+(, ?\d+)*\]", args.sizes):
                found = numbers([args.sizes]).strip("[]")
            hint = f"; did you mean {found}?" if found else ""
            raise UserError(
                f"--sizes {args.sizes}: pixels per side, 1 or more, such as 224,256{hint}"
            )
        args.sizes = [int(part) for part in parts]
    if args.split not in SPLITS:
        meant = by_word(VALUES["evaluate --split"]).get(args.split)
        hint = f"; did you mean {meant}?" if meant else nearest(args.split, SPLITS)
        raise UserError(f"--split {args.split}: choose among {', '.join(SPLITS)}{hint}")
    if args.labels and (args.per_class or args.confusion):
        raise UserError("--per-class and --confusion go by one label per image: leave --labels out")
