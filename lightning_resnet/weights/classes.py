"""What a checkpoint calls its outputs, beside what a source calls its labels: the same names must be the same numbers.

A net that knows cat, dog and fox, evaluated on a folder of cat and fox, would else be told that a fox is a dog.
"""

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
from lightning_resnet.models.complexity import count_macs

CODE = re.compile(r"\d+|n\d{8}")  # a number or a WordNet id: no name that could be compared with a word


def align(data: ImageData, net: nn.Module, known: Sequence[str]) -> list[str]:
    """Number the labels as a checkpoint does, where each of the source's classes is one of its; else tell the first.

    Args:
        data: set up; its labels and its source's classes are changed.
        net: of the checkpoint.
        known: the checkpoint's classes, in order of output; empty: it does not tell.

    Returns:
        A name of each output of the net: the checkpoint's, else the source's, else its number.

    Raises:
        UserError: the source has more classes than the net has outputs.
    """
    outputs, known, ours = count_macs(net, data.input_size)[0], list(known), list(data.source.classes)
    if len(ours) > outputs:
        raise UserError(
            f"the data has {len(ours)} classes, the checkpoint's net {outputs} outputs: set --data.source to data of "
            "the classes it was trained on"
        )
    if known and all(known.count(name) == 1 for name in ours):
        number = np.array([known.index(name) for name in ours])
        data.splits = {name: replace(images, labels=number[images.labels]) for name, images in data.splits.items()}
        data.source.classes = known
    elif known and known != ours:
        k, theirs, its = next((k, *pair) for k, pair in enumerate(zip_longest(known, ours)) if pair[0] != pair[1])
        named = [printable(name or "unknown") for name in (theirs, its)]
        rank_zero_only(tell)(
            f"careful: class {k} is {named[0]} to the checkpoint, {named[1]} to the data: labels are taken by number, "
            "not by name",
            file=sys.stderr,
        )
    names = known or ours
    return names + [str(k) for k in range(len(names), outputs)]


def differ(known: Sequence[str], ours: Sequence[str]) -> bool:
    """Whether these are other classes, as far as names tell: where one side has only codes, or nothing, they do not."""
    told = [bool(names) and not all(map(CODE.fullmatch, names)) for names in (known, ours)]
    return told[0] == told[1] and bool(known) and list(known) != list(ours)
