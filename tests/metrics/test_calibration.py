"""A temperature fitted on rows that a model was not fitted to makes its probabilities equal the shares of right answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mapsto.kinds.label import Label
from mapsto.kinds.labels import Labels
from mapsto.metrics.calibration import Answered, fit_temperature
from mapsto.metrics.classification import expected_calibration_error
from mapsto.metrics.intervals import with_interval


def sum_loss(output: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(output, values, reduction="sum")


def draw(count: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return calibrated logits and classes drawn by them."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, classes, generator=generator)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=generator).flatten()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_temperature_of_logits_that_are_too_large_or_too_small(temperature: float) -> None:
    logits, values = draw(4000, 5)
    assert fit_temperature([Answered(sum_loss, logits * temperature, values)]) == pytest.approx(temperature, rel=0.08)


def test_models_with_other_classes_share_a_temperature() -> None:
    (first, first_values), (second, second_values) = draw(4000, 5), draw(4000, 3, seed=1)
    losses = [Label("abcde").calibration_loss, Label("abc").calibration_loss]
    found = fit_temperature(list(map(Answered, losses, (first * 3, second * 3), (first_values, second_values))))
    assert found == pytest.approx(3, rel=0.08)


def test_several_labels_have_a_temperature() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4000, 3, generator=generator)
    values = torch.bernoulli(logits.sigmoid(), generator=generator)
    assert fit_temperature([Answered(Labels().calibration_loss, logits * 2, values)]) == pytest.approx(2, rel=0.08)


def test_a_few_right_answers_make_no_model_certain() -> None:
    logits, values = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(4, 1), torch.tensor([0, 1]).repeat(4)
    certain = fit_temperature([Answered(sum_loss, logits, values)], deviation=100)
    careful = fit_temperature([Answered(sum_loss, logits, values)])
    assert certain < 0.1 and 0.5 < careful < 1


def test_a_temperature_lowers_the_loss_as_far_as_any() -> None:
    logits, values = draw(500, 3)
    logits = logits * 20
    found = sum_loss(logits / fit_temperature([Answered(sum_loss, logits, values)], deviation=100), values)
    best = min(sum_loss(logits / temperature, values) for temperature in np.geomspace(0.1, 20, 400))
    assert found < sum_loss(logits, values) and float(found) == pytest.approx(float(best), rel=1e-3)


def test_the_interval_of_the_calibration_error_lies_about_it() -> None:
    """Resampled gaps are larger on average than the gaps of the items; small samples had a value below its own interval."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        confidence = rng.uniform(0.5, 1.0, 60)
        probabilities = np.stack([confidence, 1 - confidence], 1)
        labels = (rng.random(60) > confidence).astype(np.int64)
        score = with_interval(expected_calibration_error, labels, probabilities)
        assert 0 <= score.low <= score.value <= score.high
        grouped = with_interval(expected_calibration_error, labels, probabilities, groups=np.arange(60) // 3)
        assert 0 <= grouped.low <= grouped.value <= grouped.high
