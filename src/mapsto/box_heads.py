"""From what queries have seen to boxes: classes, and where in the picture.

Legend of shapes: n examples, m queries of all of them, g queries along each side, q = g·g, d width, c classes.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mapsto.transformer import LayerNorm, Linear, new_head

WIDTH, LAYERS = 192, 2
MIDDLE = 1.5  # cells about the middle of a box whose places are given to it, and to where a side is at first (Tian et al. 2019)
RARE = 0.01  # how likely a query finds something at first


def middles(grid: int) -> Tensor:
    """(q, 2): where the places of a grid have their middle, (x, y) as shares of the picture, row by row."""
    at = (torch.arange(grid) + 0.5) / grid
    y, x = torch.meshgrid(at, at, indexing="ij")
    return torch.stack([x, y], -1).view(-1, 2)


class BoxHead(nn.Module):
    """From queries (m, d), grid by grid, to (m, c + 4): logits, and middle and extent as shares of the picture. Layers that see
    the places about each, then how far the sides are from where it stands (FCOS)."""

    middle: Tensor

    def __init__(self, width: int, classes: int, grid: int) -> None:
        super().__init__()
        narrow = min(width, WIDTH)
        self.first = Linear(width, narrow)
        self.layers = nn.ModuleList(Around(narrow) for _ in range(LAYERS))
        self.named, self.sides = new_head(narrow, classes), new_head(narrow, 4)
        nn.init.constant_(self.named.bias, -math.log(1 / RARE - 1))
        nn.init.constant_(self.sides.bias, math.log(math.e - 1))  # where softplus is 1
        self.grid = grid
        self.register_buffer("middle", middles(grid), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        n = len(x) // self.grid**2  # behind them rows may stand that fill a size
        x = self.first(x[: n * self.grid**2], "gelu").view(n, self.grid, self.grid, self.first.out_features)
        for layer in self.layers:
            x = layer(x)
        x = x.flatten(0, 2).float()
        apart = F.softplus(self.sides(x)).view(n, self.grid**2, 2, 2) * MIDDLE / self.grid
        low, high = self.middle - apart[:, :, 0], self.middle + apart[:, :, 1]
        return torch.cat([self.named(x), torch.cat([(low + high) / 2, high - low], -1).flatten(0, 1)], dim=-1)


class Around(nn.Module):
    """Cells (n, g, g, d) told of those about them: a convolution, a norm and an activation, in the precision of the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mixed, self.norm = nn.Conv2d(width, width, 3, bias=False), LayerNorm(width, 1e-6)

    def forward(self, x: Tensor) -> Tensor:
        mixed = F.conv2d(x.permute(0, 3, 1, 2), self.mixed.weight.to(x.dtype), padding=1).permute(0, 2, 3, 1)
        return F.gelu(self.norm(mixed))


class LearntHead(nn.Module):
    """From learnt queries (m, d) to (m, c + 5): logits, the last of them for nothing, and middle and extent as shares of the
    picture; three dense layers to each (DETR)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.towards = nn.ModuleList(Linear(width, width) for _ in range(2))
        self.named = new_head(width, classes + 1)
        self.sides = nn.ModuleList([*(Linear(width, width) for _ in range(2)), new_head(width, 4)])

    def forward(self, x: Tensor) -> Tensor:
        naming, placing = x, x
        for towards, side in zip(self.towards, self.sides, strict=False):
            naming, placing = towards(naming, "relu"), side(placing, "relu")
        return torch.cat([self.named(naming.float()), torch.sigmoid(self.sides[-1](placing.float()))], dim=-1)
