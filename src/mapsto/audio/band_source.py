"""Sounds as statistics of their bands in three parts of equal length, the input of linear models.

A token is a part of the sound with the mean and deviation of each band over its frames. The mean over the whole sound is taken
off first, so that loudness does not count.
Legend of shapes: t tokens (parts), m frames, b bands, f features of a part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mapsto.audio import sound_value, spectrogram
from mapsto.audio.log_mel import HOP, NUM_BANDS, RATE, Frames, log_mel
from mapsto.audio.sound_value import Sound
from mapsto.model.linear.parted_features import PartedSource
from mapsto.sequence.piece import Alignment, Piece
from mapsto.task.source import KindDefaults

# The parts of a sound, and the features of a part: mean and deviation of each band.
NUM_PARTS, PART_FEATURES = 3, 2 * NUM_BANDS

# The seconds of a long sound that are described; the rest is like them, or the features would take as long as a model.
MAX_SECONDS = 60


def frames_of(value: Sound) -> Frames:
    """Return the log-mel frames (m, b) of a sound, at least one for each part, of at most its first minute."""
    samples = value.decode(RATE, MAX_SECONDS)
    return log_mel(samples, max(NUM_PARTS, -(-len(samples) // HOP)))


def describe_parts(frames: Frames) -> NDArray[np.float32]:
    """Return the features (t, f) of the parts of a sound: the mean of each band, less the sound's own mean, and its deviation."""
    centred = frames - frames.mean()
    parts = np.array_split(centred, NUM_PARTS)
    return np.stack([np.concatenate([part.mean(0), part.std(0)]) for part in parts]).astype(np.float32)


class BandSource(PartedSource):
    """A source that reads a sound as three parts, for linear models."""

    kind = "sound"
    defaults = KindDefaults(rows_at_once=64)
    value_noun = "sound"
    num_parts, part_features = NUM_PARTS, PART_FEATURES
    settings: ClassVar[Mapping[str, Any]] = {"num_bands": NUM_BANDS, "num_parts": NUM_PARTS, "max_seconds": MAX_SECONDS}
    samples = staticmethod(sound_value.sample_sounds)
    fits = staticmethod(sound_value.fits_sounds)
    read = staticmethod(sound_value.read_sound)
    excerpt = staticmethod(spectrogram.excerpt)
    highlight = staticmethod(spectrogram.highlight)

    def __str__(self) -> str:
        return f"means and deviations of {NUM_BANDS} bands in {NUM_PARTS} parts of a sound"

    @staticmethod
    def key(value: Sound) -> str:
        """Return the digest of the sound's bytes; equal sounds have equal digests."""
        return value.digest

    @classmethod
    def show(cls, value: Sound) -> str:
        """Return the sound as HTML: a spectrogram and a player."""
        return cls.highlight(value, [], [])

    @classmethod
    def describe(cls, value: Sound, aligned: bool) -> Piece:
        """Return the piece of a sound; with an alignment to its seconds if `aligned`."""
        numbers = np.arange(NUM_PARTS)
        alignment = None
        if aligned:
            edges = np.linspace(0, min(value.info.seconds, MAX_SECONDS), NUM_PARTS + 1)
            regions = np.stack([edges[:-1], edges[1:]], axis=-1)[:, None]
            alignment = Alignment(regions, np.array([[0, value.info.seconds]]))
        features = describe_parts(frames_of(value))
        return Piece(
            kind=cls.kind,
            tokens=np.concatenate([numbers[:, None].astype(np.float32), features], axis=1),
            positions=numbers[:, None],
            special=np.zeros(NUM_PARTS, np.bool_),
            alignment=alignment,
        )

    def token_names(self, piece: Piece) -> list[str]:
        """Return the number of each token's part, from 1."""
        return [f"part {part + 1}" for part in piece.positions[:, 0].tolist()]
