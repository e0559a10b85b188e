"""Augmentation as data: the crop box, the flip and the size of each image of a batch.

The pixels are made in `beton/decode.c`, by a loader, or by torchvision in its place.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from lightning_resnet.bounds import check_pad
from lightning_resnet.data import draws
from lightning_resnet.data.augment.policies import Policy, Step
from lightning_resnet.data.hashing import uniform
from lightning_resnet.errors import UserError

Crop = Literal["none", "pad", "resized", "scaled"]
Resize = Literal["area"]


@dataclass(frozen=True)
class Augment:
    """Choices for a split.

    Attributes:
        crop: "none": the full image, or at `size` a square in it; "pad": a crop of its own size
            out of the image padded by `pad`; "resized": random area and aspect ratio, resized to
            `size`; "scaled": a square anywhere, whose side is 224 of a scale of 256 to 480 pixels
            of the shorter side, resized to `size`.
        size: pixels per side of the result; None as stored.
        pad: pixels on each side.
        flip: mirror half of the images.
        scale: range of the area of "resized", as a share of the image's.
        share: side of the square as a share of the shorter side.
        policy: changes of colour and shape.
        erase: share of the images of which a box is erased.
        grey: value of each channel in an erased box.
        fill: value of each channel in what "pad" adds.
        resize: "area": by the area filter (`beton/area_filter.py`); None: bilinear, antialiased.
        corner: where the square lies: (0, 0) top left to (1, 1) bottom right.
    """

    crop: Crop = "none"
    size: int | None = None
    pad: int = 4
    flip: bool = False
    scale: tuple[float, float] = (0.08, 1.0)
    share: float = 0.875
    policy: Policy | None = None
    erase: float = 0.0
    grey: tuple[int, ...] = (128, 128, 128)
    fill: tuple[int, ...] = (0, 0, 0)
    resize: Resize | None = None
    corner: tuple[float, float] = (0.5, 0.5)

    def __post_init__(self) -> None:
        if not 0 <= self.erase <= 1:
            raise ValueError(f"--data.erase must be 0 to 1, got {self.erase}")


@dataclass(frozen=True)
class Progressive:
    """Side of the training images by epoch; the defaults are ffcv-imagenet's.

    The files of ffcv-imagenet for 16 to 88 epochs name the epochs 3/4 n - 1 and 7/8 n - 1.

    Attributes:
        low: pixels up to the end of the epoch with which the share `start` of training is done.
        high: pixels from the one on with which `end` is done; between them linear, rounded to a
            multiple of 32 where one is between them. The same as `low` for a training size that is
            not `size`.
        start: 0 to 1.
        end: 0 to 1.
    """

    low: int = 160
    high: int = 192
    start: float = 3 / 4
    end: float = 7 / 8

    def size(self, epoch: int, epochs: int) -> int:
        """Return the pixels per side in `epoch` (0-based) of `epochs`."""
        done = (epoch + 1) / epochs
        if done <= self.start:
            return self.low
        if done >= self.end:
            return self.high
        exact = float(np.interp(done, (self.start, self.end), (self.low, self.high)))
        return int(np.clip(round(exact / 32) * 32, *sorted((self.low, self.high))))


def draw(
    augment: Augment,
    seed: int,
    epoch: int,
    ids: np.ndarray,
    heights: np.ndarray,
    widths: np.ndarray,
    repeat: int | np.ndarray = 0,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Draw the crops of a batch.

    Returns:
        Boxes (top, left, height, width) in pixels of the stored images [B, 4], flips [B], and the
        side of the result in pixels. A box of crop `pad` may reach out of the image, where pixels
        take the colour `fill`.

    Raises:
        UserError: the images have no common square size and none is asked for.
    """
    heights = np.asarray(heights, np.int64)
    widths = np.asarray(widths, np.int64)
    flips = draws.flips(seed, epoch, ids, repeat) if augment.flip else np.zeros(len(ids), bool)
    if augment.crop == "resized":
        boxes = draws.random_resized_crops(
            seed, epoch, ids, heights, widths, augment.scale, repeat=repeat
        )
    elif augment.crop == "scaled":
        boxes = draws.scaled_crops(seed, epoch, ids, heights, widths, repeat)
    elif augment.size is not None and augment.crop == "none":
        boxes = draws.center_boxes(heights, widths, augment.share)
        boxes[:, :2] = augment.corner * (np.stack([heights, widths], axis=1) - boxes[:, 2:])
    else:
        boxes = np.stack([np.zeros_like(heights), np.zeros_like(heights), heights, widths], axis=1)
    if augment.size is not None and augment.crop != "pad":
        return boxes, flips, augment.size
    check_size(augment, len({*heights.tolist(), *widths.tolist()}) == 1)
    if augment.crop == "pad":
        boxes[:, :2] += draws.pad_crops(seed, epoch, ids, augment.pad, repeat) - augment.pad
    return boxes, flips, int(heights[0])


def check_size(augment: Augment, has_one_size: bool) -> None:
    """Refuse a size that the crop cannot make, and the lack of one that it needs.

    Args:
        augment: what happens to the images.
        has_one_size: whether the images are squares of one size.

    Raises:
        UserError: the message names flags that work together with these images.
    """
    if augment.crop == "pad" and not has_one_size:
        raise UserError(
            "crop `pad` is for square images of one size, which these have not: --data.crop "
            "resized --data.size N, with the pixels per side"
        )
    try:
        check_pad(augment.crop, augment.size)
    except ValueError as e:
        raise UserError(str(e)) from e
    if augment.size is None and not has_one_size:
        raise UserError(
            "these images have no common square size: set --data.size to the pixels per side"
        )


def operations(
    augment: Augment,
    seed: int,
    epoch: int,
    ids: np.ndarray,
    height: int,
    width: int,
    repeat: int | np.ndarray = 0,
) -> list[list[Step]] | None:
    """Draw the operations of the policy, then erasing, on images of final size.

    Returns:
        Operations of each image, see `image_ops.apply` [B]; None where there are none.
    """
    if augment.policy is None and not augment.erase:
        return None
    chosen: list[list[Step]] = [[] for _ in ids]
    if augment.policy is not None:
        chosen = augment.policy.choose(
            lambda k: uniform(seed, epoch, ids, repeat, draws.POLICY + k), width
        )
    if augment.erase:
        boxes = draws.erasing_boxes(seed, epoch, ids, height, width, augment.erase, repeat)
        for steps, box in zip(chosen, boxes.tolist(), strict=True):
            if box[2]:
                steps.append(("Erase", (*box, *augment.grey)))
    return chosen
