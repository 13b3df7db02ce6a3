"""Intervals over groups of items: the bootstrap draws whole groups, and covers where intervals over items do not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from mapsto.comparison.crossed_bootstrap import CrossedMeans
from mapsto.metrics.intervals import (
    RESAMPLES,
    agreed_interval,
    expanded_tail,
    group_scores,
    mean_half_width,
    mean_score,
    with_interval,
    with_intervals,
)


def draw_groups(seed: int, k: int, size: int, spread: float = 0.3) -> tuple[Any, Any]:
    """Return (items that are right, groups) of k groups with shares of right items that differ."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 7]))
    shares = np.clip(0.7 + spread * rng.uniform(-1, 1, k), 0, 1)
    groups = np.repeat(np.arange(k), size)
    return (rng.random(k * size) < shares[groups]).astype(np.float64), groups


def test_the_bootstrap_draws_whole_groups() -> None:
    items, groups = draw_groups(0, 12, 5)
    order = np.random.Generator(np.random.Philox(3)).permutation(len(items))
    score = with_interval(mean_score, items[order], groups=groups[order])
    rng = np.random.Generator(np.random.Philox(key=[0, 12]))
    drawn = rng.integers(0, 12, (RESAMPLES, 12))
    # Groups of one size: the mean of their means.
    means = items.reshape(12, 5).mean(1)[np.unique(groups[order])][drawn].mean(1)
    tail = expanded_tail(12)
    assert (score.low, score.high) == pytest.approx(tuple(np.quantile(means, [tail, 1 - tail])))
    assert score.value == pytest.approx(items.mean()) and score.n == 60


def test_few_groups_have_wide_intervals() -> None:
    assert expanded_tail(10**6) == pytest.approx(0.025, abs=1e-4)
    assert expanded_tail(6) < 0.005 and expanded_tail(2) < 1e-20


def test_coverage_is_that_of_the_groups() -> None:
    """Of 8 speakers with 25 recordings each, 95 % intervals hold the share of all speakers about as often as they say."""
    covered = {"groups": 0, "items": 0}
    for seed in range(200):
        items, groups = draw_groups(seed, 8, 25)
        for name, score in (
            ("groups", with_interval(mean_score, items, groups=groups, resamples=400)),
            ("items", with_interval(mean_score, items)),
        ):
            covered[name] += score.low <= 0.7 <= score.high
    assert covered["groups"] >= 180 and covered["items"] <= 160, covered


def test_perfect_groups_and_a_single_one() -> None:
    ones = np.ones(20)
    score = with_interval(mean_score, ones, groups=np.repeat(np.arange(4), 5))
    assert (score.low, score.high) == agreed_interval(1.0, 4)
    single = with_interval(mean_score, ones, groups=np.zeros(20, np.int64))
    assert math.isnan(single.low) and single.value == 1
    assert math.isinf(mean_half_width(ones, np.zeros(20, np.int64)))


def test_metrics_of_other_items_have_no_interval() -> None:
    scores = with_intervals(
        {"all": (mean_score, np.arange(4) / 4), "some": (np.mean, np.arange(3))}, np.array([0, 0, 1, 1])
    )
    assert not math.isnan(scores["all"].low) and math.isnan(scores["some"].low) and scores["some"].value == 1


def test_scores_of_groups_have_the_mean_of_the_items() -> None:
    rng = np.random.Generator(np.random.Philox(1))
    scores, groups = rng.random((3, 2, 40)), rng.integers(0, 7, 40)
    by_group = group_scores(scores, groups)
    assert by_group.shape == (3, 2, 7) and np.allclose(by_group.mean(-1), scores.mean(-1))
    # Groups of one size have their means.
    even = np.arange(40) % 8
    assert np.allclose(group_scores(scores, even)[0, 0, 3], scores[0, 0, even == 3].mean())


def test_comparisons_are_over_groups_too() -> None:
    items, groups = draw_groups(4, 10, 30)
    scores = np.stack([items, items])[None]
    alone = CrossedMeans.estimate(scores, np.arange(300))
    assert np.allclose(alone.item_covariance, CrossedMeans.estimate(scores).item_covariance)
    grouped = CrossedMeans.estimate(scores, groups)
    assert grouped.num_items == 10 and grouped.has_groups
    means = items.reshape(10, 30).mean(1)
    assert grouped.item_covariance[0, 0] == pytest.approx(means.var(ddof=1) / 10)
    widths = [float(np.ptp(np.quantile(each.samples()[1:, 0], [0.025, 0.975]))) for each in (alone, grouped)]
    assert widths[1] > 1.5 * widths[0]
