"""Ogg (Vorbis, Opus, FLAC) and FLAC: the length of a recording by its pages or its header.

Sources: RFC 3533 (Ogg), RFC 7845 (Opus in Ogg), the Vorbis I specification, RFC 9639 (FLAC).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field, replace
from itertools import pairwise

from mapsto.audio.decoding.containers.extent import Content, Extent, describe_lengths, find_matches
from mapsto.audio.decoding.limits import require_limits
from mapsto.media.cells import Unreadable

PAGE = struct.Struct("<4sBBqIIIB")
CONTINUED, FIRST_PAGE, LAST_PAGE = 1, 2, 4

# The most pages that hold the headers of a stream, and the most samples of a packet of Vorbis or FLAC.
HEADER_PAGES, MAX_BLOCK = 64, 8192

# The time of the first sample in seconds from which a file is a part of a longer stream.
MIN_START = 1.0

# Bytes behind the last page that do no harm, such as a tag.
TOLERATED_REST = 1024

# The bytes of a tag ID3v1, which some programs write behind any file.
ID3V1_BYTES = 128

# The beginning of a FLAC file: the marker, and the head of the block STREAMINFO of 34 bytes.
FLAC_HEADER_BYTES = 8
FLAC_HEADER = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")

# The rate of the positions of Opus in Hz, whatever the rate of the recording was.
OPUS_RATE = 48_000

# Seconds by which a decoder's length may differ from that of the pages.
TOLERANCE = 0.05


@dataclass
class Stream:
    """A logical stream of Ogg: its codec, rate in Hz, channels, first samples to skip, and the position after its last sample.

    start, stop: offsets in the file of its first page, and behind its last one.
    origin, uncertainty: the position before its first sample, which is not 0 in a part of a broadcast, and by how much that may
    be wrong.
    """

    codec: str
    rate: int = 0
    channels: int = 0
    skip: int = 0
    start: int = 0
    stop: int = 0
    origin: int | None = None
    uncertainty: int = 0
    # Position of the last page, by which time the stream has ended; its sequence number; whether it is marked as the last.
    position: int = 0
    sequence: int = 0
    is_ended: bool = False
    faults: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Return the length of the stream, which is 0 without a known codec."""
        return max(0, self.position - (self.origin or 0) - self.skip) / self.rate if self.rate else 0.0

    def add_page(self, flags: int, granule: int, sequence: int, packets: list[bytes]) -> None:
        """Add a page after the first one: its flags, position and number, and the first bytes of the packets that end on it."""
        # Of a broadcast that was joined in the middle, the headers are followed by any page.
        if sequence != self.sequence + 1 and not (self.origin is None and self.sequence < HEADER_PAGES):
            self.faults.append(f"page {self.sequence + 1:,} is missing")
        self.sequence, self.is_ended = sequence, bool(flags & LAST_PAGE)
        # A position of -1 is that of a page on which no packet ends, 0 that of a page of headers.
        if granule <= 0:
            return
        if self.origin is None:
            self.origin, self.uncertainty = self._find_origin(granule, packets)
        self.position = granule

    def _find_origin(self, granule: int, packets: list[bytes]) -> tuple[int, int]:
        """Return the position before the first sample, and by how much it may be wrong, from the first page with samples."""
        if self.codec == "Opus":
            return max(0, granule - sum(map(_opus_samples, packets))), 0
        longest = len(packets) * MAX_BLOCK
        # Near the start, the first samples are those of the stream.
        return (0, 0) if granule <= longest else (granule - longest // 2, longest // 2)


def read_streams(content: Content) -> tuple[list[Stream], int]:
    """Return the logical streams of an Ogg file in their order, and the number of bytes behind the last complete page."""
    streams: list[Stream] = []
    by_serial: dict[int, Stream] = {}
    position, size = 0, len(content)
    while 0 <= position <= size - PAGE.size:
        marker, _, flags, granule, serial, sequence, _, segments = PAGE.unpack(content[position : position + PAGE.size])
        table = content[position + PAGE.size : position + PAGE.size + segments]
        body = position + PAGE.size + segments
        stop = body + sum(table)
        if marker != b"OggS" or len(table) < segments or stop > size:
            # Damaged bytes between pages are skipped, as decoders do; what they cost is noticed by sequence numbers.
            position = content.find(b"OggS", position + 1)
            continue
        if flags & FIRST_PAGE or serial not in by_serial:
            by_serial[serial] = _identify(content[body : body + 64])
            by_serial[serial].start, by_serial[serial].sequence = position, sequence
            streams.append(by_serial[serial])
        else:
            by_serial[serial].add_page(flags, granule, sequence, _ended_packets(content, body, table))
        by_serial[serial].stop = position = stop
    return streams, size - max((stream.stop for stream in streams), default=0)


def _ended_packets(content: Content, start: int, table: bytes) -> list[bytes]:
    """Return the first two bytes of each packet that ends on a page. start: offset of its body. table: sizes of its segments."""
    packets, size = list[bytes](), 0
    for segment in table:
        size += segment
        if segment < 255:
            packets.append(content[start : start + min(size, 2)])
            start, size = start + size, 0
    return packets


def _opus_samples(packet: bytes) -> int:
    """Return the number of samples at 48 kHz of a packet of Opus by its first bytes (RFC 6716, section 3.1)."""
    if not packet:
        return 0
    mode, code = packet[0] >> 3, packet[0] & 3
    if mode < 12:
        frame = (480, 960, 1920, 2880)[mode & 3]
    else:
        frame = (480, 960)[mode & 1] if mode < 16 else (120, 240, 480, 960)[mode & 3]
    count = 1 if code == 0 else 2 if code < 3 else packet[1] & 63 if len(packet) > 1 else 0
    return frame * count


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


def ogg_extents(content: Content) -> list[Extent] | None:
    """Return the extents of the recordings of an Ogg file, which may be chained; None if FFmpeg must decode it.

    FFmpeg decodes FLAC, Speex, videos and streams side by side.
    Raises Unreadable if pages are missing, if it is cut off, or if it exceeds a limit.
    """
    streams, num_rest = read_streams(content)
    if not streams:
        raise Unreadable("it is cut off within its first page")
    if not all(stream.codec for stream in streams):
        return None
    total = sum(stream.seconds for stream in streams)
    for stream in streams:
        require_limits(stream.rate, stream.channels)
    if faults := [fault for stream in streams for fault in stream.faults]:
        raise Unreadable(f"the sound is damaged: {faults[0]} of {total:.2f} s by its last page")
    if num_rest > TOLERATED_REST or content[len(content) - num_rest :].startswith(b"OggS"):
        present = f"{total:.2f} s are there" if total else "less than a page of sound is there"
        raise Unreadable(f"it is cut off within a page or damaged: {present}, and its end is missing")
    if len(streams) > 1 and any(stream.start < previous.stop for previous, stream in pairwise(streams)):
        return None
    if any(stream.codec == "FLAC" for stream in streams):
        if len(streams) > 1:
            lengths = describe_lengths(streams[0].seconds, total)
            raise Unreadable(f"{len(streams)} recordings are joined in it: the first has {lengths}; split the file")
        return None
    return [_stream_extent(stream) for stream in streams]


def _stream_extent(stream: Stream) -> Extent:
    """Return the extent of a stream of Vorbis or Opus."""
    remarks = list[str]()
    if not stream.is_ended:
        remarks.append("its last page is not marked as the last, so it may be cut off")
    if stream.origin and stream.origin >= MIN_START * stream.rate:
        remarks.append(f"it is a part of a longer stream, from about {stream.origin / stream.rate:.1f} s on")
    tolerance = TOLERANCE + (stream.uncertainty + (stream.skip if stream.origin else 0)) / stream.rate
    return Extent(stream.start, stream.stop, b"", stream.seconds, tolerance, tuple(remarks))


def flac_extents(content: Content, start: int) -> list[Extent]:
    """Return the extents of the FLAC files that follow each other from an offset on. Raises Unreadable for a limit."""
    starts = list(find_matches(content, FLAC_HEADER, FLAC_HEADER_BYTES, start)) or [start]
    return [_flac_extent(content, begin, end) for begin, end in pairwise([*starts, len(content)])]


def _flac_extent(content: Content, start: int, stop: int) -> Extent:
    """Return the extent of the FLAC file between two offsets. Raises Unreadable for a limit."""
    info = content[start + 8 : start + 26]
    if len(info) < 18 or content[start + 4] & 127:
        raise Unreadable("it is cut off within its header")
    rate, channels, total = _read_stream_info(info)
    require_limits(rate, channels)
    if content[stop - ID3V1_BYTES : stop - ID3V1_BYTES + 3] == b"TAG":
        stop -= ID3V1_BYTES
    original = Extent(start, stop, b"", total / rate if total else None, 1 / rate)
    # Where a length is declared, libFLAC decodes no more than that.
    header = bytearray(content[start : start + 42])
    header[21] &= 0xF0
    header[22:26] = bytes(4)
    return replace(original, start=start + 42, prefix=bytes(header), original=original) if total else original


def _read_stream_info(info: bytes) -> tuple[int, int, int]:
    """Return rate in Hz, channels and number of samples of a channel (0: unknown) from the block STREAMINFO of FLAC."""
    bits = int.from_bytes(info[10:18], "big")
    return bits >> 44, (bits >> 41 & 7) + 1, bits & (1 << 36) - 1
