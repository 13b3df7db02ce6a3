"""Hold the base of targets whose answers are sounds: cells, files and pages of answers, and frames of true answers.

An answer is computed as log-mel frames and becomes samples by Griffin–Lim; in Python it is the pair (samples, rate).
Legend of shapes: n samples, m frames, b bands.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mapsto.audio import sound_value, spectrogram
from mapsto.audio.decoding.mixing import Samples
from mapsto.audio.log_mel import HOP, RATE, Frames, log_mel
from mapsto.audio.sound_io import SOUND_SUFFIXES, encode_wav
from mapsto.audio.sound_value import Sound
from mapsto.task.capabilities import FileBacked
from mapsto.task.target_capabilities import Reconstruction

# A sound as an answer: samples (n,) and their rate in Hz.
SoundAnswer = tuple[Samples, int]

# The least distance in dB of two sounds; nearer ones are as good as equal.
LEAST_DISTANCE = 0.01

# True answers are read once for each epoch, and decoding them takes longer than a step of a small model. So their frames are
# kept, in half precision: 8 hours of sound.
CACHE_BYTES = 460 * 2**20


@dataclass(frozen=True)
class SpokenSound:
    """A recording of speech with the text that is spoken in it."""

    sound: Sound
    text: str


class FrameCache:
    """The log-mel frames of sounds by their digest; the oldest are dropped beyond `capacity` bytes."""

    def __init__(self, capacity: int = CACHE_BYTES) -> None:
        self.capacity, self.size, self.lock = capacity, 0, Lock()
        self.entries: OrderedDict[tuple[str, int], NDArray[np.float16]] = OrderedDict()

    def frames(self, sound: Sound, num_bands: int) -> Frames:
        """Return the frames (m, b) of a sound, at least one."""
        key = sound.digest, num_bands
        cached = self.entries.get(key)
        if cached is None:
            samples = sound.decode(RATE)
            cached = log_mel(samples, max(1, -(-len(samples) // HOP)), num_bands).astype(np.float16)
            with self.lock:
                if key not in self.entries:
                    self.entries[key], self.size = cached, self.size + cached.nbytes
                while self.size > self.capacity and len(self.entries) > 1:
                    self.size -= self.entries.popitem(last=False)[1].nbytes
        return cached.astype(np.float32)


FRAME_CACHE = FrameCache()


class SoundAnswers(Reconstruction, FileBacked):
    """The base class of targets whose answers are sounds, written as WAV files."""

    kind = "sound"
    suffixes = SOUND_SUFFIXES
    head_name: ClassVar[str] = ""

    samples = staticmethod(sound_value.sample_sounds)
    fits = staticmethod(sound_value.fits_sounds)
    read = staticmethod(sound_value.read_sound)

    @staticmethod
    def key(value: Any) -> str:
        """Return the digest of a sound; equal sounds have equal digests."""
        return to_sound(value).digest

    @staticmethod
    def file(value: Any) -> tuple[str, bytes] | None:
        """Return ".wav" and the content of the file in which an answer is saved."""
        return ".wav", encode_wav(*value)

    def show(self, answer: Any) -> str:
        """Return a predicted or true answer as HTML: its spectrogram and a player."""
        return spectrogram.highlight(to_sound(answer), [], [])

    def brief(self, answer: Any) -> str:
        """Return a predicted or true answer in words: its file, or its duration."""
        return str(to_sound(answer))

    @staticmethod
    def join(parts: Sequence[Any]) -> SoundAnswer:
        """Return the sound of a row from those of its windows, in order."""
        return np.concatenate([samples for samples, _ in parts]), RATE


def to_sound(answer: Any) -> Sound:
    """Return an answer as a Sound: a true one, which may come with its text, or a predicted one, a pair of samples and rate."""
    if isinstance(answer, SpokenSound):
        return answer.sound
    return answer if isinstance(answer, Sound) else Sound.from_samples(*answer)


def share_removed(distance: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 − distance / reference, (n,): at most 1, and 0 for an answer that is as far from the truth as the reference is.

    distance, reference: (n,), log-mel distances in dB of the answer, and of what it is compared with, from the true sound. Where
    the reference is as good as equal to the truth, the result is 0.
    """
    return np.where(reference < LEAST_DISTANCE, 0.0, 1 - distance / np.maximum(reference, LEAST_DISTANCE))
