"""The value of an image cell: what a cell may hold, and what is kept of it.

An image is decoded once to be checked, and its pixels wait in a cache of 128 MiB for the encoder that reads it next.
Legend of shapes: h rows, w columns of pixels.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mapsto.errors import BadCell, DataError
from mapsto.vision import features, image_io
from mapsto.vision.patch_source import are_media, read_media_cell
from mapsto.vision.pixels import Pixels, Unreadable

PIXEL_CACHE_BYTES = 128 * 2**20

# Pixels to the longer side of an image on a page.
THUMBNAIL = 160


class PixelCache:
    """A cache of decoded pixels, by digest, that gives each image out once. room: bytes that are free."""

    def __init__(self, room: int) -> None:
        self.room, self.entries, self.lock = room, OrderedDict[str, Pixels](), threading.Lock()

    def add(self, digest: str, pixels: Pixels) -> None:
        """Add an image, and drop the oldest ones where there is no room."""
        with self.lock:
            self._remove(digest)
            self.entries[digest], self.room = pixels, self.room - pixels.nbytes
            while self.room < 0:
                self._remove(next(iter(self.entries)))

    def take(self, digest: str) -> Pixels | None:
        """Return the pixels of an image and remove them; None where they are not there."""
        with self.lock:
            return self._remove(digest)

    def _remove(self, digest: str) -> Pixels | None:
        pixels = self.entries.pop(digest, None)
        self.room += 0 if pixels is None else pixels.nbytes
        return pixels


PIXEL_CACHE = PixelCache(PIXEL_CACHE_BYTES)


@dataclass(frozen=True)
class ImageValue:
    """An image that can be decoded: encoded in `content`, or in the file `path`."""

    path: str | None = field(compare=False)
    content: bytes | None = field(compare=False, repr=False)
    # SHA-256 of the encoded bytes, by which images are equal.
    digest: str
    height: int
    width: int
    # The grey thumbnail that near-duplicates are found by.
    thumbnail: bytes = field(compare=False, repr=False)

    @property
    def pixels(self) -> Pixels:
        """Return the pixels (h, w, 3). Raises DataError for a file that has changed since it was read."""
        if (pixels := PIXEL_CACHE.take(self.digest)) is not None:
            return pixels
        try:
            content = image_io.read_image_bytes(str(self.path)) if self.content is None else self.content
            return image_io.decode_image(content)
        except (OSError, Unreadable) as error:
            raise DataError(f"{self} changed while it was read: {error}") from error

    @classmethod
    def from_bytes(cls, content: bytes, path: str | None = None) -> ImageValue:
        """Return the image that these bytes encode. Raises Unreadable."""
        pixels, digest = image_io.decode_image(content), hashlib.sha256(content).hexdigest()
        (height, width), thumbnail = pixels.shape[:2], features.grey_thumbnail(pixels)
        PIXEL_CACHE.add(digest, pixels)
        return cls(path, None if path else content, digest, height, width, thumbnail)

    def __str__(self) -> str:
        return self.path or f"a picture of {self.width} × {self.height} pixels"


def sample_images() -> list[Any]:
    """Return a few small images of different shapes, as a Hugging Face data set holds them."""
    rng = np.random.default_rng(0)
    sizes = ((16, 16), (16, 8), (12, 16), (16, 16))
    return [
        {"bytes": image_io.encode_png(rng.integers(0, 256, (*size, 3)).astype(np.uint8)), "path": None}
        for size in sizes
    ]


def fits_images(values: Sequence[object]) -> bool:
    """Return whether a column of these cells can be of images."""
    cells = [value for value in values if value is not None and not image_io.is_pillow_image(value)]
    if not cells:
        return any(map(image_io.is_pillow_image, values))
    return are_media(cells, image_io.IMAGE_SUFFIXES, axes=3)


def read_image(cell: object) -> ImageValue:
    """Return the image in a cell. Raises BadCell.

    cell: a file's name, encoded bytes, a dict of either (Hugging Face), an image of Pillow, or pixels (h, w, 3) of bytes.
    """
    if isinstance(cell, ImageValue):
        return cell
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
    except OSError as error:
        raise BadCell(f"the picture cannot be read: {error.strerror or error}") from error
    except Unreadable as error:
        raise BadCell(str(error)) from error


def read_mask(cell: object) -> NDArray[np.bool_]:
    """Return where (h, w) a mask is not black. Raises BadCell. cell: an image cell, or an array (h, w)."""
    is_plain = hasattr(cell, "__array__") and np.ndim(np.asarray(cell)) == 2
    values = np.asarray(cell) if is_plain else read_image(cell).pixels.max(axis=2)
    return values.astype(np.bool_)
