"""The report of an evaluation: scores, error analysis, calibration, training curve, and how it was measured."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mapsto import files, kinds
from mapsto.errors import Finding, places
from mapsto.evaluation.error_analysis import ErrorAnalysis
from mapsto.evaluation.evaluate import Evaluation, Predictions
from mapsto.evaluation.report_sections import (
    CONFIDENT,
    class_sections,
    example_picture,
    example_sections,
    mistake_sections,
    slice_sections,
)
from mapsto.evaluation.verdict import Judgement, answer_questions, judge, metric_name, target_anchor
from mapsto.metrics.intervals import Score, to_json
from mapsto.progress import duration
from mapsto.report.bars import Bar, interval_bars
from mapsto.report.chart import draw_chart
from mapsto.report.colours import SERIES
from mapsto.report.figures import (
    RELIABILITY_CAPTION,
    calibration_table,
    confidence_bins,
    data_findings_section,
    reliability_diagram,
)
from mapsto.report.page import KeyFigure, Page, PageTable, Picture, Section, trusted_html
from mapsto.task.target_capabilities import Comparable

MAX_POINTS = 500  # of a loss curve; more are averaged, so that the page stays small

INTERVALS = "95 % intervals over the rows: Wilson's for a share of correct answers, by bootstrap for other metrics"
# The rankings without a model that are a baseline of matching, by name.
RANKERS = {
    "BM25": "which ranks texts by the words that they share",
    "cosines of features": "which compares simple features of both values",
}
# The end of the name of the share of queries for which the right value is found first.
FOUND_FIRST = " recall@1"
GROUPED_INTERVALS = "95 % intervals by bootstrap over groups of rows, see below how it was measured"

FOLDER_SUFFIX, RESULTS_FILE = "_files", "results.json"  # beside page.html stands the folder page_files

Analyses = Sequence[tuple[Predictions, ErrorAnalysis]]


@dataclass(frozen=True)
class Provenance:
    """Facts about the evaluated model and data that the page shows beside the scores.

    title: title of the page.
    command: the command that repeats the evaluation.
    findings: problems in the data, as `mapsto check` reports them.
    steps: the records of metrics.jsonl, one per training step; empty unless the model has just been fitted.
    """

    title: str
    command: str | None = None
    findings: Sequence[Finding] = ()
    steps: Sequence[Dict[str, Any]] = ()


def evaluation_page(evaluation: Evaluation, analyses: Analyses, provenance: Provenance) -> Page:
    """Build the HTML page of an evaluation and its error analyses."""
    sections = [_score_section(evaluation)]
    judgements = judge(evaluation, analyses)
    for index, (predictions, analysis) in enumerate(analyses):
        target_sections = [
            *class_sections(predictions),
            *mistake_sections(predictions, analysis),
            *_calibration_sections(predictions),
            *_coverage_sections(analysis),
            *slice_sections(analysis),
            *example_sections(predictions, analysis),
        ]
        # With several targets, titles, anchors and figure files of one kind would be equal.
        sections += [_name_section(section, predictions.prefix, index) for section in target_sections]
    sections += _sample_sections(evaluation)
    sections += [
        *data_findings_section(provenance.findings),
        *_training_sections(provenance.steps),
        _method_section(evaluation, provenance),
    ]
    tables = dict.fromkeys(predictions.rows.table.name for predictions in evaluation.predictions)
    rows = f"{evaluation.num_rows:,} rows"
    subtitle = f"{rows} of {', '.join(tables)}" if tables else rows
    if evaluation.overlap:
        subtitle += f"; {evaluation.overlap.counts} were trained on"
    return Page(
        provenance.title,
        subtitle,
        [judgement.verdict for judgement in judgements] or [_verdict_by_metrics(evaluation)],
        sections,
        figures=_key_figures(evaluation, judgements),
        picture=_score_picture(evaluation, judgements),
        warnings=[f"{evaluation.overlap.warning}."] if evaluation.overlap else (),
        answers=answer_questions(judgements),
    )


def _verdict_by_metrics(evaluation: Evaluation) -> str:
    """Return a sentence on how good a model is that has no error analysis: one that finds values, or generates them.

    It says how often the right value is found first, in each direction, or else the first metric.
    """
    found = {name: score for name, score in evaluation.scores.items() if name.endswith(FOUND_FIRST)}
    if not found:
        if not evaluation.scores:
            return "Nothing could be scored."
        name, score = next(iter(evaluation.scores.items()))
        return f"{name.replace('_', ' ')} {_value(score)}{evaluation.overlap.mark}."
    lines = []
    for name, score in found.items():
        query, value = name.removesuffix(FOUND_FIRST).split("→", 1)
        baseline = evaluation.baseline.get(name)
        beside = "" if baseline is None else f" ({evaluation.baseline_name}: {100 * baseline.value:.0f} %)"
        lines.append(f"for {100 * score.value:.0f} % of the searches by {query}, the right {value} comes first{beside}")
    text = ", and ".join(lines)
    return f"{text[0].upper()}{text[1:]}{evaluation.overlap.mark}."


def _value(score: Score) -> str:
    """Return a score with its interval as text, such as "0.31 (0.28–0.35)"."""
    return f"{score.value:.4g}" if math.isnan(score.low) else f"{score.value:.4g} ({score.low:.4g}–{score.high:.4g})"


def _name_section(section: Section, prefix: str, index: int) -> Section:
    """Return the section with the target's prefix in its title, and with a unique anchor and file name for its figure.

    index: index of the target.
    """
    file = f"{index + 1}-{section.file}" if index and section.file else section.file
    anchor = section.anchor and target_anchor(section.anchor, index)
    return replace(section, title=f"{prefix}{section.title}", file=file, anchor=anchor)


def _key_figures(evaluation: Evaluation, judgements: Sequence[Judgement]) -> list[KeyFigure]:
    """Return the figure behind each verdict; where there is no verdict, the first metric."""
    mark = evaluation.overlap.mark
    figures = []
    for judgement in judgements:
        if items := judgement.item_scores:
            prefix = judgement.predictions.prefix
            figures += [
                KeyFigure(
                    f"{100 * score.value:.0f} %", f"{prefix}{words}, 95 % interval {score.interval_percent}{mark}"
                )
                for words, score in items
            ]
            continue
        values, target = judgement.score, judgement.predictions.target
        name = judgement.analysis.metric
        if isinstance(target, Comparable) and target.field_metric is not None:
            name = target.field_metric
            values = evaluation.scores[f"{judgement.predictions.prefix}{name}"]
        label = f"{judgement.predictions.prefix}{metric_name(name)}, {_describe(values)}{mark}"
        figures.append(KeyFigure(f"{100 * values.value:.1f} %", label))
    if not judgements and evaluation.scores:
        name, score = next(iter(evaluation.scores.items()))
        is_share = name.endswith(FOUND_FIRST)
        value = f"{100 * score.value:.1f} %" if is_share else f"{score.value:.4g}"
        figures.append(KeyFigure(value, f"{name.replace('_', ' ')}, {_describe(score, 100 if is_share else 1)}{mark}"))
    return figures


def _describe(score: Score, scale: float = 100) -> str:
    """Return the interval and the number of items of a score as text. scale: what its limits are multiplied with."""
    if math.isnan(score.low):
        return f"n = {score.n:,}"
    return f"95 % interval {scale * score.low:.3g}–{scale * score.high:.3g}, n = {score.n:,}"


def _score_picture(evaluation: Evaluation, judgements: Sequence[Judgement]) -> Picture | None:
    """Return the picture of the first screen: the score of the first target beside those of the baselines.

    None where there is nothing to compare it with.
    """
    if not judgements:
        return _metric_picture(evaluation)
    judgement = judgements[0]
    score, bars = judgement.score, []
    bars.append(Bar.of_score("this model", score, True))
    if judgement.linear is not None:
        value = 100 * judgement.linear.baseline
        bars.append(Bar(judgement.linear.name, value, math.nan, math.nan, f"{value:.1f} %"))
    if judgement.baseline is not None:
        bars.append(Bar.of_score(f"baseline, {judgement.baseline_rule}", judgement.baseline))
    if len(bars) < 2:
        return example_picture(judgement.predictions, judgement.analysis)
    metric = metric_name(judgement.analysis.metric)
    # R² of bad models has no lowest value.
    limits = (0.0 if min(bar.value for bar in bars) >= 0 else -math.inf, 100.0)
    content = interval_bars(bars, f"{metric} of this model and of baselines", limits=limits)
    return Picture(
        content, f"{judgement.predictions.prefix}{metric} in %; higher is better. The bar is the 95 % interval."
    )


def _metric_picture(evaluation: Evaluation) -> Picture | None:
    """Return the first metric of a model without an error analysis beside its baseline; None if it has no baseline."""
    name, score = next(iter(evaluation.scores.items()), ("", None))
    if score is None or name not in evaluation.baseline or not 0 <= score.value <= 1:
        return None
    bars = [Bar.of_score("this model", score, True), Bar.of_score(evaluation.baseline_name, evaluation.baseline[name])]
    return Picture(interval_bars(bars, f"{name} of this model and of the baseline"), f"{name.replace('_', ' ')}, in %")


def write_page(path: Path, page: Page, evaluation: Evaluation, analyses: Analyses) -> None:
    """Write the page to `path`, and its figures (SVG) and numbers (JSON) into the folder "<name>_files" beside it.

    Raises RunError if a file cannot be written.
    """
    page.write(path)
    folder = path.with_name(f"{path.stem}{FOLDER_SUFFIX}")
    folder.mkdir(exist_ok=True)
    page.write_figures(folder)
    text = json.dumps(evaluation_record(evaluation, analyses), ensure_ascii=False, indent=1, allow_nan=False)
    # Damaged texts may have characters that UTF-8 cannot encode.
    files.write_atomic(folder / RESULTS_FILE, f"{text}\n".encode("utf-8", "replace"))


def evaluation_record(evaluation: Evaluation, analyses: Analyses) -> dict[str, Any]:
    """Return an evaluation and its error analyses as a JSON-serialisable dict."""
    record: dict[str, Any] = to_json({**evaluation.record(), "looks": [analysis for _, analysis in analyses]})
    return record


def headline(evaluation: Evaluation, analyses: Analyses) -> list[str]:
    """Return sentences on how good the model is, where it is weakest, and what selective prediction would gain."""
    lines, mark = [], evaluation.overlap.mark
    for predictions, analysis in analyses:
        prefix, name = predictions.prefix, f"{predictions.prefix}{analysis.metric}"
        baseline = evaluation.baseline.get(name)
        comparison = "" if baseline is None else f"; a model that ignores its input reaches {baseline.percent}"
        target = predictions.target
        if isinstance(target, Comparable) and target.field_metric is not None:
            field_name = f"{predictions.prefix}{target.field_metric}"
            lines.append(f"{field_name}: {evaluation.scores[field_name].percent}.")
        lines.append(f"{name}: {evaluation.scores[name].percent}{comparison}{mark}.")
        if weak := [part for part in analysis.slices if part.is_significant and part.score.value < part.rest_mean]:
            rest = f"other rows {100 * weak[0].rest_mean:.1f} %"
            lines.append(f"{prefix}It is weakest where {weak[0].name}: {weak[0].score.percent}, {rest}{mark}.")
        if len(analysis.coverage_curve) > 1:
            # A fifth of the rows left to a person is what many can afford.
            point = min(analysis.coverage_curve, key=lambda point: abs(point.coverage - 0.8))
            rows = f"the {100 * point.coverage:.0f} % of the rows that it is most confident about"
            lines.append(f"{prefix}On {rows}, it reaches {point.score.percent}{mark}.")
    # Targets read at tokens have several metrics and no main one, so that all are listed.
    if not analyses:
        values = (f"{name.replace('_', ' ')} {_value(score)}" for name, score in evaluation.scores.items())
        lines.append(f"{'; '.join(values)}{mark}.")
    return [*lines, *map(str, evaluation.differences), *evaluation.notes]


def _score_section(evaluation: Evaluation) -> Section:
    """Return the section with the table of all metrics beside their baselines."""
    rows = []
    for name, score in evaluation.scores.items():
        value = f"{score.value:.4f} ({score.low:.4f}–{score.high:.4f}){evaluation.overlap.mark}"
        baseline = f"{evaluation.baseline[name].value:.4f}" if name in evaluation.baseline else ""
        rows.append([name.replace("_", " "), value, f"{score.n:,}", baseline])
    text = ["The baseline ignores its input: it always gives the most frequent answer, or the mean of numbers."]
    if evaluation.baseline_name in RANKERS:
        text = [f"The baseline is {evaluation.baseline_name}, {RANKERS[evaluation.baseline_name]} and learns nothing."]
    columns = ["metric", "value (95 % interval)", "rows", "baseline"]
    return Section(
        "All scores",
        [*(text if evaluation.baseline else []), *evaluation.notes],
        tables=[PageTable(_describe_intervals(evaluation), columns, rows)],
    )


def _sample_sections(evaluation: Evaluation) -> list[Section]:
    """Return the section with input, output and label of random rows; an empty list if there are no samples."""
    locations = places([(sample.file, sample.row) for sample in evaluation.samples])
    rows = [
        [
            location,
            trusted_html(kinds.source(sample.target.lies_in).show(sample.input)),
            trusted_html(sample.target.show(sample.answer)),
            trusted_html(sample.target.show(sample.label)),
        ]
        for location, sample in zip(locations, evaluation.samples, strict=True)
    ]
    columns = ["row", "input", "output", "label"]
    table = PageTable("Random rows", columns, rows, text_columns=(1, 2, 3))
    return [Section("Outputs", tables=[table])] if rows else []


def _training_sections(steps: Sequence[Dict[str, Any]]) -> list[Section]:
    """Return the section with the training loss by step; an empty list if `steps` has fewer than two records."""
    if len(steps) < 2:
        return []
    curves = {"batches": ([step["step"] for step in steps], [step["loss"] for step in steps])}
    # Only some steps are followed by a validation.
    if validations := [step for step in steps if "held_out_loss" in step]:
        held_out_losses = [step["held_out_loss"] for step in validations]
        curves["held-out rows"] = ([step["step"] for step in validations], held_out_losses)
    with draw_chart("Training loss by step; its last and lowest values are in the table") as chart:
        points = np.array(curves["batches"], np.float64)
        # Means of neighbouring steps keep the page small and the curve readable.
        bins = np.array_split(points, min(points.shape[1], MAX_POINTS), axis=1)
        means = np.stack([part.mean(1) for part in bins], 1)
        chart.axes.plot(*means, color=SERIES[0], alpha=0.5, linewidth=1, label="batches")
        if validations:
            chart.axes.plot(*curves["held-out rows"], color=SERIES[2], marker="o", label="held-out rows")
        chart.axes.set(xlabel="step", ylabel="loss")
        chart.add_legend()
    rows = [
        [name, f"{losses[-1]:.3f}", f"{min(losses):.3f}", f"{indices[losses.index(min(losses))]:,}"]
        for name, (indices, losses) in curves.items()
    ]
    table = PageTable("Loss", ["on", "at the end", "lowest", "at step"], rows)
    return [Section("Training", (), chart.svg, "The loss that training minimises.", "loss.svg", [table])]


def _method_section(evaluation: Evaluation, provenance: Provenance) -> Section:
    """Return the section on how the scores were measured: rows, intervals, training time, and the command."""
    origin = " that training did not use" if provenance.steps and not evaluation.overlap else ""
    text = [f"Scored on {evaluation.num_rows:,} rows{origin}. {_describe_intervals(evaluation)}."]
    if not evaluation.overlap.warning:
        text.append(_describe_check(evaluation.overlap.checked))
    if provenance.steps:
        last = provenance.steps[-1]
        num_steps = len(provenance.steps)
        text.append(f"Training took {num_steps:,} steps, {last['tokens']:,} tokens and {duration(last['seconds'])}.")
    return Section("How it was measured", text, code=provenance.command)


def _describe_intervals(evaluation: Evaluation) -> str:
    """Return what the intervals of an evaluation are over, and how they are computed."""
    return GROUPED_INTERVALS if evaluation.has_groups else INTERVALS


def _describe_check(data: Sequence[str]) -> str:
    """Return a sentence saying that the scored rows are not among the rows that the model was fitted to, or that it is unknown.

    data: the names of the training data in which they were looked up; empty if the model records no such rows.
    """
    if not data:
        return "The model does not record the rows that it was fitted to, so the scored rows may be among them."
    return f"The scored rows were looked up in the rows that the model was fitted to, and are not among them: {', '.join(data)}."


def _coverage_sections(analysis: ErrorAnalysis) -> list[Section]:
    """Return the section on selective prediction; an empty list if the answers have no confidence."""
    points = analysis.coverage_curve
    if not points:
        return []
    label = f"{analysis.metric} of the rows answered, by the share of rows answered; the same numbers are in the table"
    with draw_chart(label) as chart:
        x = [100 * point.coverage for point in points]
        chart.axes.plot(x, [100 * point.score.value for point in points], color=SERIES[2], marker="o")
        low, high = ([100 * getattr(point.score, end) for point in points] for end in ("low", "high"))
        chart.axes.fill_between(x, low, high, color=SERIES[2], alpha=0.15, linewidth=0)
        chart.axes.set(xlabel="rows answered, %", ylabel=f"{analysis.metric} of these, %")
    rows = [[point.threshold_text, f"{100 * point.coverage:.1f} %", point.score.percent] for point in points]
    columns = ["confidence from", "rows answered", analysis.metric]
    text = [
        "Answers below a confidence threshold can be left to a person: mapsto predict --min-confidence leaves them blank."
    ]
    table = PageTable("Thresholds were chosen on these same rows", columns, rows)
    caption = "The band is the 95 % interval."
    return [Section("Answering only when confident", text, chart.svg, caption, "kept.svg", [table], anchor=CONFIDENT)]


def _calibration_sections(predictions: Predictions) -> list[Section]:
    """Return the section with the reliability diagram; an empty list if the answers have no probability."""
    calibration = predictions.calibration()
    if calibration is None:
        return []
    bins = confidence_bins(*calibration, predictions.group_numbers)
    if not bins:
        return []
    figure, tables = reliability_diagram([("this model", bins)]), [calibration_table(bins)]
    return [Section("Can its confidence be trusted?", (), figure, RELIABILITY_CAPTION, "calibration.svg", tables)]
