"""Error analysis of one target's predictions: slices, selective prediction, mistakes, and labels that may be wrong.

A slice is all rows with a common input length, class or column value. Each slice is tested against all other rows, and
the p-values are adjusted for the number of slices (Holm 1979). Selective prediction answers only above a confidence
threshold. Labels that may be wrong are the first of `suspects`.
Legend of shapes: n rows.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from collections.abc import Mapping as Dict
from dataclasses import dataclass, field
from decimal import ROUND_FLOOR, Decimal
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mapsto import kinds
from mapsto.data.formats.columns import UnnamedColumn
from mapsto.errors import UsageError, place, shorten
from mapsto.evaluation.evaluate import Evaluation, Predictions
from mapsto.evaluation.suspects import describe_counts
from mapsto.explain.attribution import Attribution, Explainer
from mapsto.metrics.intervals import Floats, Score, mean_score, with_interval
from mapsto.model.mapping import Mapping
from mapsto.sequence.corruption import make_generator
from mapsto.sequence.piece import Ints
from mapsto.task.source_capabilities import Describable
from mapsto.task.target_capabilities import (
    Attributable,
    Classes,
    Comparable,
    Composed,
    Confident,
    Extracted,
    Free,
    has_exclusive_classes,
    located_port,
)

Bools = NDArray[np.bool_]

# Shares of the rows that are answered in the table of selective prediction.
COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)

# Rows shown of each list of cases: on the page, on the terminal, and of the random ones.
MAX_CASES, MAX_CASES_ON_TERMINAL, NUM_RANDOM_CASES = 20, 5, 8

MAX_ANSWER_LENGTH = 40  # characters of an answer on the terminal

MIN_SLICE_SIZE = 10  # smaller slices are not tested, nor those that leave fewer rows out
MAX_VALUES_PER_COLUMN = (
    20  # slices of a column, its most frequent values; numbers with more values are cut into quarters
)
SIGNIFICANCE_LEVEL = 0.05


@dataclass(frozen=True)
class Slice:
    """Rows with a property in common, such as "true label is sports", and their mean score.

    name: the property in words.
    rest_mean: mean score of all other rows.
    adjusted_p_value: p-value of the difference, adjusted for the number of slices tested (Holm 1979).
    """

    name: str
    score: Score
    rest_mean: float = field(metadata={"key": "others"})
    adjusted_p_value: float = field(metadata={"key": "chance"})

    @property
    def is_significant(self) -> bool:
        """Return whether the adjusted p-value of the slice's difference from the other rows is below SIGNIFICANCE_LEVEL."""
        return self.adjusted_p_value < SIGNIFICANCE_LEVEL


@dataclass(frozen=True)
class CoveragePoint:
    """The score with selective prediction, where only answers with a confidence of at least `threshold` are given.

    coverage: share of the rows that are answered.
    score: mean score of the answered rows.
    """

    threshold: float
    coverage: float
    score: Score

    @property
    def threshold_text(self) -> str:
        """Return the threshold as a decimal that `predict --min-confidence` parses to exactly the same number."""
        return np.format_float_positional(self.threshold, min_digits=3)


@dataclass(frozen=True)
class Case:
    """One row shown in the report, with its label and the model's answer.

    index: index of the row among the predictions.
    input: the values that the model read, as text.
    score: the row's score by the analysis' metric. parts: attribution of the answer to parts of the input; empty where it was
        not computed.
    """

    index: int = field(metadata={"key": "at"})
    file: str
    row: int
    input: str = field(metadata={"key": "read"})
    label: str = field(metadata={"key": "truth"})
    answer: str
    confidence: float
    score: float
    parts: list[Attribution]

    @property
    def confidence_percent(self) -> str:
        """Return the confidence as text in percent, such as "98 %"."""
        return f"{100 * self.confidence:.0f} %"

    def __str__(self) -> str:
        value = "" if self.input == self.file else f": {shorten(self.input)}"
        label, answer = (shorten(text, MAX_ANSWER_LENGTH) for text in (self.label, self.answer))
        answer = f"{label!r} answered as {answer!r} ({self.confidence_percent})"
        return f"{place(self.file, self.row)}: {answer}{value}"


@dataclass(frozen=True)
class ErrorAnalysis:
    """The error analysis of one target.

    metric: name of the score that each row has, such as "accuracy".
    slices: the tested slices, in ascending order of p-value.
    coverage_curve: selective prediction at rising thresholds; empty for answers without a confidence.
    mistakes: rows with a wrong answer, the most confident first; of generated answers those with the lowest score.
    mistakes_by: what they are ordered by, "confidence" or the metric.
    label_issues: rows whose label may be wrong, the worst first, at most MAX_CASES.
    num_label_issues: their number without that limit. num_wrong_labels: how many of these are expected to be wrong.
    random_cases: a few random rows, right or wrong.
    """

    metric: str = field(metadata={"key": "gain"})
    slices: list[Slice]
    coverage_curve: list[CoveragePoint] = field(metadata={"key": "kept"})
    mistakes: list[Case]
    mistakes_by: str
    label_issues: list[Case] = field(metadata={"key": "suspects"})
    num_label_issues: int = field(metadata={"key": "num_suspects"})
    num_wrong_labels: float
    random_cases: list[Case] = field(metadata={"key": "examples"})

    def lines(self) -> list[str]:
        """Return the lines to print in the terminal: significant slices, selective prediction, mistakes, doubtful labels."""
        lines = []
        if significant := [part for part in self.slices if part.is_significant]:
            lines += ["", f"slices that differ significantly ({len(self.slices)} tested, p-values adjusted for that):"]
            lines += [
                f"  {part.name:<40} {part.score.percent}, other rows {100 * part.rest_mean:.1f} %"
                for part in significant[:10]
            ]
        if self.coverage_curve:
            lines += ["", "answering only when confident (predict --min-confidence):"]
            for point in self.coverage_curve:
                coverage = f"{100 * point.coverage:5.1f} % of the rows"
                lines.append(f"  confidence from {point.threshold_text}: {coverage}, {point.score.percent}")
        is_by_score = self.mistakes_by == self.metric
        title = f"answers with the lowest {self.metric}" if is_by_score else "most confident mistakes"
        case_lists = (
            (title, self.mistakes),
            (f"{describe_counts(self.num_label_issues, self.num_wrong_labels)} (--suspects)", self.label_issues),
        )
        for title, cases in case_lists:
            if cases:
                lines += ["", f"{title}:"]
                lines += [
                    f"  {f'{100 * case.score:.0f} %  ' if is_by_score else ''}{case}"
                    for case in cases[:MAX_CASES_ON_TERMINAL]
                ]
        return lines


def analyse_evaluation(
    evaluation: Evaluation, mapping: Mapping | None, device: torch.device
) -> list[tuple[Predictions, ErrorAnalysis]]:
    """Return the predictions and the error analysis of every target that has a score for each row.

    mapping: the evaluated model, used to attribute the answers of the shown rows to parts of their input; None skips
        the attribution.
    """
    analyses = []
    for predictions in evaluation.predictions:
        parts = {} if mapping is None else explain_cases(predictions, mapping, device)
        if (analysis := analyse_errors(predictions, parts)) is not None:
            analyses.append((predictions, analysis))
    return analyses


def explain_cases(predictions: Predictions, mapping: Mapping, device: torch.device) -> dict[int, list[Attribution]]:
    """Return the attributions of the most confident mistakes and of the random cases, by row index.

    The result is empty unless the predictions are of the model's first target whose answers can be attributed.
    """
    first = next((target for target in mapping.targets if isinstance(target, Attributable)), None)
    if first is None or first.state() != predictions.target.state():
        return {}  # an Explainer explains the first target only
    if isinstance(first, Extracted):
        return {}  # the page outlines its answers in the values instead
    # A row may be in both lists, and is explained once.
    rows = np.unique(np.concatenate([_worst_mistakes(predictions), _random_rows(predictions)]))
    try:
        # A copy, as the explainer changes the precision of its model.
        explainer = Explainer(copy.deepcopy(mapping), device)
        parts = [explanation.parts for explanation in explainer.explain(predictions.rows.select(rows))]
    except UsageError:
        return {}
    return dict(zip(rows.tolist(), parts, strict=True))


def analyse_errors(predictions: Predictions, parts: Dict[int, list[Attribution]] | None = None) -> ErrorAnalysis | None:
    """Return the error analysis of one target's predictions; None if the target has no score for each row.

    parts: attributions by row index, from `explain_cases`.
    """
    target, parts = predictions.target, parts or {}
    if not isinstance(target, Comparable):
        return None
    row_scores = target.per_item_metric(predictions.outputs, predictions.labels)
    if row_scores is None:
        return None
    scores = row_scores.astype(np.float64)
    confidence = target.confidence(predictions.outputs) if isinstance(target, Confident) else None
    suspects = predictions.suspects
    first_suspects = np.array([suspect.index for suspect in suspects.rows[:MAX_CASES]], np.int64)
    return ErrorAnalysis(
        target.primary_metric,
        _slices(predictions, scores),
        [] if confidence is None else _coverage_curve(scores, confidence, predictions.group_numbers),
        _cases(predictions, _worst_mistakes(predictions), scores, parts),
        target.primary_metric if isinstance(target, Free) else "confidence",
        _cases(predictions, first_suspects, scores, {}),
        len(suspects.rows),
        suspects.num_wrong,
        _cases(predictions, _random_rows(predictions), scores, parts),
    )


def _coverage_curve(scores: Floats, confidence: Floats, groups: Ints | None) -> list[CoveragePoint]:
    """Return a point of selective prediction for each share in COVERAGES, at the threshold that answers this share.

    scores, confidence: (n,), of every row. groups: (n,), of rows that intervals resample; None for single rows.
    A point that would answer the same rows as the one before is left out.
    """
    points: list[CoveragePoint] = []
    for coverage in COVERAGES:
        threshold = _round_down(float(np.sort(confidence)[::-1][max(1, round(coverage * len(confidence))) - 1]))
        # Equal confidences and rounding may answer more rows than `coverage`, so the true share is computed.
        is_answered = confidence >= threshold
        score = _mean_of(scores, is_answered, groups)
        point = CoveragePoint(threshold, float(is_answered.mean()), score)
        # Many equal confidences give the same threshold twice.
        if not points or point.coverage < points[-1].coverage:
            points.append(point)
    return points


def _mean_of(scores: Floats, is_inside: Bools, groups: Ints | None) -> Score:
    """Return the mean score of the rows that are inside, with its interval over these rows or their groups (n,)."""
    return with_interval(mean_score, scores[is_inside], groups=None if groups is None else groups[is_inside])


def _round_down(threshold: float) -> float:
    """Round a threshold down to three digits, or to six from 0.99 on.

    A short number can be typed, and rounding down excludes no row.
    """
    digits = 3 if threshold < 0.99 else 6
    return float(Decimal(threshold).quantize(Decimal(1).scaleb(-digits), ROUND_FLOOR))


def _slices(predictions: Predictions, scores: Floats) -> list[Slice]:
    """Test every candidate slice against the other rows, and return the slices in ascending order of p-value.

    Slices with fewer than MIN_SLICE_SIZE rows inside or outside are not tested.
    scores: (n,), the score of every row.
    """
    candidates = [
        (name, is_inside)
        for name, is_inside in _candidate_slices(predictions)
        if MIN_SLICE_SIZE <= is_inside.sum() <= len(is_inside) - MIN_SLICE_SIZE
    ]
    # All slices count as tests, so that the adjusted p-values are honest about how many were tried.
    p_values = np.array([_p_value(scores[is_inside], scores[~is_inside]) for _, is_inside in candidates])
    slices = [
        Slice(
            name,
            _mean_of(scores, is_inside, predictions.group_numbers),
            float(scores[~is_inside].mean()),
            float(p_value),
        )
        for (name, is_inside), p_value in zip(candidates, _adjust_p_values(p_values), strict=True)
    ]
    return sorted(slices, key=lambda part: (part.adjusted_p_value, part.score.value))


def _adjust_p_values(p_values: Floats) -> Floats:
    """Return the p-values adjusted for multiple testing by Holm's method (1979), in the same order."""
    adjusted = np.empty(len(p_values))
    order = np.argsort(p_values, kind="stable")
    # The smallest p-value counts times the number of tests, the next times one less; none below the one before it.
    multiplied = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(multiplied))
    return adjusted


def _candidate_slices(predictions: Predictions) -> Iterator[tuple[str, Bools]]:
    """Yield (name, membership mask (n,)) of each slice to test.

    Slices are by size of the input (such as its number of characters), by true class, and by the values of each column
    that the model neither reads nor answers.
    """
    rows = predictions.rows
    for port, values in zip(predictions.arrow.sources, rows.sources, strict=True):
        kind = kinds.source(port.kind)
        if issubclass(kind, Describable):
            sizes = np.array([kind.size(value) for value in values])
            yield from _quarters(f"{kind.size_unit} of {port.column}", sizes)
    yield from _class_slices(predictions)
    # Columns that the model uses were sliced above, by size and by class.
    model_columns = {port.column for port in (*predictions.arrow.sources, *predictions.arrow.targets)}
    for column in rows.table.columns:
        if column in model_columns or isinstance(column, UnnamedColumn):
            continue
        cells = [rows.table.column(column)[int(row)] for row in rows.indices]
        yield f"{column} is blank", np.array([cell is None for cell in cells])
        texts = np.array(["" if cell is None else str(cell) for cell in cells])
        counts = Counter(texts[texts != ""].tolist())
        # Few different numbers are categories, such as stars.
        if len(counts) > MAX_VALUES_PER_COLUMN and (numbers := _parse_numbers(cells)) is not None:
            yield from _quarters(column, numbers)
        else:
            # Rare values of a column with many values would be too small to test.
            for value, _ in counts.most_common(MAX_VALUES_PER_COLUMN):
                yield f"{column} is {shorten(value, 30)}", texts == value


def _class_slices(predictions: Predictions) -> Iterator[tuple[str, Bools]]:
    """Yield (name, membership mask (n,)) of the rows of each true class.

    The last slice joins the rows of all classes with fewer than MIN_SLICE_SIZE rows, which are too small to test alone.
    """
    target = predictions.target
    if not isinstance(target, Classes):
        return
    # A row may have several classes, so slices of classes may overlap.
    row_classes = [set(target.class_names(label)) for label in predictions.labels]
    counts = Counter(name for names in row_classes for name in names)
    verb = "label is" if has_exclusive_classes(target) else "labels contain"
    for name in sorted(counts):
        yield f"true {verb} {name}", np.array([name in names for names in row_classes])
    rare = {name for name, count in counts.items() if count < MIN_SLICE_SIZE}
    yield f"true {verb} one of {len(rare)} rare classes", np.array([bool(rare & names) for names in row_classes])


def _parse_numbers(cells: Sequence[object]) -> Floats | None:
    """Return the cells of a column as numbers (n,), blank ones as NaN; None if some cells are not finite numbers.

    Texts such as "3.5" count as numbers, since a CSV file has no others.
    """
    try:
        numbers = np.array([np.nan if cell is None else float(cell) for cell in cells])  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return None if np.isinf(numbers).any() else numbers


def _quarters(name: str, values: NDArray[Any]) -> Iterator[tuple[str, Bools]]:
    """Yield (name, membership mask (n,)) of up to four slices, between the quartiles of the numbers `values` (n,).

    name: what the numbers are, for the names of the slices.
    """
    # Equal quartiles merge, where many rows have the same value.
    # Blank cells are NaN, and belong to no quarter.
    edges = np.unique(np.nanquantile(values, [0, 0.25, 0.5, 0.75, 1]))
    for index, (low, high) in enumerate(pairwise(edges.tolist())):
        is_inside = (values >= low if index == 0 else values > low) & (values <= high)
        yield f"{name} {'from' if index == 0 else 'above'} {low:,g} to {high:,g}", is_inside


def _p_value(scores: Floats, rest_scores: Floats) -> float:
    """Return the two-sided p-value of the difference in mean score between a slice and all other rows.

    It is from Fisher's exact test if all scores are 0 or 1, else from Welch's t-test.
    """
    from scipy import stats  # a second to import

    # Fisher's test is exact for small slices, where a t-test is not.
    if set(np.unique(np.concatenate([scores, rest_scores]))) <= {0.0, 1.0}:
        # The contingency table of right and wrong answers inside and outside the slice.
        table = [[int(part.sum()), len(part) - int(part.sum())] for part in (scores, rest_scores)]
        return float(stats.fisher_exact(table)[1])
    # The p-value is NaN where all scores are equal, which is no difference.
    return float(np.nan_to_num(stats.ttest_ind(scores, rest_scores, equal_var=False).pvalue, nan=1.0))


def _worst_mistakes(predictions: Predictions) -> Ints:
    """Return the first MAX_CASES of `_rank_mistakes`."""
    return _rank_mistakes(predictions)[:MAX_CASES]


def _rank_mistakes(predictions: Predictions) -> Ints:
    """Return the indices of all rows with a score below 1: those first whose confidence times error is largest.

    Texts are ordered by their error alone, since models are sure of few texts as a whole. The result is empty for
    targets whose answers have no confidence.
    """
    target = predictions.target
    if not isinstance(target, Confident) or not isinstance(target, Comparable):
        return np.zeros(0, np.int64)
    confidence = target.confidence(predictions.outputs)
    scores = target.per_item_metric(predictions.outputs, predictions.labels)
    if scores is None:
        return np.zeros(0, np.int64)
    wrong = np.flatnonzero(scores < 1)
    badness = 1 - scores if isinstance(target, Free) else confidence * (1 - scores)
    # Stable, so that equally confident mistakes keep the order of the table.
    return wrong[np.argsort(-badness[wrong], kind="stable")]


def list_mistakes(predictions: Predictions, analysis: ErrorAnalysis, limit: int) -> tuple[list[Case], int]:
    """Return the first `limit` mistakes as cases, the most confident first, and the number of all mistakes.

    analysis: of these predictions; the attributions of its mistakes are kept.
    """
    rows = _rank_mistakes(predictions)
    target = predictions.target
    if not len(rows) or not isinstance(target, Comparable):
        return [], 0
    scores = target.per_item_metric(predictions.outputs, predictions.labels)
    assert scores is not None
    parts = {case.index: case.parts for case in analysis.mistakes}
    return _cases(predictions, rows[:limit], scores.astype(np.float64), parts), len(rows)


def _random_rows(predictions: Predictions) -> Ints:
    """Return the indices of NUM_RANDOM_CASES random rows in ascending order, the same rows at every call."""
    num_rows = len(predictions.rows)
    return np.sort(make_generator(0, num_rows, 0).permutation(num_rows)[:NUM_RANDOM_CASES])


def _cases(predictions: Predictions, rows: Ints, scores: Floats, parts: Dict[int, list[Attribution]]) -> list[Case]:
    """Return the rows at the indices `rows` as cases to show; an empty list if the answers are no classes and so have
    no confidence.

    scores: (n,), the score of every row. parts: attributions by row index.
    """
    target, table_rows = predictions.target, predictions.rows
    if not len(rows) or not isinstance(target, Confident):
        return []
    confidence = target.confidence(predictions.outputs)
    cases = []
    for row, answer in zip(rows.tolist(), target.decode(predictions.outputs[torch.from_numpy(rows)]), strict=True):
        file, line = table_rows.origin(row)
        value = predictions.input_text(row)
        if isinstance(target, Composed):
            port = located_port(target, [port.kind for port in predictions.arrow.sources])
            target.add_excerpts(answer, table_rows.sources[port][row])
        label, answer_text = target.brief(predictions.labels[row]), target.brief(answer.get(target.kind, ""))
        attributions = parts.get(row, [])
        cases.append(
            Case(row, file, line, value, label, answer_text, float(confidence[row]), float(scores[row]), attributions)
        )
    return cases
