"""Parts that several HTML reports share: the reliability diagram, and the section of problems found in the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mapsto.errors import Finding, places
from mapsto.metrics.intervals import Array, Floats, Score, mean_score, with_interval
from mapsto.report.chart import DASHES, draw_chart
from mapsto.report.colours import SERIES
from mapsto.report.page import PageTable, Section

# Bins of the reliability diagram; one with fewer answers, or fewer than one in 200, is left out as noise.
NUM_BINS, MIN_BIN_SIZE = 10, 5
RELIABILITY_CAPTION = (
    "On the diagonal, answers are correct as often as their confidence says. "
    f"Tenths of confidence with fewer than {MIN_BIN_SIZE} answers, or fewer than 1 in 200, are not drawn."
)

MAX_FINDINGS_SHOWN = 20
MAX_TEXT_LENGTH = 400  # characters of a value in a table

COLOUR_LEGEND = (
    "Orange parts raise the model's confidence in its answer, blue ones (in text underlined with dots) lower it; the stronger "
    "the colour, the larger the effect."
)
COLOUR_SCALE = (
    '<div class="scale" role="img" aria-label="scale of the colours"><span>lowers the answer\'s score</span>'
    '<span class="ramp"></span><span>raises it</span></div>'
)


@dataclass(frozen=True)
class ConfidenceBin:
    """The answers with a confidence in one tenth. confidence: their mean confidence. score: the share of them that is right."""

    low: float
    high: float
    confidence: float
    score: Score


def confidence_bins(confidence: Floats, correctness: Floats, groups: Array | None = None) -> list[ConfidenceBin]:
    """Return the tenths of confidence that have enough answers.

    confidence: (n,), of each answer. correctness: (n,), from 0 to 1. groups: (n,), of rows that intervals resample.
    """
    # A confidence of exactly 1 belongs to the last bin.
    numbers = np.clip((confidence * NUM_BINS).astype(int), 0, NUM_BINS - 1)
    # The accuracy of a few answers is too noisy to show.
    min_size = max(MIN_BIN_SIZE, len(confidence) // 200)
    bins = []
    for number in range(NUM_BINS):
        is_inside = numbers == number
        if is_inside.sum() >= min_size:
            score = with_interval(
                mean_score, correctness[is_inside], groups=None if groups is None else groups[is_inside]
            )
            mean = float(confidence[is_inside].mean())
            bins.append(ConfidenceBin(number / NUM_BINS, (number + 1) / NUM_BINS, mean, score))
    return bins


def reliability_diagram(models: Sequence[tuple[str, Sequence[ConfidenceBin]]]) -> str:
    """Draw a reliability diagram (Niculescu-Mizil & Caruana 2005): accuracy by confidence, one line per model; return it as SVG.

    models: name and tenths of confidence of each model. A single model has the 95 % interval of each tenth.
    """
    label = "Accuracy of the answers by their confidence; a calibrated model lies on the diagonal"
    is_single = len(models) == 1
    with draw_chart(label) as chart:
        chart.axes.plot([0, 1], [0, 1], color=SERIES[0], linestyle="dotted", label="calibrated")
        for index, (name, bins) in enumerate(models):
            x, y = ([part.confidence for part in bins], [part.score.value for part in bins])
            # A single model gets the accent colour of the other charts.
            colour = SERIES[(index + 2 * is_single) % len(SERIES)]
            dash = DASHES[index // len(SERIES) % len(DASHES)]
            if is_single:
                chart.axes.vlines(
                    x, [part.score.low for part in bins], [part.score.high for part in bins], color=colour
                )
            chart.axes.plot(x, y, color=colour, marker="o", linestyle=dash, label=name)
        chart.axes.set(xlabel="confidence", ylabel="share of right answers", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        chart.add_legend()
    return chart.svg


def calibration_table(bins: Sequence[ConfidenceBin]) -> PageTable:
    """Tabulate the tenths of confidence: number of answers, mean confidence, and the share of right answers with its interval."""
    rows = [
        [
            f"{100 * part.low:.0f}–{100 * part.high:.0f} %",
            f"{part.score.n:,}",
            f"{100 * part.confidence:.1f} %",
            f"{100 * part.score.value:.1f} % ({part.score.interval_percent})",
        ]
        for part in bins
    ]
    return PageTable("Answers by confidence", ["confidence", "n", "on average", "right (95 % interval)"], rows)


def data_findings_section(findings: Sequence[Finding]) -> list[Section]:
    """Return a list of one section with a table of the first MAX_FINDINGS_SHOWN findings; an empty list without findings.

    findings: the problems that `mapsto check` finds in the data.
    """
    shown_findings = findings[:MAX_FINDINGS_SHOWN]
    locations = places([(finding.file, finding.row) for finding in shown_findings])
    rows = [
        [location, finding.reason, "" if finding.value is None else truncate(finding.value)]
        for location, finding in zip(locations, shown_findings, strict=True)
    ]
    if not rows:
        return []
    num_left_out = len(findings) - len(rows)
    text = [f"{num_left_out:,} more are not shown; mapsto check lists them all."] if num_left_out else []
    caption = "Duplicates and near-duplicates, contradicting labels, rare classes"
    table = PageTable(caption, ["row", "finding", "value"], rows, text_columns=(1, 2))
    return [Section("Findings in the data", text, tables=[table])]


def truncate(text: str) -> str:
    """Return `text`, cut to MAX_TEXT_LENGTH characters with "…" as the last one if it is longer."""
    return text if len(text) <= MAX_TEXT_LENGTH else text[: MAX_TEXT_LENGTH - 1] + "…"
