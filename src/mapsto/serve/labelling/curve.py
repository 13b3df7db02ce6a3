"""The learning curve of a session: how good the probe is, and what more labels would bring.

The score of a fit is cross-validated: each row is answered by a probe that was fitted to the other folds. Only rows drawn at
random count, so the score is that on the pool; it is a little too low, since each fold's probe has a tenth fewer rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from mapsto.comparison.learning_curves import extrapolate
from mapsto.errors import DataError
from mapsto.metrics.intervals import mean_score, with_interval
from mapsto.sequence.piece import Ints
from mapsto.task.target import Target
from mapsto.task.target_capabilities import Classes, Confident, LinearProbe

FOLDS = 10
# A score needs so many random rows; a forecast needs more, and a curve of some points over a span of numbers of labels.
MIN_RANDOM_ROWS, MIN_FORECAST_ROWS, MIN_POINTS, MIN_SPAN = 10, 50, 4, 3.0
DRAWS = 1000
# A forecast is for this many times as many labels.
FORECAST_FACTOR = 2


@dataclass(frozen=True)
class Probe:
    """A linear model on the features of a pool. weight: (c, f). bias: (c,)."""

    target: Target
    weight: Tensor
    bias: Tensor

    def outputs(self, features: Any) -> Tensor:
        """Return the outputs (n, c) for features (n, f), dense or sparse."""
        import torch

        products = features @ self.weight.numpy().T
        return torch.from_numpy(np.asarray(products, np.float32)) + self.bias


def fit_probe(kind: type[Target], features: Any, values: Sequence[Any], seed: int) -> Probe:
    """Return the probe fitted to n rows. features: (n, f). values: their answers.

    Raises DataError if the answers are too few or all equal.
    """
    target = kind()
    target.learn(values)
    return Probe(target, *_fit(target, features, values, seed))


def _fit(target: Target, features: Any, values: Sequence[Any], seed: int) -> tuple[Tensor, Tensor]:
    assert isinstance(target, LinearProbe)
    encoded = np.array([target.encode(value, ()).values for value in values])
    return target.probe(features, encoded, seed)


def measure(
    kind: type[Target], features: Any, values: Sequence[Any], is_random: Sequence[bool], seed: int
) -> dict[str, Any] | None:
    """Return a point of the learning curve: {"num_labels", "score", "low", "high", "n"}; None with too few random rows.

    The score is the share of right answers among the random rows. is_random: for each row whether it was drawn at random.
    """
    target = kind()
    if sum(is_random) < MIN_RANDOM_ROWS or not isinstance(target, Confident) or not isinstance(target, Classes):
        return None
    target.learn(values)
    folds = deal_folds([str(sorted(target.class_names(value))) for value in values])
    scores: list[float] = []
    random_rows = np.array(is_random, np.bool_)
    for fold in range(FOLDS):
        test = np.flatnonzero((folds == fold) & random_rows).tolist()
        train = np.flatnonzero(folds != fold).tolist()
        if not test:
            continue
        try:
            weight, bias = _fit(target, features[train], [values[row] for row in train], seed)
        except (DataError, ValueError):  # one class alone is left to fit to
            return None
        outputs = Probe(target, weight, bias).outputs(features[test])
        scores += target.correctness(outputs, [values[row] for row in test]).tolist()
    score = with_interval(mean_score, np.array(scores))
    return {"num_labels": len(values), "score": score.value, "low": score.low, "high": score.high, "n": score.n}


def deal_folds(names: Sequence[str]) -> Ints:
    """Return the fold of each row; the rows of a class are spread over the folds."""
    folds = np.empty(len(names), np.int64)
    folds[np.argsort(np.array(names), kind="stable")] = np.arange(len(names)) % FOLDS
    return folds


def forecast(points: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Return what twice as many labels would bring: {"num_labels", "gain", "low", "high"}.

    None if it is too early to say.

    The error is taken to keep falling as a power law. The interval draws each point anew from the distribution that its number of
    random rows allows, and adds the error of a score on as many rows. Without the latter it is too narrow: on TREC-6 it held 5 of
    11 true gains, with it all.
    """
    by_labels = {point["num_labels"]: point for point in points}
    ordered = [by_labels[count] for count in sorted(by_labels)]
    if len(ordered) < MIN_POINTS or ordered[-1]["n"] < MIN_FORECAST_ROWS:
        return None
    counts = [point["num_labels"] for point in ordered]
    if counts[-1] < MIN_SPAN * counts[0]:
        return None
    rng = np.random.Generator(np.random.Philox(key=[0, counts[-1]]))
    # The posterior of a share (Jeffreys), for each point.
    draws = np.stack(
        [rng.beta(0.5 + p["score"] * p["n"], 0.5 + (1 - p["score"]) * p["n"], DRAWS) for p in ordered], axis=1
    )
    num_labels = FORECAST_FACTOR * counts[-1]
    gains = extrapolate(counts, draws, num_labels) - extrapolate(counts, draws, counts[-1])
    last = ordered[-1]
    gains += rng.normal(0, np.sqrt(last["score"] * (1 - last["score"]) / last["n"]), DRAWS)
    low, gain, high = np.quantile(gains, [0.025, 0.5, 0.975]).tolist()
    return {"num_labels": num_labels, "gain": gain, "low": low, "high": high}
