"""MP3: the frames that are in a file, and their number by its Xing, Info or VBRI header.

Sources: ISO 11172-3 and 13818-3 (frame header), Gabriel Bouvigne's "MP3 Info Tag rev 1" (Xing and LAME), ID3v2.4.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from mapsto.audio.decoding.containers.extent import Content, Extent, describe_lengths, describe_more, is_tag
from mapsto.audio.decoding.limits import require_limits
from mapsto.media.cells import Unreadable

# Kilobits a second by index, for MPEG 1 of layers I, II, III, and for MPEG 2 of layer I and of layers II and III.
BIT_RATES = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
# Hz by the version's two bits (3: MPEG 1, 2: MPEG 2, 0: MPEG 2.5) and the index.
RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}

# Frames that must follow each other for bytes to be MP3, and how far from the start they may begin.
MIN_FRAMES, MAX_LEAD = 3, 2**20

# Frames by which a decoder's length may differ, since encoders add a delay and padding.
TOLERATED_FRAMES = 4


@dataclass(frozen=True)
class Frame:
    """The header of a frame: its bytes, samples of a channel, rate in Hz, channels, and what all frames of a file share."""

    size: int
    samples: int
    rate: int
    channels: int
    version: int
    layer: int

    def is_like(self, frame: Frame) -> bool:
        """Return whether a frame can be of the same file."""
        return (self.version, self.layer, self.rate, self.channels) == (
            frame.version, frame.layer, frame.rate, frame.channels,
        )  # fmt: skip


def read_frame(content: Content, start: int) -> Frame | None:
    """Return the header of the MPEG frame at an offset; None if there is none, or if its size is not stated (free format)."""
    head = content[start : start + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    bits, rate_index = head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer == 4 or bits in (0, 15) or rate_index == 3:
        return None
    rate, padding = RATES[version][rate_index], head[2] >> 1 & 1
    bit_rate = 1000 * BIT_RATES[1 if version == 3 else 2, layer][bits - 1]
    samples = 384 if layer == 1 else 576 if layer == 3 and version != 3 else 1152
    size = 4 * (12 * bit_rate // rate + padding) if layer == 1 else samples // 8 * bit_rate // rate + padding
    return Frame(size, samples, rate, 1 if head[3] >> 6 == 3 else 2, version, layer)


def skip_id3(content: Content, start: int = 0) -> int:
    """Return the offset behind the ID3v2 tags at an offset."""
    while content[start : start + 3] == b"ID3" and len(size := content[start + 6 : start + 10]) == 4:
        # Four bytes of seven bits each, and ten of the header, as many again for a footer.
        length = sum((byte & 127) << 7 * (3 - index) for index, byte in enumerate(size))
        stop = start + 10 + length + (10 if content[start + 5] & 0x10 else 0)
        if stop >= len(content):
            return start + 10  # a wrong length: the frames are searched for
        start = stop
    return start


def find_frames(content: Content, start: int) -> int | None:
    """Return the offset of the first of several MP3 frames in sequence, near an offset; None if there are none."""
    stop = min(len(content), start + MAX_LEAD)
    position: int = start
    while (position := content.find(b"\xff", position, stop)) >= 0:
        if _count_in_sequence(content, position) or (position == start and _is_single(content, position)):
            return position
        position += 1
    return None


def _count_in_sequence(content: Content, start: int) -> bool:
    """Return whether several frames of one file follow each other from an offset."""
    first = frame = read_frame(content, start)
    for _ in range(MIN_FRAMES - 1):
        if frame is None or first is None or not frame.is_like(first):
            return False
        start += frame.size
        frame = read_frame(content, start)
    return frame is not None and first is not None and frame.is_like(first)


def _is_single(content: Content, start: int) -> bool:
    """Return whether a frame or two, and nothing else, are at an offset: a very short file."""
    while frame := read_frame(content, start):
        start += frame.size
        if start >= len(content):
            return True
    return False


@dataclass
class Run:
    """Frames of one recording: the first one, the offset behind the last, and the number of frames that hold sound.

    declared: the number of frames by the header in the first one; None without a header.
    skipped: bytes between the frames that are neither frames nor tags.
    """

    first: Frame
    start: int
    stop: int
    declared: int | None
    count: int = 0
    skipped: int = 0
    is_cut: bool = False

    @property
    def seconds(self) -> float:
        """Return the length of the frames that are there."""
        return self.count * self.first.samples / self.first.rate


def mpeg_extents(content: Content, start: int) -> list[Extent]:
    """Return the extents of the recordings whose MP3 frames follow each other from the offset `start` of the first frame on.

    A file of several recordings is one that was joined from several files, or a broadcast whose rate changes.
    Raises Unreadable if frames are missing of those that a header declares, or if a recording exceeds a limit.
    """
    runs = [run for run in _read_runs(content, start) if run.count or run.declared]
    if not any(run.count for run in runs):
        raise Unreadable("it holds no samples")
    return [
        _run_extent(content, run, sum(earlier.seconds for earlier in runs[:index])) for index, run in enumerate(runs)
    ]


def _read_runs(content: Content, start: int) -> list[Run]:
    """Return the recordings of a file, which has a frame at the offset `start`."""
    runs: list[Run] = []
    position, size = start, len(content)
    while position < size:
        frame, run = read_frame(content, position), runs[-1] if runs else None
        # A header, which holds no sound, or frames of another kind begin another recording.
        header = None if frame is None else _declared_frames(content, position, frame)
        is_other = frame is not None and run is not None and not frame.is_like(run.first)
        if frame is not None and (
            run is None
            or (header is not None and position > run.start)
            or (is_other and _count_in_sequence(content, position))
        ):
            run = Run(frame, position, position, header)
            runs.append(run)
        elif frame is None or is_other:
            assert run is not None
            next_position = _skip(content, position)
            if next_position < size and not is_tag(content[position : position + 16]):
                run.skipped += next_position - position
            position = next_position
            continue
        assert run is not None
        position += frame.size
        run.is_cut = position > size
        run.count += header is None and not run.is_cut
        run.stop = min(position, size)
    return runs


def _run_extent(content: Content, run: Run, earlier: float) -> Extent:
    """Return the extent of a recording. earlier: seconds of the recordings before it, which messages count in.

    Raises Unreadable if frames are missing of those that its header declares, or if it exceeds a limit.
    """
    require_limits(run.first.rate, run.first.channels)
    start, remarks = run.start, list[str]()
    # A count of 0 was written before the length was known.
    declared = run.declared or None
    if declared is not None and declared - run.count > 1:
        lengths = describe_lengths(earlier + run.seconds, earlier + declared * run.first.samples / run.first.rate)
        raise Unreadable(f"it is cut off: {lengths} that its header declares are there")
    if declared is not None and run.count - declared > 1:
        remarks.append(describe_more(declared * run.first.samples / run.first.rate, run.seconds))
        declared = None
    if run.is_cut:
        remarks.append("its last frame is incomplete, so it may be cut off")
    if run.skipped:
        remarks.append(f"{run.skipped:,} bytes between its frames are damaged and left out")
    prefix = b""
    if declared is None and run.first.layer == 3:
        # Without a number of frames libsndfile estimates the length from the first frame, and decodes no more than that.
        start += 0 if run.declared is None else run.first.size
        prefix = _info_frame(content[run.start : run.start + 4], run.first, run.count)
    tolerance = TOLERATED_FRAMES * run.first.samples / run.first.rate
    return Extent(start, run.stop, prefix, run.seconds, tolerance, tuple(remarks))


def _info_frame(head: bytes, frame: Frame, count: int) -> bytes:
    """Return a frame without sound whose Info header declares the number of frames that follow.

    head: the four bytes of the header of a frame. frame: its meaning.
    """
    # The bit rate of index 9, at which a frame has room for the header; without a checksum behind the header.
    head = bytes([head[0], head[1] | 1, 9 << 4 | head[2] & 0x0C, head[3]])
    header = read_frame(head, 0)
    assert header is not None
    body = bytes(_side_bytes(frame)) + struct.pack(">4sII", b"Info", 1, count)
    return (head + body).ljust(header.size, b"\0")


def _skip(content: Content, start: int) -> int:
    """Return the offset where frames may go on, behind a tag or behind bytes that are no frame; the end if there is none."""
    if (stop := skip_id3(content, start)) > start:
        return stop
    if content[start : start + 8] == b"APETAGEX" and len(size := content[start + 12 : start + 16]) == 4:
        return start + 32 + int(struct.unpack("<I", size)[0])
    position: int = start + 1
    while (position := content.find(b"\xff", position)) >= 0:
        if _count_in_sequence(content, position):
            return position
        position += 1
    return len(content)


def _side_bytes(frame: Frame) -> int:
    """Return the bytes of side information behind the header of a frame of layer III, behind which a Xing header stands."""
    if frame.version == 3:
        return 17 if frame.channels == 1 else 32
    return 9 if frame.channels == 1 else 17


def _declared_frames(content: Content, start: int, frame: Frame) -> int | None:
    """Return the number of frames that a Xing, Info or VBRI header in the frame at an offset declares; None without a header."""
    side = _side_bytes(frame)
    xing = content[start + 4 + side : start + 16 + side]
    if xing[:4] in (b"Xing", b"Info") and len(xing) == 12:
        flags, count = struct.unpack(">II", xing[4:])
        return int(count) if flags & 1 else None
    vbri = content[start + 36 : start + 54]
    return int(struct.unpack(">I", vbri[14:18])[0]) if vbri[:4] == b"VBRI" and len(vbri) == 18 else None
