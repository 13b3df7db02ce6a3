"""Read the tasks of a Label Studio export: a row for each task, with its data and the answers of one of its annotations.

Several people may have annotated a task. The answers are those of the first annotation that was not cancelled and that has an
answer to each question which any other annotation of the task answers.
Format: https://labelstud.io/guide/export
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# Keys of a task under which its annotations stand; earlier versions call them completions.
ANNOTATIONS = ("annotations", "completions")
# Keys of the value of a result that holds one answer for the whole task.
SINGLE_ANSWERS = ("choices", "number", "rating")
SPAN_KEYS = frozenset(["start", "end", "labels"])


class SpanList(list[Any]):
    """The spans of a task."""


def read_tasks(records: Sequence[Any]) -> list[Any]:
    """Return the tasks among records as rows (cells by column), and other records unchanged.

    Each answer (a choice, a list of choices, a number, a rating, or a list of spans) is in a column named as the Label Studio
    control that asked for it. A task that was annotated without a span, where other tasks have spans, has an empty list.
    """
    rows, annotated = [], []
    for record in records:
        answers = _answers(record) if is_task(record) else None
        rows.append({**record["data"], **(answers or {})} if is_task(record) else record)
        annotated += [rows[-1]] if answers is not None else []
    span_names = {name for row in annotated for name, cell in row.items() if isinstance(cell, SpanList)}
    for row in annotated:
        # Without it the empty answer would be a cell without a value.
        row.update({name: [] for name in span_names if name not in row})
    return rows


def is_task(record: Any) -> bool:
    """Return whether a record is a task of an export."""
    return isinstance(record, dict) and isinstance(record.get("data"), dict)


def describe_annotators(records: Sequence[Any]) -> list[str]:
    """Return a remark on the tasks that several people annotated, and how many of these they answered differently."""
    several = [answers for record in records if is_task(record) and len(answers := _all_answers(record)) > 1]
    if not several:
        return []
    num_different = sum(any(answers != annotations[0] for answers in annotations) for annotations in several)
    return [
        f"{len(several):,} tasks have several annotations, and in {num_different:,} of them these differ; the first complete one "
        "that was not cancelled is read"
    ]


def _answers(task: dict[str, Any]) -> dict[str, Any] | None:
    """Return the answers of the first complete annotation of a task by question; None without an annotation."""
    annotations = _all_answers(task)
    questions = {name for answers in annotations for name in answers}
    # Where nobody has answered everything, it is the first of those with most answers.
    return max(annotations, key=lambda answers: len(questions & answers.keys()), default=None)


def _all_answers(task: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the answers of each annotation of a task that was not cancelled, by question."""
    annotations: Any = next((task[key] for key in ANNOTATIONS if task.get(key)), [])
    return [
        _read_annotation(annotation)
        for annotation in (annotations if isinstance(annotations, list) else [])
        if isinstance(annotation, dict) and not annotation.get("was_cancelled")
    ]


def _read_annotation(annotation: dict[str, Any]) -> dict[str, Any]:
    """Return the answers of an annotation by question."""
    answers: dict[str, Any] = {}
    for result in annotation.get("result") or []:
        value = result.get("value", {}) if isinstance(result, dict) else {}
        if not isinstance(value, dict):
            continue
        answer: Any = next((value[name] for name in SINGLE_ANSWERS if name in value), [])
        if answer != []:
            # A single choice is a label, not a list of labels.
            answer = answer[0] if isinstance(answer, list) and len(answer) == 1 else answer
            answers.setdefault(str(result.get("from_name")), answer)
        # Each span of a text is a result of its own.
        if value.keys() >= SPAN_KEYS:
            answers.setdefault(str(result.get("from_name")), SpanList()).append(value)
    return answers
