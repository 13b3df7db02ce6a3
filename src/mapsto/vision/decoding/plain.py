"""Pictures without their metadata: what is needed to decode the pixels, the size and the orientation.

Pillow reads all metadata when it opens a file: damaged ones cost the picture, and hostile ones take time and memory. So they
are cut out before, of each format that is read. This costs a scan of the headers, a few microseconds.
"""

from __future__ import annotations

import itertools
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mapsto.media.cells import Unreadable
from mapsto.vision.decoding import budget
from mapsto.vision.decoding.orientation import EXIF_HEADER, exif_orientation, xmp_orientation
from mapsto.vision.decoding.tiff import TIFF_HEADERS, plain_tiff

# The most segments, chunks or blocks of a file; reading more of them takes seconds.
MAX_PARTS = 200_000

# JPEG: markers without a segment, the start of a scan, frames, and those frames whose coefficients come in many scans.
ALONE, START_OF_SCAN = {0x00, 0x01, *range(0xD0, 0xD9), 0xFF}, 0xDA
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
PROGRESSIVE, ARITHMETIC = {0xC2, 0xC6, 0xCA, 0xCE}, {*range(0xC9, 0xD0)}
APP0, APP1, APP14, COMMENT = 0xE0, 0xE1, 0xEE, 0xFE
XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\0"
# Any marker but restarts and stuffed bytes; it cannot be within the coefficients.
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")

PNG_HEADER = b"\x89PNG\r\n\x1a\n"
PNG_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
# EXIF data as ImageMagick writes them into PNG, and XMP's keyword there. The most bytes of such a text, unpacked.
PNG_EXIF, PNG_XMP, MAX_TEXT = b"Raw profile type exif", b"XML:com.adobe.xmp", 2**20

# WebP: chunks of pixels, and the flags of animation and alpha, which stay.
WEBP_CHUNKS, WEBP_FLAGS = {b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"}, 0x12


@dataclass(frozen=True)
class PlainPicture:
    """A picture without metadata.

    format: Pillow's name of the format. content: the file. width, height: of the stored pixels; 0 where the headers are
    damaged. orientation: the value of EXIF's tag, 1 if it has none.
    """

    format: str
    content: bytes
    width: int
    height: int
    orientation: int = 1


# Where a part of a file begins and ends.
Extent = tuple[int, int]


def plain_picture(content: bytes) -> PlainPicture:
    """Return a picture without its metadata.

    Raises Unreadable if it has none of the known formats, or if decoding it would exceed the limits of time and memory.
    """
    for header, strip in FORMATS.items():
        if content.startswith(header):
            return strip(content)
    raise Unreadable("this is no picture of a known format (JPEG, PNG, WebP, GIF, BMP, TIFF)")


def _join(content: bytes, extents: list[Extent]) -> bytes:
    """Return the parts of a file, one behind the other; the file itself if they are all of it."""
    merged: list[Extent] = []
    for start, end in extents:
        if merged and merged[-1][1] == start:
            merged[-1] = merged[-1][0], end
        else:
            merged.append((start, end))
    if merged == [(0, len(content))]:
        return content
    view = memoryview(content)
    return b"".join(view[start:end] for start, end in merged)


def _require_few(count: int, noun: str) -> None:
    """Raise Unreadable if a file has more parts than are read."""
    if count > MAX_PARTS:
        raise Unreadable(f"more than the {MAX_PARTS:,} {noun} that are read")


def _segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, start, end) of each segment of a JPEG up to the first scan; the last one is the rest of the file.

    The start is that of the marker. Bytes between segments are skipped, as decoders do.
    """
    position = 0
    for count in itertools.count():
        _require_few(count, "segments")
        start = content.find(b"\xff", position)
        marker = content[start + 1] if 0 <= start < len(content) - 1 else START_OF_SCAN
        # Of two bytes 0xFF the second one begins the next marker.
        size = 0 if marker in ALONE else int.from_bytes(content[start + 2 : start + 4])
        end = start + 1 if marker == 0xFF else start + 2 + size
        if marker == START_OF_SCAN or end > len(content) or (marker not in ALONE and size < 2):
            yield START_OF_SCAN, max(start, position), len(content)
            return
        yield marker, start, end
        position = end


def _strip_jpeg(content: bytes) -> PlainPicture:
    """Return a JPEG without comments and application data, but for those that tell how its colours are stored."""
    extents: list[Extent] = []
    frame: tuple[int, bytes] | None = None
    exif = xmp = None
    for marker, start, end in _segments(content):
        body = content[start + 4 : min(end, start + 4 + 2**16)] if marker != START_OF_SCAN else b""
        if marker == APP1 and body.startswith(EXIF_HEADER):
            exif = exif or exif_orientation(body)
        elif marker == APP1 and body.startswith(XMP_HEADER):
            xmp = xmp or xmp_orientation(body)
        is_data = APP0 <= marker <= 0xEF or marker == COMMENT
        if not is_data or (marker == APP0 and body[:4] == b"JFIF") or (marker == APP14 and body[:5] == b"Adobe"):
            extents.append((start, end))
        if marker in FRAMES and frame is None and len(body) >= 6:
            frame = marker, body
    stripped = _join(content, extents)
    if frame is None:
        return PlainPicture("JPEG", stripped, 0, 0, exif or xmp or 1)
    height, width = struct.unpack_from(">HH", frame[1], 1)
    first_scan = len(stripped) - (extents[-1][1] - extents[-1][0])
    _require_cheap_jpeg(stripped, first_scan, frame, width * height)
    return PlainPicture("JPEG", stripped, width, height, exif or xmp or 1)


def _require_cheap_jpeg(content: bytes, first_scan: int, frame: tuple[int, bytes], pixels: int) -> None:
    """Raise Unreadable if the scans of a JPEG take too much time or memory.

    content: the file without metadata. first_scan: where its first scan begins. frame: marker and content of the frame header.
    """
    marker, body = frame
    num_components = body[5]
    factors = [(sampling >> 4) * (sampling & 15) for sampling in body[7 : 6 + 3 * num_components : 3]]
    samples = pixels * sum(factors) / max(1, *factors)
    budget.require_cheap_jpeg(len(content) - first_scan)
    if marker in ARITHMETIC:
        budget.require_cheap_arithmetic(samples)
    # One scan of all components is decoded row by row, and what follows it is not read.
    if marker in PROGRESSIVE or content[first_scan + 4 : first_scan + 5] != bytes([num_components]):
        budget.require_cheap_progressive(samples, len(content) - first_scan)
        limit = budget.most_scans(samples)
        # The count of the two bytes is quick and never too low, but includes what follows the picture.
        if content.count(b"\xff\xda") > limit and _num_scans(content, first_scan, limit) > limit:
            raise Unreadable(f"more than the {limit:,} scans that are decoded of a JPEG of this size")


def _num_scans(content: bytes, position: int, limit: int) -> int:
    """Return the number of scans of a JPEG up to its end, or `limit` + 1 if there are more. position: where the first begins."""
    scans = parts = 0
    while scans <= limit and (match := MARKER.search(content, position)):
        marker = match[0][1]
        if marker == 0xD9:
            break
        scans += marker == START_OF_SCAN
        parts += 1
        _require_few(parts, "segments")
        size = 0 if marker in ALONE else int.from_bytes(content[match.end() : match.end() + 2])
        position = match.end() + size
    return scans


def _strip_png(content: bytes) -> PlainPicture:
    """Return a PNG with the chunks of its first picture alone."""
    extents, position, count = [(0, len(PNG_HEADER))], len(PNG_HEADER), 0
    orientation: int | None = None
    while position + 12 <= len(content):
        (size,), kind = struct.unpack_from(">I", content, position), content[position + 4 : position + 8]
        end = position + 12 + size
        if kind in PNG_CHUNKS or end > len(content):
            extents.append((position, min(end, len(content))))
        elif orientation is None:
            orientation = _png_orientation(kind, memoryview(content)[position + 8 : end - 4])
        count += 1
        _require_few(count, "chunks")
        position = end
        if kind == b"IEND":
            break
    width, height = struct.unpack_from(">II", content, 16) if len(content) >= 24 else (0, 0)
    return PlainPicture("PNG", _join(content, extents), width, height, orientation or 1)


def _png_orientation(kind: bytes, body: memoryview) -> int | None:
    """Return the orientation in a chunk of metadata of a PNG; None if it has none."""
    if kind == b"eXIf":
        return exif_orientation(bytes(body))
    if kind not in (b"tEXt", b"zTXt", b"iTXt"):
        return None
    keyword, _, text = bytes(body[:MAX_TEXT]).partition(b"\0")
    if keyword == PNG_XMP:
        return xmp_orientation(text)
    if keyword != PNG_EXIF:
        return None
    try:
        text = zlib.decompressobj().decompress(text[1:], MAX_TEXT) if kind == b"zTXt" else text
        # An empty line, the name, the length, then hexadecimal digits.
        return exif_orientation(bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii")))
    except (ValueError, zlib.error):
        return None


def _strip_webp(content: bytes) -> PlainPicture:
    """Return a WebP without metadata, of an animation only the first frame."""
    if content[8:12] != b"WEBP":
        raise Unreadable("this is no picture of a known format (JPEG, PNG, WebP, GIF, BMP, TIFF)")
    extents, position, count = [(0, 12)], 12, 0
    exif = xmp = size = None
    has_frame = False
    while position + 8 <= len(content):
        kind, (length,) = content[position : position + 4], struct.unpack_from("<I", content, position + 4)
        end, body = min(position + 8 + length + length % 2, len(content)), position + 8
        size = size or _webp_size(kind, content[body : body + 16])
        if kind == b"EXIF":
            exif = exif or exif_orientation(content[body:end])
        elif kind == b"XMP ":
            xmp = xmp or xmp_orientation(content[body:end])
        elif kind in WEBP_CHUNKS and not (kind == b"ANMF" and has_frame):
            extents.append((position, end))
            has_frame |= kind == b"ANMF"
        count += 1
        _require_few(count, "chunks")
        position = end
    width, height = size or (0, 0)
    if size:
        budget.require_small_webp(size[0] * size[1])
    stripped = _join(content, extents)
    if stripped is not content:
        # The header has the length of the file, and flags of what was cut out.
        edited = bytearray(stripped)
        struct.pack_into("<I", edited, 4, len(edited) - 8)
        if edited[12:16] == b"VP8X":
            edited[20] &= WEBP_FLAGS
        stripped = bytes(edited)
    return PlainPicture("WEBP", stripped, width, height, exif or xmp or 1)


def _webp_size(kind: bytes, body: bytes) -> tuple[int, int] | None:
    """Return (width, height) from the start of a chunk of WebP; None if it does not state them."""
    if kind == b"VP8X" and len(body) >= 10:
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if kind == b"VP8L" and len(body) >= 5:
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 " and len(body) >= 10:
        width, height = struct.unpack_from("<HH", body, 6)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _strip_gif(content: bytes) -> PlainPicture:
    """Return a GIF without the comments and extensions before its first picture, but for those that control how it is shown."""
    if len(content) < 13:
        return PlainPicture("GIF", content, 0, 0)
    width, height, flags = struct.unpack_from("<HHB", content, 6)
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    extents, count = [(0, position)], 0
    while content[position : position + 1] == b"!":
        end = position + 2
        while end < len(content) and content[end]:
            end += 1 + content[end]
            count += 1
            _require_few(count, "blocks")
        if content[position + 1 : position + 2] == b"\xf9":
            extents.append((position, end + 1))
        position = end + 1
        count += 1
        _require_few(count, "blocks")
    extents.append((position, len(content)))
    if content[position : position + 1] == b"," and position + 9 <= len(content):
        x, y, across, down = struct.unpack_from("<4H", content, position + 1)
        width, height = max(width, x + across), max(height, y + down)
    return PlainPicture("GIF", _join(content, extents), width, height)


def _read_bmp(content: bytes) -> PlainPicture:
    """Return a BMP, which has no metadata."""
    if len(content) < 26:
        return PlainPicture("BMP", content, 0, 0)
    (header,) = struct.unpack_from("<I", content, 14)
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", content, 18)
    compression = int.from_bytes(content[30:34], "little")
    if header > 12 and compression in (1, 2):
        budget.require_cheap_runs(abs(width * height), len(content))
    return PlainPicture("BMP", content, abs(width), abs(height))


def _strip_tiff(content: bytes) -> PlainPicture:
    """Return a TIFF with the tags of its first picture that tell how the pixels are stored."""
    return PlainPicture("TIFF", *plain_tiff(content))


# How the metadata are cut out, by the first bytes of a file.
FORMATS: dict[bytes, Callable[[bytes], PlainPicture]] = {
    b"\xff\xd8\xff": _strip_jpeg,
    PNG_HEADER: _strip_png,
    b"RIFF": _strip_webp,
    b"GIF87a": _strip_gif,
    b"GIF89a": _strip_gif,
    b"BM": _read_bmp,
    **dict.fromkeys(TIFF_HEADERS, _strip_tiff),
}
