"""Learning curves: how many labels a model needs for a score, and what score more labels would give.

Legend of shapes: b bootstrap samples (or 1), m numbers of labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mapsto.metrics.intervals import Floats

MIN_ERROR = 1e-3  # a lower error counts as this, since its logarithm is fitted


def labels_needed(label_counts: Sequence[int], curves: Floats, scores: Floats) -> Floats:
    """Return the number of labels (b,) at which each curve (b, m) reaches its score (b,).

    Interpolated in the logarithm of the labels; a curve counts as the best that it has reached so far. Infinite where a curve
    never reaches the score, the smallest number where it starts above it.
    """
    # A curve that falls by chance has still reached what it reached before.
    best = np.maximum.accumulate(curves, axis=1)
    logs = np.log(np.asarray(label_counts, np.float64))
    first_reached = np.sum(best < scores[:, None], axis=1)  # the index of the first number of labels that is enough
    needed = np.full(len(curves), np.inf)
    needed[first_reached == 0] = label_counts[0]
    for index in range(1, len(label_counts)):
        is_here = first_reached == index
        low, high = best[is_here, index - 1], best[is_here, index]
        fraction = (scores[is_here] - low) / (high - low)
        needed[is_here] = np.exp(logs[index - 1] + fraction * (logs[index] - logs[index - 1]))
    return needed


def extrapolate(label_counts: Sequence[int], curves: Floats, num_labels: float) -> Floats:
    """Return the score (b,) of each curve (b, m) at `num_labels`, if its error keeps falling as a power law.

    Fits a straight line to log error by log labels by least squares, and never a rising one (Hestness et al. 2017).
    """
    logs = np.log(np.asarray(label_counts, np.float64))
    log_errors = np.log(np.maximum(1 - curves, MIN_ERROR))
    centred = logs - logs.mean()
    slopes = np.minimum((log_errors @ centred) / (centred**2).sum(), 0)
    scores: Floats = 1 - np.exp(log_errors.mean(axis=1) + slopes * (np.log(num_labels) - logs.mean()))
    return scores
