"""The part of a file that holds a recording, and its length as the file states it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mapsto.media.cells import Unreadable

# The content of a file: bytes, or a FileContent. Slices of both are bytes.
Content = Any

# Bytes that are read from a file at once.
READ_BYTES = 2**20

# Missing or additional bytes that do no harm, such as those of writers that count the header too.
TOLERATED_BYTES = 64


@dataclass(frozen=True)
class Extent:
    """The bytes of a file that hold a recording, and the length that the file states.

    start, stop: the range of bytes. prefix: the header that stands before them for the decoder.
    seconds: the length by the header or the frames that are there; None if nothing states it.
    tolerance: seconds by which a decoder may differ from it, since encoders add a delay and padding.
    remarks: facts that a user should know.
    original: the extent with the header of the file, if the prefix states no length, so that all is decoded; for decoders that
        fail without one.
    """

    start: int
    stop: int
    prefix: bytes = b""
    seconds: float | None = None
    tolerance: float = 0.0
    remarks: tuple[str, ...] = ()
    original: Extent | None = None

    def compare(self, seconds: float) -> tuple[str, ...]:
        """Return remarks about a length that differs from the declared one. seconds: the length that was decoded.

        Raises Unreadable if less was decoded than the file states, or more where that cannot be.
        """
        if self.seconds is None or abs(seconds - self.seconds) <= self.tolerance:
            return ()
        if self.original is not None and seconds > self.seconds:
            return (describe_more(self.seconds, seconds),)
        lengths = describe_lengths(seconds, self.seconds)
        raise Unreadable(f"the sound is damaged: {lengths} that the file holds could be decoded")


class FileContent:
    """The bytes of an opened file, read as they are needed: a memory map of a long recording would count as memory.

    The end is that of the file when it is opened here, even if it grows.
    """

    def __init__(self, stream: Any) -> None:
        self.stream, self.size = stream, int(stream.seek(0, io.SEEK_END))
        # The bytes that were read last, and their place.
        self.start, self.bytes = 0, b""

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, place: Any) -> Any:
        if not isinstance(place, slice):
            return self[place : place + 1][0]
        start, stop, _ = place.indices(self.size)
        if not self.start <= start <= stop <= self.start + len(self.bytes):
            self._read(start, stop - start)
        return self.bytes[start - self.start : max(start, stop) - self.start]

    def find(self, part: bytes, start: int = 0, stop: int | None = None) -> int:
        """Return the first place from `start` on at which the bytes `part` stand whole before `stop`; -1 if there is none."""
        stop = self.size if stop is None else min(stop, self.size)
        while start + len(part) <= stop:
            if not self.start <= start <= start + len(part) <= self.start + len(self.bytes):
                self._read(start, len(part))
            place = self.bytes.find(part, start - self.start, stop - self.start)
            if place >= 0:
                return self.start + place
            # The part may begin in these bytes and end in the next ones.
            start = max(start + 1, self.start + len(self.bytes) - len(part) + 1)
        return -1

    def _read(self, start: int, size: int) -> None:
        """Read `size` bytes from `start` on, and those behind them."""
        self.stream.seek(start)
        self.start, self.bytes = start, self.stream.read(min(max(size, READ_BYTES), self.size - start))


def find_matches(content: Content, pattern: re.Pattern[bytes], longest: int, start: int = 0) -> Iterator[int]:
    """Yield the places from `start` on at which a pattern matches. longest: the most bytes of a match."""
    for begin in range(start, len(content), READ_BYTES):
        for match in pattern.finditer(content[begin : begin + READ_BYTES + longest - 1]):
            if match.start() < READ_BYTES:
                yield begin + match.start()


class ExtentStream(io.RawIOBase):
    """A read-only stream over the prefix and the bytes of an extent. stream: the opened file."""

    def __init__(self, stream: Any, extent: Extent) -> None:
        super().__init__()
        self.stream, self.extent, self.position = stream, extent, 0
        self.size = len(extent.prefix) + extent.stop - extent.start

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        self.position = max(0, origin + offset)
        return self.position

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with the bytes at the position of the stream, and return their number."""
        target = memoryview(buffer).cast("B")
        prefix = self.extent.prefix
        part = prefix[self.position : self.position + len(target)]
        if not part:
            offset = self.extent.start + self.position - len(prefix)
            self.stream.seek(offset)
            part = self.stream.read(max(0, min(len(target), self.extent.stop - offset)))
        target[: len(part)] = part
        self.position += len(part)
        return len(part)


def describe_lengths(actual: float, declared: float) -> str:
    """Return "1.00 of 2.00 s", with as many decimals as tell the two lengths in seconds apart."""
    decimals = next((digits for digits in (2, 3, 4) if f"{actual:.{digits}f}" != f"{declared:.{digits}f}"), 6)
    return f"{actual:.{decimals}f} of {declared:.{decimals}f} s"


def describe_more(declared: float, actual: float) -> str:
    """Return the remark about a recording that is longer than declared. Both in seconds."""
    return f"its header declares {describe_lengths(declared, actual)} that are there; all are read"


def is_tag(head: bytes) -> bool:
    """Return whether bytes behind samples begin a tag, or are zeros: ID3v2, ID3v1, APE, Lyrics3."""
    return head.startswith((b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN")) or not any(head[:8])


def require_data(
    declared: int, available: int, seconds: Callable[[int], float], check_rest: Callable[[], str] | None = None
) -> int:
    """Return the number of bytes of samples in a file, compared with the number that its header declares.

    declared: bytes by the header. available: bytes that the file has from the first sample on. seconds: length of a number of
    bytes. check_rest: returns what the bytes behind the samples are, in words, or "" if they belong to the format.
    Raises Unreadable, with both lengths, if the file is cut off, or if more follows than its header declares.
    """
    if declared > available + TOLERATED_BYTES:
        raise Unreadable(
            f"it is cut off: {describe_lengths(seconds(available), seconds(declared))} that its header declares are there"
        )
    if available > declared + TOLERATED_BYTES and check_rest is not None and (rest := check_rest()):
        raise Unreadable(
            f"its header declares less than the file holds: {describe_lengths(seconds(declared), seconds(available))}"
            f" are declared, and {rest}"
        )
    return min(declared, available)
