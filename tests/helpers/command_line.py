"""The command line, and the flags of a small training."""

import shlex
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parents[2]
TINY = (
    f"--config {REPOSITORY}/configs/digits.yaml --run.threads 1 --model.net.depth 8 "
    "--model.net.width 4"
).split()
DIGITS = str(REPOSITORY / "configs/digits.yaml")


def verb(module):
    """Return a function that runs the words of a verb as the command line does, and raises what it
    meets.
    """

    def run(words):
        return module.run(module.make_parser().read([str(word) for word in words]))

    return run


def small(args, photos):
    """The flags that make a command small: two steps on the folder; CIFAR's crops are of images of
    one size.
    """
    name = args[args.index("--config") + 1].removeprefix("configs/").removesuffix(".yaml")
    path = REPOSITORY / "configs" / f"{name}.yaml"
    flags = (
        "--data.workers 0 --trainer.max_epochs 1 --trainer.limit_train_batches 2 "
        "--trainer.limit_val_batches 2"
    )
    flags += (
        " --trainer.accelerator cpu --run.threads 1 --run.keep none --data.batch_size 4 "
        "--model.net.num_classes 2"
    )
    flags += f" --data.source ImageFolder --data.source.root {photos}"
    content = yaml.safe_load(path.read_text())
    cifar = content["model"]["net"]["class_path"] == "CifarResNet"
    flags += " --data.size 16 --data.crop resized" if cifar else " --data.size 64"
    if "holdout" in str(content["data"]["source"]):
        flags += " --data.source.holdout null"
    if "progressive" in content["data"]:
        flags += " --data.progressive '{low: 32, high: 64}'"
    return path, shlex.split(flags)
