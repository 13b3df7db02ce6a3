"""Read the tasks of a Label Studio export (https://labelstud.io/guide/export) as rows: the data, and the first annotation."""

from __future__ import annotations

from typing import Any

# Key of a row that a person has annotated; it is taken out before the row is used.
ANNOTATED = "\0annotated"


class SpanList(list[Any]):
    """The spans of a Label Studio task."""


def fill_spans(records: list[Any]) -> list[Any]:
    """Return rows with an empty list where a Label Studio task was annotated without a span, and others have spans.

    Without it the empty answer would be a cell without a value.
    """
    rows = [record for record in records if isinstance(record, dict)]
    spans = {name for row in rows for name, cell in row.items() if isinstance(cell, SpanList)}
    for row in rows:
        if row.pop(ANNOTATED, False):
            row.update({name: [] for name in spans if name not in row})
    return records


def read_task(record: Any) -> Any:
    """Return a task from a Label Studio export as a row (cells by column); return any other record unchanged.

    The row holds the task's data and the answers of the first annotation that was not cancelled. Each answer (a choice, a list
    of choices, a number, a rating, or a list of spans) is in a column named as the Label Studio control that asked for it.
    """
    if not (isinstance(record, dict) and isinstance(record.get("data"), dict)):
        return record
    annotations = record.get("annotations") or record.get("completions") or []
    answers: dict[str, Any] = {}
    for annotation in annotations if isinstance(annotations, list) else []:
        if isinstance(annotation, dict) and not annotation.get("was_cancelled"):
            for result in annotation.get("result") or []:
                value = result.get("value", {}) if isinstance(result, dict) else {}
                answer: Any = next((value[name] for name in ("choices", "number", "rating") if name in value), [])
                if answer != []:
                    # A single choice is a label, not a list of labels.
                    answer = answer[0] if isinstance(answer, list) and len(answer) == 1 else answer
                    answers.setdefault(str(result.get("from_name")), answer)
                # Each span of a text is a result of its own.
                if {"start", "end", "labels"} <= value.keys():
                    answers.setdefault(str(result.get("from_name")), SpanList()).append(value)
            return {**record["data"], **answers, ANNOTATED: True}
    return {**record["data"], **answers}
