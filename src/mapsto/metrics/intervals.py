"""A metric's value with its 95 % confidence interval, over items or over seeds.

Over items: Wilson's interval for a share of correct items, else a percentile bootstrap with 1,000 resamples. Over
seeds: Student's t. Legend of shapes: n items, b resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Array = NDArray[Any]

RESAMPLES = 1000
RESAMPLED_AT_ONCE = 2_000_000  # indices drawn in one block, 16 MB


@dataclass(frozen=True)
class Score:
    """A metric's value with its 95 % interval.

    low, high: limits of the interval; NaN if there is none.
    n: number of items, or of seeds, that the metric averages over.
    """

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.4f} ({self.low:.4f}–{self.high:.4f}, n = {self.n:,})"

    @property
    def percent(self) -> str:
        """Format value, interval and number of items in percent: "81.4 % (79.0–83.6, n = 1,179)"."""
        return f"{100 * self.value:.1f} % ({self.interval_percent}, n = {self.n:,})"

    @property
    def interval_percent(self) -> str:
        """Format the interval in percent: "79.0–83.6"."""
        return f"{100 * self.low:.1f}{' to ' if self.low < 0 else '–'}{100 * self.high:.1f}"


def to_json(value: Any) -> Any:
    """Convert dataclasses, dicts and sequences to plain JSON values; infinite and NaN numbers become None.

    A dataclass field is written under its own name, or under the `key` in its metadata.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {field.metadata.get("key", field.name): to_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): to_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def accuracy(labels: Array, predictions: Array) -> float:
    """Return the share of items (n,) whose prediction equals the label."""
    return float(np.mean(labels == predictions))


def mean_score(item_scores: Array) -> float:
    """Return the mean of the scores (n,) of the items."""
    return float(np.mean(item_scores))


def with_intervals(metrics: Mapping[str, tuple[Any, ...]]) -> dict[str, Score]:
    """Return each metric's value with its 95 % interval over the items, by name.

    metrics: by name, a metric function followed by the arrays over items that the function takes.
    """
    return {name: with_interval(metric, *arrays) for name, (metric, *arrays) in metrics.items()}


def with_interval(
    metric: Callable[..., Any], *arrays: Array, seed: int = 0, resamples: int = RESAMPLES, confidence: float = 0.95
) -> Score:
    """Return `metric(*arrays)` with its interval over the items, which are the first axis of every array.

    The interval of a share of correct items is Wilson's (1927). A bootstrap would fail there: of 20 correct items out
    of 20, every resample is 100 % correct, and the interval would have no width. All other metrics get the percentile
    bootstrap.
    resamples: number of bootstrap resamples. seed: of the resampling.
    """
    n = len(arrays[0])
    if metric in (accuracy, mean_score):
        items = arrays[0] == arrays[1] if metric is accuracy else arrays[0]
        if set(np.unique(items)) <= {0.0, 1.0}:
            return Score(float(items.mean()), *_wilson_interval(float(items.mean()), n, confidence), n)
    # The same resamples for every metric of n items, so that their intervals are comparable.
    rng = np.random.Generator(np.random.Philox(key=[seed, n]))
    samples = np.array([metric(*(array[index] for array in arrays)) for index in _resample(n, rng, resamples)])
    tail = (1 - confidence) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    return Score(float(metric(*arrays)), float(low), float(high), n)


def mean_interval(values: Sequence[float], minimum: float = -math.inf, maximum: float = math.inf) -> Score:
    """Return the mean of one value per seed with its 95 % interval by Student's t.

    A single value has no interval (NaN).
    minimum, maximum: the metric's range, to which the interval is cut.
    """
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return Score(mean, float("nan"), float("nan"), n)
    from scipy.stats import t as student  # takes a second to import, and most commands show no interval

    # 0.975 leaves 2.5 % on each side.
    half = float(student.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return Score(mean, max(mean - half, minimum), min(mean + half, maximum), n)


def _wilson_interval(share: float, n: int, confidence: float) -> tuple[float, float]:
    """Return the limits (low, high) of Wilson's score interval for a share of `n` items."""
    # The shares p for which |share − p| is at most z standard deviations √(p(1 − p)/n).
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre, scale = share + z * z / (2 * n), 1 + z * z / n
    half = z * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def _resample(n: int, rng: np.random.Generator, resamples: int) -> Iterator[Any]:
    """Yield index arrays (n,) of bootstrap resamples, drawn in blocks of bounded memory."""
    # A call of the generator for each resample would cost more than the metric itself.
    block = max(1, RESAMPLED_AT_ONCE // n)
    for start in range(0, resamples, block):
        yield from rng.integers(0, n, size=(min(block, resamples - start), n))
