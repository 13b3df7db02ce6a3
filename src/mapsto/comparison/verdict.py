"""The first screen of a comparison: which method to take with how many labels, and whether it gains anything.

A method is recommended if it is significantly better than a simple baseline: the linear model, which needs no pretraining. Else
the baseline is.
"""

from __future__ import annotations

import math
from typing import Any

from mapsto.comparison.analysis import Comparison, CurvePoint, Recommendation, format_points, format_score
from mapsto.metrics.intervals import Score
from mapsto.report.bars import Bar, interval_bars
from mapsto.report.page import KeyFigure, PageTable, Picture, Section, link

CURVES, LABELS, EXTRAPOLATION, ROBUSTNESS = "curves", "by-labels", "more-labels", "robustness"
# Numbers of labels whose recommendations stand on the first screen.
MAX_COUNTS_SHOWN = 4


def describe_recommendation(comparison: Comparison) -> str:
    """Return the verdict in one sentence: which method to take with all labels of the user, and what it gains."""
    advice = comparison.recommendations[-1]
    labels = f"With your {advice.num_labels:,} labels"
    best = _percent(_point(comparison, advice.best, advice.num_labels).score)
    if advice.baseline is None:
        return f"{labels} “{advice.best}” scores highest: {comparison.metric} {best}; no simple baseline is beside it."
    if advice.gain is None:
        return f"{labels} take the simple baseline ({advice.baseline}): it scores highest, {comparison.metric} {best}."
    baseline = _percent(_point(comparison, advice.baseline, advice.num_labels).score)
    gain = f"{100 * advice.gain.value:+.1f} points"
    if not advice.is_tested:
        return (
            f"{labels} “{advice.best}” scores highest: {comparison.metric} {best}, {gain} beside the simple baseline "
            f"({advice.baseline}, {baseline}); one draw of labels cannot show whether that is significant."
        )
    if advice.is_significant:
        return (
            f"{labels} take “{advice.best}”: {comparison.metric} {best}, significantly better than the simple baseline "
            f"({advice.baseline}, {baseline})."
        )
    return (
        f"{labels} take the simple baseline ({advice.baseline}, {comparison.metric} {baseline}): no method is significantly "
        f"better; the best, {advice.best}, reaches {best}."
    )


def _percent(score: Score) -> str:
    """Return the value of a score in percent."""
    return f"{100 * score.value:.1f} %"


def _point(comparison: Comparison, name: str, num_labels: int) -> CurvePoint:
    """Return the results of a method with one number of labelled rows."""
    return next(point for point in comparison.curves[name] if point.num_labels == num_labels)


def key_figures(comparison: Comparison) -> list[KeyFigure]:
    """Return the figure behind the verdict: the gain of the best method over the simple baseline, else its score."""
    advice = comparison.recommendations[-1]
    if advice.gain is None:
        score = _point(comparison, advice.best, advice.num_labels).score
        interval = "" if math.isnan(score.low) else f"95 % interval {score.interval_percent}, "
        return [KeyFigure(_percent(score), f"{comparison.metric} of {advice.best}, {interval}n = {score.n:,}")]
    gain = advice.gain
    interval = "no interval with one draw of labels"
    if advice.is_tested:
        significance = "significant" if advice.is_significant else "not significant"
        interval = f"95 % interval {100 * gain.low:+.1f} to {100 * gain.high:+.1f}, {significance}"
    label = f"{advice.best} over {advice.baseline} with {advice.num_labels:,} labels; {interval}; n = {gain.n:,}"
    return [KeyFigure(f"{100 * gain.value:+.1f} points", label)]


def score_picture(comparison: Comparison) -> Picture:
    """Return the dot and interval of each method with the most labels, the best first and the recommended one marked."""
    advice = comparison.recommendations[-1]
    points = [
        (name, point)
        for name, curve in comparison.curves.items()
        for point in curve
        if point.num_labels == advice.num_labels
    ]
    points.sort(key=lambda pair: -pair[1].score.value)
    bars = [Bar.of_score(name, point.score, name == advice.candidate) for name, point in points]
    # R² of bad models has no lowest value.
    limits = (0.0 if min(bar.value for bar in bars) >= 0 else -math.inf, 100.0)
    name = comparison.metric.replace("_", " ")
    content = interval_bars(bars, f"{name} of each method with {advice.num_labels:,} labels", limits=limits)
    interval = " with 95 % intervals" if comparison.num_seeds > 1 else ""
    return Picture(content, f"{name} in %{interval}, {advice.num_labels:,} labels; higher is better.")


def answer_questions(comparison: Comparison) -> list[tuple[str, Any]]:
    """Return the questions of the first screen with their answers in one or two sentences."""
    answers: list[tuple[str, Any]] = []
    if len(comparison.recommendations) > 1:
        answers.append(("And with fewer labels?", _describe_fewer(comparison)))
    answers.append(("What would make it better?", _describe_better(comparison)))
    if failure := _describe_failure(comparison):
        answers.append(("Where does it fail?", failure))
    return answers


def _describe_fewer(comparison: Comparison) -> Any:
    """Return the methods to take with fewer labels, in one sentence."""
    from markupsafe import Markup

    fewer = comparison.recommendations[:-1][-MAX_COUNTS_SHOWN:]
    parts = [f"{advice.num_labels:,}: {advice.candidate} ({_gain(advice)})" for advice in fewer]
    return Markup("{}. {}").format("; ".join(parts), link(CURVES, "Learning curves"))


def _gain(advice: Recommendation) -> str:
    """Return in words what the best method gains over the simple baseline."""
    if advice.gain is None:
        return "the simple baseline is best" if advice.best == advice.baseline else "no simple baseline"
    points = f"{100 * advice.gain.value:+.1f} points"
    if not advice.is_tested:
        return f"{points}, not tested"
    return f"{points}, significant" if advice.is_significant else "nothing is significantly better"


def _describe_better(comparison: Comparison) -> Any:
    """Return what more labels would give the recommended method, as its learning curve predicts, and another method."""
    from markupsafe import Markup

    advice = comparison.recommendations[-1]
    sentences: list[Any] = []
    curve = next((curve for curve in comparison.extrapolations if curve.candidate == advice.candidate), None)
    if curve is not None:
        count, score = next(iter(curve.scores.items()))
        section_link = link(EXTRAPOLATION, f"{count:,} labels")
        sentences.append(Markup("With {} it is predicted to reach {} %.").format(section_link, format_score(score)))
    else:
        sentences.append("More labels: compare three numbers of labels (--labels) to see what they would give.")
    if not advice.is_significant:
        sentences.append("Another starting model (--starts), closer to your data.")
    return Markup(" ").join(sentences)


def _describe_failure(comparison: Comparison) -> Any:
    """Return the perturbation that costs the recommended method most; empty where values cannot be perturbed."""
    from markupsafe import Markup

    advice = comparison.recommendations[-1]
    changes = _point(comparison, advice.candidate, advice.num_labels).changes
    if not changes:
        return ""
    worst = min(changes, key=lambda name: changes[name].value)
    section_link, points = link(ROBUSTNESS, f"test rows with {worst}"), format_points(changes[worst])
    if changes[worst].high < 0:
        return Markup("On {} it is significantly worse: {} points.").format(section_link, points)
    return Markup("No change of the test rows makes it significantly worse; most do {}: {} points.").format(
        section_link, points
    )


def recommendation_section(comparison: Comparison) -> Section:
    """Return the section with the method to take with each number of labels."""
    rows = []
    for advice in comparison.recommendations:
        score = _point(comparison, advice.candidate, advice.num_labels).score
        gain = "" if advice.gain is None else f"{advice.best}: {format_points(advice.gain)}"
        lead = "" if advice.lead is None else f"{advice.runner_up}: {format_points(advice.lead)}"
        rows.append([f"{advice.num_labels:,}", advice.candidate, format_score(score), gain, lead])
    columns = ["labels", "take", f"{comparison.metric}, %", "best over the baseline", "best over the next"]
    text = [
        "The best method is taken where it is significantly better than the simple baseline, a linear model without pretraining; "
        "else the baseline. Points with 95 % intervals; significant where they exclude 0. The best of several is flattered "
        "a little by being chosen."
    ]
    table = PageTable("The method to take", columns, rows)
    return Section("Which method with how many labels", text, tables=[table], anchor=LABELS)
