"""Every metric equals its reference library, and intervals hold what they promise."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from mapsto.metrics import classification, intervals, span_scores


@given(st.integers(0, 2**31), st.integers(2, 400), st.integers(2, 7))
@settings(max_examples=60, deadline=None)
def test_equal_to_scikit_learn(seed: int, count: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    truth, guess = rng.integers(0, classes, count), rng.integers(0, classes, count)
    probabilities = rng.dirichlet(np.full(classes, 0.3), count)
    close = {"abs": 1e-8, "rel": 0}
    assert intervals.accuracy(truth, guess) == pytest.approx(metrics.accuracy_score(truth, guess), **close)
    expected = metrics.f1_score(truth, guess, average="macro", zero_division=0)
    assert classification.macro_f1(truth, guess) == pytest.approx(expected, **close)
    expected = metrics.log_loss(truth, probabilities, labels=range(classes))
    assert classification.log_loss(truth, probabilities) == pytest.approx(expected, **close)


def test_log_loss_of_a_sure_mistake_is_finite_and_equal() -> None:
    probabilities = np.array([[1.0, 0.0], [0.0, 1.0]])
    truth = np.array([1, 1])
    assert classification.log_loss(truth, probabilities) == pytest.approx(
        metrics.log_loss(truth, probabilities, labels=[0, 1]), abs=1e-8
    )


def reference_calibration(labels: np.ndarray, probabilities: np.ndarray, bins: int) -> float:
    """Guo et al. 2017, equation 3, item by item."""
    total = 0.0
    confidence, is_right = probabilities.max(1), probabilities.argmax(1) == labels
    for low in np.arange(bins) / bins:
        in_bin = (confidence > low) & (confidence <= low + 1 / bins)
        if in_bin.any():
            total += in_bin.mean() * abs(is_right[in_bin].mean() - confidence[in_bin].mean())
    return total


def test_calibration_error() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.full(5, 0.3), 700)
    labels = rng.integers(0, 5, 700)
    error = classification.expected_calibration_error(labels, probabilities)
    assert error == pytest.approx(reference_calibration(labels, probabilities, 15), abs=1e-8)
    certain = np.eye(3)[rng.integers(0, 3, 50)]
    assert classification.expected_calibration_error(certain.argmax(1), certain) == 0.0


@pytest.mark.parametrize("count", [10, 20, 50, 200, 1000])
def test_intervals_of_shares_cover_the_truth(count: int) -> None:
    """Coverage holds for few rows and for nearly all right."""
    rng = np.random.default_rng(1)
    num_covered = 0
    for accuracy in rng.uniform(0.5, 1, 500):
        predictions = (rng.random(count) > accuracy).astype(int)
        score = intervals.with_interval(intervals.accuracy, np.zeros(count, int), predictions)
        assert 0 <= score.low <= score.value <= score.high <= 1 and score.n == count
        num_covered += score.low <= accuracy <= score.high
    assert 0.93 <= num_covered / 500 <= 0.98


def test_intervals_of_means_cover_the_truth() -> None:
    rng = np.random.default_rng(1)
    scores = [
        intervals.with_interval(intervals.mean_score, rng.beta(2, 1, 200), seed=trial, resamples=400)
        for trial in range(500)
    ]
    assert 0.93 <= np.mean([score.low <= 2 / 3 <= score.high for score in scores]) <= 0.97


BOUNDED = sorted(intervals._RANGES.items(), key=lambda entry: entry[0].__qualname__)


@pytest.mark.parametrize("count", [1, 5, 20, 400])
@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
def test_resamples_that_agree_give_no_interval_without_width(count: int, value: float) -> None:
    """The value of a metric with a range has an interval within that range, the narrower the more items there are."""
    for _, (low, high) in BOUNDED:
        value_in_range = low + value * (high - low)
        metric = intervals.bounded(low, high)(lambda items: float(items[0]))
        score = intervals.with_interval(metric, np.full(count, value_in_range), resamples=20)
        assert low <= score.low <= score.value <= score.high <= high
        more = intervals.with_interval(metric, np.full(count + 1, value_in_range), resamples=20)
        assert 0 < more.high - more.low < score.high - score.low < high - low


def test_a_perfect_f1_has_the_interval_of_a_perfect_share() -> None:
    counts = np.full(20, 2.0)
    perfect = intervals.with_interval(span_scores.f1, counts, counts, counts, resamples=20)
    share = intervals.with_interval(intervals.mean_score, np.ones(20))
    assert (perfect.value, perfect.low, perfect.high) == pytest.approx((1.0, share.low, 1.0))
    partial_call = partial(span_scores.f1, true=counts)
    assert intervals.with_interval(partial_call, counts, counts, resamples=20).low == pytest.approx(share.low)


def test_a_single_item_of_an_unbounded_metric_has_no_interval() -> None:
    score = intervals.with_interval(np.mean, np.array([3.0]))
    assert np.isnan(score.low) and str(score) == "3.0000 (n = 1)" and score.percent == "300.0 % (n = 1)"


def test_an_interval_of_a_share_is_wilsons() -> None:
    """Wilson's intervals in Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, and of the misses."""
    for hits, count, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)):
        items = np.arange(count) < hits
        score, complement = (
            intervals.with_interval(intervals.mean_score, part.astype(float)) for part in (items, ~items)
        )
        assert (score.low, score.high) == pytest.approx((low, high), abs=5e-5)
        assert (complement.low, complement.high) == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_intervals_are_a_function_of_their_seed() -> None:
    labels, predictions = np.arange(50) % 3, np.arange(50) % 4 % 3
    score = intervals.with_interval(classification.macro_f1, labels, predictions, seed=3)
    assert score == intervals.with_interval(classification.macro_f1, labels, predictions, seed=3)


def test_intervals_over_seeds() -> None:
    score = intervals.mean_interval([0.8, 0.9, 0.85])
    assert score.n == 3 and score.value == pytest.approx(0.85)
    assert score.high - score.value == pytest.approx(4.302652729911275 * 0.05 / 3**0.5)
    assert np.isnan(intervals.mean_interval([0.5]).low)


def test_scores_are_formatted_with_their_interval() -> None:
    score = intervals.Score(0.8142, 0.79, 0.8364, 1179)
    assert score.percent == "81.4 % (79.0–83.6, n = 1,179)"
    assert str(score) == "0.8142 (0.7900–0.8364, n = 1,179)"
