"""Containers of samples that are not compressed: WAV, AIFF, AU and NIST SPHERE.

The header is read here and written anew for the decoder, so that wrong sizes in it cannot hide samples.
Sources: "Multimedia Programming Interface and Data Specifications 1.0" (WAV), EBU Tech 3306 (RF64), "Audio Interchange File
Format AIFF-C" (1991), the header of Sun's audio files, and NIST's SPHERE.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Any

from mapsto.audio.decoding.containers.extent import Extent, is_tag, require_data
from mapsto.audio.decoding.limits import require_limits
from mapsto.media.cells import Unreadable

# From this size on, a header was written before the length was known: by ffmpeg, sox and arecord into a pipe.
MIN_UNKNOWN = 0x7FFF0000

# The most chunks of a file, and bytes of a chunk of the header, that are looked at.
MAX_CHUNKS, MAX_HEADER = 10_000, 4096

# Format tags of WAV that libsndfile decodes: those without compression (PCM, float, A-law, µ-law), and ADPCM and GSM.
PLAIN_TAGS, PACKED_TAGS, EXTENSIBLE = {1, 3, 6, 7}, {2, 0x11, 0x31}, 0xFFFE

# Compression types of AIFF-C without compression, and bytes of a sample of AU by its encoding.
AIFF_TYPES = {
    b"NONE",
    b"sowt",
    b"twos",
    b"raw ",
    b"fl32",
    b"FL32",
    b"fl64",
    b"FL64",
    b"ulaw",
    b"ULAW",
    b"alaw",
    b"ALAW",
}
AU_BYTES = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}

NIST_FIELD = re.compile(rb"^(\w+) -(?:i|s\d+) (\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Chunk:
    """A chunk of a RIFF or IFF file: its name, the offset of its content and the size that it declares."""

    name: bytes
    start: int
    size: int


def plain_extent(stream: Any, size: int) -> Extent | None:
    """Return the extent of an uncompressed recording; None if the file has another container or is compressed.

    stream: the opened file. size: its bytes. Raises Unreadable if the file is cut off, holds more than it declares, or exceeds
    a limit.
    """
    head = _read(stream, 0, 12)
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:] == b"WAVE":
        return wav_extent(stream, size, PLAIN_TAGS)
    if head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
        return _aiff_extent(stream, size, head[8:])
    if head[:4] in (b".snd", b"dns."):
        return _au_extent(stream, size)
    return _nist_extent(stream, size) if head[:7] == b"NIST_1A" else None


def _read(stream: Any, start: int, size: int) -> bytes:
    """Return up to `size` bytes of a file from the offset `start` on."""
    stream.seek(start)
    content: bytes = stream.read(size)
    return content


def _chunks(stream: Any, start: int, size: int, order: str) -> list[Chunk]:
    """Return the chunks of a file from an offset to its end, or up to the first whose name is no name. order: "<" or ">"."""
    chunks: list[Chunk] = []
    while start + 8 <= size and len(chunks) < MAX_CHUNKS:
        name, length = struct.unpack(f"{order}4sI", _read(stream, start, 8))
        if not _is_name(name):
            break
        chunks.append(Chunk(name, start + 8, length))
        start += 8 + length
        # Some writers leave out the byte that pads an odd length.
        start += length % 2 and not (_is_name(_read(stream, start, 4)) and not _is_name(_read(stream, start + 1, 4)))
    return chunks


def _is_name(name: bytes) -> bool:
    """Return whether four bytes can be the name of a chunk."""
    return len(name) == 4 and all(32 <= byte < 127 for byte in name)


def _are_chunks(chunks: list[Chunk], size: int) -> bool:
    """Return whether chunks reach to the end of a file of `size` bytes, with or without a byte of padding."""
    return bool(chunks) and size - 1 <= chunks[-1].start + chunks[-1].size <= size + 1


def _name_rest(stream: Any, start: int, size: int, order: str) -> str:
    """Return what the bytes from `start` to the end of a file are, in words; "" for chunks of its format, tags or zeros."""
    if is_tag(_read(stream, start, 16)):
        return ""
    start += start % 2
    chunks = _chunks(stream, start, size, order)
    if any(chunk.name == b"data" for chunk in chunks):
        return "more samples follow in a second part"
    if chunks and chunks[0].name in (b"RIFF", b"FORM", b"RIFX", b"RF64"):
        return "a second file is joined to it"
    end = chunks[-1].start + chunks[-1].size if chunks else start
    if end < size and size - end <= MAX_HEADER and not any(_read(stream, end, MAX_HEADER)):
        return ""
    return "" if _are_chunks(chunks, size) else "the other bytes are no part of a header"


def wav_extent(stream: Any, size: int, tags: set[int]) -> Extent | None:
    """Return the extent of a WAV file whose format tag is in `tags`; None for another tag.

    A length of 0, or one that a program wrote before it was known, means that the samples run to the end of the file.
    Raises Unreadable as `plain_extent`.
    """
    order = ">" if _read(stream, 0, 4) == b"RIFX" else "<"
    chunks = _chunks(stream, 12, size, order)
    data = next((chunk for chunk in chunks if chunk.name == b"data"), None)
    form = next((chunk for chunk in chunks if chunk.name == b"fmt "), None)
    if form is None or form.size < 16:
        raise Unreadable("the sound is damaged: it has no header that describes its samples")
    fields = _read(stream, form.start, min(form.size, MAX_HEADER))
    if len(fields) < 16:
        raise Unreadable("it is cut off within its header")
    tag, channels, rate, byte_rate, block, _ = struct.unpack(f"{order}HHIIHH", fields[:16])
    if tag == EXTENSIBLE and len(fields) >= 26:
        (tag,) = struct.unpack(f"{order}H", fields[24:26])
    require_limits(rate, channels)
    if tag not in tags:
        return None
    if data is None or data.start >= size:
        raise Unreadable("it holds no samples")
    # Compressed samples have about four bits.
    byte_rate = rate * block if tag in PLAIN_TAGS else byte_rate or rate * channels // 2
    if not byte_rate:
        raise Unreadable("the sound is damaged: its header states no bytes a sample")
    length = _wav_length(stream, size, chunks, byte_rate, order)
    fact = b"".join(_read(stream, c.start - 8, 12) for c in chunks if c.name == b"fact" and c.start < data.start)
    body = b"WAVE" + struct.pack(f"{order}4sI", b"fmt ", len(fields)) + fields + bytes(len(fields) % 2) + fact
    body += struct.pack(f"{order}4sI", b"data", length)
    prefix = struct.pack(f"{order}4sI", b"RIFX" if order == ">" else b"RIFF", len(body) + length) + body
    seconds = length // block / rate if tag in PLAIN_TAGS and block else None
    return Extent(data.start, data.start + length, prefix, seconds, 1 / rate)


def _wav_length(stream: Any, size: int, chunks: list[Chunk], byte_rate: int, order: str) -> int:
    """Return the number of bytes of a WAV file's samples. Raises Unreadable as `plain_extent`.

    byte_rate: bytes a second. order: "<" or ">".
    """
    data = next(chunk for chunk in chunks if chunk.name == b"data")
    declared, available = data.size, size - data.start
    sizes = next((chunk for chunk in chunks if chunk.name == b"ds64" and chunk.size >= 16), None)
    if declared == 0xFFFFFFFF and sizes is not None:
        (declared,) = struct.unpack("<Q", _read(stream, sizes.start + 8, 8))
    is_unknown = declared >= MIN_UNKNOWN and declared > available
    if is_unknown or (not declared and not _are_chunks(_chunks(stream, data.start, size, order), size)):
        return available

    def check_rest() -> str:
        return _name_rest(stream, data.start + declared, size, order)

    return require_data(declared, available, lambda count: count / byte_rate, check_rest)


def _aiff_extent(stream: Any, size: int, form: bytes) -> Extent | None:
    """Return the extent of an AIFF file; None if it is compressed. form: b"AIFF" or b"AIFC". Raises Unreadable as above."""
    chunks = _chunks(stream, 12, size, ">")
    common = next((chunk for chunk in chunks if chunk.name == b"COMM" and chunk.size >= 18), None)
    sound = next((chunk for chunk in chunks if chunk.name == b"SSND"), None)
    if common is None:
        raise Unreadable("the sound is damaged: it has no header that describes its samples")
    fields = _read(stream, common.start, min(common.size, MAX_HEADER))
    if len(fields) < 18:
        raise Unreadable("it is cut off within its header")
    channels, frames, bits, exponent, mantissa = struct.unpack(">HIHHQ", fields[:18])
    # The rate is a number of 80 bits: 15 of an exponent, 64 of a mantissa.
    shift = 16383 + 63 - exponent
    rate = mantissa >> shift if 0 <= shift < 64 else 0
    require_limits(rate, channels)
    if form == b"AIFC" and fields[18:22] not in AIFF_TYPES:
        return None
    if sound is None or sound.start + 8 >= size:
        raise Unreadable("it holds no samples")
    (offset,) = struct.unpack(">I", _read(stream, sound.start, 4))
    start, frame_bytes = sound.start + 8 + offset, channels * -(-bits // 8)
    available = max(0, size - start)
    if not frame_bytes:
        raise Unreadable("the sound is damaged: its header states no bits a sample")
    length = available
    if frames and sound.size and sound.size < MIN_UNKNOWN and frames < MIN_UNKNOWN:

        def check_rest() -> str:
            return _name_rest(stream, start + frames * frame_bytes, size, ">")

        length = require_data(frames * frame_bytes, available, lambda count: count / frame_bytes / rate, check_rest)
    frames = length // frame_bytes
    fields = fields[:2] + struct.pack(">I", frames) + fields[6:]
    body = form + struct.pack(">4sI", b"COMM", len(fields)) + fields + bytes(len(fields) % 2)
    body += struct.pack(">4sIII", b"SSND", length + 8, 0, 0)
    prefix = struct.pack(">4sI", b"FORM", len(body) + length) + body
    return Extent(start, start + length, prefix, frames / rate, 1 / rate)


def _au_extent(stream: Any, size: int) -> Extent | None:
    """Return the extent of an AU file; None if it is compressed. Raises Unreadable as `plain_extent`."""
    head = _read(stream, 0, 24)
    if len(head) < 24:
        raise Unreadable("it is cut off within its header")
    order = ">" if head[:4] == b".snd" else "<"
    start, declared, encoding, rate, channels = struct.unpack(f"{order}5I", head[4:])
    require_limits(rate, channels)
    if encoding not in AU_BYTES:
        return None
    frame_bytes, available = channels * AU_BYTES[encoding], size - start
    if start < 24 or available <= 0:
        raise Unreadable("it holds no samples")
    length = available
    if declared and not (declared >= MIN_UNKNOWN and declared > available):
        length = require_data(
            declared,
            available,
            lambda count: count / frame_bytes / rate,
            lambda: "the other bytes are no part of a header",
        )
    prefix = head[:4] + struct.pack(f"{order}5I", 24, length, encoding, rate, channels)
    return Extent(start, start + length, prefix, length // frame_bytes / rate, 1 / rate)


def _nist_extent(stream: Any, size: int) -> Extent | None:
    """Return the extent of a NIST SPHERE file (as TIMIT has them, named .wav); None if it is compressed by shorten."""
    head = _read(stream, 0, MAX_HEADER)
    words = head.split(None, 2)
    if len(words) < 2 or not words[1].isdigit():
        raise Unreadable("the sound is damaged: it has no header that describes its samples")
    start = int(words[1])
    fields = dict(NIST_FIELD.findall(head[:start]))
    if b"shorten" in fields.get(b"sample_coding", b""):
        raise Unreadable("it is compressed by shorten, which is not read: convert it with NIST's w_decode")
    try:
        frames, rate, channels, width = (
            int(fields.get(name, b"1" if name == b"channel_count" else b"0"))
            for name in (b"sample_count", b"sample_rate", b"channel_count", b"sample_n_bytes")
        )
    except ValueError as error:
        raise Unreadable("the sound is damaged: its header states no numbers") from error
    require_limits(rate, channels)
    if not frames or not width or start >= size:
        raise Unreadable("it holds no samples")
    frame_bytes = width * channels

    def check_rest() -> str:
        return "the other bytes are no part of a header"

    length = require_data(frames * frame_bytes, size - start, lambda count: count / frame_bytes / rate, check_rest)
    return Extent(0, start + length, b"", length // frame_bytes / rate, 1 / rate)
