"""Logistic regression on frozen vectors or sparse features; how strongly it is held back is chosen within the labels given.

Legend of shapes: m rows, d features.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from mapsto.sequence import Ints

STRENGTHS = (0.01, 0.1, 1.0, 10.0)
SPARSE_STRENGTHS = (1.0, 10.0, 100.0, 1000.0)
FOLDS = 5
ROWS = 1000
ITERATIONS = 1000


def regressed(features: Any, values: Ints, seed: int, weights: dict[int, float] | None = None) -> Any:
    """scikit-learn's model of the classes (m,) by features (m, d); its inverse penalty out of four, by cross-validated log loss
    where every class has enough rows. weights: of the classes."""
    from sklearn.exceptions import ConvergenceWarning  # a second to import, and only a probe needs it
    from sklearn.linear_model import LogisticRegression

    dense = isinstance(features, np.ndarray)
    scale = (float(np.sqrt((features**2).mean())) or 1.0) if dense else 1.0
    model = LogisticRegression(max_iter=ITERATIONS, tol=1e-3, class_weight=weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a probe that is almost the best one is good enough
        strengths = STRENGTHS if dense else SPARSE_STRENGTHS
        model.set_params(C=_best_strength(model, features / scale, values, seed, strengths))
        fitted = model.fit(features / scale, values)
    fitted.coef_ = fitted.coef_ / scale
    return fitted


def _best_strength(model: Any, features: Any, values: Ints, seed: int, strengths: Sequence[float]) -> float:
    """The inverse penalty with the best cross-validated log loss; the second one when a class has a single row."""
    rows = np.random.Generator(np.random.Philox(key=[seed, 0])).permutation(len(values))[:ROWS]
    features, values = features[rows], values[rows]
    folds = min(FOLDS, int(np.unique(values, return_counts=True)[1].min()))
    if folds < 2 or len(np.unique(values)) < 2:
        return strengths[1]
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    order = StratifiedKFold(folds, shuffle=True, random_state=seed)

    def quality(strength: float) -> float:
        model.set_params(C=strength)
        return float(cross_val_score(model, features, values, cv=order, scoring="neg_log_loss").mean())

    return max(strengths, key=quality)
