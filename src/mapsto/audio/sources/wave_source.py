"""Sounds as waves: a token holds the samples from which the convolutions of wav2vec 2.0, HuBERT, WavLM and Moonshine compute it.

Tokens overlap by what the convolutions read beyond their stride, so that a clip can be cut between any two tokens, and is then
computed as if no more had been recorded. A group norm runs over all samples of a clip, so the last token also holds those left
over, and a token is silenced rather than taken out. Each clip is standardised as a whole where the model wants it.
Legend of shapes: t tokens, s samples of a token, n samples of a clip.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from mapsto import files
from mapsto.audio.augmentation import NUM_STRETCHES, choose_stretch
from mapsto.audio.decoding.mixing import Samples
from mapsto.audio.log_mel import RATE
from mapsto.audio.sound_value import Sound
from mapsto.audio.sources.sound_source import PROCESSOR_FILE, SoundSourceBase
from mapsto.audio.sources.wave_embedding import (
    COUNT_ENTRY,
    FIRST_ENTRY,
    HEADER,
    HIDDEN_ENTRY,
    WaveEmbedder,
    token_samples,
)
from mapsto.errors import CheckpointError, UsageError
from mapsto.model.convolution import ConvolutionConfig
from mapsto.model.wave.network import WaveConfig
from mapsto.sequence.corruption import Corruption
from mapsto.sequence.piece import Alignment, Ints, Piece
from mapsto.task.source import Source

# The feature extractor of `transformers` that prepares these waves.
EXTRACTOR = "Wav2Vec2FeatureExtractor"

# What is added to the variance of a clip when it is standardised.
VARIANCE_EPSILON = 1e-7


class WaveSource(SoundSourceBase, Source):
    """A source of sounds whose tokens hold samples at 16 kHz.

    front: settings of the convolutions that embed them. normalised: whether each clip is brought to mean 0 and variance 1.
    masked: whether hidden tokens have a learnt vector.
    """

    family = "wav2vec2"
    objectives: ClassVar[Mapping[str, float]] = {}

    def __init__(self, front: WaveConfig, normalised: bool, masked: bool) -> None:
        self.front, self.normalised, self.masked = front, normalised, masked

    def __str__(self) -> str:
        return f"samples of sounds at {RATE:,} Hz, {self.token_seconds * 1000:.0f} ms a token"

    @property
    def token_seconds(self) -> float:
        """Return the seconds from one token to the next."""
        return self.front.stride / RATE

    @classmethod
    def new(cls, values: Sequence[Sound], size: int | None = None, share: float = 1.0) -> Self:
        """Raise UsageError: new models read log-mel frames, which need far less data to learn from."""
        raise UsageError("new models of sounds read log-mel frames; waves are read by published models")

    @classmethod
    def open(cls, folder: Path, weights: Mapping[str, Tensor], front: ConvolutionConfig | None = None) -> Self:
        """Return the source of a saved model from the settings in `folder`.

        weights: those of the embedder, of which only the vector of hidden tokens counts. front: settings of its convolutions.
        Raises CheckpointError if the settings are invalid or not supported.
        """
        assert isinstance(front, WaveConfig), "families that read waves have such a front"
        path = folder / PROCESSOR_FILE
        processor = files.read_json(path)
        expected = {"sampling_rate": RATE, "feature_size": 1}
        settings = {name: processor.get(name, value) for name, value in expected.items()}
        if settings != expected:
            raise CheckpointError(f"{path}: sounds by {settings} are not supported, only {expected}")
        normalised = processor.get("do_normalize", True)
        if not isinstance(normalised, bool):
            raise CheckpointError(f"{path}: do_normalize is true or false, not {normalised!r}")
        return cls(front, normalised, "mask_token" in weights)

    def save(self, folder: Path, longest: int) -> dict[str, Any]:
        """Write preprocessor_config.json to `folder`; return the share of hidden tokens for config.json. longest: not used.

        `transformers` has a vector of hidden tokens only if this share is above 0.
        """
        processor = {
            "feature_extractor_type": EXTRACTOR,
            "sampling_rate": RATE,
            "feature_size": 1,
            "padding_value": 0.0,
            "padding_side": "right",
            "do_normalize": self.normalised,
            # With a group norm, models were trained without a mask of attention.
            "return_attention_mask": self.front.norm != "group",
        }
        files.write_atomic(folder / PROCESSOR_FILE, (json.dumps(processor, indent=1) + "\n").encode())
        return {"mask_time_prob": 0.05 if self.masked else 0.0, "mask_feature_prob": 0.0}

    def encode(self, values: Sequence[Sound], place: int, aligned: bool = False) -> list[Piece]:
        """Return a piece for each sound; there are no special tokens.

        aligned: whether a piece tells the seconds of each token. place: not used.
        """
        return [self._piece(value, aligned) for value in values]

    def normalise(self, samples: Samples) -> Samples:
        """Return samples (n,) with mean 0 and variance 1, if the model reads them so."""
        if not self.normalised:
            return samples
        standardised: Samples = (samples - samples.mean()) / np.sqrt(samples.var() + VARIANCE_EPSILON)
        return standardised

    def _piece(self, value: Sound, aligned: bool) -> Piece:
        """Return the piece of one sound. aligned: whether it tells the seconds of each token."""
        return self._encode(self.normalise(value.decode(RATE)), 0, value.info.seconds if aligned else None)

    def _encode(self, samples: Samples, begin: int, seconds: float | None) -> Piece:
        """Return the piece of the prepared samples (n,) of a sound, or of a window of one.

        Samples that are fewer than those of a token have zeros behind them.
        begin: number of the first token within the sound. seconds: the length of the sound, if tokens tell theirs.
        """
        tokens = self._tokens(np.pad(samples, (0, max(0, self.front.field - len(samples)))))
        count = len(tokens)
        alignment = units = None
        if seconds is not None:
            edges = (begin + np.arange(count + 1)) * self.token_seconds
            # The last token has what is left of the samples, too.
            end = min(seconds, begin * self.token_seconds + len(samples) / RATE)
            edges[-1] = max(end, edges[-2] + 1 / RATE)
            alignment = Alignment(np.stack([edges[:-1], edges[1:]], axis=-1)[:, None], np.array([[0, seconds]]))
            units = begin + np.arange(count)
        return Piece(self.kind, tokens, np.arange(count)[:, None], np.zeros(count, np.bool_), alignment, units)

    def _tokens(self, samples: Samples) -> NDArray[np.float32]:
        """Return the tokens (t, 3 + s) of the samples (n,) of a clip, at least as many as a token depends on."""
        size, stride = token_samples(self.front), self.front.stride
        count = self.front.num_tokens(len(samples))
        # Behind the end of the clip there are zeros, which `COUNT_ENTRY` tells from its samples.
        padded = np.pad(samples, (0, (count - 1) * stride + size - len(samples)))
        tokens = np.zeros((count, HEADER + size), np.float32)
        tokens[:, HEADER:] = np.lib.stride_tricks.sliding_window_view(padded, size)[::stride]
        tokens[0, FIRST_ENTRY], tokens[-1, COUNT_ENTRY] = 1, len(samples) - (count - 1) * stride
        return tokens

    def _silence(self, piece: Piece, selected: NDArray[np.bool_]) -> Piece:
        """Return the piece with zeros in place of the samples from some tokens on to the next ones. selected: (t,)."""
        tokens, stride = piece.tokens.copy(), self.front.stride
        size = tokens.shape[1] - HEADER
        # The last token also has what is left of the clip, and each token what those behind it begin with.
        is_silent = np.repeat(selected, stride)
        is_silent = np.append(is_silent, np.repeat(selected[-1:], size))
        tokens[:, HEADER:][np.lib.stride_tricks.sliding_window_view(is_silent, size)[::stride][: len(tokens)]] = 0
        return replace(piece, tokens=tokens)

    def embedder(self, width: int) -> nn.Module:
        """Return the module from tokens (t, 3 + s) to vectors (t, width)."""
        return WaveEmbedder(self.front, width, self.masked)

    def cut(self, piece: Piece, length: int) -> Piece:
        """Return the first `length` tokens of the piece, as the tokens of a clip of their own."""
        return self._as_clip(piece.select(np.arange(min(length, len(piece)))))

    def windows(self, piece: Piece, length: int, overlap: float = 0.0) -> list[Piece]:
        """Return the tokens of a piece as consecutive clips of at most `length` tokens, each with positions from 0 on."""
        return [self._as_clip(window) for window in super().windows(piece, length, overlap)]

    def _as_clip(self, piece: Piece) -> Piece:
        """Return tokens that follow each other as those of a clip: it ends with the samples that the last one depends on."""
        tokens = piece.tokens.copy()
        tokens[0, FIRST_ENTRY] = 1
        tokens[-1, COUNT_ENTRY] = tokens[-1, COUNT_ENTRY] or self.front.field
        return replace(piece, tokens=tokens, positions=piece.positions - piece.positions[0])

    def mask(
        self, piece: Piece, corruption: Corruption, rng: np.random.Generator, progress: float
    ) -> tuple[Piece, Ints]:
        """Raise UsageError: random codes of a token need the mean and deviation of bands, which these models do not have.

        Codes of tokens that are standardised each alone collapse to three (measured on FSDD).
        """
        raise UsageError("pretraining does not go on from a start that reads waves: fit it, or pretrain a new model")

    def _hide(self, piece: Piece, hidden: Ints) -> Piece:
        """Return the piece with the tokens at the indices `hidden` marked as hidden."""
        tokens = piece.tokens.copy()
        tokens[hidden, HIDDEN_ENTRY] = 1
        return replace(piece, tokens=tokens)

    def augment(self, piece: Piece, rng: np.random.Generator, method: str, recolour: bool = True) -> Piece:
        """Return the piece with some stretches of tokens hidden, as these models were fitted (SpecAugment over time).

        Where the model has no vector of hidden tokens, the stretches are silent. method, recolour: not used.
        """
        is_covered = np.zeros(len(piece), np.bool_)
        for _ in range(NUM_STRETCHES):
            begin, end = choose_stretch(len(piece), rng)
            is_covered[begin:end] = True
        return self._hide(piece, np.flatnonzero(is_covered)) if self.masked else self._silence(piece, is_covered)

    def token_names(self, piece: Piece) -> list[str]:
        """Return the beginning of each token in seconds, such as "0.40"."""
        return [f"{position * self.token_seconds:.2f}" for position in piece.positions[:, 0].tolist()]

    def remove_tokens(self, piece: Piece, tokens: Ints) -> Piece:
        """Return the piece with silence in place of the tokens at the indices `tokens`, since a clip is read whole."""
        return self._silence(piece, np.isin(np.arange(len(piece)), tokens))

    def blank(self, piece: Piece) -> Piece:
        """Return the piece with silence in all tokens, as the baseline of an attribution."""
        return self._silence(piece, np.ones(len(piece), np.bool_))

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 of this source's settings. Equal hashes mean equal encodings of a sound."""
        settings = [repr(self.front), self.normalised, self.masked]
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()
