"""`resnet-cli inspect KIND TARGET...`: what a net does inside, block by block."""

import shlex
from argparse import ArgumentTypeError, Namespace
from pathlib import Path
from typing import Any

from lightning_resnet.arguments import TRUST, Parser, above_zero, device, folder, positive
from lightning_resnet.errors import UserError, tell
from lightning_resnet.flags import check, refuse_training
from lightning_resnet.printing import add_json
from lightning_resnet.reading import read_yaml
from lightning_resnet.runs.find import check_target
from lightning_resnet.shipped import recipe_file

KINDS = {
    "gradients": "norms of dE/dx and dE/dw, the part that takes the shortcut, and how alike "
    "the gradients of images and of batches are",
    "responses": "std of each 3x3 layer's response (He et al. 2015, fig. 7), F(x) over x, weights",
    "lesions": "validation error with blocks deleted or exchanged (Veit et al. 2016)",
    "paths": "share of the gradient by length of path, and the effective depth (Veit et al. 2016)",
    "probes": "how well a linear classifier does on each block's output",
    "landscape": "loss on a plane through the weights, filter-normalised (Li et al. 2018)",
    "curvature": "eigenvalues, trace and density of the loss's Hessian, with the line 2/lr",
    "similarity": "how alike the outputs of layers are, and those of two nets (linear CKA)",
    "alignment": "whether all blocks do the same small step (residual alignment, Li & Papyan 2023)",
    "shortcuts": "singular values of projections on shortcuts, and the energy of x they keep",
    "why": "two runs, or twins of a sweep: all of these on one page, and what each says of the two",
}


DEFAULTS = {
    "batches": 4,
    "draws": 10,
    "images": 500,
    "points": 25,
    "range": 1.0,
    "directions": 1,
}
OF_WHY = DEFAULTS | {"draws": 5, "images": 200, "points": 11}  # minutes on two cores in all
# flags that mean something to these kinds alone
KINDS_OF = {
    "images": ("landscape", "curvature", "similarity", "alignment", "why"),
    "points": ("landscape", "why"),
    "range": ("landscape", "why"),
    "directions": ("landscape", "why"),
    "line": ("landscape", "why"),
    "hessian": ("landscape", "why"),
    "trajectory": ("landscape",),
}


def make_parser() -> Parser:
    """Return the parser of `resnet-cli inspect`."""
    parser = Parser(
        recipe="keys",
        prog="resnet-cli inspect",
        description="What a net does inside, block by block.",
        epilog="Any key of a recipe is a flag too, such as --model.net.depth 56 or --data.size 64.",
    )
    kinds = "; ".join(f"{kind}: {text}" for kind, text in KINDS.items())
    parser.add_argument("what", choices=KINDS, help=kinds)
    parser.add_argument(
        "targets",
        nargs="*",
        metavar="TARGET",
        help="runs, folders of runs, checkpoints; or recipes, sweeps (.yaml): nets before training",
    )
    parser.add_argument(
        "--at",
        choices=["last", "best", "init"],
        default="last",
        help="of runs (default: %(default)s)",
    )
    parser.add_argument(
        "--batches",
        type=positive,
        metavar="N",
        help=f"training batches (default: {_default('batches')})",
    )
    parser.add_argument(
        "--draws",
        type=positive,
        metavar="N",
        help=f"random choices each (default: {_default('draws')})",
    )
    parser.add_argument(
        "--images",
        type=positive,
        metavar="N",
        help="training images, not augmented, of landscape, curvature, similarity, "
        f"alignment (default: {_default('images')})",
    )
    parser.add_argument(
        "--points",
        type=_odd,
        metavar="N",
        help=f"landscape: points along each axis (default: {_default('points')})",
    )
    parser.add_argument(
        "--range",
        type=above_zero,
        metavar="R",
        help="landscape: axes from -R to R, in norms of the filters "
        f"(default: {_default('range')})",
    )
    parser.add_argument(
        "--directions",
        type=positive,
        metavar="N",
        help="landscape: random pairs of directions, a plane each "
        f"(default: {_default('directions')})",
    )
    parser.add_argument(
        "--line", action="store_true", help="landscape: only a line through the weights"
    )
    parser.add_argument(
        "--hessian",
        action="store_true",
        help="landscape: also the eigenvalues of the Hessian at each point; slow: try --points 7",
    )
    parser.add_argument(
        "--trajectory",
        action="store_true",
        help="landscape: the plane in which training moved most, with its path; of runs that were "
        "trained with --run.keep_epochs",
    )
    parser.add_argument(
        "--device", type=device, default="cpu", help="cpu | cuda (default: %(default)s)"
    )
    parser.add_argument("--trust", action="store_true", help=TRUST)
    parser.add_argument(
        "--out",
        type=folder,
        metavar="DIR",
        help="where to write (default: report/ in the target's folder)",
    )
    add_json(parser)
    return parser


def _default(name: str) -> str:
    """Return a flag's default, and that of `why` where it is another."""
    number = DEFAULTS[name]
    return str(number) if OF_WHY[name] == number else f"{number}; why: {OF_WHY[name]}"


def _odd(text: str) -> int:
    """Read a number of points along an axis of which one is the net itself."""
    number = positive(text)
    if number < 3 or number % 2 == 0:
        raise ArgumentTypeError(f"{text}: an odd number, 3 or more: the net is the middle point")
    return number


def run(args: Namespace) -> int:
    """Inspect; print the table and where the files lie; return 0.

    Raises:
        UserError: there is nothing to inspect, or a flag belongs to another kind.
    """
    for name, kinds in KINDS_OF.items():
        if getattr(args, name) and args.what not in kinds:
            raise UserError(f"--{name} is of {', '.join(kinds)}, not of {args.what}: leave it out")
    for name, number in (OF_WHY if args.what == "why" else DEFAULTS).items():
        if getattr(args, name) is None:
            setattr(args, name, number)
    if not args.targets and "--config" not in args.recipe_keys and "-c" not in args.recipe_keys:
        example = f"resnet-cli inspect {args.what} digits"
        raise UserError(f"inspect what? name a run or a recipe: {example}")
    if args.trajectory and (args.line or args.directions > 1):
        raise UserError("--trajectory has a plane of its own: leave out --line and --directions")
    for target in args.targets:
        check_target(target, is_trained=args.at != "init")
        file = recipe_file(target)
        if file.suffix != ".yaml":
            refuse_training(args.recipe_keys, "inspect")
        content = read_yaml(file) if file.suffix == ".yaml" else {"parameters": None}
        if not isinstance(content, dict) or "parameters" not in content:
            check(["--config", target, *args.recipe_keys], "inspect")
    from lightning_resnet.engine.signals import importing

    with importing():  # takes seconds
        from lightning_resnet.analysis.inspection.report import inspect, rows, to_text, write
        from lightning_resnet.analysis.inspection.subjects import subjects
        from lightning_resnet.weights.trained import device_for

    on = device_for(args.device)
    found = subjects(args.targets, args.recipe_keys, args.at, args.batches, on, args.trust)
    command = shlex.join(["resnet-cli", "inspect", *args.words])
    if args.what == "why":
        return _why(args, [*found], command)
    frame, folder, title = inspect(args, found)
    if not args.as_json:
        tell(to_text(args.what, frame, title))
    files = write(args.what, frame, folder, title, command)
    args.document |= {"title": title, "rows": rows(args.what, frame), "files": files}
    for file in files:
        tell(file)
    return 0


def _why(args: Namespace, found: list[Any], command: str) -> int:
    """Compare two nets by all inspections; print the table and where the files lie; return 0."""
    from lightning_resnet.analysis.inspection import why
    from lightning_resnet.analysis.inspection.report import default_folder

    args.folder = Path(args.out or default_folder(args.targets))
    made = why.why(args, found)
    if not args.as_json:
        tell(why.to_text(made, args))
    files = why.write(made, args, command)
    left_out = [line for pair in made for line in pair.left_out]
    args.document |= {"title": why.title(made), "rows": why.rows(made)}
    args.document |= {"left_out": left_out, "files": files}
    for file in files:
        tell(file)
    return 0
