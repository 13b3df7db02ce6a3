"""The report of a comparison: scores, differences, robustness, calibration, errors, costs, and provenance."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mapsto.comparison.analysis import (
    Comparison,
    CurvePoint,
    format_labels_saved,
    format_points,
    format_score,
)
from mapsto.comparison.design import ALL, CLASSICAL, CONSTANT, METHODS, SCRATCH, SHIFT, TEST, Design, Fit
from mapsto.comparison.runs import (
    CALIBRATION_FILE,
    CURVES_FILE,
    FITS_FILE,
    REPORT_FILE,
    RESULTS_FILE,
    Experiment,
    FitResult,
)
from mapsto.comparison.start_overlap import describe_overlaps
from mapsto.comparison.verdict import (
    CURVES,
    EXTRAPOLATION,
    ROBUSTNESS,
    answer_questions,
    describe_recommendation,
    key_figures,
    recommendation_section,
    score_picture,
)
from mapsto.data import writers
from mapsto.data.rows import Rows
from mapsto.evaluation.error_analysis import analyse_errors
from mapsto.evaluation.evaluate import Predictions
from mapsto.evaluation.report_sections import class_sections, example_sections, mistake_sections, slice_sections
from mapsto.files import write_atomic
from mapsto.report.chart import DASHES, draw_chart
from mapsto.report.colours import SERIES
from mapsto.report.figures import RELIABILITY_CAPTION, confidence_bins, data_findings_section, reliability_diagram
from mapsto.report.page import Page, PageTable, Section
from mapsto.task.target_capabilities import Classes

# By method: a sentence on the candidate, for readers who do not know the method's name. {} becomes the candidate's
# name.
EXPLANATIONS = {
    CONSTANT: "{}: a baseline that ignores its input",
    CLASSICAL: "{}: a baseline without a network or pretraining",
    SCRATCH: "{}: all weights are trained from random values",
    "full": "full: all weights of the starting model are fine-tuned",
    "probe": "probe: the starting model is frozen, and a linear model is fitted to its embeddings",
    "contrast": "contrast: the starting model learns to embed rows of one class close together, then a linear model is fitted",
}


def write_report(out: Path, comparison: Comparison, experiment: Experiment) -> None:
    """Write results.json, fits.parquet, report.html and the figures as SVG files, each atomically.

    out: an existing folder.
    Raises UsageError if matplotlib is not installed, RunError if a file cannot be written.
    """
    record = {**comparison.record(), "how": experiment.facts}
    # JSON has no NaN; `record` has replaced it by null.
    text = json.dumps(record, ensure_ascii=False, indent=1, allow_nan=False)
    write_atomic(out / RESULTS_FILE, f"{text}\n".encode())
    rows = [row for fit, result in experiment.results.items() for row in _table_rows(fit, result)]
    writers.write_file(out / FITS_FILE, list(rows[0]), rows)
    page = comparison_page(comparison, experiment)
    page.write_figures(out)
    page.write(out / REPORT_FILE)


def _table_rows(fit: Fit, result: FitResult) -> Iterator[dict[str, Any]]:
    """Yield the rows of fits.parquet for one fit: one for its score on each test set, each other metric, and each cost."""
    # Column names of the file format, older than the names in code.
    fit_columns = {"way": fit.candidate.name, "labels": fit.num_labels, "seed": fit.seed}
    for test_set, item_scores in result.item_scores.items():
        yield {**fit_columns, "rows": test_set, "figure": "score", "value": float(item_scores.mean())}
    costs = {"seconds": result.seconds, "tokens": float(result.tokens), "peak_megabytes": result.peak_megabytes}
    for name, value in {**result.metrics, **costs}.items():
        yield {**fit_columns, "rows": TEST, "figure": name, "value": value}


def comparison_page(comparison: Comparison, experiment: Experiment) -> Page:
    """Build the HTML page of a comparison."""
    draws = f"{comparison.num_seeds} draws of labels"
    if comparison.num_seeds == 1:
        draws = "one draw of labels, so no intervals"
    subtitle = (
        f"{comparison.arrow} · {comparison.num_pool_rows:,} rows with labels · {comparison.num_test_rows:,} test rows · "
        f"{draws} · {len(experiment.results):,} fits"
    )
    return Page(
        title="Which starting model and method?",
        subtitle=subtitle,
        verdicts=[describe_recommendation(comparison)],
        figures=key_figures(comparison),
        picture=score_picture(comparison),
        warnings=describe_overlaps(comparison.overlaps, list(comparison.curves)),
        answers=answer_questions(comparison),
        sections=[
            _curve_section(comparison, experiment.design),
            recommendation_section(comparison),
            _difference_section(comparison),
            _extrapolation_section(comparison),
            _robustness_section(comparison),
            _calibration_section(comparison, experiment),
            *_error_sections(comparison, experiment),
            *data_findings_section(experiment.design.findings),
            _cost_section(comparison),
            _method_section(comparison, experiment),
        ],
    )


def _explain_candidates(design: Design) -> str:
    """Return a paragraph that says what each compared model is."""
    sentences = dict.fromkeys(
        EXPLANATIONS[SCRATCH if candidate.method == "full" and candidate.start is None else candidate.method].format(
            candidate.name
        )
        for candidate in design.candidates
    )
    return f"{'; '.join(sentences)}."


def _curve_section(comparison: Comparison, design: Design) -> Section:
    """Return the section on learning curves: a figure and a table of the scores by number of labels."""
    counts = comparison.label_counts
    label = f"{comparison.metric} by number of labels, one line for each model; the same numbers are in the table"
    with draw_chart(label) as chart:
        axes = chart.axes
        for index, (name, points) in enumerate(comparison.curves.items()):
            # When the colours are used up, they repeat with another line style.
            colour, dash = SERIES[index % len(SERIES)], DASHES[index // len(SERIES) % len(DASHES)]
            x = [point.num_labels for point in points]
            y = [100 * point.score.value for point in points]
            axes.plot(x, y, color=colour, linestyle=dash, marker="o", label=name)
            if comparison.num_seeds > 1:
                low, high = ([100 * getattr(point.score, end) for point in points] for end in ("low", "high"))
                axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        # Numbers of labels differ by factors.
        axes.set(xscale="log", xlabel="labels", ylabel=f"{comparison.metric}, %")
        axes.set_xticks(counts, [f"{count:,}" for count in counts])
        # A logarithmic axis would label its minor ticks beside the numbers of labels.
        axes.minorticks_off()
        chart.add_legend()
    rows = []
    for name, points in comparison.curves.items():
        scores = {point.num_labels: format_score(point.score) for point in points}
        rows.append([name, *(scores.get(count, "") for count in counts)])
    interval = "mean (95 % interval over draws and rows)" if comparison.num_seeds > 1 else "one draw, no interval"
    columns = ["model", *(f"{count:,} labels" for count in counts)]
    table = PageTable(f"{comparison.metric} in %, {interval}", columns, rows)
    caption = "Bands are 95 % intervals." if comparison.num_seeds > 1 else "One draw of labels, so no bands."
    return Section(
        "Learning curves", [_explain_candidates(design)], chart.svg, caption, CURVES_FILE, [table], anchor=CURVES
    )


def _difference_section(comparison: Comparison) -> Section:
    """Return the section with a table of the paired differences: points gained and labels saved, by model and labels."""
    title = "What a starting model gains"
    if not comparison.differences:
        return Section(title, ["There is no starting model to compare."])
    rows = [
        [
            f"{difference.candidate} against {difference.reference}",
            f"{difference.num_labels:,}",
            format_points(difference.points),
            format_labels_saved(difference).replace("about ", "").replace(" labels", ""),
        ]
        for difference in comparison.differences
    ]
    text = [
        *comparison.headline,
        "Points: the difference of the scores on the same test rows with the same labels, in percentage points. It is "
        "significant where its interval excludes 0.",
        "Labels saved: how many more labels the second model needs for the score of the first, read off its learning curve. "
        'A negative number: it needs fewer. "Or less": it is already better with its fewest labels.',
    ]
    columns = ["models", "labels", "points (95 % interval)", "labels saved (95 % interval)"]
    return Section(title, text, tables=[PageTable("Paired differences", columns, rows)])


def _extrapolation_section(comparison: Comparison) -> Section:
    """Return the section with the scores predicted for more labels, and the check of the prediction."""
    title = "With more labels"
    if not comparison.extrapolations:
        return Section(title, ["An extrapolation needs at least three numbers of labels."])
    counts = list(comparison.extrapolations[0].scores)
    rows = []
    for extrapolation in comparison.extrapolations:
        last = comparison.curves[extrapolation.candidate][-1]
        scores = extrapolation.scores
        predictions = [format_score(scores[count]) if count in scores else "" for count in counts]
        check = [f"{last.num_labels:,}", format_score(extrapolation.predicted_last), format_score(last.score)]
        rows.append([extrapolation.candidate, *predictions, *check])
    columns = ["model", *(f"{count:,} labels, predicted" for count in counts), "check at", "predicted", "measured"]
    text = [
        "Predicted scores, if the error keeps falling as a power of the number of labels. As a check, the last measured "
        "score was predicted from the earlier ones; where that fails, do not trust the prediction."
    ]
    table = PageTable(f"{comparison.metric} in %, extrapolated", columns, rows)
    return Section(title, text, tables=[table], anchor=EXTRAPOLATION)


def _robustness_section(comparison: Comparison) -> Section:
    """Return the section with each model's change of score on perturbed test rows, and its score on the rows of --shift."""
    title = "On data that looks different"
    tables = list(filter(None, (_perturbation_table(comparison), _shift_table(comparison))))
    if not tables:
        return Section(title, ["Values of this kind cannot be perturbed, and no --shift was given."])
    return Section(title, tables=tables, anchor=ROBUSTNESS)


def _perturbation_table(comparison: Comparison) -> PageTable | None:
    """Tabulate how much each perturbation changes each model's score; None if the kind has no perturbations."""
    lasts = {name: points[-1] for name, points in comparison.curves.items() if points[-1].changes}
    if not lasts:
        return None
    rows = [
        [name, f"{point.num_labels:,}", *map(format_points, point.changes.values())] for name, point in lasts.items()
    ]
    caption = "Change of the score in points when the test rows are perturbed, with the most labels"
    return PageTable(caption, ["model", "labels", *next(iter(lasts.values())).changes], rows)


def _shift_table(comparison: Comparison) -> PageTable | None:
    """Tabulate each model's score on the rows of --shift; None without --shift."""
    rows = [
        [name, f"{points[-1].num_labels:,}", format_score(points[-1].test_set_scores[SHIFT])]
        for name, points in comparison.curves.items()
        if SHIFT in points[-1].test_set_scores
    ]
    caption = "Score on the rows of --shift in %, with the most labels"
    return PageTable(caption, ["model", "labels", SHIFT], rows) if rows else None


def _predictions(design: Design, result: FitResult) -> Predictions:
    """Return a fit's outputs for the test rows with their labels.

    The target object, which decodes the outputs, is rebuilt from its saved state.
    """
    return design.predictions(design.target_class(result.aligned)(**result.target_state), result.output)


def _results(experiment: Experiment, candidate: str, num_labels: int) -> list[FitResult]:
    """Return the results of a candidate with one number of labels, one per seed, in the order of the seeds.

    candidate: its name.
    """
    return [
        result
        for fit, result in experiment.results.items()
        if fit.candidate.name == candidate and fit.num_labels == num_labels
    ]


def _calibration_section(comparison: Comparison, experiment: Experiment) -> Section:
    """Return the section with the reliability diagram and with a table of all metrics except the compared one."""
    lasts = {name: points[-1] for name, points in comparison.curves.items()}
    metrics = dict.fromkeys(name for point in lasts.values() for name in point.metrics if name != comparison.metric)
    rows, models, num_unseen = [], [], 0
    for name, point in lasts.items():
        fits = [_predictions(experiment.design, result) for result in _results(experiment, name, point.num_labels)]
        calibrations = [predictions.calibration() for predictions in fits]
        num_unseen = max(num_unseen, *map(_count_unseen, fits))
        # The answers of all seeds are pooled into one line per model.
        if pairs := [calibration for calibration in calibrations if calibration is not None]:
            confidence, correctness = (np.concatenate(part) for part in zip(*pairs, strict=True))
            models.append((name, confidence_bins(confidence, correctness)))
        rows.append([name, f"{point.num_labels:,}", *(_format_metric(point, metric) for metric in metrics)])
    caption = "Other metrics, with the most labels; mean (95 % interval over draws)"
    columns = ["model", "labels", *(metric.replace("_", " ") for metric in metrics)]
    tables = [PageTable(caption, columns, rows)] if metrics else []
    title = "Can its confidence be trusted?"
    if not models:
        return Section(title, ["These answers have no probability."], tables=tables)
    # Log loss needs the probability of the true class, which a fit has only for the classes in its sample of labels.
    text = [f"Log loss leaves out the test rows whose class a fit never saw, up to {num_unseen:,}."]
    has_gaps = num_unseen > 0 and "log_loss" in metrics
    figure_caption = f"With the most labels. {RELIABILITY_CAPTION}"
    return Section(
        title, text if has_gaps else (), reliability_diagram(models), figure_caption, CALIBRATION_FILE, tables
    )


def _count_unseen(predictions: Predictions) -> int:
    """Return the number of test rows with a true class that did not occur in the training rows of the fit."""
    target = predictions.target
    if not isinstance(target, Classes):
        return 0
    return sum(not set(target.class_names(label)) <= set(target.known_names) for label in predictions.labels)


def _format_metric(point: CurvePoint, name: str) -> str:
    """Return a metric of a curve point as text with its interval; empty if the point lacks the metric."""
    score = point.metrics.get(name)
    if score is None:
        return ""
    value, low, high = (
        f"{number:.3f}" if abs(number) < 10 else f"{number:.4g}" for number in (score.value, score.low, score.high)
    )
    return value if math.isnan(score.low) else f"{value} ({low}–{high})"


def _error_sections(comparison: Comparison, experiment: Experiment) -> list[Section]:
    """Return the sections on slices, mistakes and examples of the best model with the most labels.

    Of several fits of the model, the one with the first seed is shown. The examples, with highlighted input parts, are
    of the best model that has attributions, which may be another model.
    """
    num_labels = comparison.label_counts[-1]
    scores = {
        name: points[-1].score.value
        for name, points in comparison.curves.items()
        if points[-1].num_labels == num_labels
    }
    # The best first; a model whose largest number of labels is smaller is left out.
    ranked = sorted(scores, key=lambda name: -scores[name])
    first_draws = {name: _results(experiment, name, num_labels)[0] for name in ranked}
    best = ranked[0]
    best_explained = next((name for name in ranked if first_draws[name].parts), None)
    sections = []
    for name in dict.fromkeys(filter(None, (best, best_explained))):
        predictions = _predictions(experiment.design, first_draws[name])
        context = f"{name}, {num_labels:,} labels, first draw"
        analysis = analyse_errors(predictions, first_draws[name].parts)
        assert analysis is not None, "what is compared has a score for each row"
        if name == best:
            sections += class_sections(predictions, context)
            sections += mistake_sections(predictions, analysis, context)
            sections += slice_sections(analysis, context)
        if name == best_explained:
            sections += example_sections(predictions, analysis, context)
    return sections


def _cost_section(comparison: Comparison) -> Section:
    """Return the section with time, tokens and memory of the fits."""
    rows = []
    for name, points in comparison.curves.items():
        previous: CurvePoint | None = None
        for point in points:
            cost = point.cost
            peak = "" if cost.peak_megabytes is None else f"{cost.peak_megabytes:,.0f}"
            marginal = "" if previous is None else _format_marginal_cost(previous, point)
            rows.append([name, f"{point.num_labels:,}", f"{cost.seconds:,.1f}", f"{cost.tokens:,}", peak, marginal])
            previous = point
    columns = ["model", "labels", "seconds per fit", "tokens read", "peak memory, MB", "cost of one more point"]
    text = ["Cost of one more point: labels and seconds added since the line above, divided by the points gained."]
    return Section("Cost", text, tables=[PageTable("Medians over the draws", columns, rows)])


def _format_marginal_cost(previous: CurvePoint, point: CurvePoint) -> str:
    """Return as text how many labels and seconds one more percentage point costs; empty if the score did not rise."""
    if point.score.value <= previous.score.value:
        return ""
    points_gained = 100 * (point.score.value - previous.score.value)
    num_labels = (point.num_labels - previous.num_labels) / points_gained
    seconds = (point.cost.seconds - previous.cost.seconds) / points_gained
    # Small fits differ in time by chance; a negative cost would only confuse.
    return f"{num_labels:,.0f} labels, {max(0.0, seconds):,.1f} s"


def _method_section(comparison: Comparison, experiment: Experiment) -> Section:
    """Return the section on how the results were measured: sampling, intervals, fingerprints, and the command."""
    design, facts = experiment.design, experiment.facts
    text = [
        f"All models were fitted with the same labels and scored on the same {comparison.num_test_rows:,} test rows, "
        "which no fit of this comparison used. For each seed the labels are drawn once: smaller samples are part of the larger "
        "ones, and classes are as frequent in them as in all rows, each at least once where there is room.",
        "The headline describes a starting model by one of the methods that were fitted with every number of labels: the "
        "one with the largest mean gain. Where several are close, this choice flatters it a little.",
        "Nothing was tuned on the test rows. Fits use the settings of mapsto fit for that number of labels; a probe and "
        "the linear baseline choose their regularisation by cross-validation within their labels.",
        f"Intervals: draws of labels and test {comparison.units} vary at once. A two-way analysis of variance separates their "
        "variances, and the few draws get Student's t. Labels saved and extrapolations use 10,000 bootstrap samples of the "
        "learning curves.",
    ]
    has_scratch = any(candidate.start is None and candidate.method == "full" for candidate in design.candidates)
    if design.scratch_like is not None and has_scratch:
        text.append(f"scratch has the shape and the tokenizer of {design.scratch_like}, and random weights.")
    rows = [
        # 16 hexadecimal digits identify a file; the whole digest is in results.json.
        ["data (SHA-256)", facts["data"][:16]],
        ["test (SHA-256)", facts["test"][:16]],
        *([name, (fingerprint or "")[:16]] for name, fingerprint in facts["starts"].items()),
        *([name, version] for name, version in facts["versions"].items()),
    ]
    table = PageTable("Provenance", ["item", "fingerprint or version"], rows)
    return Section("How it was measured", text, tables=[table], code=_command(design))


def _command(design: Design) -> str:
    """Return the shell command that repeats the comparison, with the placeholder FOLDER for its output folder."""
    fitted = [candidate for candidate in design.candidates if candidate.method in METHODS]
    lists = {
        "starts": dict.fromkeys(candidate.start or SCRATCH for candidate in fitted),
        "labels": [ALL if count == len(design.pool) else count for count in design.label_counts],
        "methods": dict.fromkeys(candidate.method for candidate in fitted),
    }
    data_file = _file(design.pool)
    words = ["mapsto", "compare", str(design.arrow), data_file]
    for flag, test_set in (("--test", TEST), ("--shift", SHIFT)):
        # Test rows that were held out of the data have its file, and are held out again without --test.
        if test_set in design.test_sets and (file := _file(design.test_sets[test_set])) != data_file:
            words += [flag, file]
    for name, values in lists.items():
        words += [f"--{name}", ",".join(map(str, values))]
    words += ["--seeds", str(len(design.seeds))]
    words += ["--allow-overlap"] if design.overlaps else []
    words += design.options.flags()
    return shlex.join([*words, "--out", "FOLDER"])


def _file(rows: Rows) -> str:
    """Return the file that the rows were read from, or its folder if they come from several files."""
    names = sorted({file for file, _ in rows.table.origins})
    return names[0] if len(names) == 1 else str(Path(names[0]).parent)
