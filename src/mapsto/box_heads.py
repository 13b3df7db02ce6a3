"""From what queries have seen to boxes: classes, and where in the picture.

Legend of shapes: m queries of all examples, d width, c classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mapsto.transformer import Linear, Transform, TransformConfig, new_head

RARE = 0.01  # how likely a query finds something at first


class BoxHead(nn.Module):
    """From queries (m, d), example by example, to (m, c + 4): logits, and middle and extent as shares of the picture, told from
    where each query stands."""

    begin: Tensor

    def __init__(self, width: int, classes: int, grid: int) -> None:
        super().__init__()
        self.read = Transform(width, TransformConfig(bias=True, norm_bias=True))
        self.named, self.sides = new_head(width, classes), new_head(width, 4)
        nn.init.constant_(self.named.bias, -math.log(1 / RARE - 1))
        middle = (torch.arange(grid) + 0.5) / grid
        y, x = torch.meshgrid(middle, middle, indexing="ij")
        extent = torch.full_like(x, min(0.5, 1.5 / grid))
        self.register_buffer(
            "begin", torch.logit(torch.stack([x, y, extent, extent], -1)).view(-1, 4), persistent=False
        )

    def forward(self, x: Tensor) -> Tensor:
        read = self.read(x).float()
        begin = self.begin[torch.arange(len(x), device=x.device) % len(self.begin)]
        return torch.cat([self.named(read), torch.sigmoid(self.sides(read) + begin)], dim=-1)


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
