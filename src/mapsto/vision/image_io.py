"""Pictures without a model: decoded, brought to a size, cut into patches and back, moved about, and counted.

A decoded picture is (h, w, 3) of bytes, red, green and blue. Legend of shapes: h rows, w columns of pixels; p side of a patch;
g × k patches.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mapsto.vision.pixels import PAPER, Pixels, Unreadable, load_pillow

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # no format of Pillow's that starts another program


MOST_PIXELS, MOST_BYTES = 64_000_000, 2**30


FRAME_COLOURS = ("#c2410c", "#0a58ca", "#15803d", "#8b2fc9", "#a16207", "#be185d", "#0e7490")


FONTS = ("NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "PingFang.ttc", "msyh.ttc", "DejaVuSans.ttf")


ORIENTATION, FIRST_ON_ITS_SIDE = 0x0112, 5  # of EXIF: what is written as rows are columns


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
