"""The orientation of pictures (EXIF), read without the rest of the metadata, and the turn that it asks for.

Cameras and editors write metadata of every kind, and much of it is damaged. Only one number of it matters here.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

import numpy as np

from mapsto.vision.pixels import Pixels

# The tag of the orientation. Its values from FIRST_TRANSPOSED on exchange rows and columns.
ORIENTATION, FIRST_TRANSPOSED = 0x0112, 5

# The formats of whole numbers by the type of a tag: byte, short, long.
WHOLE_NUMBERS = {1: "B", 3: "H", 4: "I"}

EXIF_HEADER = b"Exif\0\0"

XMP_ORIENTATION = re.compile(rb"tiff:Orientation(?:=\"|='|>)\s*([1-8])")

# How the stored pixels (h, w, 3) become those that are shown, by orientation.
TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels[:, ::-1].swapaxes(0, 1),
}


def turn(pixels: Pixels, orientation: int) -> Pixels:
    """Return the pixels (h, w, 3) as they are to be shown: mirrored, rotated or both, by the value of EXIF's orientation."""
    return np.ascontiguousarray(TURNS[orientation](pixels)) if orientation in TURNS else pixels


def exif_orientation(block: bytes) -> int | None:
    """Return the orientation in a block of EXIF data; None if there is none. Nothing else of the block is looked at."""
    block = block.removeprefix(EXIF_HEADER)
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    try:
        if order is None:
            return None
        (offset,) = struct.unpack_from(f"{order}4xI", block)
        (count,) = struct.unpack_from(f"{order}H", block, offset)
        for entry in range(offset + 2, min(offset + 2 + 12 * count, len(block) - 11), 12):
            if struct.unpack_from(f"{order}H", block, entry) == (ORIENTATION,):
                return entry_orientation(block[entry : entry + 12], order)
    except struct.error:
        pass  # a block that ends too early states no orientation
    return None


def entry_orientation(entry: bytes, order: str) -> int | None:
    """Return the orientation in the 12 bytes of a TIFF entry; None if it holds no value from 1 to 8. order: "<" or ">"."""
    _, kind, count = struct.unpack_from(f"{order}HHI", entry)
    if count != 1 or kind not in WHOLE_NUMBERS:
        return None
    (value,) = struct.unpack_from(f"{order}{WHOLE_NUMBERS[kind]}", entry, 8)
    return value if 1 <= value <= 8 else None


def xmp_orientation(block: bytes) -> int | None:
    """Return the orientation in a block of XMP data; None if there is none."""
    match = XMP_ORIENTATION.search(block)
    return int(match[1]) if match else None
