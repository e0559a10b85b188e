"""Download a data set, with checksums, where torchvision knows one.

resnet-cli data get cifar10|cifar100|fashion_mnist [--root data]
"""

from lightning_resnet.errors import Parser, UserError, one_line

SETS = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "fashion_mnist": "FashionMNIST"}


def make_parser() -> Parser:
    """The flags of `resnet-cli data`."""
    parser = Parser(prog="resnet-cli data", description="Get a data set.")
    get = parser.add_subparsers(dest="verb", required=True).add_parser("get", help="download, check and unpack")
    get.add_argument("name", choices=SETS)
    get.add_argument("--root", default="data", help="folder to put it in (default: %(default)s)")
    return parser


def main(argv: list[str]) -> int:
    """Run `resnet-cli data`."""
    args = make_parser().parse_args(argv)
    import torchvision.datasets

    try:
        getattr(torchvision.datasets, SETS[args.name])(args.root, download=True)  # compares MD5 sums
    except (OSError, RuntimeError) as e:
        raise UserError(
            f"could not get {args.name} ({one_line(e)}): where there is no network, run this elsewhere and copy "
            f"the folder {args.root}"
        ) from e
    print(f"{args.name} is in {args.root}: --data.source {SETS[args.name]} --data.source.root {args.root}")
    return 0
