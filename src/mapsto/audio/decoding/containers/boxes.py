"""Containers of sized parts that FFmpeg reads: whether all of a file is there, and whether it holds one recording.

Sources: ISO 14496-12 (MP4), RFC 9559 (Matroska), Apple's Core Audio Format specification, the Advanced Systems Format
specification 01.20.06, Sony's Wave64, and the RIFF and IFF families.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mapsto.audio.decoding.containers.extent import TOLERATED_BYTES, Content, find_matches
from mapsto.audio.decoding.containers.plain import MIN_UNKNOWN

# The most parts of a file that are looked at.
MAX_PARTS = 100_000

EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
MAX_MATROSKA_HEADER = 4 + 60 + len(b"matroska")
MATROSKA_HEADER = re.compile(rb"\x1a\x45\xdf\xa3.{1,60}?(?:webm|matroska)", re.DOTALL)
ASF_HEADER = b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"


@dataclass(frozen=True)
class Part:
    """A part of a file: its name, and the offsets where it begins and ends; None where the file does not state its end."""

    name: bytes
    start: int
    stop: int | None


Parts = Callable[[Content], Iterator[Part]]


@dataclass(frozen=True)
class Damage:
    """Damage of a file: the bytes that its parts declare, which are more than it has; or the offset of a second file in it."""

    declared: int = 0
    second: int = 0


def find_damage(content: Content) -> Damage | None:
    """Return how a file of a container of sized parts is cut off, or where a second file is joined to it; None if it is whole.

    Files of other containers are whole.
    """
    if (rule := _rule(content)) is None:
        return None
    parts, first = rule
    for count, part in enumerate(parts(content)):
        if count and part.name == first:
            return Damage(second=part.start)
        if part.stop is None or count > MAX_PARTS:
            return None
        if part.stop > len(content) + TOLERATED_BYTES:
            return Damage(declared=part.stop)
    return None


def _rule(content: Content) -> tuple[Parts, bytes] | None:
    """Return how the parts of a file are read, and the name of the part that begins a recording; None without sized parts."""
    head = content[:16]
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide"):
        return _boxes, b"ftyp"
    if head[:4] == EBML:
        return _elements, EBML
    if head[:4] == b"caff":
        return _caf_chunks, b"caff"
    if head[:8] == ASF_HEADER or head[:4] == b"riff":
        return _guid_objects, head[:8]
    if head[:4] in (b"RIFF", b"FORM"):
        return _riff_chunks, head[:4] + head[8:12]
    return (_amr_files, b"#!AMR") if head[:5] == b"#!AMR" else None


def _amr_files(content: Content) -> Iterator[Part]:
    """Yield the files of AMR that follow each other."""
    position = 0
    while position < len(content):
        start, position = position, content.find(b"#!AMR", position + 5)
        position = position if position >= 0 else len(content)
        yield Part(b"#!AMR", start, position)


def _boxes(content: Content) -> Iterator[Part]:
    """Yield the boxes of an MP4 file."""
    position = 0
    while len(head := content[position : position + 16]) >= 8:
        size, name = struct.unpack(">I4s", head[:8])
        if size == 1 and len(head) == 16:
            (size,) = struct.unpack(">Q", head[8:])
        # A size of 0 is that of a box up to the end of the file.
        start, position = position, position + size if size >= 8 else len(content)
        yield Part(name, start, position)


def _elements(content: Content) -> Iterator[Part]:
    """Yield the elements of a Matroska file; after a segment of unknown size, a second header if there is one."""
    position = 0
    while len(head := content[position : position + 12]) == 12:
        # The leading zero bits of the first byte of the size are the number of bytes behind it.
        width = 9 - head[4].bit_length()
        if head[:4] not in (EBML, SEGMENT) or width > 8:
            return
        size = int.from_bytes(head[4 : 4 + width], "big") & (1 << 7 * width) - 1
        if size == (1 << 7 * width) - 1:
            second = next(find_matches(content, MATROSKA_HEADER, MAX_MATROSKA_HEADER, position + 4), None)
            if second is None:
                return
            position = second
            continue
        start, position = position, position + 4 + width + size
        yield Part(head[:4], start, position)


def _caf_chunks(content: Content) -> Iterator[Part]:
    """Yield the chunks of a CAF file. A size of -1 is that of samples up to the end of the file."""
    position = 8
    while len(head := content[position : position + 12]) == 12:
        name, size = struct.unpack(">4sq", head)
        if name == b"caff":
            yield Part(name, position, None)
            return
        start, position = position, position + 12 + size if size >= 0 else len(content)
        yield Part(name, start, position)


def _guid_objects(content: Content) -> Iterator[Part]:
    """Yield the outer objects of an ASF or Wave64 file, named by eight bytes. A broadcast states no size of its data."""
    position = 0
    while len(head := content[position : position + 24]) == 24:
        (size,) = struct.unpack("<Q", head[16:])
        start, position = position, position + size
        yield Part(head[:8], start, position if size >= 24 else None)
        if size < 24:
            return


def _riff_chunks(content: Content) -> Iterator[Part]:
    """Yield the outer chunks of a RIFF file (AVI) or an IFF file (compressed AIFF)."""
    order, position = "<" if content[:4] == b"RIFF" else ">", 0
    while len(head := content[position : position + 12]) == 12 and head[:4] in (b"RIFF", b"FORM"):
        (size,) = struct.unpack(f"{order}I", head[4:8])
        start, position = position, position + 8 + size + size % 2
        is_stated = 0 < size < MIN_UNKNOWN
        yield Part(head[:4] + head[8:], start, position if is_stated else None)
        if not is_stated:
            return
