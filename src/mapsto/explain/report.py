"""The HTML report of `mapsto explain`: inputs with their parts coloured by attribution weight, and the measured faithfulness."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from mapsto.errors import places
from mapsto.explain.attribution import Explanation
from mapsto.explain.faithfulness import Explanations, Faithfulness
from mapsto.explain.highlighting import highlight_parts
from mapsto.metrics.intervals import Score
from mapsto.report.figures import COLOUR_LEGEND, COLOUR_SCALE
from mapsto.report.page import KeyFigure, Page, PageTable, Picture, Section, link, trusted_html

MAX_EXPLANATIONS_SHOWN = 500
# Rows on the first screen, and parts that are named there.
NUM_EXAMPLES, NUM_PARTS_NAMED = 2, 3
# The share of the largest weight of a row below which a part is not named.
FAINTEST_NAMED = 0.2
MAX_SHORT_ANSWER = 20  # characters
MAX_PART_LENGTH = 40  # characters of a named part
ROWS, FAITHFULNESS = "rows", "faithfulness"


def explanation_page(result: Explanations, model: str) -> Page:
    """Return the HTML page with the explanations of a table's rows and their faithfulness.

    model: folder or hub name of the explained model.
    """
    examples = [_example(result, index) for index in range(min(NUM_EXAMPLES, len(result)))]
    sections = [_explanations_section(result)] if len(result) > len(examples) else []
    if result.faithfulness is not None:
        sections.append(_faithfulness_section(result.faithfulness))
    sections.append(_reading_section(result))
    count = f"{len(result):,} row{'s' * (len(result) > 1)}"
    answers: list[tuple[str, Any]] = []
    # Words and seconds can be named, places of a picture are seen.
    if all(len(part.region) == 1 for part in result[0].parts):
        answers.append(("What decided?", _name_parts(result[0], len(result) > 1)))
    if len(result) > len(examples):
        answers.append(("Where are the other rows?", link(ROWS, f"All {len(result):,} rows, to be searched")))
    return Page(
        f"Why does {Path(model).name} answer so?",
        f"{count} · method: {result[0].method}",
        [_verdict(result.faithfulness)],
        sections,
        figures=_key_figures(result.faithfulness),
        picture=Picture("\n".join([COLOUR_SCALE, *examples]), COLOUR_LEGEND),
        answers=answers,
    )


def _verdict(faithfulness: Faithfulness | None) -> str:
    """Return a sentence on whether the colours can be trusted, as deleting coloured parts shows."""
    if faithfulness is None:
        return "Whether these colours can be trusted cannot be measured: no row has two parts."
    if faithfulness.better_than_random is None:
        return "Whether these colours can be trusted is not measured on one row; name rows like yours with --sample."
    value, difference = faithfulness.comprehensiveness.value.value, faithfulness.comprehensiveness.over_random
    measured = (
        f"without the strongest parts the answer's {faithfulness.quantity} falls by "
        f"{_amount(faithfulness, value)}, without random parts by {_amount(faithfulness, value - difference.value)}"
    )
    if faithfulness.better_than_random:
        return f"These colours can be trusted: {measured}, a significant difference."
    return f"Do not rely on these colours: {measured}; deleting by colour is not significantly better than at random."


def _amount(faithfulness: Faithfulness, value: float) -> str:
    """Return an amount of what was measured as text: a probability in points, a score in its own unit."""
    return f"{100 * value:.0f} points" if faithfulness.quantity == "probability" else f"{value:.3g}"


def _key_figures(faithfulness: Faithfulness | None) -> list[KeyFigure]:
    """Return the figure behind the verdict; an empty list where it could not be measured."""
    if faithfulness is None or faithfulness.better_than_random is None:
        return []
    difference = faithfulness.comprehensiveness.over_random
    scale, unit, sign = (100, " points", ".0f") if faithfulness.quantity == "probability" else (1, "", ".3g")
    interval = f"{scale * difference.low:+{sign}} to {scale * difference.high:+{sign}}"
    label = (
        f"more than without random parts (95 % interval {interval}, {faithfulness.num_examples:,} rows); "
        "more is more faithful"
    )
    return [KeyFigure(f"{scale * difference.value:+{sign}}{unit}", label)]


def _example(result: Explanations, index: int) -> str:
    """Return one row of the first screen as HTML: its coloured input and the answer."""
    from markupsafe import Markup

    explanation = result[index]
    (origin,) = places([result.rows.table.origin(int(result.rows.indices[index]))])
    text = '<div class="example">{}</div><p class="quiet">{} ↦ <strong>{}</strong>, {} {:+.2f}</p>'
    return Markup(text).format(
        _highlighted(result, index), origin, explanation.summary, explanation.score_name, explanation.score
    )


def _highlighted(result: Explanations, index: int) -> Any:
    """Return the input of one row as HTML with its parts coloured."""
    values = [column[index] for column in result.rows.sources]
    return highlight_parts(result.source_kinds, values, result[index].parts)


def _name_parts(explanation: Explanation, is_first: bool) -> str:
    """Return a sentence on the parts of a row with the largest weights for and against the answer.

    is_first: whether other rows are on the page too.
    """
    # Punctuation has weights too, but says nothing to a reader.
    words = [part for part in explanation.parts if any(map(str.isalnum, part.text))]
    ranked = sorted(words, key=lambda part: -part.weight)
    faintest = FAINTEST_NAMED * max((abs(part.weight) for part in words), default=0.0)
    raising = [part.text for part in ranked[:NUM_PARTS_NAMED] if part.weight > faintest]
    lowering = [part.text for part in ranked[::-1][:NUM_PARTS_NAMED] if part.weight < -faintest]
    clauses = [
        f"{verb} it {', '.join(f'“{name.strip()[:MAX_PART_LENGTH]}”' for name in dict.fromkeys(names))}"
        for names, verb in ((raising, "for"), (lowering, "against"))
        if names
    ]
    place = "In the first row the" if is_first else "The"
    return f"{place} answer is {explanation.summary}: {'; '.join(clauses) or 'no part counts'}."


def _explanations_section(result: Explanations) -> Section:
    """Return the section with a table of the rows behind the first ones: highlighted input, answer and score."""
    row_indices = range(NUM_EXAMPLES, min(len(result), MAX_EXPLANATIONS_SHOWN))
    locations = places([result.rows.table.origin(row) for row in result.rows.indices.tolist()])
    rows = [
        [locations[index], _highlighted(result, index), result[index].summary, f"{result[index].score:+.2f}"]
        for index in row_indices
    ]
    score_name = result[0].score_name
    text: list[Any] = [trusted_html(COLOUR_SCALE)]
    if num_left_out := len(result) - len(rows) - NUM_EXAMPLES:
        text.append(f"{num_left_out:,} more rows are not shown; --out with a .jsonl file writes all of them.")
    # Sentences are read from left to right, and short answers stand above each other.
    has_sentences = any(len(result[index].summary) > MAX_SHORT_ANSWER for index in row_indices)
    text_columns, filters = ((1, 2), ()) if has_sentences else ((1,), (2,))
    columns = ["row", "input", "answer", score_name]
    table = PageTable("The other rows", columns, rows, text_columns, filters, has_search=True)
    return Section("All rows", text, tables=[table], anchor=ROWS)


def _reading_section(result: Explanations) -> Section:
    """Return the section on how to read the colours and how they were computed."""
    text = [
        f"{COLOUR_LEGEND} The weights divide the answer's {result[0].score_name} among the parts of the input; the strongest "
        "part of each row has the strongest colour, so that colours of different rows cannot be compared.",
        f"Method: {result[0].method}.",
    ]
    return Section("How to read the colours", text)


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
    table = PageTable(caption, columns, rows)
    return Section("Can the colours be trusted?", text, tables=[table], anchor=FAITHFULNESS)


def _format_score(score: Score) -> str:
    """Return a score's value as text, followed by its interval in parentheses unless the interval is NaN."""
    return f"{score.value:+.3f}" + ("" if math.isnan(score.low) else f" ({score.low:+.3f} to {score.high:+.3f})")
