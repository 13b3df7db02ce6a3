"""The HTML report of `mapsto explain`: inputs with their parts coloured by attribution weight, and the measured faithfulness."""

from __future__ import annotations

import math
from pathlib import Path

from mapsto.errors import places
from mapsto.explain.faithfulness import Explanations, Faithfulness
from mapsto.explain.highlighting import highlight_parts
from mapsto.metrics.intervals import Score
from mapsto.report.figures import COLOUR_LEGEND
from mapsto.report.page import Page, PageTable, Section

MAX_EXPLANATIONS_SHOWN = 500
MAX_SHORT_ANSWER = 20  # characters


def explanation_page(result: Explanations, model: str) -> Page:
    """Return the HTML page with the explanations of a table's rows and their faithfulness.

    model: folder or hub name of the explained model.
    """
    sections = [_explanations_section(result)]
    verdict = "Faithfulness could not be measured: no row has two parts."
    if result.faithfulness is not None:
        sections.append(_faithfulness_section(result.faithfulness))
        verdict = _as_sentence(result.faithfulness.verdict)
    subtitle = f"{len(result):,} rows · method: {result[0].method}"
    return Page(f"Explanations of {Path(model).name}", subtitle, [verdict], sections)


def _explanations_section(result: Explanations) -> Section:
    """Return the section with a table of the first MAX_EXPLANATIONS_SHOWN rows: highlighted input, answer and score."""
    shown_explanations = result.explanations[:MAX_EXPLANATIONS_SHOWN]
    row_indices = result.rows.indices[: len(shown_explanations)].tolist()
    locations = places([result.rows.table.origin(row) for row in row_indices])
    rows = []
    for index, explanation in enumerate(shown_explanations):
        values = [column[index] for column in result.rows.sources]
        highlighted = highlight_parts(result.source_kinds, values, explanation.parts)
        rows.append([locations[index], highlighted, explanation.summary, f"{explanation.score:+.2f}"])
    score_name = result[0].score_name
    text = [f"{COLOUR_LEGEND} The weights explain the answer's {score_name}, in the last column."]
    if num_left_out := len(result) - len(rows):
        text.append(f"{num_left_out:,} more rows are not shown; --out with a .jsonl file writes all of them.")
    # Sentences are read from left to right, and short answers stand above each other.
    has_sentences = any(len(explanation.summary) > MAX_SHORT_ANSWER for explanation in shown_explanations)
    text_columns = (1, 2) if has_sentences else (1,)
    table = PageTable("Rows", ["row", "input", "answer", score_name], rows, text_columns)
    return Section("Explanations", text, tables=[table])


def _faithfulness_section(faithfulness: Faithfulness) -> Section:
    """Return the section with a table of the three faithfulness measures, each with its advantage over other orders."""
    measures = (
        ("comprehensiveness: loss without the parts with the largest weights", faithfulness.comprehensiveness),
        ("sufficiency: loss with these parts alone", faithfulness.sufficiency),
        ("deletion: mean while parts are deleted one after the other", faithfulness.deletion),
    )
    rows = [
        [name, *map(_format_score, (measure.value, measure.over_random, measure.over_reversed))]
        for name, measure in measures
    ]
    columns = [f"measure of the {faithfulness.quantity}", "value", "better than random by", "better than reversed by"]
    caption = f"{faithfulness.method}, {faithfulness.num_examples:,} examples; mean (95 % interval)"
    text = [
        "Parts are deleted from the input in the order of their weights, in random order and in reverse order, and the model "
        "answers again. Colours are faithful if the order of the weights changes the answer faster than the random order."
    ]
    return Section("Are the colours faithful?", text, tables=[PageTable(caption, columns, rows)])


def _format_score(score: Score) -> str:
    """Return a score's value as text, followed by its interval in parentheses unless the interval is NaN."""
    return f"{score.value:+.3f}" + ("" if math.isnan(score.low) else f" ({score.low:+.3f} to {score.high:+.3f})")


def _as_sentence(text: str) -> str:
    """Return a text with its first letter capitalised and a full stop appended."""
    return f"{text[:1].upper()}{text[1:]}."
