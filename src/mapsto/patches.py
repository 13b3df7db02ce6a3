"""What a picture, or a stack of them, is to a model: rows of bytes, a patch each, and the modules that make vectors of them.

A token says what stands there (0 a patch, 1 a hidden one, 2 … the tokens in front), its row and column in the grid, the rows and
columns of the grid, and the pixels of the patch, channel by channel. In a stack a patch is of several pictures, and its place
along the stack stands before its row, the length of the grid before the number of rows.
Legend of shapes: t tokens, n pictures, d width, p side of a patch, f = 3·p·p values of a patch (of a stack as many times that as
it is deep).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mapsto.convolution import ConvolutionConfig
from mapsto.sequence import Alignment, Ints, Piece

PATCH, HIDDEN, FIRST_OF_FRAME = 0, 1, 2
PLACES, STACKED, MOST_SIDE = 5, 7, 255  # bytes in front of the pixels, also of a stack, and what one of them can count
WAVES = 0.2  # about as strong as the pixels are at first
SLOWEST = 10_000  # how many times as long the last wave is as the first one


@dataclass(frozen=True)
class PatchConfig:
    """How tokens are read. patch: pixels to a side. mean, std: of the pixels, from 0 to 1, by channel. table: patches along a
    side of the grid that positions were learnt on. placed: tokens in front that have a place in the table. registers: those
    behind them, that have none. masked: whether hidden patches have a vector of their own. bias: of the linear map. depth: the
    pictures of a stack that a patch is of, and length: patches along it; None for a picture."""

    patch: int
    mean: Sequence[float]
    std: Sequence[float]
    table: int
    placed: int
    registers: int
    masked: bool
    bias: bool
    depth: int | None = None
    length: int | None = None


class PixelEmbedder(nn.Module):
    """What reads the pixels of tokens of bytes, in fp32."""

    shift: Tensor
    scale: Tensor

    def __init__(self, config: PatchConfig) -> None:
        super().__init__()
        self.patch, values = config.patch, (config.depth or 1) * config.patch**2
        self.first = PLACES if config.depth is None else STACKED
        mean, std = (torch.tensor(channels).repeat_interleave(values) for channels in (config.mean, config.std))
        self.register_buffer("shift", 255 * mean, persistent=False)
        self.register_buffer("scale", 1 / (255 * std), persistent=False)

    def normalised(self, tokens: Tensor) -> Tensor:
        """(t, f)"""
        return (tokens[:, self.first :].float() - self.shift) * self.scale


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


class StackEmbedder(PixelEmbedder):
    """From tokens (t, 7 + f) of bytes of a stack to (t, d), with fixed waves of where they stand."""

    def __init__(self, config: PatchConfig, width: int) -> None:
        super().__init__(config)
        assert config.depth is not None
        kernel = (config.depth, self.patch, self.patch)
        # A linear map, in the shape that others write it in.
        self.projection = nn.Conv3d(3, width, kernel, stride=kernel, bias=config.bias)
        self.places = StackPlaces(config, width)
        nn.init.normal_(self.projection.weight, std=len(self.shift) ** -0.5)  # about as strong as the waves
        if self.projection.bias is not None:
            nn.init.zeros_(self.projection.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        shown = (tokens[:, 0] == PATCH)[:, None]
        x = F.linear(self.normalised(tokens) * shown, self.projection.weight.flatten(1), self.projection.bias)
        return torch.add(x, self.places(tokens))


class StackPlaces(nn.Module):
    """From tokens (t, 7 + f) of bytes to fixed vectors (t, d): sines and cosines by turns of the number of the patch in the
    largest grid, counted along the rows, the columns and the stack (VideoMAE, Tong et al. 2022)."""

    waves: Tensor

    def __init__(self, config: PatchConfig, width: int) -> None:
        super().__init__()
        self.side = config.table
        at = torch.arange((config.length or 1) * self.side**2, dtype=torch.float64)[:, None]
        wave = torch.arange(width)
        angles = at / SLOWEST ** ((wave // 2 * 2).double() / width)
        waves = torch.where(wave % 2 == 0, angles.sin(), angles.cos()).float()
        self.register_buffer("waves", waves, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        depth, row, column = tokens[:, 1:4].long().unbind(1)
        return self.waves[(depth * self.side + row) * self.side + column]


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


def _waves(side: int, width: int) -> Tensor:
    """(side², width): sines and cosines of row and column at falling frequencies, half of the width for each (MAE, He et al.
    2022); zero in what is left over."""
    quarter = width // 4
    angles = torch.arange(side)[:, None] * 10_000.0 ** (-torch.arange(quarter) / max(1, quarter))
    waves = torch.cat([angles.sin(), angles.cos()], dim=-1)
    found = torch.zeros(side, side, width)
    found[..., : 2 * quarter], found[..., 2 * quarter : 4 * quarter] = waves[:, None], waves[None]
    return found.flatten(0, 1)


def select(piece: Piece, keep: Ints) -> Piece:
    """The tokens `keep` of a piece."""
    return replace(
        piece,
        tokens=piece.tokens[keep],
        positions=piece.positions[keep],
        special=piece.special[keep],
        alignment=None if piece.alignment is None else Alignment(piece.alignment.regions[keep]),
        units=None if piece.units is None else piece.units[keep],
    )
