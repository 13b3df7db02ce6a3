"""Linear models on frozen vectors or sparse features; how strongly they are held back is chosen within the rows given.

Legend of shapes: m rows, d features, c outputs.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mapsto.sequence.piece import Ints

INVERSE_PENALTIES, SPARSE_INVERSE_PENALTIES = (0.01, 0.1, 1.0, 10.0), (1.0, 10.0, 100.0, 1000.0)


PENALTIES = tuple(10.0**power for power in range(-2, 6))  # of squared errors


FOLDS = 5


ROWS = 1000  # that a penalty is chosen by: by all of them, the time for it grows as their cube


ITERATIONS = 1000


SEEDS = 2**32  # that scikit-learn knows


def logistic(
    features: Any, values: Ints, seed: int, weights: dict[int, float] | None = None, chosen_by: Any = None
) -> Any:
    """scikit-learn's model of the classes (m,) by features (m, d); its inverse penalty out of four, by cross-validated log loss
    where every class has enough rows. weights: of the classes. chosen_by: other features of the rows, that choose it."""
    from sklearn.exceptions import ConvergenceWarning  # a second to import, and only a probe needs it
    from sklearn.linear_model import LogisticRegression

    scale = _scale(features)
    model = LogisticRegression(max_iter=ITERATIONS, tol=1e-3, class_weight=weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a probe that is almost the best one is good enough
        choices = INVERSE_PENALTIES if isinstance(features, np.ndarray) else SPARSE_INVERSE_PENALTIES
        judged = features / scale if chosen_by is None else chosen_by / _scale(chosen_by)
        model.set_params(C=_best(model, judged, values, seed, choices))
        fitted = model.fit(features / scale, values)
    fitted.coef_ = fitted.coef_ / scale
    return fitted


def ridge(features: Any, values: Any, seed: int, chosen_by: Any = None) -> tuple[Tensor, Tensor]:
    """Weight (c, d) and bias (c,) of the ridge regression of numbers (m,) or (m, c) by features (m, d); its penalty by leaving
    one out (Golub et al. 1979). chosen_by: other features of the rows, that choose it."""
    from sklearn.linear_model import Ridge, RidgeCV  # a second to import, and only a probe needs it

    scale = _scale(features)
    read, rows = (features / scale).astype(np.float64), _some(len(values), seed)
    judged = read if chosen_by is None else (chosen_by / _scale(chosen_by)).astype(np.float64)
    fitted = Ridge(RidgeCV(PENALTIES).fit(judged[rows], values[rows]).alpha_).fit(read, values)
    weight, bias = np.atleast_2d(fitted.coef_) / scale, np.atleast_1d(fitted.intercept_)
    return torch.from_numpy(weight).float(), torch.from_numpy(bias).float()


def _scale(features: Any) -> float:
    """How large dense features are; sparse ones are of length 1."""
    return (float(np.sqrt((features**2).mean())) or 1.0) if isinstance(features, np.ndarray) else 1.0


def _some(count: int, seed: int) -> Ints:
    return np.random.Generator(np.random.Philox(key=[seed, 0])).permutation(count)[:ROWS]


def _best(model: Any, features: Any, values: Ints, seed: int, choices: Sequence[float]) -> float:
    """The inverse penalty with the best cross-validated log loss; the second one when a class has a single row."""
    rows = _some(len(values), seed)
    features, values = features[rows], values[rows]
    folds = min(FOLDS, int(np.unique(values, return_counts=True)[1].min()))
    if folds < 2 or len(np.unique(values)) < 2:
        return choices[1]
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    order = StratifiedKFold(folds, shuffle=True, random_state=seed % SEEDS)

    def quality(choice: float) -> float:
        model.set_params(C=choice)
        return float(cross_val_score(model, features, values, cv=order, scoring="neg_log_loss").mean())

    return max(choices, key=quality)
