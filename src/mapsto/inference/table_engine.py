"""Answers for tables of any size in constant memory. The order of the rows is kept, and no row is lost."""

from __future__ import annotations

import json
import weakref
from collections.abc import Collection, Iterable, Iterator
from itertools import count
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Protocol

from mapsto.data.table import Table, stream_tables
from mapsto.data.writers import find_binary
from mapsto.errors import DataError, Finding
from mapsto.options import DEFAULT_FORMAT, TextFormat
from mapsto.progress import Progress
from mapsto.task.answer_cells import CellStyle, answer_cells
from mapsto.task.arrow import Arrow
from mapsto.text.generated_text import LIMIT

PLAIN_CELLS = CellStyle()


class Engine(Protocol):
    """An object that answers the rows of tables: a Predictor, or a RayEngine with several predictors."""

    @property
    def cut_rows(self) -> int:
        """Return how many of the rows answered so far were longer than the model reads and lost tokens."""
        ...

    @property
    def arrow(self) -> Arrow:
        """Return the model's arrow, which names its sources and targets, such as `text -> label`."""
        ...

    def answer_tables(self, tables: Iterable[Table]) -> Iterator[tuple[Table, list[dict[str, Any]]]]:
        """Yield each table with its answers, one dict per row.

        The first table that has rows decides which columns are read.
        """
        ...


def answer_all(
    engine: Engine, source: Any, text_format: TextFormat = DEFAULT_FORMAT, progress: Progress | None = None
) -> Iterator[tuple[Table, list[dict[str, Any]]]]:
    """Yield the tables of a source, in order, each with its answers (one dict per row).

    source, text_format: anything that `stream_tables` takes, such as the path of a table.
    progress: shows the number of answered rows, and notes on rows and files that cannot be read.
    Raises UsageError for a missing column, DataError for a file that cannot be read, and RunError if the engine breaks
    down.
    """
    progress, num_answered = progress or Progress(), 0

    def read_tables() -> Iterator[Table]:
        for table in stream_tables(source, text_format):
            for finding in (*table.remarks_on(), *table.rejected):
                progress.say(f"note: {finding}")
            yield table

    progress.rows("answered", num_answered, None)
    try:
        for table, answers in engine.answer_tables(read_tables()):
            num_answered += len(answers)
            progress.rows("answered", num_answered, None)
            yield table, answers
        # Only now is the total known.
        progress.rows("answered", num_answered, num_answered)
    finally:
        progress.close()


class AnsweredRows:
    """Rows with their answers, which can be iterated several times and are not held in memory.

    The columns of the answers are known only after the last row. So all answers are first written to a temporary file;
    each iteration reads the source again, and pairs its rows with the answers in the file.
    folder: where the temporary file is; nothing is left of it, even after a kill.
    style: how answers become cells.
    """

    def __init__(
        self,
        engine: Engine,
        source: Any,
        text_format: TextFormat = DEFAULT_FORMAT,
        progress: Progress | None = None,
        folder: Path | None = None,
        style: CellStyle = PLAIN_CELLS,
    ) -> None:
        self.source, self.text_format = source, text_format
        self.num_rows = self.num_failed = self.num_withheld = self.num_stopped = 0
        self._file = TemporaryFile("w+", encoding="utf-8", dir=folder)  # noqa: SIM115
        # Closed with the last use of the rows, which may be iterated at any time before.
        weakref.finalize(self, self._file.close)
        # Dicts without values: sets that keep the order.
        row_columns: dict[str, None] = {}
        answer_columns: dict[str, None] = {}
        # Columns that hold bytes, which text formats cannot.
        self.binary_columns: dict[str, None] = {}
        for table, answers in answer_all(engine, source, text_format, progress):
            row_columns |= dict.fromkeys(table.columns)
            self.binary_columns |= dict.fromkeys(find_binary(table.data))
            for answer in answers:
                cells = answer_cells(answer, engine.arrow, style)
                answer_columns |= dict.fromkeys(cells)
                self._file.write(json.dumps(cells) + "\n")
                self.num_failed += "error" in answer
                self.num_withheld += is_withheld(answer)
                self.num_stopped += is_stopped(answer)
            self.num_rows += len(answers)
        # Later tables of a source may have further columns, so names are final only now.
        self._row_columns = list(row_columns)
        self._answer_names = name_answers(row_columns, answer_columns)

    @property
    def columns(self) -> list[str]:
        """Return the columns of the rows, then those of the answers.

        An answer column with the name of a row column gets another one, see `name_answers`.
        """
        return list(dict.fromkeys([*self._row_columns, *self._answer_names.values()]))

    @property
    def answer_columns(self) -> list[str]:
        """Return the columns of the answers, by the names that they have in the output."""
        return list(self._answer_names.values())

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield each row with its answer as one dict. Raises DataError if rows were added to the source in the meantime."""
        self._file.seek(0)
        for table in stream_tables(self.source, self.text_format):
            for row in table.in_order():
                # The file has one line per row, also for unreadable rows.
                line = self._file.readline()
                if not line:
                    raise DataError(f"{self.source} changed while it was read")
                cells = {} if isinstance(row, Finding) else {name: table.data[name][row] for name in table.columns}
                yield cells | {self._answer_names[name]: value for name, value in json.loads(line).items()}


def name_answers(row_columns: Collection[str], answer_columns: Collection[str]) -> dict[str, str]:
    """Return the name of the column in which each answer is written, so that no column of the rows is changed.

    An answer with the name of a row column gets the prefix "predicted_". If a row column has that name too, as where an earlier
    output is answered again, all answers get it with a number behind it, the same one for all: predicted_label_2, probability_2.
    """
    for number in count(1):
        suffix = "" if number == 1 else f"_{number}"
        prefixed = {name for name in answer_columns if name in row_columns}
        names = {
            name: f"predicted_{name}{suffix}" if name in prefixed else f"{name}{suffix}" for name in answer_columns
        }
        if number > 1:
            # Of an earlier output only the column of the true answers made the prefix necessary.
            names |= {name: f"{name}{suffix}" for name in prefixed if f"predicted_{name}" not in row_columns}
        if not set(names.values()) & set(row_columns):
            break
    return names


def is_withheld(answer: dict[str, Any]) -> bool:
    """Return whether an answer, or one of several in it, is blank because it is too unsure or its row too unfamiliar."""
    return any(is_withheld(value) if isinstance(value, dict) else value is None for value in answer.values())


def is_stopped(answer: dict[str, Any]) -> bool:
    """Return whether an answer, or one of several in it, was stopped at the maximum number of tokens."""
    parts = [part for part in answer.values() if isinstance(part, dict)]
    return answer.get("ended") == LIMIT or any(map(is_stopped, parts))
