"""The HTML page of `mapsto suggest`: which rows to label next, why, and where they lie among all rows of the pool.

The map is the first two principal components of the model's vectors of at most MAX_MAPPED rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mapsto.active_learning.place_map import PlaceMap
from mapsto.active_learning.suggestions import ENOUGH_LABELS, ENOUGH_PER_CLASS, UNCERTAIN, Suggestion, Suggestions
from mapsto.errors import places, shorten
from mapsto.report.chart import draw_chart
from mapsto.report.colours import SERIES
from mapsto.report.page import KeyFigure, Page, PageTable, Picture, Section

MAX_CELL = 400  # characters of a cell
ROWS = "rows"
MAP_CAPTION = (
    "Each point is a row of the pool, near the rows that the model finds similar (first two principal components of its "
    "vectors); large points are the suggested rows."
)


def suggestion_page(result: Suggestions, model: str) -> Page:
    """Return the HTML page of the rows suggested for labelling. model: folder or hub name of the model that chose them."""
    count, is_uncertain = len(result.suggestions), result.suggestions[0].reason == UNCERTAIN
    reason = (
        f"{Path(model).name} is least sure about them, and they are spread over different kinds of rows"
        if is_uncertain
        else "they are the most typical of different kinds of rows, since labels are still few"
    )
    figures = [KeyFigure(f"{count:,} of {result.num_candidates:,}", "different rows without a label")]
    confidences = [row.confidence for row in result.suggestions if row.confidence is not None]
    if confidences:
        label = f"mean confidence of its present answers to these rows; all rows: {100 * result.mean_confidence:.0f} %"
        figures.append(KeyFigure(f"{100 * np.mean(confidences):.0f} %", label))
    reasons = (
        "Rows near the border between answers teach most, once the model has learnt from enough labels."
        if is_uncertain
        else f"With fewer than {ENOUGH_LABELS} labels, or {ENOUGH_PER_CLASS} of each class, a model's uncertainty says little: "
        "rows chosen by it teach less than random ones. So one typical row of each group of similar rows is taken."
    )
    steps = f"Fill in the column “{result.column}” of the table that --out writes, put it beside your other rows, and fit again."
    return Page(
        "Which rows should you label next?",
        f"{len(result.pool):,} rows of {result.pool.name}, by {Path(model).name}",
        [f"Label these {count:,} rows first: {reason}."],
        [_rows_section(result)],
        figures=figures,
        picture=None if result.map is None else Picture(_draw_map(result.map), MAP_CAPTION),
        answers=[("Why these rows?", reasons), ("What next?", steps)],
    )


def _draw_map(points: PlaceMap) -> str:
    """Return the map of the pool as SVG, with the suggested rows over the others."""
    with draw_chart("Map of the rows; the suggested ones are spread over it") as chart:
        chart.axes.plot(*points.background.T, ".", color=SERIES[0], markersize=3, alpha=0.5, label="other rows")
        chart.axes.plot(*points.selected.T, "o", color=SERIES[2], markersize=6, label="suggested rows")
        # The units of principal components mean nothing.
        chart.axes.set(xticks=[], yticks=[], xlabel="", ylabel="")
        chart.add_legend()
    return chart.svg


def _rows_section(result: Suggestions) -> Section:
    """Return the section with the table of the suggested rows: their cells, and the model's present answer."""
    pool = result.pool
    locations = places([pool.origin(suggestion.row) for suggestion in result.suggestions])
    has_answers = any(suggestion.answer is not None for suggestion in result.suggestions)
    columns = [name for name in pool.columns if name != result.column]
    rows: list[list[Any]] = []
    for location, suggestion in zip(locations, result.suggestions, strict=True):
        cells = "\n".join(shorten(str(pool.column(name)[suggestion.row]), MAX_CELL) for name in columns)
        rows.append([location, cells, *(_answer(suggestion) if has_answers else ())])
    names = ["row", ", ".join(map(str, columns)), *(["present answer", "confidence"] if has_answers else [])]
    table = PageTable("In the order in which they were chosen", names, rows, text_columns=(1,), has_search=True)
    return Section("The rows to label", tables=[table], anchor=ROWS, is_open=True)


def _answer(suggestion: Suggestion) -> tuple[str, str]:
    """Return the model's present answer to a row and its confidence as text."""
    if suggestion.answer is None or suggestion.confidence is None:
        return "", ""
    parts = suggestion.answer if isinstance(suggestion.answer, list) else [suggestion.answer]
    # A span is a dict with its label.
    names = [str(part["label"] if isinstance(part, dict) else part) for part in parts]
    return shorten(", ".join(names), MAX_CELL), f"{100 * suggestion.confidence:.0f} %"
