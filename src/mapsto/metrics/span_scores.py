"""Scores of predicted spans against true ones: precision, recall and F1, as in CoNLL (Tjong Kim Sang & De Meulder 2003).

A predicted span is right if start, end and label are those of a true one (seqeval's strict mode). Spans of all rows count alike.
Legend of shapes: n rows.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mapsto.metrics.intervals import bounded

Floats = NDArray[np.float64]


class Counts(NamedTuple):
    """Numbers of spans of each row, (n,) each: predicted ones that are right, all predicted ones, and all true ones."""

    right: Floats
    predicted: Floats
    true: Floats


def count(predicted: Sequence[Collection[Any]], true: Sequence[Collection[Any]]) -> Counts:
    """Return the counts of n rows. predicted, true: the spans of each row, which are equal if and only if they match."""
    rows = [(set(spans), set(labels)) for spans, labels in zip(predicted, true, strict=True)]
    counts = np.array([[len(spans & labels), len(spans), len(labels)] for spans, labels in rows], np.float64).reshape(
        -1, 3
    )
    return Counts(*counts.T)


@bounded()
def precision(right: Floats, predicted: Floats, true: Floats) -> float:
    """Return the share of the predicted spans that are right; 0 if there are none."""
    return _ratio(right.sum(), predicted.sum())


@bounded()
def recall(right: Floats, predicted: Floats, true: Floats) -> float:
    """Return the share of the true spans that are predicted; 0 if there are none."""
    return _ratio(right.sum(), true.sum())


@bounded()
def f1(right: Floats, predicted: Floats, true: Floats) -> float:
    """Return the harmonic mean of precision and recall; 0 if there are no spans."""
    return _ratio(2 * right.sum(), predicted.sum() + true.sum())


def jaccard(right: Floats, predicted: Floats, true: Floats) -> Floats:
    """Return for each row the number of right spans over that of all different spans, (n,); 1 if there are none."""
    either = predicted + true - right
    return np.divide(right, either, out=np.ones(len(right)), where=either > 0)


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator else 0.0
