"""`resnet-cli evaluate CKPT`: accuracy by crops, resolution, norm statistics and weights."""

from argparse import Namespace
from pathlib import Path

from lightning_resnet.arguments import TRUST, Parser
from lightning_resnet.errors import UserError, tell
from lightning_resnet.files import check_writable


def make_parser() -> Parser:
    """The flags of `resnet-cli evaluate`."""
    parser = Parser(
        recipe="keys",
        prog="resnet-cli evaluate",
        description="Top-1 and top-5 accuracy of one checkpoint by crops, resolution, norm statistics and weights.",
        epilog="Any key of a recipe is a flag too, such as --data.source ImageNetV2 --data.source.root DIR.",
    )
    parser.add_argument("target", metavar="CKPT", help="a checkpoint, or a run: its last")
    parser.add_argument("--at", choices=["last", "best"], default="last", help="of a run (default: %(default)s)")
    parser.add_argument("--crops", default="centre,ten,flip", help="of centre,ten,flip (default: all that apply)")
    parser.add_argument("--sizes", metavar="N,...", help="pixels per side (default: the recipe's and 8/7 of it)")
    parser.add_argument("--bn", default="moving", help="of moving,precise (default: %(default)s)")
    parser.add_argument("--weights", help="of net,ema (default: what the checkpoint holds)")
    parser.add_argument("--split", default="val", help="val | test (default: %(default)s)")
    parser.add_argument("--labels", metavar="FILE.json", help="several right labels per picture (ReaL), see README")
    parser.add_argument("--per-class", action="store_true", help="also each class's accuracy, of the first row")
    parser.add_argument("--confusion", metavar="FILE.csv", help="write label against prediction, of the first row")
    parser.add_argument("--device", help="cpu | cuda (default: cuda where there is one)")
    parser.add_argument("--trust", action="store_true", help=TRUST)
    return parser


def run(args: Namespace) -> int:
    """Evaluate and print the table; 0, or an error the user can cure."""
    from lightning_resnet.analysis.compare.tables import markdown
    from lightning_resnet.analysis.evaluation.evaluate import (
        COLUMNS,
        check,
        measure,
        per_class,
        shares,
        write_confusion,
    )
    from lightning_resnet.analysis.evaluation.real_labels import hits_of, read_labels
    from lightning_resnet.analysis.inspection.subjects import subjects
    from lightning_resnet.weights.classes import align
    from lightning_resnet.weights.trained import device_for

    check(args)
    found = list(subjects([args.target], args.recipe_keys, args.at, device=device_for(args.device), trust=args.trust))
    if len(found) > 1:
        raise UserError(f"{args.target} holds {len(found)} runs: give one of them")
    subject = found[0]
    names = subject.classes or align(subject.experiment.data, subject.net, [])
    if args.split not in subject.experiment.data.splits:
        raise UserError(f"--split {args.split}: the source has {', '.join(subject.experiment.data.splits)}")
    images, theirs = subject.experiment.data.splits[args.split], subject.experiment.data.source.classes
    right = read_labels(args.labels, images, theirs, names) if args.labels else None
    if args.confusion:  # now, not after hours of work
        Path(args.confusion).parent.mkdir(parents=True, exist_ok=True)
        check_writable(Path(args.confusion))
    rows = [COLUMNS]
    for k, row in enumerate(measure(subject, args)):
        rows.append([*row.settings, *(cells := shares(hits_of(row.best, row.labels, right)))])
        tell(f"evaluated: {' '.join(row.settings)}: N {cells[0]}, top-1 {cells[1]} %, top-5 {cells[3]} %")
        if k == 0 and args.per_class:
            classes = [["class", "N", "top-1, %", "95 % interval", "most often taken for"], *per_class(row, names)]
        if k == 0 and args.confusion:
            write_confusion(row, names, Path(args.confusion))
    tell(f"\n{subject.path}, {args.split} images of {type(subject.experiment.data.source).__name__}\n")
    tell(markdown(rows))
    if args.per_class:
        tell(f"\n{' '.join(rows[1][:4])}:\n\n{markdown(classes)}")
    return 0
