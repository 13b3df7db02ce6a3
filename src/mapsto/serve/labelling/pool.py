"""The rows to label: read from a table, each known by the hash of what it shows, so that equal rows are asked once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mapsto import kinds
from mapsto.data.rows import Rows, load_rows
from mapsto.data.table import Table
from mapsto.errors import DataError, UsageError
from mapsto.serve.labelling.questions import Question
from mapsto.task.arrow import Arrow
from mapsto.task.capabilities import FileBacked

KEY_DIGITS = 20  # 80 bits: among a million rows two keys are equal by chance once in 10^12 pools


@dataclass(frozen=True)
class LabelPool:
    """The different rows of a table that can be read and have no label yet.

    question: what is asked. rows: their values. keys: the hash of each row's source values.
    places: the index of each row by its key. num_unreadable, num_labelled, num_copies: rows of the table that are not asked.
    """

    question: Question
    rows: Rows
    keys: list[str]
    places: dict[str, int]
    num_unreadable: int
    num_labelled: int
    num_copies: int

    def __len__(self) -> int:
        return len(self.keys)

    def sources(self, index: int) -> list[Any]:
        """Return the source values of a row."""
        return [column[index] for column in self.rows.sources]

    def cells(self, index: int) -> dict[str, Any]:
        """Return the cells of a row by column, as the table has them."""
        row = int(self.rows.indices[index])
        return {name: self.rows.table.column(name)[row] for name in self.rows.table.columns}

    def media(self, index: int, port: int) -> Path | None:
        """Return the file of a row's source; None for a source that is no file."""
        source = self.rows.arrow.sources[port]
        if not issubclass(kinds.source(source.kind), FileBacked):
            return None
        row = int(self.rows.indices[index])
        cell = FileBacked.locate(self.rows.table.column(source.column or "")[row], self.rows.table.beside(row))
        return Path(str(cell.get("path") if isinstance(cell, dict) else cell))

    def picture_size(self, index: int) -> tuple[int, int] | None:
        """Return (width, height) of the picture on which boxes are drawn, in pixels as it is read; else None."""
        if self.question.control != "rectangles":
            return None
        value = self.rows.sources[self.question.place_port][index]
        return value.width, value.height

    def describe(self, index: int) -> list[dict[str, Any]]:
        """Return what the page shows of a row: for each source its column, and its content or else its medium and file name.

        A picture on which rectangles are drawn also has its "size", (width, height) in pixels.
        """
        descriptions = []
        for port, source in enumerate(self.rows.arrow.sources):
            entry: dict[str, Any] = {"column": source.column}
            if issubclass(kinds.source(source.kind), FileBacked):
                file = self.media(index, port)
                entry |= {"medium": source.kind, "file": file.name if file is not None else ""}
            else:
                entry["content"] = str(self.rows.sources[port][index])
            descriptions.append(entry)
        if (size := self.picture_size(index)) is not None:
            descriptions[self.question.place_port]["size"] = size
        return descriptions


def read_pool(arrow: Arrow, table: Table, names: list[str], say: Callable[[str], object]) -> LabelPool:
    """Return the rows of a table that are to be labelled. names: class names that the user gives.

    Rows with a label already are not asked; their classes can be chosen. say: prints a note about rows that are left out.
    Raises UsageError for an arrow that cannot be labelled, DataError if no row is left.
    """
    rows = load_rows(arrow, table, answers=False)
    _require_files(rows)
    question = Question(rows.arrow, names)
    column = question.column
    num_labelled = 0
    if column in table.columns and column not in [port.column for port in rows.arrow.sources]:
        cells = table.column(column)
        question.add_names(_names_in_column(question, cells))
        is_open = [cells[row] is None for row in rows.indices.tolist()]
        num_labelled = is_open.count(False)
        rows = rows.select(_indices(is_open))
    keys = [_key(values, rows.arrow) for values in zip(*rows.sources, strict=True)]
    firsts = {key: index for index, key in reversed(list(enumerate(keys)))}
    is_first = [firsts[key] == index for index, key in enumerate(keys)]
    rows = rows.select(_indices(is_first))
    keys = [key for key, first in zip(keys, is_first, strict=True) if first]
    num_unreadable = len({(fault.file, fault.row) for fault in [*table.rejected, *rows.faults]})
    pool = LabelPool(
        question,
        rows,
        keys,
        {key: i for i, key in enumerate(keys)},
        num_unreadable,
        num_labelled,
        is_first.count(False),
    )
    counts = {"unreadable": num_unreadable, "labelled already": num_labelled, "equal to another": pool.num_copies}
    if omitted := [f"{count:,} {reason}" for reason, count in counts.items() if count]:
        say(f"rows that are not asked: {', '.join(omitted)}")
    if not keys:
        faults = [*table.rejected, *rows.faults]
        raise DataError("there is no row to label: none can be read and has no label yet", faults)
    return pool


def _names_in_column(question: Question, cells: list[Any]) -> list[str]:
    """Return the class names in the cells of a column in the order of their first use; cells that are no answers are passed."""
    names: dict[str, None] = {}
    for cell in cells:
        if cell is not None:
            try:
                names |= dict.fromkeys(question.names_in(question.kind.read(cell)))
            except ValueError:
                continue
    return list(names)


def _indices(flags: list[bool]) -> Any:
    import numpy as np

    return np.flatnonzero(np.array(flags, np.bool_))


def _key(values: tuple[Any, ...], arrow: Arrow) -> str:
    """Return the hash of a row's source values."""
    parts = [kinds.source(port.kind).key(value) for port, value in zip(arrow.sources, values, strict=True)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:KEY_DIGITS]


def output_cells(pool: LabelPool, index: int, folder: Path) -> dict[str, Any]:
    """Return the cells of a row as they are written beside its label; a file below `folder` is named from there."""
    cells = pool.cells(index)
    for port, source in enumerate(pool.rows.arrow.sources):
        file = pool.media(index, port)
        if file is not None and source.column is not None:
            path = file.resolve()
            is_below = path.is_relative_to(folder.resolve())
            cells[source.column] = os.path.relpath(path, folder.resolve()) if is_below else str(file)
    return cells


def _require_files(rows: Rows) -> None:
    """Raise UsageError for cells with the bytes of files, which a line of text cannot hold."""
    for port in rows.arrow.sources:
        cells = rows.table.column(port.column or "")
        if any(isinstance(cell, bytes) or (isinstance(cell, dict) and cell.get("bytes")) for cell in cells):
            raise UsageError(
                f"column {port.column!r} has the bytes of files, which the .jsonl of answers cannot hold: unpack them to "
                "files, and name these in the table or give their folder"
            )
