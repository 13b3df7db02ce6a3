"""What a picture, or a stack of them, is to a model: rows of bytes, a patch each, and the modules that make vectors of them.

A token says what stands there (0 a patch, 1 a hidden one, 2 … the tokens in front, then the learnt queries at the end), its row
and column in the grid, the rows and columns of the grid, and the pixels of the patch, channel by channel. In a stack a patch is
of several pictures, and its place along the stack stands before its row, the length of the grid before the number of rows.
Legend of shapes: t tokens, n pictures, d width, p side of a patch, f = 3·p·p values of a patch (of a stack as many times that as
it is deep).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mapsto.model.convolution import ConvolutionConfig
from mapsto.sequence.piece import Ints, Piece

PATCH, HIDDEN, FIRST_OF_FRAME = 0, 1, 2


PLACES, STACKED, MOST_SIDE = 5, 7, 255  # bytes in front of the pixels, also of a stack, and what one of them can count


WAVES = 0.2  # about as strong as the pixels are at first


SLOWEST = 10_000  # how many times as long the last wave is as the first one


@dataclass(frozen=True)
class PatchConfig:
    """How tokens are read. patch: pixels to a side. mean, std: of the pixels, from 0 to 1, by channel. table: rows and columns of
    the grid that positions were learnt on. placed: tokens in front that have a place in the table. registers: those behind them,
    that have none. masked: whether hidden patches have a vector of their own. bias: of the linear map. queries: learnt tokens at
    the end, each with a place in the table. layer_positions: layers
    that add the positions again. depth: the pictures of
    a stack that a patch is of, and length: patches along it; None for a picture."""

    patch: int
    mean: Sequence[float]
    std: Sequence[float]
    table: tuple[int, int]
    placed: int
    registers: int
    masked: bool
    bias: bool
    queries: int = 0
    layer_positions: int = 0
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
        self.placed, self.registers, self.queries, self.table = (
            config.placed,
            config.registers,
            config.queries,
            config.table,
        )
        places = config.placed + math.prod(config.table) + config.queries
        self.cls_token = nn.Parameter(torch.zeros(config.placed, 1, width)) if config.placed else None
        self.register_tokens = nn.Parameter(torch.zeros(1, config.registers, width)) if config.registers else None
        self.query_tokens = nn.Parameter(torch.zeros(1, config.queries, width)) if config.queries else None
        self.mask_token = nn.Parameter(torch.zeros(1, width)) if config.masked else None
        self.position_embeddings = nn.Parameter(torch.zeros(1, places, width))
        self.later_positions = (
            nn.Parameter(torch.zeros(config.layer_positions, 1, places, width)) if config.layer_positions else None
        )
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)
        if self.projection.bias is not None:
            nn.init.zeros_(self.projection.bias)
        with torch.no_grad():
            self.position_embeddings[0, self.placed : places - self.queries] = WAVES * _waves(config.table, width)

    def forward(self, tokens: Tensor) -> Tensor:
        what = tokens[:, 0].long()
        shown = (what == PATCH)[:, None]
        x = F.linear(self.normalised(tokens) * shown, self.projection.weight.flatten(1), self.projection.bias)
        if self.mask_token is not None:
            x = torch.where((what == HIDDEN)[:, None], self.mask_token, x)
        cls = None if self.cls_token is None else self.cls_token.transpose(0, 1)
        learnt = [part[0] for part in (cls, self.register_tokens, self.query_tokens) if part is not None]
        return _learnt_where(what, x, learnt) + self._stands(self.position_embeddings[0], tokens)

    def layer_positions(self, tokens: Tensor) -> Tensor:
        """What is added behind layers, (·, t, d): where tokens stand, once more."""
        assert self.later_positions is not None
        return torch.stack([self._stands(learnt[0], tokens) for learnt in self.later_positions])

    def _stands(self, learnt: Tensor, tokens: Tensor) -> Tensor:
        """Where tokens stand, (t, d), by a table (s, d): of the tokens in front, the patches, and the queries."""
        what = tokens[:, 0].long()
        front, patches, queries = torch.split(learnt, [self.placed, math.prod(self.table), self.queries])
        drawn = _drawn(patches, self.table, tokens, self.smoothed)
        return _learnt_where(what, drawn, [front, learnt.new_zeros(self.registers, learnt.shape[1]), queries])


def _learnt_where(what: Tensor, x: Tensor, learnt: Sequence[Tensor]) -> Tensor:
    """`x` (t, d) of patches; of other tokens what stands for them in the tables `learnt` (·, d)."""
    if not sum(map(len, learnt)):
        return x
    other = F.embedding((what - FIRST_OF_FRAME).clamp(min=0), torch.cat(list(learnt)))
    return torch.where((what < FIRST_OF_FRAME)[:, None], x, other)


class PatchPlaces(nn.Module):
    """From tokens (t, 5 + f) of bytes to fixed vectors (t, d) of where they stand; the first of its table is the frame's."""

    def __init__(self, grid: tuple[int, int], width: int) -> None:
        super().__init__()
        self.grid = grid
        self.table = nn.Parameter(torch.zeros(1, 1 + math.prod(grid), width), requires_grad=False)
        with torch.no_grad():
            self.table[0, 1:] = WAVES * _waves(grid, width)

    def forward(self, tokens: Tensor) -> Tensor:
        patch = (tokens[:, 0] < FIRST_OF_FRAME)[:, None]
        return torch.where(patch, _drawn(self.table[0, 1:], self.grid, tokens), self.table[0, :1])


def _drawn(learnt: Tensor, table: tuple[int, int], tokens: Tensor, smoothed: bool = False) -> Tensor:
    """(t, d): the vectors of where tokens (t, 5 + f) stand, out of those `learnt` (·, d) on a grid `table`, drawn over grids of
    another size as the published families do it."""
    at = tokens[:, 1:3].long()
    found = None
    for rows, columns, here in by_grid(tokens):
        over = learnt
        if (rows, columns) != table:
            known = learnt.view(1, *table, -1).permute(0, 3, 1, 2).float()
            drawn = F.interpolate(known, size=(rows, columns), mode="bicubic", antialias=smoothed)
            over = drawn.permute(0, 2, 3, 1).flatten(0, 2)
        part = F.embedding(torch.where(here, at[:, 0] * columns + at[:, 1], 0), over) * here[:, None]
        found = part if found is None else found + part
    assert found is not None
    return found


def by_grid(tokens: Tensor) -> Iterator[tuple[int, int, Tensor]]:
    """For each size of grid among tokens (t, 5 + f): its rows, its columns, and which tokens are of such a grid, (t,)."""
    sizes = (
        tokens[:, 3].long() * (MOST_SIDE + 1) + tokens[:, 4].long()
    )  # `unique` of numbers is far faster than of pairs
    for size in torch.unique(sizes).tolist():
        yield *divmod(size, MOST_SIDE + 1), sizes == size


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
        self.rows, self.columns = config.table
        at = torch.arange((config.length or 1) * self.rows * self.columns, dtype=torch.float64)[:, None]
        wave = torch.arange(width)
        angles = at / SLOWEST ** ((wave // 2 * 2).double() / width)
        waves = torch.where(wave % 2 == 0, angles.sin(), angles.cos()).float()
        self.register_buffer("waves", waves, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        depth, row, column = tokens[:, 1:4].long().unbind(1)
        return self.waves[(depth * self.rows + row) * self.columns + column]


class PictureEmbedder(PixelEmbedder):
    """From tokens (t, 5 + f) of bytes, all of each picture one after the other, to what a network gives for their cells,
    (t, d)."""

    def __init__(self, config: PatchConfig, front: ConvolutionConfig) -> None:
        super().__init__(config)
        self.network = front.network()

    def forward(self, tokens: Tensor) -> Tensor:
        places, parts = [], []
        for rows, columns, here in by_grid(tokens):
            cells = self.network(self._joined(self.normalised(tokens[here]), rows, columns))
            places.append(here.nonzero()[:, 0])
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


def _waves(grid: tuple[int, int], width: int) -> Tensor:
    """(·, width): sines and cosines of row and column at falling frequencies, half of the width for each (MAE, He et al. 2022);
    zero in what is left over."""
    quarter = width // 4
    angles = torch.arange(max(grid))[:, None] * 10_000.0 ** (-torch.arange(quarter) / max(1, quarter))
    waves = torch.cat([angles.sin(), angles.cos()], dim=-1)
    found = torch.zeros(*grid, width)
    found[..., : 2 * quarter], found[..., 2 * quarter : 4 * quarter] = waves[: grid[0], None], waves[None, : grid[1]]
    return found.flatten(0, 1)


def select(piece: Piece, keep: Ints) -> Piece:
    """The tokens `keep` of a piece."""
    return replace(
        piece,
        tokens=piece.tokens[keep],
        positions=piece.positions[keep],
        special=piece.special[keep],
        alignment=None if piece.alignment is None else replace(piece.alignment, regions=piece.alignment.regions[keep]),
        units=None if piece.units is None else piece.units[keep],
    )
