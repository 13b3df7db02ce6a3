"""The format of a sound file by its content, and the decoder of each format.

Uncompressed samples and MP3, FLAC, Vorbis and Opus are decoded by libsndfile, all other formats by FFmpeg.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from mapsto.audio.decoding import ffmpeg, libsndfile
from mapsto.audio.decoding.containers.boxes import Damage, find_damage
from mapsto.audio.decoding.containers.extent import Content, Extent, ExtentStream, FileContent, describe_lengths
from mapsto.audio.decoding.containers.mpeg import find_frames, mpeg_extents, skip_id3
from mapsto.audio.decoding.containers.ogg import flac_extents, ogg_extents
from mapsto.audio.decoding.containers.plain import PACKED_TAGS, wav_extent
from mapsto.audio.decoding.facts import MixedPart, SoundInfo
from mapsto.audio.decoding.foreign import name_no_sound
from mapsto.audio.decoding.mixing import Samples
from mapsto.audio.decoding.resampling import join_blocks, join_recordings, resample_blocks
from mapsto.media.cells import Unreadable

FORMAT_NAMES = "WAV, FLAC, MP3, Ogg, Opus, AIFF, AU, M4A, MP4, WebM, Matroska, AAC, WMA, AMR"

# The share of the length estimated by bytes from which a declared length is that of a whole file, and not that of its rest.
MIN_DECLARED = 0.8

# The first bytes of containers that FFmpeg reads: Matroska, ASF, CAF, W64, AMR, FLV, AVI, compressed AIFF and AU, MPEG.
FFMPEG_MARKERS = (
    b"\x1aE\xdf\xa3", b"0&\xb2u", b"caff", b"riff", b"#!AM", b"FLV\x01", b"RIFF", b"FORM", b".snd", b"dns.", b"\0\0\1\xba",
)  # fmt: skip


def decode_compressed(stream: Any, max_held: int) -> tuple[Samples | None, SoundInfo]:
    """Return the samples (n,) of a file with compressed sound mixed to one channel, and its facts.

    stream: the opened file or an io.BytesIO.
    max_held: the most samples that are returned; None is returned for more, and the facts then have the parts to read again.
    Raises Unreadable if it is no sound, damaged or exceeds a limit, and any error of a decoder.
    """
    content = _content(stream)
    if name := name_no_sound(content[:512]):
        raise Unreadable(f"this is no sound but {name}")
    if (extents := _find_extents(stream, content)) is not None:
        recordings = []
        for extent in extents:
            recordings.append(libsndfile.decode_extent(stream, extent, max_held))
            part = recordings[-1][0]
            # Where one is not held, the others need not be.
            max_held = 0 if part is None else max(0, max_held - len(part))
        return join_recordings(recordings)
    # The file may grow while it is read.
    extent = Extent(0, len(content))
    if damage := find_damage(content):
        raise Unreadable(_explain_damage(stream, extent.stop, damage))
    return ffmpeg.decode_stream(ExtentStream(stream, extent), FORMAT_NAMES, max_held)


def read_again(stream: Any, parts: Sequence[MixedPart], rate: int) -> Iterator[Samples]:
    """Yield the blocks of samples (n,) of a file that was decoded before: the same samples as all at once.

    stream: the opened file or an io.BytesIO. parts: how its parts were mixed. rate: in Hz, that of the result.
    """
    content = _content(stream)
    readers: Iterable[tuple[MixedPart, Iterable[Samples]]]
    if (extents := _find_extents(stream, content)) is not None:
        pairs = zip(extents, parts, strict=True)
        readers = ((part, libsndfile.read_again(stream, extent, part)) for extent, part in pairs)
    else:
        numbered = ffmpeg.read_again(ExtentStream(stream, Extent(0, len(content))), FORMAT_NAMES, parts)
        groups = groupby(numbered, key=lambda block: block[0])
        readers = ((parts[number], (block for _, block in blocks)) for number, blocks in groups)
    yield from join_blocks(block for part, blocks in readers for block in resample_blocks(blocks, part.rate, rate))


def _explain_damage(stream: Any, size: int, damage: Damage) -> str:
    """Return the message about a file that is cut off or joined, with the lengths that its header declares and that are there.

    stream: the opened file. size: its bytes.
    """
    if damage.second:
        first, second = (
            ffmpeg.measure(ExtentStream(stream, Extent(start, stop)))[0]
            for start, stop in ((0, damage.second), (damage.second, size))
        )
        lengths = describe_lengths(first, first + second)
        return f"several recordings are joined in it: the first has {lengths}; split the file"
    present, declared = ffmpeg.measure(ExtentStream(stream, Extent(0, size)))
    share = f"{size:,} of {damage.declared:,} bytes"
    if not present:
        return f"it is cut off: {share} that its header declares are there, and its table of contents is missing"
    # Where the declared length is that of what is there, the bytes tell how long the whole is.
    estimate = present * damage.declared / size
    is_declared = declared > MIN_DECLARED * estimate
    lengths = describe_lengths(present, declared if is_declared else estimate)
    return f"it is cut off: {'' if is_declared else 'about '}{lengths} that its header declares are there ({share})"


def _content(stream: Any) -> Content:
    """Return the content of a stream: the bytes of an io.BytesIO, or those of a file as they are needed."""
    return stream.getvalue() if isinstance(stream, io.BytesIO) else FileContent(stream)


def _find_extents(stream: Any, content: Content) -> list[Extent] | None:
    """Return the extents of the recordings in a file that libsndfile decodes; None if it is for FFmpeg.

    Raises Unreadable if the file is cut off or damaged.
    """
    if content[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and content[8:12] == b"WAVE":
        extent = wav_extent(stream, len(content), PACKED_TAGS)
        return None if extent is None else [extent]
    if content[:4] == b"OggS":
        return ogg_extents(content)
    start = skip_id3(content)
    if content[start : start + 4] == b"fLaC":
        return flac_extents(content, start)
    if _is_for_ffmpeg(content[:189]) or (position := find_frames(content, start)) is None:
        return None
    return mpeg_extents(content, position)


def _is_for_ffmpeg(head: bytes) -> bool:
    """Return whether the first bytes of a file are those of a container that only FFmpeg reads, so that it is not MP3."""
    is_transport_stream = head[:1] == b"G" and head[188:] == b"G"
    return (
        is_transport_stream or head[:4] in FFMPEG_MARKERS or head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide")
    )
