"""Metrics with 95 % confidence intervals, over the items of a test set, over groups of items, or over training seeds.

Over items a share of correct items has Wilson's interval, and any other metric that of a percentile bootstrap with 1,000
resamples. If all resamples agree, the limits of the metric's range replace the bootstrap. Over seeds the interval is Student's t.
Items of one group, such as recordings of one speaker, are alike. Where groups are known, the bootstrap draws whole groups, with
the percentiles of Hesterberg (2015, https://doi.org/10.1080/00031305.2015.1089789), which allow for few of them.
Legend of shapes: n items, k groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from statistics import NormalDist
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Array = NDArray[Any]
MetricFunction = TypeVar("MetricFunction", bound=Callable[..., Any])

RESAMPLES = 1000
RESAMPLED_AT_ONCE = 2_000_000  # indices drawn in one block, 16 MB
# The relative difference below which all resamples have the same value, but for rounding.
ROUNDING = 1e-9
# Standard deviations of a normal distribution on each side of a 95 % interval.
NORMAL_QUANTILE = 1.96
# The metrics of which the lower value is the better one.
ERROR_METRICS = frozenset(
    {
        *("log_loss", "calibration_error", "mae", "rmse", "eer"),
        *("wer", "wer_normalised", "cer"),
        *("masked_loss", "patch_loss", "log_mel_distance", "mel_cepstral_distortion"),
    }
)
# The lowest and the highest possible value of each metric that has both, by its function.
_RANGES: dict[Any, tuple[float, float]] = {}
# The metrics that `higher_when_resampled` declares.
_HIGHER_WHEN_RESAMPLED: set[Any] = set()


@dataclass(frozen=True)
class Score:
    """The value of a metric with its 95 % confidence interval.

    low, high: limits of the interval; NaN if the value has no interval.
    n: number of items, or of seeds, that the value is computed from.
    """

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Score:
        """Return the score of which `to_json` returned `record`, with null for a limit that there is not."""
        numbers: dict[str, Any] = {name: math.nan if number is None else number for name, number in record.items()}
        return cls(**numbers)

    def __str__(self) -> str:
        interval = "" if math.isnan(self.low) else f"{self.low:.4f}–{self.high:.4f}, "
        return f"{self.value:.4f} ({interval}n = {self.n:,})"

    @property
    def percent(self) -> str:
        """The value and its interval in percent, and the number of items, as text: "81.4 % (79.0–83.6, n = 1,179)"."""
        interval = "" if math.isnan(self.low) else f"{self.interval_percent}, "
        return f"{100 * self.value:.1f} % ({interval}n = {self.n:,})"

    @property
    def interval_percent(self) -> str:
        """The limits of the interval in percent, as text: "79.0–83.6"."""
        return f"{100 * self.low:.1f}{' to ' if self.low < 0 else '–'}{100 * self.high:.1f}"


def to_json(value: Any) -> Any:
    """Convert dataclasses, dicts, lists and tuples, also nested ones, to plain JSON values; infinite numbers and NaN become None.

    A dataclass becomes a dict with one entry per field, under the `key` in the field's metadata or else the field's name.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {field.metadata.get("key", field.name): to_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): to_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def bounded(low: float = 0.0, high: float = 1.0) -> Callable[[MetricFunction], MetricFunction]:
    """Return a decorator that declares the lowest and the highest possible value of a metric, by default those of a share."""

    def declare(metric: MetricFunction) -> MetricFunction:
        _RANGES[metric] = (low, high)
        return metric

    return declare


def higher_when_resampled(metric: MetricFunction) -> MetricFunction:
    """Declare that resamples of the items have a higher value on average than the items, as a sum of absolute gaps has.

    Their distribution is moved by its bias, so that the interval lies about the value.
    """
    _HIGHER_WHEN_RESAMPLED.add(metric)
    return metric


@bounded()
def accuracy(labels: Array, predictions: Array) -> float:
    """Return the share of items whose prediction equals the label. labels, predictions: (n,)."""
    return float(np.mean(labels == predictions))


def mean_score(item_scores: Array) -> float:
    """Return the mean of the items' scores (n,), as a metric to pass to `with_interval`."""
    return float(np.mean(item_scores))


def with_intervals(metrics: Mapping[str, tuple[Any, ...]], groups: Array | None = None) -> dict[str, Score]:
    """Return the value of each metric, by name, with its 95 % interval over the items.

    metrics: for each name a tuple of the metric function and the arrays, with items as the first axis, to call it with.
    groups: (n,), the group of each item, as for `with_interval`.
    """
    return {name: with_interval(metric, *arrays, groups=groups) for name, (metric, *arrays) in metrics.items()}


def with_interval(
    metric: Callable[..., Any],
    *arrays: Array,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
    groups: Array | None = None,
) -> Score:
    """Return `metric(*arrays)` with its confidence interval over the items, which are the first axis of every array.

    `accuracy`, and `mean_score` of scores that are all 0 or 1, get Wilson's interval (1927), other metrics the percentile
    bootstrap. If 20 of 20 items are correct, so are those of every resample, and a bootstrap interval would have no width. Then
    the interval of a metric with a range (see `bounded`) is that of `agreed_interval`. A single item of another metric has NaN.
    seed: seed of the bootstrap. resamples: number of bootstrap resamples.
    groups: (n,), the group of each item. The interval is then over groups, see `_grouped_interval`.
    """
    n = len(arrays[0])
    if groups is not None:
        return Score(float(metric(*arrays)), *_grouped_interval(metric, arrays, groups, seed, resamples, confidence), n)
    if metric in (accuracy, mean_score):
        items = arrays[0] == arrays[1] if metric is accuracy else arrays[0]
        if set(np.unique(items)) <= {0.0, 1.0}:
            return Score(float(items.mean()), *wilson_interval(float(items.mean()), n, confidence), n)
    # The same resamples for every metric of n items, so that their intervals are comparable.
    rng = np.random.Generator(np.random.Philox(key=[seed, n]))
    samples = np.array([metric(*(array[index] for array in arrays)) for index in _resample(n, rng, resamples)])
    value = float(metric(*arrays))
    samples = _without_bias(metric, samples, value)
    tail = (1 - confidence) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    limits = _range_of(metric, arrays[0])
    if limits is not None and high - low <= ROUNDING * abs(value):
        low, high = agreed_interval(value, n, limits, confidence)
    elif n < 2:
        low = high = math.nan
    return Score(value, float(low), float(high), n)


def _grouped_interval(
    metric: Callable[..., Any],
    arrays: Sequence[Array],
    groups: Array,
    seed: int,
    resamples: int,
    confidence: float,
) -> tuple[float, float]:
    """Return the limits (low, high) of a bootstrap that draws whole groups of items with replacement.

    They are NaN for a single group, and for a metric of other items than the n whose groups (n,) are known.
    """
    if len(groups) != len(arrays[0]):
        return math.nan, math.nan
    group_of_item = np.unique(groups, return_inverse=True)[1]
    k = int(group_of_item.max()) + 1
    if k < 2:
        return math.nan, math.nan
    rng = np.random.Generator(np.random.Philox(key=[seed, k]))
    samples = []
    for drawn in _resample(k, rng, resamples):
        index = np.repeat(np.arange(len(groups)), np.bincount(drawn, minlength=k)[group_of_item])
        samples.append(metric(*(array[index] for array in arrays)))
    value = float(metric(*arrays))
    tail = expanded_tail(k, confidence)
    low, high = np.nanquantile(_without_bias(metric, np.array(samples), value), [tail, 1 - tail])
    limits = _range_of(metric, arrays[0])
    if limits is not None and high - low <= ROUNDING * abs(value):
        return agreed_interval(value, k, limits, confidence)
    return float(low), float(high)


def expanded_tail(k: int, confidence: float = 0.95) -> float:
    """Return the share of bootstrap samples of k groups beyond each limit of an interval.

    Percentiles of few groups are too narrow, as if a normal distribution were taken for Student's t and the sum of squares were
    divided by k, not k − 1. Smaller tails make up for both.
    """
    return NormalDist().cdf(-math.sqrt(k / (k - 1)) * student_quantile(k - 1, confidence))


def student_quantile(degrees: int, confidence: float = 0.95) -> float:
    """Return the number of standard deviations of Student's t on each side of an interval. degrees: of freedom."""
    from scipy.stats import t as student  # takes a second to import, and most commands show no interval

    return float(student.ppf((1 + confidence) / 2, degrees))


def group_scores(item_scores: Array, groups: Array) -> Floats:
    """Return a score for each group, (…, k), whose mean is that of the items, (…, n), and whose deviations are its influence.

    The score of a group is the mean of all items, plus the deviation of its own items' mean from it, times its share of the items
    relative to 1 / k: so the variance of the mean over groups can be estimated as that over items is. groups: (n,).
    """
    group_of_item = np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(group_of_item)
    order = np.argsort(group_of_item, kind="stable")
    sums = np.add.reduceat(item_scores[..., order].astype(np.float64), np.cumsum(sizes) - sizes, axis=-1)
    mean = item_scores.mean(axis=-1, dtype=np.float64, keepdims=True)
    scores: Floats = mean + (sums - sizes * mean) * (len(sizes) / len(groups))
    return scores


def mean_half_width(item_scores: Array, groups: Array | None = None) -> float:
    """Return half the width of the 95 % interval of the mean of items (n,), over the items or over their groups (n,).

    It is infinite for a single item or group.
    """
    scores = item_scores if groups is None else group_scores(item_scores, groups)
    if len(scores) < 2:
        return math.inf
    # A few groups have a distribution with long tails.
    factor = NORMAL_QUANTILE if groups is None else student_quantile(len(scores) - 1)
    return factor * float(scores.std(ddof=1)) / math.sqrt(len(scores))


def mean_interval(values: Sequence[float], minimum: float = -math.inf, maximum: float = math.inf) -> Score:
    """Return the mean of values, one per training seed, with its 95 % interval by Student's t.

    A single value has an interval of NaN.
    minimum, maximum: the range of the metric, to which the interval is clipped.
    """
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return Score(mean, float("nan"), float("nan"), n)
    half = student_quantile(n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return Score(mean, max(mean - half, minimum), min(mean + half, maximum), n)


def wilson_interval(share: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the limits (low, high) of Wilson's score interval for a share of `n` items.

    share: the observed share, 0 to 1. confidence: the confidence level, such as 0.95.
    """
    # The shares p for which |share − p| is at most z standard deviations √(p(1 − p)/n).
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre, scale = share + z * z / (2 * n), 1 + z * z / n
    half = z * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def agreed_interval(
    value: float, n: int, limits: tuple[float, float] = (0.0, 1.0), confidence: float = 0.95
) -> tuple[float, float]:
    """Return the limits (low, high) of the interval of a metric that has the same value in every resample of `n` items.

    A share p of the items may be unlike the n that were drawn, with p at most the upper limit of Wilson's interval for 0 of n.
    At worst they have the lowest possible value, at best the highest. For a perfect share it is Wilson's interval.
    limits: the lowest and the highest value that the metric can have.
    """
    _, unseen_share = wilson_interval(0.0, n, confidence)
    low, high = ((1 - unseen_share) * value + unseen_share * limit for limit in limits)
    return low, high


def _function_of(metric: Any) -> Any:
    """Return the function behind a bound method or a partial call of it."""
    function = getattr(metric, "func", metric)
    return getattr(function, "__func__", function)


def _without_bias(metric: Any, samples: Floats, value: float) -> Floats:
    """Return the values of resamples moved by their bias, not below 0, if `higher_when_resampled` declares one for the metric."""
    if _function_of(metric) not in _HIGHER_WHEN_RESAMPLED:
        return samples
    return np.maximum(samples - (np.nanmean(samples) - value), 0.0)


def _range_of(metric: Any, items: Array) -> tuple[float, float] | None:
    """Return the range that `bounded` declares for a metric, also for a bound method or a partial call of it; else None.

    The range of `mean_score` is that of a share if all items (n,) are scores from 0 to 1.
    """
    function = _function_of(metric)
    if function is mean_score and items.min() >= 0 and items.max() <= 1:
        return 0.0, 1.0
    return _RANGES.get(function)


def _resample(n: int, rng: np.random.Generator, resamples: int) -> Iterator[Any]:
    """Yield for each bootstrap resample the indices (n,) of its items, drawn with replacement from n items."""
    # A call of the generator for each resample would cost more than the metric itself.
    block = max(1, RESAMPLED_AT_ONCE // n)
    for start in range(0, resamples, block):
        yield from rng.integers(0, n, size=(min(block, resamples - start), n))
