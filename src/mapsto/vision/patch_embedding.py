"""Tokens of images and of stacks of images (videos), and the modules that embed them.

A token is a row of bytes, a header and the pixels of a patch, channel by channel. The header is the token's type (0 a patch, 1 a
hidden patch, 2 … the special tokens in front, then the learnt queries at the end), its row and column in the grid, and the rows
and columns of the grid. In a stack a patch spans several images: its index along the stack precedes its row, and the length of
the grid precedes its rows. So a batch is copied to the device as bytes, a quarter of the size of floats.
Legend of shapes: t tokens, n images, d width, p side of a patch, f = 3·p·p values of a patch (times the depth in a stack).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mapsto.model.convolution import ConvolutionConfig

# The types of tokens: a patch, a hidden patch, and the first of the special tokens and queries.
PATCH, HIDDEN, FIRST_SPECIAL = 0, 1, 2

# Bytes of a token's header, and of one in a stack.
HEADER_BYTES, STACK_HEADER_BYTES = 5, 7

# The most patches to a side that one byte can count.
MAX_GRID_SIDE = 255

# The amplitude of new position embeddings: about that of embedded pixels at first.
WAVE_AMPLITUDE = 0.2

# The ratio of the longest wavelength of a position embedding to the shortest.
WAVELENGTH_RATIO = 10_000


@dataclass(frozen=True)
class PatchConfig:
    """The shape of a patch embedder."""

    # Pixels to a side of a patch.
    patch: int
    # Of the pixels, from 0 to 1, by channel.
    mean: Sequence[float]
    std: Sequence[float]
    # Rows and columns of the grid that positions were learnt on.
    table: tuple[int, int]
    # Special tokens in front that have a position embedding, and those behind them that have none (registers).
    placed: int
    registers: int
    # Whether hidden patches have a learnt vector; else they are embedded as zero pixels.
    masked: bool
    # Whether the linear map has a bias.
    bias: bool
    # Learnt tokens at the end, each with a position embedding.
    queries: int = 0
    # Layers that add position embeddings of their own to their output.
    layer_positions: int = 0
    # Images of a stack that a patch spans, and patches along the stack; None for single images.
    depth: int | None = None
    length: int | None = None


class PixelEmbedder(nn.Module):
    """A base of embedders: it normalises the pixels of tokens, in fp32."""

    shift: Tensor
    scale: Tensor

    def __init__(self, config: PatchConfig) -> None:
        super().__init__()
        self.patch, values = config.patch, (config.depth or 1) * config.patch**2
        self.header_bytes = HEADER_BYTES if config.depth is None else STACK_HEADER_BYTES
        mean, std = (torch.tensor(channels).repeat_interleave(values) for channels in (config.mean, config.std))
        self.register_buffer("shift", 255 * mean, persistent=False)
        self.register_buffer("scale", 1 / (255 * std), persistent=False)

    def normalise(self, tokens: Tensor) -> Tensor:
        """Return the standardised pixels (t, f)."""
        return (tokens[:, self.header_bytes :].float() - self.shift) * self.scale


class PatchEmbedder(PixelEmbedder):
    """An embedder of image tokens, (t, 5 + f) bytes → (t, d), as of ViT (Dosovitskiy et al. 2021) and its successors."""

    def __init__(self, config: PatchConfig, width: int) -> None:
        super().__init__(config)
        p = self.patch
        # Of the published families, those with registers interpolate their positions with antialiasing.
        self.antialias = config.registers > 0
        # A linear map, stored as a convolution as the published weights are.
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
        layers = config.layer_positions
        self.later_positions = nn.Parameter(torch.zeros(layers, 1, places, width)) if layers else None
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)
        if self.projection.bias is not None:
            nn.init.zeros_(self.projection.bias)
        with torch.no_grad():
            waves = WAVE_AMPLITUDE * _grid_waves(config.table, width)
            self.position_embeddings[0, self.placed : places - self.queries] = waves

    def forward(self, tokens: Tensor) -> Tensor:
        types = tokens[:, 0].long()
        is_patch = (types == PATCH)[:, None]
        x = F.linear(self.normalise(tokens) * is_patch, self.projection.weight.flatten(1), self.projection.bias)
        if self.mask_token is not None:
            x = torch.where((types == HIDDEN)[:, None], self.mask_token, x)
        cls = None if self.cls_token is None else self.cls_token.transpose(0, 1)
        tables = [part[0] for part in (cls, self.register_tokens, self.query_tokens) if part is not None]
        return _replace_special(types, x, tables) + self._positions(self.position_embeddings[0], tokens)

    def layer_positions(self, tokens: Tensor) -> Tensor:
        """Return the position embeddings (layers, t, d) that layers add to their output (YOLOS)."""
        assert self.later_positions is not None
        return torch.stack([self._positions(table[0], tokens) for table in self.later_positions])

    def _positions(self, table: Tensor, tokens: Tensor) -> Tensor:
        """Return the position embeddings (t, d) of tokens, by a table (·, d) of special tokens, patches and queries."""
        types = tokens[:, 0].long()
        front, patches, queries = torch.split(table, [self.placed, math.prod(self.table), self.queries])
        of_patches = _interpolate_positions(patches, self.table, tokens, self.antialias)
        return _replace_special(types, of_patches, [front, table.new_zeros(self.registers, table.shape[1]), queries])


def _replace_special(types: Tensor, x: Tensor, tables: Sequence[Tensor]) -> Tensor:
    """Return the vectors `x` (t, d) of patches, and for special tokens and queries the rows of `tables` (·, d)."""
    if not sum(map(len, tables)):
        return x
    special = F.embedding((types - FIRST_SPECIAL).clamp(min=0), torch.cat(list(tables)))
    return torch.where((types < FIRST_SPECIAL)[:, None], x, special)


class PatchPositions(nn.Module):
    """Fixed position embeddings of image tokens, (t, 5 + f) bytes → (t, d); the table's first row is for special tokens."""

    def __init__(self, grid: tuple[int, int], width: int) -> None:
        super().__init__()
        self.grid = grid
        self.table = nn.Parameter(torch.zeros(1, 1 + math.prod(grid), width), requires_grad=False)
        with torch.no_grad():
            self.table[0, 1:] = WAVE_AMPLITUDE * _grid_waves(grid, width)

    def forward(self, tokens: Tensor) -> Tensor:
        is_patch = (tokens[:, 0] < FIRST_SPECIAL)[:, None]
        return torch.where(is_patch, _interpolate_positions(self.table[0, 1:], self.grid, tokens), self.table[0, :1])


def _interpolate_positions(
    embeddings: Tensor, table: tuple[int, int], tokens: Tensor, antialias: bool = False
) -> Tensor:
    """Return the position embeddings (t, d) of patch tokens (t, 5 + f).

    embeddings: (·, d), of a grid of the size `table`; interpolated to grids of other sizes as the published families do.
    """
    places = tokens[:, 1:3].long()
    positions = None
    for rows, columns, is_member in iterate_grids(tokens):
        resized = embeddings
        if (rows, columns) != table:
            image = embeddings.view(1, *table, -1).permute(0, 3, 1, 2).float()
            image = F.interpolate(image, size=(rows, columns), mode="bicubic", antialias=antialias)
            resized = image.permute(0, 2, 3, 1).flatten(0, 2)
        indices = torch.where(is_member, places[:, 0] * columns + places[:, 1], 0)
        part = F.embedding(indices, resized) * is_member[:, None]
        positions = part if positions is None else positions + part
    assert positions is not None
    return positions


def iterate_grids(tokens: Tensor) -> Iterator[tuple[int, int, Tensor]]:
    """Yield for each size of grid among tokens (t, 5 + f) its rows, its columns, and a mask (t,) of its tokens."""
    # One number for each size, since `unique` of numbers is far faster than of pairs.
    sizes = tokens[:, 3].long() * (MAX_GRID_SIDE + 1) + tokens[:, 4].long()
    for size in torch.unique(sizes).tolist():
        yield *divmod(size, MAX_GRID_SIDE + 1), sizes == size


class StackEmbedder(PixelEmbedder):
    """An embedder of stack tokens, (t, 7 + f) bytes → (t, d), with fixed position embeddings (VideoMAE)."""

    def __init__(self, config: PatchConfig, width: int) -> None:
        super().__init__(config)
        assert config.depth is not None
        kernel = (config.depth, self.patch, self.patch)
        # A linear map, stored as a convolution as the published weights are.
        self.projection = nn.Conv3d(3, width, kernel, stride=kernel, bias=config.bias)
        self.positions = StackPositions(config, width)
        nn.init.normal_(self.projection.weight, std=len(self.shift) ** -0.5)  # about the amplitude of the positions
        if self.projection.bias is not None:
            nn.init.zeros_(self.projection.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        is_patch = (tokens[:, 0] == PATCH)[:, None]
        x = F.linear(self.normalise(tokens) * is_patch, self.projection.weight.flatten(1), self.projection.bias)
        return torch.add(x, self.positions(tokens))


class StackPositions(nn.Module):
    """Fixed position embeddings of stack tokens, (t, 7 + f) bytes → (t, d) (VideoMAE, Tong et al. 2022).

    They are sines and cosines, by turns, of a patch's number in the largest grid, counted along rows, columns and the stack.
    """

    waves: Tensor

    def __init__(self, config: PatchConfig, width: int) -> None:
        super().__init__()
        self.rows, self.columns = config.table
        numbers = torch.arange((config.length or 1) * self.rows * self.columns, dtype=torch.float64)[:, None]
        channels = torch.arange(width)
        angles = numbers / WAVELENGTH_RATIO ** ((channels // 2 * 2).double() / width)
        waves = torch.where(channels % 2 == 0, angles.sin(), angles.cos()).float()
        self.register_buffer("waves", waves, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        depth, row, column = tokens[:, 1:4].long().unbind(1)
        return self.waves[(depth * self.rows + row) * self.columns + column]


class ConvolutionEmbedder(PixelEmbedder):
    """An embedder of whole images by a convolutional network: (t, 5 + f) bytes, image by image, → its cells (t, d)."""

    def __init__(self, config: PatchConfig, front: ConvolutionConfig) -> None:
        super().__init__(config)
        self.network = front.network()

    def forward(self, tokens: Tensor) -> Tensor:
        places, parts = [], []
        for rows, columns, is_member in iterate_grids(tokens):
            cells = self.network(self._join(self.normalise(tokens[is_member]), rows, columns))
            places.append(is_member.nonzero()[:, 0])
            parts.append(cells.permute(0, 2, 3, 1).flatten(0, 2))
        return torch.cat(parts)[torch.cat(places).argsort()]

    def _join(self, patches: Tensor, rows: int, columns: int) -> Tensor:
        """Return the images (n, 3, h, w) of patches (t, f)."""
        p = self.patch
        return patches.view(-1, rows, columns, 3, p, p).permute(0, 3, 1, 4, 2, 5).reshape(-1, 3, rows * p, columns * p)


def to_tokens(pixels: Tensor, p: int, leading: int) -> Tensor:
    """Return images (n, 3, h, w) as tokens (n, t, 5 + f) of floats, through which gradients reach the pixels.

    pixels: from 0 to 255, of whole patches. leading: special tokens in front.
    """
    n, grid = len(pixels), [side // p for side in pixels.shape[2:]]
    places = torch.cartesian_prod(*(torch.arange(side, device=pixels.device) for side in grid))
    special = FIRST_SPECIAL + torch.arange(leading, device=pixels.device)
    header = torch.zeros(leading + len(places), HEADER_BYTES, device=pixels.device)
    header[:leading, 0], header[leading:, 1:3] = special.to(header), places.to(header)
    header[:, 3:HEADER_BYTES] = torch.tensor(grid).to(header)
    patches = F.pad(F.unfold(pixels, p, stride=p).transpose(1, 2), (0, 0, leading, 0))
    return torch.cat([header.expand(n, -1, -1), patches], dim=-1)


def _grid_waves(grid: tuple[int, int], width: int) -> Tensor:
    """Return sines and cosines (·, width) of row and column at falling frequencies, half of the width for each.

    As MAE (He et al. 2022); zero in the channels that are left over.
    """
    quarter = width // 4
    angles = torch.arange(max(grid))[:, None] * 10_000.0 ** (-torch.arange(quarter) / max(1, quarter))
    waves = torch.cat([angles.sin(), angles.cos()], dim=-1)
    table = torch.zeros(*grid, width)
    table[..., : 2 * quarter], table[..., 2 * quarter : 4 * quarter] = waves[: grid[0], None], waves[None, : grid[1]]
    return table.flatten(0, 1)
