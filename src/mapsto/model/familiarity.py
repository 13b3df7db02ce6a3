"""The familiarity of a value to a model: the distance of its pooled vector to the nearest one of a training row.

A model gives a confident answer to values from another world too. Their vectors are farther from all training rows than
those of values like the training rows, which tells the two apart better than the answer's probability does (Sun et al.
2022, "Out-of-distribution detection with deep nearest neighbors", arXiv 2204.06507). Distances are 1 minus the cosine.
Legend of shapes: n values, k kept training rows, d width, q reference distances.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mapsto.sequence.corruption import make_generator
from mapsto.sequence.piece import Ints

# The most training rows whose vectors are kept, drawn at random: 1.5 MB for a width of 384.
MAX_ROWS = 2048
# The most reference distances that are kept, as quantiles.
MAX_DISTANCES = 200


@dataclass(frozen=True)
class Familiarity:
    """The vectors of training rows, and how far from them ordinary values are.

    vectors: (k, d), of unit norm, in fp16. distances: (q,), sorted, of ordinary values to the nearest of the vectors.
    """

    vectors: Tensor
    distances: Tensor

    @classmethod
    def of_rows(cls, vectors: NDArray[np.float32], seed: int) -> Familiarity | None:
        """Return the familiarity of the training rows with these pooled vectors (n, d); None for fewer than two rows.

        The reference distances are those of the rows to the nearest other row. seed: draws the rows to keep.
        """
        if len(vectors) < 2:
            return None
        unit = _normalise(torch.from_numpy(vectors[sample_rows(len(vectors), seed)]))
        similarity = unit.float() @ unit.float().T
        similarity.fill_diagonal_(-1.0)
        return cls(unit, torch.empty(0)).with_distances((1 - similarity.amax(1)).tolist())

    def with_distances(self, distances: Sequence[float]) -> Familiarity:
        """Return the same vectors with the quantiles of other reference distances, given in any order."""
        return Familiarity(self.vectors, torch.tensor(summarise(distances)).clamp(min=0))

    def distance(self, vectors: Tensor) -> Tensor:
        """Return the distance (n,) of each pooled vector (n, d) to the nearest vector of a training row, 0 to 2.

        A vector of zeros, such as of a text without a known n-gram, is as far as can be.
        """
        distances = (1 - (_normalise(vectors.cpu()).float() @ self._columns).amax(1)).clamp(min=0)
        return distances.masked_fill(~vectors.cpu().any(1), 2.0)

    @property
    def unit(self) -> float:
        """The square root of the median of the reference distances, at least 1e-3.

        Divided by this unit of the training rows among themselves, distances of other rows can be carried from a model to one
        that has had more rows and steps, so that all its distances are smaller. Those of other rows shrink less than those of
        the rows that it was fitted to: with the root about as many known rows are rejected as wanted (tried on four fits).
        """
        median: float = self.distances.median().item()
        return max(1e-3, math.sqrt(median))

    @cached_property
    def _columns(self) -> Tensor:
        """The kept vectors as the columns of a matrix (d, k) in fp32, converted once."""
        return self.vectors.float().T

    def score(self, vectors: Tensor) -> Tensor:
        """Return how familiar each value is by its pooled vector (n, d): the share (n,) of reference distances above its own.

        0 says that the value is farther from the training rows than all reference values, 0.5 that it is like the median one.
        """
        farther = len(self.distances) - torch.searchsorted(self.distances, self.distance(vectors), right=True)
        return farther / len(self.distances)


def summarise(distances: Sequence[float]) -> list[float]:
    """Return the sorted distances to four decimals, or if they are many MAX_DISTANCES quantiles of them."""
    steps = np.linspace(0, 1, min(len(distances), MAX_DISTANCES))
    quantiles: list[float] = np.quantile(np.array(distances), steps).round(4).tolist() if len(distances) else []
    return quantiles


def sample_rows(count: int, seed: int, most: int = MAX_ROWS) -> Ints:
    """Return the sorted indices of at most `most` of `count` rows, drawn at random."""
    return np.sort(make_generator(seed, count, 0).permutation(count)[:most])


def _normalise(vectors: Tensor) -> Tensor:
    """Return the vectors with unit norm, in fp16."""
    return F.normalize(vectors.float(), dim=-1).half()
