"""All rows whose label may be wrong, the worst first, each with the estimated precision of the list down to it.

The probability that a label is wrong is estimated in `metrics.label_noise`. The precision of a list, the share of its
labels that are wrong, is the mean of these probabilities. So a user can choose where to stop.
Legend of shapes: n rows, c classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mapsto.data.writers import write_file
from mapsto.errors import UsageError
from mapsto.metrics.label_noise import estimate_label_noise, wrong_label_probabilities
from mapsto.report.results import SHOWN_ROWS, ResultTable, Tabular
from mapsto.sequence.piece import Ints
from mapsto.task.target import Target
from mapsto.task.target_capabilities import Classes, has_exclusive_classes

if TYPE_CHECKING:
    from mapsto.evaluation.evaluate import Predictions

MIN_WRONG_PROBABILITY = 0.05  # from which on a row is listed
CHANCE = 3.0  # standard errors by which a model must be better than answers that read nothing
RECOMMENDED_PRECISION = 0.5  # down to which it pays to check every row
MIN_RIGHT = 0.7  # share of right answers among all rows, below which a page doubts no label
MIN_RIGHT_TO_DOUBT = 0.9  # share of right answers among those as sure, below which a page doubts no label


@dataclass(frozen=True)
class Suspect:
    """One row whose label may be wrong.

    index: index of the row among the predictions of its target. column: the column of the label.
    input: the values that the model read, as text, one a line.
    label_probability, answer_probability: the model's probability of the label and of its own answer.
    wrong_probability: the estimated probability that the label is wrong.
    precision: the estimated share of wrong labels in the list down to this row.
    """

    index: int
    file: str
    row: int
    column: str
    input: str
    label: str
    answer: str
    label_probability: float
    answer_probability: float
    wrong_probability: float
    precision: float = 1.0


@dataclass(frozen=True, repr=False)
class Suspects(Tabular):
    """The rows whose label may be wrong, the worst first.

    num_unseen: the number of rows with a label that training never saw. Their probability is not known, so they are
        not in the list.
    is_too_weak: whether a model was no better, beyond chance, than the shares of the classes; then it judges no label.
    """

    rows: list[Suspect]
    num_unseen: int
    is_too_weak: bool = False

    @property
    def num_wrong(self) -> float:
        """Return the expected number of wrong labels in the list."""
        return sum(suspect.wrong_probability for suspect in self.rows)

    @property
    def num_recommended(self) -> int:
        """Return the number of rows to check: the longest list of which at least half are expected to be wrong."""
        return sum(suspect.precision >= RECOMMENDED_PRECISION for suspect in self.rows)

    @property
    def threshold(self) -> float | None:
        """Return the lowest `wrong_probability` among the recommended rows to check; None if there are no such rows."""
        return self.rows[self.num_recommended - 1].wrong_probability if self.num_recommended else None

    def table(self) -> ResultTable:
        """Return the first rows: where each is, its label, the model's answer, and how likely the label is wrong."""
        columns = ["file", "row", "label", "answer", "wrong_probability", "input"]
        rows = [[getattr(suspect, name) for name in columns] for suspect in self.rows[:SHOWN_ROWS]]
        return ResultTable(columns, rows, notes=self.summary(), total=len(self.rows))

    def records(self) -> list[dict[str, Any]]:
        """Return the rows as dicts, the worst first."""
        return [asdict(suspect) for suspect in self.rows]

    def write(self, path: str | Path) -> int:
        """Write the rows as csv, tsv, jsonl, parquet or xlsx, by the ending of `path`; return their number.

        Raises UsageError for a path that cannot be used, RunError when the file cannot be written.
        """
        columns = [field.name for field in fields(Suspect) if field.name != "index"]
        return write_file(Path(path), columns, [asdict(suspect) for suspect in self.rows])

    def summary(self) -> list[str]:
        """Return sentences on the number of suspects, the recommended lowest `wrong_probability`, and rows that could
        not be judged.
        """
        if not self.rows and self.is_too_weak:
            lines = [
                "no label is judged: the model is not better, beyond chance, than answers without reading the rows"
            ]
        elif not self.rows:
            lines = ["no label is likely to be wrong"]
        else:
            lines = [describe_counts(len(self.rows), self.num_wrong)]
            if self.num_recommended:
                last = self.rows[self.num_recommended - 1]
                lines.append(
                    f"recommended: check those with a wrong_probability from {last.wrong_probability:.3f}, the first "
                    f"{self.num_recommended:,}; about {100 * last.precision:.0f} % of these are wrong"
                )
            else:
                lines.append("recommended: check none, as even of the first ones less than half are wrong")
        if self.num_unseen:
            lines.append(f"not in the list: {self.num_unseen:,} rows with a label that training never saw")
        return lines


def describe_counts(num_suspects: int, num_wrong: float) -> str:
    """Return a phrase on the number of labels that may be wrong, and on the expected number of those that are."""
    return f"{num_suspects:,} labels may be wrong; about {num_wrong:,.0f} of them are, by estimate"


def require_exclusive_classes(targets: Iterable[Target]) -> None:
    """Raise UsageError if no target's answer is one of several classes."""
    if not any(has_exclusive_classes(target) for target in targets):
        raise UsageError("wrong labels are looked for where each label is one of several classes; this model has none")


def find_suspects(predictions: Predictions) -> Suspects:
    """Return the rows whose label may be wrong, of one target whose answer is one of several classes.

    A row is listed if the model answers another class, and its label is wrong with a probability of at least
    MIN_WRONG_PROBABILITY.
    """
    target = predictions.target
    assert isinstance(target, Classes)
    class_index = {name: index for index, name in enumerate(target.classes)}
    # The model has no probability of a label that training never saw.
    seen_rows = np.array([row for row, label in enumerate(predictions.labels) if label in class_index], np.int64)
    labels = np.array([class_index[predictions.labels[row]] for row in seen_rows], np.int64)
    num_unseen = len(predictions.labels) - len(seen_rows)
    if not len(seen_rows) or len(class_index) < 2:
        return Suspects([], num_unseen)
    logits = predictions.outputs[torch.from_numpy(seen_rows)].double()
    if not _has_learnt(logits, labels):
        return Suspects([], num_unseen, is_too_weak=True)
    suspects = _suspects_of_target(predictions, target.classes, seen_rows, labels)
    return join_suspects([Suspects(list(suspects), num_unseen)])


def doubted_labels(predictions: Predictions) -> list[Suspect]:
    """Return the rows whose label a page calls doubtful, the worst first.

    They are those that `Suspects` recommends to check, and of which the model is sure enough to doubt: it is right on at least
    MIN_RIGHT_TO_DOUBT of the rows of which it is as sure. A model that is right on less than MIN_RIGHT of all rows doubts none.
    """
    suspects, target = predictions.suspects, predictions.target
    if not suspects.num_recommended or not isinstance(target, Classes):
        return []
    confidence = target.confidence(predictions.outputs)
    order = np.argsort(-confidence, kind="stable")
    right = target.correctness(predictions.outputs, predictions.labels)[order]
    is_right_enough = np.cumsum(right) >= MIN_RIGHT_TO_DOUBT * np.arange(1, len(right) + 1)
    if right.mean() < MIN_RIGHT or not is_right_enough.any():
        return []
    # The lowest confidence from which on the answers are right often enough.
    threshold = confidence[order][np.flatnonzero(is_right_enough)[-1]]
    recommended = suspects.rows[: suspects.num_recommended]
    return [suspect for suspect in recommended if suspect.answer_probability >= threshold]


def _has_learnt(logits: Tensor, labels: Ints) -> bool:
    """Return whether accuracy or log loss is better, beyond chance, than that of the classes' shares among the labels.

    Without this, all mistakes of a model that guesses would count as labels that may be wrong.
    logits: (n, c). labels: (n,), indices of the true classes.
    """
    true, shares = (
        torch.from_numpy(labels),
        torch.from_numpy(np.bincount(labels, minlength=logits.shape[1]) / len(labels)),
    )
    loss_gain = torch.log_softmax(logits, -1).gather(1, true[:, None]).flatten() - shares[true].log()
    accuracy_gain = (logits.argmax(-1) == true).double() - (shares.argmax() == true).double()
    return any(
        float(gain.mean()) > CHANCE * float(gain.std()) / len(gain) ** 0.5 for gain in (loss_gain, accuracy_gain)
    )


def join_suspects(parts: Sequence[Suspects]) -> Suspects:
    """Return the suspects of several targets as one list, the worst first, with the precision of that list."""
    rows = sorted((row for part in parts for row in part.rows), key=lambda suspect: -suspect.wrong_probability)
    precision = np.cumsum([suspect.wrong_probability for suspect in rows]) / np.arange(1, len(rows) + 1)
    rows = [replace(suspect, precision=float(value)) for suspect, value in zip(rows, precision, strict=True)]
    is_too_weak = any(part.is_too_weak for part in parts)
    return Suspects(rows, sum(part.num_unseen for part in parts), is_too_weak)


def _suspects_of_target(
    predictions: Predictions, classes: Sequence[str], rows: Ints, labels: Ints
) -> Iterator[Suspect]:
    """Yield the rows whose label may be wrong, in the order of the table; `precision` keeps its default value.

    The caller sets `precision`, which depends on the suspects of all targets.
    classes: (c,), in the order of the logits. rows: (n,), indices of the rows with a label that training saw.
    labels: (n,), the indices of these labels among the classes.
    """
    logits = predictions.outputs[torch.from_numpy(rows)].double()
    noise = estimate_label_noise(logits.numpy(), labels)
    wrong_probabilities = wrong_label_probabilities(logits.numpy(), labels, noise)
    probabilities, answers = torch.softmax(logits, dim=-1).numpy(), logits.argmax(dim=-1).numpy()
    for index in np.flatnonzero((answers != labels) & (wrong_probabilities >= MIN_WRONG_PROBABILITY)):
        row, label, answer = int(rows[index]), labels[index], answers[index]
        yield Suspect(
            row,
            *predictions.rows.origin(row),
            predictions.column,
            predictions.input_text(row),
            label=classes[label],
            answer=classes[answer],
            label_probability=float(probabilities[index, label]),
            answer_probability=float(probabilities[index, answer]),
            wrong_probability=float(wrong_probabilities[index]),
        )
