"""The scores of a cross-validation: over the answers of all folds, and fold by fold."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mapsto.errors import UsageError, near
from mapsto.metrics.intervals import Score, to_json


@dataclass(frozen=True)
class FoldScores:
    """The scores of a cross-validation, in which each row is answered once, by a model that was not fitted to it.

    scores: of each metric over the answers of all folds together, with its interval; it has no limits where the metric can only
        be taken fold by fold.
    by_fold: the value of each metric in each fold.
    num_rows: the number of rows. answers_file: the table of all answers in the folder of the run; None for a run in memory.
    answer_rows: the same table as rows, with the fold of each row; None for scores that were read again.
    """

    scores: Mapping[str, Score]
    by_fold: Sequence[Mapping[str, float]]
    num_rows: int
    answers_file: str | None = None
    answer_rows: Sequence[Mapping[str, Any]] | None = field(default=None, repr=False, compare=False)

    def mean(self, name: str) -> float:
        """Return the mean of a metric over the folds. Raises UsageError for a metric that not every fold has."""
        return statistics.fmean(self._values(name))

    def deviation(self, name: str) -> float:
        """Return the standard deviation of a metric over the folds: how far the score of one fold is from that of another.

        Raises UsageError for a metric that not every fold has.
        """
        return statistics.stdev(self._values(name))

    def _values(self, name: str) -> list[float]:
        """Return the value of a metric in each fold. Raises UsageError for a metric that not every fold has."""
        if name not in self.scores:
            names = ", ".join(map(repr, self.scores))
            raise UsageError(f"no metric {name!r}{near(name, self.scores)}; the folds are scored by {names}")
        return [fold[name] for fold in self.by_fold]

    @property
    def title(self) -> str:
        """The rows and folds that the scores are of, in words."""
        return f"{self.num_rows:,} rows in {len(self.by_fold)} folds, each answered by a model of the other folds"

    def lines(self) -> list[str]:
        """Return a line for the rows, and one for each metric."""
        return [
            f"{self.title}:",
            *(
                f"{name}: {score}; mean of the folds {self.mean(name):.4f}, standard deviation {self.deviation(name):.4f}"
                for name, score in self.scores.items()
            ),
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the scores as plain JSON, from which `from_json` makes them again."""
        record: dict[str, Any] = to_json(
            {"scores": dict(self.scores), "by_fold": [*self.by_fold], "rows": self.num_rows}
        )
        return record | ({} if self.answers_file is None else {"answers": self.answers_file})

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> FoldScores:
        """Return the scores that `record` describes, as returned by `to_json`."""
        scores = {name: Score.from_json(score) for name, score in record["scores"].items()}
        by_fold = [
            {name: math.nan if value is None else value for name, value in fold.items()} for fold in record["by_fold"]
        ]
        return FoldScores(scores, by_fold, record["rows"], record.get("answers"))
