"""Resize."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mapsto.vision.features import ROUNDED
from mapsto.vision.pixels import Pixels, load_pillow


@dataclass(frozen=True)
class Frame:
    """How a picture becomes a grid of patches of `patch` pixels.

    fit: "inside" keeps its shape to whole patches and makes it smaller where a side is longer than `size`; "squash" makes it
    `size` × `size`; "middle" brings its shorter side to `shorter` and takes the middle `size` × `size`, "squash_middle" both
    sides; "shorter" brings its shorter side to `shorter`, less where the longer one would pass `size`, and both down to whole
    patches, as YOLOS has it. What is left of `size` beside whole patches, right and below, is not read. filter: how Pillow
    resamples.
    """

    patch: int
    size: int
    fit: Literal["inside", "squash", "middle", "squash_middle", "shorter"] = "inside"
    shorter: int = 0
    filter: Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"] = "bicubic"

    @property
    def side(self) -> int:
        """Patches along a side of the largest grid."""
        return max(1, self.size // self.patch)

    @property
    def largest(self) -> int:
        """Patches of the largest grid."""
        return self.side * (self.shorter // self.patch if self.fit == "shorter" else self.side)

    @property
    def cuts(self) -> bool:
        """Whether the middle of the picture is taken."""
        return self.fit in ("middle", "squash_middle")

    def framed(self, pixels: Pixels) -> tuple[Pixels, NDArray[np.float64]]:
        """The picture in its size, and where it comes from: (2, 2), scale and shift from new to raw pixels along y and x."""
        h, w = pixels.shape[:2]
        new = self._size(h, w)
        done = resized(pixels, new, self.filter)
        scale = np.array([h / new[0], w / new[1]])
        shift = np.zeros(2)
        if self.cuts:
            done, corner = _middle(done, self.size)
            shift = corner * scale
        read = self.side * self.patch
        return done[:read, :read], np.stack([scale, shift], axis=1)

    def _size(self, h: int, w: int) -> tuple[int, int]:
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
        grid = [max(1, min(self.side, round(side * scale / self.patch))) for side in (h, w)]
        return grid[0] * self.patch, grid[1] * self.patch

    def _shorter(self, h: int, w: int) -> tuple[int, int]:
        short, long = min(h, w), max(h, w)
        exact = self.size * short / long if long / short * self.shorter > self.size else float(self.shorter)
        size = round(exact), int(exact * long / short)
        if h <= w and h == size[0]:
            size = h, w  # as the published processor leaves it
        high, wide = (max(self.patch, side // self.patch * self.patch) for side in size)
        return (high, wide) if h <= w else (wide, high)


def resized(pixels: Pixels, size: tuple[int, int], filter: str = "bilinear") -> Pixels:
    """The picture in another size (h, w)."""
    if pixels.shape[:2] == size:
        return pixels
    pillow = load_pillow()
    how = getattr(pillow.Image.Resampling, filter.upper())
    return np.array(pillow.Image.fromarray(pixels).resize((size[1], size[0]), how))


def _middle(pixels: Pixels, size: int) -> tuple[Pixels, NDArray[np.float64]]:
    """The middle `size` × `size`, black where the picture ends before that; and its corner (y, x)."""
    h, w = pixels.shape[:2]
    top, left = (h - size) // 2, (w - size) // 2
    if top < 0 or left < 0:
        wide = np.zeros((max(h, size), max(w, size), 3), np.uint8)
        y, x = max(0, -(-(size - h) // 2)), max(0, -(-(size - w) // 2))
        wide[y : y + h, x : x + w] = pixels
        inner, corner = _middle(wide, size)
        return inner, corner - np.array([y, x])
    return pixels[top : top + size, left : left + size], np.array([top, left], np.float64)


def patches(pixels: Pixels, p: int, depth: int = 1) -> Pixels:
    """(g·k, 3·p·p): the patches of a picture row by row, each channel by channel; of a stack of pictures (t, h, w, 3) those of
    `depth` pictures, (t/depth · g·k, 3·depth·p·p)."""
    block = (depth, p, p)[4 - pixels.ndim :]
    axes = len(block)
    sizes = [size for whole, part in zip(pixels.shape, block, strict=False) for size in (whole // part, part)]
    order = (*range(0, 2 * axes, 2), 2 * axes, *range(1, 2 * axes, 2))
    return np.ascontiguousarray(pixels.reshape(*sizes, 3).transpose(order)).reshape(-1, 3 * math.prod(block))


def joined(found: Pixels, grid: tuple[int, ...], p: int, depth: int = 1) -> Pixels:
    """The inverse of `patches`, of `grid` patches along each axis."""
    axes = len(grid)
    block = (depth, p, p)[3 - axes :]
    order = [axis for at in range(axes) for axis in (at, axes + 1 + at)]
    sizes = [count * part for count, part in zip(grid, block, strict=True)]
    return np.ascontiguousarray(found.reshape(*grid, 3, *block).transpose(*order, axes)).reshape(*sizes, 3)


def seen(pixels: Pixels, box: NDArray[np.float64], size: tuple[int, int], filter: str = "bilinear") -> Pixels:
    """What stands in a `box` (2, 2), where it begins and ends along y and x, in a size (h, w): mirrored where it ends before it
    begins, and the edge of the picture drawn out where the box reaches beyond."""
    pillow, box = load_pillow(), box.round(ROUNDED)
    low, high, sides = box.min(1), box.max(1), np.array(pixels.shape[:2])
    beyond = np.ceil(np.maximum(0, [-low, high - sides])).astype(int)
    wide = np.pad(pixels, (*beyond.T.tolist(), (0, 0)), mode="edge") if beyond.any() else pixels
    (top, left), (bottom, right) = (np.clip(end + beyond[0], 0, wide.shape[:2]).tolist() for end in (low, high))
    how = getattr(pillow.Image.Resampling, filter.upper())
    found = np.array(pillow.Image.fromarray(wide).resize(size[::-1], how, box=(left, top, right, bottom)))
    return found[tuple(slice(None, None, -1 if begin > end else 1) for begin, end in box)]
