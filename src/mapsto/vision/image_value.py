"""Table cells that hold images, and ImageValue, the value of such a cell.

An image is decoded once when its cell is read. Its pixels then wait in a cache of 128 MiB until the source encodes them.
Legend of shapes: h rows, w columns of pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mapsto.errors import BadCell, DataError
from mapsto.media.cells import Unreadable, are_media, read_media_cell
from mapsto.media.decoded_cache import DecodedCache
from mapsto.vision import features, image_io
from mapsto.vision.pixels import Pixels

PIXEL_CACHE_BYTES = 128 * 2**20

# Pixels to the longer side of an image on a page.
THUMBNAIL = 160


PIXEL_CACHE = DecodedCache(PIXEL_CACHE_BYTES)


@dataclass(frozen=True)
class ImageValue:
    """A checked image, kept without its pixels: they are decoded from the file at `path` or from the encoded bytes `content`."""

    path: str | None = field(compare=False)
    content: bytes | None = field(compare=False, repr=False)
    # SHA-256 of the encoded bytes; images with the same digest are equal.
    digest: str
    height: int
    width: int
    # 16 × 16 grey values, from which near-duplicates are found.
    thumbnail: bytes = field(compare=False, repr=False)

    @property
    def pixels(self) -> Pixels:
        """Return the pixels (h, w, 3): the first time from the cache if it still has them, else decoded again.

        Raises DataError if the file can no longer be decoded.
        """
        # Pixels are usually needed once, to encode the image, so they need not stay in the cache.
        if (pixels := PIXEL_CACHE.take(self.digest)) is not None:
            return pixels
        try:
            content = image_io.read_image_bytes(str(self.path)) if self.content is None else self.content
            return image_io.decode_image(content)
        except (OSError, Unreadable) as error:
            raise DataError(f"{self} changed while it was read: {error}") from error

    @classmethod
    def from_bytes(cls, content: bytes, path: str | None = None) -> ImageValue:
        """Return the image that `content` encodes, and put its pixels into the cache.

        path: the file that holds `content`. If it is given, the value keeps only the path and not the bytes.
        Raises Unreadable if the image cannot be decoded.
        """
        pixels, digest = image_io.decode_image(content), hashlib.sha256(content).hexdigest()
        (height, width), thumbnail = pixels.shape[:2], features.grey_thumbnail(pixels)
        PIXEL_CACHE.add(digest, pixels)
        return cls(path, None if path else content, digest, height, width, thumbnail)

    def __str__(self) -> str:
        return self.path or f"a picture of {self.width} × {self.height} pixels"


def sample_images() -> list[Any]:
    """Return four small random images of different shapes for tests, as cells {"bytes": …, "path": None} (Hugging Face)."""
    rng = np.random.default_rng(0)
    sizes = ((16, 16), (16, 8), (12, 16), (16, 16))
    return [
        {"bytes": image_io.encode_png(rng.integers(0, 256, (*size, 3)).astype(np.uint8)), "path": None}
        for size in sizes
    ]


def fits_images(values: Sequence[object]) -> bool:
    """Return whether all cells of a column look like images. Cells that are None do not count, but not all may be None.

    An image is a Pillow image, a file name with an image's suffix, encoded bytes (also in a dict), or an array with three axes.
    """
    cells = [value for value in values if value is not None and not image_io.is_pillow_image(value)]
    if not cells:
        return any(map(image_io.is_pillow_image, values))
    return are_media(cells, image_io.IMAGE_SUFFIXES, axes=3)


def read_image(cell: object) -> ImageValue:
    """Return the image in a cell. Raises BadCell if the cell has no readable image.

    cell: a file name, encoded bytes, a dict of either (Hugging Face), a Pillow image, or pixels (h, w, 3) of uint8.
    """
    if isinstance(cell, ImageValue):
        return cell
    # Images in memory are kept as PNG, which needs far less memory than pixels.
    if image_io.is_pillow_image(cell):
        try:
            cell = image_io.encode_png(image_io.pillow_pixels(cell))
        except Unreadable as error:
            raise BadCell(str(error)) from error
    if hasattr(cell, "__array__"):
        pixels = np.asarray(cell)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
            raise BadCell(f"pixels are (h, w, 3) of bytes, not {pixels.shape} of {pixels.dtype}")
        cell = image_io.encode_png(pixels)
    path, content = read_media_cell(cell, "picture", "pixels")
    try:
        return ImageValue.from_bytes(content or image_io.read_image_bytes(str(path)), path)
    except Unreadable as error:
        raise BadCell(str(error)) from error
    except (OSError, UnicodeError) as error:  # a UnicodeError is that of a name that no file can have
        raise BadCell(f"the picture cannot be read: {getattr(error, 'strerror', None) or error}") from error


def read_mask(cell: object) -> NDArray[np.bool_]:
    """Return a mask (h, w) from a cell: True where its image is not black. Raises BadCell if the cell has no readable image.

    cell: an image cell as for `read_image`, or an array (h, w), whose elements are True where they are not 0.
    """
    is_plain = hasattr(cell, "__array__") and np.ndim(np.asarray(cell)) == 2
    values = np.asarray(cell) if is_plain else read_image(cell).pixels.max(axis=2)
    return values.astype(np.bool_)


def excerpt(value: ImageValue, region: Any) -> str:
    """Return the pixel coordinates of a region in words, such as "y 0–16, x 16–32"."""
    (top, bottom), (left, right) = region
    return f"y {top:.0f}–{bottom:.0f}, x {left:.0f}–{right:.0f}"


def highlight(value: ImageValue, regions: Sequence[Any], shades: Sequence[float]) -> str:
    """Return the image as HTML; if there are regions, the plain image and, beside it, the image with the regions shaded.

    regions: ((top, bottom), (left, right)) of each region, in raw pixels.
    shades: one number for each region, from −1 (speaks against the answer) to 1 (speaks for it).
    """
    if not regions:
        return image_io.svg_image(value.pixels, THUMBNAIL, "a picture")
    return " ".join(image_io.svg_pair(value.pixels, THUMBNAIL, "a picture", map(image_io.svg_shade, regions, shades)))
