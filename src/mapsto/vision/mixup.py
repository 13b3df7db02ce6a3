"""Mixtures of several images, or of several videos (stacks of images): mixup, CutMix and mosaics.

All images are resized to the size of the first.
Legend of shapes: h rows, w columns of pixels; p side of a patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mapsto.vision.pixels import Pixels
from mapsto.vision.resize import resample_box, resize_pixels

# Both parameters of the Beta distribution of mixup's weights, as published for ImageNet: mostly one image is faint.
BETA = 0.2

# The share of a mosaic's side that seams keep away from its edges.
MARGIN = 1 / 4


@dataclass(frozen=True)
class Tile:
    """The rectangle of whole patches that shows one image in a mosaic."""

    # (row, column) of the tile's first patch, and of the patch after its last one.
    begin: NDArray[np.int64]
    end: NDArray[np.int64]
    # (2, 2): scale and shift along y and x, from pixel coordinates of the whole mosaic to those of the image.
    origin: NDArray[np.float64]


def blend(images: Sequence[Pixels], rng: np.random.Generator) -> tuple[Pixels, list[float]]:
    """Return the weighted mean of two images, and the two weights, which add up to 1 (mixup, Zhang et al. 2018).

    The first weight is drawn from the distribution Beta(0.2, 0.2). The second image is resized to the first one's size.
    """
    first, second = images[0], _resize_like(images[1], images[0])
    share = float(rng.beta(BETA, BETA))
    mean = np.float32(share) * first + np.float32(1 - share) * second
    return np.rint(mean).astype(np.uint8), [share, 1 - share]


def paste(images: Sequence[Pixels], rng: np.random.Generator) -> tuple[Pixels, list[float]]:
    """Return the first image with a random rectangle taken from the second (CutMix), and the two images' shares of the area.

    The second image is resized to the first one's size before. In a video the rectangle is the same in all frames. The paper is
    Yun et al. (2019).
    """
    # The root makes the rectangle's share of the area uniform, before it is clipped to the image.
    mixed, second = images[0].copy(), _resize_like(images[1], images[0])
    size = np.array(mixed.shape[-3:-1])
    extent, middle = size * rng.random() ** 0.5, size * rng.random(2)
    (top, left), (bottom, right) = (
        np.clip(np.rint(middle + side * extent / 2), 0, size).astype(int) for side in (-1, 1)
    )
    mixed[..., top:bottom, left:right, :] = second[..., top:bottom, left:right, :]
    share = float((bottom - top) * (right - left) / size.prod())
    return mixed, [1 - share, share]


def _resize_like(pixels: Pixels, reference: Pixels) -> Pixels:
    """Return an image, or a stack of images, resized to the height and width of `reference`."""
    h, w = reference.shape[-3:-1]
    if pixels.ndim == 3:
        return resize_pixels(pixels, (h, w))
    return np.stack([resize_pixels(frame, (h, w)) for frame in pixels])


def make_mosaic(images: Sequence[Pixels], p: int, rng: np.random.Generator) -> tuple[Pixels, list[Tile | None]]:
    """Return a mosaic of four images around a random point, in the size of the first, and the tile of each image.

    The point lies between patches, so that no patch shows two images (mosaic, Bochkovskiy et al. 2020). Each image keeps its
    aspect ratio, is scaled by a random factor of at most 1, or by the least that fills its tile, and is cropped to the tile. A
    tile is None if it is empty, as in a mosaic of a single row of patches. p: width and height of a patch in pixels.
    """
    mixed = np.zeros_like(images[0])
    grid = np.array(mixed.shape[:2]) // p
    margin = np.ceil(grid * MARGIN).astype(int)
    # A single row or column of patches has no seam; the tiles before the seam take all of it.
    seam = np.where(grid > 1, rng.integers(margin, np.maximum(grid - margin, margin) + 1), grid)
    tiles: list[Tile | None] = []
    for number, image in enumerate(images):
        after_seam = np.array(divmod(number, 2))
        begin, end = after_seam * seam, np.where(after_seam, grid, seam)
        if (begin == end).any():
            tiles.append(None)
            continue
        room, size = (end - begin) * p, np.array(image.shape[:2])
        min_scale = float((room / size).max())
        part = room / rng.uniform(min_scale, max(min_scale, 1.0))
        corner = rng.random(2) * (size - part)
        (top, left), (bottom, right) = begin * p, end * p
        box = np.stack([corner, corner + part], axis=1)
        mixed[top:bottom, left:right] = resample_box(image, box, (bottom - top, right - left))
        scale = part / room
        tiles.append(Tile(begin, end, np.stack([scale, corner - begin * p * scale], axis=1)))
    return mixed, tiles
