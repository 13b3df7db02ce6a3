"""The report of a run as Python users hold it: scores, findings, and the curves of the held-out rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mapsto.metrics.fold_scores import FoldScores
from mapsto.metrics.intervals import Score
from mapsto.report.results import ResultTable, Tabular, score_records, score_table

# The fields of a training step that are no score of the held-out rows.
HELD_OUT = "held_out_"


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
    folds: FoldScores | None = None

    def table(self) -> ResultTable:
        """Return the table of scores, with the findings below it."""
        notes = list(self.findings)
        if self.curves:
            loss = min(self.curves, key=lambda point: point.get(f"{HELD_OUT}loss", float("inf")))
            notes.append(
                f"{len(self.curves):,} evaluations of the held-out rows in .curves; the lowest loss at step {loss['step']:,}"
            )
        if self.folds is not None:
            notes += self.folds.lines()
        if self.folder is not None:
            notes.append(f"saved in {self.folder}")
        return score_table(self.title, self.scores, self.baseline, self.baseline_name, notes)

    def records(self) -> list[dict[str, Any]]:
        """Return a row for each score."""
        return score_records(self.scores, self.baseline)

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
        folds = None if recorded is None else FoldScores.from_json(recorded)
        return cls(title, scores, findings=list(record.get("findings", ())), curves=curves, folder=folder, folds=folds)
