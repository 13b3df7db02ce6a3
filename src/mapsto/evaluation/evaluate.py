"""Scores of a model on labelled rows, each with its number of items and a 95 % interval, beside a constant baseline.

The baseline ignores its input and always gives the most frequent answer, or the mean. A target with one answer per row
is scored over rows. A target read at tokens, such as masked tokens or generated pictures, is scored over tokens. For
generated values, a few random outputs are kept for the report.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mapsto.data.duplicates.overlap import Overlap, find_overlap
from mapsto.data.encoding import EncodedRows, encode_to_answer
from mapsto.data.examples import Examples, make_examples
from mapsto.data.grouping.row_groups import RowGroups, describe_intervals, find_independent_groups
from mapsto.data.rows import Rows, load_rows, require_readable, set_aside_unlabelled
from mapsto.data.table import Table
from mapsto.errors import UsageError
from mapsto.evaluation import matching
from mapsto.evaluation.linear_baseline import BaselineComparison
from mapsto.evaluation.suspects import Suspects, find_suspects, join_suspects, require_exclusive_classes
from mapsto.evaluation.training_file import compare_with_training_file
from mapsto.evaluation.verification import describe_trials
from mapsto.inference.forward import (
    Report,
    build_value,
    collect_evidence,
    make_questions,
    question_examples,
    token_outputs,
)
from mapsto.inference.row_outputs import row_outputs
from mapsto.metrics.intervals import Floats, Score, to_json, with_intervals
from mapsto.model.mapping import Mapping
from mapsto.options import STOP_AT_BAD_ROWS, RowPolicy
from mapsto.progress import Progress
from mapsto.report.results import ResultTable, Tabular, score_records, score_table
from mapsto.sequence.batch import Example
from mapsto.sequence.corruption import Corruption, make_generator
from mapsto.sequence.piece import Ints
from mapsto.task.arrow import Arrow
from mapsto.task.generation import Generated
from mapsto.task.target import Metric, Target
from mapsto.task.target_capabilities import (
    Classes,
    Composed,
    Confident,
    Free,
    Located,
    Reconstruction,
    has_exclusive_classes,
)

NUM_SAMPLES = 8  # rows whose outputs are kept for the report


@dataclass(frozen=True)
class Predictions:
    """A target's outputs (n, …) for n rows, together with the labels of these rows.

    prefix: the target's column and a colon, put before the names of its scores; empty if the model has one target.
    port: index of the target in the arrow.
    groups: the groups of rows that intervals resample; None to resample rows.
    """

    arrow: Arrow
    target: Target
    rows: Rows
    labels: list[Any]
    outputs: Tensor
    prefix: str = ""
    port: int = 0
    groups: RowGroups | None = None

    @property
    def group_numbers(self) -> Ints | None:
        """The number of the group of each row, (n,); None if intervals resample rows."""
        return None if self.groups is None else self.groups.numbers

    @property
    def column(self) -> str:
        """Return the column of the labels."""
        port = self.arrow.targets[self.port]
        return port.column or port.kind

    @cached_property
    def suspects(self) -> Suspects:
        """The rows whose label may be wrong; none if answers are not one of several classes."""
        return find_suspects(self) if has_exclusive_classes(self.target) else Suspects([], 0)

    def input_text(self, row: int) -> str:
        """Return the values that the model read in a row, as text; each source stands on a line of its own."""
        return "\n".join(str(values[row]) for values in self.rows.sources)

    @cached_property
    def unsupported_parts(self) -> list[tuple[str, ...]]:
        """The facts of each generated answer that its source does not hold; see `Generated.unsupported_parts`."""
        assert isinstance(self.target, Generated)
        sources = [self.input_text(row) for row in range(len(self.labels))]
        return self.target.unsupported_parts(self.outputs, self.labels, sources)

    def calibration(self) -> tuple[Floats, Floats] | None:
        """Return (confidence, correctness) of the answers, (n,) each; None if the answers have no probability to be right."""
        # The probability of a text is none of being right.
        if not isinstance(self.target, Confident) or isinstance(self.target, Free):
            return None
        confidence = self.target.confidence(self.outputs)
        return confidence, self.target.correctness(self.outputs, self.labels).astype(np.float64)


@dataclass(frozen=True)
class OutputSample:
    """One random row shown in the report: its input, the value that the target generated, and its label.

    answer: the generated value, such as a picture.
    """

    target: Located
    file: str
    row: int
    input: Any
    answer: Any
    label: Any


@dataclass(frozen=True, repr=False)
class Evaluation(Tabular):
    """Scores of a model on labelled rows.

    scores: by name of the metric; with several targets, the name begins with the target's column.
    baseline: scores of the best constant answer, which ignores the input, by the same names.
    confusion: confusion[label][answer] is the number of rows with this label that got this answer.
    predictions: outputs and labels of each target with one answer per row, for the error analysis.
    samples: NUM_SAMPLES random rows for each target that generates a value, such as a picture.
    overlap: the scored rows that the model or one of its starting models was fitted to; on them scores are too good.
    baseline_name: words for the baseline. has_groups: whether intervals resample groups of rows.
    linear: the first target's scores beside those of a linear model; None where there are none, as a note says.
    differences: from another model on the same rows, see evaluation/paired.py.
    """

    num_rows: int
    scores: dict[str, Score]
    baseline: dict[str, Score] = field(default_factory=dict)
    confusion: dict[str, dict[str, int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    predictions: list[Predictions] = field(default_factory=list, repr=False)
    samples: list[OutputSample] = field(default_factory=list, repr=False)
    overlap: Overlap = Overlap()
    baseline_name: str = "best constant answer"
    has_groups: bool = False
    linear: BaselineComparison | None = None
    differences: Sequence[Any] = ()

    def beside_linear_model(self, comparison: BaselineComparison | str | None) -> Evaluation:
        """Return the evaluation with the scores of a linear model, or the reason for which there are none, among its notes."""
        if comparison is None:
            return self
        linear = comparison if isinstance(comparison, BaselineComparison) else None
        return replace(self, linear=linear, notes=[*self.notes, str(comparison)])

    def beside(self, differences: Sequence[Any]) -> Evaluation:
        """Return the evaluation with its differences from another model on the same rows."""
        return replace(self, differences=differences)

    def suspects(self) -> Suspects:
        """Return the rows whose label may be wrong, the worst first, with estimated probabilities.

        Raises UsageError if no answer of the model is one of several classes.
        """
        require_exclusive_classes(predictions.target for predictions in self.predictions)
        return join_suspects([predictions.suspects for predictions in self.predictions])

    def table(self) -> ResultTable:
        """Return the scores beside their baselines, and the notes."""
        title = f"{self.num_rows:,} rows{self.overlap.mark}"
        return score_table(
            title, self.scores, self.baseline, self.baseline_name, [*map(str, self.differences), *self.notes]
        )

    def records(self) -> list[dict[str, Any]]:
        """Return a row for each score."""
        return score_records(self.scores, self.baseline)

    def record(self) -> dict[str, Any]:
        """Return everything but predictions and samples as a JSON-serialisable dict."""
        names = ("scores", "baseline", "confusion", "notes", "overlap")
        # The file format has these two entries, but predictions and samples are not written.
        record = {"rows": self.num_rows, **{name: getattr(self, name) for name in names}, "answers": [], "made": []}
        record |= {"differences": list(self.differences)} if self.differences else {}
        # Scores may be infinite or NaN, which JSON does not have.
        json_record: dict[str, Any] = to_json(record)
        return json_record


def evaluate(
    mapping: Mapping,
    table: Table,
    device: torch.device,
    policy: RowPolicy = STOP_AT_BAD_ROWS,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Score every target of a model on the rows of `table`.

    policy: what happens to rows that cannot be read or have no label, and which rows belong together.
    seed: seeds the random choice of masked tokens.

    The notes of a model opened from the folder of a fit have the score of the linear baseline, fitted to its training file.

    Raises DataError for unreadable rows, UsageError for a model without targets.
    """
    if not mapping.targets:
        raise UsageError("this model has no answers to score; fit it to a table with labels first")
    if mapping.arrow.symmetric:
        return evaluate_pairs(mapping, table, device, policy)
    table, unlabelled = set_aside_unlabelled(mapping.arrow, table, policy.unlabelled)
    rows = load_rows(mapping.arrow, table)
    rows = replace(
        rows,
        targets=[
            list(map(target.recognise, answers)) if isinstance(target, Classes) else answers
            for target, answers in zip(mapping.targets, rows.targets, strict=True)
        ],
    )
    arrow = rows.arrow
    faults = require_readable(rows, policy)
    encoded = encode_to_answer(rows, mapping.sources, mapping.targets, mapping.config.max_tokens)
    overlap = find_overlap(mapping.row_filters, rows)
    notes = [overlap.warning] if overlap.warning else []
    notes += [] if unlabelled is None else [f"{len(unlabelled):,} rows without a label are not scored"]
    groups = find_independent_groups(rows, policy.group)
    notes += describe_intervals(rows, policy.group)
    notes += [f"left out, as it cannot be read: {fault}" for fault in faults]
    if encoded.num_cut:
        notes.append(
            f"{len(encoded.long_rows)} rows are longer than the model takes; {encoded.num_cut:,} tokens were cut off"
        )
    row_ports = mapping.ports_per_example
    token_ports = [port for port in range(len(mapping.targets)) if port not in row_ports]
    # Targets read at tokens and those read once an example need a forward pass each.
    num_passes = bool(token_ports) + bool(row_ports)
    on_scored = _report_rows(progress or Progress(), len(encoded.row_indices) * num_passes, len(rows))
    scores: dict[str, Score] = {}
    if token_ports:
        examples = _labelled_examples(mapping, arrow, rows, encoded, token_ports, seed)
        scores |= score_examples(mapping, examples, rows, device, on_scored, policy.group)
    evaluation = Evaluation(len(rows), scores, notes=notes, overlap=overlap, has_groups=groups is not None)
    # All targets with one answer per example share one forward pass.
    outputs_by_port = row_outputs(mapping, question_examples(mapping, encoded), len(rows), row_ports, device, on_scored)
    for port, outputs in zip(row_ports, outputs_by_port, strict=True):
        prefix = f"{arrow.targets[port].column}: " if len(mapping.targets) > 1 else ""
        predictions = Predictions(arrow, mapping.targets[port], rows, rows.targets[port], outputs, prefix, port, groups)
        _add_predictions(evaluation, predictions)
    # Beside rows that were trained on, a linear model that was fitted to them has no meaning either.
    if evaluation.predictions and not overlap:
        say = (progress or Progress()).say
        outputs = evaluation.predictions[0].outputs
        evaluation = evaluation.beside_linear_model(
            compare_with_training_file(mapping, rows, outputs, policy.group, say)
        )
    for port in token_ports:
        if isinstance(mapping.targets[port], Located):
            evaluation.samples.extend(_sample_outputs(mapping, rows, encoded, port, device))
    return evaluation


def evaluate_pairs(
    mapping: Mapping, table: Table, device: torch.device, policy: RowPolicy = STOP_AT_BAD_ROWS
) -> Evaluation:
    """Score a model that matches pairs on those of `table`, beside a ranking without a model. policy: as for `evaluate`."""
    rows, faults = matching.load_pairs(mapping.arrow, table, policy)
    overlap = find_overlap(mapping.row_filters, rows)
    notes = [overlap.warning] if overlap.warning else []
    notes += describe_intervals(rows, policy.group) + describe_trials(rows, policy.group)
    notes += [f"left out, as it cannot be read: {fault}" for fault in faults]
    encoded = matching.encode_pairs(mapping, rows)
    if encoded.num_cut:
        notes.append(
            f"{len(encoded.long_rows):,} rows have values longer than the model takes; {encoded.num_cut:,} tokens were cut off"
        )
    return Evaluation(
        len(rows),
        matching.score_pairs(mapping, rows, encoded, device, policy.group),
        matching.score_baseline(rows, policy.group),
        notes=notes,
        overlap=overlap,
        baseline_name=matching.ranker_name(rows.arrow),
        has_groups=find_independent_groups(rows, policy.group) is not None,
    )


def _add_predictions(evaluation: Evaluation, predictions: Predictions) -> None:
    """Score one target's predictions; add the scores, the baseline, the confusion and notes to the evaluation."""
    target, labels, prefix = predictions.target, predictions.labels, predictions.prefix
    metrics = target.metrics(predictions.outputs, labels)
    if isinstance(target, Generated):
        sources = [predictions.input_text(row) for row in range(len(labels))]
        metrics |= target.source_metrics(predictions.outputs, labels, sources)
    if isinstance(target, Free):
        evaluation.notes.append(target.describe_metrics(labels))
    if isinstance(target, Generated) and (num_unended := target.num_unended(predictions.outputs)):
        limit = f"{num_unended:,} of {len(labels):,} answers reached the limit of {target.longest:,} tokens"
        evaluation.notes.append(f"{prefix}{limit} before they ended")
    scores = with_intervals(metrics, predictions.group_numbers)
    baseline = with_intervals(target.baseline(labels), predictions.group_numbers)
    evaluation.scores.update({f"{prefix}{name}": score for name, score in scores.items()})
    evaluation.baseline.update({f"{prefix}{name}": score for name, score in baseline.items()})
    if isinstance(target, Classes):
        confusion = target.confusion(predictions.outputs, labels)
        evaluation.confusion.update({f"{prefix}{label}": counts for label, counts in confusion.items()})
    if isinstance(target, Confident):
        evaluation.notes.extend(target.notes(labels))
    evaluation.predictions.append(predictions)


def _report_rows(progress: Progress, num_examples: int, num_rows: int) -> Report:
    """Return a function that reports progress in rows, to be called after each batch with its number of examples.

    num_examples: number of examples over all forward passes. A long row may be several examples, and rows need two
        passes if the model has targets read at tokens and targets read once per example.
    num_rows: number of rows.
    """
    num_scored = 0

    def on_scored(count: int) -> None:
        nonlocal num_scored
        num_scored += count
        progress.rows("scored", num_scored * num_rows // num_examples, num_rows)

    return on_scored


def predict_rows(mapping: Mapping, arrow: Arrow, rows: Rows, port: int, device: torch.device) -> Tensor:
    """Return the outputs of target `port` for every row, (n, …), in the order of the rows.

    For a target that is read at tokens, return its evidence instead, which is the part of its outputs that metrics
    need. For pairs return the rank of the best right candidate of each row's query among those of all rows, (n,).
    """
    if arrow.symmetric:
        pairs = matching.pairs_of(rows)
        return matching.row_ranks(
            *matching.rank_pairs(mapping, pairs, matching.encode_pairs(mapping, pairs), device)[:2]
        )
    encoded = encode_to_answer(rows, mapping.sources, mapping.targets, mapping.config.max_tokens)
    if mapping.targets[port].readout.per_example:
        (outputs,) = row_outputs(mapping, question_examples(mapping, encoded), len(rows), [port], device)
        return outputs
    examples = _labelled_examples(mapping, arrow, rows, encoded, [port], 0)
    port_evidence = collect_evidence(mapping, scoring_examples(examples), device)[port]
    # Packing changes the order of the rows.
    return port_evidence.evidence[np.argsort(port_evidence.rows)]


def _labelled_examples(
    mapping: Mapping, arrow: Arrow, rows: Rows, encoded: EncodedRows, ports: Sequence[int], seed: int
) -> Examples:
    """Build examples from encoded rows, with the labels of the target ports `ports` and of no other port.

    seed: seeds the random choice of masked tokens.
    """
    targets = [labels if port in ports else [] for port, labels in enumerate(rows.targets)]
    restoring = [mapping.targets[port] for port in ports if arrow.targets[port].restores is not None]
    # Scored as the model was trained: with the same share and shape of masked tokens.
    corruptions = (target.corruption for target in restoring if isinstance(target, Reconstruction))
    return make_examples(
        replace(rows, targets=targets),
        encoded,
        mapping.sources,
        mapping.targets,
        seed,
        next(corruptions, None) or Corruption(),
    )


def _sample_outputs(
    mapping: Mapping, rows: Rows, encoded: EncodedRows, port: int, device: torch.device
) -> list[OutputSample]:
    """Return input, generated output and label of NUM_SAMPLES random rows for target `port`, the same rows at every call."""
    target, num_rows = mapping.targets[port], len(rows)
    assert isinstance(target, Located)
    # Sorted, so that samples are shown in the order of the table.
    row_indices = np.sort(make_generator(0, num_rows, 0).permutation(num_rows)[:NUM_SAMPLES]).tolist()
    # Of a row that is read in windows the first one.
    pieces = {row: encoded.pieces[int(np.searchsorted(encoded.row_indices, row))] for row in row_indices}
    examples = [Example(pieces[row], make_questions(mapping, pieces[row]), row) for row in row_indices]
    outputs = dict(token_outputs(mapping, examples, port, device))
    # Exactly one source has the kind that the answers lie in.
    (source_port,) = (i for i, source in enumerate(mapping.arrow.sources) if source.kind == target.lies_in)
    return [
        OutputSample(
            target,
            *rows.origin(row),
            input=rows.sources[source_port][row],
            answer=build_value(target, pieces[row], outputs[row]),
            label=rows.targets[port][row],
        )
        for row in row_indices
        if row in outputs
    ]


def scoring_examples(examples: Examples) -> Iterator[Example]:
    """Yield every example as it is scored; if the arrow hides parts of a source (`~`), with some of its tokens hidden.

    The share of hidden tokens is that at the end of training, as it may change during training. An example's hidden
    tokens are the same at every call.
    """
    return (examples.example(row, 0, 1.0) for row in range(len(examples)))


def score_examples(
    mapping: Mapping,
    examples: Examples,
    rows: Rows | None,
    device: torch.device,
    done: Report = lambda count: None,
    group: str | None = None,
) -> dict[str, Score]:
    """Return the scores of every target on examples that carry labels, by name of the metric.

    rows: the rows with the labels; may be None if all targets restore a masked (`~`) source, which is its own label.
    done: called after each batch with its number of examples. group: `--group`, as for `evaluate`.
    """
    scores: dict[str, Score] = {}
    groups = None if rows is None else find_independent_groups(rows, group)
    for metrics in metrics_of_examples(mapping, examples, rows, device, done):
        numbers = None if groups is None or metrics.rows is None else groups.numbers[metrics.rows]
        scores |= with_intervals(metrics.by_name, numbers)
    return scores


@dataclass(frozen=True)
class PortMetrics:
    """The metrics of one target.

    by_name: (function, *arrays) of each metric, as `Target.metrics` returns them, under the names that scores are printed by.
    rows: the row of each item of the arrays; None where the rows are not known.
    """

    by_name: dict[str, Metric]
    rows: Ints | None


def metrics_of_examples(
    mapping: Mapping, examples: Examples, rows: Rows | None, device: torch.device, done: Report = lambda count: None
) -> Iterator[PortMetrics]:
    """Yield the metrics of each target on examples that carry labels, without their intervals, which take long.

    rows, done: as for `score_examples`.
    """

    def named(port: int, metrics: dict[str, Metric], items: Ints | None) -> PortMetrics:
        prefix = f"{mapping.arrow.targets[port].column}: " if len(mapping.targets) > 1 else ""
        return PortMetrics({f"{prefix}{name}": metric for name, metric in metrics.items()}, items)

    by_row = _ports_by_row(mapping, examples) if rows is not None else []
    if by_row:
        assert rows is not None and examples.answers is not None
        row_of = examples.answers.row_indices
        # Of examples that are windows of a row, all together give its answer.
        windows = (replace(example, row=int(row_of[example.row])) for example in scoring_examples(examples))
        for port, outputs in zip(by_row, row_outputs(mapping, windows, len(rows), by_row, device), strict=True):
            yield named(port, mapping.targets[port].metrics(outputs, rows.targets[port]), np.arange(len(rows)))
    for port, port_evidence in collect_evidence(mapping, scoring_examples(examples), device, done).items():
        if port in by_row:
            continue
        labels, items = port_evidence.values.tolist(), None
        if examples.answers is not None:
            items = examples.answers.row_indices[port_evidence.rows]
        if mapping.arrow.targets[port].restores is None:
            assert rows is not None and items is not None
            # Metrics need the labels as the table has them; a restored source has its tokens as labels.
            labels = [rows.targets[port][row] for row in items]
        yield named(port, mapping.targets[port].metrics(port_evidence.evidence, labels), items)


def _ports_by_row(mapping: Mapping, examples: Examples) -> list[int]:
    """Return the target ports that are scored by row: those of a composed target, whose long rows are several examples, of a
    generated one, and all beside these; none if there are none of both.
    """
    by_row = any(isinstance(target, Composed | Generated) for target in mapping.targets)
    if examples.answers is None or not by_row:
        return []
    return [port for port in mapping.ports_per_example if examples.answers.has_values[port]]
