"""The embedder of patches of spectrograms: a linear map and a table of positions (AST, Gong et al. 2021).

Legend of shapes: t tokens, p side of a patch, d width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Numbers in front of a token's values: its type, and the row and column of its patch.
HEADER = 3
TYPE_ENTRY, ROW_ENTRY, COLUMN_ENTRY = 0, 1, 2

# The type of patches; the special tokens in front of them have the types behind it.
PATCH, FIRST_SPECIAL = 0, 1


@dataclass(frozen=True)
class SpectrogramConfig:
    """Shape of the spectrograms that a model reads at once, and of their patches."""

    # Bands and frames of a spectrogram.
    bands: int = 128
    frames: int = 1024
    # Bands and frames to a side of a patch, and from one patch to the next along bands and frames.
    patch: int = 16
    band_stride: int = 10
    frame_stride: int = 10

    @property
    def rows(self) -> int:
        """Number of patches along the bands; bands behind the last patch are not read."""
        return (self.bands - self.patch) // self.band_stride + 1

    @property
    def columns(self) -> int:
        """Number of patches along the frames of a spectrogram."""
        return (self.frames - self.patch) // self.frame_stride + 1


class SpectrogramEmbedder(nn.Module):
    """An embedder from tokens of patches (t, 3 + p·p) to vectors (t, d).

    special: number of special tokens in front of patches.
    """

    def __init__(self, config: SpectrogramConfig, width: int, special: int) -> None:
        super().__init__()
        self.config, self.special = config, special
        # A linear map, stored as a convolution as the published weights are.
        self.projection = nn.Conv2d(1, width, config.patch, (config.band_stride, config.frame_stride))
        self.special_tokens = nn.Parameter(torch.zeros(special, 1, width))
        self.position_embeddings = nn.Parameter(torch.zeros(1, special + config.rows * config.columns, width))
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        types, rows, columns = tokens[:, :HEADER].long().unbind(1)
        x = F.linear(tokens[:, HEADER:].float(), self.projection.weight.flatten(1), self.projection.bias)
        is_patch = types == PATCH
        special = (types - FIRST_SPECIAL).clamp(min=0)
        x = torch.where(is_patch[:, None], x, F.embedding(special, self.special_tokens[:, 0]))
        places = torch.where(is_patch, self.special + rows * self.config.columns + columns, special)
        return torch.add(x, F.embedding(places, self.position_embeddings[0]))
