"""Every metric equals its reference library, and intervals hold what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from mapsto import scores


@given(st.integers(0, 2**31), st.integers(2, 400), st.integers(2, 7))
@settings(max_examples=60, deadline=None)
def test_equal_to_scikit_learn(seed: int, count: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    truth, guess = rng.integers(0, classes, count), rng.integers(0, classes, count)
    probabilities = rng.dirichlet(np.full(classes, 0.3), count)
    close = {"abs": 1e-8, "rel": 0}
    assert scores.accuracy(truth, guess) == pytest.approx(metrics.accuracy_score(truth, guess), **close)
    expected = metrics.f1_score(truth, guess, average="macro", zero_division=0)
    assert scores.macro_f1(truth, guess) == pytest.approx(expected, **close)
    expected = metrics.log_loss(truth, probabilities, labels=range(classes))
    assert scores.log_loss(truth, probabilities) == pytest.approx(expected, **close)


def test_log_loss_of_a_sure_mistake_is_finite_and_equal() -> None:
    probabilities = np.array([[1.0, 0.0], [0.0, 1.0]])
    truth = np.array([1, 1])
    assert scores.log_loss(truth, probabilities) == pytest.approx(
        metrics.log_loss(truth, probabilities, labels=[0, 1]), abs=1e-8
    )


def reference_calibration(truth: np.ndarray, probabilities: np.ndarray, bins: int) -> float:
    """Guo et al. 2017, equation 3, item by item."""
    total = 0.0
    confidence, right = probabilities.max(1), probabilities.argmax(1) == truth
    for low in np.arange(bins) / bins:
        inside = (confidence > low) & (confidence <= low + 1 / bins)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


def test_calibration_error() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.full(5, 0.3), 700)
    truth = rng.integers(0, 5, 700)
    found = scores.expected_calibration_error(truth, probabilities)
    assert found == pytest.approx(reference_calibration(truth, probabilities, 15), abs=1e-8)
    sure = np.eye(3)[rng.integers(0, 3, 50)]
    assert scores.expected_calibration_error(sure.argmax(1), sure) == 0.0


@pytest.mark.parametrize("count", [10, 20, 200])
@pytest.mark.parametrize("right", [0.6, 0.8, 0.97])
def test_intervals_hold_the_truth_about_as_often_as_they_say(right: float, count: int) -> None:
    """Also for the few rows of a slice of which nearly all are right."""
    rng = np.random.default_rng(1)
    inside = 0
    for trial in range(500):
        truth = np.zeros(count, int)
        guess = (rng.random(count) > right).astype(int)
        score = scores.with_interval(scores.accuracy, truth, guess, seed=trial)
        assert score.low <= score.value <= score.high and score.n == count
        inside += score.low <= right <= score.high
    assert 0.91 <= inside / 500 <= 0.995  # few items leave few intervals to choose from


def test_intervals_of_means_hold_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(2)
    drawn = [scores.with_interval(np.mean, rng.random(100) ** 2, seed=trial, resamples=400) for trial in range(300)]
    assert 0.90 <= np.mean([score.low <= 1 / 3 <= score.high for score in drawn]) <= 0.98


def test_hits_alone_are_no_certainty() -> None:
    hits = scores.with_interval(np.mean, np.ones(10))
    assert (hits.value, hits.high) == (1.0, 1.0) and hits.low == pytest.approx(0.7225, abs=1e-4)
    misses = scores.with_interval(np.mean, np.zeros(10))
    assert misses.low == 0 and misses.high == pytest.approx(1 - hits.low)


def test_intervals_are_a_function_of_their_seed() -> None:
    truth, guess = np.arange(50) % 3, np.arange(50) % 4 % 3
    one = scores.with_interval(scores.macro_f1, truth, guess, seed=3)
    assert one == scores.with_interval(scores.macro_f1, truth, guess, seed=3)


def test_over_seeds() -> None:
    score = scores.mean_interval([0.8, 0.9, 0.85])
    assert score.n == 3 and score.value == pytest.approx(0.85)
    assert score.high - score.value == pytest.approx(4.302652729911275 * 0.05 / 3**0.5)
    assert np.isnan(scores.mean_interval([0.5]).low)


def test_how_they_are_shown() -> None:
    score = scores.Score(0.8142, 0.79, 0.8364, 1179)
    assert score.percent == "81.4 % (79.0–83.6, n = 1,179)"
    assert str(score) == "0.8142 (0.7900–0.8364, n = 1,179)"
