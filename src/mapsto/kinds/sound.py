"""sound: a recording, read as log-mel frames, of which a token holds 20 or 40 ms. As an answer: the hidden tokens of `~sound`, a
sound that is in step with the source, or a text that is spoken (audio/synthesis/enhanced_sound.py, spoken_text.py).

See audio/sound_value.py for the cells, audio/log_mel.py for the frames, audio/frame_embedding.py for the embedder, and
audio/hidden_frames.py for what pretraining predicts.
Legend of shapes: t tokens, k frames of a token, b bands, m frames of a sound, d width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mapsto import files
from mapsto.audio import augmentation
from mapsto.audio.band_source import frames_of
from mapsto.audio.decoding.mixing import Samples
from mapsto.audio.frame_embedding import (
    FIRST_ENTRY,
    FRAMES_AFTER,
    FRAMES_BEFORE,
    HEADER,
    HIDDEN_ENTRY,
    FrameConfig,
    FrameEmbedder,
)
from mapsto.audio.hidden_frames import HiddenFrames
from mapsto.audio.live import LiveSound
from mapsto.audio.log_mel import FRAMES_PER_SECOND, HOP, RATE, SILENT, WINDOW, Frames, log_mel, silence_beside
from mapsto.audio.sound_value import Sound
from mapsto.audio.sources.patch_source import SpectrogramSource
from mapsto.audio.sources.sound_source import CONFIG_FILE, PROCESSOR_FILE, SoundSourceBase, widen_spans
from mapsto.audio.sources.spoken_wave_source import SpokenWaveSource
from mapsto.audio.sources.wave_source import WaveSource
from mapsto.audio.synthesis.enhanced_sound import EnhancedSoundTarget
from mapsto.audio.synthesis.spoken_text import SpokenTextTarget
from mapsto.audio.windows import Window, choose_cut, split_windows
from mapsto.errors import CheckpointError, DataError, UsageError
from mapsto.model.convolution import ConvolutionConfig
from mapsto.sequence.corruption import Corruption, choose_hidden
from mapsto.sequence.piece import Alignment, Ints, Piece
from mapsto.task.source import Source
from mapsto.task.source_capabilities import Streamed, Varied, Windowed

# The feature extractor of `transformers` that makes these frames.
EXTRACTOR = "WhisperFeatureExtractor"

# For new models: frames of a token, and the number of sounds from which the mean and deviation of bands are computed.
TOKEN_FRAMES, STATISTICS_SAMPLE = 4, 500

# The least deviation of a band, so that bands that are always silent are not scaled up.
MIN_DEVIATION = 0.05

# The most bands and frames of a token of a published model, and tokens of silence.
MAX_BANDS, MAX_TOKEN_FRAMES, MAX_SILENCE = 512, 64, 100_000

# Tokens of silence that are kept behind sounds for a decoder.
SILENCE = 64


class SoundSource(SoundSourceBase, Varied, Windowed, Streamed):
    """A source of sounds, whose tokens are a few log-mel frames each, with those around them that convolutions need.

    frames: number of frames k of a token. mean, std: mean and standard deviation of each band, (b,) each.
    window: number of tokens that a published model reads at once, such as 30 seconds; None for any number.
    silence: number of tokens of silence behind each sound, up to the end of the window.
    masked: whether hidden tokens have a learnt vector.
    """

    family = "log_mel"
    objectives: ClassVar[Mapping[str, float]] = {"masked": 0.4}
    variants: ClassVar[Mapping[str, type[Source]]] = {
        "waves": WaveSource,
        "spoken_waves": SpokenWaveSource,
        "patches": SpectrogramSource,
    }

    def __init__(
        self,
        frames: int,
        mean: Sequence[float],
        std: Sequence[float],
        window: int | None = None,
        masked: bool = True,
        silence: int = 0,
    ) -> None:
        self.frames, self.window, self.masked, self.silence = frames, window, masked, silence
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))

    def __str__(self) -> str:
        return f"log-mel frames of sounds: {len(self.mean)} bands, {self.token_seconds * 1000:.0f} ms a token"

    @property
    def token_seconds(self) -> float:
        """Return the duration of a token."""
        return self.frames / FRAMES_PER_SECOND

    @property
    def max_tokens(self) -> int | None:
        """Return the number of tokens that a published model reads at once; None if there is no limit."""
        return self.window

    def fits_window(self, value: Sound) -> bool:
        """Return whether a published model reads a sound at once."""
        return self.window is not None and value.info.seconds <= self.window * self.token_seconds

    @property
    def _config(self) -> FrameConfig:
        """Return the settings of the embedder, which say how tokens are laid out."""
        return FrameConfig(self.frames, self.mean, self.std, self.masked)

    @classmethod
    def new(cls, values: Sequence[Sound], size: int | None = None, share: float = 1.0) -> Self:
        """Return the source of a new model, with the mean and deviation of each band in the training sounds `values`.

        share: not used. Raises DataError if there are no sounds, UsageError for a `size`, since sounds have no vocabulary.
        """
        if size is not None:
            raise UsageError("--vocabulary is for text; sounds have none")
        if not values:
            raise DataError("there is no sound to learn the loudness of bands from")
        sample = values[:: max(1, len(values) // STATISTICS_SAMPLE)][:STATISTICS_SAMPLE]
        frames = np.concatenate([frames_of(value) for value in sample])
        mean, std = frames.mean(0).round(4), np.maximum(frames.std(0), MIN_DEVIATION).round(4)
        return cls(TOKEN_FRAMES, mean.tolist(), std.tolist())

    @classmethod
    def open(cls, folder: Path, weights: Mapping[str, Tensor], front: ConvolutionConfig | None = None) -> Self:
        """Return the source of a saved model from the settings in `folder`, and the embedder's `weights`, whose shapes count.

        front: not used. Raises CheckpointError if the settings or weights are missing, invalid or not supported.
        """
        processor = files.read_json(folder / PROCESSOR_FILE)
        shape = tuple(weights["conv1.weight"].shape) if "conv1.weight" in weights else ()
        if len(shape) != 3 or shape[2] != 3 or not 0 < shape[1] <= MAX_BANDS:
            raise CheckpointError(f"{folder} lacks the weights of its convolutions, or has them in other shapes")
        expected = {"sampling_rate": RATE, "n_fft": WINDOW, "hop_length": HOP, "feature_size": shape[1]}
        settings = {name: processor.get(name, value) for name, value in expected.items()}
        if settings != expected:
            raise CheckpointError(f"{folder / PROCESSOR_FILE}: frames by {settings} are not supported, only {expected}")
        try:
            # A published model has a table of positions for two frames each.
            frames = processor.get("frames_per_token", 2)
            window = files.read_json(folder / CONFIG_FILE).get("max_source_positions")
            mean, std = processor.get("mean", [0.0] * shape[1]), processor.get("std", [1.0] * shape[1])
            if not (isinstance(frames, int) and 0 < frames <= MAX_TOKEN_FRAMES and frames % 2 == 0):
                raise ValueError(f"frames_per_token is an even number up to {MAX_TOKEN_FRAMES}, not {frames!r}")
            if window is not None and not (isinstance(window, int) and window > 0):
                raise ValueError(f"max_source_positions is a positive number, not {window!r}")
            numbers = np.array([mean, std], np.float64)
            if numbers.shape != (2, shape[1]) or not np.isfinite(numbers).all() or not (numbers[1] > 0).all():
                raise ValueError(f"mean and std are {shape[1]} finite numbers each, std above 0")
            silence = processor.get("silence_tokens", window or 0)
            if not (isinstance(silence, int) and 0 <= silence <= MAX_SILENCE):
                raise ValueError(f"silence_tokens is a whole number up to {MAX_SILENCE}, not {silence!r}")
            return cls(frames, mean, std, window, "mask_token" in weights, silence)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{folder / PROCESSOR_FILE}: {error}") from error

    def save(self, folder: Path, longest: int) -> dict[str, Any]:
        """Write preprocessor_config.json to `folder`; return the number of bands for config.json. longest: not used."""
        processor: dict[str, Any] = {
            "feature_extractor_type": EXTRACTOR,
            "sampling_rate": RATE,
            "feature_size": len(self.mean),
            "n_fft": WINDOW,
            "hop_length": HOP,
        }
        if self.window is None:
            processor |= {"frames_per_token": self.frames, "mean": self.mean, "std": self.std}
        else:
            # Entries that `transformers` needs to pad sounds to the whole window.
            num_frames = self.window * self.frames
            processor |= {"chunk_length": -(-num_frames // FRAMES_PER_SECOND), "n_samples": num_frames * HOP}
            processor |= {"nb_max_frames": num_frames, "padding_side": "right", "padding_value": 0.0}
            processor["silence_tokens"] = self.silence
        files.write_atomic(folder / PROCESSOR_FILE, (json.dumps(processor, indent=1) + "\n").encode())
        return {"num_mel_bins": len(self.mean)}

    def with_padding(self, generates: bool) -> SoundSource:
        """Return a source that reads sounds without the silence to which published models pad them.

        generates: whether answers are generated. Decoders find the end of a sound by the silence behind it, so 1.3 seconds of it
        are kept (64 tokens, as FUTO's acft does), to which a fit adapts the decoder.
        """
        if self.window is None:
            return self
        silence = min(SILENCE, self.silence) if generates else 0
        return SoundSource(self.frames, self.mean, self.std, self.window, self.masked, silence)

    def encode(self, values: Sequence[Sound], place: int, aligned: bool = False) -> list[Piece]:
        """Return a piece for each sound; there are no special tokens.

        aligned: whether a piece tells the seconds of each token. place: not used.
        """
        return [self._piece(value, aligned) for value in values]

    open_live = staticmethod(LiveSound.open)

    def is_longer(self, value: Sound, length: int) -> bool:
        """Return whether a sound has more than `length` tokens."""
        return value.info.seconds > length * self.token_seconds

    def read_windows(self, value: Sound, length: int, aligned: bool = False) -> Iterator[Piece]:
        """Yield the windows of a sound, of at most `length` tokens each, as it is decoded.

        It is cut where it is quietest in the second half of a window. aligned: as for `encode`.
        """

        def measure(samples: Samples) -> NDArray[np.float32]:
            frames = log_mel(samples, -(-len(samples) // token) * self.frames, len(self.mean))
            loudness: NDArray[np.float32] = frames.reshape(-1, self.frames * frames.shape[1]).max(1)
            return loudness

        token = HOP * self.frames
        for window in split_windows(value.blocks(RATE), token, length, measure):
            yield self._encode(window, value.info.seconds if aligned else None)

    def _piece(self, value: Sound, aligned: bool) -> Piece:
        """Return the piece of one sound. aligned: whether it tells the seconds of each token."""
        whole = Window(value.decode(RATE), 0, True, -np.inf)
        return self._encode(whole, value.info.seconds if aligned else None)

    def _encode(self, window: Window, seconds: float | None) -> Piece:
        """Return the piece of a window of a sound, or of the whole. seconds: the length of the sound, if tokens tell theirs."""
        samples = window.samples
        count = max(1, -(-len(samples) // (HOP * self.frames)))
        if self.window is not None and count < self.window:
            # Silence that follows the last samples, up to the end of the window. A longer sound gets it by `windows`.
            count += min(self.silence, self.window - count)
        frames = window.raise_floor(log_mel(samples, count * self.frames + FRAMES_AFTER, len(self.mean)))
        tokens = self._tokens(np.pad(frames, ((FRAMES_BEFORE, 0), (0, 0))))
        tokens[:: self.window or count, FIRST_ENTRY] = 1
        if self.window is not None:
            # Behind the last frame that it reads at once, a published model sees zeros.
            tokens[self.window - 1 :: self.window, -FRAMES_AFTER * len(self.mean) :] = 0
        alignment = units = None
        if seconds is not None:
            units = window.begin + np.arange(count)
            begins = units * self.token_seconds
            end = min(seconds, window.begin * self.token_seconds + len(samples) / RATE)
            ends = np.maximum(begins + 1 / RATE, np.minimum(begins + self.token_seconds, end))
            alignment = Alignment(np.stack([begins, ends], axis=-1)[:, None], np.array([[0, seconds]]))
        return Piece(self.kind, tokens, np.arange(count)[:, None], np.zeros(count, np.bool_), alignment, units)

    def _tokens(self, frames: Frames) -> NDArray[np.float32]:
        """Return the tokens (t, 2 + (2 + k + 1)·b) of frames (2 + t·k + 1, b), of which none is hidden or the first."""
        size = self._config.token_frames
        windows = np.lib.stride_tricks.sliding_window_view(frames, size, axis=0)[:: self.frames].transpose(0, 2, 1)
        tokens = np.zeros((len(windows), self._config.token_size), np.float32)
        tokens[:, HEADER:] = windows.reshape(len(windows), -1)
        return tokens

    def _frames(self, piece: Piece) -> Frames:
        """Return the frames (2 + t·k + 1, b) of a piece whose tokens follow each other: the inverse of `_tokens`."""
        by_token = piece.tokens[:, HEADER:].reshape(len(piece), -1, len(self.mean))
        inner = by_token[:, FRAMES_BEFORE : FRAMES_BEFORE + self.frames].reshape(-1, len(self.mean))
        return np.concatenate([by_token[0, :FRAMES_BEFORE], inner, by_token[-1, -FRAMES_AFTER:]])

    def features(self, tokens: Tensor) -> Tensor:
        """Return the frames of tokens themselves, (t, k·b), standardised by band."""
        b = len(self.mean)
        begin = HEADER + FRAMES_BEFORE * b
        frames = tokens[:, begin : begin + self.frames * b].float().view(len(tokens), -1, b)
        mean, std = (torch.tensor(values, device=tokens.device) for values in (self.mean, self.std))
        standardised: Tensor = (frames - mean) / std
        return standardised.flatten(1)

    def embedder(self, width: int) -> nn.Module:
        """Return the module from tokens (t, 2 + (2 + k + 1)·b) to vectors (t, width): two convolutions over frames."""
        return FrameEmbedder(self._config, width)

    def cut(self, piece: Piece, length: int) -> Piece:
        """Return the first `length` tokens of the piece."""
        return piece.select(np.arange(length))

    def windows(self, piece: Piece, length: int, overlap: float = 0.0) -> list[Piece]:
        """Return the tokens of a piece as consecutive pieces of at most `length` tokens, each with positions from 0 on.

        A sound is cut where it is quietest in the second half of a window, between words if there is a pause. A published model
        sees each window as a sound of its own.
        """
        assert not overlap, "only windows of text overlap"
        loudness, edges = self._loudness(piece), [0]
        while len(piece) - edges[-1] > length:
            edges.append(edges[-1] + choose_cut(loudness[edges[-1] :], length))
        edges.append(len(piece))
        windows = [piece.select(np.arange(begin, end)) for begin, end in pairwise(edges)]
        return [self._as_whole(replace(part, positions=part.positions - part.positions[0])) for part in windows]

    def _loudness(self, piece: Piece) -> NDArray[np.float32]:
        """Return the loudness of each token, (t,), on the scale of frames: the loudest band of its own frames."""
        frames = piece.tokens[:, HEADER:].reshape(len(piece), -1, len(self.mean))
        loudness: NDArray[np.float32] = frames[:, FRAMES_BEFORE : FRAMES_BEFORE + self.frames].max((1, 2))
        return loudness

    def _as_whole(self, piece: Piece) -> Piece:
        """Return the window of a sound as a published model reads it: with silence behind it, and nothing before it."""
        if self.window is None:
            return piece
        b, count = len(self.mean), len(piece)
        frames = self._frames(piece)
        padding = min(self.silence, self.window - count)
        floor = silence_beside(frames)
        silent = np.full((padding * self.frames, b), floor, np.float32)
        tokens = self._tokens(np.concatenate([frames, silent]))
        tokens[0, FIRST_ENTRY] = 1
        count += padding
        if count == self.window:
            tokens[-1, -FRAMES_AFTER * b :] = 0
        alignment = units = None
        if piece.alignment is not None and piece.units is not None:
            last = piece.alignment.regions[-1, 0, 1]
            ends = last + np.arange(1, padding + 1) * self.token_seconds
            regions = np.stack([ends - self.token_seconds, ends], axis=-1)[:, None]
            alignment = replace(piece.alignment, regions=np.concatenate([piece.alignment.regions, regions]))
            units = np.concatenate([piece.units, piece.units[-1] + np.arange(1, padding + 1)])
        return Piece(self.kind, tokens, np.arange(count)[:, None], np.zeros(count, np.bool_), alignment, units)

    def is_silent(self, piece: Piece) -> bool:
        """Return whether a piece holds no sound that could be speech: nothing as loud as a sine of -72 dB."""
        return bool(self._loudness(piece).max() < SILENT)

    def mask(
        self, piece: Piece, corruption: Corruption, rng: np.random.Generator, progress: float
    ) -> tuple[Piece, Ints]:
        """Return the piece with some tokens hidden, and the indices (m,) of these tokens.

        Single tokens could be read off their neighbours, so spans of about 0.4 seconds are hidden where no shape is named.
        corruption: share and shape of hidden tokens. progress: finished share of training, 0 to 1.
        """
        hidden = choose_hidden(widen_spans(corruption, self.token_seconds), piece, rng, progress)
        tokens = piece.tokens.copy()
        tokens[hidden] = 0
        tokens[hidden, HIDDEN_ENTRY] = 1
        tokens[hidden, FIRST_ENTRY] = piece.tokens[hidden, FIRST_ENTRY]
        return replace(piece, tokens=tokens), hidden

    def augment(self, piece: Piece, rng: np.random.Generator, method: str, recolour: bool = True) -> Piece:
        """Return the piece of a random variant of the sound (SpecAugment, another voice); unchanged if tokens are missing.

        recolour: whether loudness and voice may change; an answer that resembles the sound would not match it. method: not used.
        """
        if not recolour or (np.diff(piece.positions[:, 0]) != 1).any():
            return piece
        varied = augmentation.augment_frames(self._frames(piece), np.array(self.mean, np.float32), rng)
        tokens = self._tokens(varied)
        tokens[:, :HEADER] = piece.tokens[:, :HEADER]
        return replace(piece, tokens=tokens)

    def token_names(self, piece: Piece) -> list[str]:
        """Return the beginning of each token in seconds, such as "0.40"."""
        return [f"{position * self.token_seconds:.2f}" for position in piece.positions[:, 0].tolist()]

    def remove_tokens(self, piece: Piece, tokens: Ints) -> Piece:
        """Return the piece without the tokens at the indices `tokens`. All other tokens keep their positions."""
        return piece.select(np.setdiff1d(np.arange(len(piece)), tokens))

    def blank(self, piece: Piece) -> Piece:
        """Return the piece with the mean of all sounds in each frame, as the baseline of an attribution."""
        tokens = piece.tokens.copy()
        tokens[:, HEADER:] = np.tile(np.array(self.mean, np.float32), self._config.token_frames)
        return replace(piece, tokens=tokens)

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 of this source's settings. Equal hashes mean equal encodings of a sound."""
        settings = [self.frames, self.mean, self.std, self.window, self.masked, self.silence]
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()


source = SoundSource
target = EnhancedSoundTarget
synthesised = SpokenTextTarget
restored = HiddenFrames
