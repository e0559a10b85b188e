"""Draws for crops, flips and dropped branches: pure functions of (seed, epoch, sample id, repeat).

The draws do not depend on worker, rank or loader. Boxes are (top, left, height, width) in pixels of
the stored image. Draw numbers are part of a run's definition: never reuse or renumber them.
"""

import numpy as np

from lightning_resnet.data.hashing import uniform

# Draw numbers.
FLIP = 0
TOP = 1
LEFT = 2
SCALED = 3
RESIZED = 16  # 4 per attempt
MIX = 64  # draws of a pair, not of a sample
POLICY = 128  # 4 per operation
ERASE = 192  # 1, and 4 per attempt
DEPTH = 1024  # 1 per block; draws of a step or of an image's place in the epoch's order
_ATTEMPTS = 10  # as in torchvision


def flips(seed: int, epoch: int, ids: np.ndarray, repeat: int | np.ndarray = 0) -> np.ndarray:
    """Draw which samples to mirror, half of them; bool [B]."""
    return uniform(seed, epoch, ids, repeat, FLIP) < 0.5


def pad_crops(
    seed: int, epoch: int, ids: np.ndarray, pad: int, repeat: int | np.ndarray = 0
) -> np.ndarray:
    """Draw corners (top, left) of crops of the image padded by `pad`; int64 [B, 2], 0 to 2 pad.

    The crops have the image's own size. He et al. 2015, sec. 4.2: 4 pixels on each side.
    """
    u = np.stack([uniform(seed, epoch, ids, repeat, d) for d in (TOP, LEFT)], axis=1)
    return (u * (2 * pad + 1)).astype(np.int64)


def random_resized_crops(
    seed: int,
    epoch: int,
    ids: np.ndarray,
    heights: np.ndarray,
    widths: np.ndarray,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    repeat: int | np.ndarray = 0,
) -> np.ndarray:
    """Draw boxes of random area and aspect (Szegedy et al. 2015, sec. 6), as torchvision does.

    Args:
        seed: seed of the run.
        epoch: 0-based.
        ids: sample ids [B].
        heights: heights of the images [B], in pixels.
        widths: widths of the images [B], in pixels.
        scale: range of the area as a share of the image's, uniform.
        ratio: range of width / height, uniform in the logarithm.
        repeat: number of the repeat of a sample within an epoch, of all or of each [B].

    Returns:
        int64 [B, 4].
    """
    heights = np.asarray(heights, np.int64)
    widths = np.asarray(widths, np.int64)
    boxes = _largest_within(heights, widths, ratio)
    pending = np.ones(len(ids), bool)
    for attempt in range(_ATTEMPTS):
        u = [uniform(seed, epoch, ids, repeat, RESIZED + 4 * attempt + k) for k in range(4)]
        area = heights * widths * (scale[0] + (scale[1] - scale[0]) * u[0])
        aspect = np.exp(np.log(ratio[0]) + (np.log(ratio[1]) - np.log(ratio[0])) * u[1])
        w = np.rint(np.sqrt(area * aspect)).astype(np.int64)
        h = np.rint(np.sqrt(area / aspect)).astype(np.int64)
        fits = pending & (0 < w) & (w <= widths) & (0 < h) & (h <= heights)
        top = (u[2] * (heights - h + 1)).astype(np.int64)
        left = (u[3] * (widths - w + 1)).astype(np.int64)
        boxes[fits] = np.stack([top, left, h, w], axis=1)[fits]
        pending &= ~fits
    return boxes


def scaled_crops(
    seed: int,
    epoch: int,
    ids: np.ndarray,
    heights: np.ndarray,
    widths: np.ndarray,
    repeat: int | np.ndarray = 0,
) -> np.ndarray:
    """Draw squares anywhere in the image at a random scale, int64 [B, 4]; arguments as above.

    He et al. 2015, sec. 3.4: 224 pixels of the image whose shorter side is drawn from 256 to 480.
    At another size of the result the squares are the same: 0.875 down to 0.467 of the shorter side.
    """
    scale, down, right = (uniform(seed, epoch, ids, repeat, d) for d in (SCALED, TOP, LEFT))
    shorter = np.minimum(heights, widths)
    side = np.rint(shorter * 224 / np.floor(256 + 225 * scale))
    side = np.clip(side, 1, shorter).astype(np.int64)
    top = (down * (heights - side + 1)).astype(np.int64)
    left = (right * (widths - side + 1)).astype(np.int64)
    return np.stack([top, left, side, side], axis=1)


def erasing_boxes(
    seed: int,
    epoch: int,
    ids: np.ndarray,
    height: int,
    width: int,
    share: float,
    repeat: int | np.ndarray = 0,
) -> np.ndarray:
    """Draw boxes to erase (Zhong et al. 2020, algorithm 1, with torchvision's ranges).

    Args:
        seed: seed of the run.
        epoch: 0-based.
        ids: sample ids [B].
        height: height of the images, in pixels.
        width: width of the images, in pixels.
        share: share of the images that lose a box of 0.02 to 0.33 of the area, height to width
            log-uniform in 0.3 to 3.3.
        repeat: number of the repeat of a sample within an epoch, of all or of each [B].

    Returns:
        int64 [B, 4]; an empty box for images that lose none.
    """
    boxes = np.zeros((len(ids), 4), np.int64)
    pending = uniform(seed, epoch, ids, repeat, ERASE) < share
    for attempt in range(_ATTEMPTS):
        u = [uniform(seed, epoch, ids, repeat, ERASE + 1 + 4 * attempt + k) for k in range(4)]
        area = height * width * (0.02 + 0.31 * u[0])
        aspect = np.exp(np.log(0.3) + np.log(3.3 / 0.3) * u[1])
        h = np.rint(np.sqrt(area * aspect)).astype(np.int64)
        w = np.rint(np.sqrt(area / aspect)).astype(np.int64)
        fits = pending & (h < height) & (w < width)
        top = (u[2] * (height - h + 1)).astype(np.int64)
        left = (u[3] * (width - w + 1)).astype(np.int64)
        boxes[fits] = np.stack([top, left, h, w], axis=1)[fits]
        pending &= ~fits
    return boxes


def kept_branches(seed: int, epoch: int, places: np.ndarray, survivals: list[float]) -> np.ndarray:
    """Draw which residual branches are kept (Huang et al. 2016, eq. 2).

    Args:
        seed: seed of the run.
        epoch: 0-based.
        places: numbers in the epoch of what a draw decides for, steps or images [P].
        survivals: probability of each block [L] that its branch is kept.

    Returns:
        bool [L, P].
    """
    draws = [uniform(seed, epoch, places, 0, DEPTH + block) for block in range(len(survivals))]
    return np.stack(draws) < np.array(survivals)[:, None]


def center_boxes(heights: np.ndarray, widths: np.ndarray, share: float) -> np.ndarray:
    """Return central squares whose side is `share` of the shorter side, int64 [B, 4].

    With 0.875 this is what `resize 256, crop 224` sees. Odd margins are halved downwards as FFCV
    does; torchvision rounds, in pixels of the scaled image.
    """
    side = np.maximum(1, np.rint(np.minimum(heights, widths) * share)).astype(np.int64)
    return np.stack([(heights - side) // 2, (widths - side) // 2, side, side], axis=1)


def _largest_within(
    heights: np.ndarray, widths: np.ndarray, ratio: tuple[float, float]
) -> np.ndarray:
    """Return the largest central box whose aspect is within `ratio`.

    torchvision takes this box if no attempt fits.
    """
    w = np.minimum(widths, np.rint(heights * ratio[1]).astype(np.int64))
    h = np.minimum(heights, np.rint(widths / ratio[0]).astype(np.int64))
    return np.stack([(heights - h) // 2, (widths - w) // 2, h, w], axis=1)
