"""What a picture is to a model: rows of bytes, a patch each, and the modules that make vectors of them.

A token says what stands there (0 a patch, 1 a hidden one, 2 … the tokens in front), its row and column in the grid, the rows and
columns of the grid, and the pixels of the patch, channel by channel.
Legend of shapes: t tokens, n pictures, d width, p side of a patch, f = 3·p·p values of a patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mapsto.convolution import ConvolutionConfig

PATCH, HIDDEN, FIRST_OF_FRAME = 0, 1, 2
PLACES, MOST_SIDE = 5, 255  # bytes in front of the pixels, and what one of them can count
WAVES = 0.2  # about as strong as the pixels are at first


@dataclass(frozen=True)
class PatchConfig:
    """How tokens are read. patch: pixels to a side. mean, std: of the pixels, from 0 to 1, by channel. table: patches along a
    side of the grid that positions were learnt on. placed: tokens in front that have a place in the table. registers: those
    behind them, that have none. masked: whether hidden patches have a vector of their own. bias: of the linear map."""

    patch: int
    mean: Sequence[float]
    std: Sequence[float]
    table: int
    placed: int
    registers: int
    masked: bool
    bias: bool


class PixelEmbedder(nn.Module):
    """What reads the pixels of tokens (t, 5 + f) of bytes, in fp32."""

    shift: Tensor
    scale: Tensor

    def __init__(self, config: PatchConfig) -> None:
        super().__init__()
        self.patch = config.patch
        mean, std = (torch.tensor(values).repeat_interleave(self.patch**2) for values in (config.mean, config.std))
        self.register_buffer("shift", 255 * mean, persistent=False)
        self.register_buffer("scale", 1 / (255 * std), persistent=False)

    def normalised(self, tokens: Tensor) -> Tensor:
        """(t, f)"""
        return (tokens[:, PLACES:].float() - self.shift) * self.scale


class PatchEmbedder(PixelEmbedder):
    """From tokens (t, 5 + f) of bytes to (t, d)."""

    def __init__(self, config: PatchConfig, width: int) -> None:
        super().__init__(config)
        p = self.patch
        self.smoothed = config.registers > 0  # as the families with and without registers draw their tables
        # A linear map, in the shape that others write it in.
        self.projection = nn.Conv2d(3, width, p, stride=p, bias=config.bias)
        self.placed = config.placed
        self.cls_token = nn.Parameter(torch.zeros(config.placed, 1, width)) if config.placed else None
        self.register_tokens = nn.Parameter(torch.zeros(1, config.registers, width)) if config.registers else None
        self.mask_token = nn.Parameter(torch.zeros(1, width)) if config.masked else None
        self.position_embeddings = nn.Parameter(torch.zeros(1, config.placed + config.table**2, width))
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)
        if self.projection.bias is not None:
            nn.init.zeros_(self.projection.bias)
        with torch.no_grad():
            self.position_embeddings[0, self.placed :] = WAVES * _waves(config.table, width)

    def forward(self, tokens: Tensor) -> Tensor:
        what, at, grid = tokens[:, 0].long(), tokens[:, 1:3].long(), tokens[:, 3:PLACES].long()
        shown = (what == PATCH)[:, None]
        x = F.linear(self.normalised(tokens) * shown, self.projection.weight.flatten(1), self.projection.bias)
        if self.mask_token is not None:
            x = torch.where((what == HIDDEN)[:, None], self.mask_token, x)
        x = x + _drawn(self.position_embeddings[0, self.placed :], at, grid, self.smoothed)
        front = self._front()
        if not front:
            return x
        return torch.where((what < FIRST_OF_FRAME)[:, None], x, torch.cat(front)[(what - FIRST_OF_FRAME).clamp(min=0)])

    def _front(self) -> list[Tensor]:
        """The tokens before the patches, [(·, d)]."""
        placed = [] if self.cls_token is None else [self.cls_token[:, 0] + self.position_embeddings[0, : self.placed]]
        return placed if self.register_tokens is None else [*placed, self.register_tokens[0]]


class PatchPlaces(nn.Module):
    """From tokens (t, 5 + f) of bytes to fixed vectors (t, d) of where they stand; the first of its table is the frame's."""

    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(1, 1 + side**2, width), requires_grad=False)
        with torch.no_grad():
            self.table[0, 1:] = WAVES * _waves(side, width)

    def forward(self, tokens: Tensor) -> Tensor:
        at, grid = tokens[:, 1:3].long(), tokens[:, 3:PLACES].long()
        patch = (tokens[:, 0] < FIRST_OF_FRAME)[:, None]
        return torch.where(patch, _drawn(self.table[0, 1:], at, grid), self.table[0, :1])


def _drawn(learnt: Tensor, at: Tensor, grid: Tensor, smoothed: bool = False) -> Tensor:
    """(t, d): the vectors of rows and columns `at` (t, 2), out of those `learnt` (side², d) on a square grid, drawn over a `grid`
    (t, 2) of another size as the published families do it."""
    side = round(len(learnt) ** 0.5)
    found = None
    for rows, columns in torch.unique(grid, dim=0).tolist():
        table = learnt
        if (rows, columns) != (side, side):
            square = table.view(1, side, side, -1).permute(0, 3, 1, 2).float()
            drawn = F.interpolate(square, size=(rows, columns), mode="bicubic", antialias=smoothed)
            table = drawn.permute(0, 2, 3, 1).flatten(0, 2)
        here = (grid == torch.tensor([rows, columns], device=grid.device)).all(-1)
        part = table[torch.where(here, at[:, 0] * columns + at[:, 1], 0)] * here[:, None]
        found = part if found is None else found + part
    assert found is not None
    return found


class PictureEmbedder(PixelEmbedder):
    """From tokens (t, 5 + f) of bytes, all of each picture one after the other, to what a network gives for their cells,
    (t, d)."""

    def __init__(self, config: PatchConfig, front: ConvolutionConfig) -> None:
        super().__init__(config)
        self.network = front.network()

    def forward(self, tokens: Tensor) -> Tensor:
        grids = tokens[:, 3:PLACES].long()
        places, parts = [], []
        for rows, columns in torch.unique(grids, dim=0).tolist():
            here = (grids == torch.tensor([rows, columns], device=grids.device)).all(-1).nonzero()[:, 0]
            cells = self.network(self._joined(self.normalised(tokens[here]), rows, columns))
            places.append(here)
            parts.append(cells.permute(0, 2, 3, 1).flatten(0, 2))
        return torch.cat(parts)[torch.cat(places).argsort()]

    def _joined(self, patches: Tensor, rows: int, columns: int) -> Tensor:
        """Pictures (n, 3, h, w) of patches (t, f)."""
        p = self.patch
        return patches.view(-1, rows, columns, 3, p, p).permute(0, 3, 1, 4, 2, 5).reshape(-1, 3, rows * p, columns * p)


def laid(pixels: Tensor, p: int, leading: int) -> Tensor:
    """Tokens (n, t, 5 + f) of pictures (n, 3, h, w) of whole patches, from 0 to 255 and not rounded, behind `leading` ones in
    front; through them gradients reach the pixels."""
    n, grid = len(pixels), [side // p for side in pixels.shape[2:]]
    places = torch.cartesian_prod(*(torch.arange(side, device=pixels.device) for side in grid))
    front = FIRST_OF_FRAME + torch.arange(leading, device=pixels.device)
    prefix = torch.zeros(leading + len(places), PLACES, device=pixels.device)
    prefix[:leading, 0], prefix[leading:, 1:3] = front.to(prefix), places.to(prefix)
    prefix[:, 3:PLACES] = torch.tensor(grid).to(prefix)
    patches = F.pad(F.unfold(pixels, p, stride=p).transpose(1, 2), (0, 0, leading, 0))
    return torch.cat([prefix.expand(n, -1, -1), patches], dim=-1)


def _waves(side: int, width: int) -> Tensor:
    """(side², width): sines and cosines of row and column at falling frequencies, half of the width for each (MAE, He et al.
    2022); zero in what is left over."""
    quarter = width // 4
    angles = torch.arange(side)[:, None] * 10_000.0 ** (-torch.arange(quarter) / max(1, quarter))
    waves = torch.cat([angles.sin(), angles.cos()], dim=-1)
    found = torch.zeros(side, side, width)
    found[..., : 2 * quarter], found[..., 2 * quarter : 4 * quarter] = waves[:, None], waves[None]
    return found.flatten(0, 1)
