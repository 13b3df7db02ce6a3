"""Metrics of verification: whether two recordings are of one speaker, from scores of trials (pairs of recordings).

The equal error rate (EER) and the minimum of NIST's detection cost (https://www.nist.gov/itl/iad/mig/speaker-recognition), with
intervals that resample speakers: a trial counts as often as both of its speakers were drawn (Bolle et al. 2004). Trials of one
recording, or of one speaker, hang together, and drawn one by one they would make the intervals several times too narrow.
Legend of shapes: n trials, k speakers, b thresholds, r resamples, p pairs of speakers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mapsto.metrics.intervals import RESAMPLES, ROUNDING, Floats, Score, agreed_interval, expanded_tail
from mapsto.metrics.ranking import Ints

Bools = NDArray[np.bool_]
# The probability of a target trial in NIST's costs, by which both errors are weighed; a miss and a false alarm cost 1 each.
TARGET_PROBABILITIES = (0.01, 0.05)
# Thresholds of the resamples; the metric itself has all. The error is far below the width of the interval.
MAX_THRESHOLDS = 2000
# Weights of pairs of speakers that are in memory at a time.
WEIGHTS_AT_ONCE = 20_000_000

# A metric of the rates (…, b) of misses and false alarms at ascending thresholds.
RateMetric = Callable[[Floats, Floats], Floats]


def error_rates(targets: Any, others: Any) -> tuple[Floats, Floats]:
    """Return the rates (…, b + 1) of misses and of false alarms if scores below each threshold are rejected.

    targets, others: (…, b), the numbers of trials of one speaker and of two, at b ascending scores.
    """
    rejected = [np.concatenate([np.zeros((*part.shape[:-1], 1)), part.cumsum(-1)], -1) for part in (targets, others)]
    with np.errstate(invalid="ignore", divide="ignore"):
        miss, correct = (part / part[..., -1:] for part in rejected)
    return miss, 1 - correct


def equal_error_rate(miss: Floats, false_alarm: Floats) -> Floats:
    """Return the rate (…) at which both errors are equal, between two thresholds by a straight line. NaN if one is NaN."""
    # Misses rise from 0 to 1 and false alarms fall from 1 to 0, so there is a last threshold with fewer misses.
    place = np.maximum((miss < false_alarm).sum(-1, keepdims=True) - 1, 0)
    (miss_0, alarm_0), (miss_1, alarm_1) = (
        tuple(np.take_along_axis(rate, place + step, -1)[..., 0] for rate in (miss, false_alarm)) for step in (0, 1)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        share = (alarm_0 - miss_0) / ((alarm_0 - miss_0) + (miss_1 - alarm_1))
    rate: Floats = miss_0 + share * (miss_1 - miss_0)
    return rate


def min_detection_cost(miss: Floats, false_alarm: Floats, probability: float) -> Floats:
    """Return the lowest cost (…) over all thresholds, as a share of that of the better constant answer.

    probability: that of a target trial, such as 0.01.
    """
    costs: Floats = (probability * miss + (1 - probability) * false_alarm).min(-1)
    return costs / min(probability, 1 - probability)


METRICS: Mapping[str, RateMetric] = {
    "eer": equal_error_rate,
    **{
        f"min_dcf@{probability:g}": partial(min_detection_cost, probability=probability)
        for probability in TARGET_PROBABILITIES
    },
}


def verification_scores(scores: Floats, is_target: Bools, first: Ints, second: Ints) -> dict[str, Score]:
    """Return EER and minimum detection costs of n trials, with 95 % intervals over speakers; empty without trials of both kinds.

    scores: (n,), high for one speaker. is_target: (n,), whether a trial is of one speaker.
    first, second: (n,), the speaker of each side; for unknown speakers, the recording.
    """
    if not is_target.any() or is_target.all():
        return {}
    thresholds, bins = np.unique(scores, return_inverse=True)
    rates = error_rates(*_count(bins, is_target, len(thresholds)))
    speakers, numbers = np.unique(np.concatenate([first, second]), return_inverse=True)
    if len(thresholds) > MAX_THRESHOLDS:
        bins = np.searchsorted(_choose_edges(scores, is_target), scores, side="right")
    resampled: dict[str, list[Floats]] = {name: [] for name in METRICS}
    for resample in _resample(bins, is_target, numbers.reshape(2, -1), len(speakers)):
        for name, metric in METRICS.items():
            resampled[name].append(metric(*resample))
    return {
        name: _with_limits(float(metric(*rates)), np.concatenate(resampled[name]), len(speakers), len(scores))
        for name, metric in METRICS.items()
    }


def _choose_edges(scores: Floats, is_target: Bools) -> Floats:
    """Return at most MAX_THRESHOLDS thresholds, close to each other where few trials decide: at the highest scores of others."""
    count = MAX_THRESHOLDS // 3
    shares = np.linspace(0, 1, count + 1)[1:-1]
    highest = np.sort(scores[~is_target])[-count:]
    edges: Floats = np.unique(
        np.concatenate([np.quantile(scores, shares), np.quantile(scores[is_target], shares), highest])
    )
    return edges


def _with_limits(value: float, samples: Floats, k: int, n: int) -> Score:
    """Return a metric of n trials with the limits of its interval over k speakers. samples: (r,), NaN where undefined."""
    if k < 2 or np.isnan(samples).all():
        return Score(value, math.nan, math.nan, n)
    tail = expanded_tail(k)
    low, high = np.nanquantile(samples, [tail, 1 - tail])
    if high - low <= ROUNDING * max(abs(value), ROUNDING):
        low, high = agreed_interval(value, k)
    return Score(value, float(low), float(high), n)


def _count(bins: Ints, is_target: Bools, size: int) -> tuple[Floats, Floats]:
    """Return the numbers (size,) of target trials and of others in each bin."""
    targets, others = (np.bincount(bins[kind], minlength=size).astype(np.float64) for kind in (is_target, ~is_target))
    return targets, others


def _resample(bins: Ints, is_target: Bools, speakers: Ints, k: int) -> Iterator[tuple[Floats, Floats]]:
    """Yield the error rates (r, b + 1) of blocks of resamples of k speakers.

    bins: (n,), the threshold of each trial. speakers: (2, n), the numbers of both speakers of each trial.
    """
    from scipy.sparse import csr_matrix  # takes a second to import

    low, high = speakers.min(0), speakers.max(0)
    pairs, pair_of_trial = np.unique(low * k + high, return_inverse=True)
    shape = (len(pairs), int(bins.max()) + 1)
    counts = [
        csr_matrix((np.ones(int(kind.sum())), (pair_of_trial[kind], bins[kind])), shape=shape)
        for kind in (is_target, ~is_target)
    ]
    first, second = pairs // k, pairs % k
    rng = np.random.Generator(np.random.Philox(key=[0, k]))
    block = max(1, WEIGHTS_AT_ONCE // max(len(pairs), shape[1]))
    for start in range(0, RESAMPLES, block):
        drawn = rng.integers(0, k, (min(block, RESAMPLES - start), k))
        times = np.stack([np.bincount(row, minlength=k) for row in drawn]).astype(np.float64)
        # A speaker who was drawn twice is two speakers, each with his own trials.
        weights = times[:, first] * np.where(first == second, 1.0, times[:, second])
        targets, others = ((part.T @ weights.T).T for part in counts)
        yield error_rates(targets, others)
