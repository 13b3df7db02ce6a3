"""From what queries have seen to boxes: classes, and where in the picture; and which true boxes they are to tell.

Legend of shapes: n examples, k true boxes, m queries of all of them, g queries along each side, q = g·g, d width, c classes.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mapsto.model.layers import LayerNorm, Linear, new_head

WIDTH, LAYERS = 192, 2


MIDDLE = 1.5  # cells about the middle of a box whose places are given to it, and to where a side is at first (Tian et al. 2019)


GAMMA, ELSEWHERE = 2.0, 1 / 3  # of the focal loss (Lin et al. 2017); what a place without a box weighs in it


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


def given_to(middle_q2: Tensor, sides_k4: Tensor, cell: float) -> tuple[Tensor, Tensor]:
    """Queries, and the true box that each is given to: of those about whose middle it stands the smallest. To every box at least
    the nearest one, where no smaller box has it."""
    if not len(sides_k4):
        none = torch.zeros(0, dtype=torch.long, device=sides_k4.device)
        return none, none
    apart = (middle_q2[:, None] - sides_k4[None, :, :2]).abs()
    inside = ((apart < MIDDLE * cell) & (apart < sides_k4[None, :, 2:] / 2)).all(-1)
    nearest = apart.square().sum(-1).argmin(0)
    inside[nearest, torch.arange(len(nearest), device=nearest.device)] = True
    area, which = torch.where(inside, sides_k4[:, 2:].prod(-1)[None], torch.inf).min(1)
    query = area.isfinite().nonzero()[:, 0]
    return query, which[query]


def focal(logits: Tensor, wanted: Tensor) -> Tensor:
    """The focal loss, summed."""
    miss = (torch.sigmoid(logits) - wanted).abs()
    weight = torch.where(wanted > 0, 1.0, ELSEWHERE) * miss**GAMMA
    return (weight * F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")).sum()


def generalised_iou(one: Tensor, other: Tensor) -> Tensor:
    """Generalised intersection over union (Rezatofighi et al. 2019) of boxes (…, 4) given by middle and extent."""
    (low_a, high_a), (low_b, high_b) = (
        (box[..., :2] - box[..., 2:] / 2, box[..., :2] + box[..., 2:] / 2) for box in (one, other)
    )
    shared = (torch.minimum(high_a, high_b) - torch.maximum(low_a, low_b)).clamp(min=0).prod(-1)
    both = (high_a - low_a).prod(-1) + (high_b - low_b).prod(-1) - shared
    around = (torch.maximum(high_a, high_b) - torch.minimum(low_a, low_b)).prod(-1)
    return shared / both.clamp(min=1e-9) - (around - both) / around.clamp(min=1e-9)


def assigned(cost: Tensor) -> tuple[Tensor, Tensor]:
    """The cheapest one-to-one matching of queries and true boxes (q, k)."""
    from scipy.optimize import linear_sum_assignment  # half a second to import

    query, true = linear_sum_assignment(cost.cpu().nan_to_num(1e9).numpy())
    return torch.from_numpy(query).to(cost.device), torch.from_numpy(true).to(cost.device)
