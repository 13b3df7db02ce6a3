"""Write the answers of a session in other forms: a table, annotated tasks of Label Studio, or COCO's annotations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mapsto import files
from mapsto.active_learning.suggestions import annotations_of
from mapsto.data.writers import TextStyle, require_folder, require_writable, write_file
from mapsto.errors import UsageError
from mapsto.serve.labelling.answer_file import DETAILS, Answer, AnswerFile
from mapsto.serve.labelling.questions import STUDIO_TYPES, Question

TASKS_SUFFIX = ".json"
# The ending of a file of COCO's annotations, and the name of the one that the page offers (that of Roboflow's exports).
COCO_SUFFIX, COCO_FILE = ".coco.json", "_annotations.coco.json"


def require_export_path(path: Path) -> None:
    """Raise UsageError for a file that answers cannot be written to."""
    if path.suffix == TASKS_SUFFIX:
        require_folder(path)
    else:
        require_writable(path)


def export(path: Path, file: AnswerFile, question: Question, csv_safe: bool = False) -> int:
    """Write the answers to a file: .coco.json for COCO, other .json for Label Studio, else a table; return their number.

    csv_safe: whether csv is written so that a spreadsheet computes nothing.
    Raises UsageError for COCO's annotations of answers that are no boxes.
    """
    require_export_path(path)
    if path.suffix == TASKS_SUFFIX:
        is_coco = path.name.endswith(COCO_SUFFIX)
        content = coco_annotations(file, question) if is_coco else studio_tasks(file, question)
        files.write_atomic(path, json.dumps(content, ensure_ascii=False, indent=1).encode())
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
    is_located = question.control == "rectangles"
    source = question.arrow.sources[question.place_port if is_located else 0]
    place = {"from_name": question.column, "to_name": source.column}
    tasks = []
    for answer in file.answers.values():
        cells = {name: cell for name, cell in answer.record.items() if name not in (DETAILS, question.column)}
        if question.control == "rectangles":
            values = _studio_rectangles(answer, question)
        else:
            values = annotations_of(answer.cell, STUDIO_TYPES[question.control])
        annotation = {
            "result": [{**place, **value} for value in values],
            "created_at": answer.when,
            "created_username": answer.person,
        }
        tasks.append({"data": cells, "annotations": [annotation]})
    return tasks


def _studio_rectangles(answer: Answer, question: Question) -> list[dict[str, Any]]:
    """Return the boxes of an answer as results of Label Studio, which has their sides in per cent of the picture."""
    width, height = answer.record[DETAILS]["size"]
    kind = STUDIO_TYPES["rectangles"]
    return [
        {
            "type": kind,
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {
                "x": 100 * box.left / width,
                "y": 100 * box.top / height,
                "width": 100 * (box.right - box.left) / width,
                "height": 100 * (box.bottom - box.top) / height,
                "rotation": 0,
                kind: [box.label],
            },
        }
        for box in question.read(answer.cell)
    ]


def coco_annotations(file: AnswerFile, question: Question) -> dict[str, Any]:
    """Return the boxes as COCO's annotations (Lin et al. 2014). Files are named as in the file of answers.

    A picture without boxes is among the images. Sizes are those of the picture as it is read, turned as its EXIF data say.
    Raises UsageError for answers that are no boxes.
    """
    if question.control != "rectangles":
        raise UsageError(
            f"{COCO_SUFFIX} is for boxes; write the answers of {str(question.arrow)!r} as .json, .csv or .jsonl"
        )
    column = question.arrow.sources[question.place_port].column
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    category_ids: dict[str, int] = {name: number for number, name in enumerate(question.names, 1)}
    for image_id, answer in enumerate(file.answers.values(), 1):
        width, height = answer.record[DETAILS]["size"]
        images.append({"id": image_id, "file_name": answer.record[column or ""], "width": width, "height": height})
        for box in question.read(answer.cell):
            size = box.right - box.left, box.bottom - box.top
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category_ids.setdefault(box.label, len(category_ids) + 1),
                    "bbox": [box.left, box.top, *size],
                    "area": size[0] * size[1],
                    "iscrowd": int(box.crowd),
                    "segmentation": [],
                }
            )
    categories = [{"id": number, "name": name} for name, number in category_ids.items()]
    return {"images": images, "annotations": annotations, "categories": categories}
