"""number: a quantity, such as a score, a price or an age (regression), read from the pooled vector.

The head predicts the standardised number, (number − mean) / standard deviation of the training rows, with squared
error.

Legend of shapes: m answers, d width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mapsto.errors import BadCell, DataError
from mapsto.metrics.intervals import Score
from mapsto.metrics.regression import mean_absolute_error, r_squared, root_mean_squared_error
from mapsto.metrics.standardisation import MAX_MAGNITUDE, lone_rows, mean_and_deviation
from mapsto.model.layers import new_head
from mapsto.model.linear_probe import fit_ridge_regression
from mapsto.sequence.batch import Answer
from mapsto.sequence.piece import Ints, Piece
from mapsto.task.readout import Pooled
from mapsto.task.target import Metric, State
from mapsto.task.target_capabilities import (
    DEFAULT_PROBE,
    Advising,
    Attributable,
    Comparable,
    LinearProbe,
    Mixable,
    ProbeSettings,
    Standardised,
)
from mapsto.text.cells import decimal_point_hint

Values = NDArray[np.float64]

METRICS = {"mae": mean_absolute_error, "rmse": root_mean_squared_error, "r2": r_squared}


class Number(LinearProbe, Comparable, Attributable, Mixable, Standardised, Advising):
    """A target that answers with one number.

    mean, deviation: mean and standard deviation of the numbers in the training rows.
    """

    kind = "number"
    readout = Pooled()
    primary_metric = "r2"
    unbounded_metrics = ("mae", "rmse")
    constant_rule = "always the mean"
    score_unit = "value"

    def __init__(self, mean: float = 0.0, deviation: float = 1.0) -> None:
        if not (math.isfinite(mean) and 0 < deviation < math.inf):
            raise DataError(f"numbers with the mean {mean} and the deviation {deviation} cannot be standardised")
        self.mean, self.deviation = mean, deviation

    @staticmethod
    def fits(values: Sequence[object]) -> bool:
        """Return whether all cells of a column are numbers, or texts that spell a number; booleans are no numbers."""
        cells = [value for value in values if value is not None]
        return bool(cells) and all(_parse(cell) is not None for cell in cells)

    @classmethod
    def advise(cls, columns: Mapping[str, Sequence[object]], folder: Path) -> str:
        """Return a sentence on the columns whose cells are numbers with a decimal comma or marks between their digits."""
        for name, cells in columns.items():
            texts = [cell for cell in cells if isinstance(cell, str) and _parse(cell) is None and cell.strip()]
            if texts and all("," in text and decimal_point_hint(text) for text in texts):
                return f"{name!r} holds numbers with commas, such as {texts[0]!r}{decimal_point_hint(texts[0])}"
        return ""

    @staticmethod
    def samples() -> list[float]:
        """Return three cells: a negative number, zero and a large number."""
        return [-2.5, 0.0, 1000.0]

    @staticmethod
    def read(cell: object) -> float:
        """Return the finite number that a cell is, or spells as text.

        Raises BadCell if it is blank, not a number, or not finite.
        """
        if cell is None or (isinstance(cell, str) and not cell.strip()):
            raise BadCell("the number is blank")
        number = _parse(cell)
        if number is None:
            if not isinstance(cell, str):
                raise BadCell(f"a number was expected, not {type(cell).__name__}")
            raise BadCell(f"this is no number{decimal_point_hint(cell)}")
        if not math.isfinite(number):
            raise BadCell("the number is not finite")
        if abs(number) > MAX_MAGNITUDE:
            raise BadCell(
                f"the number is too large: its square is not finite, and at most {MAX_MAGNITUDE:g} can be learnt"
            )
        return number

    @staticmethod
    def find_outliers(answers: Sequence[Any]) -> list[tuple[int, str]]:
        indices = [index for index, answer in enumerate(answers) if answer is not None]
        values = np.array([answers[index] for index in indices], np.float64)
        reason = (
            "so far from all other numbers that it alone makes their deviation: is it a typing error, "
            "or does it stand for nothing?"
        )
        return [(indices[row], reason) for row in lone_rows(values)]

    def learn(self, answers: Sequence[float], balance: bool = False) -> None:
        """Learn mean and standard deviation of the training answers. balance: not used.

        Raises DataError if all are the same number.
        """
        values = np.asarray(answers, np.float64)
        self.mean, self.deviation = map(float, mean_and_deviation(values))
        if not self.deviation > 0:
            raise DataError(f"every row has the number {self.mean:g}; two different ones are needed")

    def encode(self, answer: float, pieces: Sequence[Piece]) -> Answer:
        """Return the standardised number as a scalar."""
        return Answer(np.asarray((answer - self.mean) / self.deviation, np.float32))

    def probe(
        self, features: Any, values: Ints, seed: int, settings: ProbeSettings = DEFAULT_PROBE
    ) -> tuple[Tensor, Tensor]:
        """Return weight (1, d) and bias (1,) of a ridge regression of the standardised answers on the features.

        features: (m, d). values: (m,), standardised answers. seed: draws the rows for choosing the regularisation strength.
        settings: whether training goes on from the head makes no difference here.
        """
        return fit_ridge_regression(features, values, seed, settings)

    def constant_output(self, values: Ints) -> Tensor | None:
        """Return the mean of the standardised training answers, (1,), as the output to be used for every row.

        values: (m,), the standardised training answers.
        """
        return torch.tensor([float(np.mean(values))])

    def per_item_metric(self, output: Tensor, answers: Sequence[float]) -> NDArray[np.float32] | None:
        """Return a score for each answer, (m,), the mean of which is R²; None if all true answers are the same.

        A score is R² plus the influence of this answer on R² (delta method): the scores' variance over m estimates that of R².
        """
        labels = np.asarray(answers, np.float64)
        variances = (labels - labels.mean()) ** 2
        # R² divides by the variance of the answers.
        if not variances.mean() > 0:
            return None
        errors, variances = (self._to_numbers(output) - labels) ** 2 / variances.mean(), variances / variances.mean()
        worth: NDArray[np.float32] = (1 - errors.mean() + errors.mean() * variances - errors).astype(np.float32)
        return worth

    def answer_score(self, output: Tensor, reference: Tensor) -> Tensor:
        """Return the predicted numbers (m,), in the unit of the data, as their own score. reference: not used."""
        return output[:, 0] * self.deviation + self.mean

    def head(self, width: int, embedder: nn.Module | None) -> nn.Module:
        """Return a linear map (m, d) → (m, 1) that at first predicts about 0, the standardised mean of the training rows."""
        # Small weights and a bias of 0 predict about 0, which is the mean after standardisation.
        return new_head(width, 1)

    def loss(self, output: Tensor, values: Tensor) -> Tensor:
        """Return the summed squared error of outputs (m, 1) against standardised numbers (m,)."""
        return ((output[:, 0].float() - values) ** 2).sum()

    def decode(self, output: Tensor) -> list[dict[str, Any]]:
        """Return {"number": predicted number} for each answer, in the unit of the data."""
        return [{"number": value} for value in self._to_numbers(output).tolist()]

    def metrics(self, output: Tensor, answers: Sequence[float]) -> dict[str, Metric]:
        """Return mean absolute error ("mae"), root mean squared error ("rmse") and R² ("r2"), by name."""
        predictions, labels = self._to_numbers(output), np.asarray(answers, np.float64)
        return {name: (metric, predictions, labels) for name, metric in METRICS.items()}

    def baseline(self, answers: Sequence[float]) -> dict[str, Metric]:
        """Return the metrics "mae", "rmse" and "r2" on `answers` if the mean of the training rows is predicted for every row."""
        labels = np.asarray(answers, np.float64)
        predictions = np.full(len(labels), self.mean)
        return {name: (metric, predictions, labels) for name, metric in METRICS.items()}

    def state(self) -> State:
        """Return the mean and the standard deviation of the numbers in the training rows."""
        return {"mean": self.mean, "deviation": self.deviation}

    def describe_scores(self, scores: Mapping[str, Score]) -> str:
        """Return the mean absolute error and the share of explained variance in a clause."""
        return f"it is off by {scores['mae'].value:,.3g} on average (R² {scores['r2'].value:.2f})"

    def brief(self, answer: float) -> str:
        """Return the number rounded to six significant digits."""
        return f"{answer:,.6g}"

    def _to_numbers(self, output: Tensor) -> Values:
        """Return standardised outputs (m, 1) as numbers (m,) in the unit of the data."""
        numbers: Values = output[:, 0].double().cpu().numpy() * self.deviation + self.mean
        return numbers


def _parse(cell: object) -> float | None:
    """Return a cell as a float; None if it is not a number, or a text that spells one. A boolean is not a number."""
    # A bool is an int in Python, but a column of booleans is one of classes.
    if isinstance(cell, bool) or not isinstance(cell, str | int | float | Decimal | np.number):
        return None
    # Python reads 1_000 as a number, no other program does.
    if isinstance(cell, str) and "_" in cell:
        return None
    try:
        return float(cell)
    except (ValueError, OverflowError):
        return None


target = Number
