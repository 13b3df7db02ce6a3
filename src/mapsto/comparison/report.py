"""The report of a comparison: the headline in words, curves, tables, what goes wrong, how it was measured."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mapsto import kinds
from mapsto.comparison.analysis import Comparison, Point, labels_saved, shown, signed
from mapsto.comparison.design import ALL, BLIND, CLASSICAL, METHODS, SCRATCH, SHIFT, TEST, Cell, Study
from mapsto.comparison.runs import CALIBRATION, CURVES, FITS, REPORT, RESULTS, Outcome
from mapsto.data import writers
from mapsto.data.rows import Rows
from mapsto.evaluation.error_analysis import analyse_errors
from mapsto.evaluation.evaluate import Predictions
from mapsto.evaluation.report_sections import example_sections, mistake_sections, slice_sections
from mapsto.files import write_atomic
from mapsto.report.figures import data_findings_section, reliability_diagram
from mapsto.report.page import DASHES, SERIES, Page, PageTable, Section, draw_chart

# What a way does, for people who do not know the names.
WORDS = {
    BLIND: "{}: a model that reads nothing",
    CLASSICAL: "{}: a linear model that needs no pretraining",
    SCRATCH: "{}: all weights are fitted from random ones",
    "full": "full: all weights are fitted from those of the start",
    "probe": "probe: the weights of the start stay, a linear model answers from its vectors",
    "contrast": "contrast: the start learns to draw rows of one class together, then a linear model answers",
}


def write(
    out: Path, comparison: Comparison, study: Study, outcomes: dict[Cell, Outcome], facts: dict[str, Any]
) -> None:
    """results.json, fits.parquet, report.html and the figures as SVG, each whole or not there.

    Raises UsageError without matplotlib.
    """
    record = {**comparison.record(), "how": facts}
    write_atomic(out / RESULTS, (json.dumps(record, ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode())
    fits = [fit for cell, outcome in outcomes.items() for fit in _rows(cell, outcome)]
    writers.write_file(out / FITS, list(fits[0]), fits)
    page = compared(comparison, study, outcomes, facts)
    page.write_figures(out)
    page.write(out / REPORT)


def _rows(cell: Cell, outcome: Outcome) -> Iterator[dict[str, Any]]:
    """One fit as rows of a table: one for each figure."""
    fit = {"way": cell.way.name, "labels": cell.labels, "seed": cell.seed}
    for view, gains in outcome.gains.items():
        yield {**fit, "rows": view, "figure": "score", "value": float(gains.mean())}
    costs = {"seconds": outcome.seconds, "tokens": float(outcome.tokens), "peak_megabytes": outcome.peak}
    for name, value in {**outcome.figures, **costs}.items():
        yield {**fit, "rows": TEST, "figure": name, "value": value}


def compared(comparison: Comparison, study: Study, outcomes: dict[Cell, Outcome], facts: dict[str, Any]) -> Page:
    """The page of a comparison."""
    draws = f"{comparison.seeds} draws of labels" if comparison.seeds > 1 else "one draw of labels, so no intervals"
    subtitle = (
        f"{comparison.arrow} · {comparison.pool:,} rows with labels · {comparison.tested:,} rows to test on · {draws} · "
        f"{len(outcomes):,} fits"
    )
    return Page(
        title="What did the pretraining buy?",
        subtitle=subtitle,
        headline=comparison.headline,
        sections=[
            _curves(comparison, study),
            _differences(comparison),
            _foresight(comparison),
            _robustness(comparison),
            _calibration(comparison, study, outcomes),
            *_looked_at(comparison, study, outcomes),
            *data_findings_section(study.findings),
            _costs(comparison),
            _how(comparison, study, facts),
        ],
    )


def _ways(study: Study) -> str:
    """In words what each way does, by its method."""
    told = dict.fromkeys(
        WORDS[SCRATCH if way.method == "full" and way.start is None else way.method].format(way.name)
        for way in study.ways
    )
    return f"{'; '.join(told)}."


def _curves(comparison: Comparison, study: Study) -> Section:
    labels = comparison.labels
    with draw_chart(
        f"{comparison.gain} by number of labels, one line for each way; the same figures are in the table"
    ) as chart:
        axes = chart.axes
        for at, (name, points) in enumerate(comparison.curves.items()):
            colour, dash = SERIES[at % len(SERIES)], DASHES[at // len(SERIES) % len(DASHES)]
            x = [point.labels for point in points]
            axes.plot(x, [100 * p.score.value for p in points], color=colour, linestyle=dash, marker="o", label=name)
            if comparison.seeds > 1:
                low, high = ([100 * getattr(p.score, end) for p in points] for end in ("low", "high"))
                axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set(xscale="log", xlabel="labels", ylabel=f"{comparison.gain}, %")
        axes.set_xticks(labels, [f"{count:,}" for count in labels])
        axes.minorticks_off()
        chart.add_legend()
    rows = []
    for name, points in comparison.curves.items():
        at_labels = {point.labels: shown(point.score) for point in points}
        rows.append([name, *(at_labels.get(count, "") for count in labels)])
    interval = "mean (95 % interval over draws and rows)" if comparison.seeds > 1 else "one draw, no interval"
    table = PageTable(f"{comparison.gain} in %, {interval}", ["way", *(f"{count:,} labels" for count in labels)], rows)
    caption = "Bands are 95 % intervals." if comparison.seeds > 1 else "One draw of labels, so no bands."
    return Section("Learning curves", [_ways(study)], chart.svg, caption, CURVES, [table])


def _differences(comparison: Comparison) -> Section:
    rows = [
        [
            f"{d.way} against {d.against}",
            f"{d.labels:,}",
            signed(d.points),
            labels_saved(d).replace("about ", "").replace(" labels", ""),
        ]
        for d in comparison.differences
    ]
    text = [
        "Points: how much better, on the same rows with the same labels. Labels saved: how many more labels the other way needs "
        "for the same score, read off its curve; a number below 0 is what it costs. Or less: the other way is ahead with its "
        "fewest labels already.",
    ]
    if not rows:
        text = ["There is no start to compare with another."]
    columns = ["what", "labels", "points (95 % interval)", "labels saved (95 % interval)"]
    return Section(
        "What a start is worth", text, tables=[PageTable("Paired differences", columns, rows)] if rows else []
    )


def _foresight(comparison: Comparison) -> Section:
    if not comparison.foresights:
        return Section("With more labels", ["A look ahead needs three numbers of labels at least."])
    ends = {name: points[-1] for name, points in comparison.curves.items()}
    rows = []
    later = list(comparison.foresights[0].at)
    for foresight in comparison.foresights:
        last = ends[foresight.way]
        told = [shown(foresight.at[count]) if count in foresight.at else "" for count in later]
        rows.append([foresight.way, *told, f"{last.labels:,}", shown(foresight.last_foretold), shown(last.score)])
    columns = ["way", *(f"{count:,} labels, about" for count in later), "tested at", "foretold", "measured"]
    text = [
        "If the error goes on falling as a power of the number of labels. As a test, the last point was foretold from those "
        "before it; where that failed, do not trust the look ahead."
    ]
    return Section("With more labels", text, tables=[PageTable(f"{comparison.gain} in %, looked ahead", columns, rows)])


def _robustness(comparison: Comparison) -> Section:
    tables = []
    for changed in (True, False):
        rows = []
        columns: list[str] = []
        for name, points in comparison.curves.items():
            last = points[-1]
            found = last.changes if changed else {view: s for view, s in last.views.items() if view == SHIFT}
            if found:
                columns = list(found)
                rows.append(
                    [name, f"{last.labels:,}", *((signed if changed else shown)(score) for score in found.values())]
                )
        if rows:
            caption = (
                "Change in points when the test rows are given otherwise"
                if changed
                else "Score on rows from elsewhere, %"
            )
            tables.append(PageTable(f"{caption}, with the most labels", ["way", "labels", *columns], rows))
    if not tables:
        return Section(
            "On data that looks different", ["This kind of value has no disturbed form, and no --shift was given."]
        )
    return Section("On data that looks different", tables=tables)


def _answers(study: Study, outcome: Outcome) -> Predictions:
    return study.answers(kinds.target(study.arrow.targets[study.port].kind)(**outcome.target), outcome.output)


def _of(outcomes: dict[Cell, Outcome], name: str, labels: int) -> list[Outcome]:
    return [outcome for cell, outcome in outcomes.items() if cell.way.name == name and cell.labels == labels]


def _calibration(comparison: Comparison, study: Study, outcomes: dict[Cell, Outcome]) -> Section:
    rows, ways = [], []
    lasts = [points[-1] for points in comparison.curves.values()]
    figures = [key for key in dict.fromkeys(key for last in lasts for key in last.figures) if key != comparison.gain]
    for name, last in zip(comparison.curves, lasts, strict=True):
        found = _of(outcomes, name, last.labels)
        told = [pair for one in found if (pair := _answers(study, one).calibration()) is not None]
        if told:
            sure, right = (np.concatenate(part) for part in zip(*told, strict=True))
            ways.append((name, sure, right))
        rows.append([name, f"{last.labels:,}", *(_over_seeds(last, key) for key in figures)])
    caption = "Other figures, with the most labels; mean (95 % interval over draws)"
    tables = (
        [PageTable(caption, ["way", "labels", *(key.replace("_", " ") for key in figures)], rows)] if figures else []
    )
    title = "Can its confidence be trusted?"
    if not ways:
        return Section(title, ["These answers carry no probability."], tables=tables)
    figure = reliability_diagram(ways)
    return Section(title, figure=figure, caption="With the most labels.", file=CALIBRATION, tables=tables)


def _over_seeds(point: Point, key: str) -> str:
    score = point.figures.get(key)
    if score is None:
        return ""
    middle, low, high = (
        f"{value:.3f}" if abs(value) < 10 else f"{value:.4g}" for value in (score.value, score.low, score.high)
    )
    return middle if math.isnan(score.low) else f"{middle} ({low}–{high})"


def _looked_at(comparison: Comparison, study: Study, outcomes: dict[Cell, Outcome]) -> list[Section]:
    """Where the best way with the most labels goes wrong, in its first draw; and what the best of those that can say it looks
    at."""
    most = comparison.labels[-1]
    at = {name: points[-1].score.value for name, points in comparison.curves.items() if points[-1].labels == most}
    first = {name: _of(outcomes, name, most)[0] for name in sorted(at, key=lambda name: -at[name])}
    best, told = next(iter(first)), next((name for name, outcome in first.items() if outcome.parts), None)
    found = []
    for name in dict.fromkeys(filter(None, (best, told))):
        answers, where = _answers(study, first[name]), f"{name}, {most:,} labels, first draw"
        look = analyse_errors(answers, first[name].parts)
        assert look is not None  # what is compared has a worth
        found += [*slice_sections(look, where), *mistake_sections(answers, look, where)] if name == best else []
        found += example_sections(answers, look, where) if name == told else []
    return found


def _costs(comparison: Comparison) -> Section:
    rows = []
    for name, points in comparison.curves.items():
        before: Point | None = None
        for point in points:
            more = ""
            if before is not None and point.score.value > before.score.value:
                gained = 100 * (point.score.value - before.score.value)
                labels = (point.labels - before.labels) / gained
                seconds = (point.cost.seconds - before.cost.seconds) / gained
                more = f"{labels:,.0f} labels, {max(0.0, seconds):,.1f} s"
            peak = "" if point.cost.peak is None else f"{point.cost.peak:,.0f}"
            rows.append([name, f"{point.labels:,}", f"{point.cost.seconds:,.1f}", f"{point.cost.tokens:,}", peak, more])
            before = point
    columns = ["way", "labels", "seconds a fit", "tokens read", "most memory, MB", "one more point cost"]
    text = ["One more point: what the step from the line above cost, divided by the points it brought."]
    return Section("What it cost", text, tables=[PageTable("Medians over the draws", columns, rows)])


def _how(comparison: Comparison, study: Study, facts: dict[str, Any]) -> Section:
    text = [
        f"Every way saw the same labels and was scored on the same {comparison.tested:,} rows, which no fit saw. For each seed "
        "the labels are drawn once; the smaller numbers are part of the larger ones, and classes stand in them as in all rows, "
        "each at least once where there is room.",
        "The headline compares a start by one of the methods that all numbers of labels were fitted with: the one that gains "
        "most in the mean of them, which flatters it a little where several are close.",
        "No way was tuned on the test rows. Fits take the settings of mapsto fit for so many labels; a probe and the linear "
        "model choose their strength by cross-validation within their labels.",
        "Intervals: draws of labels and rows vary at once; a two-way analysis of variance tells their parts apart, and the few "
        "draws get Student's t. Labels saved and the look ahead are taken from 10,000 sets of curves drawn from it.",
    ]
    if study.like is not None and any(way.start is None and way.method == "full" for way in study.ways):
        text.append(f"scratch has the shape and the tokenizer of {study.like}, and random weights.")
    table = PageTable(
        "Provenance",
        ["what", "which"],
        [
            ["data (SHA-256)", facts["data"][:16]],
            ["test (SHA-256)", facts["test"][:16]],
            *([name, (weights or "")[:16]] for name, weights in facts["starts"].items()),
            *([name, value] for name, value in facts["versions"].items()),
        ],
    )
    return Section("How it was measured", text, tables=[table], code=_command(study))


def _command(study: Study) -> str:
    """What makes this comparison again, into a folder of another name."""
    fits = [way for way in study.ways if way.method in METHODS]
    chosen = {
        "starts": dict.fromkeys(way.start or SCRATCH for way in fits),
        "labels": [ALL if count == len(study.pool) else count for count in study.labels],
        "methods": dict.fromkeys(way.method for way in fits),
    }
    words = ["mapsto", "compare", str(study.arrow), _file(study.pool)]
    for flag, view in (("--test", TEST), ("--shift", SHIFT)):
        if view in study.views and (named := _file(study.views[view])) != words[3]:
            words += [flag, named]
    for name, values in chosen.items():
        words += [f"--{name}", ",".join(map(str, values))]
    words += ["--seeds", str(len(study.seeds))]
    words += study.options.flags()
    return shlex.join([*words, "--out", "FOLDER"])


def _file(rows: Rows) -> str:
    """The file that rows come from, or the folder where they come from several."""
    files = sorted({file for file, _ in rows.table.origins})
    return files[0] if len(files) == 1 else str(Path(files[0]).parent)
