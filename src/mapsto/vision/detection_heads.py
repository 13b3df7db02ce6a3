"""Detection heads, which map query vectors to classes and boxes, and the assignment of true boxes to queries.

A new model has one query per cell of a grid. True boxes are assigned to the cells near their centres, without anchors
(FCOS, Tian et al. 2019). A starting model with learnt queries is trained by one-to-one matching (DETR, Carion et al.
2020).
Legend of shapes: n examples, k true boxes, m queries of all examples, g rows and columns of the grid, q queries of an example
(g·g on a grid), d width, c classes.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mapsto.model.layers import LayerNorm, Linear, new_head

# The most channels of the grid head's layers, and how many layers there are.
WIDTH, LAYERS = 192, 2

# A box is assigned to the queries within this many cells of its centre along each axis (FCOS). A new head predicts boxes
# whose sides are this many cells from the centre.
CENTRE_RADIUS = 1.5

# The focal loss's exponent (Lin et al. 2017), and the weight of classes that a query does not have.
GAMMA, NEGATIVE_WEIGHT = 2.0, 1 / 3

# The probability of each class that a new head predicts everywhere. A low one keeps the first steps stable.
PRIOR = 0.01


def grid_centres(grid: int) -> Tensor:
    """Return the centres (q, 2) of the cells of a square grid, row by row: (x, y) as fractions of the image's width and height.

    grid: number of rows and of columns of the grid.
    """
    shares = (torch.arange(grid) + 0.5) / grid
    y, x = torch.meshgrid(shares, shares, indexing="ij")
    return torch.stack([x, y], -1).view(-1, 2)


class BoxHead(nn.Module):
    """A detection head over grids of queries, (m, d) → (m, c + 4): class logits, then the box.

    A box is centre x and y, width and height, as fractions of the image. Convolutions mix neighbouring grid cells. For each
    cell the head predicts how far the box's four edges are from the cell's centre (FCOS).
    width: d. classes: c. grid: number of rows and of columns of a grid.
    """

    middle: Tensor

    def __init__(self, width: int, classes: int, grid: int) -> None:
        super().__init__()
        narrow = min(width, WIDTH)
        self.first = Linear(width, narrow)
        self.layers = nn.ModuleList(NeighbourMixing(narrow) for _ in range(LAYERS))
        self.named, self.sides = new_head(narrow, classes), new_head(narrow, 4)
        # The sigmoid of this bias is PRIOR.
        nn.init.constant_(self.named.bias, -math.log(1 / PRIOR - 1))
        nn.init.constant_(self.sides.bias, math.log(math.e - 1))  # where softplus is 1
        self.grid = grid
        self.register_buffer("middle", grid_centres(grid), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0] // self.grid**2  # rows beyond whole grids are padding
        x = self.first(x[: n * self.grid**2], "gelu").view(n, self.grid, self.grid, self.first.out_features)
        for layer in self.layers:
            x = layer(x)
        # bf16 has too few digits for the sides of boxes.
        x = x.flatten(0, 2).float()
        distances = F.softplus(self.sides(x)).view(n, self.grid**2, 2, 2) * CENTRE_RADIUS / self.grid
        low, high = self.middle - distances[:, :, 0], self.middle + distances[:, :, 1]
        return torch.cat([self.named(x), torch.cat([(low + high) / 2, high - low], -1).flatten(0, 1)], dim=-1)


class NeighbourMixing(nn.Module):
    """A 3 × 3 convolution over the cells of a grid, then layer norm and GELU, (n, g, g, d) → (n, g, g, d).

    The weights are cast to the precision of the input.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mixed, self.norm = nn.Conv2d(width, width, 3, bias=False), LayerNorm(width, 1e-6)

    def forward(self, x: Tensor) -> Tensor:
        mixed = F.conv2d(x.permute(0, 3, 1, 2), self.mixed.weight.to(x.dtype), padding=1).permute(0, 2, 3, 1)
        return F.gelu(self.norm(mixed))


class LearntHead(nn.Module):
    """A detection head over learnt queries (DETR), (m, d) → (m, c + 5): class logits, "no object" logit, box.

    A box is centre x and y, width and height, as fractions of the image. One stack of three dense layers predicts the
    classes, another one the box.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.towards = nn.ModuleList(Linear(width, width) for _ in range(2))
        self.named = new_head(width, classes + 1)
        self.sides = nn.ModuleList([*(Linear(width, width) for _ in range(2)), new_head(width, 4)])

    def forward(self, x: Tensor) -> Tensor:
        class_states, box_states = x, x
        # `sides` has one layer more, its head, which zip leaves out.
        for class_layer, box_layer in zip(self.towards, self.sides, strict=False):
            class_states, box_states = class_layer(class_states, "relu"), box_layer(box_states, "relu")
        return torch.cat([self.named(class_states.float()), torch.sigmoid(self.sides[-1](box_states.float()))], dim=-1)


def assign_by_centre(centres_q2: Tensor, boxes_k4: Tensor, cell: float) -> tuple[Tensor, Tensor]:
    """Return (queries, boxes), the indices of the queries to which a true box is assigned, and of the box of each, equally long.

    A box goes to the queries that lie inside it and, along each axis, within 1.5 grid cells of its centre, and always to the
    nearest query. Of several boxes a query gets the smallest. All coordinates are fractions of the image.
    centres_q2: (x, y) of each query. boxes_k4: centre x and y, width and height. cell: width of a grid cell.
    """
    if not len(boxes_k4):
        empty = torch.zeros(0, dtype=torch.long, device=boxes_k4.device)
        return empty, empty
    distance = (centres_q2[:, None] - boxes_k4[None, :, :2]).abs()
    is_near = ((distance < CENTRE_RADIUS * cell) & (distance < boxes_k4[None, :, 2:] / 2)).all(-1)
    nearest = distance.square().sum(-1).argmin(0)
    # A small box may hold no query's centre; its nearest query makes sure that it is learnt.
    is_near[nearest, torch.arange(len(nearest), device=nearest.device)] = True
    area, box = torch.where(is_near, boxes_k4[:, 2:].prod(-1)[None], torch.inf).min(1)
    query = area.isfinite().nonzero()[:, 0]
    return query, box[query]


def focal_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the focal loss (Lin et al. 2017) of logits, with the exponent 2, summed over all elements.

    targets: 0.0 or 1.0, in the shape of `logits`. The loss of an element with target 0 is multiplied by 1/3.
    """
    error = (torch.sigmoid(logits) - targets).abs()
    weight = torch.where(targets > 0, 1.0, NEGATIVE_WEIGHT) * error**GAMMA
    return (weight * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")).sum()


def generalised_iou(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """Return the generalised intersection over union of two boxes (Rezatofighi et al. 2019), (…, 4) and (…, 4) → (…,).

    The boxes at the same index of `boxes_a` and `boxes_b` are compared. A box is centre x and y, width and height.
    """
    (low_a, high_a), (low_b, high_b) = (
        (box[..., :2] - box[..., 2:] / 2, box[..., :2] + box[..., 2:] / 2) for box in (boxes_a, boxes_b)
    )
    intersection = (torch.minimum(high_a, high_b) - torch.maximum(low_a, low_b)).clamp(min=0).prod(-1)
    union = (high_a - low_a).prod(-1) + (high_b - low_b).prod(-1) - intersection
    hull = (torch.maximum(high_a, high_b) - torch.minimum(low_a, low_b)).prod(-1)
    return intersection / union.clamp(min=1e-9) - (hull - union) / hull.clamp(min=1e-9)


def match_one_to_one(cost: Tensor) -> tuple[Tensor, Tensor]:
    """Return the indices of queries and of boxes, (min(q, k),) each, in the cheapest one-to-one matching (Hungarian method).

    cost: (q, k), of matching each query with each box.
    """
    from scipy.optimize import linear_sum_assignment  # half a second to import

    # NaN from a diverged model would raise an error here; a high cost does not.
    query, box = linear_sum_assignment(cost.cpu().nan_to_num(1e9).numpy())
    return torch.from_numpy(query).to(cost.device), torch.from_numpy(box).to(cost.device)
