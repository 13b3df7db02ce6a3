"""Analysis of a comparison: scores, paired differences, labels saved, extrapolation, costs, and a summary in words.

Each model is fitted once per seed, and the seed draws the labelled training rows. Every interval covers two sources of
chance: the draw of the training rows and the choice of the test rows (see crossed_bootstrap.py). A single seed gives no
interval.
Legend of shapes: b bootstrap samples, m numbers of labelled rows, s seeds, n test rows, k scores bootstrapped together.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mapsto.comparison.crossed_bootstrap import CrossedMeans, interval
from mapsto.comparison.design import CLASSICAL, CONSTANT, SHIFT, TEST, Candidate, Design, Fit
from mapsto.comparison.learning_curves import extrapolate, labels_needed
from mapsto.comparison.runs import Experiment
from mapsto.comparison.start_overlap import StartOverlap, describe_overlaps
from mapsto.metrics.intervals import Floats, Score, mean_interval, to_json
from mapsto.report.results import ResultTable, Tabular

EXTRAPOLATION_FACTORS = (2, 4)  # times the largest number of labels
MIN_POINTS_TO_EXTRAPOLATE = 3

# (candidate name, number of labels) → (1 + b,), the mean score followed by its bootstrap samples. All scores are
# sampled together, so that the difference of two entries is a paired difference.
ScoreSamples = dict[tuple[str, int], Floats]


@dataclass(frozen=True)
class Cost:
    """The cost of one fit, as medians over the seeds.

    seconds: fitting time.
    tokens: number of tokens read over all training steps, without padding; 0 for a fit without training steps.
    peak_megabytes: peak memory of the process; None where the operating system does not report it.
    """

    seconds: float
    tokens: int
    peak_megabytes: float | None = field(metadata={"key": "peak"})


@dataclass(frozen=True)
class CurvePoint:
    """A candidate's results with one number of labelled rows: one point of its learning curve.

    score: the compared metric on the test rows.
    metrics: all metrics of the target on the test rows, by name; means over the seeds.
    test_set_scores: the compared metric on the perturbed copies of the test rows and on the rows of --shift, by name.
    changes: by name of a perturbation, the compared metric on the perturbed test rows minus that on the test rows.
    """

    num_labels: int = field(metadata={"key": "labels"})
    score: Score
    metrics: dict[str, Score] = field(metadata={"key": "figures"})
    test_set_scores: dict[str, Score] = field(metadata={"key": "views"})
    changes: dict[str, Score]
    cost: Cost


@dataclass(frozen=True)
class Difference:
    """The difference in score between a candidate and a reference that were fitted to the same labelled rows.

    num_labels: the number of these rows. points: the candidate's score minus the reference's, as a fraction.
    labels_saved: how many labelled rows more than `num_labels` the reference needs to reach the candidate's score;
        negative if it needs fewer, infinite if it never does.
    min_labels_saved: the lowest value that `labels_saved` can have, as the reference was fitted to no fewer rows: its
        smallest number of labelled rows minus `num_labels`.
    """

    candidate: str = field(metadata={"key": "way"})
    reference: str = field(metadata={"key": "against"})
    num_labels: int = field(metadata={"key": "labels"})
    points: Score
    labels_saved: Score = field(metadata={"key": "saved"})
    min_labels_saved: int = field(metadata={"key": "least"})


@dataclass(frozen=True)
class Extrapolation:
    """A candidate's learning curve extrapolated by a power law.

    scores: the predicted score by number of labelled rows, for numbers above the largest one that was fitted.
    predicted_last: the last measured score as predicted from the earlier ones, to check whether the power law holds.
    """

    candidate: str = field(metadata={"key": "way"})
    scores: dict[int, Score] = field(metadata={"key": "at"})
    predicted_last: Score = field(metadata={"key": "last_foretold"})


@dataclass(frozen=True)
class Recommendation:
    """The method to take with one number of labelled rows: the best one, if it is significantly better than a simple baseline.

    best: the method with the highest score. baseline: the linear baseline; where there is none the constant one; None without
    both. gain: score of the best minus that of the baseline; None if the best is the baseline.
    runner_up: the method with the next score; None without another. lead: score of the best minus that of the runner-up.
    """

    num_labels: int = field(metadata={"key": "labels"})
    best: str
    baseline: str | None
    gain: Score | None
    runner_up: str | None
    lead: Score | None

    @property
    def is_tested(self) -> bool:
        """Return whether the gain has an interval; a single draw of labels has none."""
        return self.gain is not None and not math.isnan(self.gain.low)

    @property
    def is_significant(self) -> bool:
        """Return whether the best method is significantly better than the simple baseline."""
        return self.gain is not None and self.gain.low > 0

    @property
    def candidate(self) -> str:
        """The method to take: the baseline where no method is shown to be better, else the best."""
        if self.baseline is not None and self.is_tested and not self.is_significant:
            return self.baseline
        return self.best


@dataclass(frozen=True, repr=False)
class Comparison(Tabular):
    """The result of a comparison.

    metric: name of the compared metric.
    num_pool_rows: number of labelled rows from which the training rows were drawn.
    curves: each candidate's learning curve by the candidate's name, in ascending order of the number of labelled rows.
    headline: the result in sentences. recommendations: the method to take, in ascending order of the number of labelled rows.
    units: what intervals are over: "rows", or groups of them.
    overlaps: by name of a starting model that was fitted before to rows of this comparison, these rows.
    """

    arrow: str
    metric: str = field(metadata={"key": "gain"})
    num_test_rows: int = field(metadata={"key": "tested"})
    num_seeds: int = field(metadata={"key": "seeds"})
    num_pool_rows: int = field(metadata={"key": "pool"})
    curves: dict[str, list[CurvePoint]]
    differences: list[Difference]
    extrapolations: list[Extrapolation] = field(metadata={"key": "foresights"})
    headline: list[str]
    recommendations: list[Recommendation] = field(default_factory=list)
    overlaps: dict[str, StartOverlap] = field(default_factory=dict)
    units: str = "rows"

    def record(self) -> dict[str, Any]:
        """Return the comparison as a JSON-serialisable dict; infinite numbers and missing intervals become None."""
        record: dict[str, Any] = to_json(self)
        return record

    @property
    def label_counts(self) -> list[int]:
        """Return the compared numbers of labelled rows in ascending order."""
        return sorted({point.num_labels for points in self.curves.values() for point in points})

    def table(self) -> ResultTable:
        """Return the scores of each model by the number of labels, and the headline."""
        counts, rows = self.label_counts, []
        for name, points in self.curves.items():
            cells = {point.num_labels: format_score(point.score) for point in points}
            rows.append([name, *(cells.get(count, "") for count in counts)])
        return ResultTable(
            ["model", *(f"{count:,} labels" for count in counts)], rows, self._interval_note, self.headline
        )

    def records(self) -> list[dict[str, Any]]:
        """Return a row for each model and number of labels."""
        return [
            {
                "model": name,
                "labels": point.num_labels,
                self.metric: point.score.value,
                "low": point.score.low,
                "high": point.score.high,
                "seconds": point.cost.seconds,
            }
            for name, points in self.curves.items()
            for point in points
        ]

    def lines(self) -> list[str]:
        """Return the lines to print in the terminal: a table of scores, then the headline."""
        table = self.table()
        # Two spaces separate the longest name from the scores.
        width = max(map(len, self.curves)) + 2
        first, *others = ["", *table.columns[1:]]
        header = first.ljust(width) + "".join(name.rjust(21) for name in others)
        rows = [name.ljust(width) + "".join(cell.rjust(21) for cell in cells) for name, *cells in table.rows]
        return [header, *rows, self._interval_note, "", *self.headline]

    @property
    def _interval_note(self) -> str:
        """A sentence on what the scores and their intervals are."""
        interval_note = f"95 % interval over {self.num_seeds} draws of labels and the test {self.units}"
        if self.num_seeds == 1:
            interval_note = "one draw of labels, so no interval"
        return f"{self.metric} in % on {self.num_test_rows:,} test rows; mean, {interval_note}"


def format_score(score: Score) -> str:
    """Return a score in percent with its interval, as "81.4 (79.0–83.6)"; without brackets if it has no interval."""
    value = f"{100 * score.value:.1f}"
    return value if math.isnan(score.low) else f"{value} ({score.interval_percent})"


def format_points(score: Score) -> str:
    """Return a score difference in percentage points with its interval, as "+9.1 (+6.8 to +11.4)"."""
    value = f"{100 * score.value:+.1f}"
    return value if math.isnan(score.low) else f"{value} ({100 * score.low:+.1f} to {100 * score.high:+.1f})"


def analyse(experiment: Experiment) -> Comparison:
    """Return the scores, differences, extrapolations and headline computed from the finished fits of a comparison."""
    design = experiment.design
    # Contrastive fitting has results for small numbers of labels only.
    keys = [
        (candidate.name, count)
        for candidate in design.candidates
        for count in design.label_counts
        if Fit(candidate, count, design.seeds[0]) in experiment.results
    ]
    candidates = {candidate.name: candidate for candidate in design.candidates}
    item_scores = [_item_scores(experiment, candidates[name], count, TEST) for name, count in keys]
    # One call for all models: what draws and rows have in common cancels out in their differences.
    means = _sample_means(*item_scores, groups=design.group_numbers(TEST))
    samples: ScoreSamples = dict(zip(keys, means.T, strict=True))
    num_rows = len(design.test_sets[TEST])
    curves = {
        candidate.name: [
            _curve_point(experiment, candidate, count, interval(samples[candidate.name, count], num_rows))
            for count in _label_counts(candidate, samples)
        ]
        for candidate in design.candidates
    }
    differences = _differences(design, samples, num_rows)
    return Comparison(
        arrow=str(design.arrow),
        metric=design.metric,
        num_test_rows=num_rows,
        num_seeds=len(design.seeds),
        num_pool_rows=len(design.pool),
        curves=curves,
        differences=differences,
        extrapolations=_extrapolations(design, samples, num_rows),
        headline=[*describe_overlaps(design.overlaps, list(curves)), *_headline(design, curves, differences)],
        recommendations=_recommendations(design, samples, num_rows),
        overlaps=design.overlaps,
        units=design.test_units,
    )


def _recommendations(design: Design, samples: ScoreSamples, num_rows: int) -> list[Recommendation]:
    """Return the method to take with each number of labelled rows. num_rows: number of test rows."""
    methods = {candidate.method: candidate.name for candidate in design.candidates if candidate.start is None}
    baseline = methods.get(CLASSICAL, methods.get(CONSTANT))
    recommendations = []
    for count in design.label_counts:
        names = [name for name, number in samples if number == count]
        # Of equal scores the first one counts, which is the simplest.
        ranked = sorted(names, key=lambda name: -samples[name, count][0])
        best, runner_up = ranked[0], ranked[1] if len(ranked) > 1 else None
        has_gain = baseline in names and best != baseline
        recommendations.append(
            Recommendation(
                count,
                best,
                baseline if baseline in names else None,
                interval(samples[best, count] - samples[str(baseline), count], num_rows) if has_gain else None,
                runner_up,
                None if runner_up is None else interval(samples[best, count] - samples[runner_up, count], num_rows),
            )
        )
    return recommendations


def _label_counts(candidate: Candidate, samples: ScoreSamples) -> list[int]:
    """Return the numbers of labelled rows that a candidate was fitted with, in ascending order.

    samples: its keys name all fits, in ascending order of these numbers for each candidate.
    """
    return [count for name, count in samples if name == candidate.name]


def _curve(candidate: Candidate, label_counts: list[int], samples: ScoreSamples) -> Floats:
    """Return a candidate's learning curve and its bootstrap samples, (1 + b, m).

    Row 0 is the mean score at each of the m numbers `label_counts`; each further row is one bootstrap sample of the
    curve.
    """
    return np.stack([samples[candidate.name, count] for count in label_counts], axis=1)


def _item_scores(experiment: Experiment, candidate: Candidate, num_labels: int, test_set: str) -> Any:
    """Return the score of each row of a test set for each seed, (s, n), from the fits to `num_labels` labelled rows."""
    fits = [Fit(candidate, num_labels, seed) for seed in experiment.design.seeds]
    return np.stack([experiment.results[fit].item_scores[test_set].numpy() for fit in fits])


def _sample_means(*item_scores: Any, groups: Any = None) -> Floats:
    """Return k mean scores over rows and seeds, followed by their bootstrap samples, (1 + b, k); b is 0 for a single seed.

    item_scores: k arrays (s, n), the score of each test row for each seed. groups: (n,), the group of each row, if there are any.
    Samples are clipped to the metric's range: at most 1, and at least 0 unless a row has a negative score.
    """
    stacked = np.stack(item_scores)
    return np.clip(CrossedMeans.estimate(stacked, groups).samples(), 0.0 if stacked.min() >= 0 else -np.inf, 1.0)


def mean_over_draws(values: list[float], maximum: float) -> Score:
    """Return the mean of a metric over the seeds with its 95 % interval.

    values: the metric of the fit with each seed.
    maximum: the limits of the interval are at most this, and at least 0 unless some value is negative.
    """
    return mean_interval(values, 0.0 if min(values) >= 0 else -math.inf, maximum)


def _curve_point(experiment: Experiment, candidate: Candidate, num_labels: int, score: Score) -> CurvePoint:
    """Return a candidate's results with one number of labelled rows, from the fits of all seeds.

    score: the compared metric on the test rows.
    """
    design = experiment.design
    results = [experiment.results[Fit(candidate, num_labels, seed)] for seed in design.seeds]
    test_scores = _item_scores(experiment, candidate, num_labels, TEST)
    test_set_scores, changes = {}, {}
    for name in design.test_sets:
        if name == TEST:
            continue
        item_scores = _item_scores(experiment, candidate, num_labels, name)
        num_rows = item_scores.shape[1]
        groups = design.group_numbers(name)
        test_set_scores[name] = interval(_sample_means(item_scores, groups=groups)[:, 0], num_rows)
        # Perturbed rows pair with the original test rows. The rows of --shift are other rows and have no partner.
        if name != SHIFT:
            perturbed, unchanged = _sample_means(item_scores, test_scores, groups=groups).T
            changes[name] = interval(perturbed - unchanged, num_rows)
    unbounded = design.target.unbounded_metrics
    # A mean over only some of the seeds would not be comparable.
    metrics = {
        name: mean_over_draws([result.metrics[name] for result in results], math.inf if name in unbounded else 1.0)
        for name in results[0].metrics
        if all(name in result.metrics for result in results)
    }
    peaks = [result.peak_megabytes for result in results if result.peak_megabytes is not None]
    # Medians, since a single fit may be slowed down by other processes.
    cost = Cost(
        seconds=statistics.median(result.seconds for result in results),
        tokens=round(statistics.median(result.tokens for result in results)),
        peak_megabytes=statistics.median(peaks) if peaks else None,
    )
    return CurvePoint(num_labels, score, metrics, test_set_scores, changes, cost)


def _differences(design: Design, samples: ScoreSamples, num_rows: int) -> list[Difference]:
    """Return the differences in score from each reference, which is random weights or the linear baseline.

    Starting models are compared with both references, random weights with the linear baseline.
    num_rows: number of test rows, to be recorded in each Score.
    """
    differences = []
    for reference in design.candidates:
        # Candidates without a starting model are the references: random weights, and the linear baseline.
        if reference.start is not None or reference.method == CONSTANT:
            continue
        label_counts = _label_counts(reference, samples)
        curve = _curve(reference, label_counts, samples)
        for candidate in design.candidates:
            # Random weights are compared with the linear baseline, but not with themselves.
            if candidate.start is None and (candidate.method != "full" or reference.method == "full"):
                continue
            for index, count in enumerate(label_counts):
                if (candidate.name, count) not in samples:
                    continue
                scores = samples[candidate.name, count]
                differences.append(
                    Difference(
                        candidate=candidate.name,
                        reference=reference.name,
                        num_labels=count,
                        points=interval(scores - curve[:, index], num_rows),
                        # Each bootstrap sample of the score is read off the same sample of the reference's learning
                        # curve.
                        labels_saved=interval(labels_needed(label_counts, curve, scores) - count, num_rows),
                        min_labels_saved=label_counts[0] - count,
                    )
                )
    return differences


def _extrapolations(design: Design, samples: ScoreSamples, num_rows: int) -> list[Extrapolation]:
    """Extrapolate each learning curve with at least MIN_POINTS_TO_EXTRAPOLATE points, except the constant baseline's.

    num_rows: number of test rows, to be recorded in each Score.
    """
    extrapolations = []
    for candidate in design.candidates:
        label_counts = _label_counts(candidate, samples)
        if candidate.method == CONSTANT or len(label_counts) < MIN_POINTS_TO_EXTRAPOLATE:
            continue
        curve, last = _curve(candidate, label_counts, samples), label_counts[-1]
        scores = {
            factor * last: interval(extrapolate(label_counts, curve, factor * last), num_rows)
            for factor in EXTRAPOLATION_FACTORS
        }
        # The check: the power law fitted without the last point.
        predicted_last = interval(extrapolate(label_counts[:-1], curve[:, :-1], last), num_rows)
        extrapolations.append(Extrapolation(candidate.name, scores, predicted_last))
    return extrapolations


def _headline(design: Design, curves: dict[str, list[CurvePoint]], differences: list[Difference]) -> list[str]:
    """Return sentences on the result.

    They say what each starting model gains over random weights and over the linear baseline, and which model is best
    with each number of labels.
    """
    references = {candidate.method: candidate.name for candidate in design.candidates if candidate.start is None}
    classical = references.pop(CLASSICAL, None)
    # The constant baseline is too weak for a claim.
    references.pop(CONSTANT, None)
    scratch = next(iter(references.values()), None)
    starts = dict.fromkeys(candidate.start for candidate in design.candidates if candidate.start is not None)
    lines = []
    for reference in filter(None, (scratch, classical)):
        for start in starts:
            names = [candidate.name for candidate in design.candidates if candidate.start == start]
            of_start = [
                difference
                for difference in differences
                if difference.reference == reference and difference.candidate in names
            ]
            if of_start:
                lines.append(describe_benefit(Path(start).name, reference, of_start))
    for count in design.label_counts:
        points = {name: point for name, curve in curves.items() for point in curve if point.num_labels == count}
        best = max(points, key=lambda name: points[name].score.value)
        lines.append(f"{count:,} labels: best is {best}, {design.metric} {format_score(points[best].score)} %.")
    return lines


def describe_benefit(start: str, reference: str, differences: list[Difference]) -> str:
    """Describe in words what a starting model gains over a reference with its best fitting method.

    Only methods with results for the most numbers of labels are considered. The best one has the largest mean gain.
    start, reference: names for the text.
    differences: those of all methods of the starting model from this reference.
    """
    methods = dict.fromkeys(difference.candidate for difference in differences)
    # A method for few labels alone, such as contrast, says nothing about the larger numbers.
    by_method = [[d for d in differences if d.candidate == method] for method in methods]
    best_method = max(by_method, key=lambda group: (len(group), sum(d.points.value for d in group)))
    points = "; ".join(f"{format_points(d.points)} points with {d.num_labels:,} labels" for d in best_method)
    text = f"{best_method[0].candidate} against {reference}: {points}."
    # A single draw of labels has no interval.
    if math.isnan(best_method[0].points.low):
        return f"{text} With one draw of labels, significance cannot be tested."
    # A difference is significant if its interval excludes 0.
    better = [d for d in best_method if d.points.low > 0]
    worse = [d for d in best_method if d.points.high < 0]
    if not better:
        verdict = "it is significantly worse" if worse else "no difference is significant"
        return f"{text} Starting from {start} does not help over {reference}: {verdict}."
    # The first difference has the fewest labels, where each label matters most.
    if not math.isinf(better[0].labels_saved.value):
        text += f" At {better[0].num_labels:,} labels it saves {format_labels_saved(better[0])}."
    else:
        text += f" {reference} does not reach its score at {better[0].num_labels:,} labels with the labels you have."
    if worse:
        text += f" With {_join_counts(worse)} labels it is significantly worse."
    elif len(better) < len(best_method):
        text += (
            f" With {_join_counts([d for d in best_method if d not in better])} labels no difference is significant."
        )
    return text


def _join_counts(differences: list[Difference]) -> str:
    """Return the numbers of labels at which `differences` were measured as text, such as "16 and 64"."""
    return " and ".join(f"{difference.num_labels:,}" for difference in differences)


def format_labels_saved(difference: Difference) -> str:
    """Return the labels saved as text, such as "about 180 labels (90 to 420)".

    "-48 or less" means that the reference is already better with its fewest labels.
    """
    saved = difference.labels_saved

    def format_count(count: float, template: str) -> str:
        if math.isinf(count):
            return "more than you have"
        # The reference was not fitted with fewer labels, so the true number may be lower still.
        if count <= difference.min_labels_saved:
            return f"{difference.min_labels_saved:,} or less"
        return template.format(_round_to_two_digits(count))

    value = format_count(saved.value, "about {} labels")
    if math.isnan(saved.low):
        return value
    low, high = format_count(saved.low, "{}"), format_count(saved.high, "{}")
    return value if low == high else f"{value} ({low} to {high})"


def _round_to_two_digits(value: float) -> str:
    """Return a number of labels as text, rounded to two significant digits, or to a whole number below 10."""
    if abs(value) < 10:
        return f"{round(value)}"
    # The intervals are too wide for more digits to mean anything.
    digits = 1 - math.floor(math.log10(abs(value)))
    return f"{round(value, digits):,.0f}"
