"""Label files with several right classes per picture: ReaL (Beyer et al. 2020) and one's own of the same form.

ReaL's `real.json` is a list of lists: entry i-1 belongs to ILSVRC2012_val_0000000i.JPEG, an empty one to a picture that
does not count. Another file may be a mapping from picture names (as in the folder, or without folder) to lists. Labels
are numbers, in the order of the classes, or classes' names.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lightning_resnet.data.images import Images
from lightning_resnet.errors import UserError, one_line
from lightning_resnet.reading import open_plain

NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})")


def read_labels(file: str, images: Images, *classes: Sequence[str]) -> list[set[int]]:
    """The right labels of each sample of a split, in order of its ids; empty: it does not count.

    Args:
        file: JSON.
        images: of the split.
        classes: names in order of label; several lists: a class goes by any of its names.

    Raises:
        UserError: the file cannot be read, or the pictures' names are not known or not in it.
    """
    try:
        with open_plain(file) as stream:
            content = json.load(stream)
        if images.paths is None:
            raise UserError(
                f"{file} goes by the pictures' names, which this source does not know: name their folder or archive, "
                "as --data.source ImageNet does"
            )
        known = {name: i for names in classes for i, name in enumerate(names)}
        found = [_of_picture(content, path) for path in images.paths]
        return [{known[v] if isinstance(v, str) else int(v) for v in labels} for labels in found]
    except (OSError, ValueError, TypeError, RecursionError) as e:
        raise UserError(f"{file} is no label file, a JSON list or mapping of lists: {one_line(e)}") from e
    except (KeyError, IndexError) as e:
        raise UserError(f"{file} has nothing for {one_line(e)}: it is of other pictures or classes") from e


def _of_picture(content: list | dict, path: str) -> list:
    """By the validation picture's number in ReaL's list; by name in a mapping."""
    name = path.rpartition("!")[2].partition("@")[0]
    if isinstance(content, dict):
        return content[name] if name in content else content[Path(name).name]
    if not (number := NUMBER.search(name)):
        raise KeyError(f"{path}, which is no validation picture of ILSVRC2012")
    return content[int(number[1]) - 1]


def hits_of(best: Tensor, labels: Tensor, right: list[set[int]] | None) -> tuple[Tensor, Tensor]:
    """Whether the likeliest class, and one of the five, is right: bool, of the samples that count.

    Args:
        best: likeliest classes of each sample [n, 5].
        labels: [n]; negative: a damaged picture, which does not count.
        right: several labels of each instead.

    Returns:
        Two tensors [number that count].

    Raises:
        UserError: none counts.
    """
    if right is None:
        hits = best == labels[:, None]
        counts = labels >= 0
    else:
        hits = torch.tensor([[v in one for v in row] for row, one in zip(best.tolist(), right, strict=True)])
        counts = torch.tensor([bool(one) for one in right]) & (labels >= 0)
    if not counts.any():
        raise UserError("no picture has a label: are these labels of these pictures?")
    return hits[counts, 0], hits[counts].any(1)
