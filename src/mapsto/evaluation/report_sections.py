"""Sections of the error analysis, shared by the reports of an evaluation and of a comparison.

The parameter `context` of these functions names the model and the number of labels that a section is about, such as
"base, full, 64 labels". It stands in captions of pages with several models, and is empty on other pages.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

from mapsto import kinds
from mapsto.errors import places
from mapsto.evaluation.error_analysis import Case, ErrorAnalysis, list_mistakes
from mapsto.evaluation.evaluate import Predictions
from mapsto.evaluation.suspects import describe_counts, doubted_labels
from mapsto.explain.highlighting import highlight_parts
from mapsto.metrics.intervals import wilson_interval
from mapsto.report.figures import COLOUR_LEGEND, truncate
from mapsto.report.heat_map import confusion_map
from mapsto.report.page import PageTable, Picture, Section, link, trusted_html
from mapsto.task.capabilities import require
from mapsto.task.generation import Generated
from mapsto.task.label_spelling import distinct_spellings
from mapsto.task.source_capabilities import Outlinable
from mapsto.task.target import Target
from mapsto.task.target_capabilities import (
    Classes,
    Comparable,
    Free,
    Located,
    has_exclusive_classes,
    located_port,
)

MAX_CONFUSIONS, MAX_SLICES = 12, 20
# Mistakes on a page: texts are short, pictures and sounds make a page large.
MAX_TEXT_MISTAKES, MAX_OTHER_MISTAKES = 1000, 100
# The names by which links lead to the sections.
CLASSES, CONFUSION, MISTAKES, SLICES, CONFIDENT = "classes", "confusion", "mistakes", "slices", "confident"
# The columns of the table of mistakes by which links filter it, and what stands beside a label that may be wrong.
LABEL_COLUMN, ANSWER_COLUMN, NOTE_COLUMN, DOUBTFUL = "label", "answer", "note", "label may be wrong"

HIGHLIGHT_LEGEND = f"{COLOUR_LEGEND} mapsto explain measures how far such colours can be trusted."
DIFFERENCE_LEGEND = (
    "In the answers, red with a wavy line: words or characters that the reference does not have. In the references, green with a "
    "straight line: those that the answer lacks."
)
OUTLINE_LEGEND = (
    "Outlines: dashed green for labels, solid red for answers; hover over one for its name. "
    "… stands for parts of a long text without any."
)


def slice_sections(analysis: ErrorAnalysis, context: str = "") -> list[Section]:
    """Return the section on slices with a significant difference; an empty list if none stands out.

    context: the model that the caption names, such as "base, full, 64 labels"; empty on pages about one model.
    """
    significant = [part for part in analysis.slices if part.is_significant]
    rows = [
        [part.name, part.score.percent, f"{100 * part.rest_mean:.1f} %", _format_p_value(part.adjusted_p_value)]
        for part in significant[:MAX_SLICES]
    ]
    if not rows:
        return []
    text = [
        f"Of {len(analysis.slices):,} slices these differ significantly from all other rows (Fisher's exact test; Welch's t-test "
        "where an answer can be partly right; p-values adjusted for the number of slices by Holm's method, below 0.05)."
    ]
    columns = ["rows where", analysis.metric, "all other rows", "adjusted p"]
    table = PageTable(f"{len(significant):,} of {len(analysis.slices):,} slices{_in_caption(context)}", columns, rows)
    return [Section("Where it is weaker or stronger", text, tables=[table], anchor=SLICES)]


def _format_p_value(p_value: float) -> str:
    """Return a p-value as text with three digits, or as "< 0.001"."""
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def class_sections(predictions: Predictions, context: str = "") -> list[Section]:
    """Return the sections on single classes: precision, recall, F1 and n of each, and the confusion matrix as a heat map.

    context: as for `slice_sections`.
    """
    target = predictions.target
    if not isinstance(target, Classes):
        return []
    counts = target.item_counts(predictions.outputs, predictions.labels).by_class
    spellings = distinct_spellings(dict.fromkeys(counts))
    rows = []
    # The classes with the lowest recall first, since they are looked for.
    for name in sorted(counts, key=lambda name: (counts[name][0] / max(counts[name][2], 1), name)):
        right, answered, true = counts[name]
        f1 = f"{200 * right / (answered + true):.1f} %" if answered + true else "–"
        rows.append([spellings[name], f"{true:,}", _share(right, answered), _share(right, true), f1])
    if not rows:
        return []
    unit = "rows" if has_exclusive_classes(target) else f"true {target.item_name}"
    text = [
        f"Precision: the share of right answers among those that name the class. Recall: the share of the {unit} of the class "
        "that it finds. F1: their harmonic mean. In parentheses Wilson's 95 % interval."
    ]
    table = PageTable(
        f"The lowest recall first{_in_caption(context)}", ["class", "n", "precision", "recall", "F1"], rows
    )
    return [Section("Each class", text, tables=[table], anchor=CLASSES), *_confusion_sections(predictions, context)]


def _share(part: int, whole: int) -> str:
    """Return a share in percent with its interval as text, such as "60.0 % (44.6–73.7)"; "–" without a whole."""
    if not whole:
        return "–"
    low, high = wilson_interval(part / whole, whole)
    return f"{100 * part / whole:.1f} % ({100 * low:.0f}–{100 * high:.0f})"


def _confusion_sections(predictions: Predictions, context: str) -> list[Section]:
    """Return the section with the confusion matrix and its most frequent confusions; an empty list without mistakes."""
    target = predictions.target
    confusion = target.confusion(predictions.outputs, predictions.labels) if isinstance(target, Classes) else {}
    spellings = distinct_spellings(
        dict.fromkeys([*confusion, *(name for counts in confusion.values() for name in counts)])
    )
    pairs = sorted(
        (
            (count, label, answer)
            for label, counts in confusion.items()
            for answer, count in counts.items()
            if count and answer != label
        ),
        reverse=True,
    )
    if not pairs:
        return []
    columns = (LABEL_COLUMN, ANSWER_COLUMN)
    rows = []
    for count, label, answer in pairs[:MAX_CONFUSIONS]:
        names = (spellings[label], spellings[answer])
        shown = link(MISTAKES, f"{count:,}", list(zip(columns, names, strict=True)))
        rows.append([f"{names[0]} → {names[1]}", shown, f"{100 * count / sum(confusion[label].values()):.0f} %"])
    caption = f"The most frequent confusions{_in_caption(context)}"
    table = PageTable(caption, ["label → answer", "rows", "of the rows with this label"], rows)
    figure = confusion_map(confusion, spellings, MISTAKES, columns)
    text = "A row for each true class, a column for each answer: blue cells are right, orange ones confusions, the stronger the "
    text += "colour, the larger the share of the rows of the true class. A number leads to the mistakes."
    return [Section("What it confuses", [text], figure, tables=[table], anchor=CONFUSION)]


def mistake_sections(predictions: Predictions, analysis: ErrorAnalysis, context: str = "") -> list[Section]:
    """Return the section with all mistakes as a table with filters; of generated answers the section on the worst ones.

    Labels that may be wrong are marked, see `doubted_labels`. Without mistakes the list is empty.
    context: the model that the captions name, such as "base, full, 64 labels"; empty on pages about one model.
    """
    caption = _in_caption(context)
    if isinstance(predictions.target, Free):
        order = f"By {analysis.metric.replace('_', ' ')}, the lowest first{caption}"
        return _answer_sections("Worst answers", predictions, analysis.mistakes, order)
    is_text = all(isinstance(column[0], str) for column in predictions.rows.sources)
    cases, count = list_mistakes(predictions, analysis, MAX_TEXT_MISTAKES if is_text else MAX_OTHER_MISTAKES)
    if not cases:
        return []
    doubted = {suspect.index for suspect in doubted_labels(predictions)}
    text = _legend(predictions, cases)
    if num_left_out := count - len(cases):
        text.append(f"{num_left_out:,} further mistakes, those of the least confident answers, are not on the page.")
    if doubted:
        counts = describe_counts(analysis.num_label_issues, analysis.num_wrong_labels)
        text.append(
            f"{counts}. The {len(doubted):,} most doubtful are marked below; "
            "mapsto evaluate MODEL DATA --suspects FILE lists all with their probabilities."
        )
    table = _mistake_table(predictions, cases, doubted, f"The most confident first{caption}")
    return [Section("All mistakes", text, tables=[table], anchor=MISTAKES)]


def _mistake_table(predictions: Predictions, cases: Sequence[Case], doubted: Container[int], caption: str) -> PageTable:
    """Tabulate mistakes with filters by label, answer and doubtful label. doubted: the indices of rows with such a label."""
    locations = places([(case.file, case.row) for case in cases])
    spellings = distinct_spellings(dict.fromkeys(name for case in cases for name in (case.label, case.answer)))
    has_flags = any(case.index in doubted for case in cases)
    rows = []
    for location, case in zip(locations, cases, strict=True):
        names = [spellings[case.label], spellings[case.answer]]
        flag = [trusted_html(f'<span class="flag">{DOUBTFUL}</span>') if case.index in doubted else ""]
        row = [location, _render_input(predictions, case), *names, case.confidence_percent]
        rows.append([*row, *(flag if has_flags else [])])
    columns = ["row", "input", LABEL_COLUMN, ANSWER_COLUMN, "confidence", *([NOTE_COLUMN] if has_flags else [])]
    # Answers of several parts, such as boxes, are hardly ever equal.
    filters = (2, 3, 5)[: 3 if has_flags else 2] if has_exclusive_classes(predictions.target) else ()
    return PageTable(caption, columns, rows, text_columns=(1,), filter_columns=filters, has_search=True)


def example_sections(predictions: Predictions, analysis: ErrorAnalysis, context: str = "") -> list[Section]:
    """Return the section with random rows, in which important parts are highlighted or predicted regions are outlined.

    The result is an empty list if there is nothing to highlight or to outline, unless the answers are generated.
    context: the model that the caption names, such as "base, full, 64 labels"; empty on pages about one model.
    """
    if isinstance(predictions.target, Free):
        caption = f"Random rows{_in_caption(context)}"
        return _answer_sections("Random answers", predictions, analysis.random_cases, caption)
    table = _case_table(predictions, analysis.random_cases, f"Random rows{_in_caption(context)}")
    legend = _legend(predictions, analysis.random_cases)
    if table is None or not legend:
        return []
    title = "What it finds" if _is_outlined(predictions.target) else "What it looks at"
    return [Section(title, legend, tables=[table])]


def example_picture(predictions: Predictions, analysis: ErrorAnalysis) -> Picture | None:
    """Return the first random row with its true and predicted regions outlined; None for answers that are no regions."""
    if not _is_outlined(predictions.target) or not analysis.random_cases:
        return None
    case = analysis.random_cases[0]
    (location,) = places([(case.file, case.row)])
    return Picture(f'<div class="example">{_outline_answers(predictions, case)}</div>', f"{location}. {OUTLINE_LEGEND}")


def _answer_sections(title: str, predictions: Predictions, cases: Sequence[Case], caption: str) -> list[Section]:
    """Return the section with generated answers beside their sources and references; an empty list without cases."""
    locations = places([(case.file, case.row) for case in cases])
    rows = [
        [location, _render_input(predictions, case), *_compare_answer(predictions, case), f"{100 * case.score:.0f} %"]
        for location, case in zip(locations, cases, strict=True)
    ]
    if not rows:
        return []
    name = predictions.target.primary_metric if isinstance(predictions.target, Comparable) else "score"
    columns = ["row", "source", "answer", "reference", name.replace("_", " ")]
    table = PageTable(caption, columns, rows, text_columns=(1, 2, 3))
    legend = [f"In the sources: {paragraph}" for paragraph in _legend(predictions, cases)]
    return [Section(title, [DIFFERENCE_LEGEND, *legend], tables=[table])]


def _compare_answer(predictions: Predictions, case: Case) -> list[Any]:
    """Return a generated answer and its reference as HTML with their differences marked.

    Behind the answer stands the probability of its tokens, that it reached the limit, and what its source does not hold.
    """
    target, index = predictions.target, case.index
    assert isinstance(target, Free)
    output = predictions.outputs[index : index + 1]
    marked = target.mark_differences(target.decode(output)[0][target.kind], predictions.labels[index])
    # A percent sign at the start of a line would be read alone.
    confidence = case.confidence_percent.replace(" ", "\u00a0")
    remarks = [f"{'mean token ' if isinstance(target, Generated) else ''}probability {confidence}"]
    if isinstance(target, Generated) and target.num_unended(output):
        remarks.append("ended by the limit")
    if isinstance(target, Generated) and (parts := predictions.unsupported_parts[index]):
        remarks.append(f"not in the source: {truncate(', '.join(parts))}")
    answer, reference = map(trusted_html, marked)
    return [answer + trusted_html('\n<small class="quiet">{}</small>').format(" · ".join(remarks)), reference]


def _case_table(predictions: Predictions, cases: Sequence[Case], caption: str) -> PageTable | None:
    """Tabulate cases with their input, label and answer; return None without cases."""
    locations = places([(case.file, case.row) for case in cases])
    rows = [
        [location, _render_input(predictions, case), case.label, f"{case.answer} ({case.confidence_percent})"]
        for location, case in zip(locations, cases, strict=True)
    ]
    return PageTable(caption, ["row", "input", "label", "answer"], rows, text_columns=(1,)) if rows else None


def _render_input(predictions: Predictions, case: Case) -> Any:
    """Return the input of a case for the page: with outlined regions, with highlighted parts, or as plain text."""
    if _is_outlined(predictions.target):
        return _outline_answers(predictions, case)
    values = [column[case.index] for column in predictions.rows.sources]
    if not case.parts and all(isinstance(value, str) for value in values):
        return truncate(case.input)
    return highlight_parts([port.kind for port in predictions.arrow.sources], values, case.parts)


def _is_outlined(target: Target) -> bool:
    """Return whether answers are regions that are outlined in the values that they lie in, such as boxes in pictures."""
    return isinstance(target, Located) and issubclass(kinds.source(target.lies_in), Outlinable)


def _outline_answers(predictions: Predictions, case: Case) -> Any:
    """Return the input of a case as HTML with the true and the predicted regions (such as boxes) outlined in it."""
    target = predictions.target
    assert isinstance(target, Located)
    port = located_port(target, [port.kind for port in predictions.arrow.sources])
    answer = target.decode(predictions.outputs[case.index : case.index + 1])[0][target.kind]
    # True regions come first, so that the answers are drawn over them.
    marks = [*target.regions(predictions.labels[case.index], true=True), *target.regions(answer)]
    source = require(kinds.source(target.lies_in), Outlinable, "outlined")
    return trusted_html(source.outline(predictions.rows.sources[port][case.index], marks))


def _legend(predictions: Predictions, cases: Sequence[Case]) -> list[str]:
    """Return paragraphs that explain the outlines or the highlighting of the inputs; an empty list for plain inputs."""
    if _is_outlined(predictions.target):
        return [OUTLINE_LEGEND]
    return [HIGHLIGHT_LEGEND] if any(case.parts for case in cases) else []


def _in_caption(context: str) -> str:
    """Return the text that adds `context`, the name of a model, to a caption; empty if `context` is empty."""
    return f" · {context}" if context else ""
