"""Parametric bootstrap of mean scores over two crossed random factors: draws of the training rows, and test items.

Each draw of the training rows gives one model, and all models are scored on the same test items. The mean score over s
draws and n items has the variance a/s + b/n + e/(sn), where a is the variance between draws, b between items, and e the
residual. A two-way analysis of variance estimates the three (Owen 2007 gives the bootstrap of the same model). With few
draws, such as five, a normal distribution gives intervals that are too narrow, so the deviations of the draws follow
Student's t. Where test items come in groups, such as recordings of one speaker, the groups are the items, and their deviations
follow Student's t too. The price is one k × k eigendecomposition and 10,000 samples of k numbers.
Legend of shapes: k scores that are bootstrapped together, s draws, n items, b bootstrap samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mapsto.metrics.intervals import Floats, Score, group_scores

NUM_SAMPLES = 10_000
TAIL = 0.025  # on each side of the 95 % interval

# The smallest standard deviation of a mean over n items is this constant / n. Even if all n items are right, the true
# share of right items may be as low as 1 − 3.69/n, since (1 − 3.69/n)ⁿ ≈ 0.025. This distance shall be 1.96 standard
# deviations.
MIN_DEVIATION = 3.69 / 1.96


@dataclass(frozen=True)
class CrossedMeans:
    """The means of k scores, with their covariances due to the draws of the training rows and due to the test items.

    values: (k,), the means over all draws and items.
    draw_covariance, item_covariance: (k, k).
    num_items: number of items, or of groups of items if `has_groups`.
    """

    values: Floats
    draw_covariance: Floats
    item_covariance: Floats
    num_draws: int
    num_items: int
    has_groups: bool = False

    @classmethod
    def estimate(cls, item_scores: NDArray[Any], groups: NDArray[np.int64] | None = None) -> CrossedMeans:
        """Estimate the means and both covariances by a two-way analysis of variance.

        item_scores: (k, s, n), each score of each item in each draw. groups: (n,), the group of each item; None for no groups.
        """
        num_rows, has_groups = item_scores.shape[-1], groups is not None
        if groups is not None:
            item_scores = group_scores(item_scores, groups)
        k, s, n = item_scores.shape
        values = item_scores.mean(axis=(1, 2), dtype=np.float64)
        zeros = np.zeros((k, k))
        # A variance needs two values.
        if s < 2 or n < 2:
            return cls(values, zeros, zeros, s, n, has_groups)
        draw_effects = item_scores.mean(axis=2, dtype=np.float64) - values[:, None]
        item_effects = item_scores.mean(axis=1, dtype=np.float64) - values[:, None]
        # The mean squares of the analysis of variance: of draws, of items, and of the residual.
        draw_squares = n * draw_effects @ draw_effects.T / (s - 1)
        item_squares = s * item_effects @ item_effects.T / (n - 1)
        residual_squares = np.zeros((k, k))
        for draw in range(s):  # a draw at a time, as (k, s, n) in double precision may not fit into memory
            residuals = item_scores[:, draw] - (values + draw_effects[:, draw])[:, None] - item_effects
            residual_squares += residuals @ residuals.T
        residual_squares /= (s - 1) * (n - 1)
        # The residual is part of both mean squares: it stays in the draws' and is subtracted from the items'.
        item_covariance = _nearest_covariance(item_squares - residual_squares) / (s * n)
        # Items with equal scores would give a variance of 0, which claims certainty.
        np.fill_diagonal(item_covariance, np.maximum(item_covariance.diagonal(), (MIN_DEVIATION / num_rows) ** 2))
        return cls(values, draw_squares / (s * n), item_covariance, s, n, has_groups)

    def samples(self, seed: int = 0, count: int = NUM_SAMPLES) -> Floats:
        """Return the means, followed by bootstrap samples of them, (1 + count, k).

        A single draw or a single item gives no estimate of the variance; then only the means are returned, (1, k).
        seed: of the random numbers.
        """
        if self.num_draws < 2 or self.num_items < 2:
            return self.values[None]
        rng = np.random.Generator(np.random.Philox(key=[seed, 0]))
        k, degrees_of_freedom = len(self.values), self.num_draws - 1
        # A normal over the root of a chi-square is Student's t.
        scale = np.sqrt(degrees_of_freedom / rng.chisquare(degrees_of_freedom, (count, 1)))
        draw_deviations = rng.standard_normal((count, k)) @ _square_root(self.draw_covariance).T * scale
        item_deviations = rng.standard_normal((count, k)) @ _square_root(self.item_covariance).T
        if self.has_groups:
            item_deviations *= np.sqrt((self.num_items - 1) / rng.chisquare(self.num_items - 1, (count, 1)))
        return np.concatenate([self.values[None], self.values + draw_deviations + item_deviations])


def interval(samples: Floats, n: int) -> Score:
    """Return the value samples[0] with the 95 % percentile interval of the bootstrap samples samples[1:].

    samples: (1 + b,), may contain infinity. Without bootstrap samples (b = 0), the interval is NaN.
    n: number of test items, to be recorded in the Score.
    """
    value, bootstrap = float(samples[0]), samples[1:]
    if not len(bootstrap):
        return Score(value, float("nan"), float("nan"), n)
    # Interpolation between two infinite samples would give NaN.
    low, high = np.quantile(bootstrap, [TAIL, 1 - TAIL], method="closest_observation")
    return Score(value, float(low), float(high), n)


def _nearest_covariance(matrix: Floats) -> Floats:
    """Return the positive semi-definite matrix nearest to a symmetric one: its negative eigenvalues are replaced by 0.

    matrix: (k, k), the difference of two estimated covariances, which may have negative eigenvalues.
    """
    values, vectors = np.linalg.eigh(matrix)
    covariance: Floats = (vectors * np.maximum(values, 0)) @ vectors.T
    return covariance


def _square_root(covariance: Floats) -> Floats:
    """Return a matrix R such that R Rᵀ is the covariance. R times standard normal numbers has this covariance."""
    # A Cholesky factor does not exist where two models have the same scores.
    values, vectors = np.linalg.eigh(covariance)
    root: Floats = vectors * np.sqrt(np.maximum(values, 0))
    return root
