"""Resize by the area filter: each pixel is the mean over the part of the image that it covers.

This is OpenCV's INTER_AREA, by which FFCV scales images down when it writes and when it reads them.
It is sharper than the antialiased triangle of Pillow's and torchvision's bilinear resize.
The C kernel (decode.c) computes the same integers.
"""

import numpy as np

PRECISION = 14  # bits of a filter weight


def resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize an image [H, W, C], uint8, to [height, width, C].

    Rows are mixed first, then columns; each step rounds to integer levels.
    """
    mixed = _mix(pixels, height)
    return np.ascontiguousarray(_mix(mixed.swapaxes(0, 1), width).swapaxes(0, 1))


def weights(n_in: int, n_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the filter from n_in samples to n_out.

    Returns:
        First sample of each output [n_out], and the weights of the samples from there on
        [n_out, taps]; those of an output add up to 1 << PRECISION.
    """
    scale = n_in / n_out
    begins = np.arange(n_out)[:, None] * scale
    ends = np.arange(1, n_out + 1)[:, None] * scale
    first = np.minimum(np.floor(begins), n_in - 1)
    samples = first + np.arange(int(np.ceil(scale)) + 2)
    covered = np.minimum(samples + 1, ends) - np.maximum(samples, begins)
    inside = samples < n_in
    exact = np.where(inside, np.maximum(covered, 0), 0) / scale * (1 << PRECISION)
    rounded = np.rint(exact).astype(np.int32)
    rest = (1 << PRECISION) - rounded.sum(axis=1)
    rounded[np.arange(n_out), rounded.argmax(axis=1)] += rest  # an image of one colour keeps it
    return first[:, 0].astype(np.int64), rounded


def _mix(x: np.ndarray, n_out: int) -> np.ndarray:
    """Mix the first axis of [n_in, ...], uint8, to n_out."""
    first, weight = weights(len(x), n_out)
    total = np.full((n_out, *x.shape[1:]), 1 << (PRECISION - 1), np.int32)
    for k in range(weight.shape[1]):
        rows = x[np.minimum(first + k, len(x) - 1)]
        total += weight[:, k].reshape(-1, *[1] * (x.ndim - 1)) * rows
    return (total >> PRECISION).astype(np.uint8)
