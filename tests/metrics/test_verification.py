"""EER and minimum detection cost equal their definitions, and their intervals resample speakers."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapsto.metrics import verification
from mapsto.metrics.intervals import RESAMPLES, agreed_interval, expanded_tail
from mapsto.metrics.verification import METRICS, error_rates, verification_scores


def operating_points(scores: Any, is_target: Any) -> list[tuple[float, float]]:
    """Return (miss rate, false alarm rate) at each threshold, by definition: what is below it is rejected."""
    targets, others = scores[is_target], scores[~is_target]
    thresholds = [*sorted(set(scores.tolist())), math.inf]
    return [(float(np.mean(targets < t)), float(np.mean(others >= t))) for t in thresholds]


def brute_eer(scores: Any, is_target: Any) -> float:
    """Return where the line through the operating points has equal errors."""
    points = operating_points(scores, is_target)
    for (miss_0, alarm_0), (miss_1, alarm_1) in pairwise(points):
        if miss_0 <= alarm_0 and miss_1 >= alarm_1:
            gap_0, gap_1 = alarm_0 - miss_0, miss_1 - alarm_1
            return miss_0 + (miss_1 - miss_0) * (gap_0 / (gap_0 + gap_1) if gap_0 + gap_1 else 0.0)
    raise AssertionError


def brute_cost(scores: Any, is_target: Any, p: float) -> float:
    return min(p * miss + (1 - p) * alarm for miss, alarm in operating_points(scores, is_target)) / min(p, 1 - p)


@given(st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=2, max_size=40))
@settings(deadline=None, max_examples=200)
def test_equal_their_definitions_also_with_ties(trials: list[tuple[int, bool]]) -> None:
    scores, is_target = (np.array(part) for part in zip(*trials, strict=True))
    found = verification_scores(scores / 4, is_target, np.arange(len(scores)), np.arange(len(scores)) + 100)
    if is_target.all() or not is_target.any():
        assert not found
        return
    assert list(found) == ["eer", "min_dcf@0.01", "min_dcf@0.05"]
    assert found["eer"].value == pytest.approx(brute_eer(scores, is_target))
    for p in (0.01, 0.05):
        assert found[f"min_dcf@{p}"].value == pytest.approx(brute_cost(scores, is_target, p))
    assert found["eer"].n == len(trials)


def test_known_values() -> None:
    scores, is_target = np.array([0.9, 0.8, 0.3, 0.7, 0.2, 0.1]), np.array([1, 1, 1, 0, 0, 0], bool)
    found = verification_scores(scores, is_target, np.arange(6), np.arange(6) + 10)
    # One miss of three below 0.7, and one false alarm of three from 0.7 on.
    assert found["eer"].value == pytest.approx(1 / 3)
    # Without false alarms, from 0.8 on, a third of the targets is missed.
    assert found["min_dcf@0.01"].value == pytest.approx(1 / 3)


def make_trials(seed: int, k: int, takes: int) -> tuple[Any, Any, Any, Any]:
    """Return all trials of k speakers' recordings: scores, whether of one speaker, and both speakers."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 5]))
    # Each speaker has a place, and is spread around it by his own amount.
    places, spreads = rng.standard_normal((k, 3)), rng.uniform(0.2, 1.2, k)
    speaker = np.repeat(np.arange(k), takes)
    vectors = places[speaker] + spreads[speaker, None] * rng.standard_normal((k * takes, 3))
    first, second = np.triu_indices(k * takes, 1)
    scores = -np.linalg.norm(vectors[first] - vectors[second], axis=1)
    return scores, speaker[first] == speaker[second], speaker[first], speaker[second]


def test_intervals_resample_speakers() -> None:
    scores, is_target, first, second = make_trials(0, 7, 4)
    found = verification_scores(scores, is_target, first, second)
    rng = np.random.Generator(np.random.Philox(key=[0, 7]))
    samples: dict[str, list[float]] = {name: [] for name in METRICS}
    for drawn in rng.integers(0, 7, (RESAMPLES, 7))[:60]:
        # By definition: each drawn copy of a speaker has the trials within it, and those with each copy of another one.
        times = np.bincount(drawn, minlength=7)
        repeats = np.where(first == second, times[first], times[first] * times[second])
        parts = (np.repeat(scores, repeats), np.repeat(is_target, repeats))
        samples["eer"].append(brute_eer(*parts))
    times_rates = next(
        verification._resample(np.unique(scores, return_inverse=True)[1], is_target, np.stack([first, second]), 7)
    )
    assert np.allclose(METRICS["eer"](*times_rates)[:60], samples["eer"])
    tail = expanded_tail(7)
    low, high = np.nanquantile(METRICS["eer"](*times_rates), [tail, 1 - tail])
    assert (found["eer"].low, found["eer"].high) == pytest.approx((low, high))


def test_intervals_over_speakers_cover_and_those_over_trials_do_not() -> None:
    truth = np.mean([verification_scores(*make_trials(seed, 40, 8))["eer"].value for seed in range(1000, 1006)])
    covered = {"speakers": 0, "trials": 0}
    for seed in range(40):
        scores, is_target, first, second = make_trials(seed, 10, 8)
        trial = np.arange(len(scores))
        by_speaker = verification_scores(scores, is_target, first, second)["eer"]
        by_trial = verification_scores(scores, is_target, trial, trial)["eer"]
        covered["speakers"] += by_speaker.low <= truth <= by_speaker.high
        covered["trials"] += by_trial.low <= truth <= by_trial.high
    assert covered["speakers"] >= 37 and covered["trials"] <= 30, covered


def test_many_thresholds_are_exact_for_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    trials = make_trials(3, 12, 6)
    exact = verification_scores(*trials)
    monkeypatch.setattr(verification, "MAX_THRESHOLDS", 200)
    monkeypatch.setattr(verification, "WEIGHTS_AT_ONCE", 5000)
    binned = verification_scores(*trials)
    for name, score in exact.items():
        assert binned[name].value == score.value
        assert (binned[name].low, binned[name].high) == pytest.approx((score.low, score.high), abs=0.02)


def test_perfect_scores_and_one_speaker() -> None:
    speaker = np.repeat(np.arange(4), 3)
    first, second = np.triu_indices(12, 1)
    is_target = speaker[first] == speaker[second]
    found = verification_scores(is_target.astype(float), is_target, speaker[first], speaker[second])
    assert found["eer"].value == 0 and (found["eer"].low, found["eer"].high) == agreed_interval(0.0, 4)
    one = verification_scores(np.array([1.0, 0.0]), np.array([True, False]), np.zeros(2, int), np.zeros(2, int))
    assert math.isnan(one["eer"].low)


def test_rates_begin_and_end_at_constant_answers() -> None:
    miss, alarm = error_rates(np.array([0.0, 2, 1]), np.array([3.0, 1, 0]))
    assert miss.tolist() == [0, 0, 2 / 3, 1] and alarm.tolist() == [1, 0.25, 0, 0]
