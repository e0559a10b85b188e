"""Policies that change colour and shape: our draws choose, the C kernel makes torchvision's pixels.

resnet-cli fit --config configs/fashion_mnist.yaml --data.policy TrivialAugment

Torchvision's own classes take one draw for all of a batch, from a generator that depends on the
worker. Here each image has its own draws, by (seed, epoch, sample id, repeat). As in
torchvision's recipes, rotations interpolate bilinearly and pixels from outside the image are black.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch

Step = tuple[str, float | tuple[float, ...]]  # an operation of `image_ops` and its magnitude
BINS = 31  # torchvision's number of magnitudes
_DRAWS = 4  # per operation
# Principal components of the colours of ImageNet's training pixels in [0, 1], as fb.resnet.torch
# has them: rows red, green, blue, a column for each component; then what that code multiplies them
# by.
COMPONENTS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)
EIGENVALUES = np.array([0.2175, 0.0188, 0.0045])


class Policy:
    """Base class of policies; a subclass chooses the operations."""

    def choose(self, draw: Callable[[int], np.ndarray], size: int) -> list[list[Step]]:
        """Return the operations for each image, in order [B].

        Args:
            draw: number of a draw -> uniform in [0, 1) for each image [B].
            size: pixels per side.
        """
        raise NotImplementedError


class Lighting(Policy):
    """Noise along ImageNet's principal components, one colour for all pixels of an image.

    Krizhevsky et al. 2012, sec. 4.1: [p1 p2 p3] [a1 l1, a2 l2, a3 l3]^T is added to each pixel. He
    et al. 2015, sec. 3.4, use the same. Pixels stay uint8: the colour is rounded to levels of 255,
    the sum clipped to 0 and 255.

    Args:
        std: standard deviation of a1, a2 and a3.
    """

    def __init__(self, std: float = 0.1) -> None:
        if std < 0:
            raise ValueError(f"Lighting needs a std of 0 or more, got {std}")
        self.std = std

    def choose(self, draw: Callable[[int], np.ndarray], size: int) -> list[list[Step]]:
        """Return the operations for each image, see `Policy`."""
        a = self.std * np.stack([_normal(draw(k)) for k in range(3)], axis=1)
        # Not a matrix product, whose last bit may depend on the number of images.
        colours = sum(255 * (a * EIGENVALUES)[:, k, None] * COMPONENTS[:, k] for k in range(3))
        return [[("Shift", tuple(colour))] for colour in colours.tolist()]


class TrivialAugment(Policy):
    """One of 14 operations at one of 31 strengths, all equally likely.

    Müller & Hutter 2021, the "wide" space, as torchvision has it.
    """

    def choose(self, draw: Callable[[int], np.ndarray], size: int) -> list[list[Step]]:
        """Return the operations for each image, see `Policy`."""
        bins = (draw(1) * BINS).astype(int)
        return [[step] for step in _pick(wide_space(), draw(0), bins, draw(2))]


class RandAugment(Policy):
    """Some of the 14 operations, one after the other, at one strength.

    Cubuk et al. 2020, as torchvision has it.

    Args:
        ops: number of operations.
        magnitude: 0 to 30.
    """

    def __init__(self, ops: int = 2, magnitude: int = 9) -> None:
        if ops < 1 or not 0 <= magnitude < BINS:
            raise ValueError(
                f"RandAugment needs ops of 1 or more and a magnitude of 0 to 30, got {ops}, "
                f"{magnitude}"
            )
        self.ops = ops
        self.magnitude = magnitude

    def choose(self, draw: Callable[[int], np.ndarray], size: int) -> list[list[Step]]:
        """Return the operations for each image, see `Policy`."""
        space = rand_space(size)
        columns = []
        for k in range(self.ops):
            op = draw(_DRAWS * k)
            sign = draw(_DRAWS * k + 2)
            columns.append(_pick(space, op, np.full(len(op), self.magnitude), sign))
        return [list(steps) for steps in zip(*columns, strict=True)]


class IncreasingRandAugment(Policy):
    """RandAugment of "ResNet strikes back" (Wightman et al. 2021): timm's `rand-mM-mstdS-inc1`.

    15 operations get stronger with the magnitude, which is normally distributed for each. Each
    operation is left out half of the time.

    Args:
        ops: number of operations.
        magnitude: mean, 0 to 10.
        std: standard deviation.
    """

    def __init__(self, ops: int = 2, magnitude: float = 6.0, std: float = 0.5) -> None:
        if ops < 1 or not 0 <= magnitude <= 10 or std < 0:
            raise ValueError(
                f"IncreasingRandAugment needs ops >= 1, magnitude 0 to 10, std >= 0, got {ops}, "
                f"{magnitude}, {std}"
            )
        self.ops = ops
        self.magnitude = magnitude
        self.std = std

    def choose(self, draw: Callable[[int], np.ndarray], size: int) -> list[list[Step]]:
        """Return the operations for each image, see `Policy`."""
        names = [*increasing_step(0, 1, size)]
        columns = []
        for k in range(self.ops):
            op, left_out, sign, normal = (draw(_DRAWS * k + i) for i in range(_DRAWS))
            level = np.clip(self.magnitude + self.std * _normal(normal), 0, 10)
            choices = zip(op, left_out, sign, level, strict=True)
            columns.append([_increasing(names, *choice, size=size) for choice in choices])
        return [[step for step in steps if step] for steps in zip(*columns, strict=True)]


def _normal(u: np.ndarray) -> np.ndarray:
    """Turn uniform numbers in [0, 1) into standard normal ones, by the inverse distribution."""
    from scipy.special import ndtri

    return ndtri(np.maximum(u, 2.0**-54))


def _increasing(
    names: list[str], op: float, left_out: float, sign: float, level: float, size: int
) -> Step | None:
    if left_out < 0.5:
        return None
    name = names[int(op * len(names))]
    return name, increasing_step(float(level), -1 if sign < 0.5 else 1, size)[name]


def increasing_step(level: float, sign: int, size: int) -> dict[str, float]:
    """Return the magnitude of each operation at a level of 0 to 10, in timm's units and order."""
    part = level / 10
    enhance = max(0.1, 1 + sign * part * 0.9) - 1
    move = sign * part * 0.45 * size
    solarize = 256 - min(256, int(part * 256))
    return {
        "AutoContrast": 0.0,
        "Equalize": 0.0,
        "Invert": 0.0,
        "Rotate": sign * part * 30,
        "Posterize": 4 - int(part * 4),
        "Solarize": solarize,
        "SolarizeAdd": min(128, int(part * 110)),
        "Color": enhance,
        "Contrast": enhance,
        "Brightness": enhance,
        "Sharpness": enhance,
        "ShearX": sign * part * 0.3,
        "ShearY": sign * part * 0.3,
        "TranslateX": move,
        "TranslateY": move,
    }


# Operation -> (magnitude of each bin, whether the magnitude has a sign).
Space = dict[str, tuple[list[float], bool]]


@lru_cache
def wide_space() -> Space:
    """Return the operations and magnitudes of TrivialAugment."""
    return _space(0.99, 32.0, 135.0, 0.99, 6)


@lru_cache
def rand_space(size: int) -> Space:
    """Return the operations and magnitudes of RandAugment for images of `size` pixels per side."""
    return _space(0.3, 150.0 / 331.0 * size, 30.0, 0.9, 4)


def _space(shear: float, translate: float, rotate: float, enhance: float, bits: int) -> Space:
    """Return bins of magnitudes up to these, in torchvision's order and rounding."""

    def up_to(top: float) -> list[float]:
        return torch.linspace(0.0, top, BINS).tolist()

    none = [0.0] * BINS
    return {
        "Identity": (none, False),
        "ShearX": (up_to(shear), True),
        "ShearY": (up_to(shear), True),
        "TranslateX": ([float(int(v)) for v in up_to(translate)], True),
        "TranslateY": ([float(int(v)) for v in up_to(translate)], True),
        "Rotate": (up_to(rotate), True),
        "Brightness": (up_to(enhance), True),
        "Color": (up_to(enhance), True),
        "Contrast": (up_to(enhance), True),
        "Sharpness": (up_to(enhance), True),
        "Posterize": ((8 - torch.arange(BINS) / ((BINS - 1) / bits)).round().tolist(), False),
        "Solarize": ((255 * torch.linspace(1.0, 0.0, BINS).double()).tolist(), False),
        "AutoContrast": (none, False),
        "Equalize": (none, False),
    }


def _pick(space: Space, op: np.ndarray, bins: np.ndarray, sign: np.ndarray) -> list[Step]:
    names = [*space]
    steps = []
    for o, b, s in zip(op, bins, sign, strict=True):
        name = names[int(o * len(names))]
        magnitudes, signed = space[name]
        steps.append((name, -magnitudes[b] if signed and s < 0.5 else magnitudes[b]))
    return steps
