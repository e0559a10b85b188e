"""Operations on one image by torchvision, where there is no C kernel; its pixels are the reference.

The kernel's operations (`beton/decode.py`) are tested against these, and a machine without the
kernel uses these. The magnitudes are TrivialAugmentWide's.
"""

import math

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F


def apply(image: Tensor, name: str, magnitude: float | tuple[float, ...]) -> Tensor:
    """Return the changed image, uint8 [3, H, W].

    Args:
        image: uint8 [3, H, W].
        name: name of the operation.
        magnitude: tangent of the shear, pixels of the translation, degrees of the rotation; what is
            added to the factor 1 of Brightness, Color, Contrast and Sharpness; bits that Posterize
            keeps; the value from which Solarize inverts; what SolarizeAdd adds to values below 128;
            what Shift adds to red, green, blue, in levels of 255; top, left, height, width of the
            box of Erase, then what its red, green, blue become.
    """
    if name in ("ShearX", "ShearY", "TranslateX", "TranslateY"):
        return _affine(image, name, magnitude)
    if name == "Rotate":
        return F.rotate(image, magnitude, interpolation=InterpolationMode.BILINEAR)
    if name in _ENHANCE:
        return _ENHANCE[name](image, 1.0 + magnitude)
    if name == "Posterize":
        return F.posterize(image, bits=int(magnitude))
    if name == "Solarize":
        return F.solarize(image, threshold=magnitude) if magnitude <= 255 else image
    if name == "SolarizeAdd":
        brighter = (image.int() + int(magnitude)).clamp(max=255).to(image.dtype)
        return torch.where(image < 128, brighter, image)
    if name == "Shift":
        # Rounded before it is added, so that every pixel changes by the same levels.
        levels = torch.tensor(magnitude).round().clamp(-255, 255).short()[:, None, None]
        return (image.short() + levels).clamp(0, 255).to(image.dtype)
    if name == "Erase":
        top, left, height, width = map(int, magnitude[:4])
        colour = torch.tensor(magnitude[4:], dtype=image.dtype)[:, None, None]
        return F.erase(image, top, left, height, width, colour)
    return _PLAIN[name](image)


_ENHANCE = {
    "Brightness": F.adjust_brightness,
    "Color": F.adjust_saturation,
    "Contrast": F.adjust_contrast,
    "Sharpness": F.adjust_sharpness,
}
_PLAIN = {
    "Identity": lambda image: image,
    "AutoContrast": F.autocontrast,
    "Equalize": F.equalize,
    "Invert": F.invert,
}


def _affine(image: Tensor, name: str, magnitude: float) -> Tensor:
    degrees = math.degrees(math.atan(magnitude))
    shear = {"ShearX": [degrees, 0.0], "ShearY": [0.0, degrees]}.get(name)
    moved = {"TranslateX": [magnitude, 0.0], "TranslateY": [0.0, magnitude]}.get(name, [0.0, 0.0])
    return F.affine(
        image,
        angle=0.0,
        translate=moved,
        scale=1.0,
        shear=shear or [0.0, 0.0],
        interpolation=InterpolationMode.BILINEAR,
        center=[0, 0] if shear else None,  # shears keep the corner, as in AutoAugment's code
    )
