"""Sounds as statistics of their bands in three parts of equal length, the input of linear models.

A token is a part of the sound with the mean and deviation of each band over its frames. The mean over the whole sound is taken
off first, so that loudness does not count. A token's vector is the product of its features with its part's rows of a table, so
the sum of a sound's vectors is a linear map of its features.
Legend of shapes: t tokens (parts), m frames, b bands, f features of a part, n sounds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mapsto import files
from mapsto.audio import sound_value, spectrogram
from mapsto.audio.log_mel import HOP, NUM_BANDS, RATE, Frames, log_mel
from mapsto.audio.sound_value import Sound
from mapsto.errors import CheckpointError, DataError, UsageError
from mapsto.model.convolution import ConvolutionConfig
from mapsto.sequence.corruption import Corruption
from mapsto.sequence.piece import Alignment, Ints, Piece
from mapsto.task.source import KindDefaults
from mapsto.task.source_capabilities import Explainable, LinearFeatures

# The parts of a sound, and the features of a part: mean and deviation of each band.
NUM_PARTS, PART_FEATURES = 3, 2 * NUM_BANDS

# The seconds of a long sound that are described; the rest is like them, or the features would take as long as a model.
MAX_SECONDS = 60

# The entries of config.json that describe the features. A folder with others was written by another version of mapsto.
SETTINGS = {"num_bands": NUM_BANDS, "num_parts": NUM_PARTS, "max_seconds": MAX_SECONDS}


def frames_of(value: Sound) -> Frames:
    """Return the log-mel frames (m, b) of a sound, at least one for each part, of at most its first minute."""
    samples = value.decode(RATE)[: MAX_SECONDS * RATE]
    return log_mel(samples, max(NUM_PARTS, -(-len(samples) // HOP)))


def describe_parts(frames: Frames) -> NDArray[np.float32]:
    """Return the features (t, f) of the parts of a sound: the mean of each band, less the sound's own mean, and its deviation."""
    centred = frames - frames.mean()
    parts = np.array_split(centred, NUM_PARTS)
    return np.stack([np.concatenate([part.mean(0), part.std(0)]) for part in parts]).astype(np.float32)


class BandSource(LinearFeatures, Explainable):
    """A source that reads a sound as three parts, for linear models.

    Its tokens are the index of the part and the part's features.
    """

    kind = "sound"
    family = "linear"
    objectives: ClassVar[Mapping[str, float]] = {}
    defaults = KindDefaults(rows_at_once=64)
    num_features = NUM_PARTS * PART_FEATURES

    def __str__(self) -> str:
        return f"means and deviations of {NUM_BANDS} bands in {NUM_PARTS} parts of a sound"

    @classmethod
    def new(cls, values: Sequence[Sound], size: int | None = None, share: float = 1.0) -> Self:
        """Return the source, which learns nothing from the sounds `values`. Raises DataError if there are none.

        size, share: not used.
        """
        if not values:
            raise DataError("there is no sound to fit a linear model to")
        return cls()

    @classmethod
    def open(cls, folder: Path, weights: Mapping[str, Tensor], front: ConvolutionConfig | None = None) -> Self:
        """Return the source of the linear model saved in `folder`. weights, front: not used.

        Raises CheckpointError if the model was fitted to other features than this version computes.
        """
        config = files.read_json(folder / "config.json")
        saved = {name: config.get(name) for name in SETTINGS}
        if saved != SETTINGS:
            raise CheckpointError(f"{folder}: the model reads sounds by {saved}, and this version by {SETTINGS}")
        return cls()

    def save(self, folder: Path, longest: int) -> dict[str, Any]:
        """Return the entries of config.json that describe the features; no file is written. folder, longest: not used."""
        return dict(SETTINGS)

    samples = staticmethod(sound_value.sample_sounds)
    fits = staticmethod(sound_value.fits_sounds)
    read = staticmethod(sound_value.read_sound)
    excerpt = staticmethod(spectrogram.excerpt)
    highlight = staticmethod(spectrogram.highlight)

    @staticmethod
    def key(value: Sound) -> str:
        """Return the digest of the sound's bytes; equal sounds have equal digests."""
        return value.digest

    @classmethod
    def show(cls, value: Sound) -> str:
        """Return the sound as HTML: a spectrogram and a player."""
        return cls.highlight(value, [], [])

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 of the settings of the features. Sources with equal hashes encode a sound in the same way."""
        return hashlib.sha256(json.dumps(SETTINGS).encode()).hexdigest()

    @property
    def max_tokens(self) -> int:
        """Return the number of parts of a sound."""
        return NUM_PARTS

    def encode(self, values: Sequence[Sound], place: int, aligned: bool = False) -> list[Piece]:
        """Return a piece of all parts for each sound.

        aligned: whether each token also has the seconds of the sound that its part covers. place: not used.
        """
        return [_piece(value, aligned) for value in values]

    def embedder(self, width: int) -> nn.Module:
        """Return a PartTable (t·f, width): the vector of a token is its features times the rows of its part."""
        return PartTable(width)

    def features(self, pieces: Sequence[Piece]) -> NDArray[np.float32]:
        """Return the features of pieces as an array (n, t·f), with zeros for parts that a piece lacks."""
        features = np.zeros((len(pieces), NUM_PARTS, PART_FEATURES), np.float32)
        for row, piece in enumerate(pieces):
            features[row, piece.tokens[:, 0].astype(np.int64)] = piece.tokens[:, 1:]
        return features.reshape(len(pieces), -1)

    def feature_vectors(self, pieces: Sequence[Piece]) -> NDArray[np.float32]:
        """Return the features themselves."""
        return self.features(pieces)

    def mask(
        self, piece: Piece, corruption: Corruption, rng: np.random.Generator, progress: float
    ) -> tuple[Piece, Ints]:
        """Raise UsageError, since a linear model cannot predict hidden tokens."""
        raise UsageError("a linear model has no tokens to hide; pretraining needs a model that reads frames")

    def token_names(self, piece: Piece) -> list[str]:
        """Return the number of each token's part, from 1."""
        return [f"part {part + 1}" for part in piece.positions[:, 0].tolist()]

    def remove_tokens(self, piece: Piece, tokens: Ints) -> Piece:
        """Return the piece without the tokens at these indices. The features of the other parts stay as they are."""
        return piece.select(np.setdiff1d(np.arange(len(piece)), tokens))

    def blank(self, piece: Piece) -> Piece:
        """Return the piece with all features set to 0, those of a steady noise as strong in all bands."""
        tokens = piece.tokens.copy()
        tokens[:, 1:] = 0
        return replace(piece, tokens=tokens)


class PartTable(nn.Module):
    """A table for tokens (index of the part, features): the vector of a token is its features times the rows of its part."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(NUM_PARTS * PART_FEATURES, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the vectors (t, width) of tokens (t, 1 + f)."""
        rows = tokens[:, :1].long() * PART_FEATURES + torch.arange(PART_FEATURES, device=tokens.device)
        return nn.functional.embedding_bag(rows, self.weight, per_sample_weights=tokens[:, 1:], mode="sum")


def _piece(value: Sound, aligned: bool) -> Piece:
    """Return the piece of a sound; with an alignment to its seconds if `aligned`."""
    features = describe_parts(frames_of(value))
    numbers = np.arange(NUM_PARTS)
    alignment = None
    if aligned:
        edges = np.linspace(0, min(value.info.seconds, MAX_SECONDS), NUM_PARTS + 1)
        alignment = Alignment(np.stack([edges[:-1], edges[1:]], axis=-1)[:, None], np.array([[0, value.info.seconds]]))
    return Piece(
        kind="sound",
        tokens=np.concatenate([numbers[:, None].astype(np.float32), features], axis=1),
        positions=numbers[:, None],
        special=np.zeros(NUM_PARTS, np.bool_),
        alignment=alignment,
    )
