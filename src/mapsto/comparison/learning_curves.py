"""Learning curves: how many labels another way needs for the same score, and what more labels would give.

Legend of shapes: b samples (or 1), m numbers of labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mapsto.metrics.intervals import Floats

SMALLEST_ERROR = 1e-3


def reach(labels: Sequence[int], curves: Floats, wanted: Floats) -> Floats:
    """How many labels bring each curve (b, m) to the score `wanted` (b,): (b,), by interpolation in the logarithm of the labels.

    A curve counts as the best it has reached so far. Infinite where it never gets there, the fewest labels where it is
    there from the start.
    """
    best = np.maximum.accumulate(curves, axis=1)
    logs = np.log(np.asarray(labels, np.float64))
    after = np.sum(best < wanted[:, None], axis=1)  # the first place that is high enough
    found = np.full(len(curves), np.inf)
    found[after == 0] = labels[0]
    for place in range(1, len(labels)):
        there = after == place
        low, high = best[there, place - 1], best[there, place]
        share = (wanted[there] - low) / (high - low)
        found[there] = np.exp(logs[place - 1] + share * (logs[place] - logs[place - 1]))
    return found


def ahead(labels: Sequence[int], curves: Floats, at: float) -> Floats:
    """The score (b,) that each curve (b, m) would have at `at` labels if its error went on falling as a power of them
    (Hestness et al. 2017): a straight line through the logarithms, by least squares, that never rises."""
    logs = np.log(np.asarray(labels, np.float64))
    errors = np.log(np.maximum(1 - curves, SMALLEST_ERROR))
    from_middle = logs - logs.mean()
    slope = np.minimum((errors @ from_middle) / (from_middle**2).sum(), 0)
    found: Floats = 1 - np.exp(errors.mean(axis=1) + slope * (np.log(at) - logs.mean()))
    return found
