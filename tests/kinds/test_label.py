"""One label: figures over rows whose true class training never saw."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics

from mapsto import kinds


def calibration_error(confidence: np.ndarray, is_right: np.ndarray, bins: int = 15) -> float:
    """Guo et al. 2017, equation 3, bin by bin, from the top answer alone."""
    total = 0.0
    for low in np.arange(bins) / bins:
        in_bin = (confidence > low) & (confidence <= low + 1 / bins)
        if in_bin.any():
            total += in_bin.mean() * abs(is_right[in_bin].mean() - confidence[in_bin].mean())
    return total


@pytest.mark.parametrize("share_unseen", [0.0, 0.02, 0.2, 0.7, 1.0])
@pytest.mark.parametrize("classes", [2, 5])
def test_a_class_never_seen_is_wrong_in_every_figure_but_log_loss(share_unseen: float, classes: int) -> None:
    rng = np.random.default_rng(classes)
    names = [f"c{i}" for i in range(classes)]
    logits = rng.normal(0, 2, (400, classes))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    answers = [names[rng.choice(classes, p=row)] for row in probabilities]
    is_unseen = rng.random(400) < share_unseen
    labels = [f"new {rng.integers(3)}" if unseen else name for name, unseen in zip(answers, is_unseen, strict=True)]
    found = kinds.target("label")(names).metrics(torch.from_numpy(logits), labels)
    values = {name: float(metric(*arrays)) for name, (metric, *arrays) in found.items()}
    guesses = [names[index] for index in probabilities.argmax(1)]
    is_right = np.array(guesses) == np.array(labels)
    assert values["accuracy"] == pytest.approx(is_right.mean())
    assert values["macro_f1"] == pytest.approx(metrics.f1_score(labels, guesses, average="macro"))
    assert values["calibration_error"] == pytest.approx(calibration_error(probabilities.max(1), is_right))
    assert len(found["calibration_error"][1]) == 400
    if is_unseen.all():
        assert "log_loss" not in values
        # Every answer is wrong, so the error is the mean confidence.
        assert values["calibration_error"] == pytest.approx(probabilities.max(1).mean())
    else:
        of_true = [row[names.index(name)] for row, name in zip(probabilities, labels, strict=True) if name in names]
        assert values["log_loss"] == pytest.approx(-np.log(of_true).mean())
        assert len(found["log_loss"][1]) == (~is_unseen).sum()


def test_the_calibration_error_of_all_rows_is_larger_than_of_the_known_ones() -> None:
    """A calibrated model, and one row in five of a class that it does not know."""
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(0, 2, (4000, 3)))
    answers = [f"c{torch.multinomial(row, 1).item()}" for row in torch.softmax(logits, -1)]
    labels = ["new" if row % 5 == 0 else name for row, name in enumerate(answers)]
    known = [row for row in range(4000) if row % 5]
    target = kinds.target("label")(["c0", "c1", "c2"])
    (metric, *all_rows), (_, *known_rows) = (
        target.metrics(logits[rows], [labels[row] for row in rows])["calibration_error"]
        for rows in (list(range(4000)), known)
    )
    confidence = float(torch.softmax(logits, -1).amax(-1).mean())
    assert metric(*known_rows) < 0.03 and metric(*all_rows) == pytest.approx(confidence / 5, abs=0.02)
