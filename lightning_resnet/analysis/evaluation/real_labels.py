"""Label files with several right classes per image: ReaL (Beyer et al. 2020) and files like it.

ReaL's `real.json` is a list of lists: entry i-1 belongs to ILSVRC2012_val_0000000i.JPEG, an empty
one to an image that does not count. Another file may be a mapping from image names (as in the
folder, or without folder) to lists. Labels are numbers, in the order of the classes, or names of
classes.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lightning_resnet.data.images import FileImages, Images
from lightning_resnet.errors import UserError, one_line
from lightning_resnet.reading import open_plain

NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})")


def read_labels(file: str, images: Images, *classes: Sequence[str]) -> list[set[int]]:
    """Return the right labels of each sample of a split, in order of the sample ids.

    Args:
        file: JSON.
        images: of the split.
        classes: names in order of label; several lists: a class goes by any of its names.

    Returns:
        A set for each sample; empty: the sample does not count.

    Raises:
        UserError: the file cannot be read, or the images' names are not known or not in the file.
    """
    try:
        with open_plain(file) as stream:
            content = json.load(stream)
        if not isinstance(images, FileImages):
            raise UserError(
                f"{file} goes by the images' names, which this source does not know: name their "
                "folder or archive, as --data.source ImageNet does"
            )
        known = {name: i for names in classes for i, name in enumerate(names)}
        found = [_of_image(content, path) for path in images.paths]
        return [{known[v] if isinstance(v, str) else int(v) for v in labels} for labels in found]
    except (OSError, ValueError, TypeError, RecursionError) as e:
        raise UserError(
            f"{file} is no label file, a JSON list or mapping of lists: {one_line(e)}"
        ) from e
    except (KeyError, IndexError) as e:
        raise UserError(
            f"{file} has nothing for {one_line(e)}: it is of other images or classes"
        ) from e


def _of_image(content: list | dict, path: str) -> list:
    """Return an image's entry: by number in ReaL's list, by name in a mapping."""
    name = path.rpartition("!")[2].partition("@")[0]
    if isinstance(content, dict):
        return content[name] if name in content else content[Path(name).name]
    number = NUMBER.search(name)
    if not number:
        raise KeyError(f"{path}, which is no validation image of ILSVRC2012")
    return content[int(number[1]) - 1]


def hits_of(best: Tensor, labels: Tensor, right: list[set[int]] | None) -> tuple[Tensor, Tensor]:
    """Return whether the most probable class, and any of the five, is right.

    Args:
        best: most probable classes of each sample [n, 5].
        labels: [n]; negative: a damaged image, which does not count.
        right: several labels of each instead.

    Returns:
        Two bool tensors [samples that count].

    Raises:
        UserError: none counts.
    """
    if right is None:
        hits = best == labels[:, None]
        counts = labels >= 0
    else:
        hits = torch.tensor(
            [[v in one for v in row] for row, one in zip(best.tolist(), right, strict=True)]
        )
        counts = torch.tensor([bool(one) for one in right]) & (labels >= 0)
    if not counts.any():
        raise UserError("no image has a label: are these labels of these images?")
    return hits[counts, 0], hits[counts].any(1)
