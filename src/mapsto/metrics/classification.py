"""Metrics of classification: macro F1, log loss, expected calibration error, and F1 of multi-label classification.

Each metric takes arrays whose first axis is the items, so that a bootstrap can resample the items.
Legend of shapes: n items, c classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mapsto.metrics.intervals import Array, Floats, bounded, higher_when_resampled


@bounded()
def macro_f1(labels: Array, predictions: Array) -> float:
    """Return the unweighted mean of the F1 scores of the classes that occur in `labels` or `predictions`.

    labels, predictions: (n,), class indices.
    """
    num_classes = int(max(labels.max(), predictions.max())) + 1
    # F1 = 2·TP / (2·TP + FP + FN), and the denominator is the class among labels plus the class among predictions.
    num_correct = np.bincount(labels[labels == predictions], minlength=num_classes)
    num_either = np.bincount(labels, minlength=num_classes) + np.bincount(predictions, minlength=num_classes)
    return float(np.mean(2 * num_correct[num_either > 0] / num_either[num_either > 0]))


def log_loss(labels: Array, probabilities: Floats) -> float:
    """Return the mean negative log-likelihood, in nats, of the labels under predicted probabilities.

    Probabilities are clipped at the machine epsilon of their type, as scikit-learn does, so that the loss stays finite.
    labels: (n,), class indices. probabilities: (n, c), which need not add up to exactly 1.
    """
    of_labels = probabilities[np.arange(len(labels)), labels] / probabilities.sum(axis=1)
    return float(-np.log(np.clip(of_labels, np.finfo(probabilities.dtype).eps, 1)).mean())


@higher_when_resampled
@bounded()
def expected_calibration_error(labels: Array, probabilities: Floats, bins: int = 15) -> float:
    """Return the expected calibration error (Guo et al. 2017): the mean gap between confidence and accuracy.

    The gap is taken in each of `bins` confidence intervals of equal width, and weighted by the number of items in them.
    labels: (n,), class indices. A label of c or more, of a class without a probability, counts as answered wrongly.
    probabilities: (n, c).
    """
    confidence = probabilities.max(axis=1)
    is_correct = probabilities.argmax(axis=1) == labels
    gaps = np.bincount(_confidence_bins(confidence, bins), is_correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def calibration_gaps(
    confidence: Floats, correctness: Floats, items: NDArray[np.int64], num_items: int, bins: int = 15
) -> tuple[Floats, Floats]:
    """Return for each item the summed gaps of its answers by bin of confidence, (n, bins), and their number, (n,).

    They are the arguments of `grouped_calibration_error`, for items that have several answers or none.
    confidence, correctness: (k,), of each answer, from 0 to 1. items: (k,), index of the item of each answer.
    """
    gaps = np.zeros((num_items, bins))
    np.add.at(gaps, (items, _confidence_bins(confidence, bins)), correctness - confidence)
    return gaps, np.bincount(items, minlength=num_items).astype(np.float64)


@higher_when_resampled
@bounded()
def grouped_calibration_error(gaps: Floats, counts: Floats) -> float:
    """Return the expected calibration error of the answers of all items, 0 without any. See `calibration_gaps`."""
    return float(np.abs(gaps.sum(0)).sum() / counts.sum()) if counts.sum() else 0.0


def _confidence_bins(confidence: Floats, bins: int) -> NDArray[np.int64]:
    """Return the index of the bin of each confidence. Bins are open below and closed above; 0 belongs to the first."""
    indices: NDArray[np.int64] = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    return indices


@bounded()
def multilabel_macro_f1(predictions: NDArray[np.bool_], labels: NDArray[np.bool_]) -> float:
    """Return the macro F1 score: the mean over classes; a class with neither true nor predicted items counts as 0.

    predictions, labels: (n, c), whether each class applies to each item.
    """
    num_both, num_either = (predictions & labels).sum(0), predictions.sum(0) + labels.sum(0)
    return float(np.where(num_either > 0, 2 * num_both / np.maximum(num_either, 1), 0.0).mean())


@bounded()
def multilabel_micro_f1(predictions: NDArray[np.bool_], labels: NDArray[np.bool_]) -> float:
    """Return the micro F1 score: one F1 over all n · c pairs of an item and a class; 0 if no class is true or predicted.

    predictions, labels: (n, c), whether each class applies to each item.
    """
    return float(2 * (predictions & labels).sum() / max(1, predictions.sum() + labels.sum()))
