"""Ogg (Vorbis, Opus, FLAC) and FLAC: the length of a recording by its pages or its header.

Sources: RFC 3533 (Ogg), RFC 7845 (Opus in Ogg), the Vorbis I specification, RFC 9639 (FLAC).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from mapsto.audio.decoding.containers.extent import Content, Extent, describe_lengths
from mapsto.audio.decoding.limits import require_limits
from mapsto.media.cells import Unreadable

PAGE = struct.Struct("<4sBBqIIIB")
CONTINUED, FIRST_PAGE, LAST_PAGE = 1, 2, 4

# The rate of the positions of Opus in Hz, whatever the rate of the recording was.
OPUS_RATE = 48_000

# Seconds by which a decoder's length may differ from that of the pages.
TOLERANCE = 0.05


@dataclass
class Stream:
    """A logical stream of Ogg: its codec, rate in Hz, channels, first samples to skip, and the position after its last sample."""

    codec: str
    rate: int = 0
    channels: int = 0
    skip: int = 0
    # Position of the last page, by which time the stream has ended; its sequence number; whether it is marked as the last.
    position: int = 0
    sequence: int = 0
    is_ended: bool = False
    faults: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Return the length of the stream, which is 0 without a known codec."""
        return max(0, self.position - self.skip) / self.rate if self.rate else 0.0


def read_streams(content: Content) -> tuple[list[Stream], bool]:
    """Return the logical streams of an Ogg file in their order, and whether the last page is incomplete."""
    streams: list[Stream] = []
    by_serial: dict[int, Stream] = {}
    position, size = 0, len(content)
    while position + PAGE.size <= size:
        marker, _, flags, granule, serial, sequence, _, segments = PAGE.unpack(content[position : position + PAGE.size])
        if marker != b"OggS":
            # Damaged bytes between pages are skipped, as decoders do; what they cost is noticed by sequence numbers.
            position = content.find(b"OggS", position + 1)
            if position < 0:
                break
            continue
        table = content[position + PAGE.size : position + PAGE.size + segments]
        body = position + PAGE.size + segments
        position = body + sum(table)
        if len(table) < segments or position > size:
            return streams, True
        if flags & FIRST_PAGE or serial not in by_serial:
            by_serial[serial] = _identify(content[body : body + 64])
            streams.append(by_serial[serial])
        stream = by_serial[serial]
        if not flags & FIRST_PAGE and sequence != stream.sequence + 1:
            stream.faults.append(f"page {stream.sequence + 1:,} is missing")
        # A position of -1 is that of a page on which no packet ends.
        stream.sequence, stream.position = sequence, stream.position if granule == -1 else granule
        stream.is_ended = bool(flags & LAST_PAGE)
    return streams, 0 <= position < size


def _identify(packet: bytes) -> Stream:
    """Return the stream that the first packet of an Ogg stream begins, of the codec "" if it is none that is known."""
    if packet[:7] == b"\x01vorbis" and len(packet) >= 16:
        channels, rate = struct.unpack("<BI", packet[11:16])
        return Stream("Vorbis", rate, channels)
    if packet[:8] == b"OpusHead" and len(packet) >= 12:
        return Stream("Opus", OPUS_RATE, packet[9], struct.unpack("<H", packet[10:12])[0])
    if packet[:5] == b"\x7fFLAC" and len(packet) >= 34:
        rate, channels, _ = _read_stream_info(packet[17:])
        return Stream("FLAC", rate, channels)
    return Stream("")


def ogg_extent(content: Content) -> Extent | None:
    """Return the extent of an Ogg file of one stream of Vorbis or Opus; None if FFmpeg must decode it: FLAC, Speex or a video.

    Raises Unreadable if pages are missing, if it is cut off, if several recordings are chained, or if it exceeds a limit.
    """
    streams, is_cut = read_streams(content)
    if not streams:
        raise Unreadable("it is cut off within its first page")
    if not all(stream.codec for stream in streams):
        return None
    first = streams[0]
    require_limits(first.rate, first.channels)
    if faults := [fault for stream in streams for fault in stream.faults]:
        raise Unreadable(f"the sound is damaged: {faults[0]}, {first.seconds:.2f} s by its last page")
    if len(streams) > 1:
        total = sum(stream.seconds for stream in streams)
        lengths = describe_lengths(first.seconds, total)
        raise Unreadable(f"{len(streams)} recordings are joined in it: the first has {lengths}; split the file")
    if is_cut:
        raise Unreadable(f"it is cut off within a page: {first.seconds:.2f} s are there, and its end is missing")
    if first.codec == "FLAC":
        return None
    remarks = () if first.is_ended else ("its last page is not marked as the last, so it may be cut off",)
    return Extent(0, len(content), b"", first.seconds, TOLERANCE, remarks)


def flac_extent(content: Content, start: int) -> Extent:
    """Return the extent of the FLAC file at the offset `start`. Raises Unreadable if several are joined, or for a limit."""
    info = content[start + 8 : start + 26]
    if len(info) < 18 or content[start + 4] & 127:
        raise Unreadable("it is cut off within its header")
    rate, channels, total = _read_stream_info(info)
    require_limits(rate, channels)
    seconds = total / rate if total else None
    for marker in (b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22"):
        if (second := content.find(marker, start + 8)) >= 0:
            rest = flac_extent(content, second).seconds or 0.0
            lengths = describe_lengths(seconds or 0.0, (seconds or 0.0) + rest)
            raise Unreadable(f"several recordings are joined in it: the first has {lengths}; split the file")
    return Extent(start, len(content), b"", seconds, 1 / rate)


def _read_stream_info(info: bytes) -> tuple[int, int, int]:
    """Return rate in Hz, channels and number of samples of a channel (0: unknown) from the block STREAMINFO of FLAC."""
    bits = int.from_bytes(info[10:18], "big")
    return bits >> 44, (bits >> 41 & 7) + 1, bits & (1 << 36) - 1
