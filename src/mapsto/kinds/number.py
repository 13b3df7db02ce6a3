"""number: a quantity, such as a score, a price or an age.

Legend of shapes: m answers, d width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mapsto.errors import BadCell, DataError
from mapsto.metrics.intervals import Score, with_interval
from mapsto.metrics.regression import mean_absolute_error, r_squared, root_mean_squared_error
from mapsto.model.layers import new_head
from mapsto.model.linear_probe import fit_ridge_regression
from mapsto.sequence.batch import Answer
from mapsto.sequence.piece import Ints, Piece
from mapsto.task.capabilities import Attributable, Comparable, LinearProbe, Mixable
from mapsto.task.readout import Pooled
from mapsto.task.target import Metric, State

Values = NDArray[np.float64]

METRICS = {"mae": mean_absolute_error, "rmse": root_mean_squared_error, "r2": r_squared}


class Number(LinearProbe, Comparable, Attributable, Mixable):
    """A number, read from the pooled vector; the head tells how many deviations it lies from the mean of the training rows."""

    kind = "number"
    readout = Pooled()
    primary_metric = "r2"
    unbounded_metrics = ("mae", "rmse")
    constant_rule = "always the mean"
    score_unit = "value"

    def __init__(self, mean: float = 0.0, deviation: float = 1.0) -> None:
        self.mean, self.deviation = mean, deviation

    @staticmethod
    def fits(values: Sequence[object]) -> bool:
        """A column of numbers."""
        known = [value for value in values if value is not None]
        return bool(known) and all(_parsed(value) is not None for value in known)

    @staticmethod
    def samples() -> list[float]:
        """Negative, zero, large."""
        return [-2.5, 0.0, 1000.0]

    @staticmethod
    def read(cell: object) -> float:
        """The number itself, or a text that spells one."""
        if cell is None or (isinstance(cell, str) and not cell.strip()):
            raise BadCell("the number is blank")
        found = _parsed(cell)
        if found is None:
            raise BadCell(
                "this is no number" if isinstance(cell, str) else f"a number was expected, not {type(cell).__name__}"
            )
        if not math.isfinite(found):
            raise BadCell("the number is not finite")
        return found

    def learn(self, answers: Sequence[float], balance: bool = False) -> None:
        """Mean and deviation. Raises DataError where all numbers are the same."""
        values = np.asarray(answers, np.float64)
        self.mean, self.deviation = float(values.mean()), float(values.std())
        if not self.deviation > 0:
            raise DataError(f"every row has the number {self.mean:g}; two different ones are needed")

    def encode(self, answer: float, pieces: Sequence[Piece]) -> Answer:
        """Deviations from the mean."""
        return Answer(np.asarray((answer - self.mean) / self.deviation, np.float32))

    def probe(self, features: Any, values: Ints, seed: int, selection_features: Any = None) -> tuple[Tensor, Tensor]:
        """Ridge regression."""
        return fit_ridge_regression(features, values, seed, selection_features)

    def constant_output(self, values: Ints) -> Tensor | None:
        """The mean."""
        return torch.tensor([float(np.mean(values))])

    def per_item_metric(self, output: Tensor, answers: Sequence[float]) -> NDArray[np.float32] | None:
        """R², and how much each answer moves it (its influence, by the delta method): their mean is R² and they vary as it does.
        None where all of `answers` are the same."""
        truth = np.asarray(answers, np.float64)
        away = (truth - truth.mean()) ** 2
        if not away.mean() > 0:
            return None
        errors, away = (self._numbers(output) - truth) ** 2 / away.mean(), away / away.mean()
        found: NDArray[np.float32] = (1 - errors.mean() + errors.mean() * away - errors).astype(np.float32)
        return found

    def answer_score(self, output: Tensor, answered: Tensor) -> Tensor:
        """The number itself: parts with a weight above 0 raise it."""
        return output[:, 0] * self.deviation + self.mean

    def head(self, width: int, embedder: nn.Module | None) -> nn.Module:
        """A linear map that begins at the mean."""
        return new_head(width, 1)

    def loss(self, output: Tensor, values: Tensor) -> Tensor:
        """The squared error of outputs (m, 1) against (m,), summed, in deviations."""
        return ((output[:, 0].float() - values) ** 2).sum()

    def decode(self, output: Tensor) -> list[dict[str, Any]]:
        """The numbers."""
        return [{"number": value} for value in self._numbers(output).tolist()]

    def metrics(self, output: Tensor, answers: Sequence[float]) -> dict[str, Metric]:
        """Mean absolute error, root of the mean squared error, and the share of the variance that is explained (R²)."""
        said, truth = self._numbers(output), np.asarray(answers, np.float64)
        return {name: (metric, said, truth) for name, metric in METRICS.items()}

    def baseline(self, answers: Sequence[float]) -> dict[str, Score]:
        """Always the mean of the training rows."""
        truth = np.asarray(answers, np.float64)
        blind = np.full(len(truth), self.mean)
        return {name: with_interval(metric, blind, truth) for name, metric in METRICS.items()}

    def state(self) -> State:
        """Mean and deviation."""
        return {"mean": self.mean, "deviation": self.deviation}

    def brief(self, answer: float) -> str:
        """The number, rounded to what people read."""
        return f"{answer:,.6g}"

    def _numbers(self, output: Tensor) -> Values:
        found: Values = output[:, 0].double().cpu().numpy() * self.deviation + self.mean
        return found


def _parsed(cell: object) -> float | None:
    if isinstance(cell, bool) or not isinstance(cell, str | int | float | np.number):
        return None
    try:
        return float(cell)
    except (ValueError, OverflowError):
        return None


target = Number
