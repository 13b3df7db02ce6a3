"""Classification."""

from __future__ import annotations

import numpy as np

from mapsto.metrics.intervals import Floats, Values


def macro_f1(truth: Values, predicted: Values) -> float:
    """The mean over the classes present of the harmonic mean of precision and recall; 0 where both are."""
    size = int(max(truth.max(), predicted.max())) + 1
    right = np.bincount(truth[truth == predicted], minlength=size)
    both = np.bincount(truth, minlength=size) + np.bincount(predicted, minlength=size)
    return float(np.mean(2 * right[both > 0] / both[both > 0]))


def log_loss(truth: Values, probabilities: Floats) -> float:
    """Mean −log of the probability (n, c) of the truth, in nats; probabilities are kept above the smallest step of a float."""
    chosen = probabilities[np.arange(len(truth)), truth] / probabilities.sum(axis=1)
    return float(-np.log(np.clip(chosen, np.finfo(probabilities.dtype).eps, 1)).mean())


def expected_calibration_error(truth: Values, probabilities: Floats, bins: int = 15) -> float:
    """How far confidence is from accuracy, weighted over equal bins of confidence (Guo et al. 2017)."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == truth
    which = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gap = np.bincount(which, right - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(truth))
