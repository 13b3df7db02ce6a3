"""The verdict on one target of an evaluation in plain English: is it good, where does it fail, what would make it better?

A model is good only beside a baseline. The constant baseline, such as always the majority class, is compared row by row: the
difference of the scores gets a bootstrap interval over the rows, and is significant where this excludes 0.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mapsto.evaluation.error_analysis import ErrorAnalysis, Slice
from mapsto.evaluation.evaluate import Evaluation, Predictions
from mapsto.evaluation.linear_baseline import BaselineComparison
from mapsto.evaluation.report_sections import (
    ANSWER_COLUMN,
    CLASSES,
    CONFIDENT,
    CONFUSION,
    DOUBTFUL,
    LABEL_COLUMN,
    MISTAKES,
    NOTE_COLUMN,
    SLICES,
)
from mapsto.evaluation.suspects import Suspect, doubted_labels
from mapsto.metrics.intervals import Array, Score, bounded, wilson_interval, with_interval
from mapsto.report.page import link
from mapsto.task.item_counts import ItemCounts
from mapsto.task.label_spelling import distinct_spellings
from mapsto.task.target_capabilities import Classes, Comparable, has_exclusive_classes

# Metrics that need other words than their names.
METRIC_NAMES = {
    "agreement": "agreement of the labels (Jaccard index)",
    "found": "agreement of true and answered parts (Jaccard index)",
    "r2": "share of explained variance (R²)",
    "f1": "F1",
    "wer": "word error rate",
    "sentence_chrf": "chrF of a text",
}
# By how much the score must rise before it pays to leave unsure answers to a person.
MIN_IMPROVEMENT = 0.01
# Sentences of advice on the first screen.
MAX_ADVICE = 2
# Rows of a class below which its recall says too little to ask for more labels of it.
MIN_CLASS_SIZE = 10


@dataclass(frozen=True)
class Judgement:
    """The judgement of one target: its scores beside the baselines, and the rows where it fails.

    linear: the scores beside those of a linear model; None for none. index: that of the target.
    """

    evaluation: Evaluation
    predictions: Predictions
    analysis: ErrorAnalysis
    linear: BaselineComparison | None = None
    index: int = 0

    def link(self, anchor: str, text: str, values: Sequence[tuple[str, str]] = ()) -> Any:
        """Return a link to a section of this target; see `page.link`."""
        return link(target_anchor(anchor, self.index), text, values)

    @property
    def score(self) -> Score:
        """The main score with its interval."""
        return self.evaluation.scores[f"{self.predictions.prefix}{self.analysis.metric}"]

    @property
    def baseline(self) -> Score | None:
        """The main score of the best constant answer; None if the target has none."""
        return self.evaluation.baseline.get(f"{self.predictions.prefix}{self.analysis.metric}")

    @cached_property
    def gain(self) -> Score | None:
        """The main score minus that of the best constant answer, with its interval over the rows; None if there is none."""
        target, labels = self.predictions.target, self.predictions.labels
        constant = target.baseline(labels).get(self.analysis.metric)
        if constant is None:
            return None
        model, arrays = _metric(target.metrics(self.predictions.outputs, labels)[self.analysis.metric])
        baseline, baseline_arrays = _metric(constant)

        def difference(*parts: Array) -> float:
            return model(*parts[: len(arrays)]) - baseline(*parts[len(arrays) :])

        return with_interval(difference, *arrays, *baseline_arrays, groups=self.predictions.group_numbers)

    @property
    def baseline_rule(self) -> str:
        """The constant baseline in words, such as "always the majority class"."""
        target = self.predictions.target
        return (target.constant_rule if isinstance(target, Comparable) else "") or "an answer that ignores the input"

    @cached_property
    def true_classes(self) -> Counter[str]:
        """The number of rows of each true class; empty if a row has not exactly one class."""
        target = self.predictions.target
        if not has_exclusive_classes(target):
            return Counter()
        assert isinstance(target, Classes)
        return Counter(name for label in self.predictions.labels for name in target.class_names(label))

    @cached_property
    def num_mistakes(self) -> int:
        """The number of rows whose score is below 1."""
        target = self.predictions.target
        assert isinstance(target, Comparable)
        scores = target.per_item_metric(self.predictions.outputs, self.predictions.labels)
        return 0 if scores is None else int((scores < 1).sum())

    @property
    def weak_slices(self) -> list[Slice]:
        """The slices on which the score is significantly lower than on all other rows, the most significant first."""
        return [part for part in self.analysis.slices if part.is_significant and part.score.value < part.rest_mean]

    @cached_property
    def doubted(self) -> list[Suspect]:
        """The rows whose label is worth checking, the worst first; see `doubted_labels`."""
        return doubted_labels(self.predictions)

    @property
    def item_scores(self) -> list[tuple[str, Score]]:
        """Recall and precision of all items of the answers together, in words and with intervals over the rows.

        Empty for answers of exactly one class, of which both are the accuracy, and for those that name no items.
        """
        target = self.predictions.target
        if not isinstance(target, Classes) or has_exclusive_classes(target):
            return []
        right, answers, true = self.item_counts.by_row.T
        groups = self.predictions.group_numbers
        return [
            (f"{words}, n = {totals.sum():,} {target.item_name}", with_interval(_ratio, right, totals, groups=groups))
            for words, totals in (
                ("of the true ones found (recall)", true),
                ("of its answers right (precision)", answers),
            )
            if totals.sum()
        ]

    @cached_property
    def item_counts(self) -> ItemCounts:
        """The numbers of right, answered and true items by row and class."""
        target = self.predictions.target
        assert isinstance(target, Classes)
        return target.item_counts(self.predictions.outputs, self.predictions.labels)

    @property
    def clause(self) -> str:
        """The score in a clause that begins with a small letter, such as "it is right on 90.2 % of the rows"."""
        target = self.predictions.target
        if isinstance(target, Classes) and not has_exclusive_classes(target):
            num_right, num_answers, num_true = target.item_counts(
                self.predictions.outputs, self.predictions.labels
            ).by_row.sum(0)
            share = f", and {100 * num_right / num_answers:.0f} % of those it answers are right" if num_answers else ""
            return f"it finds {100 * num_right / max(num_true, 1):.0f} % of the {num_true:,} true {target.item_name}{share}"
        assert isinstance(target, Comparable)
        prefix, scores = self.predictions.prefix, self.evaluation.scores
        names = target.metrics(self.predictions.outputs, self.predictions.labels)
        return target.describe_scores({name: scores[f"{prefix}{name}"] for name in names})

    @property
    def verdict(self) -> str:
        """The verdict in one sentence: the score, and whether it is significantly better than each baseline."""
        sentence = f"{self._beside_constant}{self._beside_linear}."
        return f"{self.predictions.prefix}{sentence[:1].upper()}{sentence[1:]}"

    @property
    def _beside_constant(self) -> str:
        """The score beside the constant baseline."""
        if len(self.true_classes) == 1:
            (name,) = self.true_classes
            return f"these rows cannot show how good it is, since all have the label {name}; {self.clause}"
        if self.gain is None or self.baseline is None:
            return self.clause
        baseline = f"{self.baseline_rule}: {100 * self.baseline.value:.1f} %"
        if math.isnan(self.gain.low):
            return f"{self.clause} (baseline, {baseline})"
        if self.gain.low > 0:
            return f"{self.clause}, significantly better than the baseline ({baseline})"
        if self.gain.high < 0:
            return f"it is significantly worse than the baseline ({baseline}): {self.clause}"
        return f"it is not shown to be better than the baseline ({baseline}): {self.clause}, no significant difference"

    @property
    def _beside_linear(self) -> str:
        """The score beside that of the linear model, in a clause that follows another; empty where there is none."""
        linear = self.linear
        if linear is None or len(self.true_classes) == 1:
            return ""
        scores = f"{100 * linear.baseline:.1f} %"
        if self.gain is None:
            # Then the clause has other figures than those that are compared, which the picture names.
            scores = f"{100 * linear.model:.1f} % against {100 * linear.baseline:.1f} %"
        if linear.is_better:
            return f"{', and' if self.gain is not None else '; this is'} significantly better than {linear.name} ({scores})"
        if linear.is_worse:
            return (
                f"{', but' if self.gain is not None else '; this is'} significantly worse than {linear.name} ({scores})"
            )
        return f", but not significantly better than {linear.name} ({scores})"

    @property
    def weakest_class(self) -> tuple[str, float, int] | None:
        """The class of whose rows it is right on the smallest share, (name, recall, rows); None without such a class.

        Only classes with MIN_CLASS_SIZE rows, and only if the interval of the recall lies below the recall of all rows.
        """
        target = self.predictions.target
        if not isinstance(target, Classes):
            return None
        counts = self.item_counts.by_class
        recalls = {name: (right / true, true) for name, (right, _, true) in counts.items() if true >= MIN_CLASS_SIZE}
        if len(recalls) < 2:
            return None
        name = min(recalls, key=lambda name: recalls[name][0])
        overall = sum(right for right, _, _ in counts.values()) / sum(true for _, _, true in counts.values())
        recall, count = recalls[name]
        return (name, recall, count) if wilson_interval(recall, count)[1] < overall else None


@bounded()
def _ratio(parts: Array, wholes: Array) -> float:
    """Return the sum of parts over the sum of wholes, (n,) each; 0 without wholes."""
    return float(parts.sum() / max(wholes.sum(), 1))


def metric_name(metric: str) -> str:
    """Return the name of a metric in words."""
    return METRIC_NAMES.get(metric, metric.replace("_", " "))


def _metric(metric: tuple[Any, ...]) -> tuple[Callable[..., float], list[Array]]:
    """Return the function of a metric and the arrays that it is called with."""
    function, *arrays = metric
    return function, list(arrays)


def top_confusion(confusion: Mapping[str, Mapping[str, int]]) -> tuple[str, str, int, int] | None:
    """Return the most frequent confusion as (true class, answer, rows, rows of the true class); None without mistakes."""
    pairs = [
        (count, true, answer)
        for true, counts in confusion.items()
        for answer, count in counts.items()
        if count and answer != true
    ]
    if not pairs:
        return None
    count, true, answer = max(pairs, key=lambda pair: pair[0])
    return true, answer, count, sum(confusion[true].values())


def judge(evaluation: Evaluation, analyses: Sequence[tuple[Predictions, ErrorAnalysis]]) -> list[Judgement]:
    """Return what is said about each target that has a score for each row. The linear model answers the first target alone."""
    return [
        Judgement(evaluation, predictions, analysis, evaluation.linear if predictions.port == 0 else None, index)
        for index, (predictions, analysis) in enumerate(analyses)
    ]


def target_anchor(anchor: str, index: int) -> str:
    """Return the name by which links lead to a section of a target. index: that of the target."""
    return f"{anchor}-{index + 1}" if index else anchor


def answer_questions(judgements: Sequence[Judgement]) -> list[tuple[str, Any]]:
    """Return the questions of the first screen with their answers in one or two sentences, of the first target."""
    if not judgements:
        return []
    return [
        ("Where does it fail?", _join(describe_failures(judgements[0]))),
        ("What would make it better?", _join(advise(judgements[0])[:MAX_ADVICE])),
    ]


def _join(sentences: Sequence[Any]) -> Any:
    """Return sentences, some of which may have links, as one HTML text."""
    from markupsafe import Markup

    return Markup(" ").join(sentences)


def describe_failures(judgement: Judgement) -> list[Any]:
    """Return sentences on where a model fails: its most frequent confusion or weakest class, and the weakest slice."""
    from markupsafe import Markup

    predictions = judgement.predictions
    if not judgement.num_mistakes:
        return [f"Nowhere on these {len(predictions.labels):,} rows: it made no mistake."]
    sentences: list[Any] = []
    target = predictions.target
    confusion = target.confusion(predictions.outputs, predictions.labels) if isinstance(target, Classes) else {}
    if top := top_confusion(confusion):
        label, answer, count, total = top
        names = distinct_spellings(dict.fromkeys([label, answer]))
        filters = [(LABEL_COLUMN, names[label]), (ANSWER_COLUMN, names[answer])]
        section_link = judgement.link(MISTAKES, f"{count:,} of {total:,} rows", filters)
        text = Markup("Most often it answers {} where the label is {}: {} ({}).")
        sentences.append(
            text.format(names[answer], names[label], section_link, judgement.link(CONFUSION, "all confusions"))
        )
    elif weakest := judgement.weakest_class:
        assert isinstance(target, Classes)
        name, recall, count = weakest
        text = Markup("It finds fewest {} of the class {}: {}.")
        section_link = judgement.link(CLASSES, f"{100 * recall:.0f} % of {count:,}")
        sentences.append(text.format(target.item_name, name, section_link))
    else:
        num_rows = f"{judgement.num_mistakes:,} of {len(predictions.labels):,} answers"
        sentences.append(Markup("{} are not fully right.").format(judgement.link(MISTAKES, num_rows)))
    num_slices = len(judgement.analysis.slices)
    if weak := judgement.weak_slices:
        shares = f"{100 * weak[0].score.value:.1f} %, other rows {100 * weak[0].rest_mean:.1f} %"
        section_link = judgement.link(SLICES, f"where {weak[0].name}")
        sentences.append(Markup("It is significantly weaker {} ({}).").format(section_link, shares))
    elif num_slices:
        sentences.append(f"No slice of the rows is significantly weaker than the rest ({num_slices:,} tested).")
    return sentences


def advise(judgement: Judgement) -> list[Any]:
    """Return sentences on what would make a model better, the most important first."""
    from markupsafe import Markup

    sentences: list[Any] = []
    if len(judgement.true_classes) == 1:
        return ["Rows of every class, to see what it confuses."]
    if not judgement.num_mistakes:
        return ["More or harder test rows, to see where it fails."]
    gain, linear = judgement.gain, judgement.linear
    if gain is not None and not gain.low > 0:
        sentences.append(
            "Look at the data first (mapsto check), then give it more labels or a starting model (--start)."
        )
    if linear is not None and not linear.is_better:
        simpler = "fit the linear model (--method linear)" if linear.is_method else f"use {linear.name}"
        sentences.append(f"A better starting model or more labels; else {simpler}, which costs less.")
    if judgement.doubted:
        text = f"{len(judgement.doubted):,} labels that may be wrong"
        section_link = judgement.link(MISTAKES, text, [(NOTE_COLUMN, DOUBTFUL)])
        sentences.append(Markup("Check {}.").format(section_link))
    if (weakest := judgement.weakest_class) is not None:
        name, recall, count = weakest
        section_link = judgement.link(CLASSES, f"finds {100 * recall:.0f} % of {count:,}")
        sentences.append(
            Markup("More training rows of {}, of which it {}; mapsto suggest chooses rows to label.").format(
                name, section_link
            )
        )
    point = None
    if len(judgement.analysis.coverage_curve) > 1:
        # A fifth of the rows left to a person is what many can afford.
        point = min(judgement.analysis.coverage_curve, key=lambda point: abs(point.coverage - 0.8))
    if point is not None and point.score.value > judgement.score.value + MIN_IMPROVEMENT:
        section_link = judgement.link(CONFIDENT, f"its least confident {100 * (1 - point.coverage):.0f} %")
        sentences.append(
            Markup("A person for {}: on the other rows its {} is {:.1f} %.").format(
                section_link, metric_name(judgement.analysis.metric), 100 * point.score.value
            )
        )
    return sentences or ["More training rows; mapsto suggest chooses rows to label."]
