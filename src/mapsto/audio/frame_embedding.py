"""The embedder of sound tokens: two convolutions over log-mel frames, the second with stride 2 (Whisper, Radford et al. 2022).

A token holds frames of its own and those around it that the convolutions need. So its vector depends on no other token, and
sounds can be packed, cut and read in windows without edges: one token more costs a quarter to a half of the first convolution.
Legend of shapes: t tokens, k frames of a token, b bands, d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Numbers in front of a token's frames: whether it is hidden, and whether it begins the sound.
HEADER = 2
HIDDEN_ENTRY, FIRST_ENTRY = 0, 1

# Frames in front of a token's own frames and behind them that the convolutions need.
FRAMES_BEFORE, FRAMES_AFTER = 2, 1


@dataclass(frozen=True)
class FrameConfig:
    """The settings of an embedder of log-mel frames."""

    # Number of frames of a token: 2, or a multiple of 2.
    frames: int
    # Mean and standard deviation of each band, (b,) each.
    mean: Sequence[float]
    std: Sequence[float]
    # Whether hidden tokens have a learnt vector.
    masked: bool

    @property
    def bands(self) -> int:
        """Return the number of bands of a frame."""
        return len(self.mean)

    @property
    def token_frames(self) -> int:
        """Return the number of frames in a token, with those around its own."""
        return FRAMES_BEFORE + self.frames + FRAMES_AFTER

    @property
    def token_size(self) -> int:
        """Return the number of entries of a token."""
        return HEADER + self.token_frames * self.bands


class FrameEmbedder(nn.Module):
    """An embedder from sound tokens (t, 2 + (2 + k + 1)·b) to vectors (t, d)."""

    shift: Tensor
    scale: Tensor

    def __init__(self, config: FrameConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.conv1 = nn.Conv1d(config.bands, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        # The convolutions give a vector for two frames; those of a token are joined.
        num_vectors = config.frames // 2
        self.join = nn.Linear(num_vectors * width, width) if num_vectors > 1 else None
        self.mask_token = nn.Parameter(torch.zeros(1, width)) if config.masked else None
        if self.mask_token is not None:
            nn.init.normal_(self.mask_token, std=0.02)
        self.register_buffer("shift", torch.tensor(config.mean, dtype=torch.float32), persistent=False)
        self.register_buffer("scale", 1 / torch.tensor(config.std, dtype=torch.float32), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        frames = self.normalise(tokens)
        # In front of the first frame the convolutions see zeros, which are no frames of silence.
        is_first = tokens[:, FIRST_ENTRY].bool()
        frames = frames.masked_fill(is_first[:, None, None] & self._in_front(frames), 0.0)
        x = F.gelu(F.linear(_neighbours(frames, 1), _as_matrix(self.conv1), self.conv1.bias))
        x = x.masked_fill(is_first[:, None, None] & (torch.arange(x.shape[1], device=x.device) == 0)[:, None], 0.0)
        x = F.gelu(F.linear(_neighbours(x, 2), _as_matrix(self.conv2), self.conv2.bias)).flatten(1)
        x = x if self.join is None else self.join(x)
        return x if self.mask_token is None else torch.where(tokens[:, :1].bool(), self.mask_token.to(x.dtype), x)

    def normalise(self, tokens: Tensor) -> Tensor:
        """Return the frames of tokens, (t, 2 + k + 1, b), standardised by band; zero in hidden tokens."""
        # Not `len`, which would be a constant of an exported graph.
        frames = tokens[:, HEADER:].float().view(tokens.shape[0], -1, self.config.bands)
        standardised: Tensor = (frames - self.shift) * self.scale
        return standardised.masked_fill(tokens[:, :1, None].bool(), 0.0)

    @staticmethod
    def _in_front(frames: Tensor) -> Tensor:
        """Return (2 + k + 1, 1), True for the frames in front of a token's own."""
        return (torch.arange(frames.shape[1], device=frames.device) < FRAMES_BEFORE)[:, None]


def _as_matrix(convolution: nn.Conv1d) -> Tensor:
    """Return the weights of a convolution over three frames as a matrix (d, 3·inputs), frame by frame."""
    return convolution.weight.permute(0, 2, 1).flatten(1)


def _neighbours(frames: Tensor, stride: int) -> Tensor:
    """Return each group of three frames that follow each other, (t, groups, 3·inputs), every `stride`-th of them.

    frames: (t, frames, inputs).
    """
    return frames.unfold(1, 3, stride).transpose(2, 3).flatten(2)
