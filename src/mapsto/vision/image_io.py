"""Image files: decoding to pixels, and encoding of pixels as PNG, JPEG, or SVG for HTML pages.

Legend of shapes: h rows, w columns of pixels.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mapsto.media.cells import Unreadable, require_file
from mapsto.task.source_capabilities import FAINTEST_SHADE
from mapsto.vision.decoding import budget
from mapsto.vision.decoding.orientation import FIRST_TRANSPOSED, ORIENTATION, TURNS, exif_orientation, turn
from mapsto.vision.decoding.plain import PlainPicture, plain_picture
from mapsto.vision.pixels import BACKGROUND, Pixels, load_pillow
from mapsto.vision.resize import Resizer

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")

# The largest file that is read.
MAX_BYTES = 2**28

# Pixels that are converted to RGB at once, so that no second copy of a large image is made.
BAND_PIXELS = 2**19

# The colours of boxes drawn into an image, one for each class.
BOX_COLOURS = ("#c2410c", "#0a58ca", "#15803d", "#8b2fc9", "#a16207", "#be185d", "#0e7490")

# The file names of fonts with Chinese and other non-Latin letters, as Linux, macOS and Windows install them.
FONTS = ("NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "PingFang.ttc", "msyh.ttc", "DejaVuSans.ttf")


def read_image_bytes(path: str | Path) -> bytes:
    """Return the content of a file.

    Raises OSError if it cannot be opened, and Unreadable if it is no regular file, empty or too large.
    """
    require_file(path)
    if not (size := os.stat(path).st_size):
        raise Unreadable("the file is empty")
    if size > MAX_BYTES:
        raise Unreadable(f"{size:,} bytes are more than the {MAX_BYTES:,} that are read")
    return Path(path).read_bytes()


def decode_image(content: bytes) -> Pixels:
    """Return the pixels (h, w, 3) of an encoded image, rotated as its EXIF data say.

    Of an animation only the first frame is read. Transparent pixels become white, and 16 bits a channel become 8. Of the
    metadata only the orientation is read, so damaged ones do not matter.
    Raises Unreadable if the image is damaged, of another format or too large, if it takes too much time or memory to decode, or
    if its pixels have no known range (32 bits, floats); UsageError without Pillow.
    """
    pillow = load_pillow()
    with _explaining_damage():
        picture = _sized_picture(content)
        return turn(_decode(pillow, picture), picture.orientation)


def read_frame(path: str | Path) -> tuple[int, int, int]:
    """Return (width, height, orientation) of an image file: its size as it is shown, and the value of EXIF's orientation.

    The pixels are not decoded. Raises OSError if the file cannot be opened, and Unreadable if its headers are damaged.
    """
    content = read_image_bytes(path)
    with _explaining_damage():
        picture = _sized_picture(content)
    is_transposed = picture.orientation >= FIRST_TRANSPOSED
    width, height = (picture.height, picture.width) if is_transposed else (picture.width, picture.height)
    return width, height, picture.orientation


def _decode(pillow: Any, picture: PlainPicture) -> Pixels:
    """Return the pixels (h, w, 3) of an image as they are stored. Pillow's own are freed before they are turned."""
    image = pillow.Image.open(io.BytesIO(picture.content), formats=[picture.format])
    if image.size != (picture.width, picture.height):
        raise Unreadable("the picture is damaged: its headers state different sizes")
    return _load_pixels(pillow, image)


def _sized_picture(content: bytes) -> PlainPicture:
    """Return an encoded image without its metadata.

    Raises Unreadable if its headers state no size, or if it takes too much time or memory to decode.
    """
    picture = plain_picture(content)
    if not picture.width or not picture.height:
        raise Unreadable("the picture is damaged: its headers state no size")
    budget.require_few_pixels(picture.width, picture.height)
    return picture


def is_pillow_image(value: object) -> bool:
    """Return whether a value is a Pillow image, without importing Pillow."""
    return "PIL.Image" in sys.modules and isinstance(value, sys.modules["PIL.Image"].Image)


def pillow_pixels(image: Any) -> Pixels:
    """Return the pixels (h, w, 3) of a Pillow image as 8-bit RGB, rotated as its EXIF data say.

    Raises Unreadable if the image is damaged or too large, or if its pixels have no known range (32 bits, floats).
    """
    pillow = load_pillow()
    with _explaining_damage():
        budget.require_few_pixels(*image.size)
        pixels = _load_pixels(pillow, image)
        return turn(pixels, _pillow_orientation(image))


@contextmanager
def _explaining_damage() -> Iterator[None]:
    """Raise Unreadable in place of any other error.

    Decoders raise errors of every type for damaged files, from struct.error to MemoryError, and warnings may be errors.
    """
    try:
        yield
    except Unreadable:
        raise
    except Exception as error:
        raise Unreadable(f"the picture is damaged: {str(error) or type(error).__name__}") from error


def _pillow_orientation(image: Any) -> int:
    """Return the value of EXIF's orientation of a loaded Pillow image, also where its other EXIF data are damaged."""
    try:
        orientation = image.getexif().get(ORIENTATION)
    except Exception:
        # Pillow raises errors of every type here, and needs more of the data than the orientation.
        block = image.info.get("exif")
        orientation = exif_orientation(block) if isinstance(block, bytes) else None
    return orientation if orientation in TURNS else 1


def _load_pixels(pillow: Any, image: Any) -> Pixels:
    """Return the pixels (h, w, 3) of a Pillow image as 8-bit RGB, as they are stored. Raises any error of the decoder.

    A large image is converted in bands, since each conversion makes copies.
    """
    # Pillow reads 16 bits of a PNG as 32; elsewhere 32 bits and floats have no known range.
    if image.mode in ("I", "F") and image.format != "PNG":
        raise Unreadable("nothing says which of its values is white: save it with 8 or 16 bits a channel")
    image.load()
    rows = max(1, BAND_PIXELS // max(1, image.width))
    if image.height <= rows:
        return np.array(_to_rgb(pillow, image))
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        pixels[top:bottom] = np.asarray(_to_rgb(pillow, image.crop((0, top, image.width, bottom))))
    return pixels


def _to_rgb(pillow: Any, image: Any) -> Any:
    """Return a Pillow image in 8-bit RGB, with a white background behind transparent pixels."""
    if image.mode.startswith("I"):
        # 16 bits scale to 8 by 65535 / 255 = 257.
        values = np.asarray(image, np.float64) / 257
        return pillow.Image.fromarray(values.round().astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        transparent = image.convert("RGBA")
        background = pillow.Image.new("RGBA", transparent.size, BACKGROUND)
        return pillow.Image.alpha_composite(background, transparent).convert("RGB")
    return image.convert("RGB")


def encode_png(pixels: Pixels) -> bytes:
    """Return the image (h, w, 3) encoded as PNG."""
    stream = io.BytesIO()
    load_pillow().Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def encode_animation(frames: Sequence[Pixels], milliseconds: int) -> bytes:
    """Return the frames, (h, w, 3) each, encoded as an endlessly repeated animated PNG. milliseconds: duration of a frame."""
    first, *following = map(load_pillow().Image.fromarray, frames)
    stream = io.BytesIO()
    first.save(stream, "PNG", save_all=True, append_images=following, duration=milliseconds, loop=0)
    return stream.getvalue()


def encode_jpeg(pixels: Pixels) -> bytes:
    """Return the image (h, w, 3) encoded as JPEG, which keeps HTML pages small."""
    stream = io.BytesIO()
    load_pillow().Image.fromarray(pixels).save(stream, "JPEG", quality=85)
    return stream.getvalue()


def draw_boxes(pixels: Pixels, captions: Sequence[tuple[Any, str]]) -> bytes:
    """Return the image as a PNG with a captioned box around each region. Boxes with equal captions have the same colour.

    captions: pairs of a region ((top, bottom), (left, right)) in pixels and the caption of its box.
    """
    pillow = load_pillow()
    from PIL import ImageDraw

    image = pillow.Image.fromarray(pixels)
    pen, line_width = ImageDraw.Draw(image), max(1, round(max(pixels.shape) / 300))
    numbers = {name: number for number, name in enumerate(dict.fromkeys(text for _, text in captions))}
    for ((top, bottom), (left, right)), text in captions:
        colour = BOX_COLOURS[numbers[text] % len(BOX_COLOURS)]
        pen.rectangle((left, top, right, bottom), outline=colour, width=line_width)
        font = _font(text, max(10, 5 * line_width))
        box = pen.textbbox((left, top), text, font=font)
        height = box[3] - top
        place = (left, top - height) if height <= top else (left, top)  # above the box, where there is room
        pen.rectangle(pen.textbbox(place, text, font=font), fill=colour)
        pen.text(place, text, fill="white", font=font)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def _font(text: str, height: int) -> Any:
    """Return a Pillow font for a text: an installed one if the text goes beyond ASCII, else Pillow's default.

    height: size of the font in pixels.
    """
    from PIL import ImageFont

    for name in () if text.isascii() else FONTS:
        try:
            return ImageFont.truetype(name, height)
        except OSError:
            continue
    return ImageFont.load_default(height)


def svg_shade(region: Any, shade: float) -> str:
    """Return an SVG rectangle that shades a region of an image; an empty string if the shade is too faint to see.

    region: ((top, bottom), (left, right)) in pixels. shade: strength from −1 to 1; the colour is the page's CSS variable
    `--lowers` if it is negative, else `--raises`.
    """
    if abs(shade) < FAINTEST_SHADE:
        return ""
    (top, bottom), (left, right) = region
    colour = "lowers" if shade < 0 else "raises"
    return (
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}" '
        f'shape-rendering="crispEdges" fill="rgba(var(--{colour}), {0.7 * abs(shade):.2f})"/>'
    )


def svg_image(pixels: Pixels, side: int, caption: str, shapes: Iterable[str] = ()) -> str:
    """Return an SVG of an image with shapes drawn over it.

    side: length of the longer of the image's width and height on the page, in pixels. caption: text for screen readers.
    shapes: SVG elements in the image's own pixel coordinates.
    """
    return _svg(pixels, side, caption, [_embed_image(pixels, side, ""), *shapes])


def svg_pair(pixels: Pixels, side: int, caption: str, shapes: Iterable[str]) -> tuple[str, str]:
    """Return two SVGs of an image: the image alone, and the image in grey with shapes drawn over it, such as a heat map.

    The second SVG refers to the image's bytes in the first, so that pages with many images stay small.
    side: length of the longer of the image's width and height on the page, in pixels. caption: text for screen readers.
    shapes: SVG elements in the image's own pixel coordinates.
    """
    name = f"p{hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()[:16]}"
    bare = _svg(pixels, side, caption, [_embed_image(pixels, side, f' id="{name}"')])
    # In grey, so that the colours of the picture are not taken for those of the shapes.
    grey = f'<filter id="g{name}"><feColorMatrix type="saturate" values="0"/></filter>'
    shown = f'<use href="#{name}" filter="url(#g{name})"/>'
    return bare, _svg(pixels, side, f"{caption} in grey, with what decided", [grey, shown, *shapes])


def _svg(pixels: Pixels, side: int, caption: str, elements: Iterable[str]) -> str:
    """Return an SVG that holds `elements`, in the pixel coordinates of the image.

    pixels: the image, of which only the size is used. caption: text for screen readers.
    side: length of the longer of the image's width and height on the page, in pixels.
    """
    h, w = pixels.shape[:2]
    width = round(side * w / max(h, w))
    return (
        f'<svg role="img" aria-label="{html.escape(caption)}" width="{width}" viewBox="0 0 {w} {h}">'
        f"{''.join(elements)}</svg>"
    )


def _embed_image(pixels: Pixels, side: int, attribute: str) -> str:
    """Return the SVG element that embeds an image as JPEG.

    The JPEG has up to twice the width and height that the page shows, for screens with two device pixels per page pixel.
    side: length of the longer of width and height on the page, in pixels. attribute: further attributes of the element, with a
    leading space, such as its id.
    """
    h, w = pixels.shape[:2]
    scale = min(1.0, 2 * side / max(h, w))
    resized = Resizer(1, max(1, round(max(h, w) * scale))).resize(pixels)[0]
    content = base64.b64encode(encode_jpeg(resized)).decode()
    return (
        f'<image{attribute} width="{w}" height="{h}" preserveAspectRatio="none" '
        f'href="data:image/jpeg;base64,{content}"/>'
    )
