"""A picture in a cell of a table: what it may be given as, and what of it is kept.

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
from mapsto.vision.patch_source import encoded, fit
from mapsto.vision.pixels import Pixels, Unreadable

MOST_DECODED = 128 * 2**20


THUMBNAIL = 160


class Decoded:
    """Pixels of pictures that were read a moment ago, each for the one who asks next: what is answered is read to see whether it
    can be, and encoded at once. room: bytes that are kept."""

    def __init__(self, room: int) -> None:
        self.room, self.kept, self.turn = room, OrderedDict[str, Pixels](), threading.Lock()

    def put(self, digest: str, pixels: Pixels) -> None:
        """Keep these, and forget those that wait longest where there is no room."""
        with self.turn:
            self._forget(digest)
            self.kept[digest], self.room = pixels, self.room - pixels.nbytes
            while self.room < 0:
                self._forget(next(iter(self.kept)))

    def take(self, digest: str) -> Pixels | None:
        """The pixels of the picture, once."""
        with self.turn:
            return self._forget(digest)

    def _forget(self, digest: str) -> Pixels | None:
        pixels = self.kept.pop(digest, None)
        self.room += 0 if pixels is None else pixels.nbytes
        return pixels


DECODED = Decoded(MOST_DECODED)


@dataclass(frozen=True)
class Picture:
    """A picture that can be decoded: encoded in `content`, or in the file `path`. digest: SHA-256 of the encoded bytes, by which
    pictures are equal. small: its grey values, by which nearly equal ones are found."""

    path: str | None = field(compare=False)
    content: bytes | None = field(compare=False, repr=False)
    digest: str
    height: int
    width: int
    small: bytes = field(compare=False, repr=False)

    @property
    def pixels(self) -> Pixels:
        """(h, w, 3). Raises DataError for a file that is no longer what it was."""
        if (known := DECODED.take(self.digest)) is not None:
            return known
        try:
            return image_io.decode(image_io.content_of(str(self.path)) if self.content is None else self.content)
        except (OSError, Unreadable) as error:
            raise DataError(f"{self} changed while it was read: {error}") from error

    @classmethod
    def of(cls, content: bytes, path: str | None = None) -> Picture:
        """The picture that these bytes are. Raises pictures.Unreadable."""
        pixels, digest = image_io.decode(content), hashlib.sha256(content).hexdigest()
        (height, width), small = pixels.shape[:2], features.small(pixels)
        DECODED.put(digest, pixels)
        return cls(path, None if path else content, digest, height, width, small)

    def __str__(self) -> str:
        return self.path or f"a picture of {self.width} × {self.height} pixels"


def samples() -> list[Any]:
    """Small ones of different shapes, as a data set of Hugging Face holds them."""
    rng = np.random.default_rng(0)
    sizes = ((16, 16), (16, 8), (12, 16), (16, 16))
    return [
        {"bytes": image_io.encode(rng.integers(0, 256, (*size, 3)).astype(np.uint8)), "path": None} for size in sizes
    ]


def fits(values: Sequence[object]) -> bool:
    """Whether a column of these values can be of pictures."""
    others = [value for value in values if value is not None and not image_io.is_opened(value)]
    return fit(others, image_io.SUFFIXES, axes=3) if others else any(map(image_io.is_opened, values))


def read(cell: object) -> Picture:
    """A file's name, encoded bytes, a dict of either as Hugging Face has it, a picture of Pillow's, or pixels (h, w, 3) of
    bytes."""
    if isinstance(cell, Picture):
        return cell
    if image_io.is_opened(cell):
        try:
            cell = image_io.encode(image_io.pixels_of(cell))
        except Unreadable as error:
            raise BadCell(str(error)) from error
    if hasattr(cell, "__array__"):
        pixels = np.asarray(cell)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
            raise BadCell(f"pixels are (h, w, 3) of bytes, not {pixels.shape} of {pixels.dtype}")
        cell = image_io.encode(pixels)
    path, content = encoded(cell, "picture", "pixels")
    try:
        return Picture.of(content or image_io.content_of(str(path)), path)
    except OSError as error:
        raise BadCell(f"the picture cannot be read: {error.strerror or error}") from error
    except Unreadable as error:
        raise BadCell(str(error)) from error


def marked_by(mask: object) -> NDArray[np.bool_]:
    """Where (h, w) a mask is not black. Raises BadCell."""
    plain = hasattr(mask, "__array__") and np.ndim(np.asarray(mask)) == 2
    values = np.asarray(mask) if plain else read(mask).pixels.max(axis=2)
    return values.astype(np.bool_)
