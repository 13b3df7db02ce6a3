"""Positions by a grouped convolution over the tokens of an example (wav2vec 2.0, Baevski et al. 2020, section 2).

The convolution runs over each example of a packed row alone, with zeros around it, as if the example were not packed. With the
published kernel of 128 tokens it costs 0.8 of a layer (wav2vec 2.0 base, one core).
Legend of shapes: r rows, l row length, d width, k kernel, n examples of equal length, t tokens of each.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mapsto.model.layers import ACTIVATIONS, Activation
from mapsto.sequence.piece import Role


class PositionConvolution(nn.Module):
    """A convolution over tokens whose activation is added to them. Its weight is stored as direction and scale (weight norm).

    width: d. kernel: number of tokens k. groups: number of groups of channels.
    """

    def __init__(self, width: int, kernel: int, groups: int, activation: Activation) -> None:
        super().__init__()
        self.kernel, self.groups, self.activation = kernel, groups, activation
        self.direction = nn.Parameter(torch.empty(width, width // groups, kernel))
        self.scale = nn.Parameter(torch.ones(1, 1, kernel))
        self.bias = nn.Parameter(torch.zeros(width))
        nn.init.normal_(self.direction, std=math.sqrt(4 / (kernel * width)))

    @property
    def weight(self) -> Tensor:
        """Return the weight (d, d / groups, k): each of the k slices of `direction` in the length that `scale` gives it."""
        return torch._weight_norm(self.direction, self.scale, 2)

    def forward(self, x: Tensor, segments: Tensor, roles: Tensor) -> Tensor:
        """Return what is added to the tokens x (r, l, d): zero for padding and for tokens of answers.

        segments: number of the example of each token, (r, l); 0 is padding. roles: `Role` of each token, (r, l).
        """
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        tokens, out = x.flatten(0, 1), torch.zeros_like(x).flatten(0, 1)
        for places in _source_runs(segments, roles):
            convolved = F.conv1d(
                tokens[places].transpose(1, 2), weight, bias, padding=self.kernel // 2, groups=self.groups
            )
            # With an even kernel there is one place too many at the end.
            added = ACTIVATIONS[self.activation](convolved[:, :, : places.shape[1]]).transpose(1, 2)
            out = out.index_copy(0, places.flatten(), added.flatten(0, 1))
        return out.view_as(x)


def _source_runs(segments: Tensor, roles: Tensor) -> list[Tensor]:
    """Return the flat places (n, t) of the source tokens of examples, grouped by their number of tokens t."""
    length = segments.shape[1]
    row = torch.arange(len(segments), device=segments.device)[:, None]
    # One number for each example: its row and its segment. Other tokens get 0.
    owners = torch.where((segments > 0) & (roles == Role.SOURCE), row * (length + 1) + segments, 0).flatten()
    values, counts = torch.unique_consecutive(owners, return_counts=True)
    groups: dict[int, list[int]] = defaultdict(list)
    starts = itertools.accumulate(counts.tolist(), initial=0)
    for owner, count, start in zip(values.tolist(), counts.tolist(), starts, strict=False):
        if owner:
            groups[count].append(start)
    return [
        torch.tensor(starts, device=segments.device)[:, None] + torch.arange(count, device=segments.device)
        for count, starts in groups.items()
    ]
