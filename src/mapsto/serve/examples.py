"""Test rows that the page offers to fill its form: the model was tested on them, or its fit held them out. Never training rows.

A saved model holds no rows, but the places of its files and hashes of their rows. They are read again when a page first asks,
which takes about as long as in the fit; large ones are left alone. A file that has changed gives no examples.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mapsto import kinds
from mapsto.data import sampling
from mapsto.data.rows import Rows
from mapsto.errors import MapstoError
from mapsto.evaluation.training_file import read_held_out_rows, read_test_rows
from mapsto.model.fit_record import FitRecord
from mapsto.serve.served_model import ServedModel, is_file_backed
from mapsto.task.capabilities import FileBacked

# The largest table that is read again, in bytes, and the most rows: of texts, and of files, each of which is decoded.
MAX_BYTES, MAX_TEXT_ROWS, MAX_FILE_ROWS = 2**26, 50_000, 2_000
# A longer text is no example, since the form shows it whole; a longer answer is not shown.
MAX_CHARACTERS, MAX_ANSWER_CHARACTERS = 5_000, 200
TEST, HELD_OUT, NONE = "test", "held out", ""


@dataclass(frozen=True)
class Example:
    """A row of the test. texts, files: by column. answers: the true answer of each target in words, by column."""

    texts: dict[str, str]
    files: dict[str, Path]
    answers: dict[str, str]


@dataclass(frozen=True)
class Examples:
    """The examples of a model. origin: TEST for rows it was tested on, HELD_OUT for rows that its fit held out, or NONE."""

    origin: str = NONE
    rows: tuple[Example, ...] = ()

    def describe(self) -> dict[str, Any]:
        """Return what the page shows of the examples."""
        rows = [
            {"texts": row.texts, "files": {name: path.name for name, path in row.files.items()}, "answers": row.answers}
            for row in self.rows
        ]
        return {"origin": self.origin, "examples": rows}


class ExampleShelf:
    """The examples of each model, found once. All methods run on the event loop. count: the most examples of a model."""

    def __init__(self, count: int) -> None:
        self.count = count
        # A weak reference to each model, so that it can still leave the memory, and the task that finds its examples.
        self._tasks: dict[str, tuple[weakref.ref[ServedModel], asyncio.Task[Examples]]] = {}

    async def get(self, model: ServedModel) -> Examples:
        """Return the examples of a model, which may take a while the first time; of a replaced model those of the new one."""
        reference, task = self._tasks.get(model.name, (None, None))
        if task is None or reference is None or reference() is not model:
            task = asyncio.create_task(asyncio.to_thread(find_examples, model, self.count))
            self._tasks[model.name] = weakref.ref(model), task
        return await asyncio.shield(task)


def find_examples(model: ServedModel, count: int) -> Examples:
    """Return at most `count` random test rows of a model, or held-out rows if there is no test; none if neither can be read."""
    record = model.fit_record
    if not count or record is None or not model.arrow.targets or model.arrow.symmetric or model.arrow.corrupted:
        return Examples()
    max_rows = MAX_FILE_ROWS if any(is_file_backed(port) for _, port in model.ports) else MAX_TEXT_ROWS
    readers = {
        TEST: (record.test_file, partial(read_test_rows, model.arrow, record, max_rows)),
        HELD_OUT: (record.file, partial(read_held_out_rows, model.arrow, record, max_rows)),
    }
    for origin, (file, read) in readers.items():
        # A named pipe, which a stranger's folder may name, would never end.
        if file is None or (file.exists() and not file.is_dir() and not _is_small(file)):
            continue
        try:
            rows = read()
        except MapstoError:  # the file is gone or has changed: the page does without
            continue
        examples = choose_examples(model, rows, count, record)
        if examples:
            return Examples(origin, examples)
    return Examples()


def choose_examples(model: ServedModel, rows: Rows, count: int, record: FitRecord) -> tuple[Example, ...]:
    """Return `count` random rows that fit into a form, or all if there are fewer."""
    names = [name for name, _ in model.ports]
    examples: list[Example] = []
    for index in sampling.permute_rows(record.options.seed, 0, len(rows)).tolist():
        example = _example(rows, index, names)
        if example is not None:
            examples.append(example)
        if len(examples) == count:
            break
    return tuple(examples)


def _example(rows: Rows, index: int, names: Sequence[str]) -> Example | None:
    """Return a row as an example; None for one that no form can show, such as a dialogue or the bytes of a file."""
    texts: dict[str, str] = {}
    files: dict[str, Path] = {}
    row = int(rows.indices[index])
    for name, port, values in zip(names, rows.arrow.sources, rows.sources, strict=True):
        if issubclass(kinds.source(port.kind), FileBacked):
            cell = FileBacked.locate(rows.table.column(port.column or "")[row], rows.table.beside(row))
            path = cell.get("path") if isinstance(cell, dict) and not cell.get("bytes") else cell
            # Of a stranger's table no files but those below it are shown; a folder of files has none but its own.
            if not isinstance(path, str) or not _is_file_below(Path(path), rows.table.beside(row)):
                return None
            files[name] = Path(path)
        elif isinstance(values[index], str) and len(values[index]) <= MAX_CHARACTERS:
            texts[name] = values[index]
        else:
            return None
    answers: dict[str, str] = {}
    for port in rows.arrow.targets:
        column = port.column or port.kind
        cell = rows.table.column(column)[row] if column in rows.table.columns else None
        text = ", ".join(map(str, cell)) if isinstance(cell, list) and _are_names(cell) else cell
        if isinstance(text, str | int | float) and 0 < len(str(text)) <= MAX_ANSWER_CHARACTERS:
            answers[column] = str(text)
    return Example(texts, files, answers)


def _is_small(file: Path) -> bool:
    return file.is_file() and file.stat().st_size <= MAX_BYTES


def _is_file_below(path: Path, folder: Path | None) -> bool:
    """Return whether a path is that of a file below a folder; of a file anywhere for None."""
    return path.is_file() and (folder is None or path.resolve().is_relative_to(folder.resolve()))


def _are_names(cell: Sequence[Any]) -> bool:
    return all(isinstance(entry, str) for entry in cell)
