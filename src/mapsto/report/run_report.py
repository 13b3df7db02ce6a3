"""The report of a run as Python users hold it: scores, findings, and the curves of the held-out rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from mapsto.errors import UsageError
from mapsto.metrics.fold_scores import FoldScores
from mapsto.metrics.intervals import Score
from mapsto.report.results import Answers, ResultTable, Tabular, score_records, score_table

# Stands before the name of a score over the answers of all folds.
CROSS_VALIDATED = "cross-validated "
# The fields of a training step that are no score of the held-out rows.
HELD_OUT = "held_out_"


@dataclass(frozen=True, repr=False)
class FoldReport(Tabular, FoldScores):
    """Show the scores of a cross-validation as a table, and hold the answers that they are of.

    folder: the folder of the run; None for a run in memory.
    """

    folder: str | None = field(default=None, compare=False)

    @classmethod
    def of(cls, scores: FoldScores | None, folder: str | None) -> FoldReport | None:
        """Return the report of scores; None for None."""
        if scores is None:
            return None
        return cls(**{item.name: getattr(scores, item.name) for item in fields(FoldScores)}, folder=folder)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for `pickle`, without the rows: a model that is passed on does not hold its training data."""
        return {**self.__dict__, "answer_rows": None}

    @property
    def answers(self) -> Answers:
        """Return each row with its fold and the answer of the model that was not fitted to it, in the order of the rows.

        Raises UsageError where only the file has them, after the run was loaded or resumed, or where they were not kept.
        """
        if self.answer_rows is None:
            file = None if self.folder is None or self.answers_file is None else Path(self.folder) / self.answers_file
            place = "they were not saved with the model" if file is None else f"read them from {file}"
            raise UsageError(f"the answers of the folds are in memory only where the folds were fitted; {place}")
        return Answers(dict(row) for row in self.answer_rows)

    def table(self) -> ResultTable:
        """Return the table of scores, with their mean and standard deviation over the folds."""
        scored = score_table(self.title, self.scores, {}, "", ())
        columns = [*scored.columns, "mean of the folds", "standard deviation"]
        rows = [
            [*row, self.mean(name), self.deviation(name)] for name, row in zip(self.scores, scored.rows, strict=True)
        ]
        return replace(scored, columns=columns, rows=rows)

    def records(self) -> list[dict[str, Any]]:
        """Return a row for each score, with its value in each fold."""
        return [
            record
            | {"mean": self.mean(name), "deviation": self.deviation(name)}
            | {f"fold_{number}": fold[name] for number, fold in enumerate(self.by_fold, 1)}
            for name, record in zip(self.scores, score_records(self.scores, {}), strict=True)
        ]


@dataclass(frozen=True, repr=False)
class RunReport(Tabular):
    """Hold what a fit reported: its scores, what was found in the data and in the run, and its held-out curves.

    title: the arrow, and the rows that were scored. scores: by metric, on the test rows or else on the held-out rows.
    baseline: by metric, the score of the best constant answer; baseline_name says it in words.
    findings: sentences on what affects the result, as the command line notes them.
    curves: for each evaluation of the held-out rows during training a dict with "step", "training_loss" and their metrics.
    folder: the folder of the run; None for a run in memory. folds: the scores of a cross-validation; None without one.
    """

    title: str
    scores: Mapping[str, Score] = field(default_factory=dict)
    baseline: Mapping[str, Score] = field(default_factory=dict)
    baseline_name: str = ""
    findings: Sequence[str] = ()
    curves: Sequence[Mapping[str, float]] = ()
    folder: str | None = None
    folds: FoldReport | None = None

    @property
    def _all_scores(self) -> dict[str, Score]:
        """Return the scores by metric, then those of the cross-validation, whose names say so."""
        folds = {} if self.folds is None else self.folds.scores
        return {**self.scores, **{f"{CROSS_VALIDATED}{name}": score for name, score in folds.items()}}

    def table(self) -> ResultTable:
        """Return the table of scores, with the findings below it."""
        notes = list(self.findings)
        if self.curves:
            loss = min(self.curves, key=lambda point: point.get(f"{HELD_OUT}loss", float("inf")))
            notes.append(
                f"{len(self.curves):,} evaluations of the held-out rows in .curves; the lowest loss at step {loss['step']:,}"
            )
        if self.folds is not None:
            notes.append(f"{self.folds.title}; mean and standard deviation of the folds are in .folds")
        if self.folder is not None:
            notes.append(f"saved in {self.folder}")
        return score_table(self.title, self._all_scores, self.baseline, self.baseline_name, notes)

    def records(self) -> list[dict[str, Any]]:
        """Return a row for each score."""
        return score_records(self._all_scores, self.baseline)

    @classmethod
    def of_saved(
        cls, title: str, folder: str, record: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]
    ) -> RunReport:
        """Return the report of a run from its folder: the content of its manifest and the records of its training steps."""
        curves = [
            {"step": step["step"], "training_loss": step["loss"]}
            | {name: value for name, value in step.items() if name.startswith(HELD_OUT)}
            for step in steps
            if any(name.startswith(HELD_OUT) for name in step)
        ]
        scores = {name: Score.from_json(score) for name, score in record.get("scores", {}).items()}
        recorded = record.get("provenance", {}).get("folds")
        folds = None if recorded is None else FoldReport.of(FoldScores.from_json(recorded), folder)
        return cls(title, scores, findings=list(record.get("findings", ())), curves=curves, folder=folder, folds=folds)
