"""Sound files: decoding to samples of one channel, resampling, and encoding as WAV.

Uncompressed files are decoded here. A decoder of compressed sound is a large C program that reads files from strangers, so it
runs in a child process (decoding/sound_worker.py).
Legend of shapes: n samples, c channels.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, replace
from typing import IO, Any

import numpy as np

from mapsto.audio.decoding import limits
from mapsto.audio.decoding.containers.plain import plain_extent
from mapsto.audio.decoding.facts import MixedPart, SoundInfo
from mapsto.audio.decoding.libsndfile import INSTALL_SOUND, decode_extent, read_again
from mapsto.audio.decoding.limits import MAX_CHANNELS, MAX_SAMPLES, require_size
from mapsto.audio.decoding.mixing import Samples
from mapsto.audio.decoding.resampling import join_blocks, resample, resample_blocks
from mapsto.errors import UsageError
from mapsto.media.cells import Unreadable, require_file
from mapsto.media.decoder_process import DecoderProcess, read_into

__all__ = [
    "SOUND_SUFFIXES", "Samples", "SoundInfo", "Unreadable", "check_sound", "decode_sound", "encode_sound", "encode_wav",
    "read_blocks", "resample", "resample_blocks",
]  # fmt: skip

SOUND_SUFFIXES = (
    ".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".snd", ".sph", ".caf", ".w64",
    ".m4a", ".m4b", ".aac", ".wma", ".amr", ".mka", ".weba", ".ac3", ".tta", ".wv", ".ape", ".mp2",
)  # fmt: skip

# Seconds of time that a child process gets for each MiB of a file, beside those for every file.
SECONDS_A_MEBIBYTE = 5.0

# Seconds by which the length of joined recordings is rounded, where they are resampled.
ROUNDED = 0.01

# Container and encoding of the formats that soundfile writes.
ENCODINGS = {"flac": ("FLAC", "PCM_16"), "mp3": ("MP3", "MPEG_LAYER_III"), "opus": ("OGG", "OPUS")}

DECODER = DecoderProcess(
    "from mapsto.audio.decoding.sound_worker import serve; serve()", "sound", INSTALL_SOUND, "soundfile"
)


def decode_sound(path: str | None, content: bytes | None) -> tuple[Samples, SoundInfo]:
    """Return the samples (n,) of a recording, mixed to one channel at its own rate, and its facts. Arguments as `check_sound`."""
    samples, info = check_sound(path, content)
    if samples is None:
        samples = np.concatenate(list(read_blocks(path, content, info)))
        info = replace(info, seconds=len(samples) / info.rate)
    return samples, info


def check_sound(path: str | None, content: bytes | None) -> tuple[Samples | None, SoundInfo]:
    """Return the samples (n,) of a recording as `decode_sound`, or None if it is long; and its facts.

    path, content: the file, or its bytes if `path` is None.
    Raises OSError if the file cannot be opened, Unreadable if it is no recording that can be decoded or exceeds a limit, and
    UsageError without the package that decodes it.
    """
    if path is not None:
        require_file(path)
    with open(path, "rb") if path is not None else io.BytesIO(content or b"") as stream:
        size = stream.seek(0, io.SEEK_END)
        require_size(size)
        with _explaining_damage():
            extent = plain_extent(stream, size)
            if extent is not None:
                return decode_extent(stream, extent, limits.MAX_HELD)
    details = {"held": limits.MAX_HELD}
    return DECODER.request(path, content, details, _parse_samples, extra_seconds=_extra_seconds(size))


def read_blocks(path: str | None, content: bytes | None, info: SoundInfo) -> Iterator[Samples]:
    """Yield the samples of a long recording in blocks (n,): together the same as all at once.

    path, content: as for `check_sound`, which returned `info`. Raises OSError and Unreadable if it is not that file any more.
    """
    count = 0
    for block in _read_blocks(path, content, info):
        count += len(block)
        yield block
    if abs(count / info.rate - info.seconds) > ROUNDED:
        raise Unreadable(f"it had {info.seconds:.2f} s, and now {count / info.rate:.2f} s")


def _read_blocks(path: str | None, content: bytes | None, info: SoundInfo) -> Iterator[Samples]:
    """Yield the samples of a recording as `read_blocks`, of any length."""
    with open(path, "rb") if path is not None else io.BytesIO(content or b"") as stream:
        size = stream.seek(0, io.SEEK_END)
        with _explaining_damage():
            extent = plain_extent(stream, size)
            if extent is not None:
                yield from join_blocks(read_again(stream, extent, info.parts[0]))
                return
    details = {"parts": [astuple(part) for part in info.parts], "rate": info.rate}
    for block in DECODER.read_blocks(path, content, details, extra_seconds=_extra_seconds(size)):
        yield np.frombuffer(block, np.float32)


def _extra_seconds(size: int) -> int:
    """Return the seconds that decoding a file of `size` bytes may take beside those for every file."""
    return math.ceil(size / 2**20 * SECONDS_A_MEBIBYTE)


def _parse_samples(header: Mapping[str, Any], stream: IO[bytes]) -> tuple[Samples | None, SoundInfo]:
    """Return samples (n,) and facts from an answer. Raises EOFError, KeyError, TypeError or ValueError if it has none."""
    count, rate, channels = int(header["samples"]), int(header["rate"]), int(header["channels"])
    parts = tuple(MixedPart(*part) for part in header["parts"])
    if not (0 if parts else 1) <= count <= MAX_SAMPLES or not rate > 0 or not 0 < channels <= MAX_CHANNELS:
        raise ValueError("an answer of another size than is read")
    decoder, remarks = str(header["decoder"]), tuple(map(str, header["remarks"]))
    if parts:
        return None, SoundInfo(float(header["seconds"]), rate, channels, decoder, remarks, parts)
    samples = np.empty(count, np.float32)
    read_into(stream, samples.data.cast("B"))
    return samples, SoundInfo(count / rate, rate, channels, decoder, remarks)


@contextmanager
def _explaining_damage() -> Iterator[None]:
    """Raise Unreadable in place of any other error, since decoders raise errors of every type for damaged files."""
    try:
        yield
    except (Unreadable, UsageError):
        raise
    except Exception as error:
        raise Unreadable(f"the sound is damaged: {str(error) or type(error).__name__}") from error


def encode_sound(samples: Samples, rate: int, form: str) -> bytes:
    """Return samples (n,) encoded as a file of one channel. rate: in Hz. form: "flac", "mp3" or "opus"."""
    import soundfile

    container, encoding = ENCODINGS[form]
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=container, subtype=encoding)
    return buffer.getvalue()


def encode_wav(samples: Samples, rate: int) -> bytes:
    """Return samples (n,) encoded as a WAV file of 16-bit PCM with one channel. Samples beyond ±1 are clipped. rate: in Hz."""
    pcm: bytes = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype("<i2").tobytes()
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    body = b"WAVE" + form + struct.pack("<4sI", b"data", len(pcm)) + pcm
    return struct.pack("<4sI", b"RIFF", len(body)) + body
