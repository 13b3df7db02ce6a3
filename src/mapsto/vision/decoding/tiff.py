"""TIFF files without their metadata: the first directory with the tags of the pixels alone.

A TIFF is a list of directories of tags, in which pixels and metadata look alike. Tags are allowed by their number, and the
limits of time and memory are computed from those that say how the pixels are cut into strips or tiles.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np

from mapsto.media.cells import Unreadable
from mapsto.vision.decoding import budget
from mapsto.vision.decoding.orientation import ORIENTATION, entry_orientation, xmp_orientation

# The first bytes of a file by byte order: of TIFF, and of BigTIFF, which has 64-bit offsets.
TIFF_HEADERS = {b"II*\0": ("<", False), b"MM\0*": (">", False), b"II+\0": ("<", True), b"MM\0+": (">", True)}

WIDTH, HEIGHT, BITS, COMPRESSION, SAMPLES, PLANAR = 256, 257, 258, 259, 277, 284
STRIP_OFFSETS, STRIP_ROWS, STRIP_SIZES = 273, 278, 279
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_SIZES = 322, 323, 324, 325
XMP = 700

# Tags that say how the pixels are stored: also photometric interpretation, fill order, fax options, predictor, colours of a
# palette, ink set, meaning of extra samples and formats, tables of JPEG, and how YCbCr is converted.
PIXEL_TAGS = {
    *(WIDTH, HEIGHT, BITS, COMPRESSION, SAMPLES, PLANAR, STRIP_OFFSETS, STRIP_ROWS, STRIP_SIZES),
    *(TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_SIZES, 262, 266, 292, 293, 317, 320, 332, 338, 339, 347),
    *(*range(512, 522), 529, 530, 531, 532),
}

# Bytes of a value by its type, and the types of whole numbers for numpy.
TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
WHOLE_TYPES = {1: "u1", 3: "u2", 4: "u4", 6: "u1", 8: "u2", 9: "u4", 13: "u4", 16: "u8", 17: "u8"}

# The most strips or tiles, and the most bytes of any other tag (a palette of 16 bits has 384 KiB).
MAX_STRIPS, MAX_TAG_BYTES = 100_000, 2**20


@dataclass
class _Directory:
    """The first directory of a TIFF.

    content: the file. order: "<" or ">". is_big: whether offsets have 64 bits. entries: the bytes of each entry by its tag.
    """

    content: bytes
    order: str
    is_big: bool
    entries: dict[int, bytes] = field(default_factory=dict)

    def values(self, tag: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
        """Return the whole numbers of a tag; none if it is missing, of another type, or outside the file."""
        entry = self.entries.get(tag)
        if entry is None:
            return np.zeros(0, np.uint64)
        kind, count = self._head(entry)
        if kind not in WHOLE_TYPES:
            return np.zeros(0, np.uint64)
        size, inline = TYPE_SIZES[kind] * count, entry[12:] if self.is_big else entry[8:]
        if size <= len(inline):
            data = inline[:size]
        else:
            (offset,) = struct.unpack(self.order + ("Q" if self.is_big else "I"), inline)
            data = self.content[offset : offset + size] if offset < len(self.content) else b""
        return np.frombuffer(data[: len(data) // TYPE_SIZES[kind] * TYPE_SIZES[kind]],
                             self.order + WHOLE_TYPES[kind]).astype(np.uint64)  # fmt: skip

    def value(self, tag: int, default: int) -> int:
        """Return the first number of a tag, or `default`."""
        values = self.values(tag)
        return int(values[0]) if len(values) else default

    def _head(self, entry: bytes) -> tuple[int, int]:
        """Return the type and the number of values of an entry."""
        kind, count = struct.unpack_from(self.order + ("HQ" if self.is_big else "HI"), entry, 2)
        return kind, count

    def require_small(self) -> None:
        """Raise Unreadable if a tag has more values than are read."""
        for tag, entry in self.entries.items():
            kind, count = self._head(entry)
            if tag in (STRIP_OFFSETS, STRIP_SIZES, TILE_OFFSETS, TILE_SIZES):
                if count > MAX_STRIPS:
                    raise Unreadable(f"{count:,} strips or tiles are more than the {MAX_STRIPS:,} that are read")
            elif count * TYPE_SIZES.get(kind, 8) > MAX_TAG_BYTES:
                raise Unreadable(f"{count:,} values of the tag {tag} are more than are read")


def plain_tiff(content: bytes) -> tuple[bytes, int, int, int]:
    """Return (content, width, height, orientation) of a TIFF with the tags of the pixels of its first picture alone.

    Raises Unreadable if decoding it would take too much time or memory.
    """
    order, is_big = TIFF_HEADERS[content[:4]]
    try:
        (start,) = struct.unpack_from(order + ("Q" if is_big else "I"), content, 8 if is_big else 4)
        (count,) = struct.unpack_from(order + ("Q" if is_big else "H"), content, start)
    except (struct.error, OverflowError):
        return content, 0, 0, 1  # Pillow says what is wrong with it
    head, width = (8, 20) if is_big else (2, 12)
    first = start + head
    count = min(count, 2**16 - 1, max(0, len(content) - first) // width)
    entries = [content[first + width * number : first + width * (number + 1)] for number in range(count)]
    by_tag: dict[int, bytes] = {}
    for entry in entries:
        by_tag.setdefault(struct.unpack_from(f"{order}H", entry)[0], entry)
    directory = _Directory(content, order, is_big, {tag: entry for tag, entry in by_tag.items() if tag in PIXEL_TAGS})
    directory.require_small()
    _require_cheap(directory)
    orientation = _orientation(_Directory(content, order, is_big, by_tag))
    stripped = content
    if len(directory.entries) < len(entries) or content[first + width * count :][: 8 if is_big else 4].strip(b"\0"):
        stripped = _rewrite(directory, start, head, first + width * count)
    return stripped, directory.value(WIDTH, 0), directory.value(HEIGHT, 0), orientation


def _orientation(directory: _Directory) -> int:
    """Return the orientation of the first picture, from its tag or XMP data; 1 if nothing states it."""
    if (entry := directory.entries.get(ORIENTATION)) is not None:
        # An entry of BigTIFF has longer fields, in the same order.
        value = directory.value(ORIENTATION, 1) if directory.is_big else entry_orientation(entry, directory.order)
        return value if value is not None and 1 <= value <= 8 else 1
    xmp = directory.values(XMP)[:MAX_TAG_BYTES] if XMP in directory.entries else None
    return (xmp_orientation(xmp.astype(np.uint8).tobytes()) if xmp is not None else None) or 1


def _rewrite(directory: _Directory, start: int, head: int, end: int) -> bytes:
    """Return the file with the entries of `directory` alone, in the place of the old ones, and without a further picture.

    start, end: where the directory begins, and where its entries end. head: bytes of the number of entries.
    """
    entries = directory.entries.values()
    count = struct.pack(directory.order + ("Q" if directory.is_big else "H"), len(entries))
    edited = count + b"".join(entries) + bytes(8 if directory.is_big else 4)
    edited += bytes(max(0, end - start - len(edited)))
    return b"".join(
        [memoryview(directory.content)[:start], edited, memoryview(directory.content)[start + len(edited) :]]
    )


def _require_cheap(directory: _Directory) -> None:
    """Raise Unreadable if decoding the picture takes too much time or memory."""
    width, height = directory.value(WIDTH, 0), directory.value(HEIGHT, 0)
    budget.require_few_pixels(width, height)
    is_tiled = TILE_OFFSETS in directory.entries
    across = directory.value(TILE_WIDTH, width) if is_tiled else width
    down = directory.value(TILE_HEIGHT, height) if is_tiled else min(height, directory.value(STRIP_ROWS, height))
    bits, samples = directory.value(BITS, 1), directory.value(SAMPLES, 1)
    compression, content = directory.value(COMPRESSION, 1), directory.content
    # A strip of JPEG is decoded to four bytes a pixel; what is not compressed is not held twice.
    pixel_bytes = 4 if compression in budget.JPEG else -(-bits * samples // 8)
    budget.require_small_strips(width * height, 0 if compression == 1 else across * down * pixel_bytes)
    # Strips that share their bytes would be read again and again.
    sizes = directory.values(TILE_SIZES if is_tiled else STRIP_SIZES)
    if int(sizes.sum()) > 2 * len(content) and len(sizes) > 1:
        raise Unreadable("the strips of this TIFF have more bytes than the file")
    scans = content.count(b"\xff\xda") if compression in budget.JPEG else 0
    budget.require_cheap_tiff(compression, len(content), across * down * samples, scans, width * height * samples)
