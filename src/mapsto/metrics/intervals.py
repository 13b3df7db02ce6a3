"""Figures with their uncertainty: metrics over items, and 95 % intervals over the items or over seeds.

Legend of shapes: n items, c classes, b resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


Values = NDArray[Any]


RESAMPLES = 1000


RESAMPLED_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class Score:
    """A figure with its 95 % interval and the number of items (or of seeds) it is over."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.4f} ({self.low:.4f}–{self.high:.4f}, n = {self.n:,})"

    @property
    def percent(self) -> str:
        """For people: "81.4 % (79.0–83.6, n = 1,179)"."""
        return f"{100 * self.value:.1f} % ({self.between}, n = {self.n:,})"

    @property
    def between(self) -> str:
        """The interval for people, in percent: "79.0–83.6"."""
        return f"{100 * self.low:.1f}{' to ' if self.low < 0 else '–'}{100 * self.high:.1f}"


def plain(value: Any) -> Any:
    """What JSON takes: figures that are infinite, or intervals that are not there, are null."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def accuracy(truth: Values, predicted: Values) -> float:
    """The share of items (n,) answered right."""
    return float(np.mean(truth == predicted))


def share(items: Values) -> float:
    """The mean of what items (n,) are worth."""
    return float(np.mean(items))


def with_interval(
    metric: Callable[..., Any], *arrays: Values, seed: int = 0, resamples: int = RESAMPLES, confidence: float = 0.95
) -> Score:
    """`metric(*arrays)` with the percentile bootstrap interval over items, the first axis of every array; a share of hits and
    misses with Wilson's (1927), since few misses are soon drawn away: of 20 hits in 20 the bootstrap makes 100 % for sure."""
    n = len(arrays[0])
    if metric in (accuracy, share):
        items = arrays[0] == arrays[1] if metric is accuracy else arrays[0]
        if set(np.unique(items)) <= {0.0, 1.0}:
            return Score(float(items.mean()), *_wilson(float(items.mean()), n, confidence), n)
    rng = np.random.Generator(np.random.Philox(key=[seed, n]))
    drawn = np.array([metric(*(array[index] for array in arrays)) for index in _indices(n, rng, resamples)])
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Score(float(metric(*arrays)), float(low), float(high), n)


def mean_interval(values: Sequence[float], least: float = -math.inf, most: float = math.inf) -> Score:
    """The mean over seeds with its 95 % interval by Student's t, which ends where the figure does, at `least` and `most`; one
    value alone has no interval (NaN)."""
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return Score(mean, float("nan"), float("nan"), n)
    from scipy.stats import t as student  # takes a second to import, and most commands show no interval

    half = float(student.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return Score(mean, max(mean - half, least), min(mean + half, most), n)


def _wilson(found: float, n: int, confidence: float) -> tuple[float, float]:
    """The shares of which `found`, of n items, is a likely draw."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    middle, shrunk = found + z * z / (2 * n), 1 + z * z / n
    half = z * math.sqrt(found * (1 - found) / n + (z / (2 * n)) ** 2)
    return max(0.0, (middle - half) / shrunk), min(1.0, (middle + half) / shrunk)


def _indices(n: int, rng: np.random.Generator, resamples: int) -> Any:
    """Index arrays (n,) of resamples, drawn in blocks of bounded memory."""
    block = max(1, RESAMPLED_AT_ONCE // n)
    for start in range(0, resamples, block):
        yield from rng.integers(0, n, size=(min(block, resamples - start), n))
