"""Metrics of predicted numbers and predicted vectors.

Legend of shapes: n items, k numbers of a vector.
"""

from __future__ import annotations

import numpy as np

from mapsto.metrics.intervals import Floats, bounded


def mean_absolute_error(predictions: Floats, truth: Floats) -> float:
    """Return the mean absolute error. predictions, truth: (n,)."""
    return float(np.abs(predictions - truth).mean())


def root_mean_squared_error(predictions: Floats, truth: Floats) -> float:
    """Return the root of the mean squared error. predictions, truth: (n,)."""
    return float(np.sqrt(((predictions - truth) ** 2).mean()))


def r_squared(predictions: Floats, truth: Floats) -> float:
    """Return R², the share of the variance of `truth` that `predictions` explain, both (n,); NaN if `truth` is constant."""
    spread = ((truth - truth.mean()) ** 2).sum()
    return float(1 - ((predictions - truth) ** 2).sum() / spread) if spread > 0 else float("nan")


@bounded(-1.0)
def pearson(predictions: Floats, truth: Floats) -> float:
    """Return the correlation of two series (n,); NaN if one of them is constant."""
    centred, centred_truth = predictions - predictions.mean(), truth - truth.mean()
    norm = np.sqrt((centred**2).sum() * (centred_truth**2).sum())
    return float((centred * centred_truth).sum() / norm) if norm > 0 else float("nan")


@bounded(-1.0)
def spearman(predictions: Floats, truth: Floats) -> float:
    """Return the correlation of the ranks of two series (n,), where equal values have their mean rank (Spearman 1904)."""
    return pearson(_mean_ranks(predictions), _mean_ranks(truth))


def _mean_ranks(values: Floats) -> Floats:
    """Return the rank of each value, (n,), from 0; equal values have the mean of their ranks."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(counts) - (counts + 1) / 2)[index]
    return ranks


def mean_r_squared(predictions: Floats, truth: Floats) -> float:
    """Return the mean of R² over the k columns of predicted and true vectors, (n, k) each.

    Columns in which `truth` is constant are left out; NaN if all columns are constant.
    """
    spread = ((truth - truth.mean(0)) ** 2).sum(0)
    varies = spread > 0
    if not varies.any():
        return float("nan")
    return float((1 - ((predictions - truth) ** 2).sum(0)[varies] / spread[varies]).mean())


@bounded(-1.0)
def mean_cosine(predictions: Floats, truth: Floats) -> float:
    """Return the mean over items of the cosine similarity of the predicted and the true vector. predictions, truth: (n, k)."""
    lengths = np.linalg.norm(predictions, axis=1) * np.linalg.norm(truth, axis=1)
    # A zero vector gets the similarity 0 in place of NaN.
    return float(((predictions * truth).sum(1) / np.maximum(lengths, 1e-12)).mean())
