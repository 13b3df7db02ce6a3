"""Noise of labels: what was put in is estimated, whatever the model's temperature."""

from __future__ import annotations

import numpy as np
import pytest

from mapsto.metrics.label_noise import LabelNoise, estimate_label_noise, wrong_label_probabilities


def noisy_labels(rates: np.ndarray, count: int = 6000, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return logits of a calibrated model, true classes, and labels that differ from them at these rates."""
    rng, classes = np.random.default_rng(seed), len(rates)
    logits = rng.normal(0, 2.5, (count, classes))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    true = np.array([rng.choice(classes, p=row) for row in probabilities])
    return logits, true, np.array([rng.choice(classes, p=rates[index]) for index in true])


EVEN = np.full((3, 3), 0.04) + 0.88 * np.eye(3)
ONE_WAY = np.array([[1.0, 0.0, 0.0], [0.0, 0.7, 0.3], [0.0, 0.0, 1.0]])


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("rates", [np.eye(3), EVEN, ONE_WAY], ids=["none", "even", "one way"])
def test_noise_and_temperature_are_recovered(rates: np.ndarray, scale: float) -> None:
    logits, true, labels = noisy_labels(rates)
    noise = estimate_label_noise(scale * logits, labels)
    assert noise.rates.sum(1) == pytest.approx(1.0) and np.abs(noise.rates - rates).max() < 0.05
    assert noise.temperature == pytest.approx(scale, rel=0.15)
    wrong = wrong_label_probabilities(scale * logits, labels, noise)
    assert wrong.mean() == pytest.approx((labels != true).mean(), abs=0.015)
    for count in (50, 100, 200, 400):
        first = np.argsort(-wrong)[:count]
        assert wrong[first].mean() == pytest.approx((labels != true)[first].mean(), abs=0.12)


def test_one_confidence_for_all_answers_is_trusted() -> None:
    """Noise and a wrong temperature then explain as many wrong answers; 5 % are wrong where 0.1 % are expected."""
    logits = np.tile([7.0, 0.0], (400, 1))
    labels = np.repeat([0, 1], [380, 20])
    noise = estimate_label_noise(logits, labels)
    assert noise.temperature < 1.5
    assert wrong_label_probabilities(logits, labels, noise)[-1] > 0.8


def test_the_probability_of_a_wrong_label_is_bayes_rule() -> None:
    logits, _, labels = noisy_labels(EVEN, 40)
    noise = LabelNoise(2.0, ONE_WAY * 0.9 + 0.1 / 3)
    found = wrong_label_probabilities(logits, labels, noise)
    for row, label, value in zip(logits, labels, found, strict=True):
        joint = [np.exp(row[k] / 2) * noise.rates[k, label] for k in range(3)]
        assert value == pytest.approx(1 - joint[label] / sum(joint))


@pytest.mark.parametrize("logits", [np.zeros((1, 2)), np.eye(4) * 1e4, np.full((30, 3), -300.0)])
def test_extreme_logits_and_few_rows_give_finite_probabilities(logits: np.ndarray) -> None:
    for labels in (np.zeros(len(logits), np.int64), np.arange(len(logits)) % logits.shape[1]):
        wrong = wrong_label_probabilities(logits, labels, estimate_label_noise(logits, labels))
        assert np.isfinite(wrong).all() and (wrong >= 0).all() and (wrong <= 1).all()


def test_a_class_of_few_rows_gets_the_common_rate() -> None:
    logits, _, labels = noisy_labels(EVEN, 3000)
    # A fourth class, almost never answered and never a label.
    logits = np.c_[logits, np.full(3000, -12.0)]
    rates = estimate_label_noise(logits, labels).rates
    assert rates[3, 3] == pytest.approx(np.diag(rates)[:3].mean(), abs=0.05)
