"""Sections of the error analysis, shared by the reports of an evaluation and of a comparison.

The parameter `context` of these functions names the model and the number of labels that a section is about, such as
"base, full, 64 labels". It stands in captions of pages with several models, and is empty on other pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mapsto import kinds
from mapsto.errors import places
from mapsto.evaluation.error_analysis import Case, ErrorAnalysis
from mapsto.evaluation.evaluate import Predictions
from mapsto.evaluation.suspects import describe_counts
from mapsto.explain.highlighting import highlight_parts
from mapsto.report.figures import COLOUR_LEGEND, truncate
from mapsto.report.page import PageTable, Section, trusted_html
from mapsto.task.capabilities import require
from mapsto.task.generation import Generated
from mapsto.task.label_spelling import distinct_spellings
from mapsto.task.source_capabilities import Outlinable
from mapsto.task.target import Target
from mapsto.task.target_capabilities import Classes, Comparable, Free, Located, located_port

MAX_CONFUSIONS, MAX_SLICES = 12, 20

HIGHLIGHT_LEGEND = f"{COLOUR_LEGEND} mapsto explain measures how far such colours can be trusted."
DIFFERENCE_LEGEND = (
    "In the answers, red with a wavy line: words or characters that the reference does not have. In the references, green with a "
    "straight line: those that the answer lacks."
)
OUTLINE_LEGEND = "Outlines: dashed green for labels, solid red for answers; hover over one for its class."


def slice_sections(analysis: ErrorAnalysis, context: str = "") -> list[Section]:
    """Return the section with the table of tested slices; an empty list if no slice was tested.

    context: the model that the caption names, such as "base, full, 64 labels"; empty on pages about one model.
    """
    rows = [
        [
            part.name,
            part.score.percent,
            f"{100 * part.rest_mean:.1f} %",
            _format_p_value(part.adjusted_p_value) + (" ← significant" if part.is_significant else ""),
        ]
        for part in analysis.slices[:MAX_SLICES]
    ]
    if not rows:
        return []
    text = [
        "Each slice is tested against all other rows (Fisher's exact test; Welch's t-test where an answer can be partly right). "
        "p-values are adjusted for the number of slices (Holm); below 0.05 a difference is significant."
    ]
    columns = ["rows where", analysis.metric, "all other rows", "adjusted p-value"]
    table = PageTable(f"{len(analysis.slices)} slices tested{_in_caption(context)}", columns, rows)
    return [Section("Slices", text, tables=[table])]


def _format_p_value(p_value: float) -> str:
    """Return a p-value as text with three digits, or as "< 0.001"."""
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def mistake_sections(predictions: Predictions, analysis: ErrorAnalysis, context: str = "") -> list[Section]:
    """Return the sections on confusions, confident mistakes, and labels that may be wrong; empty ones are left out.

    Of generated answers it is the section on the worst ones.

    context: the model that the captions name, such as "base, full, 64 labels"; empty on pages about one model.
    """
    caption, issues = _in_caption(context), analysis.label_issues
    if isinstance(predictions.target, Free):
        order = f"By {analysis.metric.replace('_', ' ')}, the lowest first{caption}"
        return _answer_sections("Worst answers", predictions, analysis.mistakes, order)
    doubtful = {case.index for case in issues}
    mistakes = [
        replace(case, label=f"{case.label} – may be wrong") if case.index in doubtful else case
        for case in analysis.mistakes
    ]
    # Doubtful labels among the mistakes are marked in the table of mistakes.
    further_issues = [case for case in issues if case.index not in {case.index for case in analysis.mistakes}]
    counts = describe_counts(analysis.num_label_issues, analysis.num_wrong_labels)
    caveat = [
        f"{counts}. The page shows or marks the first {len(issues)}; "
        "mapsto evaluate MODEL DATA --suspects FILE lists all with their probabilities."
    ]
    legend = _legend(predictions, mistakes) + (caveat if any(case.index in doubtful for case in mistakes) else [])
    sections = [
        ("Most frequent confusions", [], _confusion_table(predictions, f"By frequency{caption}")),
        ("Most confident mistakes", legend, _case_table(predictions, mistakes, f"By confidence{caption}")),
        (
            "Other labels that may be wrong",
            caveat,
            _case_table(predictions, further_issues, f"By the probability that the label is wrong{caption}"),
        ),
    ]
    return [Section(title, text, tables=[table]) for title, text, table in sections if table is not None]


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


def _confusion_table(predictions: Predictions, caption: str) -> PageTable | None:
    """Tabulate the MAX_CONFUSIONS most frequent pairs of a true label and a wrong answer; return None if there are none."""
    target = predictions.target
    confusion = target.confusion(predictions.outputs, predictions.labels) if isinstance(target, Classes) else {}
    pairs = sorted(
        (
            (count, label, answer)
            for label, counts in confusion.items()
            for answer, count in counts.items()
            if count and answer != label
        ),
        reverse=True,
    )
    spellings = distinct_spellings(
        dict.fromkeys([*confusion, *(name for counts in confusion.values() for name in counts)])
    )
    rows = [
        [f"{spellings[label]} → {spellings[answer]}", count, f"{100 * count / sum(confusion[label].values()):.0f} %"]
        for count, label, answer in pairs[:MAX_CONFUSIONS]
    ]
    return PageTable(caption, ["label → answer", "rows", "of the rows with this label"], rows) if rows else None


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
