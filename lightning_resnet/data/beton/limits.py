"""Limits of what an image or a .beton may take: memory and time in proportion to its bytes.

A file of a few hundred bytes may claim 65,500 x 65,500 pixels, or go over its pixels 20,000 times.
The same numbers of pixels and scans stand in `decode.c`.
"""

MAX_BYTES = 1 << 29  # size of an image file
MAX_SIDE = (1 << 16) - 1  # pixels; the fields of a .beton can hold no more
MAX_PIXELS = 1 << 27  # 134 million in an image; decoding takes up to 16 bytes for each
FREE_PIXELS = 1 << 24  # up to this number, the file's size does not matter
PIXELS_PER_BYTE = 1024  # above FREE_PIXELS; JPEG (Huffman) and deflate cannot hold more
MAX_SCANS = 200  # scans of a progressive JPEG; ten are usual
MAX_LABEL = 1 << 20  # label in a .beton; a class costs a name, a count and a row of the net


def too_many_pixels(width: int, height: int, size: int) -> str:
    """Tell why an image of so many pixels is not decoded; empty if it is decoded.

    Args:
        width: width in pixels.
        height: height in pixels.
        size: bytes of the image's file.
    """
    pixels = width * height
    if max(width, height) > MAX_SIDE or pixels > MAX_PIXELS:
        return (
            f"{width}x{height} pixels are more than {MAX_SIDE:,} a side or "
            f"{MAX_PIXELS / 1e6:.0f} million in all"
        )
    if pixels > FREE_PIXELS and pixels > PIXELS_PER_BYTE * size:
        return f"{width}x{height} pixels cannot be in {size:,} bytes"
    return ""
