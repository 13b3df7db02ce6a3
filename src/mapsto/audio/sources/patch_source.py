"""Sounds as overlapping patches of their spectrogram, behind two special tokens, as AST reads them (Gong et al. 2021).

A model reads spectrograms of one length, 10.24 seconds in the published ones. Shorter sounds have the padding behind them with
which it was trained, longer ones are read in windows. Patches are laid out in time, so that cutting a piece cuts its end.
Legend of shapes: t tokens, m frames, b bands, p side of a patch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from torch import Tensor, nn

from mapsto import files
from mapsto.audio import augmentation
from mapsto.audio.log_mel import HOP, RATE, Frames
from mapsto.audio.sound_value import Sound
from mapsto.audio.sources.fbank import log_fbank
from mapsto.audio.sources.patch_embedding import (
    COLUMN_ENTRY,
    FIRST_SPECIAL,
    HEADER,
    PATCH,
    ROW_ENTRY,
    TYPE_ENTRY,
    SpectrogramConfig,
    SpectrogramEmbedder,
)
from mapsto.audio.sources.sound_source import CONFIG_FILE, PROCESSOR_FILE, SoundSourceBase
from mapsto.errors import CheckpointError, UsageError
from mapsto.model.convolution import ConvolutionConfig
from mapsto.sequence.corruption import Corruption
from mapsto.sequence.piece import Alignment, Ints, Piece
from mapsto.task.source import Source

# The feature extractor of `transformers` that makes these spectrograms.
EXTRACTOR = "ASTFeatureExtractor"

# The names of the special tokens.
SPECIAL_NAMES = ("[CLS]", "[distillation]")

# Statistics of log energies in AudioSet, with which spectrograms are standardised: to mean 0 and deviation 0.5.
AUDIOSET_MEAN, AUDIOSET_STD = -4.2677393, 4.5689974

# The names of sizes in config.json, and the largest bands, frames, sides and strides of patches, and patches at once.
SIZE_NAMES = {
    "bands": "num_mel_bins",
    "frames": "max_length",
    "patch": "patch_size",
    "band_stride": "frequency_stride",
    "frame_stride": "time_stride",
}
MAX_SIZES = {"bands": 512, "frames": 2**16, "patch": 32, "band_stride": 32, "frame_stride": 32}
MAX_PATCHES = 2**13


@dataclass(frozen=True)
class Standardisation:
    """Settings that scale log energies to what a model reads: (energy − mean) / (2 · std), or not at all."""

    enabled: bool = True
    mean: float = AUDIOSET_MEAN
    std: float = AUDIOSET_STD

    def apply(self, frames: Frames) -> Frames:
        """Return standardised frames."""
        return (frames - self.mean) / (self.std * 2) if self.enabled else frames


class SpectrogramSource(SoundSourceBase, Source):
    """A source of sounds whose tokens are patches of a spectrogram. config: sizes. scale: how it is standardised."""

    family = "audio_spectrogram_transformer"
    objectives: ClassVar[Mapping[str, float]] = {}

    def __init__(self, config: SpectrogramConfig, scale: Standardisation) -> None:
        self.config, self.scale = config, scale

    def __str__(self) -> str:
        p, seconds = self.config.patch, self.config.frames * HOP / RATE
        return f"patches of {p} bands × {p} frames of sounds, {seconds:.2f} s at once"

    @property
    def token_seconds(self) -> float:
        """Raise UsageError: tokens are patches of some bands, several of which begin together, so no text lies along them."""
        raise UsageError("no text is read along patches of a spectrogram (AST); start from another model of sounds")

    @property
    def max_tokens(self) -> int:
        """Return the number of tokens of a spectrogram, with the special tokens."""
        return len(SPECIAL_NAMES) + self.config.rows * self.config.columns

    @property
    def column_seconds(self) -> float:
        """Return the seconds from one column of patches to the next."""
        return self.config.frame_stride * HOP / RATE

    @classmethod
    def new(cls, values: Sequence[Sound], size: int | None = None, share: float = 1.0) -> Self:
        """Raise UsageError: new models read log-mel frames of any length."""
        raise UsageError(
            "new models of sounds read log-mel frames; patches of spectrograms are read by published models"
        )

    @classmethod
    def open(cls, folder: Path, weights: Mapping[str, Tensor], front: ConvolutionConfig | None = None) -> Self:
        """Return the source of a saved model from the settings in `folder`. weights, front: not used.

        Raises CheckpointError if the settings are invalid or not supported.
        """
        config = _read_sizes(files.read_json(folder / CONFIG_FILE))
        path = folder / PROCESSOR_FILE
        processor = files.read_json(path)
        expected = {"sampling_rate": RATE, "num_mel_bins": config.bands, "max_length": config.frames}
        settings = {name: processor.get(name, value) for name, value in expected.items()}
        if settings != expected:
            raise CheckpointError(f"{path}: spectrograms by {settings} are not supported, only {expected}")
        enabled, mean, std = (
            processor.get(name, value)
            for name, value in (("do_normalize", True), ("mean", AUDIOSET_MEAN), ("std", AUDIOSET_STD))
        )
        is_finite = all(isinstance(number, int | float) and np.isfinite(number) for number in (mean, std))
        if not isinstance(enabled, bool) or not is_finite or std <= 0:
            raise CheckpointError(
                f"{path}: do_normalize is true or false, mean and std are finite numbers, std above 0; not {enabled!r}, "
                f"{mean!r} and {std!r}"
            )
        return cls(config, Standardisation(enabled, float(mean), float(std)))

    def save(self, folder: Path, longest: int) -> dict[str, Any]:
        """Write preprocessor_config.json to `folder`; return the sizes of spectrograms for config.json. longest: not used."""
        processor = {
            "feature_extractor_type": EXTRACTOR,
            "sampling_rate": RATE,
            "feature_size": 1,
            "num_mel_bins": self.config.bands,
            "max_length": self.config.frames,
            "padding_value": 0.0,
            "padding_side": "right",
            "do_normalize": self.scale.enabled,
            "mean": self.scale.mean,
            "std": self.scale.std,
            "return_attention_mask": False,
        }
        files.write_atomic(folder / PROCESSOR_FILE, (json.dumps(processor, indent=1) + "\n").encode())
        return {published: getattr(self.config, name) for name, published in SIZE_NAMES.items()}

    def encode(self, values: Sequence[Sound], place: int, aligned: bool = False) -> list[Piece]:
        """Return a piece for each sound, of as many whole spectrograms as it takes.

        aligned: whether a piece tells the seconds of each token. place: not used.
        """
        return [self._piece(value, aligned) for value in values]

    def frames(self, value: Sound) -> Frames:
        """Return the standardised frames (m, b) of a sound, padded to whole spectrograms."""
        energies, config = log_fbank(value.decode(RATE), self.config.bands), self.config
        # Spectrograms follow each other by whole columns of patches.
        step = config.columns * config.frame_stride
        num_more = max(0, -(-(len(energies) - config.frames) // step))
        padding = config.frames + num_more * step - len(energies)
        return self.scale.apply(np.pad(energies, ((0, padding), (0, 0))))

    def _piece(self, value: Sound, aligned: bool) -> Piece:
        """Return the piece of one sound. aligned: whether it tells the seconds of each token."""
        patches = self._patches(self.frames(value))
        config, special = self.config, len(SPECIAL_NAMES)
        # `frames` gives whole spectrograms, so there are as many columns of patches as these have.
        num_columns = len(patches) // config.rows // config.columns * config.columns
        patches = patches[: num_columns * config.rows]
        columns, rows = np.divmod(np.arange(len(patches)), config.rows)
        tokens = np.zeros((special + len(patches), HEADER + patches.shape[1]), np.float32)
        tokens[:special, TYPE_ENTRY] = FIRST_SPECIAL + np.arange(special)
        tokens[special:, ROW_ENTRY], tokens[special:, COLUMN_ENTRY] = rows, columns % config.columns
        tokens[special:, HEADER:] = patches
        positions = np.concatenate([np.zeros((special, 2), np.int64), np.stack([columns, rows], axis=1)])
        is_special = np.arange(len(tokens)) < special
        alignment = units = None
        if aligned:
            seconds = value.info.seconds
            edges = np.minimum(np.arange(num_columns + 1) * self.column_seconds, seconds)
            edges[-1] = seconds
            regions = np.stack([edges[:-1], edges[1:]], axis=-1)[columns]
            regions = np.concatenate([np.zeros((special, 2)), regions])
            alignment = Alignment(regions[:, None], np.array([[0, seconds]]))
            units = np.concatenate([np.full(special, -1), columns])
        return Piece(self.kind, tokens, positions, is_special, alignment, units)

    def _patches(self, frames: Frames) -> Frames:
        """Return the patches (t, p·p) of frames (m, b), column by column, each band by band."""
        config = self.config
        size = (config.patch, config.patch)
        views = np.lib.stride_tricks.sliding_window_view(frames, size)[:: config.frame_stride, :: config.band_stride]
        return views.swapaxes(2, 3).reshape(-1, config.patch**2)

    def _frames(self, patches: Frames) -> Frames:
        """Return the frames (m, b) that patches (t, p·p) of whole columns show, without bands behind the last patch."""
        config, p = self.config, self.config.patch
        grid = patches.reshape(-1, config.rows, p, p).swapaxes(2, 3)
        num_columns = len(grid)
        frames = np.zeros(
            ((num_columns - 1) * config.frame_stride + p, (config.rows - 1) * config.band_stride + p), np.float32
        )
        for column in range(num_columns):
            for row in range(config.rows):
                first, low = column * config.frame_stride, row * config.band_stride
                frames[first : first + p, low : low + p] = grid[column, row]
        return frames

    def embedder(self, width: int) -> nn.Module:
        """Return the module from tokens (t, 3 + p·p) to vectors (t, width): a linear map plus positions."""
        return SpectrogramEmbedder(self.config, width, len(SPECIAL_NAMES))

    def windows(self, piece: Piece, length: int, overlap: float = 0.0) -> list[Piece]:
        """Return all patches as consecutive pieces of at most `length` tokens, each behind the special tokens.

        The first column of each has the first position, as if the sound began there.
        """
        return [self._from_start(window) for window in super().windows(piece, length, overlap)]

    def _from_start(self, window: Piece) -> Piece:
        """Return a window with the columns of its patches counted from 0."""
        tokens, is_patch = window.tokens.copy(), ~window.special
        columns = window.positions[is_patch, 0]
        tokens[is_patch, COLUMN_ENTRY] = (columns - columns[0]) % self.config.columns
        return replace(window, tokens=tokens)

    def mask(
        self, piece: Piece, corruption: Corruption, rng: np.random.Generator, progress: float
    ) -> tuple[Piece, Ints]:
        """Raise UsageError: patches overlap, so that a hidden one could be read off its neighbours."""
        raise UsageError("this start reads overlapping patches, of which none can be hidden: pretrain another one")

    def augment(self, piece: Piece, rng: np.random.Generator, method: str, recolour: bool = True) -> Piece:
        """Return the piece of a random variant of the sound (SpecAugment); unchanged if tokens are missing.

        method, recolour: not used.
        """
        is_patch = ~piece.special
        columns = piece.positions[is_patch, 0]
        whole = np.repeat(np.arange(len(columns) // self.config.rows), self.config.rows) + columns[:1]
        if not np.array_equal(columns, whole):
            return piece
        frames = self._frames(piece.tokens[is_patch, HEADER:])
        padding = self.scale.apply(np.zeros(1, np.float32))
        varied = augmentation.augment_frames(frames, np.zeros(frames.shape[1], np.float32), rng)
        # The padding behind a sound is no part of it.
        varied = np.where((frames == padding).all(1, keepdims=True), frames, varied)
        tokens = piece.tokens.copy()
        tokens[is_patch, HEADER:] = self._patches(varied)
        return replace(piece, tokens=tokens)

    def token_names(self, piece: Piece) -> list[str]:
        """Return "beginning in seconds,row" of each patch, such as "0.40,3", or the name of a special token."""
        return [
            f"{column * self.column_seconds:.2f},{row}" if kind == PATCH else SPECIAL_NAMES[int(kind) - FIRST_SPECIAL]
            for kind, (column, row) in zip(piece.tokens[:, TYPE_ENTRY].tolist(), piece.positions.tolist(), strict=True)
        ]

    def remove_tokens(self, piece: Piece, tokens: Ints) -> Piece:
        """Return the piece without the tokens at the indices `tokens`. All other tokens keep their positions."""
        return piece.select(np.setdiff1d(np.arange(len(piece)), tokens))

    def blank(self, piece: Piece) -> Piece:
        """Return the piece with the mean of all sounds in each patch, as the baseline of an attribution."""
        tokens = piece.tokens.copy()
        tokens[:, HEADER:] = 0
        return replace(piece, tokens=tokens)

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 of this source's settings. Equal hashes mean equal encodings of a sound."""
        settings = [asdict(self.config), asdict(self.scale)]
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()


def _read_sizes(raw: Mapping[str, Any]) -> SpectrogramConfig:
    """Return the sizes of spectrograms and patches in a config.json. Raises CheckpointError if they are not supported."""
    sizes: dict[str, int] = {}
    for field, name in SIZE_NAMES.items():
        value = raw.get(name, getattr(SpectrogramConfig, field))
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MAX_SIZES[field]:
            raise CheckpointError(f"{CONFIG_FILE}: {name} must be from 1 to {MAX_SIZES[field]:,}, not {value!r:.80}")
        sizes[field] = value
    config = SpectrogramConfig(**sizes)
    if min(config.bands, config.frames) < config.patch or config.rows * config.columns > MAX_PATCHES:
        raise CheckpointError(
            f"{CONFIG_FILE}: {config.bands} bands and {config.frames:,} frames are not 1 to {MAX_PATCHES:,} patches of "
            f"{config.patch}"
        )
    if max(config.band_stride, config.frame_stride) > config.patch:
        raise CheckpointError(f"{CONFIG_FILE}: patches of {config.patch} with gaps between them are not supported")
    return config
