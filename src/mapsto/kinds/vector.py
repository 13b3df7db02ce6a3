"""vector: a list of numbers of the same length in every row, predicted from the pooled vector.

If the answers are the vectors of another model, this is distillation. Each number is standardised by its mean and standard
deviation over the training rows, and the head is trained with squared error.

Legend of shapes: m answers, k numbers of an answer, d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from mapsto.errors import BadCell, DataError
from mapsto.metrics.regression import mean_cosine, mean_r_squared
from mapsto.metrics.standardisation import MAX_MAGNITUDE, lone_rows, mean_and_deviation
from mapsto.model.layers import new_head
from mapsto.model.linear_probe import fit_ridge_regression
from mapsto.sequence.batch import Answer
from mapsto.sequence.piece import Ints, Piece
from mapsto.task.printed_lists import parse_list
from mapsto.task.readout import Pooled
from mapsto.task.target import Metric, State
from mapsto.task.target_capabilities import DEFAULT_PROBE, LinearProbe, Mixable, ProbeSettings, Standardised

MIN_DEVIATION = 1e-6  # so that a number that is the same in every row is not divided by 0

Values = NDArray[np.float64]


class Vector(LinearProbe, Mixable, Standardised):
    """A target that answers with a list of k numbers.

    mean, deviation: (k,), mean and standard deviation of each number over the training rows.
    """

    kind = "vector"
    readout = Pooled()

    def __init__(self, mean: Sequence[float] = (), deviation: Sequence[float] = ()) -> None:
        self.mean, self.deviation = list(mean), list(deviation)
        if not np.isfinite([*mean, *deviation]).all() or not all(number > 0 for number in deviation):
            raise DataError("vectors with such a mean and deviation cannot be standardised")

    @staticmethod
    def fits(values: Sequence[object]) -> bool:
        """Return whether all cells of a column are lists of at least two numbers, also as JSON, or None. Lengths may differ."""
        cells = [value for value in values if value is not None]
        try:
            return bool(cells) and all(len(Vector.read(cell)) > 1 for cell in cells)
        except BadCell:
            return False

    @staticmethod
    def samples() -> list[Any]:
        """Return three cells: a vector with positive and negative numbers, one of whole numbers, and one as JSON."""
        return [[1.0, -2.5, 0.0], [0, 3, 1], "[2.0, 0.5, -1.0]"]

    @staticmethod
    def read(cell: object) -> tuple[float, ...]:
        """Return the numbers in a cell: a list, an array, or a list as JSON or as Python and NumPy print it.

        Raises BadCell if they are none, or not all finite.
        """
        if isinstance(cell, str):
            try:
                cell = parse_list(cell)
            except ValueError as error:
                raise BadCell(f"this is no vector: {error}; write it as [0.5, 1.5]") from error
        if not isinstance(cell, list | tuple | np.ndarray):
            raise BadCell("the vector is blank" if cell is None else f"a vector is a list, not {type(cell).__name__}")
        try:
            vector = np.asarray(cell)
        except ValueError as error:
            raise BadCell("a vector is a list of numbers") from error
        # Integers, unsigned integers and floats; texts and booleans are no numbers.
        if vector.dtype.kind not in "iuf":
            raise BadCell("a vector is a list of numbers")
        vector = vector.astype(np.float64)
        if vector.ndim != 1 or not len(vector) or not np.isfinite(vector).all():
            raise BadCell("a vector is a list of finite numbers")
        if np.abs(vector).max() > MAX_MAGNITUDE:
            raise BadCell(f"a number of the vector is too large: at most {MAX_MAGNITUDE:g} can be learnt")
        return tuple(vector.tolist())

    @staticmethod
    def find_outliers(answers: Sequence[Any]) -> list[tuple[int, str]]:
        indices = [index for index, answer in enumerate(answers) if answer is not None]
        if len({len(answers[index]) for index in indices}) != 1:
            return []
        columns = np.array([answers[index] for index in indices]).T
        return [
            (
                indices[row],
                f"number {number} of the vector is so far from all others that it alone makes their deviation",
            )
            for number, column in enumerate(columns, 1)
            for row in lone_rows(column)
        ]

    def learn(self, answers: Sequence[tuple[float, ...]], balance: bool = False) -> None:
        """Learn the mean and the standard deviation of each of the k numbers over the training answers. balance: not used.

        Raises DataError if the answers have different lengths.
        """
        if len(sizes := {len(answer) for answer in answers}) > 1:
            raise DataError(f"vectors of different lengths: {', '.join(map(str, sorted(sizes)[:5]))}")
        mean, deviation = mean_and_deviation(np.array(answers))
        self.mean, self.deviation = mean.tolist(), np.maximum(deviation, MIN_DEVIATION).tolist()

    def encode(self, answer: tuple[float, ...], pieces: Sequence[Piece]) -> Answer:
        """Return the standardised numbers, (k,). Raises DataError for a vector of another length than in the training rows."""
        if len(answer) != len(self.mean):
            raise DataError(f"a vector of {len(answer)} numbers, where the others have {len(self.mean)}")
        return Answer(((np.array(answer) - self.mean) / self.deviation).astype(np.float32))

    def probe(
        self, features: Any, values: Ints, seed: int, settings: ProbeSettings = DEFAULT_PROBE
    ) -> tuple[Tensor, Tensor]:
        """Return weight (k, d) and bias (k,) of a ridge regression of the standardised answers on the features.

        features: (m, d). values: (m, k), standardised answers. seed: draws the rows for choosing the regularisation strength.
        settings: whether training goes on from the head makes no difference here.
        """
        return fit_ridge_regression(features, values, seed, settings)

    def head(self, width: int, embedder: nn.Module | None) -> nn.Module:
        """Return a linear map (m, d) → (m, k) that at first predicts about 0, the standardised mean of the training rows."""
        return new_head(width, len(self.mean))

    def loss(self, output: Tensor, values: Tensor) -> Tensor:
        """Return the mean squared error over the k standardised numbers of an answer, summed over answers. output: (m, k)."""
        # The mean over the k numbers keeps the loss, and so the best learning rate, independent of k.
        return ((output.float() - values) ** 2).mean(-1).sum()

    def decode(self, output: Tensor) -> list[dict[str, Any]]:
        """Return {"vector": [k numbers]} for each answer."""
        return [{"vector": row} for row in self._to_numbers(output).tolist()]

    def metrics(self, output: Tensor, answers: Sequence[tuple[float, ...]]) -> dict[str, Metric]:
        """Return the mean cosine similarity with the true vectors ("cosine") and the mean R² of the k numbers ("r2")."""
        predictions, labels = self._to_numbers(output), np.array(answers)
        return {"cosine": (mean_cosine, predictions, labels), "r2": (mean_r_squared, predictions, labels)}

    def baseline(self, answers: Sequence[tuple[float, ...]]) -> dict[str, Metric]:
        """Return the mean cosine similarity ("cosine") between the mean vector of the training rows and each of `answers`."""
        labels = np.array(answers)
        return {"cosine": (mean_cosine, np.broadcast_to(self.mean, labels.shape), labels)}

    def state(self) -> State:
        """Return the mean and the standard deviation of each number over the training rows."""
        return {"mean": self.mean, "deviation": self.deviation}

    def _to_numbers(self, output: Tensor) -> Values:
        """Return standardised outputs (m, k) as numbers (m, k) in the units of the data."""
        numbers: Values = output.double().cpu().numpy() * self.deviation + self.mean
        return numbers


target = Vector
