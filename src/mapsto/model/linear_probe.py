"""Linear probes: logistic and ridge regression (scikit-learn) on frozen vectors or sparse features.

The penalty is chosen on at most 1,000 of the rows: by cross-validated log loss for classes, by leave-one-out error for numbers.
On all rows this would take time that grows with the cube of their number. The model is then fitted to all rows.

Legend of shapes: m rows, d features, c outputs.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mapsto.sequence.piece import Ints
from mapsto.task.target_capabilities import DEFAULT_PROBE, ProbeSettings

Floats = NDArray[np.float64]

# Candidates for the inverse penalty of a logistic regression, on dense and on sparse features.
INVERSE_PENALTIES = (0.01, 0.1, 1.0, 10.0)
SPARSE_INVERSE_PENALTIES = (1.0, 10.0, 100.0, 1000.0)
# Candidates for the penalty of a ridge regression.
PENALTIES = tuple(10.0**power for power in range(-2, 6))

FOLDS = 5
# The most rows on which the penalty is chosen.
SELECTION_ROWS = 1000
MAX_ITERATIONS = 1000


def fit_logistic_regression(features: Any, labels: Ints, seed: int, settings: ProbeSettings = DEFAULT_PROBE) -> Any:
    """Return scikit-learn's LogisticRegression, fitted to labels (m,) given features (m, d).

    Its inverse penalty is the one of INVERSE_PENALTIES (sparse: SPARSE_INVERSE_PENALTIES) with the best cross-validated log loss.
    features: dense array or scipy sparse matrix. labels: class number of each row.
    seed: seed for drawing the rows on which the penalty is chosen, and their folds.
    settings: a head that training goes on from gets the strongest penalty of all. One with large weights is sure of the training
        rows, so the features would hardly change (Tomihari & Sato 2024, https://arxiv.org/abs/2405.16747; benchmarks/rates.py).
    """
    # scikit-learn takes a second to import, and only probes need it.
    from sklearn.linear_model import LogisticRegression

    scale = _scale(features)
    model = LogisticRegression(max_iter=MAX_ITERATIONS, tol=1e-3)
    with warnings.catch_warnings():
        # A probe that is almost the best one is good enough, and that many classes have few rows is no fault.
        warnings.simplefilter("ignore", UserWarning)  # ConvergenceWarning is one
        candidates = INVERSE_PENALTIES if isinstance(features, np.ndarray) else SPARSE_INVERSE_PENALTIES
        other, weights = settings.selection_features, settings.weights
        selection = features / scale if other is None else other / _scale(other)
        if settings.starts_training:
            inverse_penalty = candidates[0]
        else:
            count = selection.shape[0]
            row_weights = np.ones(count) if weights is None else weights[:count].astype(np.float64)
            inverse_penalty = _choose_inverse_penalty(model, selection, labels[:count], row_weights, seed, candidates)
        # The loss is a sum over rows, so with more rows the penalty grows with it.
        model.set_params(C=inverse_penalty * selection.shape[0] / features.shape[0])
        fitted = model.fit(features / scale, labels, weights)
    # The caller's features are not scaled.
    fitted.coef_ = fitted.coef_ / scale
    return fitted


def fit_ridge_regression(
    features: Any, values: Any, seed: int, settings: ProbeSettings = DEFAULT_PROBE
) -> tuple[Tensor, Tensor]:
    """Return weight (c, d) and bias (c,) of the ridge regression of values (m,) or (m, c) on features (m, d).

    The penalty is the one of PENALTIES with the lowest leave-one-out error (Golub et al. 1979).
    features: dense array. seed: seed for drawing the rows on which the penalty is chosen.
    """
    from sklearn.linear_model import Ridge, RidgeCV

    scale = _scale(features)
    # In fp64, because with a small penalty the equations may be ill-conditioned.
    inputs, other, weights = (features / scale).astype(np.float64), settings.selection_features, settings.weights
    selection = inputs if other is None else (other / _scale(other)).astype(np.float64)
    rows = _selection_rows(selection.shape[0], seed)
    selection_weights = None if weights is None else weights[rows]
    fitted_to_some = RidgeCV(PENALTIES).fit(selection[rows], values[rows], selection_weights)
    penalty = fitted_to_some.alpha_ * inputs.shape[0] / selection.shape[0]
    fitted = Ridge(penalty).fit(inputs, values, weights)
    weight, bias = np.atleast_2d(fitted.coef_) / scale, np.atleast_1d(fitted.intercept_)
    return torch.from_numpy(weight).float(), torch.from_numpy(bias).float()


def _scale(features: Any) -> float:
    """Return the number by which features are divided, so that the same candidate penalties suit all features.

    It is the root mean square of dense features, and 1 for sparse ones, whose rows have unit norm already.
    """
    return (float(np.sqrt((features**2).mean())) or 1.0) if isinstance(features, np.ndarray) else 1.0


def _selection_rows(count: int, seed: int) -> Ints:
    """Return the indices of at most SELECTION_ROWS of `count` rows, drawn at random, on which the penalty is chosen."""
    return np.random.Generator(np.random.Philox(key=[seed, 0])).permutation(count)[:SELECTION_ROWS]


def _choose_inverse_penalty(
    model: Any, features: Any, labels: Ints, weights: Floats, seed: int, candidates: Sequence[float]
) -> float:
    """Return the one of `candidates` with the best cross-validated log loss on at most SELECTION_ROWS rows, drawn by `seed`.

    Classes with a single row are left out. With fewer than two other classes, return the second candidate.
    model: the LogisticRegression to try. features, labels, weights: features, class numbers and weights of all rows.
    """
    rows = _selection_rows(len(labels), seed)
    rows = rows[weights[rows] > 0]
    _, indices, counts = np.unique(labels[rows], return_inverse=True, return_counts=True)
    rows = rows[counts[indices] > 1]
    if len(np.unique(labels[rows])) < 2:
        return candidates[1]
    features, labels, weights = features[rows], labels[rows], weights[rows]
    # Rows are dealt out class by class, so each class is in more than one fold, and all others have it.
    folds = np.empty(len(labels), np.int64)
    folds[np.argsort(labels, kind="stable")] = np.arange(len(labels)) % FOLDS

    def total_log_loss(candidate: float) -> float:
        model.set_params(C=candidate)
        return sum(_held_out_log_loss(model, features, labels, weights, folds == fold) for fold in np.unique(folds))

    return min(candidates, key=total_log_loss)


def _held_out_log_loss(model: Any, features: Any, labels: Ints, weights: Floats, held_out: NDArray[np.bool_]) -> float:
    """Fit `model` to the rows that are not held out, and return its log loss, summed by their weights over those that are.

    Every class of the held-out rows must occur among the others.
    """
    model.fit(features[~held_out], labels[~held_out], weights[~held_out])
    logits = model.decision_function(features[held_out])
    if logits.ndim == 1:  # of the second of two classes
        logits = np.stack([np.zeros_like(logits), logits], axis=1)
    columns = np.searchsorted(model.classes_, labels[held_out])
    # From logits, since the logarithm of a probability of zero is infinite.
    losses = np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(columns)), columns]
    return float((losses * weights[held_out]).sum())
