"""Pictures, or stacks of as many of them, made of several, which are brought to the size of the first.

Legend of shapes: h rows, w columns of pixels; p side of a patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mapsto.vision.pixels import Pixels
from mapsto.vision.resize import resized, seen

SHARPNESS = 0.2  # of the distribution of shares in mixup, as for ImageNet: mostly little is seen of one of the two


MARGIN = 1 / 4  # of a mosaic: where its seams do not lie, on either side


@dataclass(frozen=True)
class Place:
    """Where a picture of a mosaic stands: the first patch and the one behind the last, (row, column) each; and where its pixels
    come from, as `Frame.framed` says it of the whole mosaic."""

    begin: NDArray[np.int64]
    end: NDArray[np.int64]
    origin: NDArray[np.float64]


def blended(pictures: Sequence[Pixels], rng: np.random.Generator) -> tuple[Pixels, list[float]]:
    """Two pictures seen through each other, and the shares of both (mixup, Zhang et al. 2018)."""
    one, other = pictures[0], _as_large(pictures[1], pictures[0])
    share = float(rng.beta(SHARPNESS, SHARPNESS))
    mean = np.float32(share) * one + np.float32(1 - share) * other
    return np.rint(mean).astype(np.uint8), [share, 1 - share]


def pasted(pictures: Sequence[Pixels], rng: np.random.Generator) -> tuple[Pixels, list[float]]:
    """A picture with a rectangle of another, which stood in the same place, of stacks in all; and what share of the area is of
    each (CutMix, Yun et al. 2019)."""
    mixed, other = pictures[0].copy(), _as_large(pictures[1], pictures[0])
    size = np.array(mixed.shape[-3:-1])
    extent, middle = size * rng.random() ** 0.5, size * rng.random(2)
    (top, left), (bottom, right) = (
        np.clip(np.rint(middle + side * extent / 2), 0, size).astype(int) for side in (-1, 1)
    )
    mixed[..., top:bottom, left:right, :] = other[..., top:bottom, left:right, :]
    share = float((bottom - top) * (right - left) / size.prod())
    return mixed, [1 - share, share]


def _as_large(pixels: Pixels, one: Pixels) -> Pixels:
    """A picture, or each of a stack, in the size of `one`."""
    h, w = one.shape[-3:-1]
    return resized(pixels, (h, w)) if pixels.ndim == 3 else np.stack([resized(frame, (h, w)) for frame in pixels])


def mosaic(pictures: Sequence[Pixels], p: int, rng: np.random.Generator) -> tuple[Pixels, list[Place | None]]:
    """Four pictures about a point at random, where whole patches meet (Bochkovskiy et al. 2020); of each as much as its place
    holds, in its own shape, and no smaller than it must be to fill it. None for one without a place: where there is a single row
    or column of patches there are but two."""
    mixed = np.zeros_like(pictures[0])
    grid = np.array(mixed.shape[:2]) // p
    margin = np.ceil(grid * MARGIN).astype(int)
    seam = np.where(grid > 1, rng.integers(margin, np.maximum(grid - margin, margin) + 1), grid)
    places: list[Place | None] = []
    for number, picture in enumerate(pictures):
        behind = np.array(divmod(number, 2))
        begin, end = behind * seam, np.where(behind, grid, seam)
        if (begin == end).any():
            places.append(None)
            continue
        room, size = (end - begin) * p, np.array(picture.shape[:2])
        fewest = float((room / size).max())  # as small as the picture can be to fill its place
        part = room / rng.uniform(fewest, max(fewest, 1.0))
        corner = rng.random(2) * (size - part)
        (top, left), (bottom, right) = begin * p, end * p
        box = np.stack([corner, corner + part], axis=1)
        mixed[top:bottom, left:right] = seen(picture, box, (bottom - top, right - left))
        scale = part / room
        places.append(Place(begin, end, np.stack([scale, corner - begin * p * scale], axis=1)))
    return mixed, places
