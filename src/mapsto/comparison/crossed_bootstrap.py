"""Scores over several draws of the labels and one set of items: what their means could have been.

Both the draws and the items are chance, crossed: each draw is scored on the same items. The mean varies with the draws
(variance a), with the items (b) and with what is left (e), so its variance over s draws and n items is a/s + b/n + e/(sn);
the three are told apart as in a two-way analysis of variance (Owen 2007 gives the bootstrap of the same model). A normal
bootstrap over five draws holds the truth too seldom; the few draws get Student's t here.
Legend of shapes: k scores that belong together, s draws of the labels, n items, b samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mapsto.metrics.intervals import Floats, Score

SAMPLES = 10_000


TAIL = 0.025


# Where all n items are alike, the truth may still be this far over n away (0.025 = (1 − 3.69/n)ⁿ); a normal's 1.96 deviations.
ALIKE = 3.69 / 1.96


@dataclass(frozen=True)
class Means:
    """The means (k,) of k scores, and how they vary together: with the draws of labels and with the items, both (k, k)."""

    values: Floats
    of_draws: Floats
    of_items: Floats
    draws: int
    items: int

    @classmethod
    def of(cls, gains: NDArray[np.float32]) -> Means:
        """From what each item was worth in each draw, (k, s, n)."""
        k, s, n = gains.shape
        values = gains.mean(axis=(1, 2), dtype=np.float64)
        nothing = np.zeros((k, k))
        if s < 2 or n < 2:
            return cls(values, nothing, nothing, s, n)
        by_draw = gains.mean(axis=2, dtype=np.float64) - values[:, None]
        by_item = gains.mean(axis=1, dtype=np.float64) - values[:, None]
        draws = n * by_draw @ by_draw.T / (s - 1)
        items = s * by_item @ by_item.T / (n - 1)
        left = np.zeros((k, k))
        for draw in range(s):
            rest = gains[:, draw] - (values + by_draw[:, draw])[:, None] - by_item
            left += rest @ rest.T
        left /= (s - 1) * (n - 1)
        of_items = _without_negative(items - left) / (s * n)
        np.fill_diagonal(of_items, np.maximum(of_items.diagonal(), (ALIKE / n) ** 2))
        return cls(values, draws / (s * n), of_items, s, n)

    def samples(self, seed: int = 0, count: int = SAMPLES) -> Floats:
        """The means, and below them means as they could have been, (1 + b, k); with a single draw of labels, of which nothing
        can be said, the means alone."""
        if self.draws < 2 or self.items < 2:
            return self.values[None]
        rng = np.random.Generator(np.random.Philox(key=[seed, 0]))
        k, freedom = len(self.values), self.draws - 1
        wide = np.sqrt(freedom / rng.chisquare(freedom, (count, 1)))
        of_draws = rng.standard_normal((count, k)) @ _root(self.of_draws).T * wide
        of_items = rng.standard_normal((count, k)) @ _root(self.of_items).T
        return np.concatenate([self.values[None], self.values + of_draws + of_items])


def interval(samples: Floats, n: int) -> Score:
    """The first of `samples` (1 + b,) with the middle 95 % of the others, which may be infinite; NaN where there are none."""
    value, others = float(samples[0]), samples[1:]
    if not len(others):
        return Score(value, float("nan"), float("nan"), n)
    low, high = np.quantile(others, [TAIL, 1 - TAIL], method="closest_observation")
    return Score(value, float(low), float(high), n)


def _without_negative(matrix: Floats) -> Floats:
    """The nearest covariance: a difference of two may have directions below 0."""
    values, vectors = np.linalg.eigh(matrix)
    found: Floats = (vectors * np.maximum(values, 0)) @ vectors.T
    return found


def _root(matrix: Floats) -> Floats:
    values, vectors = np.linalg.eigh(matrix)
    found: Floats = vectors * np.sqrt(np.maximum(values, 0))
    return found
