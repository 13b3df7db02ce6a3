"""Sounds that are read while they are recorded: a WAV file that grows, or the bytes of WAV that a pipe delivers.

A pipe ends with its end. A file ends where its header says so and nothing more comes for two seconds; with a header whose length
was never completed, as of a recorder that still runs, only `stop` ends it.
Legend of shapes: n samples, c channels.
"""

from __future__ import annotations

import io
import math
import struct
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mapsto.audio.decoding.containers.plain import EXTENSIBLE, MIN_UNKNOWN, PLAIN_TAGS
from mapsto.audio.decoding.facts import MixedPart, SoundInfo
from mapsto.audio.decoding.libsndfile import load_soundfile
from mapsto.audio.decoding.limits import require_limits
from mapsto.audio.decoding.mixing import Mixer, Samples, mix_again
from mapsto.audio.decoding.resampling import resample_blocks
from mapsto.audio.sound_value import Sound, read_sound
from mapsto.errors import BadCell, DataError
from mapsto.media.cells import Unreadable
from mapsto.task.source_capabilities import LiveValue

# Bytes that are read at once, and of the longest header.
READ_BYTES, HEADER_BYTES = 2**16, 2**16

# Seconds between two looks at a file whose end was reached, and those after which a complete file has ended.
POLL_SECONDS, GROWTH_SECONDS = 0.2, 2.0

# What WAV begins with.
RIFF_NAMES = (b"RIFF", b"RIFX", b"RF64")

CONVERT = "other formats become WAV by `ffmpeg -i FILE -f wav -`"


@dataclass(frozen=True)
class WavHeader:
    """The header of WAV: the content of its chunk `fmt `, the offset of the first sample, and the bytes of samples it declares.

    declared: None for a length that was not known when the header was written. order: "<" or ">".
    """

    form: bytes
    start: int
    declared: int | None
    order: str = "<"

    @classmethod
    def raw(cls, rate: int) -> WavHeader:
        """Return the header of samples of 16 bits of one channel. rate: in Hz."""
        return cls(struct.pack("<HHIIHH", 1, 1, rate, 2 * rate, 2, 16), 0, None)

    @property
    def fields(self) -> tuple[int, int, int, int]:
        """Return the format tag, the number of channels, the rate in Hz, and the bytes of a sample of all channels."""
        tag, channels, rate, _, block = struct.unpack(f"{self.order}HHIIH", self.form[:14])
        if tag == EXTENSIBLE and len(self.form) >= 26:
            (tag,) = struct.unpack(f"{self.order}H", self.form[24:26])
        return tag, channels, rate, block

    def wrap(self, content: bytes) -> bytes:
        """Return samples as a WAV file."""
        body = b"WAVE" + struct.pack(f"{self.order}4sI", b"fmt ", len(self.form)) + self.form
        body += struct.pack(f"{self.order}4sI", b"data", len(content)) + content
        return struct.pack(f"{self.order}4sI", b"RIFF" if self.order == "<" else b"RIFX", len(body)) + body


def parse_wav_header(head: bytes) -> WavHeader | None:
    """Return the header at the beginning of a WAV file; None if it is not complete yet. Raises Unreadable if it is none."""
    if len(head) < 12:
        return None
    if head[:4] not in RIFF_NAMES or head[8:12] != b"WAVE":
        raise Unreadable(
            f"it is no WAV, which begins with RIFF; samples of 16 bits without a header need --raw, {CONVERT}"
        )
    order, start, form = ">" if head[:4] == b"RIFX" else "<", 12, b""
    while len(head) >= start + 8:
        name, size = struct.unpack(f"{order}4sI", head[start : start + 8])
        start += 8
        if name == b"data":
            if len(form) < 16:
                raise Unreadable("it has no header that describes its samples")
            return WavHeader(form, start, size if 0 < size < MIN_UNKNOWN else None, order)
        form = head[start : start + size] if name == b"fmt " else form
        start += size + size % 2
    return None


class LiveSound(LiveValue):
    """A sound that is read while it is recorded.

    stream: yields its bytes. name: what messages call it.
    raw: the rate in Hz of samples without a header, in 16 bits (little-endian) of one channel; None for WAV.
    follows: whether more is waited for at the end of the stream: a file, which may grow.
    """

    # Its length is not known.
    info = SoundInfo(math.inf, 0, 1, "none (read while it is recorded)")

    def __init__(self, stream: Any, name: str, raw: int | None = None, follows: bool = False) -> None:
        self.stream, self.name, self.raw, self.follows = stream, name, raw, follows
        self.is_stopped = self.is_reading = False

    @classmethod
    def open(cls, path: Path | None, raw: int | None = None) -> LiveSound | Sound:
        """Return the sound of standard input (None), of a named pipe or a file: a Sound, if this is no WAV and has no `raw`.

        Raises DataError if it cannot be opened or decoded.
        """
        if path is None:
            return cls(sys.stdin.buffer, "standard input", raw)
        try:
            stream = path.open("rb")
            if raw is not None or not path.is_file() or stream.read(4) in (b"", *RIFF_NAMES):
                if path.is_file():
                    stream.seek(0)
                return cls(stream, str(path), raw, path.is_file())
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}") from error
        stream.close()
        try:
            return read_sound(path)
        except BadCell as error:
            raise DataError(f"{path}: {error}") from error

    def stop(self) -> None:
        """End the sound with what was read of it. Raises InterruptedError, for the reader alone, where it waits for more."""
        self.is_stopped = True
        if self.is_reading:
            raise InterruptedError

    def blocks(self, rate: int) -> Iterator[Samples]:
        """Yield the samples (n,) at `rate` Hz in blocks, mixed to one channel, as they come.

        Raises DataError if the stream is no WAV, or its samples are damaged.
        """
        try:
            header, rest = (WavHeader.raw(self.raw), b"") if self.raw is not None else self._read_header()
            tag, channels, own_rate, block = header.fields
            require_limits(own_rate, channels)
            if tag not in PLAIN_TAGS or not block:
                raise Unreadable(f"its samples are compressed, which is not read while they come; {CONVERT}")
            yield from resample_blocks(_mix(header, self._read(header, rest)), own_rate, rate)
        except (Unreadable, OSError) as error:
            raise DataError(f"{self.name}: {error}") from error

    def _read_some(self) -> bytes:
        """Return the next bytes; b"" where there are none yet, or at the end of a pipe."""
        # Of a pipe, what it holds is returned at once.
        try:
            self.is_reading = True
            content: bytes = getattr(self.stream, "read1", self.stream.read)(READ_BYTES)
        except InterruptedError:
            return b""
        finally:
            self.is_reading = False
        return content

    def _read_header(self) -> tuple[WavHeader, bytes]:
        """Return the header, and the bytes behind it that were read too. Raises Unreadable if there is none."""
        head = b""
        while (header := parse_wav_header(head)) is None:
            part = self._read_some()
            if not part and (self.is_stopped or not self.follows):
                raise Unreadable("it ended within its header" if head else "it is empty")
            if len(head) > HEADER_BYTES:
                raise Unreadable("it has no header that describes its samples")
            if not part:
                time.sleep(POLL_SECONDS)
            head += part
        return header, head[header.start :]

    def _read(self, header: WavHeader, rest: bytes) -> Iterator[bytes]:
        """Yield the bytes of whole samples of all channels as they come. rest: the first bytes."""
        block, count, since = header.fields[-1], 0, time.monotonic()
        while True:
            if not self.follows and header.declared is not None:
                # What a pipe delivers behind the samples is no sound.
                rest = rest[: header.declared - count]
            if size := len(rest) // block * block:
                yield rest[:size]
                count, rest = count + size, rest[size:]
            is_complete = header.declared is not None and count + len(rest) >= header.declared
            if self.is_stopped or (is_complete and not self.follows):
                return
            part = self._read_some()
            if part:
                since = time.monotonic()
            elif not self.follows or (is_complete and time.monotonic() - since > GROWTH_SECONDS):
                return
            else:
                time.sleep(POLL_SECONDS)
            rest += part


def _mix(header: WavHeader, contents: Iterable[bytes]) -> Iterator[Samples]:
    """Yield the samples (n,) of bytes of samples of all channels: the mean of the channels that were not silent so far."""
    _, channels, rate, _ = header.fields
    mixer, soundfile = Mixer(channels), load_soundfile()
    for content in contents:
        block, _ = soundfile.read(io.BytesIO(header.wrap(content)), dtype="float32", always_2d=True)
        mixer.drop()
        mixer.add(block)
        mixture = mixer.finish()
        yield mix_again(block, MixedPart(rate, mixture.channel, mixture.num_active))
