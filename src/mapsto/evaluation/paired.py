"""A model beside another one on the same rows, and the rows that it answers wrongly.

The difference of two models is paired: both answer the same rows, so that what makes rows hard cancels out and the interval is
narrower than those of the two scores suggest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mapsto.data.writers import write_file
from mapsto.errors import UsageError, free_name
from mapsto.evaluation.evaluate import Evaluation, Predictions
from mapsto.metrics.intervals import Floats, agreed_interval, mean_half_width
from mapsto.task.target_capabilities import Comparable, Confident

# A row whose score is lower counts as a mistake.
RIGHT = 1.0
FILE, ROW = "file", "row"


@dataclass(frozen=True)
class PairedDifference:
    """The difference of two models in the main metric of one answer, on the same rows.

    prefix: the answer's column and a colon; "" if there is one answer. name: of the other model. metric: the metric.
    value, other_value: the scores of both models. difference, half_width: their difference, and half the width of
    its 95 % interval over rows or groups of rows.
    num_gained, num_lost: the rows that the model answers better than the other one, and worse.
    """

    prefix: str
    name: str
    metric: str
    value: float
    other_value: float
    difference: float
    half_width: float
    num_gained: int
    num_lost: int
    n: int

    @property
    def is_significant(self) -> bool:
        """Return whether the interval of the difference does not hold 0."""
        return abs(self.difference) > self.half_width

    def __str__(self) -> str:
        points = f"{100 * self.difference:+.1f} points"
        low, high = 100 * (self.difference - self.half_width), 100 * (self.difference + self.half_width)
        verdict = ("better" if self.difference > 0 else "worse") if self.is_significant else "no significant difference"
        scores = f"{100 * self.value:.1f} % against {100 * self.other_value:.1f} % of {self.name}"
        rows = f"{self.num_gained:,} of {self.n:,} rows gained, {self.num_lost:,} lost"
        interval = f"95 % interval {low:+.1f} to {high:+.1f}"
        return f"{self.prefix}{self.metric}: {scores}: {points} ({interval}): {verdict}; {rows}"


def compare_models(evaluation: Evaluation, rival: Evaluation, name: str) -> list[PairedDifference]:
    """Return the paired difference of two evaluations on the same table, for each answer that both models give.

    name: of the other model. Raises UsageError if the models have no answer in common that is scored row by row, or were scored
    on other rows.
    """
    partners = {predictions.column: predictions for predictions in rival.predictions}
    differences = []
    for predictions in evaluation.predictions:
        partner = partners.get(predictions.column)
        if partner is None and len(evaluation.predictions) == len(rival.predictions) == 1:
            partner = rival.predictions[0]
        if partner is not None and (difference := _compare(predictions, partner, name)) is not None:
            differences.append(difference)
    if not differences:
        raise UsageError(f"--against {name}: the two models have no answer in common that is scored row by row")
    return differences


def _compare(predictions: Predictions, partner: Predictions, name: str) -> PairedDifference | None:
    """Return the difference of two models for one answer; None if its rows have no scores of their own."""
    target = predictions.target
    if not isinstance(target, Comparable) or type(target) is not type(partner.target):
        return None
    if predictions.rows.indices.tolist() != partner.rows.indices.tolist():
        raise UsageError(
            f"--against {name}: the two models can read other rows of the table; leave out what one cannot read"
        )
    scores, partner_scores = _row_scores(predictions), _row_scores(partner)
    if scores is None or partner_scores is None:
        return None
    differences = scores - partner_scores
    groups = predictions.group_numbers
    # Where the models agree on every row, so do all resamples, and the interval is that of agreement.
    num_units = len(scores) if groups is None else len(np.unique(groups))
    half_width = mean_half_width(differences, groups)
    if not half_width:
        half_width = agreed_interval(0.0, num_units, (-1.0, 1.0))[1]
    return PairedDifference(
        predictions.prefix,
        name,
        target.primary_metric,
        float(scores.mean()),
        float(partner_scores.mean()),
        float(differences.mean()),
        half_width,
        int((differences > 0).sum()),
        int((differences < 0).sum()),
        len(differences),
    )


def _row_scores(predictions: Predictions) -> Floats | None:
    """Return the main metric of each row, (n,); None if single rows have none."""
    target = predictions.target
    if not isinstance(target, Comparable):
        return None
    scores = target.per_item_metric(predictions.outputs, predictions.labels)
    return None if scores is None else scores.astype(np.float64)


def write_mistakes(path: Path, predictions: Sequence[Predictions]) -> int:
    """Write the rows with a wrong answer to a table, the most confident mistakes first; return their number.

    A row has all its cells, its file and row number, the answer and how confident the model was.
    Raises UsageError for answers that are not scored row by row.
    """
    records: list[dict[str, Any]] = []
    columns: dict[str, None] = {}
    for part in predictions:
        part_records = _mistakes(part)
        columns |= dict.fromkeys(name for record in part_records[:1] for name in record)
        records += part_records
    if not any(_row_scores(part) is not None for part in predictions):
        raise UsageError("--mistakes lists answers that are scored row by row, and this model gives none")
    return write_file(path, list(columns) or [FILE, ROW], records)


def _mistakes(predictions: Predictions) -> list[dict[str, Any]]:
    """Return the rows of one answer that are wrong, as dicts of cells, the most confident ones first."""
    scores, target = _row_scores(predictions), predictions.target
    if scores is None:
        return []
    confident = isinstance(target, Confident)
    confidence = target.confidence(predictions.outputs) if isinstance(target, Confident) else 1 - scores
    wrong = np.flatnonzero(scores < RIGHT)
    table, rows = predictions.rows.table, predictions.rows
    answers = target.decode(predictions.outputs)
    names = {name: free_name(name, table.columns) for name in (FILE, ROW)}
    answer_name = free_name(f"predicted_{predictions.column}", table.columns)
    score_name = free_name(f"{predictions.column}_{'probability' if confident else 'score'}", table.columns)
    records = []
    for row in wrong[np.argsort(-confidence[wrong], kind="stable")].tolist():
        file, number = rows.origin(row)
        cells = {name: table.column(name)[int(rows.indices[row])] for name in table.columns}
        shown_score = float(confidence[row] if confident else scores[row])
        answer = target.brief(answers[row].get(target.kind))
        records.append(
            {names[FILE]: file, names[ROW]: number, **cells, answer_name: answer, score_name: round(shown_score, 4)}
        )
    return records
