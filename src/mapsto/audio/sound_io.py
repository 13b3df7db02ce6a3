"""Sound files: decoding to samples of one channel, resampling, and encoding as WAV.

Legend of shapes: n samples, c channels.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mapsto.audio.mixing import Mixer, Samples
from mapsto.errors import UsageError
from mapsto.media.cells import Unreadable, require_file

INSTALL_SOUND = "sounds need the packages soundfile and soxr: pip install 'mapsto[sound]'"

SOUND_SUFFIXES = (
    ".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64",
    ".m4a", ".aac", ".wma", ".amr", ".mka", ".weba",
)  # fmt: skip

# The rates in Hz, the number of channels, the seconds and the samples of one channel (2 GiB of memory) that are read.
MIN_RATE, MAX_RATE, MAX_CHANNELS, MAX_SECONDS, MAX_SAMPLES = 1_000, 384_000, 64, 24 * 3600, 2**29

# The largest file that is read.
MAX_BYTES = 2**32

# Samples of all channels that are decoded at once.
BLOCK_SAMPLES = 2**18


@dataclass(frozen=True)
class SoundInfo:
    """The facts of a decoded recording: seconds, rate in Hz and channels of the file, and the program that decoded it.

    remarks: facts about the samples that a user should know, such as clipping or a silent channel.
    """

    seconds: float
    rate: int
    channels: int
    decoder: str
    remarks: tuple[str, ...] = ()


def decode_sound(path: str | None, content: bytes | None) -> tuple[Samples, SoundInfo]:
    """Return the samples (n,) of a recording, mixed to one channel at its own rate, and its facts.

    path, content: the file, or its bytes if `path` is None.
    Raises OSError if the file cannot be opened, Unreadable if it is no recording that can be decoded or exceeds a limit, and
    UsageError without the package that decodes it.
    """
    if path is not None:
        require_file(path)
    with open(path, "rb") if path is not None else io.BytesIO(content or b"") as stream:
        size = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        if not size:
            raise Unreadable("the file is empty")
        if size > MAX_BYTES:
            raise Unreadable(f"{size:,} bytes are more than the {MAX_BYTES:,} that are read")
        with _explaining_damage():
            return _decode_by_libsndfile(stream)


def load_soundfile() -> Any:
    """Import and return the package soundfile. Raises UsageError if it is not installed."""
    try:
        import soundfile
    except (ImportError, OSError) as error:  # an OSError is that of a missing libsndfile
        raise UsageError(INSTALL_SOUND) from error
    return soundfile


@contextmanager
def _explaining_damage() -> Iterator[None]:
    """Raise Unreadable in place of any other error, since decoders raise errors of every type for damaged files."""
    try:
        yield
    except (Unreadable, UsageError):
        raise
    except Exception as error:
        raise Unreadable(f"the sound is damaged: {str(error) or type(error).__name__}") from error


def _decode_by_libsndfile(stream: Any, channel: int | None = None) -> tuple[Samples, SoundInfo]:
    """Return the samples (n,) and facts of a file that libsndfile decodes. channel: the only channel to take, if not None.

    Raises Unreadable if the file is damaged or exceeds a limit, and any error of the decoder.
    """
    soundfile = load_soundfile()
    stream.seek(0)
    with soundfile.SoundFile(stream) as file:
        require_limits(file.samplerate, file.channels)
        mixer = Mixer(file.channels, channel)
        while len(block := file.read(BLOCK_SAMPLES // file.channels, "float32", always_2d=True)):
            mixer.add(block)
            require_length(mixer.num_samples, file.samplerate)
        rate, channels = file.samplerate, file.channels
    mixture = mixer.finish()
    if mixture.channel is not None:
        return _decode_by_libsndfile(stream, mixture.channel)
    if not len(mixture.samples):
        raise Unreadable("it holds no samples")
    version = soundfile.__libsndfile_version__
    info = SoundInfo(len(mixture.samples) / rate, rate, channels, f"libsndfile {version}", mixture.remarks)
    return mixture.samples, info


def require_limits(rate: int, channels: int) -> None:
    """Raise Unreadable if a recording has a rate in Hz, or a number of channels, that is not read."""
    if not MIN_RATE <= rate <= MAX_RATE:
        raise Unreadable(f"its rate is {rate:,} Hz, and {MIN_RATE:,} to {MAX_RATE:,} Hz are read")
    if not 1 <= channels <= MAX_CHANNELS:
        raise Unreadable(f"it has {channels:,} channels, and 1 to {MAX_CHANNELS} are read")


def require_length(num_samples: int, rate: int) -> None:
    """Raise Unreadable if a recording has more samples of one channel than are read. rate: in Hz."""
    if num_samples > MAX_SECONDS * rate:
        raise Unreadable(f"it is longer than the {MAX_SECONDS // 3600} hours that are read")
    if num_samples > MAX_SAMPLES:
        raise Unreadable(f"it has more than the {MAX_SAMPLES:,} samples that are read: split it, or lower its rate")


def resample(samples: NDArray[np.float32], rate: float, new_rate: float) -> Samples:
    """Return samples (n,) at another rate, by soxr with its quality "HQ"; the same array if the rates are equal.

    rate, new_rate: in Hz. Raises UsageError if the package soxr is not installed.
    """
    if rate == new_rate:
        return samples
    try:
        import soxr
    except ImportError as error:
        raise UsageError(INSTALL_SOUND) from error
    resampled: Samples = soxr.resample(samples, rate, new_rate, quality="HQ")
    return resampled


def encode_wav(samples: Samples, rate: int) -> bytes:
    """Return samples (n,) encoded as a WAV file of 16-bit PCM with one channel. Samples beyond ±1 are clipped. rate: in Hz."""
    pcm: bytes = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype("<i2").tobytes()
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    body = b"WAVE" + form + struct.pack("<4sI", b"data", len(pcm)) + pcm
    return struct.pack("<4sI", b"RIFF", len(body)) + body
