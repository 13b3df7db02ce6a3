"""Write the answers of a session in other forms: as a table, or as annotated tasks of Label Studio."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mapsto import files
from mapsto.active_learning.suggestions import annotations_of
from mapsto.data.writers import TextStyle, require_folder, require_writable, write_file
from mapsto.serve.labelling.answer_file import DETAILS, AnswerFile
from mapsto.serve.labelling.questions import STUDIO_TYPES, Question

TASKS_SUFFIX = ".json"


def require_export_path(path: Path) -> None:
    """Raise UsageError for a file that answers cannot be written to."""
    if path.suffix == TASKS_SUFFIX:
        require_folder(path)
    else:
        require_writable(path)


def export(path: Path, file: AnswerFile, question: Question, csv_safe: bool = False) -> int:
    """Write the answers to a file: .json for Label Studio, else a table; return their number.

    csv_safe: whether csv is written so that a spreadsheet computes nothing.
    """
    require_export_path(path)
    if path.suffix == TASKS_SUFFIX:
        files.write_atomic(path, json.dumps(studio_tasks(file, question), ensure_ascii=False, indent=1).encode())
        return len(file.answers)
    rows = table_rows(file, question)
    return write_file(path, columns_of(file, question), rows, TextStyle(csv_safe=csv_safe))


def columns_of(file: AnswerFile, question: Question) -> list[str]:
    """Return the columns of the table: those of the pool, and the one of the answers."""
    names = dict.fromkeys(name for answer in file.answers.values() for name in answer.record if name != DETAILS)
    return list(names) or [*(port.column or port.kind for port in question.arrow.sources), question.column]


def table_rows(file: AnswerFile, question: Question) -> list[dict[str, Any]]:
    """Return the labelled rows as cells by column, without who gave the answers and when."""
    return [{k: v for k, v in answer.record.items() if k != DETAILS} for answer in file.answers.values()]


def studio_tasks(file: AnswerFile, question: Question) -> list[dict[str, Any]]:
    """Return the labelled rows as tasks of Label Studio, each with one annotation."""
    place = {"from_name": question.column, "to_name": question.arrow.sources[0].column}
    tasks = []
    for answer in file.answers.values():
        cells = {name: cell for name, cell in answer.record.items() if name not in (DETAILS, question.column)}
        values = annotations_of(answer.cell, STUDIO_TYPES[question.control])
        annotation = {
            "result": [{**place, **value} for value in values],
            "created_at": answer.when,
            "created_username": answer.person,
        }
        tasks.append({"data": cells, "annotations": [annotation]})
    return tasks
