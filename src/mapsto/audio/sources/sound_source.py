"""Hold what all sources of sounds share, whatever their tokens hold: cells, sizes, pages, features without a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from mapsto.audio import remarks, sound_io, sound_value, spectrogram
from mapsto.audio.band_source import BandSource, describe_parts, frames_of
from mapsto.audio.features import perturb_sound, strongest_waves
from mapsto.audio.sound_value import Sound
from mapsto.errors import UsageError
from mapsto.sequence.corruption import Corruption
from mapsto.sequence.piece import MixturePart, Piece
from mapsto.task.capabilities import FileBacked
from mapsto.task.shingles import Hashes, hashes
from mapsto.task.source import KindDefaults, Learning
from mapsto.task.source_capabilities import (
    Augmentable,
    Describable,
    Explainable,
    Grouped,
    Inspectable,
    LinearFeatures,
    Mixture,
    Spoken,
)

PROCESSOR_FILE, CONFIG_FILE = "preprocessor_config.json", "config.json"

# Seconds that pretraining hides together where no shape is named: shorter spans could be read off their neighbours.
HIDDEN_SECONDS = 0.4


class SoundSourceBase(FileBacked, Augmentable, Explainable, Describable, Grouped, Inspectable, Spoken):
    """The base class of sources of sounds; a source class inherits from `Source` too."""

    kind = "sound"
    feature_name = "bands of frequency"
    size_unit = "seconds"
    suffixes = sound_io.SOUND_SUFFIXES
    decoders = ("soundfile", "av", "soxr")
    augmentations: ClassVar[tuple[str, ...]] = ("spec",)
    mixtures: ClassVar[Mapping[str, Mixture]] = {}
    group_nouns: ClassVar[tuple[str, ...]] = ("speaker", "dialogue", "session", "file", "sentence")
    # A new model of 0.9M weights has 86 % on spoken digits of a speaker left out after 800 steps. With 48 labelled words and a
    # minute of pretraining, accuracy was 85 % by Muon at its rate for new weights, and 79 % by AdamW at 2e-3.
    defaults = KindDefaults(
        Learning(min_epochs=20, max_epochs=100, steps=800, batch=64, as_new=True),
        width=128,
        layers=4,
        pretrain_tokens=1024,
        rows_at_once=64,
        contrastive_few_labels=False,
        linear_rows=200,
        near_duplicate_threshold=0.8,
    )
    samples = staticmethod(sound_value.sample_sounds)
    fits = staticmethod(sound_value.fits_sounds)
    read = staticmethod(sound_value.read_sound)
    inspect = staticmethod(remarks.inspect_sounds)
    perturb = staticmethod(perturb_sound)
    excerpt = staticmethod(spectrogram.excerpt)
    highlight = staticmethod(spectrogram.highlight)

    @staticmethod
    def key(value: Sound) -> str:
        """Return the digest of the sound's bytes; equal sounds have equal digests."""
        return value.digest

    @staticmethod
    def size(value: Sound) -> float:
        """Return the duration of a sound in seconds."""
        return value.info.seconds

    @classmethod
    def show(cls, value: Sound) -> str:
        """Return the sound as HTML: a spectrogram and a player."""
        return cls.highlight(value, [], [])

    def mix(self, pieces: Sequence[Piece], rng: np.random.Generator, method: str) -> tuple[Piece, list[MixturePart]]:
        """Raise UsageError: there is no method that mixes sounds."""
        raise UsageError(f"--augment {method} is not for sounds")

    @classmethod
    def linear_source(cls) -> type[LinearFeatures]:
        """Return BandSource, the source class by which linear models read sounds: statistics of bands in three parts."""
        return BandSource

    @classmethod
    def fit_features(cls, values: Sequence[Sound]) -> Callable[[Sequence[Sound]], Any]:
        """Return the function from sounds to means and deviations of bands in three parts, an array (n, f).

        values: not used, since these features need no fitting.
        """
        return lambda sounds: np.stack([describe_parts(frames_of(sound)).ravel() for sound in sounds])

    @classmethod
    def sketch(cls, value: Sound) -> Hashes:
        """Return a hash for each of the strongest waves of the sound's spectrogram; near-duplicates share most."""
        return hashes(strongest_waves(value).astype(np.uint64))


def widen_spans(corruption: Corruption, token_seconds: float) -> Corruption:
    """Return the corruption with spans of about 0.4 seconds in place of single tokens, where no shape was named."""
    if corruption.shape != "token":
        return corruption
    return replace(corruption, shape="span", span=HIDDEN_SECONDS / token_seconds)
