"""Resizing of images to a grid of patches; conversion between pixels and patches.

Each resized image comes with its origin, (2, 2): a scale and a shift along y and x, from its pixel coordinates to those of
the raw image. The origin tells which region of the raw image a token shows.
Legend of shapes: h rows, w columns of pixels; p side of a patch; g × k patches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mapsto.vision.features import COORDINATE_DECIMALS
from mapsto.vision.pixels import Pixels, load_pillow


@dataclass(frozen=True)
class Resizer:
    """The settings by which images are resized to a grid of patches. Pixels beyond the last whole patch are dropped."""

    # Pixels to a side of a patch.
    patch: int
    # Pixels to a side of the largest image that is read.
    size: int
    # inside: keep the aspect ratio, rounded to whole patches; shrink only an image with a side longer than `size`.
    # squash: resize to `size` × `size`.
    # middle: resize the shorter side to `shorter`, then crop the central `size` × `size`.
    # squash_middle: resize both sides to `shorter`, then crop the central `size` × `size`.
    # shorter: resize the shorter side to `shorter`, or less if the longer side would exceed `size` (YOLOS).
    fit: Literal["inside", "squash", "middle", "squash_middle", "shorter"] = "inside"
    shorter: int = 0
    # Pillow's resampling filter.
    filter: Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"] = "bicubic"

    @property
    def patches_per_side(self) -> int:
        """Return the largest number of patches along one side of a resized image."""
        return max(1, self.size // self.patch)

    @property
    def max_patches(self) -> int:
        """Return the largest number of patches in a resized image."""
        side = self.patches_per_side
        return side * (self.shorter // self.patch if self.fit == "shorter" else side)

    @property
    def crops(self) -> bool:
        """Return whether resized images are cropped to their central square, as by the fits "middle" and "squash_middle"."""
        return self.fit in ("middle", "squash_middle")

    def resize(self, pixels: Pixels) -> tuple[Pixels, NDArray[np.float64]]:
        """Return the resized image and its origin (2, 2).

        The origin is the scale and shift along y and x from pixel coordinates of the resized image to those of `pixels`.
        """
        h, w = pixels.shape[:2]
        new = self._size(h, w)
        resized = resize_pixels(pixels, new, self.filter)
        scale = np.array([h / new[0], w / new[1]])
        shift = np.zeros(2)
        if self.crops:
            resized, corner = _centre_crop(resized, self.size)
            shift = corner * scale
        # A side that is no multiple of the patch loses its last pixels.
        limit = self.patches_per_side * self.patch
        return resized[:limit, :limit], np.stack([scale, shift], axis=1)

    def _size(self, h: int, w: int) -> tuple[int, int]:
        """Return the (height, width) to which an image (h, w) is resized before it is cropped."""
        if self.fit == "squash":
            return self.size, self.size
        if self.fit == "squash_middle":
            return self.shorter, self.shorter
        if self.fit == "shorter":
            return self._shorter(h, w)
        if self.fit == "middle":
            short = self.shorter
            return (short, int(short * w / h)) if h <= w else (int(short * h / w), short)
        scale = min(1.0, self.size / max(h, w))
        grid = [max(1, min(self.patches_per_side, round(side * scale / self.patch))) for side in (h, w)]
        return grid[0] * self.patch, grid[1] * self.patch

    def _shorter(self, h: int, w: int) -> tuple[int, int]:
        """Return the (height, width) to which an image (h, w) is resized with the fit "shorter", in whole patches.

        The shorter side gets `self.shorter` pixels, or fewer if the longer side would exceed `self.size`. Sizes are rounded
        as in the published YolosImageProcessor.
        """
        short, long = min(h, w), max(h, w)
        exact = self.size * short / long if long / short * self.shorter > self.size else float(self.shorter)
        size = round(exact), int(exact * long / short)
        if h <= w and h == size[0]:
            size = h, w  # the published processor leaves such an image as it is
        low, high = (max(self.patch, side // self.patch * self.patch) for side in size)
        return (low, high) if h <= w else (high, low)


def resize_pixels(pixels: Pixels, size: tuple[int, int], filter: str = "bilinear") -> Pixels:
    """Return the image (h, w, 3) resized to `size`, (height, width). filter: name of Pillow's resampling filter."""
    if pixels.shape[:2] == size:
        return pixels
    pillow = load_pillow()
    resampling = getattr(pillow.Image.Resampling, filter.upper())
    return np.array(pillow.Image.fromarray(pixels).resize((size[1], size[0]), resampling))


def _centre_crop(pixels: Pixels, size: int) -> tuple[Pixels, NDArray[np.float64]]:
    """Return the central `size` × `size` pixels of an image, and the (y, x) of their top left corner in the image.

    An image smaller than that is padded with black; the corner then lies outside the image and is negative.
    """
    h, w = pixels.shape[:2]
    top, left = (h - size) // 2, (w - size) // 2
    if top < 0 or left < 0:
        padded = np.zeros((max(h, size), max(w, size), 3), np.uint8)
        y, x = max(0, -(-(size - h) // 2)), max(0, -(-(size - w) // 2))
        padded[y : y + h, x : x + w] = pixels
        inner, corner = _centre_crop(padded, size)
        return inner, corner - np.array([y, x])
    return pixels[top : top + size, left : left + size], np.array([top, left], np.float64)


def split_patches(pixels: Pixels, p: int, depth: int = 1) -> Pixels:
    """Cut an image (h, w, 3) into patches (g·k, 3·p·p), row by row. A patch holds its pixels channel by channel.

    From a stack of images (t, h, w, 3), patches that span `depth` images are cut: (t/depth · g·k, 3·depth·p·p).
    """
    block = (depth, p, p)[4 - pixels.ndim :]
    axes = len(block)
    pairs = zip(pixels.shape, block, strict=False)
    sizes = [size for length, part in pairs for size in (length // part, part)]
    # First the axes of the grid, then the channel, then the axes within a patch.
    order = (*range(0, 2 * axes, 2), 2 * axes, *range(1, 2 * axes, 2))
    return np.ascontiguousarray(pixels.reshape(*sizes, 3).transpose(order)).reshape(-1, 3 * math.prod(block))


def join_patches(patches: Pixels, grid: tuple[int, ...], p: int, depth: int = 1) -> Pixels:
    """Return the image or stack of images that patches make up: the inverse of `split_patches`.

    grid: number of patches along each axis. p: side of a patch. depth: number of images that a patch of a stack spans.
    """
    axes = len(grid)
    block = (depth, p, p)[3 - axes :]
    order = [axis for i in range(axes) for axis in (i, axes + 1 + i)]
    sizes = [count * part for count, part in zip(grid, block, strict=True)]
    return np.ascontiguousarray(patches.reshape(*grid, 3, *block).transpose(*order, axes)).reshape(*sizes, 3)


def resample_box(pixels: Pixels, box: NDArray[np.float64], size: tuple[int, int], filter: str = "bilinear") -> Pixels:
    """Return the part of an image (h, w, 3) inside a box, resized to `size`, (height, width).

    box: [[top, bottom], [left, right]] in pixels, not necessarily whole. If bottom < top or right < left, the result is mirrored
    along that axis. Where the box reaches beyond the image, edge pixels are repeated. filter: name of Pillow's resampling filter.
    """
    pillow, box = load_pillow(), box.round(COORDINATE_DECIMALS)
    low, high, sides = box.min(1), box.max(1), np.array(pixels.shape[:2])
    beyond = np.ceil(np.maximum(0, [-low, high - sides])).astype(int)
    padded = np.pad(pixels, (*beyond.T.tolist(), (0, 0)), mode="edge") if beyond.any() else pixels
    (top, left), (bottom, right) = (np.clip(end + beyond[0], 0, padded.shape[:2]).tolist() for end in (low, high))
    resampling = getattr(pillow.Image.Resampling, filter.upper())
    resized = np.array(pillow.Image.fromarray(padded).resize(size[::-1], resampling, box=(left, top, right, bottom)))
    return resized[tuple(slice(None, None, -1 if begin > end else 1) for begin, end in box)]
