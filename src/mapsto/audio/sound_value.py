"""Table cells that hold sounds, and Sound, the value of such a cell.

A sound is decoded once when its cell is read. Its samples then wait in a cache of 64 MiB until the source encodes them. Those of
a long one (from about nine minutes on at 16 kHz) are not held: it is read again in blocks.
Legend of shapes: n samples, c channels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mapsto import files
from mapsto.audio import sound_io
from mapsto.audio.decoding import limits
from mapsto.audio.decoding.facts import SoundInfo
from mapsto.audio.decoding.mixing import Mixer, Samples
from mapsto.audio.sound_io import SOUND_SUFFIXES
from mapsto.errors import BadCell, DataError
from mapsto.media.cells import Unreadable, are_media, read_media_cell
from mapsto.media.decoded_cache import DecodedCache

SAMPLE_CACHE = DecodedCache(64 * 2**20)

# The decoder of sounds that come as arrays.
NO_DECODER = "none (samples)"

NUMBERS = (int, float, np.integer, np.floating)

GIVE_RATE = "samples need their rate: give the pair (samples, rate), or a dict of 'array' and 'sampling_rate'"


@dataclass(frozen=True)
class Sound:
    """A sound that has been checked to be decodable.

    It is held as one of: the file `path`, the encoded bytes `content`, `samples` (n,) of one channel.
    """

    path: str | None = field(compare=False)
    content: bytes | None = field(compare=False, repr=False)
    samples: Samples | None = field(compare=False, repr=False)
    # SHA-256 of the encoded bytes; sounds with the same digest are equal.
    digest: str
    info: SoundInfo

    @property
    def remarks(self) -> tuple[str, ...]:
        """Return facts about the samples that a user should know, such as clipping or a silent channel."""
        return self.info.remarks

    def decode(self, rate: int, seconds: float | None = None) -> Samples:
        """Return the samples (n,) at `rate` Hz: the first time from the cache if it still has them, else decoded again.

        seconds: how much of the beginning is returned; None for all. Raises DataError if the file can no longer be decoded.
        """
        blocks: Iterable[Samples] = self.blocks(rate)
        if seconds is not None:
            blocks = _take(blocks, round(seconds * rate))
        return np.concatenate([np.zeros(0, np.float32), *blocks])

    def blocks(self, rate: int) -> Iterator[Samples]:
        """Yield the samples at `rate` Hz in blocks (n,), as `decode` returns them: of a long sound as they are decoded.

        Raises DataError if the file can no longer be decoded.
        """
        samples = self.samples
        if samples is None:
            samples = SAMPLE_CACHE.take(self.digest)
        try:
            if samples is None and self.info.parts:
                blocks = sound_io.read_blocks(self.path, self.content, self.info)
                yield from sound_io.resample_blocks(blocks, self.info.rate, rate)
                return
            if samples is None:
                samples, _ = sound_io.decode_sound(self.path, self.content)
        except (OSError, Unreadable) as error:
            raise DataError(f"{self} changed while it was read: {error}") from error
        yield sound_io.resample(samples, self.info.rate, rate)

    @classmethod
    def from_samples(cls, samples: NDArray[Any], rate: int) -> Sound:
        """Return the sound of decoded samples (n,), (n, c) or (c, n), in floats up to ±1 or in integers of any width.

        Of two axes the shorter one is the channels. rate: in Hz.
        Raises Unreadable if the shape, type, rate or values are none of a sound.
        """
        scaled = _scale(samples)
        rate = _require_rate(rate)
        limits.require_limits(rate, scaled.shape[1])
        limits.require_length(len(scaled), rate)
        mixed, remarks = _mix(scaled)
        digest = hashlib.sha256(f"{rate} ".encode() + mixed.tobytes()).hexdigest()
        info = SoundInfo(len(mixed) / rate, rate, scaled.shape[1], NO_DECODER, remarks)
        return cls(None, None, mixed, digest, info)

    @classmethod
    def from_file(cls, path: str | None, content: bytes | None) -> Sound:
        """Return the sound in the file `path`; if `content` is not None, the sound in these encoded bytes instead.

        Raises OSError if the file cannot be opened, Unreadable if it holds no sound that can be decoded.
        """
        samples, info = sound_io.check_sound(None if content is not None else path, content)
        digest = hashlib.sha256(content).hexdigest() if content is not None else files.hash_file(Path(str(path)))
        if samples is not None:
            SAMPLE_CACHE.add(digest, samples)
        return cls(path, content, None, digest, info)

    def __str__(self) -> str:
        return self.path or f"a sound of {self.info.seconds:.2f} s at {self.info.rate:,} Hz"


def _take(blocks: Iterable[Samples], count: int) -> Iterator[Samples]:
    """Yield the first `count` samples of blocks (n,)."""
    for block in blocks:
        yield block[:count]
        count -= len(block)
        if count <= 0:
            return


def _scale(samples: NDArray[Any]) -> NDArray[np.float32]:
    """Return samples (n, c) of float32 in ±1 from an array in one or two axes. Raises Unreadable for another shape or type."""
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "fiu":
        raise Unreadable(f"samples are (n,) or (n, channels) of numbers, not {samples.shape} of {samples.dtype}")
    if not samples.size:
        raise Unreadable("it holds no samples")
    columns = samples.reshape(len(samples), -1)
    columns = columns.T if samples.ndim == 2 and samples.shape[0] < samples.shape[1] else columns
    if samples.dtype.kind == "f":
        return columns.astype(np.float32)
    # Full scale of integers is half their range; unsigned ones are centred on it.
    half = 2.0 ** (8 * samples.dtype.itemsize - 1)
    return ((columns - (half if samples.dtype.kind == "u" else 0.0)) / half).astype(np.float32)


def _mix(samples: NDArray[np.float32]) -> tuple[Samples, tuple[str, ...]]:
    """Return samples (n, c) mixed to one channel (n,), and remarks about them. Raises Unreadable for values of no sound."""
    channel = None
    while True:
        mixer = Mixer(samples.shape[1], channel)
        mixer.add(samples)
        mixture = mixer.finish()
        if mixture.channel is None:
            assert mixture.samples is not None
            return mixture.samples, mixture.remarks
        channel = mixture.channel


def _require_rate(rate: object) -> int:
    """Return a rate in Hz as an integer. Raises Unreadable if it is no number of samples a second."""
    if not isinstance(rate, NUMBERS) or isinstance(rate, bool) or not float(rate).is_integer():
        raise Unreadable(f"a rate is a whole number of Hz, not {rate!r}")
    return int(rate)


def sample_sounds() -> list[Any]:
    """Return four small different tones with noise for tests, as cells {"bytes": …, "path": None} (Hugging Face)."""
    rng = np.random.default_rng(0)
    cells = []
    for seconds, rate, pitch in ((0.1, 8000, 300), (0.25, 16000, 500), (0.4, 8000, 800), (0.2, 11025, 1200)):
        times = np.arange(round(seconds * rate)) / rate
        samples = 0.3 * np.sin(2 * np.pi * pitch * times) + 0.02 * rng.standard_normal(len(times))
        cells.append({"bytes": sound_io.encode_wav(samples.astype(np.float32), rate), "path": None})
    return cells


def fits_sounds(values: Sequence[object]) -> bool:
    """Return whether all cells of a column look like sounds. Cells that are None do not count, but not all may be None.

    Such a cell is a file name with a sound's suffix, encoded bytes (also in a dict), or samples with their rate.
    """
    cells = [value for value in values if value is not None and not _are_samples(value)]
    return are_media(cells, SOUND_SUFFIXES, axes=None) if cells else any(value is not None for value in values)


def read_sound(cell: object) -> Sound:
    """Return the sound in a cell. Raises BadCell if the cell has no sound that can be decoded.

    cell: a file name, encoded bytes, a dict of either (Hugging Face), or samples with their rate: a dict {"array",
    "sampling_rate"} or a pair in either order.
    """
    if isinstance(cell, Sound):
        return cell
    try:
        if (pair := _samples_of(cell)) is not None:
            return Sound.from_samples(_to_array(pair[0]), pair[1])
        if hasattr(cell, "__array__") or isinstance(cell, (list, tuple)):
            raise BadCell(GIVE_RATE)
        return Sound.from_file(*read_media_cell(cell, "sound", "samples with their rate"))
    except Unreadable as error:
        raise BadCell(str(error)) from error
    except (OSError, UnicodeError) as error:  # a UnicodeError is that of a name that no file can have
        raise BadCell(f"the sound cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _samples_of(cell: object) -> tuple[Any, Any] | None:
    """Return samples and rate of a cell that holds both, in the forms of Hugging Face, scipy and librosa; else None."""
    if isinstance(cell, Mapping) and cell.get("array") is not None:
        return cell["array"], cell.get("sampling_rate")
    if isinstance(cell, (tuple, list)) and len(cell) == 2:
        for samples, rate in (cell, cell[::-1]):
            is_array = hasattr(samples, "__array__") or isinstance(samples, (list, tuple))
            if is_array and not hasattr(rate, "__len__"):
                return samples, rate
    return None


def _are_samples(cell: object) -> bool:
    """Return whether a cell looks like samples with a rate in Hz."""
    if isinstance(cell, Mapping) and cell.get("array") is not None and "sampling_rate" in cell:
        return True  # with another rate it is a bad cell of a column of sounds
    pair = _samples_of(cell)
    return pair is not None and isinstance(pair[1], NUMBERS) and bool(pair[1] >= limits.MIN_RATE)


def _to_array(samples: Any) -> NDArray[Any]:
    """Return samples as an array. Raises Unreadable if they are rows of different lengths."""
    try:
        return np.asarray(samples)
    except ValueError as error:
        raise Unreadable("samples are (n,) or (n, channels) of numbers, not rows of different lengths") from error
