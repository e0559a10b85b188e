"""What an image or a .beton may ask for: memory and time stay in proportion to its bytes, whoever made it.

A file of a few hundred bytes may claim 65,500 x 65,500 pixels, or go over its pixels 20,000 times. The same numbers of
pixels and scans stand in `decode.c`.
"""

MAX_BYTES = 1 << 29  # of an image's file
MAX_SIDE = (1 << 16) - 1  # pixels, what the fields of a .beton can hold
MAX_PIXELS = 1 << 27  # of an image: 134 million; decoding takes up to 16 bytes for each
FREE_PIXELS = 1 << 24  # so many are decoded whatever the file's size; above them it needs
PIXELS_PER_BYTE = 1024  # at least one byte for so many; JPEG (Huffman) and deflate cannot hold more
MAX_SCANS = 200  # of a progressive JPEG; usual are ten
MAX_LABEL = 1 << 20  # of a .beton: a class costs a name, a count and a row of the net


def too_many_pixels(width: int, height: int, size: int) -> str:
    """Tell why an image of so many pixels is not decoded; empty where it is.

    Args:
        width: pixels.
        height: pixels.
        size: bytes of its file.
    """
    pixels = width * height
    if max(width, height) > MAX_SIDE or pixels > MAX_PIXELS:
        return f"{width}x{height} pixels are more than {MAX_SIDE:,} a side or {MAX_PIXELS / 1e6:.0f} million in all"
    if pixels > FREE_PIXELS and pixels > PIXELS_PER_BYTE * size:
        return f"{width}x{height} pixels cannot be in {size:,} bytes"
    return ""
