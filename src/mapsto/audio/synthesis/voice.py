"""Learn a voice from recordings of speech before training: the loudness of bands, and when each character is spoken.

Legend of shapes: n recordings, m frames, b bands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from mapsto.audio.log_mel import FRAMES_PER_SECOND, NUM_BANDS, Frames
from mapsto.audio.synthesis.sound_answers import FRAME_CACHE, SpokenSound
from mapsto.audio.synthesis.speech_alignment import SpeechAligner
from mapsto.sequence.piece import Ints

# The least deviation of a band, so that bands that are always silent are not scaled up.
LEAST_DEVIATION = 0.05

# Frames of the recordings that the model of letters is trained on: two hours. Recordings that are aligned at a time.
SAMPLE_FRAMES, BLOCK = 2 * 3600 * FRAMES_PER_SECOND, 256


@dataclass(frozen=True)
class Voice:
    """The facts that are learnt from recordings of speech before training.

    mean, std: (b,), of each band. aligner: the model of letters. durations, fits: of the alignment of each recording; durations
    by the digest of the recording and its text.
    """

    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    aligner: SpeechAligner
    durations: Mapping[tuple[str, str], Ints]
    fits: NDArray[np.float64]


class VoiceCache:
    """The voice that was learnt last: a fit checks the rows that it learns from, so both need it."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.keys: list[tuple[str, str]] = []
        self.voice: Voice | None = None

    def learn(self, answers: Sequence[SpokenSound]) -> Voice:
        """Return the voice of recordings, at least one."""
        keys = [(answer.sound.digest, answer.text) for answer in answers]
        with self.lock:
            if self.voice is None or keys != self.keys:
                self.keys, self.voice = keys, _learn_voice(keys, answers)
            return self.voice


VOICES = VoiceCache()


def _learn_voice(keys: Sequence[tuple[str, str]], answers: Sequence[SpokenSound]) -> Voice:
    """Return the voice of recordings. keys: digest and text of each."""
    sample: list[tuple[str, Frames]] = []
    num_frames, sums, squares = 0, np.zeros(NUM_BANDS), np.zeros(NUM_BANDS)
    for answer in answers:
        frames = voice_frames(answer)
        if num_frames < SAMPLE_FRAMES:
            sample.append((answer.text, frames))
        num_frames += len(frames)
        sums, squares = sums + frames.sum(0), squares + (frames.astype(np.float64) ** 2).sum(0)
    mean = sums / num_frames
    std = np.sqrt(np.maximum(squares / num_frames - mean**2, LEAST_DEVIATION**2))
    aligner = SpeechAligner.train(sample)
    blocks = (answers[begin : begin + BLOCK] for begin in range(0, len(answers), BLOCK))
    alignments = [
        alignment
        for block in blocks
        for alignment in aligner.align([(answer.text, voice_frames(answer)) for answer in block])
    ]
    durations = {key: alignment.durations for key, alignment in zip(keys, alignments, strict=True)}
    fits = np.array([alignment.fit for alignment in alignments])
    return Voice(mean.astype(np.float32).round(4), std.astype(np.float32).round(4), aligner, durations, fits)


def voice_frames(answer: SpokenSound) -> Frames:
    """Return the log-mel frames (m, b) of a recording."""
    return FRAME_CACHE.frames(answer.sound, NUM_BANDS)
