"""number: a quantity, such as a score, a price or an age, read from the pooled vector.

The head predicts the standardised number, (number − mean) / standard deviation of the training rows, with squared error.

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
    """A number.

    mean, deviation: of the training rows.
    """

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
        """Return whether a column holds numbers."""
        cells = [value for value in values if value is not None]
        return bool(cells) and all(_parse(cell) is not None for cell in cells)

    @staticmethod
    def samples() -> list[float]:
        """Return a negative number, zero and a large one."""
        return [-2.5, 0.0, 1000.0]

    @staticmethod
    def read(cell: object) -> float:
        """Return the number, or the one that a text spells. Raises BadCell."""
        if cell is None or (isinstance(cell, str) and not cell.strip()):
            raise BadCell("the number is blank")
        number = _parse(cell)
        if number is None:
            raise BadCell(
                "this is no number" if isinstance(cell, str) else f"a number was expected, not {type(cell).__name__}"
            )
        if not math.isfinite(number):
            raise BadCell("the number is not finite")
        return number

    def learn(self, answers: Sequence[float], balance: bool = False) -> None:
        """Learn mean and standard deviation. Raises DataError where all numbers are the same."""
        values = np.asarray(answers, np.float64)
        self.mean, self.deviation = float(values.mean()), float(values.std())
        if not self.deviation > 0:
            raise DataError(f"every row has the number {self.mean:g}; two different ones are needed")

    def encode(self, answer: float, pieces: Sequence[Piece]) -> Answer:
        """Return the standardised number."""
        return Answer(np.asarray((answer - self.mean) / self.deviation, np.float32))

    def probe(self, features: Any, values: Ints, seed: int, selection_features: Any = None) -> tuple[Tensor, Tensor]:
        """Return weight (1, d) and bias (1,) of a ridge regression of the standardised answers on the features."""
        return fit_ridge_regression(features, values, seed, selection_features)

    def constant_output(self, values: Ints) -> Tensor | None:
        """Return the mean."""
        return torch.tensor([float(np.mean(values))])

    def per_item_metric(self, output: Tensor, answers: Sequence[float]) -> NDArray[np.float32] | None:
        """Return R² plus the influence of each answer on it (delta method), (m,).

        Their mean is R², and their variance gives its standard error. None where all of `answers` are the same.
        """
        labels = np.asarray(answers, np.float64)
        variances = (labels - labels.mean()) ** 2
        if not variances.mean() > 0:
            return None
        errors, variances = (self._to_numbers(output) - labels) ** 2 / variances.mean(), variances / variances.mean()
        worth: NDArray[np.float32] = (1 - errors.mean() + errors.mean() * variances - errors).astype(np.float32)
        return worth

    def answer_score(self, output: Tensor, reference: Tensor) -> Tensor:
        """Return the number: parts with a weight above 0 raise it."""
        return output[:, 0] * self.deviation + self.mean

    def head(self, width: int, embedder: nn.Module | None) -> nn.Module:
        """Return a linear map that starts at the mean."""
        return new_head(width, 1)

    def loss(self, output: Tensor, values: Tensor) -> Tensor:
        """Return the summed squared error of outputs (m, 1) against standardised numbers (m,)."""
        return ((output[:, 0].float() - values) ** 2).sum()

    def decode(self, output: Tensor) -> list[dict[str, Any]]:
        """Return the numbers."""
        return [{"number": value} for value in self._to_numbers(output).tolist()]

    def metrics(self, output: Tensor, answers: Sequence[float]) -> dict[str, Metric]:
        """Return the mean absolute error, the root of the mean squared error, and R²."""
        predictions, labels = self._to_numbers(output), np.asarray(answers, np.float64)
        return {name: (metric, predictions, labels) for name, metric in METRICS.items()}

    def baseline(self, answers: Sequence[float]) -> dict[str, Score]:
        """Return the scores of always answering the mean of the training rows."""
        labels = np.asarray(answers, np.float64)
        predictions = np.full(len(labels), self.mean)
        return {name: with_interval(metric, predictions, labels) for name, metric in METRICS.items()}

    def state(self) -> State:
        """Return mean and standard deviation."""
        return {"mean": self.mean, "deviation": self.deviation}

    def brief(self, answer: float) -> str:
        """Return the number rounded to six digits."""
        return f"{answer:,.6g}"

    def _to_numbers(self, output: Tensor) -> Values:
        numbers: Values = output[:, 0].double().cpu().numpy() * self.deviation + self.mean
        return numbers


def _parse(cell: object) -> float | None:
    if isinstance(cell, bool) or not isinstance(cell, str | int | float | np.number):
        return None
    try:
        return float(cell)
    except (ValueError, OverflowError):
        return None


target = Number
