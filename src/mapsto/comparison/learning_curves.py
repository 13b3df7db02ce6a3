"""Learning curves: how many labelled rows a model needs for a score, and what score more labelled rows would give.

Legend of shapes: b bootstrap samples (or 1), m numbers of labelled rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mapsto.metrics.intervals import Floats

MIN_ERROR = 1e-3  # smaller errors are replaced by this one, since the logarithm of 0 is infinite


def labels_needed(label_counts: Sequence[int], curves: Floats, scores: Floats) -> Floats:
    """Return the number of labelled rows (b,) at which each learning curve reaches its score.

    Curves are interpolated in the logarithm of the number of rows. The result is infinite if the curve never reaches
    the score, and label_counts[0] if the curve starts at or above the score.
    label_counts: m numbers of labelled rows in ascending order.
    curves: (b, m), the scores of each curve at `label_counts`.
    scores: (b,), the score that each curve has to reach.
    """
    # A score that was reached once stays reached, even if the curve falls later by chance.
    best = np.maximum.accumulate(curves, axis=1)
    logs = np.log(np.asarray(label_counts, np.float64))
    first_reached = np.sum(best < scores[:, None], axis=1)  # the index of the first number of labels that is enough
    needed = np.full(len(curves), np.inf)
    needed[first_reached == 0] = label_counts[0]
    for index in range(1, len(label_counts)):
        is_here = first_reached == index
        low, high = best[is_here, index - 1], best[is_here, index]
        # No division by 0: the score is above `low` and at most `high`.
        fraction = (scores[is_here] - low) / (high - low)
        needed[is_here] = np.exp(logs[index - 1] + fraction * (logs[index] - logs[index - 1]))
    return needed


def extrapolate(label_counts: Sequence[int], curves: Floats, num_labels: float) -> Floats:
    """Return the score (b,) of each learning curve at `num_labels` rows if its error keeps falling as a power law.

    A straight line is fitted to log error over log number of rows by least squares (Hestness et al. 2017); its slope is
    at most 0.
    label_counts: m numbers of labelled rows.
    curves: (b, m), the scores of each curve at `label_counts`.
    """
    logs = np.log(np.asarray(label_counts, np.float64))
    log_errors = np.log(np.maximum(1 - curves, MIN_ERROR))
    centred = logs - logs.mean()
    # More labels do not hurt: a rising error is taken for noise.
    slopes = np.minimum((log_errors @ centred) / (centred**2).sum(), 0)
    scores: Floats = 1 - np.exp(log_errors.mean(axis=1) + slopes * (np.log(num_labels) - logs.mean()))
    return scores
