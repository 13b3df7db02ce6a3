"""Tokens of images and of image stacks (videos), and the modules that embed them.

A token is a row of bytes: a header, then the pixels of a patch, channel by channel. The header is (type, row, column,
rows, columns), where rows and columns are the size of the grid. In a stack a patch spans several images, and the header
is (type, index, row, column, length, rows, columns), with index and length along the stack. Types are 0 for a patch, 1
for a hidden patch, and from 2 on the special tokens in front and then the learnt queries at the end.
Bytes take a quarter of the time of floats to copy to the device.
Legend of shapes: t tokens, n images, d width, p side of a patch, f = 3·p·p values of a patch (in a stack times depth).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mapsto.errors import UsageError
from mapsto.model.convolution import ConvolutionConfig

# The types of tokens: a patch, a hidden patch, and the first of the special tokens and queries.
PATCH, HIDDEN, FIRST_SPECIAL = 0, 1, 2

# Bytes of a token's header, for an image and for a stack.
HEADER_BYTES, STACK_HEADER_BYTES = 5, 7

# The most patches to a side that one byte can count.
MAX_GRID_SIDE = 255

# The amplitude of new position embeddings: about that of embedded pixels at first.
WAVE_AMPLITUDE = 0.2

# The ratio of the longest wavelength of a position embedding to the shortest.
WAVELENGTH_RATIO = 10_000


@dataclass(frozen=True)
class PatchConfig:
    """The settings of an embedder of patches: sizes, statistics of pixels, and which tokens get which learnt vectors."""

    # Pixels to a side of a patch.
    patch: int
    # Mean and standard deviation of pixels by channel, on the scale from 0 to 1.
    mean: Sequence[float]
    std: Sequence[float]
    # Rows and columns of the grid of position embeddings.
    table: tuple[int, int]
    # Number of special tokens in front with a position embedding, and then of those without one (registers).
    placed: int
    registers: int
    # Whether hidden patches have a learnt vector; else they are embedded as zero pixels.
    masked: bool
    # Whether the linear map has a bias.
    bias: bool
    # Number of learnt query tokens at the end, each with a position embedding.
    queries: int = 0
    # Number of layers that add position embeddings of their own to their output.
    layer_positions: int = 0
    # Number of images that a patch of a stack spans, and of patches along the stack; None for single images.
    depth: int | None = None
    length: int | None = None


class PixelEmbedder(nn.Module):
    """A base class of embedders of image tokens; it standardises their pixels by channel in fp32."""

    shift: Tensor
    scale: Tensor
    # Rows and columns of the only grid of patches that is read, in an exported graph; None to read any.
    grid: tuple[int, int] | None = None

    def __init__(self, config: PatchConfig) -> None:
        super().__init__()
        self.patch, values = config.patch, (config.depth or 1) * config.patch**2
        self.header_bytes = HEADER_BYTES if config.depth is None else STACK_HEADER_BYTES
        mean, std = (torch.tensor(channels).repeat_interleave(values) for channels in (config.mean, config.std))
        self.register_buffer("shift", 255 * mean, persistent=False)
        self.register_buffer("scale", 1 / (255 * std), persistent=False)

    def fix_shape(self, tokens: Tensor) -> None:
        """Read from now on only pictures of the shape that tokens (t, 5 + f) have; the vectors of others become NaN.

        A graph that is traced cannot choose among shapes. Raises UsageError for tokens of several shapes.
        """
        grids = [(rows, columns) for rows, columns, _ in iterate_grids(tokens)]
        if len(grids) > 1:
            raise UsageError(
                f"an exported graph reads pictures of one shape, and these have {len(grids)} shapes in patches: "
                f"{', '.join(f'{rows} × {columns}' for rows, columns in grids[:5])}; crop or pad the pictures to one shape"
            )
        self.grid = grids[0]

    def normalise(self, tokens: Tensor) -> Tensor:
        """Return the pixels (t, f) of tokens, standardised by channel, without the headers of the tokens."""
        return (tokens[:, self.header_bytes :].float() - self.shift) * self.scale


class PatchEmbedder(PixelEmbedder):
    """An embedder of the tokens of images, (t, 5 + f) bytes → (t, d): patch projection plus positions, as in ViT.

    The paper is Dosovitskiy et al. (2021). Special tokens and queries have learnt vectors instead of a projection.
    """

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
        # Without a mask token a hidden patch keeps the embedding of zeros, which is the mean colour.
        if self.mask_token is not None:
            x = torch.where((types == HIDDEN)[:, None], self.mask_token, x)
        cls = None if self.cls_token is None else self.cls_token.transpose(0, 1)
        tables = [part[0] for part in (cls, self.register_tokens, self.query_tokens) if part is not None]
        return _replace_special(types, x, tables) + self._positions(self.position_embeddings[0], tokens)

    def fix_shape(self, tokens: Tensor) -> None:
        super().fix_shape(tokens)
        assert self.grid is not None
        # The table is interpolated once, to the only grid.
        self.position_embeddings = nn.Parameter(self._resize(self.position_embeddings.detach(), self.grid))
        if self.later_positions is not None:
            self.later_positions = nn.Parameter(self._resize(self.later_positions.detach(), self.grid))
        self.table = self.grid

    def _resize(self, tables: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return tables of position embeddings (…, ·, d) for patches in another grid; special tokens and queries keep theirs."""
        front, patches, queries = torch.split(tables, [self.placed, math.prod(self.table), self.queries], dim=-2)
        resized = [_resize_table(part, self.table, grid, self.antialias) for part in patches.flatten(0, -3)]
        return torch.cat([front, torch.stack(resized).view(*tables.shape[:-2], -1, tables.shape[-1]), queries], dim=-2)

    def layer_positions(self, tokens: Tensor) -> Tensor:
        """Return the position embeddings (layers, t, d) that YOLOS adds to the output of each layer but the last."""
        assert self.later_positions is not None
        return torch.stack([self._positions(table[0], tokens) for table in self.later_positions])

    def _positions(self, table: Tensor, tokens: Tensor) -> Tensor:
        """Return the position embeddings (t, d) of tokens; registers get zeros.

        table: (·, d), embeddings of the special tokens in front, then of the grid's patches, then of the queries.
        """
        types = tokens[:, 0].long()
        front, patches, queries = torch.split(table, [self.placed, math.prod(self.table), self.queries])
        of_patches = _interpolate_positions(patches, self.table, tokens, self.antialias, self.grid)
        return _replace_special(types, of_patches, [front, table.new_zeros(self.registers, table.shape[1]), queries])


def _replace_special(types: Tensor, x: Tensor, tables: Sequence[Tensor]) -> Tensor:
    """Return `x` (t, d) with the vectors of special tokens and queries replaced by the rows of `tables`.

    types: (t,), the type of each token. tables: (·, d) each; concatenated, they have one row for each type from FIRST_SPECIAL
    on.
    """
    if not sum(map(len, tables)):
        return x
    # Patches look up row 0, which `where` then discards.
    special = F.embedding((types - FIRST_SPECIAL).clamp(min=0), torch.cat(list(tables)))
    return torch.where((types < FIRST_SPECIAL)[:, None], x, special)


class PatchPositions(nn.Module):
    """Fixed position embeddings of image tokens for a decoder, (t, 5 + f) bytes → (t, d).

    They are a table: its first row is for all special tokens, and the others are for the cells of a grid. For images with another
    grid they are interpolated. grid: rows and columns of the table's grid.
    """

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
    embeddings: Tensor,
    table: tuple[int, int],
    tokens: Tensor,
    antialias: bool = False,
    grid: tuple[int, int] | None = None,
) -> Tensor:
    """Return the position embeddings (t, d) of patch tokens (t, 5 + f); the rows of special tokens have no meaning.

    embeddings: (rows · columns, d), one for each cell of a grid. table: rows and columns of this grid. For images with another
    grid they are interpolated (bicubic). antialias: whether the interpolation uses antialiasing. grid: as for `iterate_grids`.
    """
    places = tokens[:, 1:3].long()
    positions = None
    for rows, columns, is_member in iterate_grids(tokens, grid):
        resized = _resize_table(embeddings, table, (rows, columns), antialias)
        indices = torch.where(is_member, places[:, 0] * columns + places[:, 1], 0)
        part = F.embedding(indices, resized) * is_member[:, None]
        if grid is not None:
            part = part.masked_fill(~is_member[:, None], torch.nan)
        positions = part if positions is None else positions + part
    assert positions is not None
    return positions


def _resize_table(embeddings: Tensor, table: tuple[int, int], grid: tuple[int, int], antialias: bool) -> Tensor:
    """Return the position embeddings (rows · columns, d) of a grid, interpolated (bicubic) from those of `table`."""
    if grid == table:
        return embeddings
    image = embeddings.view(1, *table, -1).permute(0, 3, 1, 2).float()
    image = F.interpolate(image, size=grid, mode="bicubic", antialias=antialias)
    return image.permute(0, 2, 3, 1).flatten(0, 2)


def iterate_grids(tokens: Tensor, grid: tuple[int, int] | None = None) -> Iterator[tuple[int, int, Tensor]]:
    """Yield (rows, columns, mask) for each grid size among tokens (t, 5 + f).

    The mask (t,) selects the tokens of images with that grid. grid: rows and columns of the only grid to yield; None for all.
    """
    # One number for each size, since `unique` of numbers is far faster than of pairs.
    sizes = tokens[:, 3].long() * (MAX_GRID_SIDE + 1) + tokens[:, 4].long()
    if grid is not None:
        yield *grid, sizes == grid[0] * (MAX_GRID_SIDE + 1) + grid[1]
        return
    for size in torch.unique(sizes).tolist():
        yield *divmod(size, MAX_GRID_SIDE + 1), sizes == size


class StackEmbedder(PixelEmbedder):
    """An embedder of tokens of image stacks, (t, 7 + f) bytes → (t, d), with fixed position embeddings (VideoMAE)."""

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

    def fix_shape(self, tokens: Tensor) -> None:
        """Change nothing: positions are looked up, so stacks of any shape are read."""

    def forward(self, tokens: Tensor) -> Tensor:
        is_patch = (tokens[:, 0] == PATCH)[:, None]
        x = F.linear(self.normalise(tokens) * is_patch, self.projection.weight.flatten(1), self.projection.bias)
        return torch.add(x, self.positions(tokens))


class StackPositions(nn.Module):
    """Fixed position embeddings of tokens of image stacks, (t, 7 + f) bytes → (t, d) (VideoMAE, Tong et al. 2022).

    A patch's number counts patches along the stack, then rows, then columns, in the largest grid that the model reads. Channels
    are alternately sine and cosine of this number, in wavelengths that grow geometrically.
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
    """An embedder that runs a convolutional network over whole images, patch tokens (t, 5 + f) → cells of its last grid (t, d).

    The images are first put together from their patches. The last grid has one cell for each patch.
    """

    def __init__(self, config: PatchConfig, front: ConvolutionConfig) -> None:
        super().__init__(config)
        self.network = front.network()

    def forward(self, tokens: Tensor) -> Tensor:
        if self.grid is not None:
            ((rows, columns, is_member),) = iterate_grids(tokens, self.grid)
            cells: Tensor = self.network(self._join(self.normalise(tokens), rows, columns))
            cells = cells.permute(0, 2, 3, 1).flatten(0, 2)
            return cells.masked_fill(~is_member[:, None], torch.nan)
        places, parts = [], []
        for rows, columns, is_member in iterate_grids(tokens):
            cells = self.network(self._join(self.normalise(tokens[is_member]), rows, columns))
            places.append(is_member.nonzero()[:, 0])
            parts.append(cells.permute(0, 2, 3, 1).flatten(0, 2))
        # Images were grouped by grid size; this restores the order of the tokens.
        return torch.cat(parts)[torch.cat(places).argsort()]

    def _join(self, patches: Tensor, rows: int, columns: int) -> Tensor:
        """Return the images (n, 3, h, w) that patches (t, f) make up, all of the same grid size."""
        p = self.patch
        return patches.view(-1, rows, columns, 3, p, p).permute(0, 3, 1, 4, 2, 5).reshape(-1, 3, rows * p, columns * p)


def to_tokens(pixels: Tensor, p: int, leading: int) -> Tensor:
    """Return images (n, 3, h, w) as float tokens (n, t, 5 + f), through which gradients reach the pixels.

    pixels: images with values from 0 to 255, whose height and width are multiples of the patch side `p`.
    leading: number of special tokens in front of the patches; their pixels are 0.
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
    """Return fixed position embeddings (rows · columns, width) of a grid: sines and cosines of row and column.

    Half of the channels encode the row, half the column (MAE, He et al. 2022). Channels that are left over are zero.
    """
    quarter = width // 4
    angles = torch.arange(max(grid))[:, None] * 10_000.0 ** (-torch.arange(quarter) / max(1, quarter))
    waves = torch.cat([angles.sin(), angles.cos()], dim=-1)
    table = torch.zeros(*grid, width)
    table[..., : 2 * quarter], table[..., 2 * quarter : 4 * quarter] = waves[: grid[0], None], waves[None, : grid[1]]
    return table.flatten(0, 1)
