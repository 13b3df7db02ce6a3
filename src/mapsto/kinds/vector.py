"""vector: as many numbers as every row has, such as the vectors of a model to learn from (distillation).

Legend of shapes: m answers, k numbers of an answer, d width.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from mapsto.errors import BadCell, DataError
from mapsto.metrics.intervals import Score, with_interval
from mapsto.metrics.regression import mean_cosine, mean_r_squared
from mapsto.model.layers import new_head
from mapsto.model.linear_probe import fit_ridge_regression
from mapsto.sequence.batch import Answer
from mapsto.sequence.piece import Ints, Piece
from mapsto.task.capabilities import LinearProbe, Mixable
from mapsto.task.readout import Pooled
from mapsto.task.target import Metric, State

Values = NDArray[np.float64]


SMALLEST = 1e-6  # deviation of a number that is the same in every row


class Vector(LinearProbe, Mixable):
    """Numbers read from the pooled vector; the head tells how many deviations each lies from its mean over the training rows."""

    kind = "vector"
    readout = Pooled()

    def __init__(self, mean: Sequence[float] = (), deviation: Sequence[float] = ()) -> None:
        self.mean, self.deviation = list(mean), list(deviation)

    @staticmethod
    def fits(values: Sequence[object]) -> bool:
        """A column of lists of numbers, also as JSON."""
        known = [value for value in values if value is not None]
        try:
            return bool(known) and all(len(Vector.read(value)) > 1 for value in known)
        except BadCell:
            return False

    @staticmethod
    def samples() -> list[Any]:
        """Of both signs, whole and broken, as JSON."""
        return [[1.0, -2.5, 0.0], [0, 3, 1], "[2.0, 0.5, -1.0]"]

    @staticmethod
    def read(cell: object) -> tuple[float, ...]:
        """A list or an array of numbers, also as JSON."""
        if isinstance(cell, str):
            try:
                cell = json.loads(cell)
            except ValueError as error:
                raise BadCell("the vector is no JSON") from error
        if not isinstance(cell, list | tuple | np.ndarray):
            raise BadCell("the vector is blank" if cell is None else f"a vector is a list, not {type(cell).__name__}")
        try:
            found = np.asarray(cell)
        except ValueError as error:
            raise BadCell("a vector is a list of numbers") from error
        if found.dtype.kind not in "iuf":
            raise BadCell("a vector is a list of numbers")
        found = found.astype(np.float64)
        if found.ndim != 1 or not len(found) or not np.isfinite(found).all():
            raise BadCell("a vector is a list of finite numbers")
        return tuple(found.tolist())

    def learn(self, answers: Sequence[tuple[float, ...]], balance: bool = False) -> None:
        """Mean and deviation of each number. Raises DataError for vectors of different lengths."""
        if len(sizes := {len(answer) for answer in answers}) > 1:
            raise DataError(f"vectors of different lengths: {', '.join(map(str, sorted(sizes)[:5]))}")
        values = np.array(answers)
        self.mean, self.deviation = values.mean(0).tolist(), np.maximum(values.std(0), SMALLEST).tolist()

    def encode(self, answer: tuple[float, ...], pieces: Sequence[Piece]) -> Answer:
        """Deviations from the mean, (k,). Raises DataError for another length than the training rows have."""
        if len(answer) != len(self.mean):
            raise DataError(f"a vector of {len(answer)} numbers, where the others have {len(self.mean)}")
        return Answer(((np.array(answer) - self.mean) / self.deviation).astype(np.float32))

    def probe(self, features: Any, values: Ints, seed: int, selection_features: Any = None) -> tuple[Tensor, Tensor]:
        """Ridge regression."""
        return fit_ridge_regression(features, values, seed, selection_features)

    def head(self, width: int, embedder: nn.Module | None) -> nn.Module:
        """A linear map that begins at the mean."""
        return new_head(width, len(self.mean))

    def loss(self, output: Tensor, values: Tensor) -> Tensor:
        """The squared error of outputs (m, k) in deviations, the mean over the numbers, summed over answers."""
        return ((output.float() - values) ** 2).mean(-1).sum()

    def decode(self, output: Tensor) -> list[dict[str, Any]]:
        """The numbers."""
        return [{"vector": row} for row in self._numbers(output).tolist()]

    def metrics(self, output: Tensor, answers: Sequence[tuple[float, ...]]) -> dict[str, Metric]:
        """The mean cosine between answer and truth, and the share of the variance that is explained (R², mean over numbers)."""
        said, truth = self._numbers(output), np.array(answers)
        return {"cosine": (mean_cosine, said, truth), "r2": (mean_r_squared, said, truth)}

    def baseline(self, answers: Sequence[tuple[float, ...]]) -> dict[str, Score]:
        """Always the mean of the training rows."""
        truth = np.array(answers)
        return {"cosine": with_interval(mean_cosine, np.broadcast_to(self.mean, truth.shape), truth)}

    def state(self) -> State:
        """Mean and deviation of each number."""
        return {"mean": self.mean, "deviation": self.deviation}

    def _numbers(self, output: Tensor) -> Values:
        found: Values = output.double().cpu().numpy() * self.deviation + self.mean
        return found


target = Vector
