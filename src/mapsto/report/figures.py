"""Parts that several HTML reports share: the reliability diagram, and the section of problems found in the data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mapsto.errors import Finding, places
from mapsto.metrics.intervals import Floats
from mapsto.report.page import DASHES, SERIES, PageTable, Section, draw_chart

# Bins of the reliability diagram; one with fewer answers, or fewer than one in 200, is left out as noise.
NUM_BINS, MIN_BIN_SIZE = 10, 5
RELIABILITY_CAPTION = (
    "On the diagonal, answers are correct as often as their confidence says. "
    f"Tenths of confidence with fewer than {MIN_BIN_SIZE} answers, or fewer than 1 in 200, are not drawn."
)

MAX_FINDINGS_SHOWN = 20
MAX_TEXT_LENGTH = 400  # characters of a value in a table

COLOUR_LEGEND = (
    "Green parts raise the model's confidence in its answer, red ones (in text underlined with dots) lower it; the stronger the "
    "colour, the larger the effect."
)


def reliability_diagram(models: Sequence[tuple[str, Floats, Floats]]) -> str:
    """Draw a reliability diagram (Niculescu-Mizil & Caruana 2005): accuracy by confidence, one line per model; return it as SVG.

    models: (name, confidence, correctness) of each model: its name, and for its n answers their confidence (n,), and their
        correctness (n,) from 0 to 1.
    """
    label = "Accuracy of the answers by their confidence; a calibrated model lies on the diagonal"
    with draw_chart(label) as chart:
        chart.axes.plot([0, 1], [0, 1], color=SERIES[0], linestyle="dotted", label="calibrated")
        for index, (name, confidence, correctness) in enumerate(models):
            # A confidence of exactly 1 belongs to the last bin.
            bin_index = np.clip((confidence * NUM_BINS).astype(int), 0, NUM_BINS - 1)
            counts = np.bincount(bin_index, minlength=NUM_BINS)
            # The accuracy of a few answers is too noisy to show.
            is_large = counts >= max(MIN_BIN_SIZE, len(confidence) // 200)
            x, y = (
                np.bincount(bin_index, values, NUM_BINS)[is_large] / counts[is_large]
                for values in (confidence, correctness)
            )
            # A single model gets the accent colour of the other charts.
            colour = SERIES[(index + 2 * (len(models) == 1)) % len(SERIES)]
            dash = DASHES[index // len(SERIES) % len(DASHES)]
            chart.axes.plot(x, y, color=colour, marker="o", linestyle=dash, label=name)
        chart.axes.set(xlabel="confidence", ylabel="share of correct answers")
        chart.add_legend()
    return chart.svg


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
