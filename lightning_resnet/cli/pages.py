"""What `resnet-cli`, `resnet-cli help VERB` and `resnet-cli fit --help` print, without torch.

The pages of the verbs that take a recipe are written here. `fit --help-all` and `fit --KEY.help`
print the table of keys. The other verbs have parsers of their own, whose help is short.
"""

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from textwrap import fill, wrap

from lightning_resnet import shipped
from lightning_resnet.aliases import key_of
from lightning_resnet.keys import Key, classes, keys, record_of

WIDTH = 80
# what one wants -> the verbs for it; verbs that batch scripts call are in no group
GROUPS = {
    "Train": ("fit", "sweep", "recipes"),
    "Look at runs": ("runs", "validate", "test", "rm", "export", "sync"),
    "Compare and understand": ("compare", "inspect", "evaluate"),
    "Use a trained net": ("predict", "deepen", "convert"),
    "Data and this machine": ("data", "doctor", "bench", "completion"),
}
RECIPE_VERBS = ("fit", "validate", "test", "predict")
# parts of a recipe in the order in which `--help-all` has them
SECTIONS = {
    "run": "The run",
    "data": "Data",
    "model": "Net, optimizer and schedule",
    "wandb": "Weights & Biases",
    "": "Start",
    "trainer": "Lightning's trainer",
}
FIT = """\
usage: resnet-cli fit --config RECIPE [--KEY VALUE ...]

Train a net. The same command again continues a run that was stopped.

  resnet-cli fit --config digits
  resnet-cli fit --config digits --depth 56 --shortcut none --seed 1
  resnet-cli fit --config photos --data.source.root my_photos --epochs 30

Each key of a recipe is a flag, which wins over the recipe. Most people set:

  --config RECIPE      a recipe below, or a YAML file of your own
  --epochs N           passes over the training images   --trainer.max_epochs
  --lr X               learning rate                     --model.optimizer.lr
  --batch-size N       images per step, all devices      --data.batch_size
  --weight-decay X                               --model.optimizer.weight_decay
  --optimizer CLASS    SGD, AdamW, ...                   --model.optimizer
  --schedule CLASS     Steps, Cosine, Linear, ...        --model.schedule
  --arch CLASS         CifarResNet, ImageNetResNet, ...  --model.net
  --depth N            layers: 20, 56, 110; 18, 34, 50   --model.net.depth
  --shortcut none|A|B|C   none: the plain net            --model.net.shortcut
  --data CLASS         Digits, CIFAR10, ImageFolder, ... --data.source
  --size N             pixels per side                   --data.size
  --seed N             another start and order           --seed_everything
  --devices N          GPUs, or processes on the CPU     --trainer.devices
  --workers N|auto     threads that read images          --data.workers
  --precision P        32-true, bf16-mixed, 16-mixed     --trainer.precision
  --run.name NAME      the run is runs/NAME/ID; by default the recipe's name
  --run.init_from RUN  start from the weights of a run or a file
  -q                   print warnings and the last line only
"""
EVALUATE = """\
usage: resnet-cli {verb} RUN [--KEY VALUE ...]
       resnet-cli {verb} --config RECIPE [the flags of the fit]

{what}

  resnet-cli {verb} runs/digits/4df5017e32
  resnet-cli {verb} --config digits --depth 56 --shortcut none
  resnet-cli {verb} --config digits --ckpt_path runs/digits/4df5017e32

  RUN                  folder of a run: its last checkpoint. resnet-cli runs
                       lists them
  --config RECIPE      with the flags of a fit: the run that they made
  --ckpt_path FILE     another checkpoint, such as RUN/checkpoints/best.ckpt
  --data CLASS         Digits, CIFAR10, ImageFolder, ...  --data.source
  --data.source.root DIR  folder of the images
  --batch-size N       images at a time                   --data.batch_size
  --size N             pixels per side                    --data.size
  --devices N          GPUs, or processes on the CPU      --trainer.devices
  --accelerator A      cpu, gpu, ...                      --trainer.accelerator
  --precision P        32-true, bf16-mixed, 16-mixed      --trainer.precision
  --workers N|auto     threads that read images           --data.workers
  --trainer.limit_{limit}_batches N   only so many batches

The result is JSON: the checkpoint, the loss, and accuracies from 0 to 1. Other
crops, sizes and labels, with intervals: resnet-cli evaluate --help
"""
PREDICT = """\
usage: resnet-cli predict RUN IMAGE... [options]
       resnet-cli predict --config RECIPE [the flags of the fit]

Print the most probable classes of images, cropped and scaled as the recipe of
the net evaluates them; with a recipe alone, of its validation images, as CSV.

  resnet-cli predict runs/photos cat.jpg dog.jpg
  resnet-cli predict runs/photos holiday/ --top 1 --format csv
  resnet-cli predict --config digits --depth 56

  RUN                  folder of a run, or a checkpoint
  IMAGE...             files, or folders of them
  --ckpt_path FILE     the net, where no RUN stands before the images
  --top K              classes of each image; default 5
  --format F           table, csv or json; default table
  --weights W          net (as trained) or ema (their moving average)
  --device D           cpu or cuda; default: cuda where there is one
  --trust              {trust}
  --data.size N        pixels per side, as any key of a recipe is a flag
"""
WHAT = {
    "validate": "Loss and accuracy of a trained net on the validation images.",
    "test": "Loss and accuracy of a trained net on the test images.",
}


def answer(argv: Sequence[str], verbs: Mapping[str, str]) -> str | None:
    """Return the page that a command line asks for; None: the verb is to run.

    Args:
        argv: the command line.
        verbs: what each verb does.
    """
    if not argv or argv[0] in ("-h", "--help", "help"):
        return usage(verbs)
    if argv[0] in ("-V", "--version", "version"):
        return version_line()
    verb, *words = argv
    words = words[: words.index("--")] if "--" in words else words
    if verb not in RECIPE_VERBS:
        return None
    for word, following in pairwise([*words, "--"]):
        asked = re.fullmatch(r"--([\w.-]+)\.help", word)
        if asked and asked[1] in SECTIONS:
            return all_keys(verb, [asked[1]])
        key = (key_of(f"--{asked[1]}") or asked[1]) if asked else ""
        record = record_of(key)
        if following.startswith("--") and record:
            return classes_of(record._replace(name=key), verb)
    asked = [word for word in words if word == "-h" or word.startswith("--help")]
    if any("all" in word for word in asked):
        return all_keys(verb)
    return page(verb) if asked else None


def usage(verbs: Mapping[str, str]) -> str:
    """Return what `resnet-cli` alone prints: a first command, and the verbs by what one wants."""
    lines = ["usage: resnet-cli VERB [options]      resnet-cli help VERB tells them", ""]
    lines += ["Begin with: resnet-cli fit --config digits      (a net, trained in seconds)", ""]
    for group, names in GROUPS.items():
        lines.append(group)
        lines += [f"  {name:<11}{verbs[name]}" for name in names if name in verbs]
    lines += ["", f"Documents: {shipped.HOME}/README.md, docs/", version_line()]
    return "\n".join(lines)


def version_line() -> str:
    """Return the versions that a report of a problem should name, on one line."""
    from importlib.metadata import PackageNotFoundError, version

    told = []
    for package in ("lightning_resnet", "torch", "pytorch-lightning"):
        try:
            told.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            told.append(f"no {package}")
    python = ".".join(map(str, sys.version_info[:3]))
    return f"{told[0]} ({', '.join([*told[1:], f'Python {python}'])})"


def page(verb: str) -> str:
    """Return the help of a verb that takes a recipe, on one screen."""
    if verb == "predict":
        from lightning_resnet.arguments import TRUST

        text = PREDICT.format(trust=fill(TRUST, 57).replace("\n", "\n" + f"{'':23}"))
    elif verb == "fit":
        text = FIT
    else:
        limit = "val" if verb == "validate" else "test"
        text = EVALUATE.format(verb=verb, what=WHAT[verb], limit=limit)
    named = ", ".join(shipped.recipes())
    recipes = fill(f"Recipes: {named}", WIDTH, subsequent_indent="  ")
    more = (
        f"resnet-cli recipes tells what they are; {verb} --help-all lists every key;\n"
        f"{verb} --model.net.help CifarResNet tells the arguments of a class."
    )
    return f"{text}\n{recipes}\n{more}"


def all_keys(verb: str, sections: Iterable[str] = ()) -> str:
    """Return each key of a recipe, with what it may be and what it does; ours come first.

    Args:
        verb: verb that takes the keys.
        sections: only these sections; none: all, and the arguments of classes.
    """
    lines = [
        f"usage: resnet-cli {verb} --config RECIPE [--KEY VALUE ...]",
        "",
        "Keys of a recipe, by their section. A class may have arguments, which are",
        f"keys too: resnet-cli {verb} --model.net.help CifarResNet.",
    ]
    for section in sections or SECTIONS:
        title = SECTIONS[section]
        found = [key for key in keys().values() if _section(key.name) == section]
        if verb == "fit":
            found = [key for key in found if key.name != "ckpt_path"]
        lines += ["", f"{title}:"]
        for key in found:
            lines += _described(key)
    if sections:
        return "\n".join(lines)
    lines += ["", "Arguments of classes:"]
    for name, arguments in classes().items():
        lines += _wrapped(f"{name}: {', '.join(arguments) or 'none'}", "  ", "      ")
    return "\n".join(lines)


def classes_of(key: Key, verb: str) -> str:
    """Return the classes that a key takes by their names, each with its arguments."""
    lines = [f"--{key.name} {'CLASS' if key.classes else 'VALUE'}: {key.help}", ""]
    for name in key.classes:
        arguments = classes().get(name, {})
        lines += _wrapped(f"{name}: {', '.join(arguments) or 'no arguments'}", "  ", "      ")
    if not key.classes:
        lines.append(f"  {key.needs}")
    else:
        example = f"resnet-cli {verb} --{key.name}.help {key.classes[0]}"
        lines += [
            "",
            "Or any other that Python can import, as module.Class. What an argument does:",
        ]
        lines.append(f"  {example}")
    return "\n".join(lines)


def _section(name: str) -> str:
    """Return the section of a recipe that has a key; empty: the key stands alone."""
    section, dot, _ = name.partition(".")
    return section if dot else ""


def _described(key: Key) -> Iterable[str]:
    """Yield the lines on one key."""
    needs = key.needs
    if key.classes and key.is_ours:
        needs = f"{', '.join(key.classes)}, or module.Class"
    elif key.classes:
        needs = "a class of Lightning's, or module.Class"
    default = "null" if key.default is None else str(key.default)
    if isinstance(key.default, bool):
        default = default.lower()
    yield f"  --{key.name}"
    yield from _wrapped(f"{key.help} ({needs}; default {default})", "      ", "      ")


def _wrapped(text: str, first: str, following: str) -> list[str]:
    """Return the lines of a text, indented."""
    return wrap(text, WIDTH, initial_indent=first, subsequent_indent=following)
