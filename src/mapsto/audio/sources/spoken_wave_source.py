"""Waves of a recognizer of speech (Moonshine): long sounds are cut at pauses and read window by window, and silence has no words.

Samples are read as they are recorded, without a mean and deviation of the whole sound, so a window is complete before the rest
of the sound is there. Loudness is that of log-mel frames, as for Whisper; to measure it takes about 0.1 % of the duration.
Legend of shapes: t tokens, n samples of a clip.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mapsto.audio.decoding.mixing import Samples
from mapsto.audio.live import LiveSound
from mapsto.audio.log_mel import HOP, RATE, SILENT, log_mel
from mapsto.audio.sound_value import Sound
from mapsto.audio.sources.sound_source import PROCESSOR_FILE
from mapsto.audio.sources.wave_embedding import COUNT_ENTRY, HEADER
from mapsto.audio.sources.wave_source import WaveSource
from mapsto.audio.windows import split_windows
from mapsto.errors import CheckpointError
from mapsto.model.convolution import ConvolutionConfig
from mapsto.model.wave.network import WaveConfig
from mapsto.sequence.piece import Piece
from mapsto.task.source_capabilities import Streamed, Windowed

# The longest sound that is read at once. Attention has no limit of its own, but the training clips had at most 30 seconds.
MAX_SECONDS = 30


def max_wave_tokens(front: WaveConfig) -> int:
    """Return the number of tokens of the longest sound that is read at once."""
    return front.num_tokens(MAX_SECONDS * RATE)


class SpokenWaveSource(WaveSource, Windowed, Streamed):
    """A source of sounds as waves, of which each window is answered alone and the answers are joined.

    Arguments as for `WaveSource`; clips are never normalised, and no token is hidden.
    """

    family = "moonshine"
    open_live = staticmethod(LiveSound.open)

    @property
    def max_tokens(self) -> int | None:
        """Return the number of tokens that are read at once."""
        return max_wave_tokens(self.front)

    @classmethod
    def open(cls, folder: Path, weights: Mapping[str, Tensor], front: ConvolutionConfig | None = None) -> Self:
        """Return the source of a saved model; see `WaveSource.open`. Raises CheckpointError for clips that are normalised."""
        source = super().open(folder, weights, front)
        if source.normalised:
            raise CheckpointError(
                f"{folder / PROCESSOR_FILE}: do_normalize is not supported, since windows of a sound are read before it ends"
            )
        return source

    def save(self, folder: Path, longest: int) -> dict[str, Any]:
        """Write preprocessor_config.json to `folder`; nothing of it belongs into config.json. longest: not used."""
        super().save(folder, longest)
        return {}

    def is_longer(self, value: Sound, length: int) -> bool:
        """Return whether a sound has more than `length` tokens."""
        return value.info.seconds * RATE >= self.front.field + length * self.front.stride

    def fits_window(self, value: Sound) -> bool:
        """Return whether a sound is read at once."""
        return not self.is_longer(value, max_wave_tokens(self.front))

    def with_padding(self, generates: bool) -> Self:
        """Return the source itself: a sound is read as it is, for any answer. generates: not used."""
        return self

    def read_windows(self, value: Sound, length: int, aligned: bool = False) -> Iterator[Piece]:
        """Yield the windows of a sound, of at most `length` tokens each, as it is decoded.

        It is cut where it is quietest in the second half of a window, and each window is a clip of its own: no token reads
        samples of two windows. aligned: as for `encode`.
        """
        stride = self.front.stride
        # A clip has as many strides of samples as tokens, and what its last token reads beyond its own stride.
        num_strides = length + -(-(self.front.field - stride) // stride)
        for window in split_windows(value.blocks(RATE), stride, num_strides, self._loudness):
            yield self._encode(window.samples, window.begin, value.info.seconds if aligned else None)

    def is_silent(self, piece: Piece) -> bool:
        """Return whether a piece holds no sound that could be speech: nothing as loud as a sine of -72 dB."""
        tokens, last = piece.tokens[:, HEADER:], int(piece.tokens[-1, COUNT_ENTRY])
        samples = np.concatenate([tokens[:-1, : self.front.stride].ravel(), tokens[-1, :last]])
        return bool(self._loudness(samples).max() < SILENT)

    def _loudness(self, samples: Samples) -> NDArray[np.float32]:
        """Return the loudness of each stride of samples (n,), on the scale of frames: the loudest band of its frames."""
        stride = self.front.stride
        count = -(-len(samples) // stride)
        frames = log_mel(samples, -(-count * stride // HOP))
        loudness: NDArray[np.float32] = np.maximum.reduceat(frames.max(1), np.arange(count) * stride // HOP)
        return loudness
