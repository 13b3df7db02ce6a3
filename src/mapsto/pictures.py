"""Pictures without a model: decoded, brought to a size, cut into patches and back, moved about, and counted.

A decoded picture is (h, w, 3) of bytes, red, green and blue. Legend of shapes: h rows, w columns of pixels; p side of a patch;
g × k patches.
"""

from __future__ import annotations

import io
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mapsto.errors import UsageError

Pixels = NDArray[np.uint8]
INSTALL = "pictures need the package Pillow: pip install 'mapsto[image]'"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # no format of Pillow's that starts another program
MOST_PIXELS, MOST_BYTES = 64_000_000, 2**30
PAPER = (255, 255, 255)  # what is seen through a picture
COLOURS, EDGES, CELLS = 4, 8, 4
ROUNDED = 6  # decimals of a pixel, so that what is meant to lie on its edge does
SMALL, LONG_WAVES = 16, 8  # to a side of a small picture: pixels, and waves that are looked at
WAVES = 32  # that tell it
FAINTEST = 8.0  # a wave of one grey value
GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
FRAME_COLOURS = ("#c2410c", "#0a58ca", "#15803d", "#8b2fc9", "#a16207", "#be185d", "#0e7490")
FONTS = ("NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "PingFang.ttc", "msyh.ttc", "DejaVuSans.ttf")
ORIENTATION, FIRST_ON_ITS_SIDE = 0x0112, 5  # of EXIF: what is written as rows are columns


class Unreadable(ValueError):
    """What keeps a file from being a picture."""


def load_pillow() -> Any:
    """The package that decodes pictures. Raises UsageError where it is not here."""
    try:
        import PIL.Image
        import PIL.ImageOps
    except ImportError as error:
        raise UsageError(INSTALL) from error
    return PIL


def require_file(path: str | Path) -> None:
    """Raise Unreadable for what is there and is no file, such as a pipe, which nobody may fill, or a device without an end."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise Unreadable("this is no file")


def content_of(path: str | Path) -> bytes:
    """The bytes of a file. Raises OSError, and Unreadable for one that is none, is empty, or is larger than any that is read."""
    require_file(path)
    if not (size := os.stat(path).st_size):
        raise Unreadable("the file is empty")
    if size > MOST_BYTES:
        raise Unreadable(f"{size:,} bytes are more than the {MOST_BYTES:,} that are read")
    return Path(path).read_bytes()


def decode(content: bytes) -> Pixels:
    """The pixels of an encoded picture, turned as its EXIF data say; of several frames the first, on white where it can be seen
    through, of 16 bits a channel the upper 8. Raises Unreadable, also where nothing says which value is white, and UsageError
    without Pillow."""
    pillow = load_pillow()
    return _seen(pillow, lambda: pillow.Image.open(io.BytesIO(content), formats=FORMATS))


def is_opened(value: object) -> bool:
    """Whether a value is a picture of Pillow's, which is not imported for it."""
    return "PIL.Image" in sys.modules and isinstance(value, sys.modules["PIL.Image"].Image)


def pixels_of(image: Any) -> Pixels:
    """The pixels of a picture of Pillow's, as `decode` gives those of its file. Raises Unreadable."""
    return _seen(load_pillow(), lambda: image)


def _seen(pillow: Any, give: Callable[[], Any]) -> Pixels:
    try:
        opened = give()
        if opened.width * opened.height > MOST_PIXELS:
            raise Unreadable(
                f"{opened.width:,} × {opened.height:,} pixels are more than the {MOST_PIXELS:,} that are read"
            )
        if opened.mode in ("I", "F") and opened.format != "PNG":  # whose 16 bits Pillow has given as 32
            raise Unreadable("nothing says which of its values is white: save it with 8 or 16 bits a channel")
        opened.load()
        return np.array(_coloured(pillow, pillow.ImageOps.exif_transpose(opened)))
    except pillow.UnidentifiedImageError as error:
        raise Unreadable("this is no picture of a known format (JPEG, PNG, WebP, GIF, BMP, TIFF)") from error
    except Unreadable:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, pillow.Image.DecompressionBombError) as error:
        raise Unreadable(f"the picture is damaged: {error}") from error


def size(content: bytes) -> tuple[int, int]:
    """Width and height of an encoded picture, turned as its EXIF data say, without decoding it. Raises Unreadable."""
    pillow = load_pillow()
    try:
        with pillow.Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            turned = opened.getexif().get(ORIENTATION, 1) >= FIRST_ON_ITS_SIDE
            return (opened.height, opened.width) if turned else (opened.width, opened.height)
    except (OSError, SyntaxError, ValueError, EOFError, pillow.Image.DecompressionBombError) as error:
        raise Unreadable(f"the picture is damaged: {error}") from error


def _coloured(pillow: Any, image: Any) -> Any:
    if image.mode.startswith("I"):
        values = np.asarray(image, np.float64) / 257
        return pillow.Image.fromarray(values.round().astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        seen = image.convert("RGBA")
        paper = pillow.Image.new("RGBA", seen.size, PAPER)
        return pillow.Image.alpha_composite(paper, seen).convert("RGB")
    return image.convert("RGB")


def encode(pixels: Pixels) -> bytes:
    """A PNG of the pixels."""
    stream = io.BytesIO()
    load_pillow().Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def encode_moving(frames: Sequence[Pixels], milliseconds: int) -> bytes:
    """A PNG that shows one after the other, each for so long."""
    first, *others = map(load_pillow().Image.fromarray, frames)
    stream = io.BytesIO()
    first.save(stream, "PNG", save_all=True, append_images=others, duration=milliseconds, loop=0)
    return stream.getvalue()


def thumbnail(pixels: Pixels) -> bytes:
    """A JPEG of the pixels, for a page."""
    stream = io.BytesIO()
    load_pillow().Image.fromarray(pixels).save(stream, "JPEG", quality=85)
    return stream.getvalue()


def outlined(pixels: Pixels, marks: Sequence[tuple[Any, str]]) -> bytes:
    """A PNG of the pixels with a frame about each region ((top, bottom), (left, right)), and its name; each name has a colour."""
    pillow = load_pillow()
    from PIL import ImageDraw

    image = pillow.Image.fromarray(pixels)
    pen, thick = ImageDraw.Draw(image), max(1, round(max(pixels.shape) / 300))
    names = {name: number for number, name in enumerate(dict.fromkeys(text for _, text in marks))}
    for ((top, bottom), (left, right)), text in marks:
        colour = FRAME_COLOURS[names[text] % len(FRAME_COLOURS)]
        pen.rectangle((left, top, right, bottom), outline=colour, width=thick)
        font = _font(text, max(10, 5 * thick))
        box = pen.textbbox((left, top), text, font=font)
        place = (left, top - (box[3] - top)) if box[3] - top <= top else (left, top)  # above, where there is room
        pen.rectangle(pen.textbbox(place, text, font=font), fill=colour)
        pen.text(place, text, fill="white", font=font)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def _font(text: str, height: int) -> Any:
    """A font that has these letters, where one is installed under a usual name; else the one that Pillow brings."""
    from PIL import ImageFont

    for name in () if text.isascii() else FONTS:
        try:
            return ImageFont.truetype(name, height)
        except OSError:
            continue
    return ImageFont.load_default(height)


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


def disturbed(pixels: Pixels, rng: np.random.Generator) -> dict[str, Pixels]:
    """As another camera would have it: noise, a blur of three pixels, half the light."""
    noise = rng.normal(0, 16, pixels.shape)
    wide = np.pad(pixels.astype(np.float32), ((1, 1), (1, 1), (0, 0)), mode="edge")
    h, w = pixels.shape[:2]
    blurred = sum(wide[y : y + h, x : x + w] for y in range(3) for x in range(3)) / 9
    changed = {"noise": pixels + noise, "blurred": blurred, "darker": pixels * 0.5}
    return {name: np.clip(np.asarray(found), 0, 255).astype(np.uint8) for name, found in changed.items()}


def small(pixels: Pixels) -> bytes:
    """The picture in 16 × 16 grey values, row by row: enough to find others that are nearly the same."""
    pillow = load_pillow()
    grey = pillow.Image.fromarray(pixels).convert("L")
    found: bytes = grey.resize((SMALL, SMALL), pillow.Image.Resampling.BILINEAR).tobytes()
    return found


def strongest(values: bytes) -> NDArray[np.int64]:
    """Which long waves (of the cosine transform) of a `small` picture are the strongest, as many as WAVES, and their signs: size,
    light and what an encoder loses change few of them (as of wavelets, Jacobs et al. 1995). Shorter ones weigh more."""
    grey = np.frombuffer(values, np.uint8).reshape(SMALL, SMALL)
    found = (_cosines() @ grey @ _cosines().T).ravel()
    found[0] = 0  # how light it is
    numbers = np.arange(LONG_WAVES)
    ranked = np.argsort(-np.abs(found) * (1 + numbers[:, None] + numbers).ravel(), kind="stable")[:WAVES]
    chosen = ranked[np.abs(found[ranked]) > FAINTEST]
    return 2 * chosen + (found[chosen] > 0)


@cache
def _cosines() -> NDArray[np.float64]:
    """(8, 16): a wave a row, of length 1."""
    numbers = np.arange(LONG_WAVES)[:, None]
    found: NDArray[np.float64] = np.cos(np.pi * (np.arange(SMALL) + 0.5) * numbers / SMALL) * (2 / SMALL) ** 0.5
    found[0] /= 2**0.5
    return found


def counted(pictures: Sequence[Pixels]) -> NDArray[np.float32]:
    """(n, f) features that need no training: in each of 4 × 4 parts how often each of 4 × 4 × 4 colours stands there, and how
    strong its edges are in each of 8 directions (Dalal & Triggs 2005), each scaled to length 1."""
    return np.stack([np.concatenate([_colours(pixels), _edges(pixels)]) for pixels in pictures])


def _parts(values: NDArray[Any]) -> list[NDArray[Any]]:
    return [part for rows in np.array_split(values, CELLS, 0) for part in np.array_split(rows, CELLS, 1)]


def _colours(pixels: Pixels) -> NDArray[np.float32]:
    names = (pixels // (256 // COLOURS)).astype(np.int64) @ np.array([COLOURS**2, COLOURS, 1])
    return _unit([np.bincount(part.ravel(), minlength=COLOURS**3) for part in _parts(names)])


def _edges(pixels: Pixels) -> NDArray[np.float32]:
    grey = pixels.astype(np.float32) @ GREY
    y, x = (np.gradient(grey, axis=axis) if grey.shape[axis] > 1 else np.zeros_like(grey) for axis in (0, 1))
    strength = np.hypot(y, x)
    way = ((np.arctan2(y, x) % np.pi) / np.pi * EDGES).astype(np.int64) % EDGES
    found = [np.bincount(of.ravel(), by.ravel(), EDGES) for of, by in zip(_parts(way), _parts(strength), strict=True)]
    return _unit(found)


def _unit(found: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    values = np.sqrt(np.concatenate(found).astype(np.float32))
    return (values / (np.linalg.norm(values) or 1.0)).astype(np.float32)


def counting() -> Callable[..., Any]:
    """From pictures, or from values of so many pictures each, to sparse vectors (n, f) of length 1."""
    from scipy.sparse import csr_matrix  # a second to import

    def of(asked: Sequence[Pixels], each: int = 1) -> Any:
        found = counted(asked)
        return csr_matrix(found.reshape(len(found) // each, -1) / (2 * each) ** 0.5)

    return of
