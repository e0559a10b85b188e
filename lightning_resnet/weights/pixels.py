"""Understand what users hand over as images: files, Pillow images, arrays and tensors.

The net of a run takes uint8 pixels and normalises them itself. What may mean two things is refused:
another range or layout would give wrong predictions without a word.
"""

import warnings
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from lightning_resnet.data.augment.crops import Augment
from lightning_resnet.data.beton.encode import explain, open_rgb, to_rgb
from lightning_resnet.data.images import ArrayImages
from lightning_resnet.data.loaders.read_batch import read_array
from lightning_resnet.errors import UserError
from lightning_resnet.files import find_images

COLOURS = (1, 3)  # channels that an image may have
DARK = 16  # uint8 pixels that are all this dark may be of another range
BRIGHT = 128  # floats that are at least this bright are of 0 to 255
ROUNDING = 1e-3  # what an interpolation may add to floats of 0 to 1
PIXELS = "give uint8 pixels from 0 to 255, or floats from 0 to 1: the net normalises them itself"

Images = Any  # str | PathLike | PIL image | array | tensor | sequence of these


def read(images: Images, augment: Augment, side: tuple[int, int] | None) -> Iterator[tuple]:
    """Yield the name and the pixels of each image, as the net sees them.

    Files and Pillow images are cut and scaled as in the recipe's evaluation; arrays too, unless
    they have the net's size.

    Args:
        images: files, folders, Pillow images, arrays, tensors, or a sequence of them.
        augment: how the recipe evaluates.
        side: height and width that the net was trained at; None: not known.

    Yields:
        (name, uint8 [H, W, 3]); the name is the file's path, or the image's number.

    Raises:
        UserError: a file cannot be read, or range, layout or size may mean two things.
    """
    number = 0
    for name, pixels, is_array in _all(images):
        height, width = pixels.shape[:2]
        is_right = (height, width) == side
        if augment.size is None and not is_right and side is not None:
            raise UserError(
                f"image {name or number} has {width} x {height} pixels, and the net was trained at "
                f"{side[1]} x {side[0]}: scale the images, or load(RUN, **{{'data.size': "
                f"{side[0]}}}) does"
            )
        if augment.size is not None and not (is_array and is_right):
            zero = np.zeros(1, np.int64)
            one = ArrayImages(zero, zero, pixels[None])
            cut, _ = read_array(one, augment, seed=0, epoch=0, at=zero)
            pixels = cut[0].permute(1, 2, 0).numpy()
        yield name or str(number), pixels
        number += 1


def _all(images: Images) -> Iterator[tuple[str, np.ndarray, bool]]:
    """Yield (path or "", uint8 [H, W, 3], whether it comes from an array) for each image."""
    if isinstance(images, str | PathLike):
        for path in _files(Path(images)):
            yield path, _open(path), False
    elif isinstance(images, Image.Image):
        yield "", np.asarray(to_rgb(images)), False
    elif isinstance(images, Tensor | np.ndarray):
        for pixels in from_array(images):
            yield "", pixels, True
    elif isinstance(images, Sequence | set | Iterator):
        members = list(images)
        if members and isinstance(members[0], int | float):
            raise UserError(f"a list of numbers is no image: {PIXELS}, in an array or a tensor")
        for member in members:
            yield from _all(member)
    else:
        raise UserError(
            f"a {type(images).__name__} is no image: give files, folders, Pillow images, an array, "
            "a tensor, or a list of these"
        )


def _files(path: Path) -> list[str]:
    if not path.exists():
        raise UserError(f"image {path} does not exist")
    if not path.is_dir():
        return [str(path)]
    found = sorted(find_images(path))
    if not found:
        raise UserError(f"no images in {path}")
    return found


def _open(path: str) -> np.ndarray:
    try:
        return np.asarray(open_rgb(path))
    except Exception as e:  # decoders meet damage in many ways
        raise UserError(f"cannot read image {path}: {explain(e)}; leave it out") from e


def from_array(array: np.ndarray | Tensor) -> np.ndarray:
    """Return the images of an array or tensor.

    Args:
        array: one image or several; [H, W], [H, W, C], [C, H, W], or the same with N before. C is
            1 or 3.

    Returns:
        uint8 [N, H, W, 3].

    Raises:
        UserError: range or layout may mean two things, or the array holds no images.
    """
    is_tensor = isinstance(array, Tensor)
    if is_tensor:
        array = array.detach().cpu()
        array = array.float().numpy() if array.is_floating_point() else array.numpy()
    if array.size == 0:
        raise UserError(f"no images in an array of shape {array.shape}")
    pixels = _eight_bits(_channels_last(array, is_tensor))
    return np.broadcast_to(pixels, (*pixels.shape[:3], 3))


def _channels_last(array: np.ndarray, is_tensor: bool) -> np.ndarray:
    """Return the images as [N, H, W, C]."""
    shape = array.shape
    if array.ndim == 2:
        return array[None, :, :, None]
    if array.ndim not in (3, 4):
        raise UserError(f"an array of shape {shape} holds no images: {PIXELS}, [N, H, W, C]")
    first = shape[-3] in COLOURS
    last = shape[-1] in COLOURS
    if array.ndim == 3 and not first and not last and not is_tensor and shape[-1] != 4:
        return array[..., None]  # grey ones
    if array.ndim == 3 and shape[0] == 3 and not last and not is_tensor:
        raise UserError(
            f"an array of shape {shape} may be one image of three channels, or three grey ones: "
            f"write images[None] for the first, images[:, None] for the second"
        )
    if first == last:
        channels = shape[-1] if shape[-1] < shape[-3] else shape[-3]
        why = "may have its channels first or last" if first else f"has {channels} channels"
        raise UserError(
            f"an array of shape {shape} {why}: give 1 or 3 channels, [N, 3, H, W] or [N, H, W, 3]"
        )
    if first:
        array = np.moveaxis(array, -3, -1)
    return array if array.ndim == 4 else array[None]


def _eight_bits(array: np.ndarray) -> np.ndarray:
    """Return the pixels as uint8."""
    kind = array.dtype.kind
    if kind not in "uif":
        raise UserError(f"{array.dtype} values are no pixels: {PIXELS}")
    low = float(array.min())
    high = float(array.max())
    if not np.isfinite([low, high]).all():
        raise UserError("some pixels are no finite numbers: look at how the array was made")
    if low < -ROUNDING:
        raise UserError(f"values from {low:.3g} to {high:.3g} look normalised: {PIXELS}")
    if kind == "f" and high <= 1 + ROUNDING:
        return np.rint(255 * np.clip(array, 0, 1)).astype(np.uint8)
    if high > 255 or (array.dtype != np.uint8 and high < BRIGHT):
        raise UserError(
            f"{array.dtype} values up to {high:g} may be of any range: divide by their largest "
            "possible value, which gives floats from 0 to 1"
        )
    if 0 < high <= DARK:
        warnings.warn(
            f"the brightest of these uint8 pixels is {high:g} of 255: if their range is another, "
            "divide by its largest value, which gives floats from 0 to 1",
            stacklevel=2,
        )
    return np.rint(array).astype(np.uint8)
