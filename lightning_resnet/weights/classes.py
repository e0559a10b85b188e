"""Match the class names of a checkpoint with the class names of a data source.

A net that knows cat, dog and fox, evaluated on a folder of cat and fox, would otherwise be told
that a fox is a dog: equal names must have equal numbers.
"""

import hashlib
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest

import numpy as np
from pytorch_lightning.utilities import rank_zero_only
from torch import nn

from lightning_resnet.data.module import ImageData
from lightning_resnet.errors import UserError, printable, tell
from lightning_resnet.machine import is_installed
from lightning_resnet.models.complexity import count_outputs
from lightning_resnet.weights.hubs import imagenet_words

CODE = re.compile(r"\d+|n\d{8}")  # a number or a WordNet id; cannot be compared with a word
WORDNET = re.compile(r"n\d{8}")
# of ImageNet's 1000 WordNet ids in order, one a line
IMAGENET_IDS = "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd"


def align(data: ImageData, net: nn.Module, known: Sequence[str]) -> list[str]:
    """Renumber the labels as a checkpoint does, if the checkpoint knows all the source's classes.

    If the checkpoint does not know them all, labels are taken by number, and a warning names the
    first class that differs.

    Args:
        data: data that are set up; the labels and the source's classes are changed.
        net: net of the checkpoint.
        known: the checkpoint's classes, in order of output; empty: the checkpoint has no names.

    Returns:
        A name of each output of the net: the checkpoint's, else the source's, else its number.

    Raises:
        UserError: the source has more classes than the net has outputs, or by number an image
            would get the label of another class.
    """
    outputs = count_outputs(net, data.input_size)
    known = list(known)
    ours = list(data.source.classes)
    if len(ours) > outputs:
        raise UserError(
            f"the data has {len(ours)} classes, the checkpoint's net {outputs} outputs: "
            "set --data.source to data of the classes it was trained on"
        )
    if known and all(known.count(name) == 1 for name in ours):
        number = np.array([known.index(name) for name in ours])
        data.splits = {
            name: replace(images, labels=number[images.labels])
            for name, images in data.splits.items()
        }
        data.source.classes = known
    elif known and known != ours:
        _check_numbers(known, ours)
        _warn_of_difference(known, ours)
    names = known or ours
    return names + [str(k) for k in range(len(names), outputs)]


def _check_numbers(known: list[str], ours: list[str]) -> None:
    """Refuse classes whose numbers cannot be those of the checkpoint.

    Raises:
        UserError: a name that both know has two numbers, or both have words and share none.
    """
    shared = [name for name in ours if name in known]
    if all(known.index(name) == ours.index(name) for name in shared):
        if shared or not differ(known, ours):
            return
    unknown = [name for name in ours if name not in known]
    raise UserError(
        f"the checkpoint does not know {_some(unknown)} of the data, so labels do not match: it "
        f"knows {_some(known)}; name the folders (or classes) as the checkpoint does, and leave "
        "out those that it does not know"
    )


def _some(names: list[str]) -> str:
    """Return the first names of a list, and how many more there are."""
    shown = ", ".join(map(printable, names[:5]))
    return f"{shown} and {len(names) - 5:,} more" if len(names) > 5 else shown


def _warn_of_difference(known: list[str], ours: list[str]) -> None:
    """Name the first class that a checkpoint and the data name differently."""
    for k, (theirs, own) in enumerate(zip_longest(known, ours)):
        if theirs != own:
            rank_zero_only(tell)(
                f"warning: class {k} is {printable(theirs or 'unknown')} to the checkpoint, "
                f"{printable(own or 'unknown')} to the data: labels are taken by number, "
                "not by name",
                file=sys.stderr,
            )
            return


def differ(known: Sequence[str], ours: Sequence[str]) -> bool:
    """Return whether two lists name different classes, as far as names can tell.

    If one of the two is empty or has only codes, the lists cannot be compared: False.
    """
    known_has_words = bool(known) and not all(map(CODE.fullmatch, known))
    ours_has_words = bool(ours) and not all(map(CODE.fullmatch, ours))
    return known_has_words == ours_has_words and bool(known) and list(known) != list(ours)


def in_words(names: Sequence[str]) -> list[str]:
    """Return the words of classes that are named by WordNet ids; other names as they are.

    ImageNet's 1000 classes are known from torchvision, all 21,841 from timm where it is installed.
    """
    if not names or not all(map(WORDNET.fullmatch, names)):
        return list(names)
    if hashlib.sha256("\n".join(names).encode()).hexdigest() == IMAGENET_IDS:
        return imagenet_words()
    if not is_installed("timm"):
        return list(names)
    from timm.data import ImageNetInfo

    known = ImageNetInfo("imagenet-22k")
    words = dict(zip(known.label_names(), known.label_descriptions(), strict=True))
    return [words.get(name, name) for name in names]
