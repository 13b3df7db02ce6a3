"""The format of a sound file by its content, and the decoder of each format.

Uncompressed samples and MP3, FLAC, Vorbis and Opus are decoded by libsndfile, all other formats by FFmpeg.
"""

from __future__ import annotations

import io
import mmap
from typing import Any

from mapsto.audio.decoding import ffmpeg, libsndfile
from mapsto.audio.decoding.containers.boxes import require_whole
from mapsto.audio.decoding.containers.extent import Content, Extent
from mapsto.audio.decoding.containers.mpeg import find_frames, mpeg_extent, skip_id3
from mapsto.audio.decoding.containers.ogg import flac_extent, ogg_extent
from mapsto.audio.decoding.containers.plain import PACKED_TAGS, wav_extent
from mapsto.audio.decoding.facts import SoundInfo
from mapsto.audio.decoding.mixing import Samples
from mapsto.media.cells import Unreadable

FORMAT_NAMES = "WAV, FLAC, MP3, Ogg, Opus, AIFF, AU, M4A, MP4, WebM, Matroska, AAC, WMA, AMR"

# The first bytes of files that are no sound, and their names.
NO_SOUNDS = (
    (b"%PDF", "a PDF"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"MThd", "MIDI, which holds notes and no samples"),
    (b"version https://git-lfs", "a pointer of Git LFS: fetch the file itself with git lfs pull"),
    (b"#EXTM3U", "a playlist, which names other files"),
)

# The first bytes of containers that FFmpeg reads: Matroska, ASF, CAF, W64, AMR, FLV, AVI, compressed AIFF and AU, MPEG.
FFMPEG_MARKERS = (
    b"\x1aE\xdf\xa3", b"0&\xb2u", b"caff", b"riff", b"#!AM", b"FLV\x01", b"RIFF", b"FORM", b".snd", b"dns.", b"\0\0\1\xba",
)  # fmt: skip


def name_no_sound(head: bytes) -> str:
    """Return what the first bytes of a file show it to be, in words, if it is no sound; "" if it may be one."""
    for start, name in NO_SOUNDS:
        if head.startswith(start):
            return name
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page, such as that of an error of a download"
    if text.startswith((b"<?xml", b"<", b"{")) and _is_text(head):
        return "text in XML, HTML or JSON"
    return "text" if _is_text(head) and head[:4] not in (b"OggS", b"fLaC") else ""


def _is_text(head: bytes) -> bool:
    """Return whether the first bytes of a file are text in ASCII."""
    return bool(head) and all(byte in b"\t\r\n\f" or 32 <= byte < 127 for byte in head)


def decode_compressed(stream: Any) -> tuple[Samples, SoundInfo]:
    """Return the samples (n,) of a file with compressed sound mixed to one channel, and its facts.

    stream: the opened file or an io.BytesIO.
    Raises Unreadable if it is no sound, damaged or exceeds a limit, and any error of a decoder.
    """
    content = _map(stream)
    if name := name_no_sound(content[:512]):
        raise Unreadable(f"this is {name}, and no sound")
    extent = _find_extent(stream, content)
    if extent is None:
        require_whole(content)
        return ffmpeg.decode_stream(stream, FORMAT_NAMES)
    return libsndfile.decode_extent(stream, extent)


def _map(stream: Any) -> Content:
    """Return the content of a stream: the bytes of an io.BytesIO, the memory map of a file."""
    if isinstance(stream, io.BytesIO):
        return stream.getvalue()
    return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)


def _find_extent(stream: Any, content: Content) -> Extent | None:
    """Return the extent of a recording that libsndfile decodes; None if it is for FFmpeg.

    Raises Unreadable if the file is cut off or damaged.
    """
    if content[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and content[8:12] == b"WAVE":
        return wav_extent(stream, len(content), PACKED_TAGS)
    if content[:4] == b"OggS":
        return ogg_extent(content)
    start = skip_id3(content)
    if content[start : start + 4] == b"fLaC":
        return flac_extent(content, start)
    if _is_for_ffmpeg(content[:189]) or (position := find_frames(content, start)) is None:
        return None
    return mpeg_extent(content, position)


def _is_for_ffmpeg(head: bytes) -> bool:
    """Return whether the first bytes of a file are those of a container that only FFmpeg reads, so that it is not MP3."""
    is_transport_stream = head[:1] == b"G" and head[188:] == b"G"
    return (
        is_transport_stream or head[:4] in FFMPEG_MARKERS or head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide")
    )
