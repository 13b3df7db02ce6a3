"""Mean and deviation of numbers of any size, and numbers so far from all others that they alone make the deviation.

Legend of shapes: n rows, k numbers of a row.
"""

from __future__ import annotations

import numpy as np

from mapsto.metrics.intervals import Floats

# The largest number that is learnt from: the squares of a million of them have a finite sum.
MAX_MAGNITUDE = 1e150
# A value in at most this share of the rows is far from all others if without it the deviation is this many times smaller.
MAX_SHARE, MIN_RATIO = 0.05, 10.0
# Fewer numbers say nothing of what is far.
MIN_NUMBERS = 10


def mean_and_deviation(values: Floats) -> tuple[Floats, Floats]:
    """Return the mean and the standard deviation of each column of `values`, (n,) or (n, k), without overflow or underflow."""
    centre = values[0]
    scale = np.abs(values - centre).max(0)
    scale = np.where(scale > 0, scale, 1.0)
    scaled = (values - centre) / scale
    return centre + scaled.mean(0) * scale, scaled.std(0) * scale


def lone_rows(values: Floats) -> list[int]:
    """Return the indices of the numbers (n,) that alone make the deviation: all that equal the smallest, or the largest, value.

    Without them the deviation is at least MIN_RATIO times smaller, as with a typing error, or with a number that stands for
    nothing, such as 999999. Empty if there is no such value, or it is in more than MAX_SHARE of the rows.
    """
    if len(values) < MIN_NUMBERS:
        return []
    deviation = float(mean_and_deviation(values)[1])
    for extreme in (values.max(), values.min()):
        is_lone = values == extreme
        if is_lone.sum() <= max(1, MAX_SHARE * len(values)) and deviation > 0:
            rest = float(mean_and_deviation(values[~is_lone])[1])
            if MIN_RATIO * rest <= deviation:
                return [int(index) for index in np.flatnonzero(is_lone)]
    return []
